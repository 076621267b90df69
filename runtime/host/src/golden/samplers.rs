//! Cases of samplers.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::read::typed;
use super::report::{Mismatch, Place};
use super::started;
use crate::engine::Host;
use crate::error::Result;
use crate::plugin::Plugin;
use crate::sampler::{AnswerContext, SamplerChain};
use crate::vocabulary::Vocabulary;

/// Steps of one answer, with what must be chosen in each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Texts of the tokens.
    vocabulary: Vec<String>,
    /// Tokens that the answer begins behind.
    prompt: Vec<u32>,
    seed: u64,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// One for each token of the vocabulary.
    logits: Vec<f32>,
    token: Option<u32>,
    #[serde(default)]
    one_of: Vec<u32>,
}

/// The vocabulary of a case. A text is the longest of its tokens that fits, and then the next.
struct Words(Vec<String>);

impl Vocabulary for Words {
    fn size(&self) -> u32 {
        // Files of cases are far smaller than 2^32 bytes.
        self.0.len() as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.0.get(token as usize).map(|word| word.as_bytes())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let fits = self.0.iter().enumerate();
            let fits = fits.filter(|(_, word)| !word.is_empty() && rest.starts_with(word.as_str()));
            let longest = fits.max_by_key(|(_, word)| word.len());
            let (token, word) = longest.ok_or_else(|| format!("no token begins {rest:?}"))?;
            tokens.push(token as u32);
            rest = &rest[word.len()..];
        }
        Ok(tokens)
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }

    fn end_token(&self) -> Option<u32> {
        None
    }
}

/// Starts samplers over a vocabulary of one token, for cases that must not get further.
pub fn start_bare(host: &Host, plugins: &[Plugin]) -> Result<()> {
    let context = AnswerContext { vocabulary: Arc::new(Words(vec!["a".to_owned()])), seed: 0 };
    SamplerChain::start(host, plugins, context).map(drop)
}

impl Case {
    /// Reads what is left of a case. The error names the field.
    pub fn read(body: Map<String, Value>) -> Result<Self, String> {
        let case: Self = typed("case", Value::Object(body))?;
        let tokens = case.vocabulary.len();
        for (index, step) in case.steps.iter().enumerate() {
            let number = index + 1;
            if step.logits.len() != tokens {
                let logits = step.logits.len();
                return Err(format!("step {number}: {logits} logits for a vocabulary of {tokens} tokens"));
            }
            if step.token.is_none() && step.one_of.is_empty() {
                return Err(format!("step {number}: neither `token` nor `one_of` says what must be chosen"));
            }
        }
        Ok(case)
    }

    /// Starts the sampler and asks it for one token after the other. What is chosen joins the history.
    pub fn run(&self, host: &Host, plugin: &Plugin) -> Result<(), Mismatch> {
        let context = AnswerContext { vocabulary: Arc::new(Words(self.vocabulary.clone())), seed: self.seed };
        let mut chain = started(SamplerChain::start(host, std::slice::from_ref(plugin), context))?;
        let mut history = self.prompt.clone();
        for (index, step) in self.steps.iter().enumerate() {
            let place = Place::Step(index + 1);
            let chosen = chain.next(&mut step.logits.clone(), &history, self.prompt.len());
            let chosen = chosen.map_err(|error| Mismatch::Failed { place, error: Box::new(error) })?.token;
            let allowed: Vec<u32> = step.token.iter().chain(&step.one_of).copied().collect();
            if !allowed.contains(&chosen) {
                let texts: Vec<String> = allowed.iter().map(u32::to_string).collect();
                return Err(Mismatch::differs(place, "the token", chosen, texts.join(" or ")));
            }
            history.push(chosen);
        }
        Ok(())
    }
}
