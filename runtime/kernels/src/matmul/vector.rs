//! Quantised products on vectors: few rows of activations with the weights unpacked in registers, or many
//! with panels of unpacked weights.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(not(target_arch = "x86_64"))]
#[path = "vector/no_amx.rs"]
mod amx;
#[cfg(target_arch = "x86_64")]
mod group_tiles;
#[cfg(not(target_arch = "x86_64"))]
#[path = "vector/no_group_tiles.rs"]
mod group_tiles;
mod next_rows;
mod panel;
mod steps;
mod window;

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use super::Job;
use super::activations::{BLOCK, BlockInfo, GROUP, Integer};
use super::interleaved::ROWS;
use super::packed::{self, Grouped, MAX_SUBS, Packed, Sink};
#[cfg(target_arch = "x86_64")]
use super::wide::Interleaved;
use super::wide::{Column, Operand, Wide, byte_weights, column_sums, dword_sums_of_rows, start, words};
use crate::format::Format;
use crate::isa::Isa;
use crate::simd::LINE;
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use amx::Amx;
#[cfg(target_arch = "x86_64")]
pub(super) use amx::input_bytes as tile_input_bytes;
#[cfg(target_arch = "x86_64")]
pub(super) use group_tiles::kept_bytes as group_tile_bytes;
use next_rows::NextRows;
use panel::{PANEL_ROW_BYTES, Panel, PanelProduct, STRIPES};
use steps::{Arithmetic, ByGroups, BySubBlocks, Steps};
use window::Window;

/// About so many bytes of interleaved rows lie between the block that is multiplied and the one that is asked for.
const BYTES_AHEAD: usize = 5632;
/// Rows of the widest kernel.
const MAX_ROWS: usize = 16;

/// The output of some weight rows. Returns false, having done nothing, if the matrix has fewer rows than the
/// kernels take or the instruction set has none.
pub(super) fn product<Q: Integer>(isa: Isa, job: &Job<'_>, rows: Range<usize>) -> bool {
    match job.weights.format {
        Format::Q4K if job.grouped => by_isa::<packed::Q4K, ByGroups>(isa, job, rows),
        Format::Q5K if job.grouped => by_isa::<packed::Q5K, ByGroups>(isa, job, rows),
        Format::Q6K if job.grouped => by_isa::<packed::Q6K, ByGroups>(isa, job, rows),
        Format::Q4_0 => by_isa::<packed::Q4_0, BySubBlocks<Q>>(isa, job, rows),
        Format::Q4_1 => by_isa::<packed::Q4_1, BySubBlocks<Q>>(isa, job, rows),
        Format::Q5_0 => by_isa::<packed::Q5_0, BySubBlocks<Q>>(isa, job, rows),
        Format::Q5_1 => by_isa::<packed::Q5_1, BySubBlocks<Q>>(isa, job, rows),
        Format::Q8_0 => by_isa::<packed::Q8_0, BySubBlocks<Q>>(isa, job, rows),
        Format::Q2K => by_isa::<packed::Q2K, BySubBlocks<Q>>(isa, job, rows),
        Format::Q3K => by_isa::<packed::Q3K, BySubBlocks<Q>>(isa, job, rows),
        Format::Q4K => by_isa::<packed::Q4K, BySubBlocks<Q>>(isa, job, rows),
        Format::Q5K => by_isa::<packed::Q5K, BySubBlocks<Q>>(isa, job, rows),
        Format::Q6K => by_isa::<packed::Q6K, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ4NL => by_isa::<packed::Iq4Nl, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ4XS => by_isa::<packed::Iq4Xs, BySubBlocks<Q>>(isa, job, rows),
        Format::MXFP4 => by_isa::<packed::Mxfp4, BySubBlocks<Q>>(isa, job, rows),
        Format::NVFP4 => by_isa::<packed::Nvfp4, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ1S => by_isa::<packed::Iq1S, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ1M => by_isa::<packed::Iq1M, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ2XXS => by_isa::<packed::Iq2Xxs, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ2XS => by_isa::<packed::Iq2Xs, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ2S => by_isa::<packed::Iq2S, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ3XXS => by_isa::<packed::Iq3Xxs, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ3S => by_isa::<packed::Iq3S, BySubBlocks<Q>>(isa, job, rows),
        Format::TQ1_0 => by_isa::<packed::Tq1_0, BySubBlocks<Q>>(isa, job, rows),
        Format::TQ2_0 => by_isa::<packed::Tq2_0, BySubBlocks<Q>>(isa, job, rows),
        Format::Q1_0 => by_isa::<packed::Q1_0, BySubBlocks<Q>>(isa, job, rows),
        Format::Q2_0 => by_isa::<packed::Q2_0, BySubBlocks<Q>>(isa, job, rows),
        Format::F32 | Format::F16 | Format::BF16 | Format::E4M3 => false,
    }
}

