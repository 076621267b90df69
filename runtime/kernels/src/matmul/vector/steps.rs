//! How the sums of products of sub-blocks become those of rows: the canonical steps, for all rows of a kernel at once.

use std::marker::PhantomData;
use std::ops::Range;

use super::super::Job;
use super::super::activations::{BLOCK, BlockInfo, GROUP, Integer};
use super::super::packed::{Grouped, IntegerScales, MAX_SUBS, Packed, Scales, Weights};
use super::super::wide::{Wide, accumulate};
use super::panel::Panel;

/// A way to add up the products of a format: [`BySubBlocks`] or [`ByGroups`].
pub(super) trait Arithmetic<P: Packed> {
    /// The output of some weight rows.
    fn product<W: Wide>(w: W, job: &Job<'_>, rows: Range<usize>, has_amx: bool);
}

/// In floats, a sub-block after the other, with integers `Q` of activations.
pub(super) struct BySubBlocks<Q: Integer>(PhantomData<Q>);

/// In integers for the sub-blocks of a group, in floats then: [`Precision::Int8Groups`](crate::Precision::Int8Groups).
pub(super) struct ByGroups;

/// What an arithmetic keeps of a block's scales and of a row's sum.
pub(super) trait Steps<P: Packed, W: Wide> {
    /// Scales of the sub-blocks of a block of each row.
    type Figures;
    /// The sum of a row of activations.
    type Sum: Copy;
    /// Whether sub-blocks are added up in groups.
    const GROUPS: bool;

    /// Scales of nothing yet.
    fn figures(w: W) -> Self::Figures;

    /// Reads a block's.
    ///
    /// # Safety
    /// As for [`Packed::scales`].
    unsafe fn read(w: W, at: *const u8, stride: usize, to: &mut Self::Figures);

    /// Puts them into a panel, from sub-block `sub` of a stripe on.
    ///
    /// # Safety
    /// There must be room for a block.
    unsafe fn keep(w: W, figures: &Self::Figures, place: (usize, usize), panel: &mut Panel);

    /// The sum of nothing.
    fn zero(w: W) -> Self::Sum;

    /// Adds the products of sub-block `sub` of a block; `info` is the activation block's that has it. All sub-blocks are added in
    /// order.
    fn add(
        w: W,
        sub: usize,
        products: W::V,
        of: &Self::Figures,
        info: &BlockInfo,
        sum: Self::Sum,
    ) -> Self::Sum;

    /// The sum of whole blocks.
    fn result(sum: Self::Sum) -> W::F;
}

impl<P: Packed, W: Wide, Q: Integer> Steps<P, W> for BySubBlocks<Q> {
    type Figures = Scales<W>;
    type Sum = W::F;
    const GROUPS: bool = false;

    #[inline(always)]
    fn figures(w: W) -> Scales<W> {
        let zero = w.splat(0.0);
        Scales { scale: [zero; MAX_SUBS], minimum: [zero; MAX_SUBS] }
    }

    #[inline(always)]
    unsafe fn read(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { P::scales(w, at, stride, to) }
    }

    #[inline(always)]
    unsafe fn keep(w: W, figures: &Scales<W>, (sub, stripe): (usize, usize), panel: &mut Panel) {
        for s in 0..P::SUBS {
            // SAFETY: the caller's promise.
            unsafe {
                w.store_floats(figures.scale[s], Panel::place::<W>(&mut panel.scale, sub + s, stripe));
                if P::Weights::MINIMUM {
                    w.store_floats(
                        figures.minimum[s],
                        Panel::place::<W>(&mut panel.minimum, sub + s, stripe),
                    );
                }
            }
        }
    }

    #[inline(always)]
    fn zero(w: W) -> W::F {
        w.splat(0.0)
    }

    #[inline(always)]
    fn add(w: W, sub: usize, products: W::V, of: &Scales<W>, info: &BlockInfo, sum: W::F) -> W::F {
        accumulate::<P::Weights, W>(w, sub, products, (of.scale[sub], of.minimum[sub]), info, sum)
    }

