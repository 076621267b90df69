//! Cases of tools.

use membrane_host::ToolSet;
use serde::Deserialize;
use serde_json::Value;

use crate::case::Case;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    offers: Option<Vec<String>>,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    tool: String,
    arguments: Value,
    result: Option<String>,
    result_has: Option<Vec<String>>,
    error: Option<String>,
}

/// Starts the tool and makes the calls on one instance.
pub fn run(case: &Case) {
    let (host, plugin) = case.load();
    let started = ToolSet::start(&host, &[plugin]);
    if case.is_refused(&started) {
        return;
    }
    let Ok(mut tools) = started else { return };
    let body: Body = case.body();
    if let Some(offers) = body.offers {
        let names = tools.descriptions().iter().map(|tool| tool["function"]["name"].clone());
        let names: Vec<Value> = names.collect();
        assert_eq!(Value::from(offers), Value::from(names), "{}", case.title());
    }
    for call in body.calls {
        let title = format!("{} {}", case.title(), call.arguments);
        match tools.call(&call.tool, &call.arguments.to_string()) {
            Ok(result) => {
                assert_eq!(call.error, None, "{title}: gave {result}");
                assert!(call.result.is_some() || call.result_has.is_some(), "{title}: expects nothing");
                assert!(call.result.is_none_or(|expected| expected == result), "{title}: gave {result}");
                for part in call.result_has.unwrap_or_default() {
                    assert!(result.contains(&part), "{title}: {result} has no {part:?}");
                }
            }
            Err(error) => {
                let error = error.to_string();
                let expected = call.error.unwrap_or_else(|| panic!("{title}: {error}"));
                assert!(error.contains(&expected), "{title}: {error}");
            }
        }
    }
}
