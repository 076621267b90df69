//! Panels times bytes on the tiles of AMX (Intel SDM, volume 1, chapter 18): an instruction gives the sums over a sub-block for 16
//! rows of activations and 16 rows of weights, the same integers as vectors do.

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::activations::{BLOCK, BlockInfo, Integer};
use super::super::packed::Weights;
use super::super::wide::{Wide, accumulate, start};
use super::super::{Job, Precision};
use super::Window;
use super::next_rows::NextRows;
use super::panel::{Panel, STRIPES};
use crate::simd::LINE;

/// Rows of activations, and of weights, that are multiplied at once. Vectors are faster with fewer.
const ROWS: usize = 16;

/// What LDTILECFG reads: palette 1.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Two sets of three tiles: activations, weights, sums.
static CONFIG: Config = {
    let (row_bytes, rows) = ([BLOCK as u16, 64, 64], [ROWS as u8, (BLOCK / 4) as u8, ROWS as u8]);
    let mut config =
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let mut tile = 0;
    while tile < 6 {
        config.row_bytes[tile] = row_bytes[tile % 3];
        config.rows[tile] = rows[tile % 3];
        tile += 1;
    }
    config
};

/// The tiles of the calling thread, and the input of a job in the order in which they take it, for such weights.
pub(super) struct Amx<K: Weights> {
    input: Input,
    weights: PhantomData<K>,
    of_thread: PhantomData<*const ()>,
}

/// The input of a job. A thread keeps it, since its next task most often has the same.
#[derive(Default)]
struct Input {
    /// The number of the job; 0: of none.
    job: u64,
    /// [whole groups of [`ROWS`] rows, blocks], and what an earlier job had beyond.
    blocks: Vec<Block>,
}

thread_local! {
    static INPUT: Cell<Input> = Cell::default();
}

/// A block of 32 columns of some rows of the input.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Block {
    q: [[i8; BLOCK]; ROWS],
    /// Of [`BlockInfo`], for each row.
    scale: [f32; ROWS],
    sum: [i32; ROWS],
    scaled_sum: [f32; ROWS],
}

/// [rows of activations, rows of weights] of two sub-blocks.
#[repr(C, align(64))]
struct Sums([[MaybeUninit<i32>; ROWS * ROWS]; 2]);

/// Whether vectors of `W` hold what tiles give, and `Q` is what they take. Sub-blocks of 16 elements take as long as
/// those of 32, and as many steps behind that: vectors are faster there.
pub(super) const fn fits<K: Weights, W: Wide, Q: Integer>() -> bool {
    K::SUB == BLOCK && W::ROWS == ROWS && matches!(Q::PRECISION, Precision::Int8)
}

/// Whether so many rows of activations are enough for tiles.
pub(super) const fn is_worth_it(rows: usize) -> bool {
    rows >= ROWS
}

/// Bytes that a thread keeps of an input of so many elements.
pub(in crate::matmul) const fn input_bytes(elems: usize) -> usize {
    elems.div_ceil(ROWS * BLOCK) * size_of::<Block>()
}

impl Input {
    /// Copies the rows of a job.
    fn fill(&mut self, job: &Job<'_>) {
        let blocks = job.weights.cols / BLOCK;
        let all = job.rows.count / ROWS * blocks;
        self.blocks.reserve_exact(all.saturating_sub(self.blocks.len()));
        self.blocks.resize(self.blocks.len().max(all), Block::ZERO);
        for (group, to) in self.blocks[..all].chunks_exact_mut(blocks.max(1)).enumerate() {
            for row in 0..ROWS {
                let (q, infos) = job.rows.quantised::<i8>(group * ROWS + row);
                for ((to, q), info) in to.iter_mut().zip(q.as_chunks::<BLOCK>().0).zip(infos) {
                    to.q[row] = *q;
                    (to.scale[row], to.sum[row], to.scaled_sum[row]) =
                        (info.scale, info.sum, info.scaled_sum);
                }
            }
        }
        self.job = job.number;
    }
}

impl Block {
    const ZERO: Self =
        Self { q: [[0; BLOCK]; ROWS], scale: [0.0; ROWS], sum: [0; ROWS], scaled_sum: [0.0; ROWS] };

    /// What [`start`] and [`accumulate`] take of a row.
    #[inline(always)]
    fn info(&self, row: usize) -> BlockInfo {
        let (scale, sum, scaled_sum) = (self.scale[row], self.sum[row], self.scaled_sum[row]);
        BlockInfo { scale, sum, scaled_sum, ..BlockInfo::default() }
    }
}