#[cfg(target_arch = "x86_64")]
fn by_isa<P: Packed, A: Arithmetic<P>>(isa: Isa, job: &Job<'_>, rows: Range<usize>) -> bool {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2<P: Packed, A: Arithmetic<P>>(job: &Job<'_>, rows: Range<usize>) {
        // SAFETY: this function's own features.
        A::product::<Avx2<false>>(unsafe { Avx2::assume() }, job, rows, false);
    }
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn avxvnni<P: Packed, A: Arithmetic<P>>(job: &Job<'_>, rows: Range<usize>) {
        // SAFETY: this function's own features.
        A::product::<Avx2<true>>(unsafe { Avx2::assume() }, job, rows, false);
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn avx512<P: Packed, A: Arithmetic<P>>(job: &Job<'_>, rows: Range<usize>, has_amx: bool) {
        // SAFETY: this function's own features.
        A::product::<Avx512<false>>(unsafe { Avx512::assume() }, job, rows, has_amx);
    }
    #[target_feature(
        enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512bitalg"
    )]
    fn avx512vbmi<P: Packed, A: Arithmetic<P>>(job: &Job<'_>, rows: Range<usize>, has_amx: bool) {
        // SAFETY: this function's own features.
        A::product::<Avx512<true>>(unsafe { Avx512::assume() }, job, rows, has_amx);
    }
    let height = job.weights.rows;
    if P::CODEBOOK && isa > Isa::Avx512 && height >= Avx512::<true>::ROWS && Isa::Avx512Vbmi.is_available() {
        // SAFETY: the CPU has the instruction set.
        unsafe { avx512vbmi::<P, A>(job, rows, isa == Isa::Amx) };
    } else if isa >= Isa::Avx512 && height >= Avx512::<false>::ROWS {
        // SAFETY: the CPU has the instruction set: `isa` comes from a team, which takes no other.
        unsafe { avx512::<P, A>(job, rows, isa == Isa::Amx) };
    } else if isa == Isa::AvxVnni && height >= Avx2::<true>::ROWS {
        // SAFETY: as above.
        unsafe { avxvnni::<P, A>(job, rows) };
    } else if isa != Isa::Scalar && height >= Avx2::<false>::ROWS {
        // SAFETY: as above; a CPU with AVX-512 has AVX2.
        unsafe { avx2::<P, A>(job, rows) };
    } else {
        return false;
    }
    true
}

