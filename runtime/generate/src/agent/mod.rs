//! Agents over one model: components that pursue a task with sessions, generations and tools.
//!
//! An agent stands where a caller of [`crate::Generator`] stands. Each text that it generates is an answer of its own: the
//! profile's policies see the request, the prompt and the text, and the audit log has it, so that it can be replayed. What the
//! agent itself says to the person, and each tool that it calls, passes the policies of the run once more: an agent could
//! have changed the text.

mod conversations;
mod environment;
mod generation;
mod session;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use membrane_engine::{Model, Session, process};
use membrane_host::agent::{AgentRun, Environment, RunEnd, Store};
use membrane_host::{Host, JudgedLines, Plugin, PolicyChain, SharedJudge};
use membrane_profile::Digest;
use membrane_text::{ChatMessage, ChatTemplate, Grammar, Role};

use crate::answer::{AnswerOptions, template};
use crate::behaviour::{Behaviour, Words};
use crate::calls::intervened;
use crate::error::{Result, Stopped};
use crate::event::{EndReason, Event, Stats};
use crate::journal::{Audit, Journal};
use crate::judge::{Bench, Interrupt, Judgements};
use crate::passes::Passes;
use crate::speculate::Gate;
use conversations::Conversations;
use environment::Front;

/// Where events of a run go. Generations tell of theirs from threads of their own.
pub type EventSink = Arc<Mutex<dyn FnMut(Event) + Send>>;

/// How a run is to be made.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Seed of the run's random source.
    pub seed: u64,
    /// Most tokens of one generation, whatever the agent asks for; none is as many as the context holds.
    pub max_tokens: Option<usize>,
    /// The time that chat templates are told, in seconds since 1970.
    pub now: i64,
    /// Further variables of the chat template.
    pub template: serde_json::Map<String, serde_json::Value>,
}

/// What came of a run. What the agent said was told as events.
#[derive(Debug, Clone)]
pub struct AgentAnswer {
    /// Why it ended.
    pub reason: EndReason,
    /// Why the agent gave up or failed, as policies let it pass.
    pub why: Option<String>,
    /// Figures, generations included.
    pub stats: Stats,
}

/// Runs agents over one model. Clones run over the same; generations of all runs share passes of the model.
#[derive(Clone)]
pub struct Agents(Arc<Base>);

/// Contexts that an agent keeps under names.
type Prefixes = Mutex<BTreeMap<String, Session>>;

/// What all runs share.
pub(crate) struct Base {
    host: Host,
    model: Model,
    words: Arc<Words>,
    template: Option<ChatTemplate>,
    behaviour: Behaviour,
    passes: Passes,
    gate: Gate,
    /// Held by the runs of each agent, and gone with the last of them.
    prefixes: Arc<Mutex<BTreeMap<Digest, Weak<Prefixes>>>>,
    /// The model as a judge, where the memory plan has room for one.
    bench: Option<Bench>,
    audit: Option<Audit>,
}

/// What the parts of one run share.
pub(crate) struct Run {
    base: Arc<Base>,
    agent: Plugin,
    options: AgentOptions,
    cancel: Arc<AtomicBool>,
    /// Of all that is judged in the run.
    interrupt: Interrupt,
    /// Where judgements are recorded that belong to no text that is generated.
    aside: Mutex<Journal>,
    sink: EventSink,
    stats: Mutex<Stats>,
    clock: Mutex<Clock>,
    log: Mutex<JudgedLines>,
    /// What its sessions keep of conversations.
    conversations: Conversations,
    /// Shared with the runs of the same agent beside it.
    prefixes: Arc<Prefixes>,
}

/// How long at least one generation of a run was under way.
#[derive(Default)]
struct Clock {
    running: usize,
    since: Option<Instant>,
    seconds: f64,
}

impl Clock {
    fn start(&mut self) {
        self.running += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn stop(&mut self) {
        self.running -= 1;
        if self.running == 0 {
            self.seconds += self.since.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
        }
    }
}

/// What is behind these locks is whole between any two statements, also where a thread panicked.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agents {
    /// Joins a model and a behaviour; with an audit log, all that agents do is recorded. Errors: the model's chat template
    /// can't be read.
    pub fn new(host: Host, model: Model, behaviour: Behaviour, audit: Option<Audit>) -> Result<Self> {
        let template = template(&model)?;
        let words = Arc::new(Words(model.clone()));
        let passes = Passes::new(model.clone());
        let (prefixes, bench) = (Arc::default(), Bench::new(&model, template.as_ref()));
        let gate = Gate::default();
        Ok(Self(Arc::new(Base {
            host,
            model,
            words,
            template,
            behaviour,
            passes,
            gate,
            prefixes,
            bench,
            audit,
        })))
    }

