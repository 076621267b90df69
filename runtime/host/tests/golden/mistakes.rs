//! Cases that a plugin does not fulfil, and cases that are none: each is named.

use std::fs;
use std::path::Path;

use membrane_host::golden::{Cut, GoldenCases, Mismatch, Place};
use membrane_host::{World, first_party};
use serde_json::{Map, Value, json};

use crate::load;

/// What comes of one case of a first-party plugin.
fn outcome(plugin: &str, case: &Value) -> Result<(), Mismatch> {
    let plugin = first_party::find(plugin).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cases.json"), json!([case]).to_string()).unwrap();
    let cases = GoldenCases::read(folder.path(), plugin.world).unwrap_or_else(|error| panic!("{error}"));
    let (host, loaded) = load(&plugin, Map::new());
    let mut report = cases.run(&host, &loaded).unwrap();
    report.outcomes.remove(0).result
}

/// A case of `greedy` with one step.
fn step(expected: Value) -> Value {
    let mut step = json!({"logits": [0, 5, 1]});
    step.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
    json!({"about": "One.", "parameters": {}, "vocabulary": ["a", "b", "c"], "prompt": [], "seed": 1, "steps": [step]})
}

#[test]
fn what_a_sampler_chose_is_named() {
    assert_eq!(outcome("greedy", &step(json!({"token": 1}))), Ok(()));
    assert_eq!(outcome("greedy", &step(json!({"one_of": [0, 1]}))), Ok(()));
    let differs = outcome("greedy", &step(json!({"one_of": [0, 2]}))).unwrap_err();
    assert_eq!(differs.to_string(), "step 1: the token is 1, expected 0 or 2");
    let refused = json!({"about": "One.", "parameters": {}, "refused": "unknown field"});
    assert_eq!(outcome("greedy", &refused), Err(Mismatch::Started { expected: "unknown field".into() }));
    let refused = json!({"about": "One.", "parameters": {"x": 1}, "refused": "missing field"});
    let error = outcome("greedy", &refused).unwrap_err().to_string();
    assert!(error.contains("unknown field `x`") && error.ends_with("expected missing field"), "{error}");
    let mut case = step(json!({"token": 1}));
    case["parameters"] = json!({"x": 1});
    let failed = outcome("greedy", &case).unwrap_err();
    assert!(matches!(failed, Mismatch::Failed { place: Place::Start, .. }), "{failed}");
}

#[test]
fn what_a_policy_released_is_named_with_the_cut() {
    let case = |released: &str, clauses: &[&str]| {
        json!({
            "about": "One.",
            "parameters": {"rules": "[[clause]]\nid = \"x\"\nwhen = \"output\"\nmatch = \"xx\"\naction = \"redact\"\n\
                                     replacement = \"-\""},
            "hooks": [{"output": ["a x", "x b"], "released": released, "clauses": clauses}],
        })
    };
    assert_eq!(outcome("guard", &case("a - b", &["x"])), Ok(()));
    let place = Place::Hook { number: 1, name: "output", cut: Cut::AsGiven };
    match outcome("guard", &case("a xx b", &["x"])) {
        Err(Mismatch::Differs { place: found, what: "`released`", .. }) => assert_eq!(found, place),
        other => panic!("{other:?}"),
    }
    let differs = outcome("guard", &case("a - b", &["y"])).unwrap_err().to_string();
    assert!(differs.contains("`clauses` is [\"x\"], expected [\"y\"]"), "{differs}");
}