/// The same for rows that are interleaved: whole groups of them.
#[cfg(target_arch = "x86_64")]
pub(super) fn interleaved_product<Q: Integer>(isa: Isa, job: &Job<'_>, rows: Range<usize>) -> bool {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2<P: Packed, A: Arithmetic<P>>(job: &Job<'_>, rows: Range<usize>) {
        // SAFETY: this function's own features.
        A::product(Interleaved(unsafe { Avx2::<false>::assume() }), job, rows, false);
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn avx512<P: Packed, A: Arithmetic<P>>(job: &Job<'_>, rows: Range<usize>, has_amx: bool) {
        // SAFETY: this function's own features.
        A::product(Interleaved(unsafe { Avx512::<false>::assume() }), job, rows, has_amx);
    }
    fn by_isa<P: Packed, A: Arithmetic<P>>(isa: Isa, job: &Job<'_>, rows: Range<usize>) {
        // SAFETY: the CPU has the instruction set: `isa` comes from a team, which takes no other, and all but the scalar one have AVX2.
        unsafe {
            if isa >= Isa::Avx512 && super::interleaved::whole_rows(job.weights.rows) >= Avx512::<false>::ROWS
            {
                avx512::<P, A>(job, rows, isa == Isa::Amx);
            } else {
                avx2::<P, A>(job, rows);
            }
        }
    }
    if isa == Isa::Scalar {
        return false;
    }
    debug_assert!(rows.start.is_multiple_of(ROWS) && rows.len().is_multiple_of(ROWS), "whole groups");
    match job.weights.format {
        Format::Q4K if job.grouped => by_isa::<packed::Q4K, ByGroups>(isa, job, rows),
        Format::Q5K if job.grouped => by_isa::<packed::Q5K, ByGroups>(isa, job, rows),
        Format::Q6K if job.grouped => by_isa::<packed::Q6K, ByGroups>(isa, job, rows),
        Format::Q2K => by_isa::<packed::Q2K, BySubBlocks<Q>>(isa, job, rows),
        Format::Q3K => by_isa::<packed::Q3K, BySubBlocks<Q>>(isa, job, rows),
        Format::Q4K => by_isa::<packed::Q4K, BySubBlocks<Q>>(isa, job, rows),
        Format::Q5K => by_isa::<packed::Q5K, BySubBlocks<Q>>(isa, job, rows),
        Format::Q6K => by_isa::<packed::Q6K, BySubBlocks<Q>>(isa, job, rows),
        Format::IQ4XS => by_isa::<packed::Iq4Xs, BySubBlocks<Q>>(isa, job, rows),
        _ => return false,
    }
    true
}

#[cfg(target_arch = "aarch64")]
fn by_isa<P: Packed, A: Arithmetic<P>>(isa: Isa, job: &Job<'_>, rows: Range<usize>) -> bool {
    #[target_feature(enable = "dotprod")]
    fn dotprod<P: Packed, A: Arithmetic<P>>(job: &Job<'_>, rows: Range<usize>) {
        // SAFETY: this function's own feature.
        A::product::<Neon<true>>(unsafe { Neon::assume() }, job, rows, false);
    }
    if isa == Isa::Scalar || job.weights.rows < Neon::<false>::ROWS {
        return false;
    }
    if isa == Isa::Dotprod {
        // SAFETY: the CPU has the instruction set: `isa` comes from a team, which takes no other.
        unsafe { dotprod::<P, A>(job, rows) };
    } else {
        A::product::<Neon<false>>(Neon::new(), job, rows, false);
    }
    true
}

/// Rows of activations that weights are multiplied with as they are unpacked; those of more are unpacked into panels. Of interleaved
/// bytes AVX-512 has registers for the sums of more rows: with 4 of them it is 1.3 (Q3_K, Q6_K) to 2 times (Q4_K) as fast as with panels.
const fn few_rows<P: Packed, W: Wide, Q: Integer>(groups: bool) -> usize {
    if W::INTERLEAVED && W::ROWS > ROWS && size_of::<Q>() == 1 {
        return MOST_FEW;
    }
    if groups { 3 } else { W::PANEL_MIN_N - 1 }
}

/// What [`few_rows`] is, at most.
const MOST_FEW: usize = 6;

