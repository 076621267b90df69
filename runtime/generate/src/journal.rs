//! What an answer leaves in the audit log.
//!
//! The loop tells the journal what happens, in one line at each place; the journal makes records of it. Tokens
//! are gathered and written [`RUN_TOKENS`] at a time, or earlier if something else happens. A log that can't be
//! written ends the answer at its next token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use membrane_audit::{
    self as audit, AuditError, Call, CallText, Content, EndText, JudgementText, Keep, Log, LogProbability,
    Output, PromptText, Record, RequestText, Span, TokensText,
};
use membrane_engine::{KvFormat, Model, Precision};
use membrane_host::reload::Swap;
use membrane_host::{Chosen, Intervention, Invocation, JudgeError, OutputOutcome};
use membrane_text::{ChatMessage, Grammar};
use serde_json::Value;

use crate::answer::AnswerOptions;
use crate::behaviour::Behaviour;
use crate::error::{GenerateError, Result};
use crate::event::{EndReason, Reload};
use crate::judge::{self, Judgement, Judgements};

/// Tokens that are gathered for one record: what the log may lack of an answer whose process is killed.
const RUN_TOKENS: usize = 64;
/// Behaviours that are known to be on record; another is recorded once more if it comes back (files that change all the
/// time must not fill the memory).
const MAX_KNOWN: usize = 64;

/// A behaviour that is on record, and the number of its record.
type Known = (Arc<audit::Behaviour>, u64);

/// A log, with the model that answers are made with. Clones share the log.
#[derive(Clone)]
pub struct Audit {
    log: Arc<Mutex<Log>>,
    model: u64,
    /// Behaviours that are on record, with the numbers of their records.
    known: Arc<Mutex<Vec<Known>>>,
}

impl Audit {
    /// Records which model the answers are made with. Errors: the log can't be written.
    pub fn new(log: Arc<Mutex<Log>>, model: audit::Model) -> Result<Self, AuditError> {
        let model = lock(&log).append(&Record::Model(model))?;
        Ok(Self { log, model, known: Arc::default() })
    }

    /// The number of a behaviour's record, which is made if there is none.
    fn behaviour(&self, behaviour: &Behaviour) -> Result<u64, AuditError> {
        let record = behaviour.recorded();
        let mut known = lock(&self.known);
        if let Some((_, number)) = known.iter().find(|(known, _)| *known == record) {
            return Ok(*number);
        }
        let number = lock(&self.log).append(&Record::Behaviour(audit::Behaviour::clone(&record)))?;
        if known.len() == MAX_KNOWN {
            known.remove(0);
        }
        known.push((record, number));
        Ok(number)
    }
}

/// A panic elsewhere leaves a log in order: records are written whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The journal of one answer; an empty one records nothing.
#[derive(Default)]
pub(crate) struct Journal(Option<Box<Open>>);

struct Open {
    audit: Audit,
    /// Number of the answer.
    answer: u64,
    keep: Keep,
    failure: Option<AuditError>,
    /// Tokens chosen before `run`.
    before: u64,
    run: Run,
    /// Rendered and not yet in a round.
    rendered: Option<String>,
    call: Option<Asked>,
    rounds: u64,
    released: String,
    notes: Vec<String>,
    places: Places,
    /// What the model judged and is not recorded yet.
    judgements: Judgements,
}

/// Tokens that are not yet in the log, and the texts that policies were shown meanwhile.
#[derive(Default)]
struct Run {
    ids: Vec<u32>,
    by: Vec<(String, u64)>,
    probabilities: Vec<Option<f32>>,
    outputs: Vec<Output>,
}

/// A call of a tool that is under way.
struct Asked {
    name: Option<String>,
    ok: bool,
    text: CallText,
}

/// Which tokens a text comes from.
#[derive(Default)]
struct Places {
    /// Bytes that policies were shown, and tokens that were chosen by then, in order.
    shown: Vec<(u64, u64)>,
    /// Where the first text begins that a policy changed: behind it bytes can't be told by counting.
    changed: Option<u64>,
    /// Where the last verdict of each policy begins.
    last: BTreeMap<String, u64>,
}

