//! Generation again: a recorded answer through the model and samplers, token by token. Nothing is emitted.
//!
//! The session is given each recorded token whatever the samplers choose now (teacher forcing), so that one
//! difference does not hide what comes behind it. With the samplers, seed and model of the record this is the
//! generation itself, bit for bit: as long as each choice is the recorded one, so is the context of the next.
//!
//! Where plugins were exchanged in the middle of the answer, they are exchanged again at the same tokens, by the same code
//! as then: states are carried the same way, and a version that failed fails again and is taken back.

use std::collections::BTreeMap;

use membrane_audit::{ChosenToken, Judged, LogProbability, Script, Step, Swap, Swapped};
use membrane_engine::Session;
use membrane_host::reload::Swap as Exchanged;
use membrane_host::{AnswerContext, Chosen, SamplerChain, World};
use membrane_text::Constraint;
use serde::Serialize;

use crate::answer::Generator;
use crate::behaviour::Behaviour;
use crate::error::{GenerateError, Result};
use crate::journal::{grammar, swapped};
use crate::scoring;

/// Behaviours by the numbers of their records: those that answers took over in their middle, or would have gone back to.
pub type Versions = BTreeMap<u64, Behaviour>;

/// A token that was chosen at some place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Its id.
    pub token: u32,
    /// Its text, as far as its bytes are text.
    pub text: String,
    /// Name of the sampler that chose it.
    pub by: String,
    /// Its probability among the tokens that the sampler had left, if it drew it from those.
    pub probability: Option<f32>,
    /// Its probability by the model alone: softmax over the whole vocabulary.
    pub model_probability: f32,
    /// Its place among all tokens by the model alone, from 1.
    pub rank: usize,
}

/// A place at which the samplers choose otherwise now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Place in the answer, from 0.
    pub index: u64,
    /// What the record has.
    pub recorded: Candidate,
    /// What is chosen now.
    pub now: Candidate,
}

/// What counts as the same choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// The token, the sampler that chose it and its probability to the bit: for the recorded samplers.
    Bits,
    /// The token: for others.
    Tokens,
}

/// What came of a replay.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Replayed {
    /// Rounds.
    pub rounds: u64,
    /// Tokens that were chosen again.
    pub tokens: u64,
    /// Of these, tokens that came out as they are recorded.
    pub same: u64,
    /// Tokens of the prompts that the session still had.
    pub reused: u64,
    /// Times that samplers were exchanged, or taken back, in the middle of the answer.
    pub swaps: u64,
    /// The first place that differs.
    pub first: Option<Difference>,
    /// The first exchange that came out otherwise than it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_swap: Option<String>,
    /// Judgements of the model that were computed again.
    pub judgements: u64,
    /// The first of them whose scores are not the recorded ones, to the bit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_judgement: Option<String>,
}

impl Replayed {
    /// Whether every token came out as it is recorded, every exchange of samplers and every judgement.
    pub fn identical(&self) -> bool {
        self.same == self.tokens && self.first_swap.is_none() && self.first_judgement.is_none()
    }
}

impl Generator {
    /// Generates a recorded answer again with this generator's samplers and the seed of the record, and says where
    /// it differs. With [`Sameness::Tokens`] its samplers stand in the place of all of the record's `versions`.
    ///
    /// Errors: the log has not the token ids, a behaviour of the answer is not among the `versions`, a sampler or the
    /// model fails.
    pub fn replay(
        &mut self,
        answer: u64,
        seed: u64,
        script: &Script,
        sameness: Sameness,
        versions: &Versions,
    ) -> Result<Replayed> {
        if !script.ids {
            let what = "can't be generated again: the log has only digests of its tokens".to_owned();
            return Err(GenerateError::Replay { answer, what });
        }
        let constraint = self.recorded_constraint(answer, script)?;
        let context = AnswerContext { vocabulary: self.words.clone(), seed };
        let samplers = SamplerChain::start(&self.host, &self.behaviours.now().samplers, context)?;
        let mut replay = Replay {
            answer,
            versions: (sameness == Sameness::Bits).then_some(versions),
            generator: self,
            samplers,
            constraint,
            sameness,
            rolled_back: None,
            prompt: Vec::new(),
            last: None,
            logits: Vec::new(),
            done: Replayed::default(),
        };
        replay.begin(script.before)?;
        for step in &script.steps {
            match step {
                Step::Prompt { ids: Some(ids), .. } => replay.prompt(ids)?,
                Step::Rewind { ids: Some(ids) } => replay.rewind(ids)?,
                Step::Token(token) => replay.token(token)?,
                Step::Swap(swap) => replay.swap(swap)?,
                _ => {}
            }
        }
        replay.judgements(&script.judgements)?;
        Ok(replay.done)
    }
}

