//! Panels of unpacked weights, with which many rows of activations are multiplied.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::Job;
use super::super::activations::{BLOCK, BlockInfo, GROUP, Integer};
use super::super::packed::Weights;
use super::super::wide::{Shared, Wide, accumulate, start};
use super::amx::{self, Amx};
use super::next_rows::NextRows;
use super::steps::{add_group, add_minimum};
use super::{MAX_ROWS, Window, integers};

/// Bytes of a row in a panel, as many columns or half of them, which are whole blocks of every format: with AVX2 and NEON the weights of a
/// panel are 16 KiB, so that they stay in the first cache.
pub(super) const PANEL_ROW_BYTES: usize = 1024;
/// Most columns of a panel.
const PANEL_COLS: usize = PANEL_ROW_BYTES;
/// Columns of a block of formats that are added up in groups.
const SUPER_BLOCK: usize = 256;
/// Stripes of a panel: two, so that what is loaded of the activations is used twice.
pub(super) const STRIPES: usize = 2;

/// Unpacked weights of [`STRIPES`] times the rows of the widest kernel and [`PANEL_COLS`] columns. A *stripe* is the rows
/// of a kernel; stripes lie side by side, and one that is missing leaves its place empty.
#[repr(C, align(64))]
pub(super) struct Panel {
    /// [bytes of a row / 4, stripes, rows, 4]
    pub weights: [MaybeUninit<u8>; PANEL_ROW_BYTES * STRIPES * MAX_ROWS],
    /// [cols / sub-block, stripes, rows]; integers of 32 bits in groups.
    pub scale: [MaybeUninit<f32>; PANEL_COLS / 16 * STRIPES * MAX_ROWS],
    /// [cols / sub-block, stripes, rows]; integers of 16 bits in groups, each twice.
    pub minimum: [MaybeUninit<f32>; PANEL_COLS / 16 * STRIPES * MAX_ROWS],
    /// Of groups: what scales are multiplied by, [cols / 256, stripes, rows].
    pub unit: [MaybeUninit<f32>; PANEL_COLS / SUPER_BLOCK * STRIPES * MAX_ROWS],
    /// The same of minimums.
    pub minimum_unit: [MaybeUninit<f32>; PANEL_COLS / SUPER_BLOCK * STRIPES * MAX_ROWS],
}