impl Journal {
    /// Begins the record of an answer that is made with `behaviour`, and goes back to `before` if that fails. Errors: the
    /// log can't be written; then nothing is answered.
    pub fn start(
        audit: Option<&Audit>,
        (behaviour, before): (&Behaviour, Option<&Behaviour>),
        model: &Model,
        messages: &[ChatMessage],
        options: &AnswerOptions,
    ) -> Result<Self> {
        let Some(audit) = audit else { return Ok(Self::default()) };
        let behaviour = audit.behaviour(behaviour)?;
        let before = before.map(|before| audit.behaviour(before)).transpose()?;
        let mut log = lock(&audit.log);
        let messages = messages.iter().filter_map(|message| serde_json::to_value(message).ok()).collect();
        let (constraint, grammar) = constraint(options.constraint.as_ref(), log.keep());
        let request = log.seal(&Content::Request(RequestText { messages, grammar }))?;
        let engine = audit::Engine {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instruction_set: model.team().isa().name().to_owned(),
            reference: model.precision() == Precision::Reference,
            activations: Some(model.precision())
                .filter(|precision| matches!(precision, Precision::Int8 | Precision::Int8Groups))
                .map(|precision| precision.name().to_owned()),
            kv_cache: Some(model.kv_format())
                .filter(|kv| *kv != KvFormat::F16)
                .map(|kv| kv.name().to_owned()),
            context: model.plan().context,
        };
        let answer = log.append(&Record::Answer(audit::Answer {
            model: audit.model,
            behaviour,
            before,
            engine,
            seed: options.seed,
            max_tokens: options.max_tokens.map(|max| max as u64),
            raw: options.raw,
            now: options.now,
            constraint,
            request,
        }))?;
        let keep = log.keep();
        drop(log);
        Ok(Self(Some(Box::new(Open::new(audit.clone(), answer, keep)))))
    }

    /// Records from now on what the model judges for the answer's policies, before whatever else is told.
    pub fn watch(&mut self, judgements: Judgements) {
        if let Some(open) = &mut self.0 {
            open.judgements = judgements;
        }
    }

    /// Records what the model judged for the answer's policies where nothing else is told. Fails if something of the answer
    /// could not be recorded.
    pub fn judged(&mut self, judgements: Judgements) -> Result<()> {
        self.watch(judgements);
        self.tell(|_| Ok(()));
        self.check()
    }

    /// A journal of the same answer, for what is judged beside what this one is told.
    pub fn beside(&self) -> Self {
        let beside = |open: &Open| Open::new(open.audit.clone(), open.answer, open.keep);
        Self(self.0.as_deref().map(beside).map(Box::new))
    }

    /// Tells the journal something. A failure is kept for the next `check`.
    fn tell(&mut self, what: impl FnOnce(&mut Open) -> Result<(), AuditError>) {
        let Some(open) = self.0.as_deref_mut().filter(|open| open.failure.is_none()) else { return };
        if let Err(error) = open.judged().and_then(|()| what(open)) {
            open.failure = Some(error);
        }
    }

    /// Fails if something could not be recorded.
    fn check(&mut self) -> Result<()> {
        match self.0.as_deref_mut().and_then(|open| open.failure.take()) {
            Some(error) => Err(GenerateError::Audit(error)),
            None => Ok(()),
        }
    }

    /// The prompt as policies will see it.
    pub fn rendered(&mut self, rendered: &str) {
        self.tell(|open| {
            open.rendered = Some(rendered.to_owned());
            Ok(())
        });
    }

    /// The prompt as the model reads it.
    pub fn round(&mut self, ids: &[u32]) {
        self.tell(|open| open.round(ids));
    }

    /// A token was chosen. Fails if something of the answer could not be recorded.
    pub fn token(&mut self, chosen: &Chosen) -> Result<()> {
        self.tell(|open| {
            if open.run.ids.len() >= RUN_TOKENS {
                open.flush()?;
            }
            open.run.push(chosen);
            Ok(())
        });
        self.check()
    }