impl Generator {
    /// What the text of a recorded answer had to follow. Errors: the log does not have it, or it can't be read.
    fn recorded_constraint(&self, answer: u64, script: &Script) -> Result<Option<Constraint>> {
        let refuse = |what: String| GenerateError::Replay { answer, what };
        let Some(recorded) = &script.constraint else { return Ok(None) };
        let grammar = grammar(recorded).ok_or_else(|| {
            refuse("can't be generated again: the log has only the digest of its grammar".to_owned())
        })?;
        let grammar = grammar.map_err(|error| refuse(format!("its grammar can't be read: {error}")))?;
        Ok(Some(self.model.grammars()?.compile(&grammar)?))
    }
}

struct Replay<'a> {
    answer: u64,
    /// None where other samplers stand in the place of all versions.
    versions: Option<&'a Versions>,
    generator: &'a mut Generator,
    samplers: SamplerChain,
    constraint: Option<Constraint>,
    sameness: Sameness,
    /// The record says that the samplers fail at the next token, and which are gone back to.
    rolled_back: Option<&'a Swap>,
    prompt: Vec<u32>,
    /// The recorded token that the session does not hold yet: of the last one no logits are needed.
    last: Option<u32>,
    logits: Vec<f32>,
    done: Replayed,
}

impl<'a> Replay<'a> {
    /// Puts what the answer would have gone back to beside its samplers, if it began on trial.
    fn begin(&mut self, before: Option<u64>) -> Result<()> {
        if let (Some(number), Some(versions)) = (before, self.versions) {
            let before = self.version(versions, number)?;
            // As in the answer: where that does not start there is nothing to go back to.
            let _ = self.samplers.fall_back_to(&before.samplers);
        }
        Ok(())
    }