impl Panel {
    /// Nothing yet.
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            weights: [MaybeUninit::uninit(); _],
            scale: [MaybeUninit::uninit(); _],
            minimum: [MaybeUninit::uninit(); _],
            unit: [MaybeUninit::uninit(); _],
            minimum_unit: [MaybeUninit::uninit(); _],
        }
    }

    /// Where figures number `number` of a stripe stand among such.
    #[inline(always)]
    pub fn place<W: Wide>(figures: &mut [MaybeUninit<f32>], number: usize, stripe: usize) -> *mut f32 {
        figures[(number * STRIPES + stripe) * W::ROWS..][..W::ROWS].as_mut_ptr().cast()
    }

    /// Scales and minimums of sub-block `sub` of a stripe as integers. Weights without minimums have any.
    ///
    /// # Safety
    /// As for [`Panel::figures`], of groups.
    #[inline(always)]
    unsafe fn integers<K: Weights, W: Wide>(&self, w: W, sub: usize, stripe: usize) -> (W::V, W::V) {
        let first = (sub * STRIPES + stripe) * W::ROWS;
        // SAFETY: the caller's promise.
        unsafe {
            let scale = w.load(self.scale.as_ptr().add(first).cast());
            (scale, if K::MINIMUM { w.load(self.minimum.as_ptr().add(first).cast()) } else { scale })
        }
    }

    /// What these are multiplied by in a group.
    ///
    /// # Safety
    /// As for [`Panel::figures`], of groups.
    #[inline(always)]
    unsafe fn units<K: Weights, W: Wide>(&self, w: W, group: usize, stripe: usize) -> (W::F, W::F) {
        let first = (group * GROUP / SUPER_BLOCK * STRIPES + stripe) * W::ROWS;
        // SAFETY: the caller's promise.
        unsafe {
            let unit = w.load_floats(self.unit.as_ptr().add(first).cast());
            (
                unit,
                if K::MINIMUM { w.load_floats(self.minimum_unit.as_ptr().add(first).cast()) } else { unit },
            )
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

/// The product of a panel, as far as it is filled, with all rows of the input, added up in groups or not.
pub(super) struct PanelProduct<'a, K: Weights, Q: Integer, const GROUPS: bool> {
    pub job: &'a Job<'a>,
    /// Of each stripe.
    pub windows: &'a [Window],
    /// What columns are in the panel.
    pub cols: Range<usize>,
    pub panel: &'a Panel,
    pub next: &'a Cell<NextRows>,
    pub amx: Option<&'a Amx<K>>,
    pub integers: PhantomData<Q>,
}

impl<K: Weights, Q: Integer, W: Wide, const GROUPS: bool> Shared<W> for PanelProduct<'_, K, Q, GROUPS> {
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

impl<K: Weights, Q: Integer, const GROUPS: bool> PanelProduct<'_, K, Q, GROUPS> {
    /// The output of `R` windows for all rows of the input.
    #[inline(always)]
    fn stripes<W: Wide, const R: usize>(self, w: W, windows: &[Window; R]) {
        let mut i = 0;
        if const { amx::fits::<K, W, Q>() }
            && let Some(amx) = self.amx
        {
            i = amx.multiply(w, self.job, windows, self.cols.clone(), self.panel, self.next);
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
        let Self { job, cols, .. } = self;
        const { assert!(R <= STRIPES, "as many as lie side by side") };
        let mut acc = [[w.splat(0.0); T]; R];
        let mut at = [std::ptr::null::<Q>(); T];
        let mut infos: [&[BlockInfo]; T] = [&[]; T];
        for t in 0..T {
            let (q, info) = integers::<Q>(job, i + t);
            infos[t] = &info[cols.start / BLOCK..cols.end / BLOCK];
            // SAFETY: the row has these columns, as its blocks show.
            at[t] = unsafe { q.add(cols.start) };
            for (acc, window) in acc.iter_mut().zip(windows) {
                if cols.start > 0 {
                    acc[t] = window.load(w, job, i + t);
                } else {
                    window.prefetch(w, job, i + t);
                }
            }
        }
        let mut next = self.next.get();
        for step in 0..cols.len() / if GROUPS { GROUP } else { K::SUB } {
            // SAFETY: `unpack` has filled the panel for these columns; the activations were cut to them.
            unsafe {
                if GROUPS {
                    self.add_group(w, step, &mut at, &infos, &mut acc);
                } else {
                    self.add_sub_block(w, step, &mut at, &infos, &mut acc);
                }
            }
            next.ask(w);
        }
        self.next.set(next);
        for (acc, window) in acc.iter().zip(windows) {
            for (t, acc) in acc.iter().enumerate() {
                window.store(w, job, i + t, *acc);
            }
        }
    }

    /// Adds the products of sub-block `sub` with rows of activations, of which `at` is what has not been multiplied.
    ///
    /// # Safety
    /// It must be in the panel and in the input.
    #[inline(always)]
    unsafe fn add_sub_block<W: Wide, const R: usize, const T: usize>(
        &self,
        w: W,
        sub: usize,
        at: &mut [*const Q; T],
        infos: &[&[BlockInfo]; T],
        acc: &mut [[W::F; T]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let sums = self.sums::<W, R, T>(w, sub, at, infos);
            for r in 0..R {
                let figures = self.panel.figures::<K, W>(w, sub, r);
                for t in 0..T {
                    let info = infos[t].get_unchecked(sub * K::SUB / BLOCK);
                    acc[r][t] = accumulate::<K, W>(w, sub, sums[r][t], figures, info, acc[r][t]);
                }
            }
        }
    }

    /// The same of a group.
    ///
    /// # Safety
    /// As for [`PanelProduct::add_sub_block`].
    #[inline(always)]
    unsafe fn add_group<W: Wide, const R: usize, const T: usize>(
        &self,
        w: W,
        group: usize,
        at: &mut [*const Q; T],
        infos: &[&[BlockInfo]; T],
        acc: &mut [[W::F; T]; R],
    ) {
        let subs = group * GROUP / K::SUB..(group + 1) * GROUP / K::SUB;
        let mut products = [[w.splat32(0); T]; R];
        // SAFETY: the caller's promise.
        unsafe {
            for sub in subs.clone() {
                let sums = self.sums::<W, R, T>(w, sub, at, infos);
                for r in 0..R {
                    let (scale, _) = self.panel.integers::<K, W>(w, sub, r);
                    for t in 0..T {
                        products[r][t] = w.add32(products[r][t], w.mul32(sums[r][t], scale));
                    }
                }
            }
            for r in 0..R {
                let units = self.panel.units::<K, W>(w, group, r);
                for t in 0..T {
                    let mut minimums = w.splat32(0);
                    for sub in subs.clone() {
                        let (_, minimum) = self.panel.integers::<K, W>(w, sub, r);
                        let info = infos[t].get_unchecked(sub * K::SUB / BLOCK);
                        minimums = add_minimum::<K, W>(w, minimum, info, minimums);
                    }
                    let scale = w.splat(infos[t].get_unchecked(group * GROUP / BLOCK).scale);
                    acc[r][t] = add_group::<K, W>(w, (products[r][t], minimums), units, scale, acc[r][t]);
                }
            }
        }
    }

    /// The sums of the products of a sub-block, behind which `at` is then.
    ///
    /// # Safety
    /// As for [`PanelProduct::add_sub_block`].
    #[inline(always)]
    unsafe fn sums<W: Wide, const R: usize, const T: usize>(
        &self,
        w: W,
        sub: usize,
        at: &mut [*const Q; T],
        infos: &[&[BlockInfo]; T],
    ) -> [[W::V; T]; R] {
        let mut starts = [w.splat32(0); T];
        // SAFETY: the caller's promise.
        unsafe {
            for (of_row, infos) in starts.iter_mut().zip(infos) {
                *of_row = start::<K, W, Q>(w, sub, infos.get_unchecked(sub * K::SUB / BLOCK));
            }
            let sums = panel_sums::<K, W, Q, R, T>(w, self.panel.sub_block::<K, W, Q>(sub), *at, starts);
            for at in at {
                *at = at.add(K::SUB);
            }
            sums
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
