//! One run of an agent.

use crate::bindings::agent::Agent;
use crate::call::Instance;
use crate::error::{Cause, Failure};
use crate::exports::agent::{Configure, Run};
use crate::limits::{MAX_ANSWER_BYTES, MAX_SHOWN_BYTES, MAX_TASK_BYTES};
use crate::plugin::Plugin;
use crate::state::Agency;
use crate::{World, agent::Environment, agent::Store};

/// An instance of an agent, for one run.
pub struct AgentRun(Instance<Agent>);

/// How a run went.
pub enum RunEnd {
    /// The agent is done; this is the rest of the answer.
    Done(String),
    /// The agent says why it could not do its task. A text of the agent: it has not passed any policy.
    GaveUp(String),
    /// The environment ended it.
    Ended,
    /// It failed. The text of the failure may hold texts of the agent.
    Failed(Failure),
}

impl AgentRun {
    /// Starts an instance in an environment. `store`: where its values are kept, if it was granted one.
    ///
    /// Errors: the plugin is no agent, it fails to start, or its parameters are not what it takes. What the failure says
    /// may hold texts of the agent.
    pub fn start(
        plugin: &Plugin,
        environment: Box<dyn Environment>,
        store: Option<Store>,
    ) -> Result<Self, Failure> {
        if plugin.world() != World::Agent {
            let is = plugin.world().with_article();
            let cause = Cause::Broke(format!("it is {is}, not {}", World::Agent.with_article()));
            return Err(Failure { plugin: plugin.name().to_owned(), hook: "start", cause });
        }
        let mut instance = Instance::start_in(plugin, Some(Agency::new(environment, store)))?;
        instance.strict_hook(&Configure { parameters: plugin.parameters() })?;
        Ok(Self(instance))
    }

    /// Does the task.
    pub fn run(mut self, task: &str) -> RunEnd {
        if task.len() > MAX_TASK_BYTES {
            return RunEnd::GaveUp(format!(
                "the task has {} bytes; the limit is {MAX_TASK_BYTES}",
                task.len()
            ));
        }
        let result = self.0.hook(&Run { task });
        match result {
            _ if self.0.state().ended() => RunEnd::Ended,
            Ok(Ok(rest)) if rest.len() > MAX_ANSWER_BYTES => {
                let what = format!("it gave more than {} MiB", MAX_ANSWER_BYTES >> 20);
                RunEnd::Failed(self.0.broke("run", what))
            }
            Ok(Ok(rest)) => RunEnd::Done(rest),
            Ok(Err(why)) => RunEnd::GaveUp(crate::text::clean(&why, MAX_SHOWN_BYTES)),
            Err(failure) => RunEnd::Failed(failure),
        }
    }
}
