//! Groups of sub-blocks on the tiles of AMX (Intel SDM, volume 1, chapter 18). The integer scales of sub-blocks are multiplied into the
//! weights, which tiles take as two bytes, so that an instruction goes on over sub-blocks and the steps behind it come once a group.
//!
//! Tile instructions lie between those steps, one for a row of activations: the processor looks too little ahead to do both at once
//! otherwise. While one pair of tiles adds up a group, the sums of the group before are stored and those before these are used.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::Job;
use super::super::activations::{BLOCK, BlockInfo, GROUP};
use super::super::packed::{Grouped, IntegerScales, MAX_SUBS, Packed, Sink, Weights};
use super::super::wide::{Column, Interleaved, Wide};
use super::next_rows::NextRows;
use super::steps::add_group;
use super::{Window, block_step};
use crate::simd::{Avx512, LINE};

/// Rows of activations, and of weights, that are multiplied at once.
const ROWS: usize = 16;
/// Bytes of a row in a tile.
const DEPTH: usize = 64;
/// Tiles of a plane for a group.
const TILES: usize = GROUP / DEPTH;
/// Groups of a super-block.
const GROUPS: usize = 2;
/// Stripes of a panel, each of the rows of a window: with their planes and a group of the input they stay in the first cache.
const STRIPES: usize = 2;

type Isa = Avx512<false>;

/// What reads rows of weights: [`Isa`], or the same of interleaved rows.
trait Source: Wide<V = __m512i, F = __m512> {}

impl<W: Wide<V = __m512i, F = __m512>> Source for W {}

/// What LDTILECFG reads: palette 1.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All tiles are whole: 0 and 7 for activations, 1 and 2 for weights, 3 to 6 for sums.
static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (DEPTH as u16, ROWS as u8);
        tile += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// A group of columns of some rows of the input.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Block {
    q: [[i8; GROUP]; ROWS],
    scale: [f32; ROWS],
    /// For each two blocks of 32 elements the sums of both, for each row.
    sums: [[[i16; 2]; ROWS]; GROUP / BLOCK / 2],
}

/// Sums of so many rows of activations and weights.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Floats([[f32; ROWS]; ROWS]);

/// What a thread keeps, since its next task most often has the same input.
#[derive(Default)]
struct Kept {
    /// The number of the job whose input it is; 0: of none.
    job: u64,
    /// [tiles of rows, the last filled up with zeros; groups], and what an earlier job had beyond.
    input: Vec<Block>,
    /// [tiles of rows, stripes]
    output: Vec<Floats>,
}

thread_local! {
    static KEPT: Cell<Kept> = Cell::default();
}

/// The weights of a stripe for a super-block.
#[repr(C, align(64))]
struct Stripe {
    /// The upper and the lower bytes of scales times integers: [rows / 4 of a group's columns, rows of weights, 4].
    planes: [[[[MaybeUninit<u8>; DEPTH * ROWS]; 2]; TILES]; GROUPS],
    unit: [MaybeUninit<f32>; ROWS],
    minimum_unit: [MaybeUninit<f32>; ROWS],
    /// For each two sub-blocks of 32 elements the minimums of both.
    minimum: [[[MaybeUninit<i32>; ROWS]; GROUP / BLOCK / 2]; GROUPS],
}

/// [upper or lower bytes, rows of activations, rows of weights] of the groups of a super-block.
#[repr(C, align(64))]
struct Sums([[[MaybeUninit<i32>; ROWS * ROWS]; 2]; GROUPS]);

/// Whether so many rows of activations are enough for tiles, in which others are left empty.
pub(super) const fn is_worth_it(rows: usize) -> bool {
    rows >= 8
}

/// Bytes that a thread keeps of an input of so many rows and columns.
pub(in crate::matmul) const fn kept_bytes(rows: usize, cols: usize) -> usize {
    let tiles = rows.div_ceil(ROWS);
    tiles * (cols.div_ceil(GROUP) * size_of::<Block>() + STRIPES * size_of::<Floats>())
}

impl Block {
    const ZERO: Self =
        Self { q: [[0; GROUP]; ROWS], scale: [0.0; ROWS], sums: [[[0; 2]; ROWS]; GROUP / BLOCK / 2] };

