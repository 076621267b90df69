//! What the agent of one run sees of the world: the front at which the run's policies stand.

use std::sync::{Arc, Mutex, MutexGuard};

use membrane_host::Random;
use membrane_host::agent::{Environment, ModelInfo, Offer, RunEnd, SessionHandle};
use membrane_host::{Invocation, LogLevel, LogLine, Message, Refused, Role as HostRole, Vocabulary};

use super::session::AgentSession;
use super::{Run, lock};
use crate::behaviour::Running;
use crate::calls::{self, Called, intervened};
use crate::decode::{Flow, release};
use crate::error::{GenerateError, Result, Stopped};
use crate::event::{EndReason, Event};

/// Clones are the same front.
#[derive(Clone)]
pub(super) struct Front {
    run: Arc<Run>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    /// Policies, tools and the record of the run.
    running: Running,
    random: Random,
    /// Text of the answer that policies have released.
    released: String,
    /// Why the run is over, where it is before the agent is done.
    end: Option<Stop>,
}

/// The end of a run that its agent does not survive.
enum Stop {
    /// A policy ended the answer after what it released.
    Policy,
    Refused(Refused),
    Failed(GenerateError),
}

impl From<Stopped> for Stop {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Refused(refused) => Self::Refused(refused),
            Stopped::Failed(error) => Self::Failed(error),
        }
    }
}

impl Front {
    pub fn new(run: Arc<Run>, running: Running) -> Self {
        let random = Random::new(run.options.seed);
        let inner = Inner { running, random, released: String::new(), end: None };
        Self { run, inner: Arc::new(Mutex::new(inner)) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The task, after the request hook: what a policy makes of the person's message.
    pub fn request(&self, task: &str) -> Result<String, Stopped> {
        let running = &mut self.inner().running;
        let asked = vec![Message { role: HostRole::User, content: task.to_owned() }];
        let outcome = running.policies.request(asked)?;
        intervened(running, &outcome.interventions, &mut |event| self.run.tell(event));
        let said = outcome.messages.into_iter().rev().find(|message| message.role == HostRole::User);
        Ok(said.map_or_else(|| task.to_owned(), |message| message.content))
    }

    /// Ends the answer and its record. Gives why it ended, and a text about it that policies let pass.
    pub fn conclude(&self, outcome: Result<RunEnd, Stopped>) -> Result<(EndReason, Option<String>)> {
        let (mut reason, mut why) = (EndReason::Stop, None);
        match outcome {
            Ok(RunEnd::Done(rest)) => self.end(&rest),
            Ok(RunEnd::GaveUp(text)) => {
                self.end("");
                (reason, why) = (EndReason::GaveUp, Some(self.run.judged(&text)));
            }
            Ok(RunEnd::Failed(failure)) => {
                self.end("");
                (reason, why) = (EndReason::AgentFailed, Some(self.run.judged(&failure.to_string())));
            }
            Ok(RunEnd::Ended) if self.run.cancelled() => reason = EndReason::Cancelled,
            Ok(RunEnd::Ended) => {}
            Err(stopped) => self.inner().end = Some(stopped.into()),
        }
        let mut inner = self.inner();
        let Inner { running, end, .. } = &mut *inner;
        match end.take() {
            None => {}
            Some(Stop::Policy) => (reason, why) = (EndReason::PolicyStop, None),
            Some(Stop::Refused(refused)) => {
                self.run.refused(running, &refused);
                (reason, why) = self.run.interrupt.end(&refused);
            }
            Some(Stop::Failed(error)) => {
                running.journal.failed(&error);
                return Err(error);
            }
        }
        match reason {
            EndReason::GaveUp | EndReason::AgentFailed => {
                running.journal.gave_up(reason, why.as_deref().unwrap_or_default())?;
            }
            _ => running.journal.end(reason, why.as_deref())?,
        }
        Ok((reason, why))
    }

    /// The last text of the answer, and what policies still hold.
    fn end(&self, rest: &str) {
        let mut inner = self.inner();
        let mut text = rest;
        while inner.end.is_none() && inner.say(&self.run, text, true) {
            text = "";
        }
        if inner.end.is_none() {
            let Inner { running, released, end, .. } = &mut *inner;
            match running.policies.finish(released) {
                Ok(failures) => intervened(running, &failures, &mut |event| self.run.tell(event)),
                Err(refused) => *end = Some(Stop::Refused(refused)),
            }
        }
    }
}

impl Inner {
    /// Sends text through the policies. True if one of them put a text of its own there, which the others have not seen.
    fn say(&mut self, run: &Run, text: &str, done: bool) -> bool {
        let released = &mut self.released;
        let flow = release(&mut self.running, text, done, &mut |event| {
            if let Event::Text { text } = &event {
                released.push_str(text);
            }
            run.tell(event);
        });
        match flow {
            Ok(Flow::Go) => false,
            Ok(Flow::Forced) => true,
            Ok(Flow::Stopped) => {
                self.end = Some(Stop::Policy);
                false
            }
            Err(stopped) => {
                self.end = Some(stopped.into());
                false
            }
        }
    }
}

impl Environment for Front {
    fn model(&self) -> ModelInfo {
        let model = &self.run.base.model;
        ModelInfo {
            architecture: model.architecture().to_owned(),
            context: model.plan().context,
            vocabulary: model.hyperparameters().vocabulary as u32,
            chat: self.run.base.template.is_some(),
        }
    }

    fn vocabulary(&self) -> Arc<dyn Vocabulary> {
        self.run.base.words.clone()
    }

    fn random(&mut self) -> u64 {
        self.inner().random.bits()
    }

    fn session(&mut self) -> SessionHandle {
        Box::new(AgentSession::new(self.run.clone(), self.run.base.model.session(), self.tool_texts()))
    }

    fn open(&mut self, name: &str) -> Option<SessionHandle> {
        let session = lock(&self.run.prefixes).get(name)?.fork();
        Some(Box::new(AgentSession::new(self.run.clone(), session, self.tool_texts())))
    }

    fn tools(&mut self) -> Vec<Offer> {
        let inner = self.inner();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let offer = |tool: &serde_json::Value| {
            let tool = &tool["function"];
            Offer {
                name: text(&tool["name"]),
                description: text(&tool["description"]),
                parameters: tool["parameters"].to_string(),
            }
        };
        inner.running.tools.descriptions().iter().map(offer).collect()
    }

    fn call(&mut self, call: Invocation) -> Result<String, String> {
        let mut inner = self.inner();
        match calls::call(&mut inner.running, call, &mut |event| self.run.tell(event)) {
            Ok(Called { ok: true, output, .. }) => Ok(output),
            Ok(Called { output, .. }) => Err(output),
            Err(stopped) => {
                inner.end = Some(stopped.into());
                Err("a policy ended the answer".into())
            }
        }
    }

    fn write(&mut self, text: &str) {
        self.inner().say(&self.run, text, false);
    }

    fn log(&mut self, level: LogLevel, line: &str) {
        if let Some(sink) = self.run.base.host.log() {
            let text = self.run.logged(line);
            let plugin = self.run.agent.name().to_owned();
            sink(&LogLine { plugin, level, text, judged: true });
        }
    }

    fn ended(&self) -> bool {
        self.run.cancelled() || self.inner().end.is_some()
    }
}

impl Front {
    /// The tools as chat templates take them.
    fn tool_texts(&self) -> Arc<[serde_json::Value]> {
        self.inner().running.tools.descriptions().clone()
    }
}
