//! Panels of unpacked weights, with which many rows of activations are multiplied.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::Job;
use super::super::activations::{BLOCK, BlockInfo, Integer};
use super::super::packed::Weights;
use super::super::wide::{Shared, Wide, accumulate, start};
use super::amx::{self, Amx};
use super::{MAX_ROWS, Window, integers};

/// Bytes of a row in a panel, as many columns or half of them, which are whole blocks of every format: with AVX2 and NEON the weights of a
/// panel are 16 KiB, so that they stay in the first cache.
pub(super) const PANEL_ROW_BYTES: usize = 1024;
/// Most columns of a panel.
const PANEL_COLS: usize = PANEL_ROW_BYTES;
/// Stripes of a panel: two, so that what is loaded of the activations is used twice.
pub(super) const STRIPES: usize = 2;

/// Unpacked weights of [`STRIPES`] times the rows of the widest kernel and [`PANEL_COLS`] columns. A *stripe* is the rows
/// of a kernel; stripes lie side by side, and one that is missing leaves its place empty.
#[repr(C, align(64))]
pub(super) struct Panel {
    /// [bytes of a row / 4, stripes, rows, 4]
    pub weights: [MaybeUninit<u8>; PANEL_ROW_BYTES * STRIPES * MAX_ROWS],
    /// [cols / sub-block, stripes, rows]
    pub scale: [MaybeUninit<f32>; PANEL_COLS / 16 * STRIPES * MAX_ROWS],
    /// [cols / sub-block, stripes, rows]
    pub minimum: [MaybeUninit<f32>; PANEL_COLS / 16 * STRIPES * MAX_ROWS],
}

impl Panel {
    /// Nothing yet.
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            weights: [MaybeUninit::uninit(); _],
            scale: [MaybeUninit::uninit(); _],
            minimum: [MaybeUninit::uninit(); _],
        }
    }

    /// Where the weights of all stripes for sub-block `sub` begin.
    #[inline(always)]
    pub fn sub_block<K: Weights, W: Wide, Q: Integer>(&self, sub: usize) -> *const u8 {
        self.weights[sub * K::SUB * size_of::<Q>() * STRIPES * W::ROWS..].as_ptr().cast()
    }

    /// Scales and minimums of sub-block `sub` of a stripe. Weights without minimums have any.
    ///
    /// # Safety
    /// They must have been written.
    #[inline(always)]
    pub unsafe fn figures<K: Weights, W: Wide>(&self, w: W, sub: usize, stripe: usize) -> (W::F, W::F) {
        let number = sub * STRIPES + stripe;
        // SAFETY: the caller's promise.
        unsafe {
            let scale = w.load_floats(self.scale.as_ptr().add(number * W::ROWS).cast());
            if !K::MINIMUM {
                return (scale, scale);
            }
            (scale, w.load_floats(self.minimum.as_ptr().add(number * W::ROWS).cast()))
        }
    }
}

/// The product of a panel, as far as it is filled, with all rows of the input.
pub(super) struct PanelProduct<'a, K: Weights, Q: Integer> {
    pub job: &'a Job<'a>,
    /// Of each stripe.
    pub windows: &'a [Window],
    /// What columns are in the panel.
    pub cols: Range<usize>,
    pub panel: &'a Panel,
    pub amx: Option<&'a Amx<K>>,
    pub integers: PhantomData<Q>,
}

impl<K: Weights, Q: Integer, W: Wide> Shared<W> for PanelProduct<'_, K, Q> {
    #[inline(always)]
    fn run(self, w: W) {
        const { assert!(STRIPES == 2, "there is a case for each number of windows") };
        if let Ok(windows) = self.windows.try_into() {
            self.stripes::<W, STRIPES>(w, windows);
        } else if let Ok(windows) = self.windows.try_into() {
            self.stripes::<W, 1>(w, windows);
        }
    }
}

