//! What can be set, with llama.cpp's defaults, and what is refused.

use serde::Deserialize;

/// Longest text that breaks a repetition, in bytes, and how many there may be; each is compared with every
/// token.
const MAX_BREAKER_BYTES: usize = 40;
const MAX_BREAKERS: usize = 64;

/// A stage of the chain that the parameter `samplers` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// "Don't repeat yourself".
    Dry,
    /// Logits within n standard deviations of the largest.
    TopNSigma,
    /// The k largest.
    TopK,
    /// Locally typical tokens.
    Typical,
    /// The nucleus.
    TopP,
    /// A fraction of the largest probability.
    MinP,
    /// Exclude top choices.
    Xtc,
    /// Temperature, dynamic if it has a range.
    Temperature,
}

/// The order of the stages where the profile gives none.
pub const ORDER: [Stage; 9] = [
    Stage::Penalties,
    Stage::Dry,
    Stage::TopNSigma,
    Stage::TopK,
    Stage::Typical,
    Stage::TopP,
    Stage::MinP,
    Stage::Xtc,
    Stage::Temperature,
];

/// A bias on one token, or on each token of a text.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogitBias {
    /// Id of the token.
    pub token: Option<u32>,
    /// A text in place of an id.
    pub text: Option<String>,
    /// What is added to the logit.
    pub bias: Option<f32>,
    /// The token is never chosen.
    #[serde(default)]
    pub forbid: bool,
}

/// The parameters in the profile. See `plugin.toml` for their ranges.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f32,
    /// Half the width of the dynamic range; 0 is a fixed temperature.
    pub dynamic_temperature_range: f32,
    /// Exponent of the normalised entropy in the dynamic range.
    pub dynamic_temperature_exponent: f32,
    /// How many tokens stay; 0 is off.
    pub top_k: i32,
    /// Mass of the nucleus; 1 is off.
    pub top_p: f32,
    /// Fraction of the largest probability; 0 is off.
    pub min_p: f32,
    /// Mass of the typical set; 1 is off.
    pub typical: f32,
    /// Standard deviations below the largest logit; 0 or less is off.
    pub top_n_sigma: f32,
    /// How often XTC acts; 0 is off.
    pub xtc_probability: f32,
    /// Probability above which a token is a top choice.
    pub xtc_threshold: f32,
    /// How many tokens back the penalties look; 0 is off, -1 all.
    pub repeat_last_n: i32,
    /// Repetition penalty; 1 is off.
    pub repeat_penalty: f32,
    /// Penalty for each occurrence; 0 is off.
    pub frequency_penalty: f32,
    /// Penalty for any occurrence; 0 is off.
    pub presence_penalty: f32,
    /// Strength of DRY; 0 is off.
    pub dry_multiplier: f32,
    /// Growth of DRY's penalty with each token of a repetition.
    pub dry_base: f32,
    /// Length of a repetition that is free, in tokens.
    pub dry_allowed_length: u32,
    /// How many tokens back DRY looks; 0 is off, -1 all.
    pub dry_penalty_last_n: i32,
    /// Texts that break a repetition.
    pub dry_sequence_breakers: Vec<String>,
    /// Biases, before all else.
    pub logit_bias: Vec<LogitBias>,
    /// The stages that run, in this order.
    pub samplers: Vec<Stage>,
    /// Whether a token is drawn; otherwise the next sampler of the chain chooses.
    pub choose: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            dynamic_temperature_range: 0.0,
            dynamic_temperature_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: -1,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            logit_bias: Vec::new(),
            samplers: ORDER.to_vec(),
            choose: true,
        }
    }
}

impl Parameters {
    /// Refuses values out of range. The error names the parameter and its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("dynamic_temperature_range", self.dynamic_temperature_range, 0.0, 100.0),
            ("dynamic_temperature_exponent", self.dynamic_temperature_exponent, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical", self.typical, 0.0, 1.0),
            ("top_n_sigma", self.top_n_sigma, -1.0, 1000.0),
            ("xtc_probability", self.xtc_probability, 0.0, 1.0),
            ("xtc_threshold", self.xtc_threshold, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("dry_multiplier", self.dry_multiplier, 0.0, 100.0),
            ("dry_base", self.dry_base, 1.0, 100.0),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(format!("{name}: {value} is not between {least} and {most}"));
            }
        }
        for (name, value) in [
            ("top_k", self.top_k),
            ("repeat_last_n", self.repeat_last_n),
            ("dry_penalty_last_n", self.dry_penalty_last_n),
        ] {
            if value < -1 {
                return Err(format!("{name}: {value} is less than -1"));
            }
        }
        self.check_breakers()?;
        for (index, stage) in self.samplers.iter().enumerate() {
            if self.samplers[..index].contains(stage) {
                return Err(format!("samplers: {stage:?} stands in the list twice"));
            }
        }
        Ok(())
    }

    fn check_breakers(&self) -> Result<(), String> {
        let breakers = &self.dry_sequence_breakers;
        if breakers.len() > MAX_BREAKERS {
            return Err(format!("dry_sequence_breakers: more than {MAX_BREAKERS}"));
        }
        match breakers.iter().find(|text| text.is_empty() || text.len() > MAX_BREAKER_BYTES) {
            Some(text) => Err(format!(
                "dry_sequence_breakers: {text:?} is not between 1 and {MAX_BREAKER_BYTES} bytes long"
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Parameters, String> {
        let parameters: Parameters = serde_json::from_str(json).map_err(|error| error.to_string())?;
        parameters.check().map(|()| parameters)
    }

    #[test]
    fn no_parameters_are_the_defaults() {
        assert_eq!(parse("{}"), Ok(Parameters::default()));
    }

    #[test]
    fn unknown_stages_and_parameters_are_refused_by_name() {
        let error = parse(r#"{"samplers": ["top_k", "tail_free"]}"#).unwrap_err();
        assert!(error.contains("unknown variant `tail_free`") && error.contains("`top_n_sigma`"), "{error}");
        assert!(parse(r#"{"topk": 4}"#).unwrap_err().contains("unknown field `topk`"));
        assert!(parse(r#"{"samplers": ["top_k", "top_k"]}"#).unwrap_err().contains("twice"));
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        for json in [
            r#"{"temperature": -0.1}"#,
            r#"{"temperature": 1e300}"#,
            r#"{"top_p": 1.01}"#,
            r#"{"min_p": -1}"#,
            r#"{"repeat_penalty": 0}"#,
            r#"{"dry_base": 0.5}"#,
            r#"{"top_k": -2}"#,
            r#"{"dry_sequence_breakers": [""]}"#,
        ] {
            let error = parse(json).unwrap_err();
            let name = json.split('"').nth(1).unwrap();
            assert!(error.starts_with(name), "{json}: {error}");
        }
        assert_eq!(parse(r#"{"top_p": 1.01}"#).unwrap_err(), "top_p: 1.01 is not between 0 and 1");
    }
}
