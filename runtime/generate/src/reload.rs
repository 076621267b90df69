//! Behaviours that change while answers are made.
//!
//! Whoever watches files loads a new behaviour on a thread of its own and [offers](Reloads::offer) it. The generator
//! takes it at the next token boundary, or before the next answer. It is on trial until it has made a whole answer: if
//! one of its plugins fails before that, the last behaviour that made a token is in force again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use membrane_host::reload::{Effect, Reverted, Swap, swaps};
use membrane_host::{Chosen, Host, HostError, Plugin, PolicyChain, SharedJudge, ToolSet, World};

use crate::behaviour::{Behaviour, Running, Words};
use crate::error::{GenerateError, Result, Stopped};
use crate::event::{EndReason, Event, Intervention, Reload};
use crate::journal::Journal;

/// Plugins that failed on trial which are remembered, each maybe with a process; a file that changes all the time must not fill the
/// memory.
const MAX_FAILED: usize = 8;

/// Who is told which behaviour is in force, and which policies may withhold something.
type Follower = Box<dyn FnMut(&Behaviour, &[Plugin]) + Send>;

/// Where behaviours are handed to a generator. Clones hand to the same.
#[derive(Clone)]
pub struct Reloads(Arc<Shared>);

struct Shared {
    host: Host,
    words: Arc<Words>,
    /// Whether a behaviour waits; looked at for each token.
    waits: AtomicBool,
    waiting: Mutex<Option<Behaviour>>,
    /// Plugins that failed on trial, each with its failure.
    failed: Mutex<Vec<(Plugin, String)>>,
    follower: Mutex<Option<Follower>>,
}

impl Reloads {
    pub(crate) fn new(host: Host, words: Arc<Words>) -> Self {
        let (waits, waiting, failed) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { host, words, waits, waiting, failed, follower: Mutex::default() }))
    }

    /// Hands a behaviour over, after each of its plugins was started once. One that still waits is replaced.
    ///
    /// # Errors
    /// A plugin that does not start, or that failed when it was in force before, or a policy that asks the model where the
    /// memory plan has no room for that; what was in force stays.
    pub fn offer(&self, behaviour: Behaviour) -> Result<()> {
        for plugin in behaviour.plugins() {
            if let Some((_, why)) = lock(&self.0.failed).iter().find(|(failed, _)| failed.same(plugin)) {
                let (plugin, digest) = (plugin.name().to_owned(), plugin.digest());
                return Err(GenerateError::FailedBefore { plugin, digest, why: why.clone() });
            }
        }
        behaviour.has_its_judge(&self.0.words.0)?;
        behaviour.start(&self.0.host, &self.0.words, 0, None)?;
        *lock(&self.0.waiting) = Some(behaviour);
        self.0.waits.store(true, Ordering::Release);
        Ok(())
    }

    /// Has someone told before each answer, and when it changes, which behaviour is in force, and which policies withhold something
    /// in the answer or may come back in it. Who was to be told before is told no more.
    pub fn follow(&self, told: impl FnMut(&Behaviour, &[Plugin]) + Send + 'static) {
        *lock(&self.0.follower) = Some(Box::new(told));
    }

    /// The host that loads plugins for this generator.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    fn take(&self) -> Option<Behaviour> {
        if !self.0.waits.swap(false, Ordering::Acquire) {
            return None;
        }
        lock(&self.0.waiting).take()
    }

    fn note_failure(&self, plugin: &Plugin, why: &str) {
        let mut failed = lock(&self.0.failed);
        if failed.len() == MAX_FAILED {
            failed.remove(0);
        }
        failed.push((plugin.clone(), why.to_owned()));
    }
}

/// What is behind the lock is whole between any two statements, also where a thread panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The behaviours of one generator: the one in force, and those to go back to.
#[derive(Default)]
pub(crate) struct Changes {
    pub reloads: Option<Reloads>,
    now: Behaviour,
    /// While `now` is on trial, what to go back to: the last one that made a token.
    before: Option<Behaviour>,
    /// While `before` is on trial too: the last one that made a whole answer.
    proved: Option<Behaviour>,
    /// `now` has made a token.
    chose: bool,
    /// `now` made this answer from its start.
    whole: bool,
    /// Tokens that were chosen in this answer.
    tokens: usize,
    /// Tools that failed in a call of this answer.
    failed: Vec<Plugin>,
}

impl Changes {
    /// Those of a generator that starts with a behaviour.
    pub fn of(now: Behaviour) -> Self {
        Self { now, chose: true, ..Self::default() }
    }

    /// The behaviour in force.
    pub fn now(&self) -> &Behaviour {
        &self.now
    }

    /// What there is to go back to while the behaviour in force is on trial.
    pub fn before(&self) -> Option<&Behaviour> {
        self.before.as_ref()
    }