impl<P: Packed, Q: Integer> Arithmetic<P> for BySubBlocks<Q> {
    #[inline(always)]
    fn product<W: Wide>(w: W, job: &Job<'_>, rows: Range<usize>, has_amx: bool) {
        const { assert!(3 <= few_rows::<P, W, Q>(false) && few_rows::<P, W, Q>(false) <= MOST_FEW) };
        match job.rows.count {
            1 => few::<P, W, Q, Self, 1>(w, job, rows),
            2 => few::<P, W, Q, Self, 2>(w, job, rows),
            3 => few::<P, W, Q, Self, 3>(w, job, rows),
            4 if const { few_rows::<P, W, Q>(false) >= 4 } => few::<P, W, Q, Self, 4>(w, job, rows),
            5 if const { few_rows::<P, W, Q>(false) >= 5 } => few::<P, W, Q, Self, 5>(w, job, rows),
            6 if const { few_rows::<P, W, Q>(false) >= 6 } => few::<P, W, Q, Self, 6>(w, job, rows),
            _ => many::<P, W, Q, Self, false>(w, job, rows, has_amx),
        }
    }
}

impl<P: Grouped> Arithmetic<P> for ByGroups {
    #[inline(always)]
    fn product<W: Wide>(w: W, job: &Job<'_>, rows: Range<usize>, has_amx: bool) {
        if has_amx && group_tiles::is_worth_it(job.rows.count) {
            // SAFETY: the process has AMX.
            return unsafe { group_tiles::product::<P>(job, rows, W::INTERLEAVED) };
        }
        match job.rows.count {
            1 => few::<P, W, i8, Self, 1>(w, job, rows),
            2 => few::<P, W, i8, Self, 2>(w, job, rows),
            3 => few::<P, W, i8, Self, 3>(w, job, rows),
            4 if const { few_rows::<P, W, i8>(true) >= 4 } => few::<P, W, i8, Self, 4>(w, job, rows),
            5 if const { few_rows::<P, W, i8>(true) >= 5 } => few::<P, W, i8, Self, 5>(w, job, rows),
            6 if const { few_rows::<P, W, i8>(true) >= 6 } => few::<P, W, i8, Self, 6>(w, job, rows),
            _ => many::<P, W, i8, Self, true>(w, job, rows, false),
        }
    }
}

/// Bytes from a block of a window to the next.
const fn block_step<P: Packed, W: Wide>() -> usize {
    P::FORMAT.block_bytes() * if W::INTERLEAVED { ROWS } else { 1 }
}

/// How many pieces of a block are multiplied with `N` rows before their sums are added up: these then stay in registers, and additions,
/// of which each waits for the one before, go on beside the next products. All of a block where that is slower, as it is with sums of two
/// pieces of sub-blocks of 32 for several rows, and with one piece for rows as they lie in files, or not measured.
const fn run_pieces<P: Packed, W: Wide, const N: usize>() -> usize {
    let overlap = match (P::PIECES, P::PIECES_A_RUN) {
        (1 | 4, 1) => W::INTERLEAVED,
        (4, 2) => (N == 1 || P::SUB < BLOCK) && (W::INTERLEAVED || W::HALVES_OVERLAP),
        _ => panic!("there are runs of a quarter and of half a block"),
    };
    if overlap { P::PIECES_A_RUN } else { P::PIECES }
}

/// The sub-blocks of these.
const fn run_subs<P: Packed, W: Wide, const N: usize>() -> usize {
    P::SUBS * run_pieces::<P, W, N>() / P::PIECES
}

