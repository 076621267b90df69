//! Sets of tools: a failing call spoils itself only.
#![allow(clippy::unwrap_used)]

mod common;

use common::{guest, host};
use membrane_host::reload::Effect;
use membrane_host::{HostError, ToolError, ToolSet, World};
use serde_json::{Value, json};

fn set(parameters: &[Value]) -> Result<ToolSet, HostError> {
    let host = host();
    let plugins: Vec<_> = parameters.iter().map(|p| guest(&host, World::Tool, p.clone())).collect();
    ToolSet::start(&host, &plugins)
}

#[test]
fn tools_are_described_as_templates_take_them() {
    let set = set(&[json!({ "names": ["one", "two"] }), json!({ "names": ["three"] })]).unwrap();
    let names: Vec<&str> =
        set.descriptions().iter().map(|d| d["function"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two", "three"]);
    assert_eq!(set.descriptions()[0]["type"], "function");
    assert_eq!(set.descriptions()[0]["function"]["parameters"], json!({ "type": "object" }));
}

#[test]
fn a_call_that_traps_spoils_itself_only() {
    let mut set = set(&[json!({ "names": ["one"] }), json!({ "names": ["two"] })]).unwrap();
    assert_eq!(set.call("one", "{}").unwrap(), "one, call 1");
    assert_eq!(set.call("two", "{}").unwrap(), "two, call 1");
    for (act, expected) in [
        ("panic", "plugin `x`: call trapped: unreachable instruction"),
        ("loop", "plugin `x`: call ran out of fuel"),
    ] {
        let failed = set.call("one", &json!({ "act": act }).to_string()).unwrap_err();
        assert!(
            matches!(failed, ToolError::Failed(_)) && failed.to_string().starts_with(expected),
            "{failed}"
        );
        // A new instance, which counts from the start.
        assert_eq!(set.call("one", "{}").unwrap(), "one, call 1");
    }
    assert_eq!(set.call("two", "{}").unwrap(), "two, call 2");
}

#[test]
fn errors_are_for_the_model() {
    let mut set = set(&[json!({ "names": ["one"] })]).unwrap();
    assert_eq!(
        set.call("one", "{\"act\": \"error\"}").unwrap_err(),
        ToolError::Reported("out of order".into())
    );
    assert_eq!(set.call("six", "{}").unwrap_err().to_string(), "there is no tool `six`; there are: one");
    for arguments in ["", "[]", "7", "{\"a\": ", "null"] {
        assert!(matches!(set.call("one", arguments), Err(ToolError::Arguments { .. })), "{arguments}");
    }
    let long = set.call("one", "{\"act\": \"long\"}").unwrap();
    assert_eq!((long.len(), long.chars().all(|c| c == 'é')), (256 << 10, true));
}

#[test]
fn a_tool_is_replaced_between_calls_with_its_state_and_comes_back_where_the_new_one_fails() {
    let host = host();
    let version =
        |number: u32, name: &str| guest(&host, World::Tool, json!({ "names": [name], "version": number }));
    let effect = |set: &mut ToolSet, after: &[membrane_host::Plugin]| {
        set.reload(after).into_iter().map(|swap| swap.effect).collect::<Vec<_>>()
    };
    let (first, second) = (version(1, "one"), version(2, "one"));
    let mut set = ToolSet::start(&host, std::slice::from_ref(&first)).unwrap();
    assert_eq!(set.call("one", "{}").unwrap(), "one, call 1");
    assert_eq!(effect(&mut set, std::slice::from_ref(&first)), []);
    assert_eq!(effect(&mut set, std::slice::from_ref(&second)), [Effect::Live { state: true }]);
    assert_eq!(set.call("one", "{}").unwrap(), "one, call 2");
    // The model was told of other tools.
    let waits = effect(&mut set, &[version(3, "two")]);
    assert!(matches!(&waits[..], [Effect::NextAnswer { why }] if why.contains("other tools")), "{waits:?}");
    assert_eq!(set.call("one", "{}").unwrap(), "one, call 3");
    // After a failure the version before makes the next call.
    assert!(matches!(set.call("one", "{\"act\": \"panic\"}"), Err(ToolError::Failed(_))));
    assert!(set.serving("one").is_some_and(|plugin| plugin.same(&first)));
    assert_eq!(set.call("one", "{}").unwrap(), "one, call 1");
    assert_eq!(effect(&mut set, std::slice::from_ref(&first)), [], "it is the first that runs");
    // What others took back for another's failure does not come back for its own.
    assert_eq!(effect(&mut set, std::slice::from_ref(&second)), [Effect::Live { state: true }]);
    let swaps = set.go_back(std::slice::from_ref(&first));
    assert_eq!((swaps.len(), &swaps[0].effect), (1, &Effect::Live { state: true }));
    assert!(matches!(set.call("one", "{\"act\": \"panic\"}"), Err(ToolError::Failed(_))));
    assert!(set.serving("one").is_some_and(|plugin| plugin.same(&first)));
    // What was removed can't be called, and no prompt tells of it.
    assert_eq!(effect(&mut set, &[]), [Effect::Live { state: false }]);
    assert!(matches!(set.call("one", "{}"), Err(ToolError::Unknown { .. })));
    assert!(set.descriptions().is_empty() && set.is_empty());
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    common::again_in_processes("all_of_this_holds_in_processes_of_their_own");
}
