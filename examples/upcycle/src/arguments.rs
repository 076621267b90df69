//! The command line.

use crate::quantisation::Quantisation;
use clap::Parser;
use membrane_profile::ByteSize;
use std::path::PathBuf;
use std::str::FromStr;

/// Turns a dense llama GGUF into a mixture of experts by sparse upcycling.
///
/// Equal arguments give an equal file.
#[derive(Debug, Parser)]
#[command(name = "upcycle", version)]
pub struct Arguments {
    /// The dense model: a GGUF of the architecture `llama`.
    #[arg(long)]
    pub src: PathBuf,
    /// The file to write.
    #[arg(long)]
    pub out: PathBuf,
    /// Experts in each layer.
    #[arg(long, default_value_t = 4, conflicts_with = "size")]
    pub experts: u32,
    /// As many experts as come nearest to this file size, such as 2GB.
    #[arg(long)]
    pub size: Option<ByteSize>,
    /// Experts that a token uses.
    #[arg(long, default_value_t = 2)]
    pub top_k: u32,
    /// Quantisation of the experts.
    #[arg(long = "type", default_value = "Q4_K")]
    pub expert_type: Quantisation,
    /// Quantisation of attention and embeddings.
    #[arg(long, default_value = "Q8_0")]
    pub dense_type: Quantisation,
    /// What makes experts differ: gauss:S, bits:P or none.
    ///
    /// gauss:S adds noise of S times the weights' root mean square; bits:P flips the low bit of each
    /// quantised value with probability P, to the next power of 1/2, which is quick for files of many GB.
    #[arg(long, default_value = "gauss:0.02")]
    pub perturb: Perturbation,
    /// Standard deviation of a token's router logits over the experts.
    #[arg(long, default_value_t = 1.5)]
    pub router_std: f32,
    /// Tokens whose hidden states the routers are made from.
    #[arg(long, default_value_t = 2048)]
    pub tokens: usize,
    /// Text to take these tokens from; without it the model writes its own.
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave a finished file of the same arguments and source as it is.
    #[arg(long)]
    pub keep: bool,
}

/// How experts are made to differ from the dense feed-forward and from each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Perturbation {
    /// All experts are equal.
    None,
    /// Noise of this standard deviation, as a multiple of the root mean square of the weights.
    Gauss(f32),
    /// Each low bit is flipped with a probability of 2 to the minus this; the first expert is left as it is.
    Bits(u32),
}

impl FromStr for Perturbation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, amount) = text.split_once(':').unwrap_or((text, ""));
        let number = || amount.parse::<f32>().map_err(|_| format!("`{amount}` is no number"));
        match kind {
            "none" if amount.is_empty() => Ok(Self::None),
            "gauss" => match number()? {
                scale if (0.0..=1.0).contains(&scale) => Ok(Self::Gauss(scale)),
                _ => Err("gauss:S takes S from 0 to 1".to_owned()),
            },
            "bits" => match number()? {
                chance if (1e-6..=0.5).contains(&chance) => Ok(Self::Bits((-chance.log2()).round() as u32)),
                _ => Err("bits:P takes P from 0.000001 to 0.5".to_owned()),
            },
            _ => Err(format!("`{text}` is neither gauss:S nor bits:P nor none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_perturbations() {
        assert_eq!("gauss:0.02".parse(), Ok(Perturbation::Gauss(0.02)));
        assert_eq!("bits:0.25".parse(), Ok(Perturbation::Bits(2)));
        assert_eq!("none".parse(), Ok(Perturbation::None));
        for wrong in ["gauss", "gauss:2", "bits:0", "none:1", "rotate:1", "gauss:nan"] {
            assert!(wrong.parse::<Perturbation>().is_err(), "{wrong}");
        }
    }
}