/// Products with `N` rows of activations, weights unpacked in registers.
#[inline(always)]
fn few<P: Packed, W: Wide, Q: Integer, S: Steps<P, W>, const N: usize>(
    w: W,
    job: &Job<'_>,
    rows: Range<usize>,
) {
    let stride = job.weights.row_bytes;
    let blocks = job.weights.cols / P::FORMAT.block_elems();
    let runs = P::PIECES / const { run_pieces::<P, W, N>() };
    let mut figures = S::figures(w);
    let mut inputs: [(*const Q, &[BlockInfo]); N] = [(std::ptr::null(), &[]); N];
    for (i, input) in inputs.iter_mut().enumerate() {
        *input = integers::<Q>(job, i);
    }
    for begin in rows.clone().step_by(W::ROWS) {
        let window = Window::new::<W>(job, begin, rows.end);
        let first = window.blocks(job);
        let sums = [[w.splat32(0); MAX_SUBS]; N];
        let mut dots = Dots::<W, Q, _, N> { at: inputs.map(|(q, _)| q), sums, acc: [S::zero(w); N] };
        // The rows of a window follow each other, and so do windows: each block's turn asks for its share of what comes later, of
        // interleaved rows beyond the task's: its thread has the next, most often.
        let share = W::ROWS * P::FORMAT.block_bytes();
        let lead = if const { W::INTERLEAVED && W::ROWS == ROWS } {
            (BYTES_AHEAD + share / 2) / share * share
        } else {
            W::ROWS * stride
        };
        let end = if W::INTERLEAVED { job.weights.rows } else { rows.end };
        let end = first.wrapping_add((end - begin) * stride);
        let mut ahead = Ahead { next: first.wrapping_add(lead), end, share };
        for b in 0..blocks {
            // SAFETY: `W::ROWS` rows from the window's first are in the matrix, and this is their block b, as
            // are the elements and infos of the activations.
            unsafe {
                let at = first.add(b * block_step::<P, W>());
                S::read(w, at, stride, &mut figures);
                let infos = inputs.map(|(_, infos)| infos.as_ptr().add(b * P::SUBS * P::SUB / BLOCK));
                // Each is a constant to the compiler.
                add_run::<P, W, Q, S, N>(w, (at, stride), 0, &ahead, &figures, infos, &mut dots);
                if runs > 1 {
                    add_run::<P, W, Q, S, N>(w, (at, stride), 1, &ahead, &figures, infos, &mut dots);
                }
                if runs > 2 {
                    add_run::<P, W, Q, S, N>(w, (at, stride), 2, &ahead, &figures, infos, &mut dots);
                    add_run::<P, W, Q, S, N>(w, (at, stride), 3, &ahead, &figures, infos, &mut dots);
                }
                ahead.next = ahead.next.wrapping_add(share);
                for at in &mut dots.at {
                    *at = at.add(P::FORMAT.block_elems());
                }
            }
        }
        for (i, acc) in dots.acc.into_iter().enumerate() {
            window.store(w, job, i, S::result(acc));
        }
    }
}

/// What is asked for ahead of the block that is multiplied.
struct Ahead {
    /// Where the share of the block begins.
    next: *const u8,
    /// Where there is no more.
    end: *const u8,
    /// Bytes for each block.
    share: usize,
}

impl Ahead {
    /// Asks for one of as many parts of a block's share.
    #[inline(always)]
    fn ask<W: Wide>(&self, w: W, part: usize, parts: usize) {
        if self.next < self.end {
            let lines = self.share.div_ceil(LINE);
            for line in lines * part / parts..lines * (part + 1) / parts {
                w.prefetch(self.next.wrapping_add(line * LINE));
            }
        }
    }
}

