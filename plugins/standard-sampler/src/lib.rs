//! The standard sampler: llama.cpp's chain of stages in its order and with its defaults. The host does the
//! arithmetic; this plugin decides which stages run, in which order, with which values, and draws.
#![forbid(unsafe_code)]

mod chain;
mod parameters;

use membrane_plugin::sampler::{Choice, Sampler, logits, vocabulary};

pub use parameters::{LogitBias, Parameters, Stage};

/// The sampler.
pub struct Standard {
    /// The stages that are on, in their order.
    operations: Vec<logits::Operation>,
    /// Whether it draws a token or leaves that to the next sampler.
    choose: bool,
}

impl Sampler for Standard {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        parameters.check()?;
        let biases = chain::biases(&parameters.logit_bias, vocabulary::encode)?;
        Ok(Self { operations: chain::operations(&parameters, biases), choose: parameters.choose })
    }

    fn sample(&mut self) -> Result<Choice, String> {
        if !self.operations.is_empty() {
            logits::apply(&self.operations)?;
        }
        if !self.choose {
            return Ok(Choice::Pass);
        }
        Ok(Choice::Token(logits::draw()?.token))
    }
}

membrane_plugin::export_sampler!(Standard);
