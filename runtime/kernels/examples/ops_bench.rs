//! Prints what the thread team, the small operations and attention cost on this machine.
//!
//! `cargo run --release -p membrane-kernels --example ops_bench`

use std::hint::black_box;
use std::time::Instant;

use membrane_kernels::ops::{self, RopeTable};
use membrane_kernels::{
    Activations, AttentionArgs, AttentionScratch, Glu, Isa, KvSlice, MEMORY_PROBE_BYTES, Precision, Region,
    Rope, RopeScaling, Team, attention, memory_read_bandwidth, store_f16,
};

/// Positions in a block of the cache.
const BLOCK: usize = 64;

fn main() {
    for isa in [Isa::detect()] {
        for threads in [1, 2] {
            println!("{isa}, {threads} threads");
            Team::new(threads, isa).region(|region| {
                if isa == Isa::detect() {
                    println!(
                        "  memory read          {:8.1} GB/s",
                        memory_read_bandwidth(region, MEMORY_PROBE_BYTES)
                    );
                }
                loops(region);
                operations(region);
                for (n, context) in [(1, 512), (1, 4096), (1, 16_384), (512, 512), (512, 4096)] {
                    attend(region, n, context, [9, 3, 64]);
                    attend(region, n, context, [32, 8, 128]);
                }
            });
        }
    }
}

/// Microseconds of one call: the best of some tries.
fn best_us(mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    let mut tries = 0;
    while tries < 3 || (begin.elapsed().as_millis() < 150 && tries < 2000) {
        let begin = Instant::now();
        f();
        best = best.min(begin.elapsed().as_secs_f64() * 1e6);
        tries += 1;
    }
    best
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + 13) % 1999) as f32 / 1000.0 - 1.0).collect()
}

fn loops(region: &Region<'_>) {
    const LOOPS: usize = 1000;
    let us = best_us(|| {
        for _ in 0..LOOPS {
            region.run(4, |task| {
                black_box(task);
            });
        }
    });
    println!("  empty loop           {:8.2} us", us / LOOPS as f64);
}

fn operations(region: &Region<'_>) {
    for rows in [1, 512] {
        let width = 2048;
        let (mut x, y) = (numbers(rows * width), numbers(rows * width));
        let weight = numbers(width);
        let mut table =
            RopeTable::new(&Rope { dims: 64, base: 1e4, scaling: RopeScaling::None, neox: true }, None);
        table.extend(rows);
        let mut halves = vec![0; rows * width];
        let mut out = vec![0.0; rows * width];
        let report = |name: &str, us: f64| println!("  {name:13} {rows:4}x{width} {us:8.2} us");
        report("rms_norm", best_us(|| ops::rms_norm(region, &y, &weight, 1e-5, &mut out)));
        report("rope", best_us(|| ops::rope(region, &mut x, 32, 64, 0, 0, &table)));
        let mut input = Activations::new(rows, width);
        report("round", best_us(|| input.set(region, rows, width, &y, Precision::Int8)));
        for (name, function) in [("swiglu, round", Glu::SwiGlu), ("geglu, round", Glu::GeGlu)] {
            let gated = best_us(|| input.set_gated(region, rows, width, function, &x, &y, Precision::Int8));
            report(name, gated);
        }
        report("add", best_us(|| ops::add(region, &mut x, &y)));
        report("store_f16", best_us(|| store_f16(&y, &mut halves)));
    }
    let (mut row, mut chosen) = (numbers(128), Vec::new());
    let us = best_us(|| {
        ops::softmax(region, &mut row);
        chosen.clear();
        ops::top_k(&row, 8, &mut chosen);
    });
    println!("  softmax, top 8 of 128 {us:7.2} us");
    let row = numbers(151_936);
    let us = best_us(|| {
        black_box(ops::argmax(&row));
    });
    println!("  argmax of 151936     {us:8.2} us");
}

/// `n` queries at the end of a context, with `[heads, kv_heads, head_dim]`.
fn attend(region: &Region<'_>, n: usize, context: usize, [heads, kv_heads, head_dim]: [usize; 3]) {
    let q = numbers(n * heads * head_dim);
    let mut block = vec![0; BLOCK * kv_heads * head_dim];
    store_f16(&numbers(block.len()), &mut block);
    let blocks = vec![block; context.div_ceil(BLOCK)];
    let slices: Vec<_> = blocks.iter().map(|block| KvSlice::F16(block)).collect();
    let mut out = vec![0.0; q.len()];
    let mut scratch = AttentionScratch::new(heads, head_dim, context, region.threads());
    let us = best_us(|| {
        let args = AttentionArgs {
            q: &q,
            keys: &slices,
            values: &slices,
            value_stride: kv_heads * head_dim,
            block_len: BLOCK,
            first_position: context - n,
            n,
            heads,
            kv_heads,
            head_dim,
            value_dim: head_dim,
            scale: 0.125,
            window: None,
            sinks: None,
            out: &mut out,
        };
        attention(region, args, &mut scratch);
    });
    let pairs: usize = (context - n + 1..=context).sum();
    let giga_ops = (4 * pairs * heads * head_dim) as f64 / us / 1e3;
    let cache_gb_s = (4 * context * kv_heads * head_dim) as f64 / us / 1e3;
    let shape = format!("{heads}/{kv_heads}x{head_dim}");
    print!("  attention {shape:9} {n:3} of {context:5} {us:10.1} us {giga_ops:6.1} GOP/s");
    println!("{}", if n == 1 { format!(" {cache_gb_s:6.1} GB/s of cache") } else { String::new() });
}
