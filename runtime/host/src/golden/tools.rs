//! Cases of tools.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::read::typed;
use super::report::{Mismatch, Place};
use super::stage::Stage;
use super::started;
use crate::engine::Host;
use crate::error::Result;
use crate::plugin::Plugin;
use crate::tool::ToolSet;

/// Calls on one instance, with what must come of each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What is behind the plugin's grants.
    #[serde(skip)]
    stage: Stage,
    /// Names of the tools that the plugin offers, in their order.
    offers: Option<Vec<String>>,
    calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    tool: String,
    arguments: Value,
    result: Option<String>,
    #[serde(default)]
    result_has: Vec<String>,
    error: Option<String>,
}

impl Case {
    /// Reads what is left of a case. The error names the field.
    pub fn read(mut body: Map<String, Value>) -> Result<Self, String> {
        let stage = Stage::take(&mut body)?;
        let case: Self = typed("case", Value::Object(body))?;
        for (index, call) in case.calls.iter().enumerate() {
            let results = call.result.is_some() || !call.result_has.is_empty();
            if results == call.error.is_some() {
                let number = index + 1;
                return Err(format!("call {number}: needs `result` or `result_has`, or else `error`"));
            }
        }
        Ok(Self { stage, ..case })
    }

    /// Starts the tool and makes the calls.
    pub fn run(&self, host: &Host, plugin: &Plugin) -> Result<(), Mismatch> {
        let broken = |error: String| Mismatch::differs(Place::Start, "the stage", error, "as the case says");
        let (set, plugin) = self.stage.set(plugin).map_err(broken)?;
        let mut tools = started(ToolSet::start(host, std::slice::from_ref(&plugin)))?;
        if let Some(offers) = &self.offers {
            let names = tools.descriptions().iter();
            let names: Vec<&str> = names.filter_map(|tool| tool["function"]["name"].as_str()).collect();
            let (names, offers) = (names.join(", "), offers.join(", "));
            Mismatch::unless_same(Place::Offers, "the list of tools", Some(&names), Some(&offers))?;
        }
        for (index, call) in self.calls.iter().enumerate() {
            call.run(&mut tools, Place::Call(index + 1))?;
        }
        match self.stage.left(&set).map_err(broken)? {
            Some((found, said)) => {
                Mismatch::unless_same(Place::Leaves, "what is in the folders", Some(&found), Some(&said))
            }
            None => Ok(()),
        }
    }
}

impl Call {
    fn run(&self, tools: &mut ToolSet, place: Place) -> Result<(), Mismatch> {
        match tools.call(&self.tool, &self.arguments.to_string()) {
            Ok(result) => {
                if let Some(error) = &self.error {
                    let expected = format!("an error with {error:?}");
                    return Err(Mismatch::differs(place, "the result", format!("{result:?}"), expected));
                }
                if self.result.is_some() {
                    Mismatch::unless_same(place, "the result", Some(&result), self.result.as_deref())?;
                }
                match self.result_has.iter().find(|part| !result.contains(part.as_str())) {
                    Some(part) => {
                        let expected = format!("a text with {part:?}");
                        Err(Mismatch::differs(place, "the result", format!("{result:?}"), expected))
                    }
                    None => Ok(()),
                }
            }
            Err(error) => match &self.error {
                Some(part) if error.to_string().contains(part) => Ok(()),
                Some(part) => Err(Mismatch::differs(place, "the error", error, part)),
                None => Err(Mismatch::differs(place, "the result", format!("the error {error}"), "a result")),
            },
        }
    }
}