    fn version(&self, versions: &'a Versions, number: u64) -> Result<&'a Behaviour> {
        let what = || format!("behaviour {number}, which was in force in the middle of it, is not there");
        versions.get(&number).ok_or_else(|| GenerateError::Replay { answer: self.answer, what: what() })
    }

    /// Exchanges samplers as it is recorded, or notes that they will fail.
    fn swap(&mut self, swap: &'a Swap) -> Result<()> {
        let Some(versions) = self.versions else { return Ok(()) };
        if swap.rolled_back {
            self.rolled_back = Some(swap);
            return Ok(());
        }
        let new = self.version(versions, swap.behaviour)?;
        let exchanged = self.samplers.reload(&new.samplers);
        self.exchanged(swap.token, &swap.plugins, &exchanged);
        Ok(())
    }

    /// Compares what became of the samplers with the record.
    fn exchanged(&mut self, token: u64, recorded: &[Swapped], now: &[Exchanged]) {
        let sampler = |swapped: &&Swapped| swapped.kind == World::Sampler.as_str();
        self.done.swaps += 1;
        if !recorded.iter().filter(sampler).eq(now.iter().map(swapped).collect::<Vec<_>>().iter()) {
            self.otherwise(format!("the exchange of samplers at token {token} came out otherwise"));
        }
    }

    fn otherwise(&mut self, what: String) {
        self.done.first_swap.get_or_insert(what);
    }

    /// Judges again what the model judged then. The tokens of the answer are done with, so that its session can be used.
    fn judgements(&mut self, recorded: &[Judged]) -> Result<()> {
        for judged in recorded {
            let (Some(scores), Some(ids)) = (&judged.scores, &judged.ids) else { continue };
            let tokens = ids.continuations.iter().flatten().chain(&ids.question);
            let size = self.generator.model.hyperparameters().vocabulary as u32;
            let fits = !ids.question.is_empty() && tokens.copied().all(|token| token < size);
            let now = match fits {
                true => scoring::in_turn(self.session(), &ids.question, &ids.continuations)?,
                false => Vec::new(),
            };
            self.done.judgements += 1;
            if !scores.iter().copied().eq(now.iter().copied().map(LogProbability)) {
                let (number, policy) = (self.done.judgements, &judged.policy);
                let what = format!("judgement {number}, for policy {policy}, comes out otherwise");
                self.done.first_judgement.get_or_insert(what);
            }
        }
        Ok(())
    }

    fn session(&mut self) -> &mut Session {
        &mut self.generator.session
    }

    fn prompt(&mut self, ids: &[u32]) -> Result<()> {
        self.last = None;
        self.prompt = ids.to_vec();
        self.done.rounds += 1;
        if let Some(constraint) = &mut self.constraint {
            constraint.walk(&[])?;
        }
        // A policy refused it before it was cut into tokens.
        if !ids.is_empty() {
            let synced = self.session().sync(ids)?;
            self.done.reused += synced.reused as u64;
        }
        Ok(())
    }

    fn rewind(&mut self, behind: &[u32]) -> Result<()> {
        self.last = None;
        let ids = [&self.prompt[..], behind].concat();
        if let Some(constraint) = &mut self.constraint
            && constraint.walk(behind).is_err()
        {
            // The answer ended there.
            return Ok(());
        }
        // Where the context has no room for it, the answer ended there.
        if ids.len() <= self.session().tokens().len() + self.session().room() {
            self.session().sync(&ids)?;
        }
        Ok(())
    }

    fn token(&mut self, recorded: &ChosenToken) -> Result<()> {
        if let Some(last) = self.last.take() {
            self.session().append(&[last])?;
        }
        let id = recorded.id.unwrap_or_default();
        let now = self.choose(recorded.index)?;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(id)?;
        }
        self.done.tokens += 1;
        if same(recorded, &now, self.sameness) {
            self.done.same += 1;
        } else if self.done.first.is_none() {
            let was = Chosen { token: id, by: recorded.by.clone(), probability: recorded.probability };
            let (recorded_token, now) = (self.candidate(was)?, self.candidate(now)?);
            self.done.first = Some(Difference { index: recorded.index, recorded: recorded_token, now });
        }
        self.last = Some(id);
        Ok(())
    }

    /// What the samplers choose now, after those that fail were taken back.
    fn choose(&mut self, token: u64) -> Result<Chosen> {
        let rolled_back = self.rolled_back.take();
        let error = match self.next() {
            Ok(chosen) => {
                if rolled_back.is_some() {
                    self.otherwise(format!("samplers failed at token {token} then, and do not now"));
                }
                return Ok(chosen);
            }
            Err(error) => error,
        };
        let Some(reverted) = self.samplers.revert() else { return Err(error) };
        match rolled_back {
            Some(swap) => self.exchanged(swap.token, &swap.plugins, &reverted.swaps),
            None => self.otherwise(format!("samplers fail at token {token}, and did not then: {error}")),
        }
        self.next()
    }

    fn next(&mut self) -> Result<Chosen> {
        self.logits.clear();
        self.logits.extend_from_slice(self.generator.session.logits());
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(&mut self.logits)?;
        }
        let history = self.generator.session.tokens();
        Ok(self.samplers.next(&mut self.logits, history, self.prompt.len())?)
    }

    /// A token with what the model alone says of it here.
    fn candidate(&self, chosen: Chosen) -> Result<Candidate> {
        let logits = self.generator.session.logits();
        let tokenizer = self.generator.model.tokenizer()?;
        let text =
            tokenizer.token_bytes(chosen.token).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let own = logits.get(chosen.token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
        Ok(Candidate {
            token: chosen.token,
            text: text.unwrap_or_default(),
            by: chosen.by,
            probability: chosen.probability,
            model_probability: (f64::from(own - most).exp() / sum) as f32,
            rank: 1 + logits.iter().filter(|logit| **logit > own).count(),
        })
    }
}

fn same(recorded: &ChosenToken, now: &Chosen, sameness: Sameness) -> bool {
    recorded.id == Some(now.token)
        && (sameness == Sameness::Tokens
            || recorded.by == now.by
                && recorded.probability.map(f32::to_bits) == now.probability.map(f32::to_bits))
}
