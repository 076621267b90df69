//! A sampler that writes given texts, one in each round of an answer, whatever the model would say.
//!
//! A round ends where a tool was called: the next begins behind its result, with a longer prompt. That makes any
//! model exercise tools and policies in a known way, for tests and demonstrations.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use membrane_plugin::sampler::{Choice, Sampler, Token, history, vocabulary};
use serde::Deserialize;

/// What to write.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The text of each round.
    texts: Vec<String>,
}

/// The sampler.
pub struct Scripted {
    texts: VecDeque<String>,
    /// Tokens of the round's text that are still to be written.
    tokens: VecDeque<Token>,
    /// Prompt length of the round, in tokens.
    prompt: Option<u32>,
}

impl Sampler for Scripted {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        Ok(Self { texts: parameters.texts.into(), tokens: VecDeque::new(), prompt: None })
    }

    fn sample(&mut self) -> Result<Choice, String> {
        let prompt = history::prompt_length();
        if self.prompt != Some(prompt) {
            self.prompt = Some(prompt);
            let text = self.texts.pop_front().ok_or("the script has no text for another round")?;
            self.tokens = vocabulary::encode(&text)?.into();
        }
        let end = || vocabulary::end_token().ok_or("the model has no token that ends an answer");
        self.tokens.pop_front().map_or_else(end, Ok).map(Choice::Token).map_err(Into::into)
    }
}

membrane_plugin::export_sampler!(Scripted);