    /// Text went through the policies.
    pub fn output(&mut self, text: &str, done: bool, outcome: &OutputOutcome) {
        self.tell(|open| {
            let token = open.chosen();
            open.places.show(text.len(), token);
            open.run.outputs.push(Output { token, text: text.to_owned(), done });
            open.verdicts(&outcome.interventions)?;
            open.released.push_str(&outcome.released);
            Ok(())
        });
    }

    /// Verdicts of hooks other than those on text that was let through.
    pub fn verdicts(&mut self, interventions: &[Intervention]) {
        self.tell(|open| open.verdicts(interventions));
    }

    /// Plugins were exchanged for those of `behaviour`, or it was gone back to because a new one failed.
    pub fn swap(&mut self, behaviour: &Behaviour, rolled_back: bool, swaps: &[Swap]) {
        self.tell(|open| open.swap(behaviour, rolled_back, swaps));
    }

    /// The session goes on behind a prompt of `prompt` tokens and what follows it in `tokens`.
    pub fn rewind(&mut self, prompt: usize, tokens: &[u32]) {
        self.tell(|open| {
            open.flush()?;
            let behind = tokens.get(prompt..).unwrap_or_default().to_vec();
            let ids = open.ids(&behind);
            let prompt = open.seal(Content::Prompt(PromptText { rendered: String::new(), ids: behind }))?;
            let answer = open.answer;
            open.append(Record::Rewind(audit::Rewind { answer, tokens: tokens.len() as u64, ids, prompt }))
        });
    }

    /// The model asked for a tool.
    pub fn asked(&mut self, call: &Invocation) {
        self.tell(|open| {
            open.flush()?;
            let text = CallText { asked: to_call(call), made: None, result: None, read: None };
            open.call = Some(Asked { name: None, ok: false, text });
            Ok(())
        });
    }

    /// The call was made. `offered`: there is a tool of this name.
    pub fn returned(&mut self, made: &Invocation, offered: bool, ok: bool, result: &str) {
        self.tell(|open| {
            if let Some(call) = &mut open.call {
                call.name = offered.then(|| made.name.clone());
                call.ok = ok;
                call.text.made = Some(to_call(made));
                call.text.result = Some(result.to_owned());
            }
            Ok(())
        });
    }

    /// The model will read this in answer to its call.
    pub fn read(&mut self, read: &str) {
        self.tell(|open| {
            if let Some(call) = &mut open.call {
                call.text.read = Some(read.to_owned());
            }
            open.end_call()
        });
    }

    /// The answer is over. Fails if that, or something before it, could not be recorded.
    pub fn end(&mut self, reason: EndReason, message: Option<&str>) -> Result<()> {
        self.tell(|open| open.end(reason.name(), message, None));
        self.check()
    }

    /// The agent could not do its task. Fails if that, or something before it, could not be recorded.
    pub fn gave_up(&mut self, reason: EndReason, why: &str) -> Result<()> {
        self.tell(|open| open.end(reason.name(), None, Some(why.to_owned())));
        self.check()
    }

    /// The answer failed. Where the record is what failed, there is no more to do.
    pub fn failed(&mut self, error: &GenerateError) {
        self.tell(|open| open.end("failed", None, Some(error.to_string())));
    }
}

impl Open {
    /// A record in which nothing has happened yet.
    fn new(audit: Audit, answer: u64, keep: Keep) -> Self {
        Self {
            audit,
            answer,
            keep,
            failure: None,
            before: 0,
            run: Run::default(),
            rendered: None,
            call: None,
            rounds: 0,
            released: String::new(),
            notes: Vec::new(),
            places: Places::default(),
            judgements: Judgements::default(),
        }
    }

    /// Tokens that were chosen so far.
    fn chosen(&self) -> u64 {
        self.before + self.run.ids.len() as u64
    }

    fn append(&self, record: Record) -> Result<(), AuditError> {
        lock(&self.audit.log).append(&record).map(drop)
    }

    fn seal(&self, content: Content) -> Result<audit::Sealed, AuditError> {
        lock(&self.audit.log).seal(&content)
    }

