//! The chain of samplers of one answer.

use std::sync::Arc;

use crate::World;
use crate::bindings::sampler::Sampler;
use crate::bindings::sampler::exports::membrane::plugin::sampler_plugin::Choice;
use crate::call::Instance;
use crate::engine::Host;
use crate::error::{Failure, HostError, Result};
use crate::exports::sampler::{Configure, Sample};
use crate::plugin::Plugin;
use crate::random::Random;
use crate::sampling::{Candidates, Repetition};
use crate::state::Step;
use crate::vocabulary::Vocabulary;

/// What an answer gives to its samplers.
#[derive(Clone)]
pub struct AnswerContext {
    /// The model's vocabulary.
    pub vocabulary: Arc<dyn Vocabulary>,
    /// Seed of the random source that `draw` and `random` use.
    pub seed: u64,
}

/// A token that a sampler chose.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The token; it is in the vocabulary and was in the running.
    pub token: u32,
    /// Name of the sampler.
    pub by: String,
    /// Its probability among the tokens in the running, if the sampler drew it from those.
    pub probability: Option<f32>,
}

/// Instances of samplers for one answer.
pub struct SamplerChain {
    pub(crate) instances: Vec<Instance<Sampler>>,
    /// The chain: indices of instances.
    pub(crate) order: Vec<usize>,
    /// What there is to go back to, after a reload.
    pub(crate) trial: Option<Trial>,
    /// Present between calls.
    pub(crate) step: Option<Box<Step>>,
}

/// A chain that has not proved itself yet, beside the one before it.
pub(crate) struct Trial {
    /// The chain that was in force: indices of instances.
    pub before: Vec<usize>,
    /// The random source at the start of the step.
    pub random: Random,
    /// The failure of the step, with the instance that failed if it was one of them.
    pub failure: Option<(Option<usize>, HostError)>,
    /// Whether the chain has chosen a token.
    pub chose: bool,
    /// States of the chain's new samplers after its last token, by name.
    pub states: Vec<(String, Vec<u8>)>,
}

impl Trial {
    pub fn new(before: Vec<usize>, random: Random) -> Self {
        Self { before, random, failure: None, chose: false, states: Vec::new() }
    }
}

impl SamplerChain {
    /// Starts an instance of each plugin and configures it. Errors: a plugin that is no sampler or fails to
    /// start.
    pub fn start(_host: &Host, plugins: &[Plugin], context: AnswerContext) -> Result<Self> {
        let step = Box::new(Step {
            candidates: Candidates::default(),
            history: Vec::new(),
            prompt_tokens: 0,
            random: Random::new(context.seed),
            repetition: Repetition::default(),
            drawn: None,
            vocabulary: context.vocabulary,
        });
        let mut chain = Self { instances: Vec::new(), order: Vec::new(), trial: None, step: Some(step) };
        for plugin in plugins {
            let instance = chain.start_one(plugin)?;
            chain.order.push(chain.instances.len());
            chain.instances.push(instance);
        }
        Ok(chain)
    }

    pub(crate) fn start_one(&mut self, plugin: &Plugin) -> Result<Instance<Sampler>> {
        plugin.require(World::Sampler)?;
        let mut instance = Instance::start(plugin)?;
        lend(&mut self.step, &mut instance, |instance| {
            instance.strict_hook(&Configure { parameters: plugin.parameters() })
        })?;
        Ok(instance)
    }

    /// Chooses the next token. `logits` has one for each token of the vocabulary and holds anything
    /// afterwards; `history` is the context so far, of which `prompt_tokens` belong to the prompt.
    ///
    /// Errors: logits that can't be sampled from, a plugin that fails, a token that is not in the running, or
    /// no choice.
    pub fn next(&mut self, logits: &mut Vec<f32>, history: &[u32], prompt_tokens: usize) -> Result<Chosen> {
        let Some(step) = self.step.as_deref_mut() else { return Err(self.no_choice()) };
        if let Err(error) = step.candidates.start(logits) {
            step.candidates.finish(logits);
            return Err(HostError::Logits(error.to_string()));
        }
        step.follow(history, prompt_tokens);
        if let Some(trial) = &mut self.trial {
            trial.random = step.random.clone();
        }
        let chosen = self.ask();
        if let Some(step) = self.step.as_deref_mut() {
            step.candidates.finish(logits);
        }
        if chosen.is_ok() {
            self.keep_states();
        }
        chosen
    }

    /// Asks one sampler after the other.
    fn ask(&mut self) -> Result<Chosen> {
        for at in 0..self.order.len() {
            let index = self.order[at];
            match self.ask_one(index) {
                Ok(None) => {}
                Ok(Some(chosen)) => return Ok(chosen),
                Err(failure) => return Err(self.failed(Some(index), failure.into())),
            }
        }
        Err(self.failed(None, self.no_choice()))
    }

    fn ask_one(&mut self, index: usize) -> Result<Option<Chosen>, Failure> {
        let instance = &mut self.instances[index];
        let choice = lend(&mut self.step, instance, |instance| instance.strict_hook(&Sample))?;
        let (Choice::Token(token), Some(step)) = (choice, self.step.as_deref()) else { return Ok(None) };
        if token >= step.candidates.vocabulary() {
            let size = step.candidates.vocabulary();
            let what = format!("it chose token {token}; the vocabulary has {size} tokens");
            return Err(instance.broke("sample", what));
        }
        if !step.candidates.is_running(token) {
            let what = format!("it chose token {token}, which is not in the running");
            return Err(instance.broke("sample", what));
        }
        let probability = step.drawn.filter(|drawn| drawn.0 == token).map(|drawn| drawn.1);
        Ok(Some(Chosen { token, by: instance.plugin.name().to_owned(), probability }))
    }

    fn failed(&mut self, index: Option<usize>, error: HostError) -> HostError {
        if let Some(trial) = &mut self.trial {
            trial.failure = Some((index, error.clone()));
        }
        error
    }

    fn no_choice(&self) -> HostError {
        let names: Vec<&str> = self.order.iter().map(|&index| self.instances[index].plugin.name()).collect();
        let asked = if names.is_empty() { "there is none".into() } else { names.join(", ") };
        HostError::NoChoice { asked }
    }
}

/// Lends the step to an instance for a call.
pub(crate) fn lend<R>(
    step: &mut Option<Box<Step>>,
    instance: &mut Instance<Sampler>,
    call: impl FnOnce(&mut Instance<Sampler>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    instance.state().step = step.take();
    let result = call(instance);
    *step = instance.state().step.take();
    result
}
