//! Begins every answer with a given text.
#![forbid(unsafe_code)]

use membrane_plugin::sampler::{Choice, Sampler, Token, vocabulary};
use serde::Deserialize;

/// What the profile sets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    text: String,
}

/// The sampler, with what is left to say.
pub struct Plugin {
    left: std::vec::IntoIter<Token>,
}

impl Sampler for Plugin {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        let tokens = vocabulary::encode(&parameters.text)?;
        Ok(Self { left: tokens.into_iter() })
    }

    fn sample(&mut self) -> Result<Choice, String> {
        Ok(self.left.next().map_or(Choice::Pass, Choice::Token))
    }
}

membrane_plugin::export_sampler!(Plugin);