    /// Sets a row.
    fn set(&mut self, row: usize, q: &[i8; GROUP], infos: &[BlockInfo; GROUP / BLOCK]) {
        self.q[row] = *q;
        self.scale[row] = infos[0].scale;
        for (sums, infos) in self.sums.iter_mut().zip(infos.as_chunks::<2>().0) {
            sums[row] = [infos[0].sum as i16, infos[1].sum as i16];
        }
    }
}

impl Kept {
    /// Copies the rows of a job and makes room for its output.
    fn fill(&mut self, job: &Job<'_>) {
        let (tiles, groups) = (job.rows.count.div_ceil(ROWS), job.weights.cols / GROUP);
        grow(&mut self.input, tiles * groups, Block::ZERO);
        grow(&mut self.output, tiles * STRIPES, Floats([[0.0; ROWS]; ROWS]));
        for (tile, to) in self.input[..tiles * groups].chunks_exact_mut(groups.max(1)).enumerate() {
            for row in 0..ROWS {
                let number = tile * ROWS + row;
                if number < job.rows.count {
                    let (q, infos) = job.rows.quantised::<i8>(number);
                    let rows = q.as_chunks::<GROUP>().0.iter().zip(infos.as_chunks().0);
                    to.iter_mut().zip(rows).for_each(|(to, (q, infos))| to.set(row, q, infos));
                } else {
                    to.iter_mut().for_each(|to| to.set(row, &[0; GROUP], &Default::default()));
                }
            }
        }
        self.job = job.number;
    }
}

/// Makes a buffer as long, at least, taking no more memory than that.
fn grow<T: Copy>(buffer: &mut Vec<T>, len: usize, zero: T) {
    buffer.reserve_exact(len.saturating_sub(buffer.len()));
    buffer.resize(buffer.len().max(len), zero);
}

/// The output of some weight rows, which are interleaved or not, for all rows of the input.
///
/// # Safety
/// The process must have AMX: [`Isa::Amx`](crate::Isa::Amx).
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn product<P: Grouped>(job: &Job<'_>, rows: Range<usize>, interleaved: bool) {
    // SAFETY: this function's own features, and the caller's promise.
    unsafe {
        let w: Isa = Avx512::assume();
        if interleaved {
            product_of::<P, _>(w, Interleaved(w), job, rows)
        } else {
            product_of::<P, _>(w, w, job, rows)
        }
    }
}

/// The same with rows as `source` reads them.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn product_of<P: Grouped, S: Source>(w: Isa, source: S, job: &Job<'_>, rows: Range<usize>) {
    let mut kept = KEPT.take();
    if kept.job != job.number {
        kept.fill(job);
    }
    let (tiles, groups) = (job.rows.count.div_ceil(ROWS), job.weights.cols / GROUP);
    let input = &kept.input[..tiles * groups];
    let mut panel: [Stripe; STRIPES] = std::array::from_fn(|_| Stripe::new());
    // SAFETY: the process has the instructions; the sizes are within those of palette 1.
    unsafe {
        asm!(
            "ldtilecfg [{}]", in(reg) &raw const CONFIG,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly, preserves_flags)
        );
    }
    for begin in rows.clone().step_by(STRIPES * ROWS) {
        let count = (rows.end - begin).div_ceil(ROWS).min(STRIPES);
        let windows: [Window; STRIPES] =
            std::array::from_fn(|r| Window::new::<S>(job, begin + r.min(count - 1) * ROWS, rows.end));
        let turns = groups / GROUPS * tiles * count;
        let mut next = NextRows::of(job, begin + count * ROWS, STRIPES * ROWS, turns);
        let output = &mut kept.output[..tiles * count];
        output.fill(Floats([[0.0; ROWS]; ROWS]));
        for block in 0..groups / GROUPS {
            for (window, stripe) in windows.iter().zip(&mut panel[..count]) {
                // SAFETY: the rows of a window are in the matrix, and so is this block of each; AVX-512 is there.
                unsafe {
                    let at = window.blocks(job).add(block * block_step::<P, S>());
                    stripe.unpack::<P, S>(source, at, job.weights.row_bytes);
                }
            }
            // SAFETY: the stripes were unpacked, the tiles are set up, and of the input there are all groups.
            unsafe {
                let groups = (groups, GROUPS * block);
                multiply::<P::Weights>(w, input, groups, &panel[..count], output, |pair| {
                    next.ask(w);
                    if groups.1 + GROUPS == groups.0 {
                        let (tile, window) = (pair / count, &windows[pair % count]);
                        for row in tile * ROWS..job.rows.count.min((tile + 1) * ROWS) {
                            window.prefetch(w, job, row);
                        }
                    }
                });
            }
        }
        for (tile, sums) in output.chunks_exact(count).enumerate() {
            for t in 0..ROWS.min(job.rows.count - tile * ROWS) {
                for (window, sums) in windows.iter().zip(sums) {
                    // SAFETY: as many floats.
                    window.store(w, job, tile * ROWS + t, unsafe { w.load_floats(sums.0[t].as_ptr()) });
                }
            }
        }
    }
    // SAFETY: the process has the instruction.
    unsafe {
        asm!(
            "tilerelease",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags)
        );
    }
    KEPT.set(kept);
}