impl<K: Weights, Q: Integer> PanelProduct<'_, K, Q> {
    /// The output of `R` windows for all rows of the input.
    #[inline(always)]
    fn stripes<W: Wide, const R: usize>(self, w: W, windows: &[Window; R]) {
        let mut i = 0;
        if const { amx::fits::<K, W, Q>() }
            && let Some(amx) = self.amx
        {
            i = amx.multiply(w, self.job, windows, self.cols.clone(), self.panel);
        }
        if W::TILE >= 6 {
            i = self.tiles::<W, R, 6>(w, windows, i);
        }
        i = self.tiles::<W, R, 4>(w, windows, i);
        i = self.tiles::<W, R, 2>(w, windows, i);
        self.tiles::<W, R, 1>(w, windows, i);
    }

    /// As many tiles of `T` rows as there are from row `first` of the input on. Returns the row behind them.
    #[inline(always)]
    fn tiles<W: Wide, const R: usize, const T: usize>(
        &self,
        w: W,
        windows: &[Window; R],
        first: usize,
    ) -> usize {
        let mut i = first;
        while i + T <= self.job.rows.count {
            self.tile::<W, R, T>(w, windows, i);
            i += T;
        }
        i
    }

    /// Adds a panel's part to the output of its rows for rows `i..i + T` of the input.
    #[inline(always)]
    fn tile<W: Wide, const R: usize, const T: usize>(&self, w: W, windows: &[Window; R], i: usize) {
        let Self { job, cols, panel, .. } = self;
        const { assert!(R <= STRIPES, "as many as lie side by side") };
        let mut acc = [[w.splat(0.0); T]; R];
        let mut at = [std::ptr::null::<Q>(); T];
        let mut infos: [&[BlockInfo]; T] = [&[]; T];
        for t in 0..T {
            let (q, info) = integers::<Q>(job, i + t);
            infos[t] = &info[cols.start / BLOCK..cols.end / BLOCK];
            // SAFETY: the row has these columns, as its blocks show.
            at[t] = unsafe { q.add(cols.start) };
            if cols.start > 0 {
                for (acc, window) in acc.iter_mut().zip(windows) {
                    acc[t] = window.load(w, job, i + t);
                }
            }
        }
        for sub in 0..cols.len() / K::SUB {
            // SAFETY: `unpack` has filled the panel for these columns; the activations were cut to them.
            unsafe {
                let mut starts = [w.splat32(0); T];
                for (of_row, infos) in starts.iter_mut().zip(infos) {
                    *of_row = start::<K, W, Q>(w, sub, infos.get_unchecked(sub * K::SUB / BLOCK));
                }
                let sums = panel_sums::<K, W, Q, R, T>(w, panel.sub_block::<K, W, Q>(sub), at, starts);
                for r in 0..R {
                    let figures = panel.figures::<K, W>(w, sub, r);
                    for t in 0..T {
                        let info = infos[t].get_unchecked(sub * K::SUB / BLOCK);
                        acc[r][t] = accumulate::<K, W>(w, sub, sums[r][t], figures, info, acc[r][t]);
                    }
                }
                for at in &mut at {
                    *at = at.add(K::SUB);
                }
            }
        }
        for (acc, window) in acc.iter().zip(windows) {
            for (t, acc) in acc.iter().enumerate() {
                window.store(w, job, i + t, *acc);
            }
        }
    }
}

/// For `T` rows of activations and `R` times `W::ROWS` weight rows, `start` and the sums of products over a sub-block of a panel:
/// [`STRIPES`] vectors for each dword of activations, of which the first `R` count.
///
/// # Safety
/// `activations` must be `K::SUB` integers, and `weights` the panel's for them.
#[inline(always)]
unsafe fn panel_sums<K: Weights, W: Wide, Q: Integer, const R: usize, const T: usize>(
    w: W,
    weights: *const u8,
    activations: [*const Q; T],
    start: [W::V; T],
) -> [[W::V; T]; R] {
    let bytes = size_of::<Q>() == 1;
    let by_parts = bytes && W::BYTE_PARTS;
    let dwords = K::SUB * size_of::<Q>() / 4;
    let steps = if by_parts { W::byte_steps::<K>() } else { dwords };
    let mut sums = [start; R];
    for first in (0..dwords).step_by(steps) {
        let mut parts = if by_parts { [[w.splat32(0); T]; R] } else { sums };
        for k in first..first + steps {
            let mut vectors = [w.splat32(0); R];
            for (r, v) in vectors.iter_mut().enumerate() {
                // SAFETY: by the caller's promise.
                *v = unsafe { w.load(weights.add((k * STRIPES + r) * W::ROWS * 4)) };
            }
            for (t, a) in activations.iter().enumerate() {
                // SAFETY: by the caller's promise.
                let a = unsafe { w.repeat_dword(a.cast::<u8>().add(4 * k)) };
                for (parts, v) in parts.iter_mut().zip(vectors) {
                    parts[t] = w.in_order(if bytes {
                        w.add_byte_products::<K>(v, a, parts[t])
                    } else {
                        w.add_products(v, a, parts[t])
                    });
                }
            }
        }
        if !by_parts {
            return parts;
        }
        for (sums, parts) in sums.iter_mut().zip(parts) {
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = w.add_part(part, *sum);
            }
        }
    }
    sums
}