    /// Token ids, if the log keeps them.
    fn ids(&self, ids: &[u32]) -> Option<Vec<u32>> {
        (self.keep == Keep::Tokens).then(|| ids.to_vec())
    }

    fn round(&mut self, ids: &[u32]) -> Result<(), AuditError> {
        let rendered = self.rendered.take().unwrap_or_default();
        let prompt = self.seal(Content::Prompt(PromptText { rendered, ids: ids.to_vec() }))?;
        self.rounds += 1;
        let round =
            audit::Round { answer: self.answer, tokens: ids.len() as u64, ids: self.ids(ids), prompt };
        self.append(Record::Round(round))
    }

    /// Writes the tokens that were gathered.
    fn flush(&mut self) -> Result<(), AuditError> {
        if self.run.ids.is_empty() && self.run.outputs.is_empty() {
            return Ok(());
        }
        let Run { ids, by, probabilities, outputs } = std::mem::take(&mut self.run);
        let (first, count) = (self.before, ids.len() as u64);
        let inline = self.ids(&ids);
        let text = self.seal(Content::Tokens(TokensText { ids, outputs }))?;
        self.before += count;
        let answer = self.answer;
        self.append(Record::Tokens(audit::Tokens {
            answer,
            first,
            count,
            ids: inline,
            by,
            probabilities,
            text,
        }))
    }

    fn verdicts(&mut self, interventions: &[Intervention]) -> Result<(), AuditError> {
        if interventions.is_empty() {
            return Ok(());
        }
        if self.rendered.is_some() {
            self.round(&[])?;
        }
        self.flush()?;
        for made in interventions {
            let chosen = self.before;
            let tokens = (made.hook == "output").then(|| self.places.of(made, self.released.len(), chosen));
            self.notes.push(made.note.clone());
            self.append(Record::Verdict(audit::Verdict {
                answer: self.answer,
                policy: made.policy.clone(),
                hook: made.hook.to_owned(),
                verdict: made.verdict.to_owned(),
                clause: made.clause.clone(),
                offset_bytes: made.offset_bytes,
                tokens,
            }))?;
        }
        Ok(())
    }

    /// Records what the model has judged meanwhile.
    fn judged(&mut self) -> Result<(), AuditError> {
        for judgement in self.judgements.take() {
            self.flush()?;
            let Judgement { policy, question, continuations, ids, outcome } = judgement;
            let tokens = match outcome {
                Err(JudgeError::Tokens { tokens }) => tokens,
                _ => judge::count(&ids),
            };
            let inline = (self.keep == Keep::Tokens).then(|| ids.clone());
            let (scores, error, failed) = match outcome {
                Ok(judged) => (Some(judged.scores.into_iter().map(LogProbability).collect()), None, false),
                Err(JudgeError::Tokens { .. }) => (None, None, false),
                Err(JudgeError::Invalid(why)) => (None, Some(why), false),
                Err(error @ (JudgeError::Unavailable(_) | JudgeError::Cancelled)) => {
                    (None, Some(error.to_string()), true)
                }
            };
            let text = JudgementText { question, continuations, ids, error, failed };
            let text = self.seal(Content::Judgement(text))?;
            let (answer, token) = (self.answer, self.before);
            let made = audit::Judgement { answer, token, policy, tokens, scores, ids: inline, text };
            self.append(Record::Judgement(made))?;
        }
        Ok(())
    }

    fn swap(&mut self, behaviour: &Behaviour, rolled_back: bool, swaps: &[Swap]) -> Result<(), AuditError> {
        if self.rendered.is_some() {
            self.round(&[])?;
        }
        self.flush()?;
        let behaviour = self.audit.behaviour(behaviour)?;
        let plugins = swaps.iter().map(swapped).collect();
        let (answer, token) = (self.answer, self.before);
        self.append(Record::Swap(audit::Swap { answer, token, behaviour, rolled_back, plugins }))
    }

