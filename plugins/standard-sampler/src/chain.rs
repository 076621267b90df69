//! From parameters to the operations that the host runs.

use membrane_plugin::sampler::logits::{Bias, Dry, Operation, Penalties, Temperature, Xtc};

use crate::parameters::{LogitBias, Parameters, Stage};

/// The biases as token ids. `encode` gives the tokens of a text.
pub fn biases(
    given: &[LogitBias],
    encode: impl Fn(&str) -> Result<Vec<u32>, String>,
) -> Result<Vec<Bias>, String> {
    let mut biases = Vec::new();
    for entry in given {
        let bias = match (entry.bias, entry.forbid) {
            (Some(bias), false) if bias.is_finite() => bias,
            (None, true) => f32::NEG_INFINITY,
            _ => {
                return Err("logit_bias: an entry needs either a finite `bias` or `forbid = true`".to_owned());
            }
        };
        match (entry.token, &entry.text) {
            (Some(token), None) => biases.push(Bias { token, bias }),
            (None, Some(text)) => biases.extend(encode(text)?.into_iter().map(|token| Bias { token, bias })),
            _ => return Err("logit_bias: an entry needs either a `token` or a `text`".to_owned()),
        }
    }
    Ok(biases)
}

/// The operations of the stages that are on: biases first, then the stages in their order.
pub fn operations(parameters: &Parameters, biases: Vec<Bias>) -> Vec<Operation> {
    let first = (!biases.is_empty()).then_some(Operation::LogitBias(biases));
    let stages = parameters.samplers.iter().filter_map(|stage| operation(parameters, *stage));
    first.into_iter().chain(stages).collect()
}

/// The operation of one stage; none if its values leave the logits as they are.
fn operation(p: &Parameters, stage: Stage) -> Option<Operation> {
    match stage {
        Stage::Penalties => {
            let neutral = p.repeat_penalty == 1.0 && p.frequency_penalty == 0.0 && p.presence_penalty == 0.0;
            (!neutral && p.repeat_last_n != 0).then_some(Operation::Penalties(Penalties {
                last: p.repeat_last_n,
                repeat: p.repeat_penalty,
                frequency: p.frequency_penalty,
                presence: p.presence_penalty,
            }))
        }
        Stage::Dry => (p.dry_multiplier > 0.0 && p.dry_penalty_last_n != 0).then(|| {
            Operation::Dry(Dry {
                multiplier: p.dry_multiplier,
                base: p.dry_base,
                allowed_length: p.dry_allowed_length,
                last: p.dry_penalty_last_n,
                breakers: p.dry_sequence_breakers.clone(),
            })
        }),
        Stage::TopNSigma => (p.top_n_sigma > 0.0).then_some(Operation::TopNSigma(p.top_n_sigma)),
        Stage::TopK => (p.top_k > 0).then_some(Operation::TopK(p.top_k)),
        Stage::Typical => (p.typical < 1.0).then_some(Operation::Typical(p.typical)),
        Stage::TopP => (p.top_p < 1.0).then_some(Operation::TopP(p.top_p)),
        Stage::MinP => (p.min_p > 0.0).then_some(Operation::MinP(p.min_p)),
        Stage::Xtc => (p.xtc_probability > 0.0 && p.xtc_threshold <= 0.5)
            .then_some(Operation::Xtc(Xtc { probability: p.xtc_probability, threshold: p.xtc_threshold })),
        Stage::Temperature => {
            let neutral = p.temperature == 1.0 && p.dynamic_temperature_range == 0.0;
            (!neutral).then_some(Operation::Temperature(Temperature {
                temperature: p.temperature,
                range: p.dynamic_temperature_range,
                exponent: p.dynamic_temperature_exponent,
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parameters: &Parameters) -> Vec<String> {
        let name = |operation: &Operation| {
            let text = format!("{operation:?}");
            text.trim_start_matches("Operation::").split(['(', ' ']).next().unwrap().to_owned()
        };
        operations(parameters, Vec::new()).iter().map(name).collect()
    }

    fn everything_on() -> Parameters {
        Parameters {
            repeat_penalty: 1.1,
            dry_multiplier: 0.8,
            top_n_sigma: 1.0,
            typical: 0.9,
            xtc_probability: 0.5,
            ..Parameters::default()
        }
    }

    #[test]
    fn by_default_only_four_stages_run() {
        assert_eq!(names(&Parameters::default()), ["TopK", "TopP", "MinP", "Temperature"]);
    }

    #[test]
    fn everything_runs_in_the_documented_order() {
        let expected =
            ["Penalties", "Dry", "TopNSigma", "TopK", "Typical", "TopP", "MinP", "Xtc", "Temperature"];
        assert_eq!(names(&everything_on()), expected);
    }

    #[test]
    fn a_given_order_is_kept_and_what_it_leaves_out_does_not_run() {
        let samplers = vec![Stage::Temperature, Stage::TopK, Stage::Penalties];
        let parameters = Parameters { samplers, ..everything_on() };
        assert_eq!(names(&parameters), ["Temperature", "TopK", "Penalties"]);
    }

    #[test]
    fn off_values_leave_stages_out() {
        let off = Parameters {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            xtc_probability: 1.0,
            xtc_threshold: 0.6,
            repeat_penalty: 2.0,
            repeat_last_n: 0,
            dry_multiplier: 1.0,
            dry_penalty_last_n: 0,
            ..Parameters::default()
        };
        assert_eq!(names(&off), [""; 0]);
    }

    #[test]
    fn a_bias_on_a_text_is_one_on_each_of_its_tokens_and_comes_first() {
        let entry = LogitBias { token: None, text: Some("ab".to_owned()), bias: Some(-2.0), forbid: false };
        let forbidden = LogitBias { token: Some(9), text: None, bias: None, forbid: true };
        let encode = |text: &str| Ok(text.bytes().map(u32::from).collect());
        let biases = biases(&[entry, forbidden], encode).unwrap();
        let pairs: Vec<(u32, f32)> = biases.iter().map(|b| (b.token, b.bias)).collect();
        assert_eq!(pairs, [(97, -2.0), (98, -2.0), (9, f32::NEG_INFINITY)]);
        assert!(matches!(operations(&Parameters::default(), biases)[0], Operation::LogitBias(_)));
    }

    #[test]
    fn an_incomplete_bias_is_refused() {
        let encode = |_: &str| Ok(Vec::new());
        let whole = LogitBias { token: Some(1), text: None, bias: Some(1.0), forbid: false };
        for entry in [
            LogitBias { token: None, ..whole.clone() },
            LogitBias { text: Some("x".to_owned()), ..whole.clone() },
            LogitBias { bias: None, ..whole.clone() },
            LogitBias { bias: Some(f32::INFINITY), ..whole.clone() },
            LogitBias { forbid: true, ..whole.clone() },
        ] {
            assert!(biases(std::slice::from_ref(&entry), encode).is_err(), "{entry:?}");
        }
    }
}
