//! A call of a tool, by the model or by an agent: what every call and every result passes.

use membrane_host::{Invocation, ToolCallOutcome, ToolError};

use crate::behaviour::Running;
use crate::error::Stopped;
use crate::event::{Event, Intervention};

/// Stands for the name of a tool that there is not, where the call was denied.
const UNKNOWN_TOOL: &str = "unknown";

/// A call, with what may be read of its result.
pub(crate) struct Called {
    /// The call as policies let it pass. What they denied is for no one to see: then it has no arguments, and the name of a
    /// tool that there is, or [`UNKNOWN_TOOL`].
    pub made: Invocation,
    /// Whether the tool did what was asked.
    pub ok: bool,
    /// The result, or why there is none.
    pub output: String,
}

/// Makes a call if the policies allow it, and lets them look at the result.
pub(crate) fn call(
    running: &mut Running,
    asked: Invocation,
    sink: &mut dyn FnMut(Event),
) -> Result<Called, Stopped> {
    running.journal.asked(&asked);
    let called = match running.policies.tool_call(asked.clone())? {
        ToolCallOutcome::Allowed { call, interventions } => {
            intervened(running, &interventions, sink);
            make(running, call, sink)?
        }
        ToolCallOutcome::Denied { note, interventions } => {
            intervened(running, &interventions, sink);
            let name = if running.tools.offers(&asked.name) { asked.name } else { UNKNOWN_TOOL.to_owned() };
            let made = Invocation { name, arguments: "{}".to_owned() };
            Called { made, ok: false, output: denied(&note) }
        }
    };
    running.journal.read(&called.output);
    Ok(called)
}

fn make(running: &mut Running, call: Invocation, sink: &mut dyn FnMut(Event)) -> Result<Called, Stopped> {
    let (name, arguments) = (call.name.clone(), call.arguments.clone());
    sink(Event::ToolCall { name: name.clone(), arguments });
    let serving = running.tools.serving(&call.name).cloned();
    let (ok, output) = match running.tools.call(&call.name, &call.arguments) {
        Ok(output) => (true, output),
        Err(error) => {
            if matches!(error, ToolError::Failed(_)) {
                running.changes.failed_in_call(serving);
            }
            (false, format!("error: {error}"))
        }
    };
    running.journal.returned(&call, running.tools.offers(&call.name), ok, &output);
    let outcome = running.policies.tool_result(&call, output)?;
    intervened(running, &outcome.interventions, sink);
    sink(Event::ToolResult { name, ok, output: outcome.output.clone() });
    Ok(Called { made: call, ok, output: outcome.output })
}

/// What the model reads in place of the result of a call that policies deny.
pub(crate) fn denied(note: &str) -> String {
    format!("error: this call is not allowed: {note}")
}

/// Tells of verdicts.
pub(crate) fn intervened(
    running: &mut Running,
    interventions: &[membrane_host::Intervention],
    sink: &mut dyn FnMut(Event),
) {
    running.journal.verdicts(interventions);
    for intervention in interventions {
        sink(Event::Intervention(Intervention::from(intervention)));
    }
}
