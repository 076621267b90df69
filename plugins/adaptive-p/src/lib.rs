//! Adaptive-p: prefers tokens whose probability is near a target, and moves the target so that what is chosen is near it on
//! average. In the form of llama.cpp (sampler `adaptive-p`); described at <https://github.com/MrJackSpade/adaptive-p-docs>.
#![forbid(unsafe_code)]

mod target;

use membrane_plugin::sampler::{Choice, Sampler, logits};
use membrane_plugin::state::State;
use serde::Deserialize;

use logits::{Bias, Candidate, Operation};
use target::Target;

/// Tokens that are weighed; those behind them are cut.
const MOST: u32 = 1024;

/// The parameters in the profile. See `plugin.toml` for their ranges.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Probability that chosen tokens have on average.
    pub target: f64,
    /// How long choices are remembered: about 1 / (1 - decay) tokens.
    pub decay: f64,
    /// Tokens below this fraction of the largest probability are cut first: what is unlikely enough is near no target.
    pub min_p: f32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { target: 0.5, decay: 0.9, min_p: 0.05 }
    }
}

impl Parameters {
    /// Refuses values out of range. The error names the parameter and its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("target", self.target, 0.0, 1.0),
            ("decay", self.decay, 0.0, 0.99),
            ("min_p", f64::from(self.min_p), 0.0, 1.0),
        ];
        match ranges.into_iter().find(|(_, value, least, most)| !(*least..=*most).contains(value)) {
            Some((name, value, least, most)) => {
                Err(format!("{name}: {value} is not between {least} and {most}"))
            }
            None => Ok(()),
        }
    }
}

/// The sampler, with the memory of one answer.
pub struct AdaptiveP {
    min_p: f32,
    target: Target,
}

impl Sampler for AdaptiveP {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        parameters.check()?;
        Ok(Self { min_p: parameters.min_p, target: Target::new(parameters.target, parameters.decay) })
    }

    fn sample(&mut self) -> Result<Choice, String> {
        logits::apply(&[Operation::MinP(self.min_p), Operation::TopK(MOST as i32)])?;
        let candidates = logits::top(MOST);
        let aim = self.target.aim();
        let weighed = |candidate: &Candidate| Bias {
            token: candidate.token,
            bias: (target::logit(f64::from(candidate.probability), aim) - f64::from(candidate.logit)) as f32,
        };
        logits::add(&candidates.iter().map(weighed).collect::<Vec<Bias>>())?;
        let drawn = logits::draw()?;
        let before = candidates.iter().find(|candidate| candidate.token == drawn.token);
        self.target.observe(before.map_or(0.0, |candidate| f64::from(candidate.probability)));
        Ok(Choice::Token(drawn.token))
    }
}

/// Form of the state: a byte for the form, then the two sums of the memory, little-endian.
const STATE_FORM: u8 = 1;

impl State for AdaptiveP {
    fn snapshot(&self) -> Vec<u8> {
        let (chosen, weight) = self.target.sums();
        [&[STATE_FORM][..], &chosen.to_le_bytes(), &weight.to_le_bytes()].concat()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let number = |bytes: &[u8]| bytes.try_into().ok().map(f64::from_le_bytes);
        let sums = match bytes.split_first() {
            Some((&STATE_FORM, sums)) if sums.len() == 16 => number(&sums[..8]).zip(number(&sums[8..])),
            _ => None,
        };
        let resumed = sums.and_then(|(chosen, weight)| self.target.resume(chosen, weight));
        self.target = resumed.ok_or("the state is none of this plugin's")?;
        Ok(())
    }
}

membrane_plugin::export_sampler!(AdaptiveP, state);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_goes_on_from_the_memory() {
        let start = |target| AdaptiveP::new(Parameters { target, ..Parameters::default() }).unwrap();
        let (mut old, mut new) = (start(0.5), start(0.3));
        old.target.observe(1.0);
        new.restore(&old.snapshot()).unwrap();
        assert_eq!(new.target.sums(), old.target.sums());
        let nan = [&[STATE_FORM][..], &f64::NAN.to_le_bytes(), &1.0f64.to_le_bytes()].concat();
        for wrong in [&[][..], &[STATE_FORM], &[2; 17], &nan, &old.snapshot()[..16]] {
            assert!(new.restore(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(new.target.sums(), old.target.sums());
    }

    #[test]
    fn parameters_out_of_range_are_refused_by_name() {
        for json in [r#"{"target": -0.1}"#, r#"{"target": 1.1}"#, r#"{"decay": 1}"#, r#"{"min_p": 2}"#] {
            let parameters: Parameters = serde_json::from_str(json).unwrap();
            let name = json.split('"').nth(1).unwrap();
            assert!(parameters.check().unwrap_err().starts_with(name), "{json}");
        }
        assert_eq!(serde_json::from_str::<Parameters>("{}").unwrap().check(), Ok(()));
    }
}
