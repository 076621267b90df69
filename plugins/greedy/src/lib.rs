//! A sampler that takes the likeliest token, ties by lower token.
#![forbid(unsafe_code)]

use membrane_plugin::sampler::{Choice, Sampler, logits};
use serde::Deserialize;

use logits::Operation;

/// None; greedy has nothing to set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {}

/// The sampler.
pub struct Greedy;

impl Sampler for Greedy {
    type Parameters = Parameters;

    fn new(_: Parameters) -> Result<Self, String> {
        Ok(Self)
    }

    fn sample(&mut self) -> Result<Choice, String> {
        // With nothing else in the running, no probability over the whole vocabulary has to be computed.
        logits::apply(&[Operation::TopK(1)])?;
        Ok(Choice::Token(logits::greedy()?.token))
    }
}

membrane_plugin::export_sampler!(Greedy);
