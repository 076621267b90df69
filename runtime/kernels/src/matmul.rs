//! Matrix products: rows of activations times the rows of weights as they lie in the file.
//!
//! Canonical, for an output element of quantised weights: an accumulator starts at 0; for each sub-block of the
//! weight row in order (16 or 32 elements, see [`crate::quant`]), with `isum` the exact sum of weight integers
//! times activation integers, rounded to f32, `scale` and `minimum` those of the sub-block, `a` the activation
//! block's scale and `asum` the exact sum of the activation's integers in the sub-block:
//!
//! ```text
//! acc = fma(isum, scale * a, acc)
//! acc = fma(minimum, a * asum, acc)      only in formats with a minimum
//! ```
//!
//! With [`Precision::Int8Groups`] formats that are [grouped](Format::is_grouped) add up the sub-blocks of 128 elements in integers. For
//! each such group in order, with `m` the minimums of its sub-blocks, integers like their scales, `a` the scale of the activations,
//! and each sum exact before it is rounded to f32:
//!
//! ```text
//! t = unit * (sum of scale * isum)
//! t = fma(sum of m * asum, minimum unit, t)     only in formats with a minimum
//! acc = fma(t, a, acc)
//! ```
//!
//! A factor of the whole matrix multiplies the finished sum. The columns of a matrix may stand in an order of their own, in which
//! the input is quantised then.
//!
//! Float weights, and all weights in [`Precision::Reference`], are the float dot product of 16 lanes and a
//! tree. Nothing depends on how many rows of activations come at once or on who computes which rows of the
//! weights.

mod activations;
mod float;
pub mod interleaved;
mod order;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod packed;
mod scalar;
mod trial;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod wide;

use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::{Format, ShapeError};
use crate::isa::Isa;
use crate::parallel::{DisjointSlice, Region};
use crate::quant::dequantise_row;
pub use activations::Activations;
use activations::{BlockInfo, Integer};
use order::Order;
pub use trial::fastest_isa;

/// How activations enter a product with quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// As 8-bit integers in blocks of 32.
    Int8,
    /// As 8-bit integers in groups of 128, which are rounded more and have fewer steps on tiles.
    Int8Groups,
    /// As 16-bit integers in blocks of 32.
    Int16,
    /// As f32; the weights are made f32, a row at a time.
    Reference,
}

impl Precision {
    /// Bytes of an element.
    const fn bytes(self) -> usize {
        match self {
            Self::Int8 | Self::Int8Groups => size_of::<i8>(),
            Self::Int16 => size_of::<i16>(),
            Self::Reference => size_of::<f32>(),
        }
    }
}

/// Weights [rows, cols], row-major or [`interleaved`], at any address; what is known of them was checked.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
    /// What the whole matrix is multiplied by, beside the scales of its blocks.
    factor: f32,
    /// None if columns stand in the order of the input.
    order: Option<Order<'a>>,
    /// Rows lie as [`interleaved`] says.
    interleaved: bool,
}

