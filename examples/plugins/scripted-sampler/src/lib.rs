//! A sampler that writes given texts or tokens, one list in each round of an answer, whatever the model would say.
//!
//! A round ends where a tool was called: the next begins behind its result, with a longer prompt. That makes any
//! model exercise tools and policies in a known way, for tests and demonstrations. What is still to be written is its
//! state: a new version goes on at the very token.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use membrane_plugin::sampler::logits::{self, MaskKind};
use membrane_plugin::sampler::{Choice, Sampler, Token, history, vocabulary};
use membrane_plugin::state::State;
use serde::{Deserialize, Serialize};

/// What to write.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// What to write in each round.
    texts: Vec<Text>,
    /// How it goes wrong, if it is to.
    #[serde(default)]
    fault: Option<Fault>,
}

/// What to write in a round.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    /// A text, in the tokens that the model's tokenizer cuts it into.
    Words(String),
    /// These very tokens.
    Tokens(VecDeque<Token>),
}

/// Ways to go wrong, for tests of what a host makes of them.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It does not start.
    Configure,
    /// It can't go on from the state of another version.
    Restore,
    /// It traps where it is to choose a token, after it has changed the logits and drawn from the random source.
    Sample,
    /// It traps where it is to choose its fifth token.
    FifthToken,
}

/// Form of the state; a change of its fields is a new number.
const STATE_VERSION: u32 = 2;

/// The sampler. Without what comes from the parameters it is the state.
#[derive(Serialize, Deserialize)]
pub struct Scripted {
    version: u32,
    #[serde(skip)]
    fault: Option<Fault>,
    /// Tokens that this instance has chosen.
    #[serde(skip)]
    chosen: u32,
    texts: VecDeque<Text>,
    /// Tokens of the round's text that are still to be written.
    tokens: VecDeque<Token>,
    /// Prompt length of the round, in tokens.
    prompt: Option<u32>,
}

impl Sampler for Scripted {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        let Parameters { texts, fault } = parameters;
        if fault == Some(Fault::Configure) {
            return Err("as the script says".into());
        }
        let (version, tokens) = (STATE_VERSION, VecDeque::new());
        Ok(Self { version, fault, chosen: 0, texts: texts.into(), tokens, prompt: None })
    }

    fn sample(&mut self) -> Result<Choice, String> {
        if self.fault == Some(Fault::Sample) {
            logits::draw()?;
            logits::mask(MaskKind::Allow, &[0])?;
            std::process::abort();
        }
        if self.fault == Some(Fault::FifthToken) && self.chosen == 4 {
            std::process::abort();
        }
        self.chosen += 1;
        let prompt = history::prompt_length();
        if self.prompt != Some(prompt) {
            self.prompt = Some(prompt);
            let text = self.texts.pop_front().ok_or("the script has no text for another round")?;
            self.tokens = match text {
                Text::Words(words) => vocabulary::encode(&words)?.into(),
                Text::Tokens(tokens) => tokens,
            };
        }
        let end = || vocabulary::end_token().ok_or("the model has no token that ends an answer");
        self.tokens.pop_front().map_or_else(end, Ok).map(Choice::Token).map_err(Into::into)
    }
}

impl State for Scripted {
    fn snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.fault == Some(Fault::Restore) {
            return Err("as the script says".into());
        }
        let state: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if state.version != STATE_VERSION {
            return Err(format!("the state has version {}, expected {STATE_VERSION}", state.version));
        }
        *self = Self { fault: self.fault, ..state };
        Ok(())
    }
}

membrane_plugin::export_sampler!(Scripted, state);