/// Adds up the products of a run of sub-blocks of a block, that at `at` in the first row and every `stride` bytes in the others, and asks
/// for its part of what comes later.
///
/// # Safety
/// As for [`Packed::weights`]; `infos` and `dots` must be where the block's input is.
#[inline(always)]
unsafe fn add_run<P: Packed, W: Wide, Q: Integer, S: Steps<P, W>, const N: usize>(
    w: W,
    (at, stride): (*const u8, usize),
    run: usize,
    ahead: &Ahead,
    figures: &S::Figures,
    infos: [*const BlockInfo; N],
    dots: &mut Dots<W, Q, S::Sum, N>,
) {
    let (pieces, subs) = const { (run_pieces::<P, W, N>(), run_subs::<P, W, N>()) };
    ahead.ask(w, run, P::PIECES / pieces);
    // SAFETY: the caller's promise.
    unsafe {
        if pieces == P::PIECES {
            P::weights(w, at, stride, dots);
        } else {
            P::piece(w, at, stride, pieces * run, dots);
            if pieces > 1 {
                P::piece(w, at, stride, pieces * run + 1, dots);
            }
        }
        for ((acc, sums), infos) in dots.acc.iter_mut().zip(&dots.sums).zip(infos) {
            for place in 0..subs {
                let sub = run * subs + place;
                let info = &*infos.add(sub * P::SUB / BLOCK);
                let sums = w.add32(sums[place], start::<P::Weights, W, Q>(w, sub, info));
                *acc = S::add(w, sub, sums, figures, info, *acc);
            }
        }
    }
}

/// The integers of row i of the input, and its blocks.
#[inline(always)]
fn integers<'a, Q: Integer>(job: &Job<'a>, i: usize) -> (*const Q, &'a [BlockInfo]) {
    let (q, info) = job.rows.quantised::<Q>(i);
    (q.as_ptr(), info)
}

/// Multiplies sub-blocks with `N` rows of activations and adds up the products.
struct Dots<W: Wide, Q: Integer, T, const N: usize> {
    /// The rows' integers for the block.
    at: [*const Q; N],
    /// Raw sums of products of each sub-block of a run.
    sums: [[W::V; MAX_SUBS]; N],
    /// What the products are added to.
    acc: [T; N],
}

impl<W: Wide, Q: Integer, T, const N: usize> Sink<W> for Dots<W, Q, T, N> {
    #[inline(always)]
    fn put<P: Packed, const C: usize>(&mut self, w: W, sub: usize, columns: [Column<W>; C]) {
        let weights = Operand::<W, C>::new::<P::Weights, Q>(w, columns);
        let place = sub % const { run_subs::<P, W, N>() };
        if const { W::INTERLEAVED && N > 1 && P::SUB == BLOCK }
            && let Operand::Bytes(bytes) = &weights
            && W::byte_steps::<P::Weights>() == P::SUB / 4
        {
            // SAFETY: the rows have as many elements as the block.
            let of_rows =
                unsafe { dword_sums_of_rows::<P::Weights, W, Q, C, N>(w, bytes, &self.at, sub * P::SUB) };
            for (sums, sum) in self.sums.iter_mut().zip(of_rows) {
                sums[place] = sum;
            }
            return;
        }
        for (at, sums) in self.at.iter().zip(&mut self.sums) {
            // SAFETY: as above.
            let at = unsafe { at.add(sub * P::SUB) };
            // SAFETY: as above.
            sums[place] = unsafe { column_sums::<P::Weights, W, Q, C>(w, &weights, at) };
        }
    }
}

