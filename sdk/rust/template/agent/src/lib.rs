//! Makes a plan and answers by it.
#![forbid(unsafe_code)]

use membrane_plugin::agent::{Agent, GenerationOptions, Role, Session, Turn};
use serde::Deserialize;

const PLAN: &str = "Write a short plan of how to answer this. Don't answer it yet.";
const ANSWER: &str = "Now answer by this plan.";

/// What the profile sets. See `plugin.toml` for the ranges.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    plan_tokens: u32,
    answer_tokens: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { plan_tokens: 96, answer_tokens: 512 }
    }
}

/// The agent.
pub struct Plugin(Parameters);

impl Agent for Plugin {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        for (name, value, least, most) in [
            ("plan_tokens", parameters.plan_tokens, 8, 1024),
            ("answer_tokens", parameters.answer_tokens, 8, 8192),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("{name}: {value} is not between {least} and {most}"));
            }
        }
        Ok(Self(parameters))
    }

    fn run(&mut self, task: &str) -> Result<String, String> {
        let session = Session::new();
        let mut turns = vec![Turn::new(Role::User, format!("{task}\n\n{PLAN}"))];
        session.chat(&turns, false)?;
        let plan = session.generate(&GenerationOptions::new().at_most(self.0.plan_tokens))?.finish()?;
        turns.push(Turn::said(&plan));
        turns.push(Turn::new(Role::User, ANSWER));
        // What the session holds already is not read again.
        session.chat(&turns, false)?;
        let answer = session.generate(&GenerationOptions::new().at_most(self.0.answer_tokens))?.finish()?;
        Ok(answer.text)
    }
}

membrane_plugin::export_agent!(Plugin);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_a_length() {
        assert!(Plugin::new(Parameters::default()).is_ok());
        for plan_tokens in [0, 7, 1025] {
            assert!(Plugin::new(Parameters { plan_tokens, ..Parameters::default() }).is_err());
        }
    }
}
