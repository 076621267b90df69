//! Panels times bytes on the tiles of AMX (Intel SDM, volume 1, chapter 18): an instruction gives the sums over a sub-block for 16
//! rows of activations and 16 rows of weights, the same integers as vectors do.

use std::arch::asm;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::activations::{BLOCK, BlockInfo, Integer};
use super::super::packed::Weights;
use super::super::wide::{Wide, accumulate, start};
use super::super::{Job, Precision};
use super::panel::{PANEL_ROW_BYTES, Panel, STRIPES};
use super::{Window, integers};
use crate::simd::LINE;

/// Rows of activations, and of weights, that are multiplied at once.
pub(super) const ROWS: usize = 16;
/// Rows of activations from which on this should be faster than vectors: the steps behind the sums are done for [`ROWS`] always.
const MIN_ROWS: usize = 8;
/// Lines so many bytes apart have the same few places in the first cache.
const SET_BYTES: usize = 4096;
/// Bytes between rows that are copied, so that they have different places.
const ROW_BYTES: usize = PANEL_ROW_BYTES + LINE;

/// What LDTILECFG reads: palette 1.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Two sets of three tiles for sub-blocks of so many elements: activations, weights, sums.
    const fn new(elems: usize) -> Self {
        let (row_bytes, rows) = ([elems as u16, 64, 64], [ROWS as u8, (elems / 4) as u8, ROWS as u8]);
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut tile = 0;
        while tile < 6 {
            config.row_bytes[tile] = row_bytes[tile % 3];
            config.rows[tile] = rows[tile % 3];
            tile += 1;
        }
        config
    }
}

/// The tiles of the calling thread, set up for the sub-blocks of such weights.
pub(super) struct Amx<K: Weights> {
    /// Room for columns of activations that lie elsewhere.
    copy: Rows,
    weights: PhantomData<K>,
    of_thread: PhantomData<*const ()>,
}

#[repr(C, align(64))]
struct Rows([MaybeUninit<i8>; ROWS * ROW_BYTES]);

/// [rows of activations, rows of weights] of two sub-blocks.
#[repr(C, align(64))]
struct Sums([[MaybeUninit<i32>; ROWS * ROWS]; 2]);

/// Some rows of the input and some of their columns.
struct Part<'a> {
    rows: Range<usize>,
    cols: Range<usize>,
    /// The first of [`ROWS`] rows of these columns, and the bytes between them.
    activations: (*const i8, usize),
    /// What is known of each row's blocks; the last row stands in for those that are missing.
    infos: [&'a [BlockInfo]; ROWS],
}

/// Whether vectors of `W` hold what tiles give, and `Q` is what they take.
pub(super) const fn fits<W: Wide, Q: Integer>() -> bool {
    W::ROWS == ROWS && matches!(Q::PRECISION, Precision::Int8)
}

/// Whether so many rows of activations are enough for tiles.
pub(super) const fn is_worth_it(rows: usize) -> bool {
    rows >= MIN_ROWS
}

impl<K: Weights> Amx<K> {
    const CONFIG: &Config = &Config::new(K::SUB);