    fn end_call(&mut self) -> Result<(), AuditError> {
        let Some(Asked { name, ok, text }) = self.call.take() else { return Ok(()) };
        let made = text.made.is_some();
        let call = self.seal(Content::Call(text))?;
        self.append(Record::Tool(audit::Tool { answer: self.answer, name, made, ok, call }))
    }

    fn end(&mut self, reason: &str, message: Option<&str>, error: Option<String>) -> Result<(), AuditError> {
        if self.rendered.is_some() {
            self.round(&[])?;
        }
        self.flush()?;
        self.end_call()?;
        let (released, notes) = (std::mem::take(&mut self.released), std::mem::take(&mut self.notes));
        let text = EndText { released, message: message.map(str::to_owned), error, notes };
        let text = self.seal(Content::End(text))?;
        let (answer, rounds, tokens) = (self.answer, self.rounds, self.before);
        self.append(Record::End(audit::End { answer, reason: reason.to_owned(), rounds, tokens, text }))?;
        lock(&self.audit.log).checkpoint()
    }
}

impl Run {
    fn push(&mut self, chosen: &Chosen) {
        self.ids.push(chosen.token);
        self.probabilities.push(chosen.probability);
        match self.by.last_mut() {
            Some((name, count)) if *name == chosen.by => *count += 1,
            _ => self.by.push((chosen.by.clone(), 1)),
        }
    }
}

impl Places {
    /// Policies are shown more text, behind so many tokens.
    fn show(&mut self, bytes: usize, tokens: u64) {
        let shown = self.shown.last().map_or(0, |last| last.0);
        if bytes > 0 {
            self.shown.push((shown + bytes as u64, tokens));
        }
    }

    /// The tokens within which the text of a verdict lies. `released`: bytes that all policies have let pass.
    fn of(&mut self, made: &Intervention, released: usize, chosen: u64) -> Span {
        let start = match self.changed {
            None => self.token_at(made.offset_bytes.unwrap_or(released as u64)),
            Some(changed) => self.last.get(&made.policy).copied().unwrap_or(changed),
        };
        let start = start.min(chosen);
        self.last.insert(made.policy.clone(), start);
        self.changed.get_or_insert(start);
        Span { start, end: chosen }
    }

    /// The first token that the text at this byte can come from.
    fn token_at(&self, byte: u64) -> u64 {
        let behind = self.shown.partition_point(|(end, _)| *end <= byte);
        behind.checked_sub(1).map_or(0, |before| self.shown[before].1)
    }
}

/// A constraint as the log has it, and its grammar as a content has it.
fn constraint(grammar: Option<&Grammar>, keep: Keep) -> (Option<audit::Constraint>, Option<Value>) {
    // An externally tagged value: one key, which is the kind.
    let Some(Ok(Value::Object(tagged))) = grammar.map(serde_json::to_value) else { return (None, None) };
    let Some((kind, grammar)) = tagged.into_iter().next() else { return (None, None) };
    let inline = (keep == Keep::Tokens).then(|| grammar.clone());
    (Some(audit::Constraint { kind, grammar: inline }), Some(grammar))
}

/// The grammar of a recorded constraint; none if the log has only its digest. The error is one that can't be read.
pub(crate) fn grammar(constraint: &audit::Constraint) -> Option<Result<Grammar, serde_json::Error>> {
    let grammar = constraint.grammar.clone()?;
    let tagged = serde_json::Map::from_iter([(constraint.kind.clone(), grammar)]);
    Some(serde_json::from_value(Value::Object(tagged)))
}

/// What became of a plugin, as the audit log has it.
pub(crate) fn swapped(swap: &Swap) -> audit::Swapped {
    let Reload { kind, plugin, from, to, effect, state, .. } = Reload::new(swap.clone(), 0);
    let digest = |digest: membrane_profile::Digest| audit::Digest::from_bytes(*digest.as_bytes());
    audit::Swapped {
        kind: kind.as_str().to_owned(),
        plugin,
        from: from.map(digest),
        to: to.map(digest),
        effect: effect.to_owned(),
        state,
    }
}

fn to_call(call: &Invocation) -> Call {
    Call { name: call.name.clone(), arguments: call.arguments.clone() }
}
