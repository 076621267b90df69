//! The model as the judge of policies: continuations scored behind questions, in a session of their own.
//!
//! The session is beside those that answers are made in, in room that the memory plan has for it, so that nothing of a
//! judgement touches an answer. It is kept over questions and answers: what a question has in common with the one before
//! is not computed again.

mod recorded;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use membrane_audit::JudgedIds;
use membrane_engine::{EngineError, Model, Session};
use membrane_host::{
    Grant, Intervention, Judge, JudgeError, Judged, POLICY_FAILED, Plugin, Question, Refused, SharedJudge,
};
use membrane_text::{Channels, ChatMessage, ChatTemplate, end_reasoning, in_reasoning};
use serde_json::{Map, Value};

use crate::answer::{from_host, render};
use crate::event::EndReason;
use crate::scoring;

pub(crate) use recorded::{Missing, Recorded};
use recorded::{digested, written};

/// Whether a policy may ask the model.
pub fn asks_the_model(policies: &[Plugin]) -> bool {
    policies.iter().any(|policy| policy.grants().contains(&Grant::Judge))
}

/// The time that chat templates are told, in seconds since 1970: always the same day, 2025-01-01, since judgements depend on the
/// question and the model alone.
const DAY: i64 = 1_735_689_600;

/// A model that judges. Clones share its session.
#[derive(Clone)]
pub(crate) struct Bench(Arc<Shared>);

struct Shared {
    model: Model,
    template: Option<ChatTemplate>,
    /// Made with the first question.
    session: Mutex<Option<Session>>,
}

/// Something that was judged, for the record.
pub(crate) struct Judgement {
    pub policy: String,
    /// As the log has it. Of what was refused only a digest: a policy may ask for thousands of such questions in one hook.
    pub question: Value,
    pub continuations: Vec<String>,
    pub ids: JudgedIds,
    pub outcome: Result<Judged, JudgeError>,
}

/// Whether the judgements of an answer are to be cancelled, and whether one was. Clones are the same.
#[derive(Clone)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    met: Arc<AtomicBool>,
}

impl Interrupt {
    /// By the flag that cancels the answer.
    pub fn by(asked: &Arc<AtomicBool>) -> Self {
        Self { asked: asked.clone(), met: Arc::default() }
    }

    /// Whether a judgement was cancelled. The call of its policy failed for that, which says nothing of the policy.
    pub fn met(&self) -> bool {
        self.met.load(Ordering::Relaxed)
    }

    /// How an answer ends that was refused, and what the person is told.
    pub fn end(&self, refused: &Refused) -> (EndReason, Option<String>) {
        match self.met() {
            true => (EndReason::Cancelled, None),
            false => (EndReason::Refused, Some(refused.message.clone())),
        }
    }

    /// The verdicts with a refusal. What the host makes of a call that ended for a cancelled judgement is none.
    pub fn verdicts(&self, refused: &Refused) -> Vec<Intervention> {
        let made = refused.interventions.iter();
        made.filter(|made| !self.met() || made.clause != POLICY_FAILED).cloned().collect()
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn meet(&self) {
        self.met.store(true, Ordering::Relaxed);
    }
}

/// What was judged and is not on record yet. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Judgements(Arc<Mutex<Vec<Judgement>>>);

impl Judgements {
    fn push(&self, judgement: Judgement) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(judgement);
    }