impl<K: Weights> Amx<K> {
    /// Tiles for the input of a job.
    ///
    /// # Safety
    /// The process must have AMX: [`Isa::Amx`](crate::Isa::Amx).
    pub unsafe fn new(job: &Job<'_>) -> Self {
        let mut input = INPUT.take();
        if input.job != job.number {
            input.fill(job);
        }
        // SAFETY: the instruction is there; the sizes are within those of palette 1.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &raw const CONFIG,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags)
            );
        }
        Self { input, weights: PhantomData, of_thread: PhantomData }
    }

    /// Adds a panel's part to the output of its rows for whole groups of rows of the input. Returns the row behind them.
    #[inline(always)]
    pub fn multiply<W: Wide, const R: usize>(
        &self,
        w: W,
        job: &Job<'_>,
        windows: &[Window; R],
        cols: Range<usize>,
        panel: &Panel,
        next: &Cell<NextRows>,
    ) -> usize {
        let blocks = job.weights.cols / BLOCK;
        let groups = job.rows.count / ROWS;
        for group in 0..groups {
            let input = &self.input.blocks[group * blocks..][cols.start / BLOCK..cols.end / BLOCK];
            for (r, window) in windows.iter().enumerate() {
                let mut acc = [w.splat(0.0); ROWS];
                for (acc, i) in acc.iter_mut().zip(group * ROWS..) {
                    if cols.start > 0 {
                        *acc = window.load(w, job, i);
                    } else {
                        window.prefetch(w, job, i);
                    }
                }
                let mut asked = next.get();
                self.stripe(w, r, input, panel, &mut acc, &mut asked);
                next.set(asked);
                for (acc, i) in acc.into_iter().zip(group * ROWS..) {
                    window.store(w, job, i, acc);
                }
            }
        }
        groups * ROWS
    }

    /// Adds the part of stripe `r` of the panel.
    #[inline(always)]
    fn stripe<W: Wide>(
        &self,
        w: W,
        r: usize,
        input: &[Block],
        panel: &Panel,
        acc: &mut [W::F; ROWS],
        next: &mut NextRows,
    ) {
        let mut sums = Sums([[MaybeUninit::uninit(); _]; _]);
        let subs = input.len();
        // SAFETY: `unpack` has filled the panel for these columns, of which the input has all.
        unsafe {
            self.sum(0, r, input, panel, &mut sums);
            for sub in 0..subs {
                if sub + 1 < subs {
                    self.sum(sub + 1, r, input, panel, &mut sums);
                }
                next.ask(w);
                let figures = panel.figures::<K, W>(w, sub, r);
                let block = input.get_unchecked(sub);
                for (t, acc) in acc.iter_mut().enumerate() {
                    let info = block.info(t);
                    let sums = w.load(sums.0[sub % 2].as_ptr().add(t * ROWS).cast());
                    let sums = w.add32(sums, start::<K, W, i8>(w, sub, &info));
                    *acc = accumulate::<K, W>(w, sub, sums, figures, &info, *acc);
                }
            }
        }
    }

    /// Starts the sums of a sub-block with stripe `r`. Those of even number and those of odd number have tiles and sums of
    /// their own, so that the next ones are computed while these are used.
    ///
    /// # Safety
    /// The sub-block must be in the panel and in the input.
    #[inline(always)]
    unsafe fn sum(&self, sub: usize, r: usize, input: &[Block], panel: &Panel, sums: &mut Sums) {
        macro_rules! sum {
            ($activations:tt, $weights:tt, $sums:tt) => {
                asm!(
                    concat!("tilezero ", $sums),
                    concat!("tileloadd ", $activations, ", [{a} + {a_stride}*1]"),
                    concat!("tileloadd ", $weights, ", [{w} + {w_stride}*1]"),
                    concat!("tdpbsud ", $sums, ", ", $activations, ", ", $weights),
                    concat!("tilestored [{s} + {s_stride}*1], ", $sums),
                    a = in(reg) input.as_ptr().add(sub),
                    a_stride = in(reg) BLOCK,
                    w = in(reg) panel.weights.as_ptr().add((sub * BLOCK / 4 * STRIPES + r) * LINE),
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
        INPUT.set(std::mem::take(&mut self.input));
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
