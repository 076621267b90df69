//! How exactly a model computes.

use membrane_formats::Container;
use membrane_kernels::{self as kernels, Format, Isa};

use crate::hyper::{FeedForward, Hyperparameters};

/// Experts of a token from which on a mixture's activations are of 8 bits.
///
/// Rounding turns a router's choice now and then, between experts that are nearly level. The turned one is the least weighted of a
/// token's: little of what a layer adds if there are 8, and as much as a quarter if there are 4.
const INT8_MIN_EXPERTS: usize = 8;

/// How activations enter products with quantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// As integers: [`Precision::Int8`] for GGUF files, whose formats are made for it, of dense models and of mixtures in which
    /// a token has 8 experts or more; [`Precision::Int8Groups`] for such files where the CPU has AMX and all quantised weights are
    /// of formats that gain by it; [`Precision::Int16`] for mixtures of fewer experts, and for folders, whose formats quantise weights
    /// alone (W4A16).
    #[default]
    Fast,
    /// As 8-bit integers in blocks of 32.
    Int8,
    /// As 8-bit integers in groups of 128: prompts are faster with AMX, and more is rounded, less than llama.cpp does for the
    /// [same formats](Format::is_grouped).
    Int8Groups,
    /// As 16-bit integers in blocks of 32: twice the multiplications where many tokens come at once.
    Int16,
    /// As f32, with the weights made f32 and single precision throughout: slow, for comparisons.
    Reference,
}

impl Precision {
    /// The name in flags, records and measurements: `int8`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "auto",
            Self::Int8 => "int8",
            Self::Int8Groups => "int8-groups",
            Self::Int16 => "int16",
            Self::Reference => "f32",
        }
    }

    /// What a model of this shape, with weights of such formats, computes with: never `Fast`.
    pub(crate) fn resolved(
        self,
        container: Container,
        hyper: &Hyperparameters,
        formats: impl Iterator<Item = Format>,
    ) -> Self {
        // Not of a head that drafts: whether it is loaded changes nothing.
        let turns = || {
            hyper.layers.iter().any(|layer| match &layer.feed_forward {
                FeedForward::Moe(moe) => moe.top_k < INT8_MIN_EXPERTS,
                FeedForward::Dense { .. } => false,
            })
        };
        match self {
            Self::Fast if container == Container::Folder || turns() => Self::Int16,
            // Not by the instruction set that is chosen, which changes speed and never the result.
            Self::Fast if Isa::Amx.is_available() && all_are_grouped(formats) => Self::Int8Groups,
            Self::Fast => Self::Int8,
            chosen => chosen,
        }
    }

    /// What products are told. `Fast` is what it is without experts.
    pub(crate) const fn of_products(self) -> kernels::Precision {
        match self {
            Self::Fast | Self::Int8 => kernels::Precision::Int8,
            Self::Int8Groups => kernels::Precision::Int8Groups,
            Self::Int16 => kernels::Precision::Int16,
            Self::Reference => kernels::Precision::Reference,
        }
    }
}

/// Whether all formats are floats or add up in groups, and any does.
fn all_are_grouped(formats: impl Iterator<Item = Format>) -> bool {
    let mut quantised = formats.filter(|format| !format.is_float()).peekable();
    quantised.peek().is_some() && quantised.all(Format::is_grouped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_for_models_of_nothing_else() {
        let all = |formats: &[Format]| all_are_grouped(formats.iter().copied());
        assert!(all(&[Format::F32, Format::Q4K, Format::Q6K]));
        assert!(!all(&[Format::Q4K, Format::Q8_0]) && !all(&[Format::F16, Format::F32]) && !all(&[]));
    }
}
