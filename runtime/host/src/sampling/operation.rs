//! The standard operations, as data. Their meanings are those of llama.cpp's samplers of the same names.

use super::candidates::{Candidates, SamplingError};
use super::dry::Breakers;
use super::{cuts, dry, penalties};
use crate::limits::{MAX_BREAKER_BYTES, MAX_BREAKERS};
use crate::vocabulary::Vocabulary;

/// A standard operation on the logits of a step. At least one token survives each.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Adds to the logits of tokens; minus infinity forbids a token.
    LogitBias(Vec<(u32, f32)>),
    /// Repetition, frequency and presence penalties.
    Penalties(Penalties),
    /// "Don't repeat yourself".
    Dry(Dry),
    /// Keeps logits within n standard deviations of the largest; 0 or less is off.
    TopNSigma(f32),
    /// Keeps the k largest; 0 or less is off.
    TopK(i32),
    /// Keeps the locally typical tokens of this mass; 1 or more is off.
    Typical(f32),
    /// Keeps the smallest set of at least this mass; 1 or more is off.
    TopP(f32),
    /// Keeps tokens of at least this fraction of the largest probability; 0 or less is off.
    MinP(f32),
    /// Excludes top choices.
    Xtc(Xtc),
    /// Divides logits by a temperature, fixed or dynamic.
    Temperature(Temperature),
    /// Keeps tokens whose surprise is at most this many bits.
    SurpriseLimit(f32),
}

/// Penalties over the last tokens of the history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Tokens to look back; 0 is none, a negative number all.
    pub last: i32,
    /// Positive logits are divided by it, others multiplied; 1 is off.
    pub repeat: f32,
    /// Subtracted for each occurrence.
    pub frequency: f32,
    /// Subtracted once if there is an occurrence.
    pub presence: f32,
}

/// Penalty for tokens that continue a repetition.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// The penalty of a repetition that is as long as allowed; 0 is off.
    pub multiplier: f32,
    /// Growth of the penalty with each further token; less than 1 is off.
    pub base: f32,
    /// Length up to which a repetition is free, in tokens.
    pub allowed_length: u32,
    /// Tokens to look back; 0 is none, a negative number all.
    pub last: i32,
    /// Texts that break a repetition.
    pub breakers: Vec<String>,
}

/// Exclude top choices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Xtc {
    /// How often it acts, 0 to 1.
    pub probability: f32,
    /// Probability above which a token is a top choice; above 0.5 it is off.
    pub threshold: f32,
}

/// A temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// Logits are divided by it; 0 or less keeps only the likeliest token.
    pub temperature: f32,
    /// Half the width of the dynamic range; 0 or less is a fixed temperature.
    pub range: f32,
    /// Exponent of the normalised entropy in the dynamic range.
    pub exponent: f32,
}

/// What repetition operations keep from token to token of an answer.
#[derive(Debug, Default)]
pub struct Repetition {
    /// For each token of the vocabulary how often it occurs; all zero between calls.
    pub(super) counts: Vec<u32>,
    pub(super) breakers: Breakers,
}

impl Repetition {
    /// Whether these are the breakers of the call before, of which what was found out is kept.
    pub fn knows_breakers(&self, dry: &Dry) -> bool {
        self.breakers.are(&dry.breakers)
    }
}

/// What operations may use beside the candidates.
pub struct Context<'a> {
    /// Tokens of the context, prompt included.
    pub history: &'a [u32],
    /// The model's vocabulary.
    pub vocabulary: &'a dyn Vocabulary,
    /// 64 random bits from the answer's source.
    pub random: &'a mut dyn FnMut() -> u64,
    /// Memory of the answer.
    pub repetition: &'a mut Repetition,
}

impl Operation {
    /// Runs the operation. Errors, before anything is changed: a parameter that is not a number or makes no
    /// sense, a token outside the vocabulary. Error in the middle: no token is in the running.
    pub fn apply(&self, candidates: &mut Candidates, context: &mut Context) -> Result<(), SamplingError> {
        self.check()?;
        match self {
            Operation::LogitBias(biases) => candidates.add(biases.iter().copied()),
            Operation::Penalties(penalties) => {
                penalties::apply(penalties, candidates, context);
                Ok(())
            }
            Operation::Dry(dry) => {
                dry::apply(dry, candidates, context);
                Ok(())
            }
            Operation::TopNSigma(n) => cuts::top_n_sigma(candidates, *n),
            Operation::TopK(k) => {
                cuts::top_k(candidates, *k);
                Ok(())
            }
            Operation::Typical(p) => cuts::typical(candidates, *p),
            Operation::TopP(p) => cuts::top_p(candidates, *p),
            Operation::MinP(p) => cuts::min_p(candidates, *p),
            Operation::Xtc(xtc) => cuts::xtc(candidates, xtc, context.random),
            Operation::Temperature(temperature) => cuts::temperature(candidates, temperature),
            Operation::SurpriseLimit(bits) => cuts::surprise_limit(candidates, *bits),
        }
    }

    /// How many tokens of the history the operation looks at.
    pub fn looks_back(&self, history: usize) -> usize {
        let last = match self {
            Operation::Penalties(penalties) => penalties.last,
            Operation::Dry(dry) => dry.last,
            _ => 0,
        };
        usize::try_from(last).map_or(history, |last| last.min(history))
    }

    /// Refuses parameters that are not numbers, by name.
    pub fn check(&self) -> Result<(), SamplingError> {
        let numbers: &[(&str, f32)] = match self {
            Operation::LogitBias(_) | Operation::TopK(_) => &[],
            Operation::Penalties(p) => &[
                ("penalties.repeat", p.repeat),
                ("penalties.frequency", p.frequency),
                ("penalties.presence", p.presence),
            ],
            Operation::Dry(dry) => &[("dry.multiplier", dry.multiplier), ("dry.base", dry.base)],
            Operation::TopNSigma(n) => &[("top-n-sigma", *n)],
            Operation::Typical(p) => &[("typical", *p)],
            Operation::TopP(p) => &[("top-p", *p)],
            Operation::MinP(p) => &[("min-p", *p)],
            Operation::Xtc(xtc) => &[("xtc.probability", xtc.probability), ("xtc.threshold", xtc.threshold)],
            Operation::Temperature(t) => &[
                ("temperature.temperature", t.temperature),
                ("temperature.range", t.range),
                ("temperature.exponent", t.exponent),
            ],
            Operation::SurpriseLimit(bits) => &[("surprise-limit", *bits)],
        };
        if let Some((name, value)) = numbers.iter().find(|(_, value)| !value.is_finite()) {
            return Err(SamplingError::Parameter(format!("{name} is {value}, which is not a finite number")));
        }
        match self {
            Operation::Penalties(p) if p.repeat <= 0.0 => Err(SamplingError::Parameter(format!(
                "penalties.repeat is {}; it divides logits and must be above 0, where 1 is off",
                p.repeat
            ))),
            Operation::Dry(dry) if dry.breakers.len() > MAX_BREAKERS => Err(SamplingError::Parameter(
                format!("dry.breakers has {} texts, more than {MAX_BREAKERS}", dry.breakers.len()),
            )),
            Operation::Dry(dry) => match dry.breakers.iter().find(|text| text.len() > MAX_BREAKER_BYTES) {
                Some(long) => Err(SamplingError::Parameter(format!(
                    "dry.breakers has a text of {} bytes, more than {MAX_BREAKER_BYTES}",
                    long.len()
                ))),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// The last tokens of a history: `last` of them, or all if it is negative.
pub(super) fn tail(history: &[u32], last: i32) -> &[u32] {
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    &history[history.len().saturating_sub(last)..]
}
