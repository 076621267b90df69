//! The played model that judges for policies: how likely it finds texts stands in the case.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::conversation::Role;
use crate::judge::{Judge, JudgeError, Judged, Question};

/// What the model thinks of some questions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opinion {
    /// Parts that the question must have, all of them.
    #[serde(default)]
    has: Vec<String>,
    /// The logarithm of the probability of each continuation.
    scores: BTreeMap<String, f64>,
}

/// A judge by the opinions of a case, of which the first that fits counts. Every byte is a token.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Played(Vec<Opinion>);

impl Judge for Played {
    fn score(
        &mut self,
        _policy: &str,
        question: &Question,
        continuations: &[String],
        left: u64,
    ) -> Result<Judged, JudgeError> {
        let text = shown(question);
        let tokens = (text.len() + continuations.iter().map(String::len).sum::<usize>()) as u64;
        if tokens > left {
            return Err(JudgeError::Tokens { tokens });
        }
        let missing =
            |what: String| JudgeError::Unavailable(format!("the golden case's `judge` has no {what}"));
        let fits = |opinion: &&Opinion| opinion.has.iter().all(|part| text.contains(part.as_str()));
        let opinion = self.0.iter().find(fits);
        let opinion = opinion.ok_or_else(|| missing(format!("entry for the question {text:?}")))?;
        let score = |continuation: &String| {
            let score = opinion.scores.get(continuation).copied();
            score.ok_or_else(|| missing(format!("score of {continuation:?} for the question {text:?}")))
        };
        Ok(Judged { scores: continuations.iter().map(score).collect::<Result<_, _>>()?, tokens })
    }
}

/// The question as cases name parts of it: a line for each turn of a conversation.
fn shown(question: &Question) -> String {
    let messages = match question {
        Question::Text(text) => return text.clone(),
        Question::Chat(messages) => messages,
    };
    let mut text = String::new();
    for message in messages {
        let role = match message.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        text += &format!("{role}: {}\n", message.content);
    }
    text
}
