//! Cases of samplers.

use std::sync::Arc;

use membrane_host::{AnswerContext, SamplerChain, Vocabulary};
use serde::Deserialize;

use crate::case::Case;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    vocabulary: Vec<String>,
    prompt: Vec<u32>,
    seed: u64,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    logits: Vec<f32>,
    token: Option<u32>,
    one_of: Option<Vec<u32>>,
}

/// The vocabulary of a case. A text is the longest of its tokens that fits, and then the next.
pub struct Words(pub Vec<String>);

impl Vocabulary for Words {
    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.0.get(token as usize).map(|word| word.as_bytes())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let fits = self.0.iter().enumerate().filter(|(_, word)| rest.starts_with(word.as_str()));
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

/// Starts the sampler and asks it for one token after the other.
pub fn run(case: &Case) {
    let (host, plugin) = case.load();
    if case.head.refused.is_some() {
        let context = AnswerContext { vocabulary: Arc::new(Words(vec!["a".to_owned()])), seed: 0 };
        case.is_refused(&SamplerChain::start(&host, &[plugin], context));
        return;
    }
    let body: Body = case.body();
    let context = AnswerContext { vocabulary: Arc::new(Words(body.vocabulary)), seed: body.seed };
    let started = SamplerChain::start(&host, &[plugin], context);
    case.is_refused(&started);
    let Ok(mut chain) = started else { return };
    let mut history = body.prompt;
    let prompt = history.len();
    for (index, mut step) in body.steps.into_iter().enumerate() {
        let title = format!("{} step {}", case.title(), index + 1);
        let chosen =
            chain.next(&mut step.logits, &history, prompt).unwrap_or_else(|e| panic!("{title}: {e}"));
        let allowed = step.one_of.unwrap_or_default();
        let expected = step.token.iter().chain(&allowed).any(|token| *token == chosen.token);
        assert!(expected, "{title}: chose {}", chosen.token);
        history.push(chosen.token);
    }
}