impl<'a> Matrix<'a> {
    /// A matrix of `rows` rows of `cols` elements.
    ///
    /// # Errors
    /// [`ShapeError`] if a row is not whole blocks or the bytes are not exactly the matrix.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, ShapeError> {
        let Some(row_bytes) = format.row_bytes(cols) else {
            return Err(if cols.is_multiple_of(format.block_elems()) {
                ShapeError::TooLarge { format, rows, cols }
            } else {
                ShapeError::NotWholeBlocks { format, cols }
            });
        };
        let expected = row_bytes.checked_mul(rows).ok_or(ShapeError::TooLarge { format, rows, cols })?;
        if bytes.len() != expected {
            return Err(ShapeError::WrongLength { format, rows, cols, expected, actual: bytes.len() });
        }
        Ok(Self { format, rows, cols, row_bytes, bytes, factor: 1.0, order: None, interleaved: false })
    }

    /// A matrix of quantised rows with the order of its columns behind them: for each stored column, u32, the element of the input
    /// that it is for, as [`Recoding`](crate::Recoding) writes it.
    ///
    /// # Errors
    /// Those of [`Matrix::new`], and [`ShapeError::Order`].
    pub fn ordered(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, ShapeError> {
        let places = cols.saturating_mul(size_of::<u32>());
        if format.is_float() || bytes.len() < places {
            let (expected, actual) = (places, bytes.len());
            return Err(ShapeError::WrongLength { format, rows, cols, expected, actual });
        }
        let (bytes, order) = bytes.split_at(bytes.len() - places);
        let order = Order::new(order);
        if !order.is_within(cols) {
            return Err(ShapeError::Order { cols });
        }
        Ok(Self { order: Some(order), ..Self::new(format, rows, cols, bytes)? })
    }

    /// A matrix whose rows were interleaved by [`interleaved::interleave`].
    ///
    /// # Errors
    /// Those of [`Matrix::new`].
    ///
    /// # Panics
    /// If rows of the format are not interleaved.
    pub fn interleaved(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, ShapeError> {
        assert!(interleaved::is_possible(format), "matmul: rows of {format} are not interleaved");
        Ok(Self { interleaved: true, ..Self::new(format, rows, cols, bytes)? })
    }

    /// The same weights, all times `factor`: what lies beside an NVFP4 tensor in its file.
    #[must_use]
    pub fn times(self, factor: f32) -> Self {
        Self { factor: self.factor * factor, ..self }
    }

    /// Storage format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows: elements of an output row.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: elements of an input row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The blocks of one row, in `room` if they don't lie one after the other.
    fn row<'b>(&self, row: usize, room: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        if self.interleaved && row < interleaved::whole_rows(self.rows) {
            room.resize(self.row_bytes, 0);
            interleaved::gather(self.format, self.bytes, row, room);
            return room;
        }
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// The elements of a row, as they are stored, times the factor; of a matrix whose columns are in order.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not of its length.
    pub fn dequantise_row(&self, row: usize, out: &mut [f32]) {
        dequantise_row(self.format, self.row(row, &mut Vec::new()), out);
        out.iter_mut().for_each(|x| *x *= self.factor);
    }
}

/// One product of a call of [`matmul`].
pub struct Product<'a> {
    /// Weights [rows, cols].
    pub weights: Matrix<'a>,
    /// Activations of width `cols`.
    pub input: &'a Activations,
    /// Which rows of the activations are taken, in the order of the output; `None`: all.
    pub input_rows: Option<&'a [u32]>,
    /// [input rows, weights.rows()], row-major.
    pub output: &'a mut [f32],
}

/// Weight elements times input rows that are worth a task when the weights are unpacked once for many rows: few enough that threads
/// end together, and many enough for some rows of weights, which share what is loaded of the input.
const TASK_PRODUCTS: Range<usize> = 2 << 20..6 << 20;
/// Bytes of weights that are worth a task when reading them is the cost: few enough that threads end
/// together, and many enough that most are asked for ahead of their use.
const TASK_BYTES: Range<usize> = 24 << 10..128 << 10;
/// Tasks that a thread should get at least.
const TASKS_PER_THREAD: usize = 6;
/// Rows of a task are a multiple of this where there are as many: what the widest kernel takes at once.
const TASK_ROWS: usize = 16;

/// Bytes of input that the tasks of a job go over again and again: they should stay in the second cache, and for each part
/// of the input the weights are read and unpacked once more.
const INPUT_BYTES: usize = 576 << 10;
/// Rows of the input of a job, at least: what is unpacked of the weights should be used often.
const MIN_JOB_INPUTS: usize = 48;
/// Rows of the input of a job are a multiple of this: whole tiles of all kernels, of 4, 6 and 16 rows.
const INPUT_TILES: usize = 48;

/// Bytes that threads keep of inputs of at most so many rows and columns, beside [`Activations::bytes`]: on CPUs with AMX, whose tiles
/// take them in an order of their own.
pub fn kept_input_bytes(max_rows: usize, max_cols: usize, threads: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if Isa::Amx.is_available() {
        let of_job = (INPUT_BYTES / Precision::Int8.bytes()).max(MIN_JOB_INPUTS.saturating_mul(max_cols));
        let elems = max_rows.saturating_mul(max_cols).min(of_job);
        let by_groups = vector::group_tile_bytes(elems.div_ceil(max_cols.max(1)), max_cols);
        return threads.saturating_mul(vector::tile_input_bytes(elems).saturating_add(by_groups));
    }
    let _ = (max_rows, max_cols, threads);
    0
}

