//! A chain of samplers that takes the place of another between two tokens.

use crate::bindings::sampler::Sampler;
use crate::call::Instance;
use crate::error::{Cause, Failure, Result};
use crate::plugin::Plugin;
use crate::reload::{Effect, Swap, changed, removed, swaps};
use crate::sampler::{SamplerChain, Trial, lend};

/// A chain that is in force again.
#[derive(Debug, Clone)]
pub struct Reverted {
    /// What changed by that.
    pub swaps: Vec<Swap>,
    /// The plugin that failed; none if no sampler chose a token.
    pub failed: Option<Plugin>,
}

impl SamplerChain {
    /// Puts the chain `after` in the place of the one that runs, from the next token on. Samplers that are in both go
    /// on; one that is new in a name starts, with the state of the one before it if both keep state. If one can't
    /// start, or can't go on from the state, nothing changes in this answer.
    pub fn reload(&mut self, after: &[Plugin]) -> Vec<Swap> {
        let before = &self.plugins(&self.order);
        let started = self.instances.len();
        let (order, carried) = match self.arrange(after, true) {
            Ok(arranged) => arranged,
            Err(failure) => {
                self.instances.truncate(started);
                let effect = Effect::NextAnswer { why: failure.to_string() };
                let waiting = changed(before, after);
                return waiting
                    .filter_map(|(old, new)| Swap::between(old, Some(new), effect.clone()))
                    .collect();
            }
        };
        let old = std::mem::replace(&mut self.order, order);
        // What never chose a token is nothing to go back to.
        if self.trial.as_ref().is_none_or(|trial| trial.chose) {
            self.trial = self.step.as_deref().map(|step| Trial::new(old, step.random.clone()));
        }
        self.discard();
        let live = |name: &str| Effect::Live { state: carried.iter().any(|carried| carried == name) };
        let new = changed(before, after).map(|(old, new)| Swap::between(old, Some(new), live(new.name())));
        let gone = removed(before, after).map(|old| Swap::between(Some(old), None, live(old.name())));
        new.chain(gone).flatten().collect()
    }

    /// Lets the answer go back to the chain `before`, started now, should one of those that it began with fail.
    /// Errors: one of `before` does not start.
    pub fn fall_back_to(&mut self, before: &[Plugin]) -> Result<()> {
        let Some(random) = self.step.as_deref().map(|step| step.random.clone()) else { return Ok(()) };
        let (order, _) = self.arrange(before, false)?;
        // The answer gets the random numbers that it would get without a chain to go back to.
        if let Some(step) = self.step.as_deref_mut() {
            step.random = random.clone();
        }
        self.trial = Some(Trial::new(order, random));
        Ok(())
    }

    /// The sampler of this name that runs.
    pub fn named(&self, name: &str) -> Option<&Plugin> {
        self.order.iter().map(|&index| &self.instances[index].plugin).find(|plugin| plugin.name() == name)
    }

    /// Goes back to the chain before the reload if the last step failed in what is new; none if there is nothing else to go
    /// back to. The step can be made again then, with the same logits; the random source stands where it stood.
    /// Samplers that are in both chains and were asked before the one that failed are asked once more for this token.
    pub fn revert(&mut self) -> Option<Reverted> {
        let Trial { before, random, failure, states, .. } = self.trial.take()?;
        let (failed, error) = failure?;
        if failed.map_or(before == self.order, |index| before.contains(&index)) {
            return None;
        }
        let failed = failed.map(|index| self.instances[index].plugin.clone());
        let reverted = std::mem::replace(&mut self.order, before);
        let new = self.plugins(&reverted);
        self.catch_up(&states);
        let old = self.plugins(&self.order);
        if let Some(step) = self.step.as_deref_mut() {
            step.random = random;
        }
        self.discard();
        let effect = Effect::RolledBack { why: error.to_string() };
        Some(Reverted { swaps: swaps(&new, &old, &effect), failed })
    }