impl Stripe {
    /// Nothing yet.
    #[inline(always)]
    fn new() -> Self {
        Self {
            planes: [[[[MaybeUninit::uninit(); _]; _]; _]; _],
            unit: [MaybeUninit::uninit(); _],
            minimum_unit: [MaybeUninit::uninit(); _],
            minimum: [[[MaybeUninit::uninit(); _]; _]; _],
        }
    }

    /// Fills the stripe with a block of each row.
    ///
    /// # Safety
    /// As for [`Packed::weights`]; AVX-512.
    #[inline(always)]
    unsafe fn unpack<P: Grouped, S: Source>(&mut self, w: S, at: *const u8, stride: usize) {
        let (zero, none) = (w.splat(0.0), [w.splat32(0); MAX_SUBS]);
        let mut scales = IntegerScales::<S> { unit: zero, minimum_unit: zero, scale: none, minimum: none };
        // SAFETY: the caller's promise; each place has room for a vector.
        unsafe {
            P::integer_scales(w, at, stride, &mut scales);
            w.store_floats(scales.unit, self.unit.as_mut_ptr().cast());
            if P::Weights::MINIMUM {
                w.store_floats(scales.minimum_unit, self.minimum_unit.as_mut_ptr().cast());
                let pairs = scales.minimum.as_chunks::<2>().0;
                for (to, [a, b]) in self.minimum.as_flattened_mut().iter_mut().zip(pairs) {
                    w.store(w.or(*a, w.shl32(*b, 16)), to.as_mut_ptr().cast());
                }
            }
            let low_word = w.splat32(0xFFFF);
            for scale in &mut scales.scale[..P::SUBS] {
                *scale = w.or(w.and(*scale, low_word), w.shl32(*scale, 16));
            }
            P::weights(w, at, stride, &mut Planes { to: &mut self.planes, scale: &scales.scale });
        }
    }

    /// Where a plane of a group begins, in tile `tile` of it.
    #[inline(always)]
    fn plane(&self, group: usize, tile: usize, plane: usize) -> *const u8 {
        self.planes[group][tile][plane].as_ptr().cast()
    }
}

/// Writes sub-blocks to the planes of a stripe.
struct Planes<'a> {
    to: &'a mut [[[[MaybeUninit<u8>; DEPTH * ROWS]; 2]; TILES]; GROUPS],
    /// Of each sub-block, twice in each dword.
    scale: &'a [__m512i; MAX_SUBS],
}

impl<S: Source> Sink<S> for Planes<'_> {
    #[inline(always)]
    fn put<P: Packed, const C: usize>(&mut self, w: S, sub: usize, columns: [Column<S>; C]) {
        let scale = self.scale[sub];
        let low_bytes = w.splat32(0x00FF_00FF);
        for (c, column) in columns.into_iter().enumerate() {
            for (i, dwords) in w.dwords(column).into_iter().enumerate() {
                let elem = sub * P::SUB + 16 * c + 4 * i;
                let planes = &mut self.to[elem / GROUP][elem % GROUP / DEPTH];
                let place = elem % DEPTH / 4 * LINE;
                // SAFETY: AVX-512 by the token; a tile has as many lines.
                unsafe {
                    let mut even = _mm512_mullo_epi16(_mm512_and_si512(dwords, low_bytes), scale);
                    let mut odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(dwords), scale);
                    if P::Weights::OFFSET_BITS > 0 {
                        let offset = w.shl16(scale, P::Weights::OFFSET_BITS);
                        even = _mm512_sub_epi16(even, offset);
                        odd = _mm512_sub_epi16(odd, offset);
                    }
                    let upper = select(low_bytes, _mm512_srli_epi16::<8>(even), odd);
                    let lower = select(low_bytes, even, _mm512_slli_epi16::<8>(odd));
                    w.store(upper, planes[0].as_mut_ptr().add(place).cast());
                    w.store(lower, planes[1].as_mut_ptr().add(place).cast());
                }
            }
        }
    }
}

