//! The interface `logits`.

use crate::bindings::sampler::membrane::plugin::logits as wit;
use crate::limits::MAX_TOP;
use crate::random::uniform;
use crate::sampling::{self, Context, Operation, SamplingError};
use crate::state::{State, Step};

type Outcome<T> = wasmtime::Result<Result<T, String>>;

/// What the contract takes as the error of a guest's mistake.
fn told<T>(result: Result<T, SamplingError>) -> Outcome<T> {
    Ok(result.map_err(|error| error.to_string()))
}

/// Looking at every candidate once.
fn look(step: &Step) -> usize {
    step.candidates.span()
}

impl wit::Host for State {
    fn top(&mut self, n: u32) -> wasmtime::Result<Vec<wit::Candidate>> {
        let n = n.min(MAX_TOP) as usize;
        let top = self.step(look)?.candidates.top(n);
        let candidate = |(candidate, probability): (sampling::Candidate, f32)| wit::Candidate {
            token: candidate.token,
            logit: candidate.logit,
            probability,
        };
        // None is in the running where a plugin has forbidden all; an empty list says so.
        Ok(top.unwrap_or_default().into_iter().map(candidate).collect())
    }

    fn count(&mut self) -> wasmtime::Result<u32> {
        Ok(self.step(look)?.candidates.count() as u32)
    }

    fn get(&mut self, token: u32) -> Outcome<f32> {
        let scan = |step: &Step| step.candidates.get_cost();
        told(self.step(scan)?.candidates.get(token))
    }

    fn add(&mut self, biases: Vec<wit::Bias>) -> Outcome<()> {
        let step = self.step(|step| biases.len() * step.candidates.change_cost())?;
        told(step.candidates.add(biases.iter().map(|bias| (bias.token, bias.bias))))
    }

    fn mask(&mut self, kind: wit::MaskKind, tokens: Vec<u32>) -> Outcome<()> {
        let step = self.step(|step| look(step) + tokens.len() * 20)?;
        told(match kind {
            wit::MaskKind::Allow => step.candidates.allow(&tokens),
            wit::MaskKind::Forbid => step.candidates.forbid(&tokens),
        })
    }

    fn apply(&mut self, operations: Vec<wit::Operation>) -> Outcome<()> {
        let operations: Vec<Operation> = operations.into_iter().map(operation).collect();
        self.charge(operations.iter().map(handed_over).sum())?;
        for operation in &operations {
            if let Err(error) = operation.check() {
                return Ok(Err(error.to_string()));
            }
            let step = self.step(|step| cost(operation, step))?;
            let Step { candidates, history, random, repetition, vocabulary, .. } = step;
            let mut context = Context {
                history,
                vocabulary: vocabulary.as_ref(),
                random: &mut || random.bits(),
                repetition,
            };
            if let Err(error) = operation.apply(candidates, &mut context) {
                return Ok(Err(error.to_string()));
            }
        }
        Ok(Ok(()))
    }

    fn draw(&mut self) -> Outcome<wit::Drawn> {
        let step = self.step(|step| look(step) * SORT_UNITS)?;
        let uniform = uniform(step.random.bits());
        let drawn = step.candidates.draw(uniform);
        drawn_token(step, drawn)
    }

    fn greedy(&mut self) -> Outcome<wit::Drawn> {
        let step = self.step(look)?;
        let drawn = step.candidates.greedy();
        drawn_token(step, drawn)
    }
}

/// Notes which token was drawn, and tells the guest.
fn drawn_token(step: &mut Step, drawn: Result<(u32, f32), SamplingError>) -> Outcome<wit::Drawn> {
    step.drawn = drawn.as_ref().ok().copied();
    told(drawn.map(|(token, probability)| wit::Drawn { token, probability }))
}

/// Units for each candidate of what may have to sort them all.
const SORT_UNITS: usize = 16;
/// Units for each token of the history that an operation looks at.
const HISTORY_UNITS: usize = 20;

/// Units for each byte of new breakers, for each token of the history: beginnings of them are cut into tokens.
const BREAKER_UNITS: usize = 8;

/// Units for taking an operation over, whatever becomes of it.
fn handed_over(operation: &Operation) -> usize {
    const UNITS: usize = 10;
    match operation {
        Operation::LogitBias(biases) => UNITS + biases.len(),
        Operation::Dry(dry) => {
            UNITS + dry.breakers.iter().map(|breaker| UNITS + breaker.len()).sum::<usize>()
        }
        _ => UNITS,
    }
}

/// Units of work of an operation at its worst: what it looks at, of candidates and of history.
fn cost(operation: &Operation, step: &Step) -> usize {
    let span = step.candidates.span();
    let back = operation.looks_back(step.history.len());
    match operation {
        Operation::LogitBias(biases) => biases.len() * step.candidates.change_cost(),
        Operation::Penalties(_) => back * (HISTORY_UNITS + step.candidates.change_cost().min(span)),
        Operation::Dry(dry) => {
            let bytes: usize = dry.breakers.iter().map(String::len).sum();
            let new = if step.repetition.knows_breakers(dry) { 0 } else { bytes * BREAKER_UNITS };
            back * (HISTORY_UNITS + step.candidates.change_cost().min(span) + new)
        }
        Operation::TopP(_) | Operation::Xtc(_) => span * SORT_UNITS,
        Operation::Typical(_) => span * SORT_UNITS * 4,
        _ => span * 4,
    }
}

fn operation(operation: wit::Operation) -> Operation {
    match operation {
        wit::Operation::LogitBias(biases) => {
            Operation::LogitBias(biases.into_iter().map(|bias| (bias.token, bias.bias)).collect())
        }
        wit::Operation::Penalties(p) => Operation::Penalties(sampling::Penalties {
            last: p.last,
            repeat: p.repeat,
            frequency: p.frequency,
            presence: p.presence,
        }),
        wit::Operation::Dry(dry) => Operation::Dry(sampling::Dry {
            multiplier: dry.multiplier,
            base: dry.base,
            allowed_length: dry.allowed_length,
            last: dry.last,
            breakers: dry.breakers,
        }),
        wit::Operation::TopNSigma(n) => Operation::TopNSigma(n),
        wit::Operation::TopK(k) => Operation::TopK(k),
        wit::Operation::Typical(p) => Operation::Typical(p),
        wit::Operation::TopP(p) => Operation::TopP(p),
        wit::Operation::MinP(p) => Operation::MinP(p),
        wit::Operation::Xtc(xtc) => {
            Operation::Xtc(sampling::Xtc { probability: xtc.probability, threshold: xtc.threshold })
        }
        wit::Operation::Temperature(t) => Operation::Temperature(sampling::Temperature {
            temperature: t.temperature,
            range: t.range,
            exponent: t.exponent,
        }),
        wit::Operation::SurpriseLimit(bits) => Operation::SurpriseLimit(bits),
    }
}