/// Products with many rows of activations, added up in `GROUPS` if `S` does.
#[inline(always)]
fn many<P: Packed, W: Wide, Q: Integer, S: Steps<P, W>, const GROUPS: bool>(
    w: W,
    job: &Job<'_>,
    rows: Range<usize>,
    has_amx: bool,
) {
    const {
        assert!(GROUPS == S::GROUPS);
        assert!(W::ROWS == W::Plain::ROWS && W::SIGNED_OFFSET_BITS == W::Plain::SIGNED_OFFSET_BITS);
    }
    let has_amx = has_amx && amx::fits::<P::Weights, W, Q>() && amx::is_worth_it(job.rows.count);
    // SAFETY: it is there.
    let amx = has_amx.then(|| unsafe { Amx::<P::Weights>::new(job) });
    let mut panel = Panel::new();
    let panel_cols = PANEL_ROW_BYTES / size_of::<Q>();
    for begin in rows.clone().step_by(STRIPES * W::ROWS) {
        let count = (rows.end - begin).div_ceil(W::ROWS).min(STRIPES);
        let windows: [Window; STRIPES] =
            std::array::from_fn(|r| Window::new::<W>(job, begin + r.min(count - 1) * W::ROWS, rows.end));
        let windows = &windows[..count];
        // With AMX a tile has as many rows as a stripe, and stripes take turns.
        let tile = if has_amx { W::ROWS / STRIPES } else { W::TILE };
        let steps = job.weights.cols / if GROUPS { GROUP } else { P::SUB };
        let turns = steps * job.rows.count.div_ceil(tile);
        let next = Cell::new(NextRows::of(job, begin + count * W::ROWS, STRIPES * W::ROWS, turns));
        for first_col in (0..job.weights.cols).step_by(panel_cols) {
            let cols = first_col..(first_col + panel_cols).min(job.weights.cols);
            for (r, window) in windows.iter().enumerate() {
                unpack::<P, W, Q, S>(w, job, window, r, cols.clone(), &mut panel);
            }
            let (panel, next, amx, integers) = (&panel, &next, amx.as_ref(), PhantomData::<Q>);
            w.run_shared(PanelProduct::<P::Weights, Q, GROUPS> {
                job,
                windows,
                cols,
                panel,
                next,
                amx,
                integers,
            });
        }
    }
}

/// Fills stripe `r` of the panel with some columns of a window's rows.
#[inline(always)]
fn unpack<P: Packed, W: Wide, Q: Integer, S: Steps<P, W>>(
    w: W,
    job: &Job<'_>,
    window: &Window,
    r: usize,
    cols: Range<usize>,
    panel: &mut Panel,
) {
    let stride = job.weights.row_bytes;
    let elems = P::FORMAT.block_elems();
    let mut figures = S::figures(w);
    let first = window.blocks(job);
    for col in cols.clone().step_by(elems) {
        let sub = (col - cols.start) / P::SUB;
        // SAFETY: `W::ROWS` rows from the window's first are in the matrix, and this is a block of theirs; a
        // panel has room for their columns.
        unsafe {
            let at = first.add(col / elems * block_step::<P, W>());
            S::read(w, at, stride, &mut figures);
            S::keep(w, &figures, (sub, r), panel);
            let place = (col - cols.start) * size_of::<Q>() * STRIPES * W::ROWS + 4 * r * W::ROWS;
            let to = panel.weights.as_mut_ptr().cast::<u8>().add(place);
            P::weights(w, at, stride, &mut Interleave::<Q> { to, integers: PhantomData });
        }
    }
}

/// Writes sub-blocks to a stripe of a panel.
struct Interleave<Q: Integer> {
    /// The block's place in the panel.
    to: *mut u8,
    /// The integers that the panel is for.
    integers: PhantomData<Q>,
}

impl<Q: Integer> Interleave<Q> {
    /// Writes 16 bytes of each row, which are bytes `place..place + 16` of the block.
    #[inline(always)]
    fn write<W: Wide>(&mut self, w: W, place: usize, column: Column<W>) {
        for (i, dwords) in w.dwords(column).into_iter().enumerate() {
            // SAFETY: the panel has room for all sub-blocks of the block.
            unsafe { w.store(dwords, self.to.add((place + 4 * i) * STRIPES * W::ROWS)) };
        }
    }
}

impl<W: Wide, Q: Integer> Sink<W> for Interleave<Q> {
    #[inline(always)]
    fn put<P: Packed, const C: usize>(&mut self, w: W, sub: usize, columns: [Column<W>; C]) {
        let first = sub * P::SUB * size_of::<Q>();
        for (c, column) in columns.into_iter().enumerate() {
            if size_of::<Q>() == 1 {
                self.write(w, first + 16 * c, byte_weights::<P::Weights, W>(w, column));
            } else {
                let [even, odd] = words::<P::Weights, W>(w, column);
                self.write(w, first + 32 * c, even);
                self.write(w, first + 32 * c + 16, odd);
            }
        }
    }
}