/// The bits of `a` where the mask has ones, of `b` where it has zeros.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn select(mask: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: registers only.
    unsafe { _mm512_ternarylogic_epi32::<0xCA>(mask, a, b) }
}

/// What is multiplied for a window: some rows of the input with a stripe, over the groups of a super-block.
#[derive(Clone, Copy)]
struct Pair<'a> {
    input: *const Block,
    stripe: &'a Stripe,
}

/// Adds the products of a panel's stripes with all tiles of rows of the input, [tiles, groups], from a group on, and does something
/// before each of these pairs.
///
/// # Safety
/// The thread's tiles must be set up, the stripes filled, and the groups in the input.
#[inline(always)]
unsafe fn multiply<K: Weights>(
    w: Isa,
    input: &[Block],
    (groups, first): (usize, usize),
    stripes: &[Stripe],
    output: &mut [Floats],
    mut before: impl FnMut(usize),
) {
    let pair = |number: usize| {
        let tile = number / stripes.len();
        Pair {
            input: input[tile * groups + first..][..GROUPS].as_ptr(),
            stripe: &stripes[number % stripes.len()],
        }
    };
    let mut sums = Sums([[[MaybeUninit::uninit(); _]; _]; _]);
    let mut now = pair(0);
    // SAFETY: the caller's promise.
    unsafe {
        start(now, &mut sums);
        let last = output.len() - 1;
        for (number, acc) in output.iter_mut().enumerate() {
            before(number);
            if number < last {
                let next = pair(number + 1);
                add::<K, true>(w, now, next, &mut sums, acc);
                now = next;
            } else {
                add::<K, false>(w, now, now, &mut sums, acc);
            }
        }
    }
}

/// An instruction on tiles. The compiler has no use for them, so that they keep what they hold from one to the next; and since any may read
/// and write memory, as it is told, it moves none over a load or store.
macro_rules! tile {
    (zero $tile:literal) => {
        asm!(concat!("tilezero ", $tile), options(nostack, preserves_flags))
    };
    (load $tile:literal, $at:expr, $stride:expr) => {
        asm!(
            concat!("tileloadd ", $tile, ", [{at} + {stride}*1]"),
            at = in(reg) $at, stride = in(reg) $stride,
            options(nostack, preserves_flags)
        )
    };
    (store $tile:literal, $at:expr) => {
        asm!(
            concat!("tilestored [{at} + {stride}*1], ", $tile),
            at = in(reg) $at, stride = in(reg) LINE,
            options(nostack, preserves_flags)
        )
    };
    (signed $sums:literal, $a:literal, $b:literal) => {
        asm!(concat!("tdpbssd ", $sums, ", ", $a, ", ", $b), options(nostack, preserves_flags))
    };
    (unsigned $sums:literal, $a:literal, $b:literal) => {
        asm!(concat!("tdpbsud ", $sums, ", ", $a, ", ", $b), options(nostack, preserves_flags))
    };
}

/// One of the instructions that add up a group, on the sums of tiles `$upper` and `$lower`.
macro_rules! part {
    (0, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(zero $upper);
        tile!(zero $lower)
    };
    (1, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(load "tmm0", &raw const (*$pair.input.add($group)).q, GROUP)
    };
    (2, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(load "tmm1", $pair.stripe.plane($group, 0, 0), DEPTH)
    };
    (3, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(signed $upper, "tmm0", "tmm1")
    };
    (4, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(load "tmm2", $pair.stripe.plane($group, 0, 1), DEPTH)
    };
    (5, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(unsigned $lower, "tmm0", "tmm2")
    };
    (6, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(load "tmm7", (&raw const (*$pair.input.add($group)).q).cast::<i8>().add(DEPTH), GROUP)
    };
    (7, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(load "tmm1", $pair.stripe.plane($group, 1, 0), DEPTH)
    };
    (8, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(signed $upper, "tmm7", "tmm1")
    };
    (9, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(load "tmm2", $pair.stripe.plane($group, 1, 1), DEPTH)
    };
    (10, $pair:ident, $group:literal, $upper:literal, $lower:literal) => {
        tile!(unsigned $lower, "tmm7", "tmm2")
    };
}

