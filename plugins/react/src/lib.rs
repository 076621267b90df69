//! Reasons and acts in turns (ReAct, Yao et al. 2022): the model may call the tools of the run, reads what they give back, and
//! goes on until it answers without a call.

use membrane_plugin::agent::{Agent, GenerationOptions, Role, Session, Turn, tools};
use membrane_plugin::log;
use serde::Deserialize;

/// What the profile may set.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Turns of the model, 1 to 64.
    steps: u32,
    /// Most tokens of each; 0 is as many as the context holds.
    max_tokens: u32,
    /// A system message before the task.
    system: String,
}

impl Default for Parameters {
    fn default() -> Self {
        let system =
            "Work on the task step by step. Call a tool where it helps. When you know the answer, say it.";
        Self { steps: 8, max_tokens: 1024, system: system.to_owned() }
    }
}

/// The agent.
pub struct React(Parameters);

impl Agent for React {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        if !(1..=64).contains(&parameters.steps) {
            return Err(format!("steps: {} is not between 1 and 64", parameters.steps));
        }
        Ok(Self(parameters))
    }

    fn run(&mut self, task: &str) -> Result<String, String> {
        let session = Session::new();
        let system = (!self.0.system.is_empty()).then(|| Turn::new(Role::System, self.0.system.clone()));
        let mut turns: Vec<Turn> = system.into_iter().chain([Turn::new(Role::User, task)]).collect();
        let mut options = GenerationOptions::new();
        options.max_tokens = (self.0.max_tokens > 0).then_some(self.0.max_tokens);
        for step in 1..=self.0.steps {
            let synced = session.chat(&turns, true)?;
            log::debug(&format!("step {step}: {} tokens read, {} kept", synced.computed, synced.reused));
            let said = session.generate(&options)?.finish()?;
            if said.calls.is_empty() {
                return Ok(said.text);
            }
            turns.push(Turn::said(&said));
            for call in &said.calls {
                // The model is told of a failure, and may do better.
                let result = tools::call(call).unwrap_or_else(|error| error);
                turns.push(Turn::result(call.name.clone(), result));
            }
        }
        Err(format!("there was no answer after {} steps", self.0.steps))
    }
}

membrane_plugin::export_agent!(React);
