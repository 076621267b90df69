//! Quantised products on vectors: few rows of activations with the weights unpacked in registers, or many
//! with panels of unpacked weights.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::Job;
use super::activations::{BLOCK, BlockInfo, QuantisedRow};
use super::packed::{self, MAX_SUBS, Packed, Scales, Sink};
use super::wide::{Column, Wide, accumulate};
use crate::format::Format;
use crate::isa::Isa;
use crate::simd::{Avx2, Avx512};

/// Rows of activations from which on weights are unpacked into panels.
const PANEL_MIN_N: usize = 4;
/// Columns of a panel, a multiple of every block: with AVX2 its weights are 16 KiB, so that they stay in the
/// first cache.
const PANEL_COLS: usize = 2048;
/// Rows of activations that are multiplied with a panel at once.
const TILE: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Rows of the widest kernel.
const MAX_ROWS: usize = 16;

/// The output of some weight rows. Returns false, having done nothing, if the matrix has fewer rows than the
/// kernels take or the instruction set has none.
pub(super) fn product(isa: Isa, job: &Job<'_>, rows: Range<usize>) -> bool {
    match job.weights.format {
        Format::Q4_0 => by_isa::<packed::Q4_0>(isa, job, rows),
        Format::Q4_1 => by_isa::<packed::Q4_1>(isa, job, rows),
        Format::Q5_0 => by_isa::<packed::Q5_0>(isa, job, rows),
        Format::Q5_1 => by_isa::<packed::Q5_1>(isa, job, rows),
        Format::Q8_0 => by_isa::<packed::Q8_0>(isa, job, rows),
        Format::Q2K => by_isa::<packed::Q2K>(isa, job, rows),
        Format::Q3K => by_isa::<packed::Q3K>(isa, job, rows),
        Format::Q4K => by_isa::<packed::Q4K>(isa, job, rows),
        Format::Q5K => by_isa::<packed::Q5K>(isa, job, rows),
        Format::Q6K => by_isa::<packed::Q6K>(isa, job, rows),
        Format::IQ4NL => by_isa::<packed::Iq4Nl>(isa, job, rows),
        Format::IQ4XS => by_isa::<packed::Iq4Xs>(isa, job, rows),
        Format::F32 | Format::F16 | Format::BF16 => false,
    }
}

fn by_isa<P: Packed>(isa: Isa, job: &Job<'_>, rows: Range<usize>) -> bool {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2<P: Packed>(job: &Job<'_>, rows: Range<usize>) {
        // SAFETY: this function's own features.
        by_n::<P, Avx2>(unsafe { Avx2::assume() }, job, rows);
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn avx512<P: Packed>(job: &Job<'_>, rows: Range<usize>) {
        // SAFETY: this function's own features.
        by_n::<P, Avx512>(unsafe { Avx512::assume() }, job, rows);
    }
    let height = job.weights.rows;
    if isa == Isa::Avx512 && height >= Avx512::ROWS {
        // SAFETY: the CPU has the instruction set: `isa` comes from a team, which takes no other.
        unsafe { avx512::<P>(job, rows) };
    } else if isa != Isa::Scalar && height >= Avx2::ROWS {
        // SAFETY: as above; a CPU with AVX-512 has AVX2.
        unsafe { avx2::<P>(job, rows) };
    } else {
        return false;
    }
    true
}

#[inline(always)]
fn by_n<P: Packed, W: Wide>(w: W, job: &Job<'_>, rows: Range<usize>) {
    match job.n {
        1 => few::<P, W, 1>(w, job, rows),
        2 => few::<P, W, 2>(w, job, rows),
        3 => few::<P, W, 3>(w, job, rows),
        _ => many::<P, W>(w, job, rows),
    }
}

const _: () = assert!(PANEL_MIN_N == 4, "`by_n` has a case for each smaller number");

/// `W::ROWS` weight rows that are computed together. The last of a matrix may begin before rows that are
/// wanted.
struct Window {
    /// First row that is computed.
    first: usize,
    /// Of the rows computed, which are wanted.
    wanted: Range<usize>,
}

impl Window {
    /// The window that computes rows from `begin` on; none from `end` on is wanted.
    #[inline(always)]
    fn new<W: Wide>(job: &Job<'_>, begin: usize, end: usize) -> Self {
        let first = begin.min(job.weights.rows - W::ROWS);
        let skip = begin - first;
        Self { first, wanted: skip..(end - first).min(W::ROWS) }
    }

    /// Writes what is wanted of `acc` as the output for row i of the input.
    #[inline(always)]
    fn store<W: Wide>(&self, w: W, job: &Job<'_>, i: usize, acc: W::F) {
        let mut lanes = [0.0; MAX_ROWS];
        // SAFETY: there is room for the rows of any instruction set; the wanted rows are the task's.
        unsafe {
            w.store_floats(acc, lanes.as_mut_ptr());
            job.put(i, self.first + self.wanted.start, &lanes[self.wanted.clone()]);
        }
    }