/// Adds up the first group and stores it, and adds up the second.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn start(pair: Pair<'_>, sums: &mut Sums) {
    macro_rules! parts {
        ($group:literal, $upper:literal, $lower:literal: $($part:tt)*) => {
            $(part!($part, pair, $group, $upper, $lower);)*
        };
    }
    // SAFETY: the tiles are set up for these sizes; what is read was written, by the caller's promise.
    unsafe {
        parts!(0, "tmm3", "tmm4": 0 1 2 3 4 5 6 7 8 9 10);
        tile!(store "tmm3", sums.0[0][0].as_mut_ptr());
        tile!(store "tmm4", sums.0[0][1].as_mut_ptr());
        parts!(1, "tmm5", "tmm6": 0 1 2 3 4 5 6 7 8 9 10);
    }
}

/// Adds both groups of a super-block to `acc`, of which the first was stored and the second added up; does the same for `next` meanwhile if
/// there is `MORE`.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn add<K: Weights, const MORE: bool>(
    w: Isa,
    now: Pair<'_>,
    next: Pair<'_>,
    sums: &mut Sums,
    output: &mut Floats,
) {
    // SAFETY: the caller's promise: all that is read is there and was written.
    unsafe {
        let mut acc = [w.splat(0.0); ROWS];
        for (acc, row) in acc.iter_mut().zip(&output.0) {
            *acc = w.load_floats(row.as_ptr());
        }
        let (unit, minimum_unit) = (
            w.load_floats(now.stripe.unit.as_ptr().cast()),
            if K::MINIMUM { w.load_floats(now.stripe.minimum_unit.as_ptr().cast()) } else { w.splat(0.0) },
        );
        let mut minimum = [[w.splat32(0); GROUP / BLOCK / 2]; GROUPS];
        if K::MINIMUM {
            for (to, from) in minimum.as_flattened_mut().iter_mut().zip(now.stripe.minimum.as_flattened()) {
                *to = w.load(from.as_ptr().cast());
            }
        }
        macro_rules! row {
            ($group:literal, $t:literal) => {
                let block = &*now.input.add($group);
                let upper = w.load(sums.0[$group][0].as_ptr().add($t * ROWS).cast());
                let lower = w.load(sums.0[$group][1].as_ptr().add($t * ROWS).cast());
                let products = w.add32(w.shl32(upper, 8), lower);
                let mut minimums = w.splat32(0);
                if K::MINIMUM {
                    for (minimum, sums) in minimum[$group].iter().zip(&block.sums) {
                        minimums =
                            w.add_products(*minimum, w.repeat_dword(sums[$t].as_ptr().cast()), minimums);
                    }
                }
                let scale = w.splat(block.scale[$t]);
                acc[$t] = add_group::<K, Isa>(w, (products, minimums), (unit, minimum_unit), scale, acc[$t]);
            };
        }
        // Rows 2 to 12 have a part before them.
        macro_rules! group {
            ($group:literal, $upper:literal, $lower:literal: $($row:tt $part:tt)*) => {
                $(
                    if MORE {
                        part!($part, next, $group, $upper, $lower);
                    }
                    row!($group, $row);
                )*
            };
        }
        tile!(store "tmm5", sums.0[1][0].as_mut_ptr());
        row!(0, 0);
        tile!(store "tmm6", sums.0[1][1].as_mut_ptr());
        row!(0, 1);
        group!(0, "tmm3", "tmm4": 2 0 3 1 4 2 5 3 6 4 7 5 8 6 9 7 10 8 11 9 12 10);
        row!(0, 13);
        row!(0, 14);
        row!(0, 15);
        if MORE {
            tile!(store "tmm3", sums.0[0][0].as_mut_ptr());
        }
        row!(1, 0);
        if MORE {
            tile!(store "tmm4", sums.0[0][1].as_mut_ptr());
        }
        row!(1, 1);
        group!(1, "tmm5", "tmm6": 2 0 3 1 4 2 5 3 6 4 7 5 8 6 9 7 10 8 11 9 12 10);
        row!(1, 13);
        row!(1, 14);
        row!(1, 15);
        for (acc, row) in acc.into_iter().zip(&mut output.0) {
            w.store_floats(acc, row.as_mut_ptr());
        }
    }
}