#[test]
fn an_agent_that_does_less_or_something_else_than_its_case_is_named() {
    let call = json!(["calculator", {"expression": "6 * 7"}]);
    let case = |model: &[&str], tools: Value| {
        let mut said: Vec<Value> = model.iter().map(|text| json!({"text": text})).collect();
        said[0]["calls"] = json!([call]);
        json!({"about": "One.", "parameters": {}, "task": "6 * 7?", "model": said, "tools": tools, "output_has": ["It is 42."]})
    };
    let said = ["", "It is 42."];
    let with = |arguments: Value| json!({"calculator": [{"arguments": arguments, "gives": "42"}]});
    assert_eq!(outcome("react", &case(&said, json!({"calculator": ["42"]}))), Ok(()));
    assert_eq!(outcome("react", &case(&said, with(json!({"expression": "6 * 7"})))), Ok(()));
    for (case, words) in [
        (
            case(&said, with(json!({"expression": "7"}))),
            "with {\"expression\":\"6 * 7\"} and not {\"expression\":\"7\"}",
        ),
        (case(&["", "It is 42.", "More."], json!({"calculator": ["42"]})), "1 generations fewer"),
        (case(&said, json!({"calculator": ["42", "43"]})), "1 calls of the tool `calculator` fewer"),
        (case(&said, json!({"calculator": []})), "one more result of the tool `calculator`"),
    ] {
        let error = outcome("react", &case).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn of_long_texts_that_differ_late_the_difference_is_shown() {
    let text = "a".repeat(5000);
    let hook = |released: String| {
        let rules = "[[clause]]\nid = \"x\"\nwhen = \"output\"\nmatch = \"xx\"\naction = \"refuse\"\nmessage = \"no\"";
        json!({
            "about": "One.",
            "parameters": {"rules": rules},
            "hooks": [{"output": [format!("{text}b")], "released": released, "clauses": []}],
        })
    };
    let differs = outcome("guard", &hook(format!("{text}c"))).unwrap_err().to_string();
    assert!(
        differs.contains("aab\", expected \"...aa") || differs.contains("aab\", expected ...aa"),
        "{differs}"
    );
    assert!(differs.ends_with("aac\""), "{differs}");
}

#[test]
fn what_a_tool_gave_is_named() {
    let case = |expected: Value| {
        let mut call = json!({"tool": "calculator", "arguments": {"expression": "1 + 1"}});
        call.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
        json!({"about": "One.", "parameters": {}, "calls": [call]})
    };
    assert_eq!(outcome("calculator", &case(json!({"result": "2"}))), Ok(()));
    for (expected, words) in [
        (json!({"result": "3"}), "call 1: the result is \"2\", expected \"3\""),
        (json!({"result_has": ["2", "x"]}), "call 1: the result is \"2\", expected a text with \"x\""),
        (json!({"error": "no"}), "call 1: the result is \"2\", expected an error with \"no\""),
    ] {
        assert_eq!(outcome("calculator", &case(expected)).unwrap_err().to_string(), words);
    }
    let mut offers = case(json!({"result": "2"}));
    offers["offers"] = json!(["abacus"]);
    let differs = outcome("calculator", &offers).unwrap_err().to_string();
    assert!(
        differs.contains("offers: the list of tools is \"calculator\", expected \"abacus\""),
        "{differs}"
    );
}

#[test]
fn malformed_cases_are_named_with_file_and_field() {
    let step = |step: &str| {
        format!(
            r#"{{"about": "", "parameters": {{}}, "vocabulary": ["a"], "prompt": [], "seed": 1, "steps": [{step}]}}"#
        )
    };
    let cases: [(World, String, &str); 10] = [
        (World::Sampler, "{}".into(), "is no list of cases"),
        (World::Sampler, "[1]".into(), "is no list of cases"),
        (World::Sampler, "[{}]".into(), "case 1: `about` is missing"),
        (World::Sampler, r#"[{"about": ""}]"#.into(), "case 1: `parameters` is missing"),
        (World::Sampler, format!("[{}]", step(r#"{"logits": [1]}"#)), "step 1: neither `token` nor `one_of`"),
        (
            World::Sampler,
            format!("[{}]", step(r#"{"logits": [1, 2], "token": 0}"#)),
            "step 1: 2 logits for a",
        ),
        (World::Sampler, format!("[{}]", step(r#"{"logits": [1], "tokem": 0}"#)), "unknown field `tokem`"),
        (
            World::Policy,
            r#"[{"about": "", "parameters": {}, "hooks": [{"outputs": []}]}]"#.into(),
            "case 1: hook 1: is none of request",
        ),
        (
            World::Tool,
            r#"[{"about": "", "parameters": {}, "calls": [{"tool": "a", "arguments": {}}]}]"#.into(),
            "call 1: needs `result`",
        ),
        (
            World::Tool,
            r#"[{"about": "", "parameters": {}, "refused": "x", "calls": []}]"#.into(),
            "has `refused` and more",
        ),
    ];
    for (world, text, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cases.json"), &text).unwrap();
        let error = GoldenCases::read(folder.path(), world).unwrap_err().to_string();
        assert!(error.contains("cases.json") && error.contains(words), "{text}: {error}");
    }
    let error = GoldenCases::read(Path::new("no/such/folder"), World::Tool).unwrap_err().to_string();
    assert!(error.starts_with("no/such/folder: can't be read"), "{error}");
}

#[test]
fn cases_read_no_file_outside_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let golden = folder.path().join("golden");
    fs::create_dir(&golden).unwrap();
    fs::write(folder.path().join("secret"), "x").unwrap();
    fs::write(golden.join("own"), "x").unwrap();
    let read = |file: &str| {
        let case = json!([{"about": "", "parameters": {"a": format!("file:{file}")}, "calls": []}]);
        fs::write(golden.join("cases.json"), case.to_string()).unwrap();
        GoldenCases::read(&golden, World::Tool).map(|cases| cases.len()).map_err(|error| error.to_string())
    };
    assert_eq!(read("own"), Ok(1));
    assert_eq!(read("./own"), Ok(1));
    for outside in ["../secret", "/etc/hostname", "a/../../secret"] {
        let error = read(outside).unwrap_err();
        assert!(error.contains("is not below the folder of the cases"), "{error}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../secret", golden.join("link")).unwrap();
        let error = read("link").unwrap_err();
        assert!(error.contains("is a link out of the folder"), "{error}");
    }
    assert!(read("none").unwrap_err().contains("parameters.a: none:"));
}