/// Rows of a product's input.
#[derive(Clone, Copy)]
struct Rows<'a> {
    input: &'a Activations,
    /// Which rows, less `first`; `None`: all that follow one another.
    numbers: Option<&'a [u32]>,
    /// Added to the numbers of rows.
    first: usize,
    count: usize,
}

/// A product with some rows of its input, cut in tasks.
struct Job<'a> {
    weights: Matrix<'a>,
    rows: Rows<'a>,
    /// Sub-blocks are added up in integers, a group at a time.
    grouped: bool,
    /// [rows.count, weights.rows]
    output: DisjointSlice<'a, f32>,
    /// Rows of the weights that make a task; the last task may have fewer.
    task_rows: usize,
    /// Number of the first task behind this job's.
    end_task: usize,
    /// No other job of the process has it.
    #[cfg(target_arch = "x86_64")]
    number: u64,
}

/// Computes all products in one loop of the region, so that products that do not depend on each other
/// (queries, keys and values; gates and ups; experts) cost one synchronisation.
///
/// # Panics
/// If shapes do not fit each other or a row that is asked for is not set.
pub fn matmul(region: &Region<'_>, precision: Precision, products: &mut [Product<'_>]) {
    region.count_weights(products.iter().map(|product| product.weights.bytes.len()).sum());
    let moved = |product: &Product<'_>| order::is_moved(product, precision);
    if !products.iter().any(moved) {
        return run_in_order(region, precision, products);
    }
    products.sort_by_key(moved);
    let (in_order, others) = products.split_at_mut(products.partition_point(|product| !moved(product)));
    run_in_order(region, precision, in_order);
    order::multiply(region, precision, others);
}

fn run_in_order(region: &Region<'_>, precision: Precision, products: &mut [Product<'_>]) {
    run_jobs(region, precision, products, |_, product| Rows::of(product));
}

/// Computes all products in one loop, each with the rows of input that `rows` gives for its number.
fn run_jobs<'a>(
    region: &Region<'_>,
    precision: Precision,
    products: &'a mut [Product<'_>],
    rows: impl Fn(usize, &Product<'a>) -> Rows<'a>,
) {
    let bytes: usize = products.iter().map(|product| product.weights.bytes.len()).sum();
    let task_bytes = (bytes / (TASKS_PER_THREAD * region.threads())).clamp(TASK_BYTES.start, TASK_BYTES.end);
    let all: usize = products.iter().map(|product| product.weights.cols * product.output.len()).sum();
    let task_products =
        (all / (TASKS_PER_THREAD * region.threads())).clamp(TASK_PRODUCTS.start, TASK_PRODUCTS.end);
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for (number, product) in products.iter_mut().enumerate() {
        let (weights, rows) = (product.weights, rows(number, product));
        assert_eq!(weights.cols, rows.input.cols(), "matmul: weights and activations differ in width");
        let (n, height) = (rows.count, weights.rows);
        assert_eq!(product.output.len(), n * height, "matmul: the output is not [{n}, {height}]");
        assert!(
            weights.format.is_float() || rows.input.suits(precision),
            "matmul: the input was not set for Precision::{precision:?}"
        );
        let elem_bytes = if weights.format.is_float() { size_of::<f32>() } else { precision.bytes() };
        let by_bytes = INPUT_BYTES / activations::quantised_bytes(weights.cols, elem_bytes).max(1);
        let inputs = by_bytes.max(MIN_JOB_INPUTS) / INPUT_TILES * INPUT_TILES;
        let outputs = product.output.chunks_mut((inputs * height).max(1));
        for (first, output) in (0..n).step_by(inputs).zip(outputs) {
            let part = rows.part(first..(first + inputs).min(n));
            let before = jobs.last().map_or(0, |job| job.end_task);
            let grouped = precision == Precision::Int8Groups && weights.format.is_grouped();
            jobs.push(Job::new(weights, part, grouped, output, before, (task_bytes, task_products)));
        }
    }
    let isa = region.isa();
    region.run(jobs.last().map_or(0, |job| job.end_task), |task| {
        let index = jobs.partition_point(|job| job.end_task <= task);
        let job = &jobs[index];
        let first = index.checked_sub(1).map_or(0, |before| jobs[before].end_task);
        let begin = (task - first) * job.task_rows;
        job.run(isa, precision, begin..(begin + job.task_rows).min(job.weights.rows));
    });
}