    /// # Safety
    /// The process must have AMX: [`Isa::Amx`](crate::Isa::Amx).
    pub unsafe fn new() -> Self {
        // SAFETY: the instruction is there; the sizes are within those of palette 1.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) Self::CONFIG,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags)
            );
        }
        Self { copy: Rows([MaybeUninit::uninit(); _]), weights: PhantomData, of_thread: PhantomData }
    }

    /// Adds a panel's part to the output of its rows for as many rows of the input, from the first on, as are worth it. Returns the
    /// row behind them.
    #[inline(always)]
    pub fn multiply<W: Wide, const R: usize>(
        &mut self,
        w: W,
        job: &Job<'_>,
        windows: &[Window; R],
        cols: Range<usize>,
        panel: &Panel,
    ) -> usize {
        let mut first = 0;
        while first + MIN_ROWS <= job.rows.count {
            let end = (first + ROWS).min(job.rows.count);
            let part = self.part(job, first..end, cols.clone());
            for (r, window) in windows.iter().enumerate() {
                self.stripe(w, job, window, r, &part, panel);
            }
            first = end;
        }
        first
    }

    /// Some columns of some rows of the input, copied where the rows don't follow each other at a good distance.
    #[inline(always)]
    fn part<'a>(&mut self, job: &Job<'a>, rows: Range<usize>, cols: Range<usize>) -> Part<'a> {
        let mut infos: [&[BlockInfo]; ROWS] = [&[]; ROWS];
        let mut at = [std::ptr::null::<i8>(); ROWS];
        for (t, (infos, at)) in infos.iter_mut().zip(&mut at).enumerate() {
            let (q, info) = integers::<i8>(job, (rows.start + t).min(rows.end - 1));
            *infos = &info[cols.start / BLOCK..cols.end / BLOCK];
            // SAFETY: the row has these columns, as its blocks show.
            *at = unsafe { q.add(cols.start) };
        }
        let distance = job.weights.cols;
        if rows.len() == ROWS && job.rows.numbers.is_none() && !distance.is_multiple_of(SET_BYTES) {
            let first = job.rows.place(rows.start);
            let activations = &job.rows.input.integers(first..first + ROWS)[cols.start..];
            return Part { rows, cols, infos, activations: (activations.as_ptr(), distance) };
        }
        for (t, from) in at.into_iter().enumerate() {
            // SAFETY: as above; there is room for the columns of a panel.
            unsafe {
                let to = self.copy.0.as_mut_ptr().add(t * ROW_BYTES).cast();
                from.copy_to_nonoverlapping(to, cols.len());
            }
        }
        Part { rows, cols, infos, activations: (self.copy.0.as_ptr().cast(), ROW_BYTES) }
    }

    /// Adds the part of stripe `r` of the panel to the output of its window for rows of the input.
    #[inline(always)]
    fn stripe<W: Wide>(
        &self,
        w: W,
        job: &Job<'_>,
        window: &Window,
        r: usize,
        part: &Part<'_>,
        panel: &Panel,
    ) {
        let Part { rows, cols, infos, activations } = part;
        let mut acc = [w.splat(0.0); ROWS];
        if cols.start > 0 {
            for (acc, i) in acc.iter_mut().zip(rows.clone()) {
                *acc = window.load(w, job, i);
            }
        }
        let mut sums = Sums([[MaybeUninit::uninit(); _]; _]);
        let subs = cols.len() / K::SUB;
        // SAFETY: `unpack` has filled the panel for these columns, and the part has the activations.
        unsafe {
            self.sum(0, r, *activations, panel, &mut sums);
            for sub in 0..subs {
                if sub + 1 < subs {
                    self.sum(sub + 1, r, *activations, panel, &mut sums);
                }
                let figures = panel.figures::<K, W>(w, sub, r);
                for t in 0..ROWS {
                    let info = infos[t].get_unchecked(sub * K::SUB / BLOCK);
                    let sums = w.load(sums.0[sub % 2].as_ptr().add(t * ROWS).cast());
                    let sums = w.add32(sums, start::<K, W, i8>(w, sub, info));
                    acc[t] = accumulate::<K, W>(w, sub, sums, figures, info, acc[t]);
                }
            }
        }
        for (acc, i) in acc.into_iter().zip(rows.clone()) {
            window.store(w, job, i, acc);
        }
    }

    /// Starts the sums of a sub-block with stripe `r`. Those of even number and those of odd number have tiles and sums of
    /// their own, so that the next ones are computed while these are used.
    ///
    /// # Safety
    /// The sub-block must be in the panel and behind `activations` in [`ROWS`] rows.
    #[inline(always)]
    unsafe fn sum(
        &self,
        sub: usize,
        r: usize,
        (activations, distance): (*const i8, usize),
        panel: &Panel,
        sums: &mut Sums,
    ) {
        macro_rules! sum {
            ($activations:tt, $weights:tt, $sums:tt) => {
                asm!(
                    concat!("tilezero ", $sums),
                    concat!("tileloadd ", $activations, ", [{a} + {a_stride}*1]"),
                    concat!("tileloadd ", $weights, ", [{w} + {w_stride}*1]"),
                    concat!("tdpbsud ", $sums, ", ", $activations, ", ", $weights),
                    concat!("tilestored [{s} + {s_stride}*1], ", $sums),
                    a = in(reg) activations.add(sub * K::SUB),
                    a_stride = in(reg) distance,
                    w = in(reg) panel.weights.as_ptr().add((sub * K::SUB / 4 * STRIPES + r) * LINE),
                    w_stride = in(reg) STRIPES * LINE,
                    s = in(reg) sums.0[sub % 2].as_mut_ptr(),
                    s_stride = in(reg) LINE,
                    out($activations) _,
                    out($weights) _,
                    out($sums) _,
                    options(nostack, preserves_flags)
                )
            };
        }
        // SAFETY: the tiles are set up for these sizes; what is read was written, by the caller's promise.
        unsafe {
            if sub.is_multiple_of(2) {
                sum!("tmm0", "tmm1", "tmm2");
            } else {
                sum!("tmm3", "tmm4", "tmm5");
            }
        }
    }
}

impl<K: Weights> Drop for Amx<K> {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags)
            );
        }
    }
}
