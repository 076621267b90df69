//! Speed of the matrix products: decode beside the memory's bandwidth, prefill in operations.
//!
//! ```text
//! cargo run --release -p membrane-kernels --example kernel_bench -- \
//!     [FORMAT...] [--threads 1,2] [--rows 4096] [--cols 2048] [--isa avx2] [--activations 8] [--few 4]
//! ```
//!
//! GEMV reads matrices that are larger than the caches in turn, GEMM stays on one. The best of some passes
//! counts, since others use the machine too. One multiplication and addition is two operations. Two columns give the
//! weights a second beside those of Q4_K: 0.5 is half as many. `x8` are rows that are interleaved.

use std::time::Instant;

use membrane_kernels::{
    Activations, Format, Isa, MEMORY_PROBE_BYTES, Matrix, Precision, Product, Region, Team, fastest_isa,
    interleaved, matmul, memory_read_bandwidth, quant,
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
    precision: Precision,
    /// Rows of input of the products that are between GEMV and GEMM.
    few: usize,
}

fn main() -> Result<(), String> {
    let options = Options::parse()?;
    println!("{} {} x {}, activations {:?}", options.isa, options.rows, options.cols, options.precision);
    for &threads in &options.threads {
        let team = Team::new(threads, options.isa);
        team.region(|region| {
            let memory = memory_read_bandwidth(region, MEMORY_PROBE_BYTES);
            println!("{threads} threads, memory {memory:.1} GB/s");
            let few = options.few;
            println!(
                "{:8}     GEMV  of it   Q4_K   cached   {:>6}     n=64   Q4_K    n=512",
                "format",
                format!("n={few}")
            );
            println!("{:8}     GB/s             =1     GB/s    GOP/s    GOP/s     =1    GOP/s", "");
            let base = Speed::of(region, &options, Format::Q4K, false)?;
            for &format in &options.formats {
                Speed::of(region, &options, format, false)?.print(format.name(), &base, memory);
                if interleaved::is_faster(options.isa, format, options.rows) {
                    let speed = Speed::of(region, &options, format, true)?;
                    speed.print(&format!("{format} x8"), &base, memory);
                }
            }
            Ok::<_, String>(())
        })?;
    }
    Ok(())
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            formats: Vec::new(),
            threads: vec![1, 2],
            rows: 4096,
            cols: 2048,
            isa: fastest_isa(),
            precision: Precision::Int8,
            few: 4,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{text}: {error}"));
            match arg.as_str() {
                "--threads" => options.threads = value()?.split(',').map(number).collect::<Result<_, _>>()?,
                "--rows" => options.rows = number(&value()?)?,
                "--cols" => options.cols = number(&value()?)?,
                "--few" => options.few = number(&value()?)?,
                "--isa" => {
                    let name = value()?;
                    let known = Isa::available().into_iter().find(|isa| isa.name() == name);
                    options.isa = known.ok_or(format!("{name}: this CPU has {:?}", Isa::available()))?;
                }
                "--activations" => {
                    options.precision = match value()?.as_str() {
                        "8" => Precision::Int8,
                        "8-groups" => Precision::Int8Groups,
                        "16" => Precision::Int16,
                        bits => return Err(format!("{bits}: activations have 8, 8-groups or 16 bits here")),
                    };
                }
                name => {
                    options.formats.push(Format::from_name(name).ok_or(format!("{name}: no such format"))?);
                }
            }
        }
        if options.formats.is_empty() {
            options.formats = Format::ALL.into();
        }
        Ok(options)
    }
}

/// What was measured of a format.
struct Speed {
    /// Bytes of the matrix.
    bytes: usize,
    /// Seconds of a GEMV out of memory.
    seconds: f64,
    /// GB/s of a GEMV out of a cache.
    cached: f64,
    /// GOP/s with few, 64 and 512 rows of input.
    operations: [f64; 3],
}

impl Speed {
    fn of(region: &Region<'_>, options: &Options, format: Format, interleave: bool) -> Result<Self, String> {
        let (rows, cols) = (options.rows, options.cols);
        let mut matrix = weights(format, rows, cols)?;
        if interleave {
            interleaved::interleave_in_place(region, format, matrix.len() / rows, &mut matrix);
        }
        let over = if interleave { Matrix::interleaved } else { Matrix::new };
        let copies = PASS_BYTES.div_ceil(matrix.len());
        let bytes = matrix.repeat(copies);
        let view = |copy: usize| {
            over(format, rows, cols, &bytes[copy * matrix.len()..][..matrix.len()])
                .map_err(|error| error.to_string())
        };
        let seconds = time(region, options.precision, cols, 1, copies, &view)?;
        let row = matrix.len() / rows;
        let cached_rows = (CACHED_BYTES / row).next_multiple_of(16).min(rows);
        let cached = |_| {
            over(format, cached_rows, cols, &bytes[..cached_rows * row]).map_err(|error| error.to_string())
        };
        let cached =
            (cached_rows * row) as f64 / time(region, options.precision, cols, 1, copies, &cached)? / 1e9;
        let mut operations = [0.0; 3];
        for (operations, n) in operations.iter_mut().zip([options.few, 64, 512]) {
            *operations =
                (2 * rows * cols * n) as f64 / time(region, options.precision, cols, n, 1, &view)? / 1e9;
        }
        Ok(Self { bytes: matrix.len(), seconds, cached, operations })
    }

    /// One line of the table, with weights a second beside those of `base`.
    fn print(&self, format: &str, base: &Self, memory: f64) {
        let gb_s = self.bytes as f64 / self.seconds / 1e9;
        let [few, many, most] = self.operations;
        println!(
            "{:8} {gb_s:8.1} {:5.0}% {:6.2} {:8.1} {few:8.1} {many:8.1} {:6.2} {most:8.1}",
            format,
            100.0 * gb_s / memory,
            base.seconds / self.seconds,
            self.cached,
            many / base.operations[1],
        );
    }
}

/// A matrix: the same row again and again, or any bytes where the format is only read.
fn weights(format: Format, rows: usize, cols: usize) -> Result<Vec<u8>, String> {
    if format.is_written() {
        let x: Vec<f32> = (0..cols).map(|k| ((k * 7919) % 101) as f32 / 50.0 - 1.0).collect();
        let mut row = Vec::new();
        quant::quantise_row(format, &x, &mut row).map_err(|error| error.to_string())?;
        return Ok(row.repeat(rows));
    }
    let bytes = format.row_bytes(cols).ok_or(format!("{cols} elements are not whole {format} blocks"))?;
    Ok((0..rows * bytes).map(|k| (k.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8).collect())
}

/// Best time in seconds of the product of `n` rows with one of `copies` matrices.
fn time<'a>(
    region: &Region<'_>,
    precision: Precision,
    cols: usize,
    n: usize,
    copies: usize,
    matrix: &impl Fn(usize) -> Result<Matrix<'a>, String>,
) -> Result<f64, String> {
    let x: Vec<f32> = (0..n * cols).map(|k| ((k * 104_729) % 997) as f32 / 500.0 - 1.0).collect();
    let mut input = Activations::new(n, cols);
    input.set(region, n, cols, &x, precision);
    let mut output = vec![0.0; n * matrix(0)?.rows()];
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        for copy in 0..copies {
            let weights = matrix(copy)?;
            let product = Product { weights, input: &input, input_rows: None, output: &mut output };
            let begin = Instant::now();
            matmul(region, precision, &mut [product]);
            best = best.min(begin.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}