    /// Reads back what [`Window::store`] wrote; the other lanes are 0.
    #[inline(always)]
    fn load<W: Wide>(&self, w: W, job: &Job<'_>, i: usize) -> W::F {
        let mut lanes = [0.0; MAX_ROWS];
        // SAFETY: as in `store`.
        unsafe {
            job.get(i, self.first + self.wanted.start, &mut lanes[self.wanted.clone()]);
            w.load_floats(lanes.as_ptr())
        }
    }
}

/// Products with `N` rows of activations, weights unpacked in registers.
#[inline(always)]
fn few<P: Packed, W: Wide, const N: usize>(w: W, job: &Job<'_>, rows: Range<usize>) {
    let stride = job.weights.row_bytes;
    let blocks = job.weights.cols / P::FORMAT.block_elems();
    let zero = w.splat(0.0);
    let mut scales = Scales::<W> { scale: [zero; MAX_SUBS], minimum: [zero; MAX_SUBS] };
    let mut inputs = [QuantisedRow::EMPTY; N];
    for (i, input) in inputs.iter_mut().enumerate() {
        *input = job.input.quantised(job.input_row(i));
    }
    for begin in rows.clone().step_by(W::ROWS) {
        let window = Window::new::<W>(job, begin, rows.end);
        let first = job.weights.row(window.first).as_ptr();
        let mut acc = [zero; N];
        let mut dots = Dots {
            at: inputs.map(|row| [row.high.as_ptr(), row.low.as_ptr()]),
            sums: [[w.splat32(0); MAX_SUBS]; N],
        };
        // The rows of a window follow each other, and so do windows: each block's turn asks for its share of
        // the next.
        let ahead = if begin + W::ROWS < rows.end { W::ROWS * stride } else { 0 };
        let share = W::ROWS * P::FORMAT.block_bytes();
        for b in 0..blocks {
            if ahead > 0 {
                for line in 0..share.div_ceil(LINE) {
                    w.prefetch(first.wrapping_add(ahead + b * share + line * LINE));
                }
            }
            // SAFETY: `W::ROWS` rows from the window's first are in the matrix, and this is their block b, as
            // are the elements and infos of the activations.
            unsafe {
                let at = first.add(b * P::FORMAT.block_bytes());
                P::scales(w, at, stride, &mut scales);
                P::weights(w, at, stride, &mut dots);
                for (n, input) in inputs.iter().enumerate() {
                    for sub in 0..P::SUBS {
                        let info = input.info.get_unchecked((b * P::SUBS + sub) * P::SUB / BLOCK);
                        let figures = (scales.scale[sub], scales.minimum[sub]);
                        acc[n] = accumulate::<P, W>(w, sub, dots.sums[n][sub], figures, info, acc[n]);
                    }
                    dots.at[n] = dots.at[n].map(|at| at.add(P::FORMAT.block_elems()));
                }
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            window.store(w, job, i, acc);
        }
    }
}

/// Multiplies sub-blocks with `N` rows of activations.
struct Dots<W: Wide, const N: usize> {
    /// The rows' high and low digits for the block.
    at: [[*const i8; 2]; N],
    /// Raw sums of products of each sub-block.
    sums: [[W::V; MAX_SUBS]; N],
}

impl<W: Wide, const N: usize> Sink<W> for Dots<W, N> {
    #[inline(always)]
    fn put<P: Packed, const C: usize>(&mut self, w: W, sub: usize, columns: [Column<W>; C]) {
        let columns = biased::<P, W, C>(w, columns);
        for (at, sums) in self.at.iter().zip(&mut self.sums) {
            let mut digits = [w.splat32(0); 2];
            for (digit, at) in digits.iter_mut().zip(at) {
                let mut activations = [w.splat32(0); C];
                for (c, a) in activations.iter_mut().enumerate() {
                    // SAFETY: the rows have as many elements as the block.
                    *a = unsafe { w.repeat_bytes(at.add(sub * P::SUB + 16 * c).cast()) };
                }
                *digit = w.column_sums::<P, C>(columns, activations);
            }
            sums[sub] = w.join(digits[0], digits[1]);
        }
    }
}

/// Columns as the multiplication takes them.
#[inline(always)]
fn biased<P: Packed, W: Wide, const C: usize>(w: W, mut columns: [Column<W>; C]) -> [Column<W>; C] {
    if P::SIGNED && W::BIASED {
        let sign = w.splat8(0x80);
        for v in columns.as_flattened_mut() {
            *v = w.xor(*v, sign);
        }
    }
    columns
}

/// Unpacked weights of `W::ROWS` rows and up to [`PANEL_COLS`] columns, sized for the widest kernel.
#[repr(C, align(64))]
struct Panel {
    /// [cols / 4, rows, 4]
    weights: [MaybeUninit<u8>; PANEL_COLS * MAX_ROWS],
    /// [cols / sub-block, rows]
    scale: [MaybeUninit<f32>; PANEL_COLS / 16 * MAX_ROWS],
    /// [cols / sub-block, rows]
    minimum: [MaybeUninit<f32>; PANEL_COLS / 16 * MAX_ROWS],
}

/// Products with many rows of activations.
#[inline(always)]
fn many<P: Packed, W: Wide>(w: W, job: &Job<'_>, rows: Range<usize>) {
    let mut panel = Panel {
        weights: [MaybeUninit::uninit(); _],
        scale: [MaybeUninit::uninit(); _],
        minimum: [MaybeUninit::uninit(); _],
    };
    for begin in rows.clone().step_by(W::ROWS) {
        let window = Window::new::<W>(job, begin, rows.end);
        for first_col in (0..job.weights.cols).step_by(PANEL_COLS) {
            let cols = first_col..(first_col + PANEL_COLS).min(job.weights.cols);
            unpack::<P, W>(w, job, &window, cols.clone(), &mut panel);
            let whole = job.n / TILE * TILE;
            for i in (0..whole).step_by(TILE) {
                tile::<P, W, TILE>(w, job, &window, cols.clone(), &panel, i);
            }
            for i in whole..job.n {
                tile::<P, W, 1>(w, job, &window, cols.clone(), &panel, i);
            }
        }
    }
}

/// Fills the panel with some columns of a window's rows.
#[inline(always)]
fn unpack<P: Packed, W: Wide>(w: W, job: &Job<'_>, window: &Window, cols: Range<usize>, panel: &mut Panel) {
    let stride = job.weights.row_bytes;
    let elems = P::FORMAT.block_elems();
    let zero = w.splat(0.0);
    let mut scales = Scales::<W> { scale: [zero; MAX_SUBS], minimum: [zero; MAX_SUBS] };
    let first = job.weights.row(window.first).as_ptr();
    for col in cols.clone().step_by(elems) {
        let sub = (col - cols.start) / P::SUB;
        // SAFETY: `W::ROWS` rows from the window's first are in the matrix, and this is a block of theirs; a
        // panel has room for the columns of these rows.
        unsafe {
            let at = first.add(col / elems * P::FORMAT.block_bytes());
            P::scales(w, at, stride, &mut scales);
            for s in 0..P::SUBS {
                let row = (sub + s) * W::ROWS;
                w.store_floats(scales.scale[s], panel.scale.as_mut_ptr().add(row).cast());
                if P::MINIMUM {
                    w.store_floats(scales.minimum[s], panel.minimum.as_mut_ptr().add(row).cast());
                }
            }
            let to = panel.weights.as_mut_ptr().cast::<u8>().add((col - cols.start) * W::ROWS);
            P::weights(w, at, stride, &mut Interleave { to });
        }
    }
}

/// Writes sub-blocks to a panel.
struct Interleave {
    /// The block's place in the panel.
    to: *mut u8,
}

impl<W: Wide> Sink<W> for Interleave {
    #[inline(always)]
    fn put<P: Packed, const C: usize>(&mut self, w: W, sub: usize, columns: [Column<W>; C]) {
        for (c, column) in biased::<P, W, C>(w, columns).into_iter().enumerate() {
            for (i, dwords) in w.dwords(column).into_iter().enumerate() {
                let offset = (sub * P::SUB + 16 * c + 4 * i) * W::ROWS;
                // SAFETY: the panel has room for all sub-blocks of the block.
                unsafe { w.store(dwords, self.to.add(offset)) };
            }
        }
    }
}

/// Adds a panel's part to the output of its rows for rows `i..i + T` of the input.
#[inline(always)]
fn tile<P: Packed, W: Wide, const T: usize>(
    w: W,
    job: &Job<'_>,
    window: &Window,
    cols: Range<usize>,
    panel: &Panel,
    i: usize,
) {
    let mut acc = [w.splat(0.0); T];
    let mut high = [std::ptr::null::<i8>(); T];
    let mut low = high;
    let mut infos: [&[BlockInfo]; T] = [&[]; T];
    for t in 0..T {
        let row = job.input.quantised(job.input_row(i + t));
        (high[t], low[t]) = (row.high[cols.clone()].as_ptr(), row.low[cols.clone()].as_ptr());
        infos[t] = &row.info[cols.start / BLOCK..cols.end / BLOCK];
        if cols.start > 0 {
            acc[t] = window.load(w, job, i + t);
        }
    }
    for sub in 0..cols.len() / P::SUB {
        // SAFETY: `unpack` has filled the panel for these columns; the activations were cut to them.
        unsafe {
            let weights = panel.weights.as_ptr().cast::<u8>().add(sub * P::SUB * W::ROWS);
            let scale = w.load_floats(panel.scale.as_ptr().add(sub * W::ROWS).cast());
            let minimum = if P::MINIMUM {
                w.load_floats(panel.minimum.as_ptr().add(sub * W::ROWS).cast())
            } else {
                scale
            };
            let mut sums = w.panel_sums::<P, T>(weights, high);
            let low_sums = w.panel_sums::<P, T>(weights, low);
            for t in 0..T {
                let info = infos[t].get_unchecked(sub * P::SUB / BLOCK);
                sums[t] = w.join(sums[t], low_sums[t]);
                acc[t] = accumulate::<P, W>(w, sub, sums[t], (scale, minimum), info, acc[t]);
                (high[t], low[t]) = (high[t].add(P::SUB), low[t].add(P::SUB));
            }
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        window.store(w, job, i + t, acc);
    }
}
