//! A text that is generated for an agent, on a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use membrane_engine::Session;
use membrane_host::Invocation;
use membrane_host::agent::{self, Completion, EndReason as AgentEnd, GenerationOptions, InferenceError};
use membrane_text::Constraint;
use serde_json::Value;

use super::session::{Slot, of, refusal};
use super::{Run, lock};
use crate::behaviour::Running;
use crate::decode::{Decoder, Round, RoundEnd};
use crate::error::Stopped;
use crate::event::{EndReason, Event};
use crate::speculate::Drafting;

/// What a generation starts from.
pub(super) struct Task {
    pub running: Running,
    /// Tokens that the session had before.
    pub before: usize,
    /// The tokens of the session.
    pub prompt: Vec<u32>,
    /// Whether the chat template made the prompt.
    pub chat: bool,
    /// The tools that calls are looked for of, as chat templates take them.
    pub tools: Arc<[Value]>,
    /// What the text must follow.
    pub constraint: Option<Constraint>,
    pub options: GenerationOptions,
}

/// A generation under way, or its end.
pub(super) struct AgentGeneration {
    texts: Receiver<String>,
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<Ended>>>,
    slot: Arc<Slot>,
    /// Tokens of the session before.
    before: usize,
    end: Option<Result<Completion, InferenceError>>,
}

struct Ended {
    session: Session,
    result: Result<Completion, InferenceError>,
}

impl AgentGeneration {
    /// Starts the thread.
    pub fn start(
        run: Arc<Run>,
        session: Session,
        task: Task,
        slot: Arc<Slot>,
    ) -> Result<Self, InferenceError> {
        let (sender, texts) = channel();
        let before = task.before;
        let cancel = Arc::new(AtomicBool::new(false));
        // What the thread is given comes back where it can't be started.
        let given = Arc::new(Mutex::new(Some((session, task))));
        let (taken, flag) = (given.clone(), cancel.clone());
        let thread = std::thread::Builder::new().name("generation".into()).spawn(move || {
            let given = lock(&taken).take();
            given.map(|(session, task)| generate(&run, session, task, &flag, &sender))
        });
        match thread {
            Ok(thread) => Ok(Self { texts, cancel, thread: Some(thread), slot, before, end: None }),
            Err(error) => {
                if let Some((mut session, _)) = lock(&given).take() {
                    session.truncate(before);
                    slot.put(session);
                }
                Err(InferenceError::Failed(format!("no thread for a generation: {error}")))
            }
        }
    }

    /// Waits for the thread and puts the session back. `discard`: what was generated meanwhile is as if it had never been.
    fn join(&mut self, discard: bool) {
        let Some(thread) = self.thread.take() else { return };
        let result = match thread.join() {
            Ok(Some(Ended { mut session, result })) => {
                if discard {
                    session.truncate(self.before);
                }
                self.slot.put(session);
                if discard { Ok(cancelled()) } else { result }
            }
            Ok(None) | Err(_) => Err(InferenceError::Failed("the generation broke off".into())),
        };
        self.end = Some(result);
    }
}

impl agent::Generation for AgentGeneration {
    fn next(&mut self) -> Result<Option<String>, InferenceError> {
        if self.thread.is_some()
            && let Ok(text) = self.texts.recv()
        {
            return Ok(Some(text));
        }
        self.join(false);
        match &self.end {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(None),
        }
    }

    fn finish(&mut self) -> Result<Completion, InferenceError> {
        while self.texts.recv().is_ok() {}
        self.join(false);
        self.end.clone().unwrap_or(Err(InferenceError::Busy))
    }

    fn cancel(&mut self) {
        if self.thread.is_some() {
            self.cancel.store(true, Ordering::Relaxed);
            self.join(true);
        }
    }
}

impl Drop for AgentGeneration {
    fn drop(&mut self) {
        agent::Generation::cancel(self);
    }
}

/// What is left of a generation that was cancelled: how far it had come depends on timing, and an agent is not told.
fn cancelled() -> Completion {
    Completion { text: String::new(), calls: Vec::new(), reason: AgentEnd::Cancelled, tokens: 0 }
}