    #[inline(always)]
    fn result(sum: W::F) -> W::F {
        sum
    }
}

/// The sum of a row with what the group has so far.
#[derive(Clone, Copy)]
pub(super) struct GroupSum<W: Wide> {
    sum: W::F,
    /// Of scales times products.
    products: W::V,
    /// Of minimums times activations.
    minimums: W::V,
}

impl<P: Grouped, W: Wide> Steps<P, W> for ByGroups {
    type Figures = IntegerScales<W>;
    type Sum = GroupSum<W>;
    const GROUPS: bool = true;

    #[inline(always)]
    fn figures(w: W) -> IntegerScales<W> {
        let (none, zero) = ([w.splat32(0); MAX_SUBS], w.splat(0.0));
        IntegerScales { unit: zero, minimum_unit: zero, scale: none, minimum: none }
    }

    #[inline(always)]
    unsafe fn read(w: W, at: *const u8, stride: usize, to: &mut IntegerScales<W>) {
        // SAFETY: the caller's promise.
        unsafe { P::integer_scales(w, at, stride, to) }
        if P::Weights::MINIMUM {
            for minimum in &mut to.minimum[..P::SUBS] {
                *minimum = w.or(*minimum, w.shl32(*minimum, 16));
            }
        }
    }

    #[inline(always)]
    unsafe fn keep(w: W, figures: &IntegerScales<W>, (sub, stripe): (usize, usize), panel: &mut Panel) {
        // SAFETY: the caller's promise.
        unsafe {
            for s in 0..P::SUBS {
                w.store(figures.scale[s], Panel::place::<W>(&mut panel.scale, sub + s, stripe).cast());
                if P::Weights::MINIMUM {
                    w.store(
                        figures.minimum[s],
                        Panel::place::<W>(&mut panel.minimum, sub + s, stripe).cast(),
                    );
                }
            }
            let block = sub / P::SUBS;
            w.store_floats(figures.unit, Panel::place::<W>(&mut panel.unit, block, stripe));
            if P::Weights::MINIMUM {
                w.store_floats(
                    figures.minimum_unit,
                    Panel::place::<W>(&mut panel.minimum_unit, block, stripe),
                );
            }
        }
    }

    #[inline(always)]
    fn zero(w: W) -> GroupSum<W> {
        GroupSum { sum: w.splat(0.0), products: w.splat32(0), minimums: w.splat32(0) }
    }

    #[inline(always)]
    fn add(
        w: W,
        sub: usize,
        products: W::V,
        of: &IntegerScales<W>,
        info: &BlockInfo,
        mut sum: GroupSum<W>,
    ) -> GroupSum<W> {
        sum.products = w.add32(sum.products, w.mul32(products, of.scale[sub]));
        sum.minimums = add_minimum::<P::Weights, W>(w, of.minimum[sub], info, sum.minimums);
        if !((sub + 1) * P::SUB).is_multiple_of(GROUP) {
            return sum;
        }
        let of_group = add_group::<P::Weights, W>(
            w,
            (sum.products, sum.minimums),
            (of.unit, of.minimum_unit),
            w.splat(info.scale),
            sum.sum,
        );
        GroupSum { sum: of_group, products: w.splat32(0), minimums: w.splat32(0) }
    }

    #[inline(always)]
    fn result(sum: GroupSum<W>) -> W::F {
        sum.sum
    }
}

/// Adds the minimum of a sub-block, twice in each dword, times the sum of its activations.
#[inline(always)]
pub(super) fn add_minimum<K: Weights, W: Wide>(w: W, minimum: W::V, info: &BlockInfo, sum: W::V) -> W::V {
    debug_assert!(!K::MINIMUM || K::SUB == BLOCK, "minimums meet the sums of whole blocks");
    if !K::MINIMUM {
        return sum;
    }
    // SAFETY: a dword.
    w.add_products(minimum, unsafe { w.repeat_dword(info.half_sum_words.as_ptr().cast()) }, sum)
}

/// The last steps for a group, in canonical order.
#[inline(always)]
pub(super) fn add_group<K: Weights, W: Wide>(
    w: W,
    (products, minimums): (W::V, W::V),
    (unit, minimum_unit): (W::F, W::F),
    scale: W::F,
    acc: W::F,
) -> W::F {
    let mut t = w.mul(unit, w.floats(products));
    if K::MINIMUM {
        t = w.fma(w.floats(minimums), minimum_unit, t);
    }
    w.fma(t, scale, acc)
}