    /// Starts an answer, with what was offered since the last one.
    pub fn start(
        &mut self,
        host: &Host,
        words: &Arc<Words>,
        seed: u64,
        judge: Option<SharedJudge>,
        sink: &mut dyn FnMut(Event),
    ) -> Result<Running> {
        (self.whole, self.tokens) = (true, 0);
        self.failed.clear();
        if let Some(new) = self.reloads.as_ref().and_then(Reloads::take) {
            self.emit(self.now.swaps(&new, &Effect::Live { state: false }), sink);
            self.replace(new);
        }
        let mut running = match self.now.start(host, words, seed, judge.clone()) {
            Err(error) if self.before.is_some() => {
                // The answer has not begun, and its record will name what does start.
                self.roll_back(None, &error.to_string(), &mut Journal::default(), sink);
                self.now.start(host, words, seed, judge)?
            }
            started => started?,
        };
        if self.reloads.is_some() {
            running.policies.allow_joining();
        }
        if let Some(before) = &self.before {
            // Where that one does not start there is nothing to go back to.
            let _ = running.samplers.fall_back_to(&before.samplers);
        }
        self.tell(&running.policies);
        running.changes = std::mem::take(self);
        Ok(running)
    }

    /// Takes the behaviours back where an answer that was started does not begin.
    pub fn take_back(&mut self, running: &mut Running) {
        *self = std::mem::take(&mut running.changes);
    }

    /// A tool failed in a call.
    pub fn failed_in_call(&mut self, tool: Option<Plugin>) {
        let new = tool.filter(|tool| !self.failed.iter().any(|known| known.same(tool)));
        self.failed.extend(new);
    }

    /// Takes the behaviours back when an answer is over, and judges what is on trial. `cancelled`: a policy's call ended with a
    /// judgement that was cancelled, which is no fault of the policy.
    pub fn conclude(
        &mut self,
        running: &mut Running,
        outcome: &Result<EndReason, Stopped>,
        cancelled: bool,
        sink: &mut dyn FnMut(Event),
    ) {
        self.take_back(running);
        let sampler = match outcome {
            Err(Stopped::Failed(GenerateError::Host(HostError::Failed(failure)))) => {
                running.samplers.named(&failure.plugin)
            }
            _ => None,
        };
        let policies: &[Plugin] = if cancelled { &[] } else { running.policies.failed() };
        let mut failed = sampler.into_iter().chain(policies).chain(&self.failed);
        match failed.find(|plugin| self.is_on_trial(plugin)).cloned() {
            Some(plugin) => {
                let why = match outcome {
                    Err(Stopped::Failed(error)) => error.to_string(),
                    _ => format!("plugin `{}` failed", plugin.name()),
                };
                self.roll_back(Some(&plugin), &why, &mut running.journal, sink);
                self.tell(&running.policies);
            }
            None if self.whole && self.tokens > 0 => (self.before, self.proved) = (None, None),
            None => {}
        }
    }

    /// Whether a plugin of the behaviour in force is not in one that there is to go back to.
    fn is_on_trial(&self, plugin: &Plugin) -> bool {
        let mut earlier = self.before.iter().chain(&self.proved);
        self.now.has(plugin) && earlier.any(|earlier| !earlier.has(plugin))
    }

    /// Puts a behaviour in the place of the one in force.
    fn replace(&mut self, new: Behaviour) {
        let old = std::mem::replace(&mut self.now, new);
        if old.same(&self.now) {
            return;
        }
        if std::mem::take(&mut self.chose) {
            let earlier = self.before.replace(old);
            self.proved = self.proved.take().or(earlier);
        }
    }

    /// Puts the last behaviour in force again that has not the plugin that failed, or the last if it was none.
    fn go_back(&mut self, failed: Option<&Plugin>) {
        while let Some(before) = self.before.take() {
            self.now = before;
            self.before = self.proved.take();
            self.chose = true;
            if failed.is_none_or(|failed| !self.now.has(failed)) {
                break;
            }
        }
    }

    fn roll_back(
        &mut self,
        failed: Option<&Plugin>,
        why: &str,
        journal: &mut Journal,
        sink: &mut dyn FnMut(Event),
    ) {
        let new = self.now.clone();
        self.go_back(failed);
        let back = new.swaps(&self.now, &Effect::RolledBack { why: why.to_owned() });
        journal.swap(&self.now, true, &back);
        self.emit(back, sink);
        self.forget(failed, why);
    }