/// One answer: decodes to the end, and ends the record.
fn generate(
    run: &Run,
    mut session: Session,
    task: Task,
    cancel: &AtomicBool,
    texts: &Sender<String>,
) -> Ended {
    let Task { mut running, before, prompt, chat, tools, mut constraint, options } = task;
    lock(&run.clock).start();
    let most = options.max_tokens.map(|most| most as usize);
    let seat = run.base.passes.seat();
    let round = Round {
        prompt: &prompt,
        max_tokens: most,
        chat,
        last: true,
        tools,
        stop: &options.stop,
        constraint: constraint.as_mut(),
        seat: Some(&seat),
        drafting: Drafting::new(&run.base.gate, &run.base.model),
    };
    let (result, text, chosen) = decode(run, &mut session, &mut running, round, cancel, texts);
    drop(seat);
    lock(&run.clock).stop();
    lock(&run.stats).decode_tokens += chosen;
    let result = conclude(run, &mut running, result, text, chosen);
    let kept = matches!(&result, Ok(completion) if completion.reason != AgentEnd::Cancelled);
    if !kept {
        session.truncate(before);
    }
    Ended { session, result }
}

/// Decodes; what policies release goes to the agent. Gives the end, the text and the number of tokens.
fn decode(
    run: &Run,
    session: &mut Session,
    running: &mut Running,
    round: Round<'_>,
    cancel: &AtomicBool,
    texts: &Sender<String>,
) -> (Result<RoundEnd, Stopped>, String, usize) {
    let tokenizer = match run.base.model.tokenizer() {
        Ok(tokenizer) => tokenizer,
        Err(error) => return (Err(error.into()), String::new(), 0),
    };
    let mut text = String::new();
    let mut decoder = Decoder::new(tokenizer, session, running, round);
    let result = decoder.run(&[cancel, &run.cancel], &mut |event| match event {
        Event::Text { text: more } => {
            text.push_str(&more);
            // Where nobody listens any more, the generation is about to be cancelled.
            let _ = texts.send(more);
        }
        other => run.tell(other),
    });
    let (chosen, (drafted, accepted)) = (decoder.chosen(), decoder.drafted());
    let mut stats = lock(&run.stats);
    stats.drafted_tokens += drafted;
    stats.accepted_tokens += accepted;
    drop(stats);
    (result, text, chosen)
}

/// The end of a generation: the hook `finish`, and the record.
fn conclude(
    run: &Run,
    running: &mut Running,
    result: Result<RoundEnd, Stopped>,
    text: String,
    chosen: usize,
) -> Result<Completion, InferenceError> {
    let (reason, calls) = match result {
        Ok(RoundEnd::Ended(reason)) => (reason, Vec::new()),
        Ok(RoundEnd::ToolCalls(calls)) => (EndReason::Stop, calls),
        Err(Stopped::Refused(refused)) => return refuse(run, running, refused),
        Err(Stopped::Failed(error)) => {
            running.journal.failed(&error);
            return Err(of(error));
        }
    };
    match running.policies.finish(&text) {
        Ok(failures) => crate::calls::intervened(running, &failures, &mut |event| run.tell(event)),
        Err(refused) => return refuse(run, running, refused),
    }
    running.journal.end(reason, None).map_err(of)?;
    let calls = calls.into_iter().map(|call| {
        let arguments = call.arguments.to_string();
        (&Invocation { name: call.name, arguments }).into()
    });
    Ok(Completion { text, calls: calls.collect(), reason: to_agent(reason), tokens: chosen as u32 })
}

fn refuse(
    run: &Run,
    running: &mut Running,
    refused: membrane_host::Refused,
) -> Result<Completion, InferenceError> {
    run.refused(running, &refused);
    let (reason, message) = run.interrupt.end(&refused);
    running.journal.end(reason, message.as_deref()).map_err(of)?;
    if reason == EndReason::Cancelled { Ok(cancelled()) } else { Err(refusal(refused)) }
}

fn to_agent(reason: EndReason) -> AgentEnd {
    match reason {
        EndReason::StopText => AgentEnd::StopText,
        EndReason::Length => AgentEnd::Length,
        EndReason::Context => AgentEnd::Context,
        EndReason::PolicyStop | EndReason::Refused => AgentEnd::Policy,
        EndReason::Cancelled => AgentEnd::Cancelled,
        EndReason::Stop | EndReason::ToolRounds | EndReason::GaveUp | EndReason::AgentFailed => {
            AgentEnd::Stop
        }
    }
}
