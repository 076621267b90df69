//! Mirostat (Basu et al. 2021): keeps the surprise of the text near a target, by feedback from token to
//! token.
#![forbid(unsafe_code)]

mod feedback;

use membrane_plugin::sampler::{Choice, Sampler, logits, vocabulary};
use membrane_plugin::state::State;
use serde::Deserialize;

use feedback::Feedback;
use logits::{Operation, Temperature};

/// How many of the likeliest tokens version 1 fits its distribution to.
const FIT_TOKENS: u32 = 100;

/// The parameters in the profile. See `plugin.toml` for their ranges.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// 1 or 2.
    pub version: u32,
    /// Target surprise in bits a token.
    pub tau: f64,
    /// Learning rate of the feedback.
    pub eta: f64,
    /// Logits are divided by it first; 0 takes the likeliest token.
    pub temperature: f32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { version: 2, tau: 5.0, eta: 0.1, temperature: 0.8 }
    }
}

impl Parameters {
    /// Refuses values out of range. The error names the parameter and its range.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=2).contains(&self.version) {
            return Err(format!("version: {} is neither 1 nor 2", self.version));
        }
        for (name, value, least, most) in [("tau", self.tau, 0.01, 100.0), ("eta", self.eta, 0.0001, 1.0)] {
            if !(least..=most).contains(&value) {
                return Err(format!("{name}: {value} is not between {least} and {most}"));
            }
        }
        if !(0.0..=100.0).contains(&self.temperature) {
            return Err(format!("temperature: {} is not between 0 and 100", self.temperature));
        }
        Ok(())
    }
}

/// The sampler, with the feedback of one answer.
pub struct Mirostat {
    parameters: Parameters,
    feedback: Feedback,
}

impl Mirostat {
    /// How version 1 cuts: to as many tokens as its fit says.
    fn fitted_cut(&self) -> Operation {
        let likeliest: Vec<f64> = logits::top(FIT_TOKENS).iter().map(|c| f64::from(c.probability)).collect();
        Operation::TopK(feedback::cut(&likeliest, self.feedback.limit(), vocabulary::size()))
    }
}

impl Sampler for Mirostat {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        parameters.check()?;
        let feedback = Feedback::new(parameters.tau, parameters.eta);
        Ok(Self { parameters, feedback })
    }

    fn sample(&mut self) -> Result<Choice, String> {
        let temperature = Temperature { temperature: self.parameters.temperature, range: 0.0, exponent: 1.0 };
        let mut operations = vec![Operation::Temperature(temperature)];
        if self.parameters.version == 1 {
            logits::apply(&operations)?;
            operations = vec![self.fitted_cut()];
        } else {
            operations.push(Operation::SurpriseLimit(self.feedback.limit() as f32));
        }
        logits::apply(&operations)?;
        let drawn = logits::draw()?;
        self.feedback.observe(f64::from(drawn.probability));
        Ok(Choice::Token(drawn.token))
    }
}

/// Form of the state: a byte for the form, then the limit in bits, little-endian.
const STATE_FORM: u8 = 1;

impl State for Mirostat {
    fn snapshot(&self) -> Vec<u8> {
        [&[STATE_FORM][..], &self.feedback.limit().to_le_bytes()].concat()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let limit = match bytes.split_first() {
            Some((&STATE_FORM, limit)) => limit.try_into().map(f64::from_le_bytes).ok(),
            _ => None,
        };
        let resumed = limit.and_then(|limit| self.feedback.resume(limit));
        self.feedback = resumed.ok_or("the state is none of this plugin's")?;
        Ok(())
    }
}

membrane_plugin::export_sampler!(Mirostat, state);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_goes_on_from_the_limit() {
        let start = |tau| Mirostat::new(Parameters { tau, ..Parameters::default() }).unwrap();
        let (mut old, mut new) = (start(5.0), start(3.0));
        old.feedback.observe(0.001);
        new.restore(&old.snapshot()).unwrap();
        assert_eq!(new.feedback.limit(), old.feedback.limit());
        let nan = [&[STATE_FORM][..], &f64::NAN.to_le_bytes()].concat();
        for wrong in [&[][..], &[STATE_FORM], &[2; 9], &nan, &old.snapshot()[..8]] {
            assert!(new.restore(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(new.feedback.limit(), old.feedback.limit());
    }

    #[test]
    fn parameters_out_of_range_are_refused_by_name() {
        for json in [
            r#"{"version": 3}"#,
            r#"{"tau": 0}"#,
            r#"{"tau": 1e9}"#,
            r#"{"eta": -0.1}"#,
            r#"{"temperature": -1}"#,
        ] {
            let parameters: Parameters = serde_json::from_str(json).unwrap();
            let name = json.split('"').nth(1).unwrap();
            assert!(parameters.check().unwrap_err().starts_with(name), "{json}");
        }
        assert_eq!(serde_json::from_str::<Parameters>("{}").unwrap().check(), Ok(()));
    }
}