    /// Goes back where the samplers of an answer have: tools of the same behaviour go with them, and policies with the next answer.
    fn revert(
        &mut self,
        reverted: Reverted,
        tools: &mut ToolSet,
        why: &str,
        journal: &mut Journal,
        sink: &mut dyn FnMut(Event),
    ) {
        let Reverted { swaps: mut back, failed } = reverted;
        let failed = failed.as_ref();
        if failed.is_none_or(|failed| self.now.has(failed)) {
            let new = self.now.clone();
            self.go_back(failed);
            let stay = Effect::NextAnswer { why: "an answer keeps the policies that it has".into() };
            let policies = new.swaps(&self.now, &stay).into_iter();
            back.extend(policies.filter(|swap| swap.world == World::Policy));
            let gone_back = tools.go_back(&self.now.tools);
            let all = new.swaps(&self.now, &Effect::RolledBack { why: why.to_owned() }).into_iter();
            back.extend(all.filter(|swap| swap.world == World::Tool).map(|swap| {
                let waits = |other: &&Swap| {
                    other.plugin == swap.plugin && matches!(other.effect, Effect::NextAnswer { .. })
                };
                gone_back.iter().find(waits).cloned().unwrap_or(swap)
            }));
        } else if self.before.iter().any(|before| failed.is_some_and(|failed| before.has(failed))) {
            // The samplers in force wait for the next answer, and are not what failed.
            self.before = self.proved.take();
        }
        journal.swap(&self.now, true, &back);
        self.emit(back, sink);
        self.forget(failed, why);
    }

    fn forget(&mut self, failed: Option<&Plugin>, why: &str) {
        if let (Some(reloads), Some(failed)) = (&self.reloads, failed) {
            reloads.note_failure(failed, why);
        }
    }

    fn emit(&self, swaps: Vec<Swap>, sink: &mut dyn FnMut(Event)) {
        for swap in swaps {
            sink(Event::Reloaded(Reload::new(swap, self.tokens)));
        }
    }

    /// Tells who follows what is in force now, in an answer with these policies.
    fn tell(&self, chain: &PolicyChain) {
        let Some(reloads) = &self.reloads else { return };
        if let Some(follower) = &mut *lock(&reloads.0.follower) {
            let behaviours = [&self.now].into_iter().chain(&self.before).chain(&self.proved);
            let mut policies: Vec<Plugin> = Vec::new();
            for plugin in chain.plugins().chain(behaviours.flat_map(|behaviour| &behaviour.policies)) {
                if !policies.iter().any(|known| known.same(plugin)) {
                    policies.push(plugin.clone());
                }
            }
            follower(&self.now, &policies);
        }
    }
}

impl Running {
    /// The samplers' choice for the next token, after changes that were offered meanwhile. `logits` is room for a copy
    /// of the `model`'s logits; `history` is the context, of which `prompt` tokens are the prompt.
    pub fn choose(
        &mut self,
        logits: &mut Vec<f32>,
        model: &[f32],
        (history, prompt): (&[u32], usize),
        sink: &mut dyn FnMut(Event),
    ) -> Result<Chosen> {
        if let Some(new) = self.changes.reloads.as_ref().and_then(Reloads::take) {
            self.reload(new, sink);
        }
        let copy = |logits: &mut Vec<f32>| {
            logits.clear();
            logits.extend_from_slice(model);
        };
        copy(logits);
        let chosen = match self.samplers.next(logits, history, prompt) {
            Ok(chosen) => chosen,
            Err(error) => {
                let Some(reverted) = self.samplers.revert() else { return Err(error.into()) };
                let why = error.to_string();
                self.changes.revert(reverted, &mut self.tools, &why, &mut self.journal, sink);
                self.changes.tell(&self.policies);
                copy(logits);
                self.samplers.next(logits, history, prompt)?
            }
        };
        self.changes.tokens += 1;
        self.changes.chose = true;
        Ok(chosen)
    }

    /// Changes the behaviour between two tokens, as far as that is possible.
    fn reload(&mut self, new: Behaviour, sink: &mut dyn FnMut(Event)) {
        // Other code for the same components is for the answers that follow.
        if new.same(&self.changes.now) {
            return self.changes.replace(new);
        }
        let mut swaps = self.samplers.reload(&new.samplers);
        let joining = self.policies.reload(&self.changes.now.policies, &new.policies);
        swaps.extend(joining.swaps);
        swaps.extend(self.tools.reload(&new.tools));
        self.journal.swap(&new, false, &swaps);
        self.changes.emit(swaps, sink);
        self.journal.verdicts(&joining.interventions);
        for intervention in &joining.interventions {
            sink(Event::Intervention(Intervention::from(intervention)));
        }
        self.changes.whole = false;
        self.changes.replace(new);
        self.changes.tell(&self.policies);
    }
}

impl Behaviour {
    /// Whether both have the same plugins in the same order.
    pub fn same(&self, other: &Self) -> bool {
        let lists = [
            (&self.samplers, &other.samplers),
            (&self.policies, &other.policies),
            (&self.tools, &other.tools),
        ];
        lists.iter().all(|(a, b)| a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same(b)))
    }

    /// Whether it has this plugin as it is.
    fn has(&self, plugin: &Plugin) -> bool {
        self.plugins().any(|own| own.same(plugin))
    }

    fn swaps(&self, new: &Self, effect: &Effect) -> Vec<Swap> {
        let lists =
            [(&self.samplers, &new.samplers), (&self.policies, &new.policies), (&self.tools, &new.tools)];
        lists.iter().flat_map(|(old, new)| swaps(old, new, effect)).collect()
    }
}