impl<'a> Rows<'a> {
    /// Those that a product names.
    ///
    /// # Panics
    /// If a row is not set.
    fn of(product: &Product<'a>) -> Self {
        let Product { input, input_rows: numbers, .. } = *product;
        let known = |row: &u32| (*row as usize) < input.rows();
        assert!(numbers.is_none_or(|rows| rows.iter().all(known)), "matmul: a row of the input is not set");
        Self { input, numbers, first: 0, count: numbers.map_or(input.rows(), <[u32]>::len) }
    }

    /// Some of the rows.
    fn part(self, part: Range<usize>) -> Self {
        let count = part.len();
        match self.numbers {
            Some(numbers) => Self { numbers: Some(&numbers[part]), count, ..self },
            None => Self { first: self.first + part.start, count, ..self },
        }
    }

    /// Where row i lies in the activations.
    fn place(&self, i: usize) -> usize {
        self.first + self.numbers.map_or(i, |numbers| numbers[i] as usize)
    }

    /// The integers and blocks of row i; see [`Activations::quantised`].
    #[inline(always)]
    fn quantised<Q: Integer>(&self, i: usize) -> (&'a [Q], &'a [BlockInfo]) {
        self.input.quantised(self.place(i))
    }

    /// The floats of row i.
    fn values(&self, i: usize) -> &'a [f32] {
        self.input.values(self.place(i))
    }
}

/// Of the next job.
#[cfg(target_arch = "x86_64")]
static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl<'a> Job<'a> {
    fn new(
        weights: Matrix<'a>,
        rows: Rows<'a>,
        grouped: bool,
        output: &'a mut [f32],
        before: usize,
        (task_bytes, task_products): (usize, usize),
    ) -> Self {
        let by_bytes = task_bytes / weights.row_bytes.max(1);
        let by_products = task_products / (weights.cols * rows.count).max(1);
        let task_rows = by_bytes.min(by_products).next_multiple_of(TASK_ROWS).max(TASK_ROWS);
        let end_task = before + weights.rows.div_ceil(task_rows);
        Self {
            weights,
            rows,
            grouped,
            output: DisjointSlice::new(output),
            task_rows,
            end_task,
            #[cfg(target_arch = "x86_64")]
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The output of `count` weight rows from `first` on for row i of the input.
    ///
    /// # Safety
    /// The rows are the calling task's, which has no other slice of them.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    unsafe fn outputs(&self, i: usize, first: usize, count: usize) -> &mut [f32] {
        let begin = i * self.weights.rows + first;
        // SAFETY: no other task has the output of these rows.
        unsafe { self.output.range(begin..begin + count) }
    }

    /// Computes the output of some weight rows.
    fn run(&self, isa: Isa, precision: Precision, rows: Range<usize>) {
        self.sums(isa, precision, rows.clone());
        if self.weights.factor == 1.0 {
            return;
        }
        for i in 0..self.rows.count {
            // SAFETY: the rows are this task's, and no slice of them is kept.
            let sums = unsafe { self.outputs(i, rows.start, rows.len()) };
            sums.iter_mut().for_each(|sum| *sum *= self.weights.factor);
        }
    }

    fn sums(&self, isa: Isa, precision: Precision, rows: Range<usize>) {
        if self.weights.format.is_float() {
            float::stored(isa, self, rows);
            return;
        }
        match precision {
            Precision::Int8 | Precision::Int8Groups => self.integer_sums::<i8>(isa, rows),
            Precision::Int16 => self.integer_sums::<i16>(isa, rows),
            Precision::Reference => float::dequantised(isa, self, rows),
        }
    }

    fn integer_sums<Q: Integer>(&self, isa: Isa, rows: Range<usize>) {
        if self.weights.interleaved {
            #[cfg(target_arch = "x86_64")]
            {
                let end = interleaved::whole_rows(self.weights.rows).clamp(rows.start, rows.end);
                if vector::interleaved_product::<Q>(isa, self, rows.start..end) {
                    return scalar::product::<Q>(self, end..rows.end);
                }
            }
            return scalar::product::<Q>(self, rows);
        }
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if vector::product::<Q>(isa, self, rows.clone()) {
            return;
        }
        scalar::product::<Q>(self, rows);
    }
}
