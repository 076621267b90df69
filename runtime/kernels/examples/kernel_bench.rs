//! Speed of the matrix products: decode beside the memory's bandwidth, prefill in operations.
//!
//! ```text
//! cargo run --release -p membrane-kernels --example kernel_bench -- \
//!     [FORMAT...] [--threads 1,2] [--rows 4096] [--cols 2048] [--isa avx2]
//! ```
//!
//! GEMV reads matrices that are larger than the caches in turn, GEMM stays on one. The best of some passes
//! counts, since others use the machine too. One multiplication and addition is two operations.

use std::time::Instant;

use membrane_kernels::{
    Activations, Format, Isa, MEMORY_PROBE_BYTES, Matrix, Precision, Product, Region, Team, matmul,
    memory_read_bandwidth, quant,
};

/// Bytes of weights that are read in one pass of GEMV: more than the caches of most machines.
const PASS_BYTES: usize = 256 << 20;
/// Bytes of weights that stay in a cache: shows what the arithmetic alone takes.
const CACHED_BYTES: usize = 256 << 10;
/// Passes; the best counts.
const PASSES: usize = 7;

/// What the command line asks for.
struct Options {
    formats: Vec<Format>,
    threads: Vec<usize>,
    rows: usize,
    cols: usize,
    isa: Isa,
}

fn main() -> Result<(), String> {
    let options = Options::parse()?;
    println!("{} {} x {}", options.isa, options.rows, options.cols);
    for &threads in &options.threads {
        let team = Team::new(threads, options.isa);
        team.region(|region| {
            let memory = memory_read_bandwidth(region, MEMORY_PROBE_BYTES);
            println!("{threads} threads, memory {memory:.1} GB/s");
            println!(
                "{:8} {:>8} {:>6} {:>8} {:>8} {:>8} {:>8}",
                "format", "GEMV", "of it", "cached", "n=4", "n=64", "n=512"
            );
            println!(
                "{:8} {:>8} {:>6} {:>8} {:>8} {:>8} {:>8}",
                "", "GB/s", "", "GB/s", "GOP/s", "GOP/s", "GOP/s"
            );
            for &format in &options.formats {
                bench(region, &options, format, memory)?;
            }
            Ok::<_, String>(())
        })?;
    }
    Ok(())
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options =
            Self { formats: Vec::new(), threads: vec![1, 2], rows: 4096, cols: 2048, isa: Isa::detect() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{text}: {error}"));
            match arg.as_str() {
                "--threads" => options.threads = value()?.split(',').map(number).collect::<Result<_, _>>()?,
                "--rows" => options.rows = number(&value()?)?,
                "--cols" => options.cols = number(&value()?)?,
                "--isa" => {
                    let name = value()?;
                    let known = Isa::available().into_iter().find(|isa| isa.name() == name);
                    options.isa = known.ok_or(format!("{name}: this CPU has {:?}", Isa::available()))?;
                }
                name => {
                    let known =
                        Format::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
                    options.formats.push(known.ok_or(format!("{name}: no such format"))?);
                }
            }
        }
        if options.formats.is_empty() {
            options.formats = Format::ALL.into();
        }
        Ok(options)
    }
}

/// One line of the table.
fn bench(region: &Region<'_>, options: &Options, format: Format, memory: f64) -> Result<(), String> {
    let (rows, cols) = (options.rows, options.cols);
    let one_row: Vec<f32> = (0..cols).map(|k| ((k * 7919) % 101) as f32 / 50.0 - 1.0).collect();
    let mut row = Vec::new();
    quant::quantise_row(format, &one_row, &mut row).map_err(|error| error.to_string())?;
    let matrix = row.repeat(rows);
    let copies = PASS_BYTES.div_ceil(matrix.len());
    let bytes = matrix.repeat(copies);
    let view = |copy: usize| {
        Matrix::new(format, rows, cols, &bytes[copy * matrix.len()..][..matrix.len()])
            .map_err(|error| error.to_string())
    };
    let gb_s = matrix.len() as f64 / time(region, cols, 1, copies, &view)? / 1e9;
    let cached_rows = (CACHED_BYTES / row.len()).next_multiple_of(16);
    let cached = |_| {
        Matrix::new(format, cached_rows, cols, &bytes[..cached_rows * row.len()])
            .map_err(|error| error.to_string())
    };
    let cached_gb_s = (cached_rows * row.len()) as f64 / time(region, cols, 1, copies, &cached)? / 1e9;
    print!("{:8} {gb_s:8.1} {:5.0}% {cached_gb_s:8.1}", format.name(), 100.0 * gb_s / memory);
    for n in [4, 64, 512] {
        let seconds = time(region, cols, n, 1, &view)?;
        print!(" {:8.1}", (2 * rows * cols * n) as f64 / seconds / 1e9);
    }
    println!();
    Ok(())
}

/// Best time in seconds of the product of `n` rows with one of `copies` matrices.
fn time<'a>(
    region: &Region<'_>,
    cols: usize,
    n: usize,
    copies: usize,
    matrix: &impl Fn(usize) -> Result<Matrix<'a>, String>,
) -> Result<f64, String> {
    let x: Vec<f32> = (0..n * cols).map(|k| ((k * 104_729) % 997) as f32 / 500.0 - 1.0).collect();
    let mut input = Activations::new(n, cols);
    input.set(region, n, cols, &x, Precision::Fast);
    let mut output = vec![0.0; n * matrix(0)?.rows()];
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        for copy in 0..copies {
            let weights = matrix(copy)?;
            let product = Product { weights, input: &input, input_rows: None, output: &mut output };
            let begin = Instant::now();
            matmul(region, Precision::Fast, &mut [product]);
            best = best.min(begin.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}