    /// The same with another behaviour, for runs to come. They share passes and contexts under names with those under way.
    ///
    /// # Errors
    /// A policy of it may ask the model, and the memory plan has no room for that.
    pub fn behaving(&self, behaviour: Behaviour) -> Result<Self> {
        behaviour.has_its_judge(self.model())?;
        let Base { host, model, words, template, behaviour: _, passes, gate, prefixes, bench, audit } =
            &*self.0;
        Ok(Self(Arc::new(Base {
            host: host.clone(),
            model: model.clone(),
            words: words.clone(),
            template: template.clone(),
            behaviour,
            passes: passes.clone(),
            gate: gate.clone(),
            prefixes: prefixes.clone(),
            bench: bench.clone(),
            audit: audit.clone(),
        })))
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// The behaviour.
    pub fn behaviour(&self) -> &Behaviour {
        &self.0.behaviour
    }

    /// Passes of the model that generations went through so far, and tokens in them.
    pub fn passes(&self) -> (u64, u64) {
        self.0.passes.counts()
    }

    /// Gives a task to an agent. `store` is where its values are kept, if it was granted one. Events come as they happen;
    /// `cancel` ends the run at the next token or call.
    ///
    /// A refusal, and an agent that gives up or fails, are answers and no errors.
    ///
    /// # Errors
    /// A plugin of the behaviour does not start, or the run can't be recorded.
    pub fn run(
        &self,
        agent: &Plugin,
        task: &str,
        options: &AgentOptions,
        store: Option<Store>,
        cancel: &Arc<AtomicBool>,
        sink: &EventSink,
    ) -> Result<AgentAnswer> {
        let base = &self.0;
        let counters = base.model.counters();
        let run = Arc::new(Run {
            base: base.clone(),
            agent: agent.clone(),
            options: options.clone(),
            cancel: cancel.clone(),
            interrupt: Interrupt::by(cancel),
            aside: Mutex::default(),
            sink: sink.clone(),
            stats: Mutex::default(),
            clock: Mutex::default(),
            log: Mutex::default(),
            conversations: Conversations::default(),
            prefixes: base.prefixes(agent.digest()),
        });
        let own = Behaviour { samplers: Vec::new(), ..base.behaviour.clone() };
        let judgements = Judgements::default();
        let judge = run.judge(&judgements);
        let mut running = own.start(&base.host, &base.words, options.seed, judge)?;
        running.journal = run.journal(
            &run.base.behaviour,
            &[ChatMessage::new(Role::User, task)],
            options.seed,
            None,
            false,
            None,
        )?;
        running.journal.watch(judgements);
        *lock(&run.aside) = running.journal.beside();
        let front = Front::new(run.clone(), running);
        let outcome = pursue(agent, task, store, &front);
        let (reason, why) = front.conclude(outcome)?;
        let mut stats = lock(&run.stats).clone();
        stats.decode_seconds = lock(&run.clock).seconds;
        stats.paged(&counters, &base.model.counters());
        stats.peak_memory_bytes = process::peak_resident_bytes();
        run.tell(Event::End { reason, message: why.clone(), stats: stats.clone() });
        Ok(AgentAnswer { reason, why, stats })
    }
}

impl Base {
    /// The contexts that runs of an agent share.
    fn prefixes(&self, agent: Digest) -> Arc<Prefixes> {
        let mut all = lock(&self.prefixes);
        all.retain(|_, kept| kept.strong_count() > 0);
        if let Some(kept) = all.get(&agent).and_then(Weak::upgrade) {
            return kept;
        }
        let kept: Arc<Prefixes> = Arc::default();
        all.insert(agent, Arc::downgrade(&kept));
        kept
    }
}

/// The task as the policies let it pass, and the agent's work on it.
fn pursue(agent: &Plugin, task: &str, store: Option<Store>, front: &Front) -> Result<RunEnd, Stopped> {
    let task = front.request(task)?;
    let ended = match AgentRun::start(agent, Box::new(front.clone()), store) {
        Ok(run) => run.run(&task),
        Err(_) if front.ended() => RunEnd::Ended,
        Err(failure) => RunEnd::Failed(failure),
    };
    Ok(ended)
}

impl Run {
    /// Begins a record of what is made with `behaviour`.
    fn journal(
        &self,
        behaviour: &Behaviour,
        messages: &[ChatMessage],
        seed: u64,
        max_tokens: Option<usize>,
        raw: bool,
        constraint: Option<Grammar>,
    ) -> Result<Journal> {
        let options = AnswerOptions {
            seed,
            max_tokens,
            raw,
            now: self.options.now,
            constraint,
            template: Default::default(),
        };
        Journal::start(self.base.audit.as_ref(), (behaviour, None), &self.base.model, messages, &options)
    }

    /// The model as a judge. What is judged goes to `made`, if the run is recorded.
    fn judge(&self, made: &Judgements) -> Option<SharedJudge> {
        let kept = self.base.audit.is_some().then(|| made.clone());
        self.base.bench.as_ref().map(|bench| bench.judge(self.interrupt.clone(), kept))
    }

    fn tell(&self, event: Event) {
        if matches!(event, Event::Intervention(_)) {
            lock(&self.stats).interventions += 1;
        }
        lock(&self.sink)(event);
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// A line of the agent's log, if the policies let it pass behind those before it, and a word in its place if not.
    fn logged(&self, line: &str) -> String {
        self.passing(|judge| {
            lock(&self.log).next(&self.base.host, &self.base.behaviour.policies, judge.as_ref(), line)
        })
    }

    /// A text of the agent that is not part of the answer, such as an error, if the policies let it pass as an answer, and a
    /// word in its place if not.
    fn judged(&self, text: &str) -> String {
        self.passing(|judge| {
            PolicyChain::judged_with(&self.base.host, &self.base.behaviour.policies, judge, text)
        })
    }

    /// What policies make of a text, if what is judged for it can be recorded.
    fn passing(&self, ask: impl FnOnce(Option<SharedJudge>) -> String) -> String {
        let judgements = Judgements::default();
        let text = ask(self.judge(&judgements));
        let recorded = lock(&self.aside).judged(judgements);
        recorded.map_or_else(|error| format!("(withheld: {error})"), |()| text)
    }

    /// Verdicts that belong to no record that is open.
    fn refused(&self, running: &mut crate::behaviour::Running, refused: &membrane_host::Refused) {
        intervened(running, &self.interrupt.verdicts(refused), &mut |event| self.tell(event));
    }
}