    /// Takes all, in their order.
    pub fn take(&self) -> Vec<Judgement> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Bench {
    /// None where the memory plan has no room for a judge.
    pub fn new(model: &Model, template: Option<&ChatTemplate>) -> Option<Self> {
        let (template, session) = (template.cloned(), Mutex::default());
        let room = model.plan().side_kv.0 > 0;
        room.then(|| Self(Arc::new(Shared { model: model.clone(), template, session })))
    }

    /// A judge for one answer. What is judged goes to `made` too, if the answer is recorded.
    pub fn judge(&self, interrupt: Interrupt, made: Option<Judgements>) -> SharedJudge {
        SharedJudge::new(ModelJudge { bench: self.clone(), interrupt, made })
    }

    fn tokens(&self, question: &Question, continuations: &[String]) -> Result<JudgedIds, JudgeError> {
        let invalid = |error: &dyn std::fmt::Display| JudgeError::Invalid(error.to_string());
        let model = &self.0.model;
        let tokenizer = model.tokenizer().map_err(|error| JudgeError::Unavailable(error.to_string()))?;
        let question = match question {
            Question::Text(text) => tokenizer.begin(text).map_err(|error| invalid(&error))?,
            Question::Chat(messages) => {
                let messages: Vec<ChatMessage> = messages.iter().cloned().map(from_host).collect();
                let extra = Map::from_iter([("enable_thinking".to_owned(), Value::Bool(false))]);
                let prompt = render(model, self.0.template.as_ref(), &messages, &[], DAY, &extra);
                let prompt = prompt.map_err(|error| invalid(&error))?;
                let mut tokens = tokenizer.encode_prompt(&prompt).map_err(|error| invalid(&error))?;
                if in_reasoning(prompt.text()) {
                    end_reasoning(tokenizer, &mut tokens).map_err(|error| invalid(&error))?;
                }
                if let Some(channels) = Channels::of(tokenizer) {
                    tokens.extend(channels.begin_final(tokenizer).map_err(|error| invalid(&error))?);
                }
                tokens
            }
        };
        let encode = |text: &String| tokenizer.encode_continuation(text).map_err(|error| invalid(&error));
        Ok(JudgedIds { question, continuations: continuations.iter().map(encode).collect::<Result<_, _>>()? })
    }

    fn score(&self, ids: &JudgedIds, left: u64) -> Result<Judged, JudgeError> {
        let tokens = count(ids);
        if tokens > left {
            return Err(JudgeError::Tokens { tokens });
        }
        if ids.question.is_empty() || ids.continuations.iter().any(Vec::is_empty) {
            return Err(JudgeError::Invalid("a question or a continuation has no tokens".into()));
        }
        let context = self.0.model.plan().context as usize;
        let longest = ids.continuations.iter().map(Vec::len).max().unwrap_or(0);
        // Behind the last token of a continuation nothing is asked.
        if ids.question.len() + longest > context + 1 {
            return Err(JudgeError::Invalid(format!(
                "a question of {} tokens and a continuation of {longest}, and the context holds {context}; nothing was \
                 cut. Ask about less, or give a larger --ctx",
                ids.question.len()
            )));
        }
        let mut session = self.0.session.lock().unwrap_or_else(PoisonError::into_inner);
        let session = session.get_or_insert_with(|| self.0.model.side_session());
        let scores = scoring::in_turn(session, &ids.question, &ids.continuations).map_err(unavailable)?;
        Ok(Judged { scores, tokens })
    }
}

fn unavailable(error: EngineError) -> JudgeError {
    match error {
        EngineError::Cancelled => JudgeError::Cancelled,
        error => JudgeError::Unavailable(error.to_string()),
    }
}

/// Tokens of a question and its continuations together.
pub(crate) fn count(ids: &JudgedIds) -> u64 {
    (ids.question.len() + ids.continuations.iter().map(Vec::len).sum::<usize>()) as u64
}

/// The judge of one answer.
struct ModelJudge {
    bench: Bench,
    interrupt: Interrupt,
    made: Option<Judgements>,
}

impl Judge for ModelJudge {
    fn score(
        &mut self,
        policy: &str,
        question: &Question,
        continuations: &[String],
        left: u64,
    ) -> Result<Judged, JudgeError> {
        // A pass of the model that begins drops the wish to end the one before it, so that many short ones would go on.
        if self.interrupt.asked() {
            self.interrupt.meet();
            return Err(JudgeError::Cancelled);
        }
        let (ids, outcome) = match self.bench.tokens(question, continuations) {
            Ok(ids) => {
                let outcome = self.bench.score(&ids, left);
                (ids, outcome)
            }
            Err(error) => (JudgedIds::default(), Err(error)),
        };
        if outcome == Err(JudgeError::Cancelled) {
            self.interrupt.meet();
        } else if let Some(made) = &self.made {
            let refused = matches!(outcome, Err(JudgeError::Tokens { .. } | JudgeError::Invalid(_)));
            let (question, continuations, ids) = match refused {
                true => (digested(question, continuations), Vec::new(), JudgedIds::default()),
                false => (written(question), continuations.to_vec(), ids),
            };
            let (policy, outcome) = (policy.to_owned(), outcome.clone());
            made.push(Judgement { policy, question, continuations, ids, outcome });
        }
        outcome
    }
}
