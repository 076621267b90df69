//! A judge by a record: it says what the model said then, and notes what it was not asked then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use membrane_audit::{self as audit, Digest, JudgementText, Script};
use membrane_host::{Judge, JudgeError, Judged, Question, SharedJudge};
use serde_json::{Value, json};

use crate::answer::from_host;

type Key = (String, Vec<String>);
type Outcome = Result<Judged, JudgeError>;

/// What a record has of judgements, for one chain of policies. Scores depend on the question and the model alone, so that
/// policies other than the recorded ones get those of questions that were asked then, whoever asked.
pub(crate) struct Recorded {
    judgements: BTreeMap<Key, VecDeque<Outcome>>,
    missing: Missing,
}

/// What the record does not say. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Missing(Arc<Mutex<Option<String>>>);

impl Missing {
    /// Why it can't be told what the policies do, if it can't.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Recorded {
    /// The judge of an answer, and what it will have missed.
    pub fn of(script: &Script) -> (SharedJudge, Missing) {
        let mut judgements: BTreeMap<Key, VecDeque<Outcome>> = BTreeMap::new();
        for judged in &script.judgements {
            if let Some(text) = &judged.text {
                let key = (text.question.to_string(), text.continuations.clone());
                judgements.entry(key).or_default().push_back(outcome(judged, text));
            }
        }
        let missing = Missing::default();
        (SharedJudge::new(Self { judgements, missing: missing.clone() }), missing)
    }
}

/// What came of a recorded judgement.
fn outcome(judged: &audit::Judged, text: &JudgementText) -> Outcome {
    let tokens = judged.tokens;
    match (&judged.scores, &text.error) {
        (Some(scores), _) => Ok(Judged { scores: scores.iter().map(|score| score.0).collect(), tokens }),
        (None, Some(why)) if text.failed => Err(JudgeError::Unavailable(why.clone())),
        (None, Some(why)) => Err(JudgeError::Invalid(why.clone())),
        (None, None) => Err(JudgeError::Tokens { tokens }),
    }
}

/// What the log has in the place of a refused question and its continuations: an object with the `digest` of both.
pub(super) fn digested(question: &Question, continuations: &[String]) -> Value {
    let whole = json!([written(question), continuations]).to_string();
    json!({ "digest": Digest::of(whole.as_bytes()) })
}

/// A question as the log has it.
pub(super) fn written(question: &Question) -> Value {
    match question {
        Question::Text(text) => Value::String(text.clone()),
        Question::Chat(messages) => messages
            .iter()
            .cloned()
            .map(from_host)
            .map(|message| json!({"role": message.role, "content": message.content}))
            .collect(),
    }
}

impl Judge for Recorded {
    fn score(&mut self, policy: &str, question: &Question, continuations: &[String], left: u64) -> Outcome {
        let key = (written(question).to_string(), continuations.to_vec());
        let refused = || (digested(question, continuations).to_string(), Vec::new());
        let known = if self.judgements.contains_key(&key) { key } else { refused() };
        let known = self.judgements.get_mut(&known);
        // The last stays: the same question has the same answer.
        let found =
            known.and_then(|known| if known.len() > 1 { known.pop_front() } else { known.front().cloned() });
        match found {
            Some(Ok(judged)) if judged.tokens > left => Err(JudgeError::Tokens { tokens: judged.tokens }),
            Some(Err(JudgeError::Tokens { tokens })) if tokens <= left => Err(self.missed(policy)),
            Some(outcome) => outcome,
            None => Err(self.missed(policy)),
        }
    }
}

impl Recorded {
    fn missed(&self, policy: &str) -> JudgeError {
        let why = format!("policy `{policy}` asks the model to judge what the record has no judgement of");
        let mut missing = self.missing.0.lock().unwrap_or_else(PoisonError::into_inner);
        JudgeError::Unavailable(missing.get_or_insert(why).clone())
    }
}