    /// After a token of a chain on trial: keeps the states of its new samplers, for the chain before it to go on from.
    pub(crate) fn keep_states(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.chose = true;
        for index in self.order.iter().filter(|index| !trial.before.contains(index)) {
            let instance = &mut self.instances[*index];
            // Where it fails the instance is dead, and the next token goes back to the last state.
            let Ok(Some(state)) = lend(&mut self.step, instance, Instance::snapshot) else { continue };
            let name = instance.plugin.name();
            match trial.states.iter_mut().find(|(kept, _)| kept == name) {
                Some((_, kept)) => *kept = state,
                None => trial.states.push((name.to_owned(), state)),
            }
        }
    }

    /// Brings samplers that stood still to states that others of the same name came to meanwhile.
    fn catch_up(&mut self, states: &[(String, Vec<u8>)]) {
        for at in 0..self.order.len() {
            let plugin = self.instances[self.order[at]].plugin.clone();
            let Some((_, state)) = states.iter().find(|(name, _)| name == plugin.name()) else { continue };
            if !plugin.keeps_state() {
                continue;
            }
            // A fresh one, since `restore` is for those. Where it can't go on the one that stood still does.
            let Ok(mut fresh) = self.start_one(&plugin) else { continue };
            if let Ok(true) = lend(&mut self.step, &mut fresh, |fresh| fresh.restore(state)) {
                self.order[at] = self.instances.len();
                self.instances.push(fresh);
            }
        }
    }

    fn plugins(&self, order: &[usize]) -> Vec<Plugin> {
        order.iter().map(|&index| self.instances[index].plugin.clone()).collect()
    }

    /// Instances for a chain: those that run already, and new ones, with the state of those of the same name if
    /// `carry`. Gives the names of those that go on from a state.
    fn arrange(&mut self, plugins: &[Plugin], carry: bool) -> Result<(Vec<usize>, Vec<String>)> {
        let (mut order, mut carried) = (Vec::with_capacity(plugins.len()), Vec::new());
        let running = self.plugins(&self.order);
        for plugin in plugins {
            if let Some(at) = running.iter().position(|old| old.same(plugin)) {
                order.push(self.order[at]);
                continue;
            }
            let mut instance = self.start_one(plugin)?;
            if carry
                && let Some(at) = running.iter().position(|old| old.name() == plugin.name())
                && self.carry(self.order[at], &mut instance)?
            {
                carried.push(plugin.name().to_owned());
            }
            order.push(self.instances.len());
            self.instances.push(instance);
        }
        Ok((order, carried))
    }

    /// Hands the state of a running instance to a new one. False if one of them keeps none.
    fn carry(&mut self, from: usize, to: &mut Instance<Sampler>) -> Result<bool, Failure> {
        if !to.plugin.keeps_state() {
            return Ok(false);
        }
        let bytes = match lend(&mut self.step, &mut self.instances[from], Instance::snapshot) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(false),
            Err(failure @ Failure { cause: Cause::Broke(_), .. }) => return Err(failure),
            // The old one is dead, and a new beginning better than none.
            Err(_) => return Ok(false),
        };
        lend(&mut self.step, to, |to| to.restore(&bytes))
    }

    /// Lets go of instances that are in no chain.
    fn discard(&mut self) {
        let trial = self.trial.as_mut().map(|trial| &mut trial.before);
        let mut used: Vec<usize> = self.order.clone();
        used.extend(trial.iter().flat_map(|before| before.iter().copied()));
        used.sort_unstable();
        used.dedup();
        let place = |index: &mut usize| *index = used.binary_search(index).unwrap_or_default();
        self.order.iter_mut().for_each(place);
        if let Some(before) = trial {
            before.iter_mut().for_each(place);
        }
        let mut index = 0;
        self.instances.retain(|_| {
            index += 1;
            used.binary_search(&(index - 1)).is_ok()
        });
    }
}
