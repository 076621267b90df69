//! Agents over a model: sessions, generations, tools, policies, records, and passes that sessions share.

mod isolated;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use membrane_audit::text::Texts;
use membrane_audit::verify::{Trusted, verify};
use membrane_audit::{self as audit, Keep, Log, LogOptions, Script, Transcript};
use membrane_engine::{LoadOptions, Model, Session};
use membrane_generate::{
    AgentAnswer, AgentOptions, Agents, Audit, Behaviour, EndReason, Event, EventSink, Generator, Sameness,
    Versions,
};
use membrane_host::agent::Store;
use membrane_host::{
    CompileLimits, Grant, Host, HostOptions, LogLine, Plugin, PluginSource, World, first_party,
};
use membrane_tests::guests::guest;
use membrane_tests::{isolation, workspace};
use serde_json::{Value, json};

const MODEL: &str = "tiny-qwen3moe-Q8_0.gguf";

/// Lines that agents logged, with all that was logged before.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn host() -> Host {
    static HOST: LazyLock<Host> = LazyLock::new(|| {
        let log = Arc::new(|line: &LogLine| LOGGED.lock().unwrap().push(line.text.clone()));
        // What compiling takes is measured on the whole process, in which other tests run.
        let compile = CompileLimits { memory_bytes: 4 << 30, ..CompileLimits::default() };
        Host::new(HostOptions { log: Some(log), compile, ..isolation::options() }).unwrap()
    });
    HOST.clone()
}

fn load(name: &str, bytes: Vec<u8>, world: World, parameters: Value, grants: &[Grant]) -> Plugin {
    let grants = BTreeSet::from_iter(grants.iter().copied());
    let isolation = isolation::of_tests();
    let source = PluginSource { parameters, grants, isolation, ..PluginSource::new(name, bytes, world) };
    host().load(source, world).unwrap()
}

fn own(name: &str, parameters: Value) -> Plugin {
    let plugin = first_party::find(name).unwrap();
    load(name, plugin.bytes.to_vec(), plugin.world, parameters, &[])
}

/// The agent whose task is a list of steps. Compiled once.
fn scripted() -> Plugin {
    static AGENT: LazyLock<Plugin> = LazyLock::new(|| {
        let grants = [Grant::RawDecoding, Grant::Store];
        load("scripted-agent", guest("scripted-agent"), World::Agent, json!({}), &grants)
    });
    AGENT.clone()
}

/// A sampler that draws.
fn drawing() -> Behaviour {
    static SAMPLER: LazyLock<Plugin> =
        LazyLock::new(|| own("standard-sampler", json!({ "temperature": 1.4, "top_k": 60 })));
    Behaviour { samplers: vec![SAMPLER.clone()], ..Behaviour::default() }
}

/// A sampler that says what a script says.
fn saying(texts: &[&str]) -> Behaviour {
    let parameters = json!({ "texts": texts });
    let sampler = load("scripted-sampler", guest("scripted-sampler"), World::Sampler, parameters, &[]);
    Behaviour { samplers: vec![sampler], ..Behaviour::default() }
}

fn model(options: LoadOptions) -> Model {
    let path = workspace().join("tests/fixtures/gguf").join(MODEL);
    let options = LoadOptions { context: Some(1024), contexts: 8, sessions: 64, ..options };
    Model::open(&path, &options).unwrap()
}

fn agents(behaviour: Behaviour) -> Agents {
    let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    Agents::new(host(), model(options), behaviour, None).unwrap()
}

struct Seen {
    events: Vec<Event>,
    answer: AgentAnswer,
}

fn run_with(agents: &Agents, agent: &Plugin, task: &str, seed: u64, cancel: &Arc<AtomicBool>) -> Seen {
    let events = Arc::new(Mutex::new(Vec::new()));
    let into = events.clone();
    let sink: EventSink = Arc::new(Mutex::new(move |event| into.lock().unwrap().push(event)));
    let options = AgentOptions { seed, max_tokens: Some(200), now: 0 };
    let store = Some(Store::in_memory());
    let answer = agents.run(agent, task, &options, store, cancel, &sink).unwrap();
    let events = std::mem::take(&mut *events.lock().unwrap());
    Seen { events, answer }
}

fn run(agents: &Agents, agent: &Plugin, task: &str) -> Seen {
    run_with(agents, agent, task, 1, &Arc::default())
}

/// What comes of steps; all of it is reported.
fn steps(agents: &Agents, steps: Value) -> Vec<Value> {
    let mut all = steps.as_array().unwrap().clone();
    all.push(json!("report"));
    let seen = run(agents, &scripted(), &Value::Array(all).to_string());
    assert_eq!(seen.answer.reason, EndReason::Stop, "{:?}", seen.answer.why);
    serde_json::from_str(&seen.text()).unwrap()
}

impl Seen {
    fn text(&self) -> String {
        let text = |event: &Event| match event {
            Event::Text { text } => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }

    /// Everything that a person could see.
    fn everything(&self) -> String {
        let mut all = format!("{:?}", self.answer.why);
        for event in &self.events {
            let mut event = serde_json::to_value(event).unwrap();
            event.as_object_mut().unwrap().remove("stats");
            all += &event.to_string();
        }
        all
    }
}

#[test]
fn a_session_says_what_fits_and_keeps_what_it_has() {
    let found = steps(
        &agents(drawing()),
        json!([
            "model",
            {"new": "a"},
            {"length": "a"},
            {"append": ["a", "Once upon a time"]},
            {"length": "a"},
            {"room": "a"},
            {"append": ["a", "word ".repeat(1200)]},
            {"length": "a"},
            {"truncate": ["a", 2]},
            {"length": "a"},
            {"tokens": "a"},
            {"encode": "Once upon a time"},
        ]),
    );
    let (context, vocabulary) = (found[0][1].as_u64().unwrap(), found[0][2].as_u64().unwrap());
    assert_eq!((context, found[0][3].as_bool()), (1024, Some(true)));
    assert!(vocabulary > 100);
    let length = found[4].as_u64().unwrap();
    assert_eq!((found[2].as_u64(), found[3].as_u64()), (Some(0), Some(length)));
    assert_eq!(found[5].as_u64(), Some(context - length));
    assert_eq!(found[6]["error"], "overflow", "{:?}", found[6]);
    assert!(found[6]["what"].as_str().unwrap().contains(&format!("room for {} more", context - length)));
    assert_eq!((&found[7], &found[9]), (&json!(length), &json!(2)));
    assert_eq!(found[10].as_array().unwrap()[..], found[11].as_array().unwrap()[..2]);
}

#[test]
fn a_fork_goes_on_by_itself_and_gives_what_a_fresh_session_gives() {
    let options = json!({"max-tokens": 12, "seed": 7});
    let found = steps(
        &agents(drawing()),
        json!([
            {"new": "a"},
            {"append": ["a", "The quick brown"]},
            {"fork": ["a", "b"]},
            {"start": ["b", "one", options]},
            {"start": ["a", "two", {"max-tokens": 12, "seed": 8}]},
            {"finish": "one"},
            {"finish": "two"},
            {"tokens": "a"},
            {"tokens": "b"},
            {"new": "c"},
            {"append": ["c", "The quick brown"]},
            {"start": ["c", "three", options]},
            {"finish": "three"},
            {"tokens": "c"},
            {"truncate": ["c", 3]},
            {"start": ["c", "four", options]},
            {"finish": "four"},
        ]),
    );
    let (one, two, three, four) = (&found[5], &found[6], &found[12], &found[16]);
    assert_eq!(one["tokens"], 12);
    assert_eq!(one["reason"], "EndReason::Length");
    assert_ne!(one["text"], two["text"], "another seed");
    assert_eq!(one, three, "what a pass is shared with changes nothing");
    assert_eq!(found[8], found[13]);
    assert_ne!(found[7], found[8]);
    assert_eq!(four["tokens"], 12);
}

#[test]
fn text_comes_as_it_is_made_and_ends_where_it_is_told_to() {
    let behaviour = || saying(&["one two three four", "a b c"]);
    let found = steps(
        &agents(behaviour()),
        json!([
            {"new": "a"},
            {"append": ["a", "Count:"]},
            {"start": ["a", "g", {"stop": ["thr", "zzz"]}]},
            {"next": "g"},
            {"finish": "g"},
            {"next": "g"},
            {"finish": "g"},
            {"length": "a"},
        ]),
    );
    let first = found[3].as_str().unwrap();
    assert!(!first.is_empty() && "one two ".starts_with(first), "{first}");
    assert_eq!((&found[4]["text"], &found[4]["reason"]), (&json!("one two "), &json!("EndReason::StopText")));
    assert_eq!(found[5], Value::Null);
    assert_eq!(found[6], found[4]);
    assert!(found[7].as_u64() > Some(found[4]["tokens"].as_u64().unwrap()));
}

#[test]
fn a_session_is_busy_until_its_generation_has_ended() {
    let found = steps(
        &agents(drawing()),
        json!([
            {"new": "a"},
            {"append": ["a", "Once"]},
            {"length": "a"},
            {"start": ["a", "g", {"max-tokens": 30}]},
            {"append": ["a", "more"]},
            {"fork": ["a", "b"]},
            {"truncate": ["a", 0]},
            {"start": ["a", "h", {}]},
            {"length": "a"},
            {"cancel": "g"},
            {"length": "a"},
            {"finish": "g"},
            {"start": ["a", "i", {"max-tokens": 3}]},
            {"drop": "i"},
            {"length": "a"},
        ]),
    );
    for busy in &found[4..8] {
        assert_eq!(busy["error"], "busy", "{busy}");
    }
    let length = &found[2];
    assert_eq!([&found[8], &found[10], &found[14]], [length, length, length]);
    assert_eq!(found[11]["reason"], "EndReason::Cancelled");
}

#[test]
fn what_can_not_be_is_refused_and_said() {
    let found = steps(
        &agents(drawing()),
        json!([
            {"new": "a"},
            {"start": ["a", "g", {}]},
            {"score": ["a", ["x"]]},
            {"append": ["a", "Once"]},
            {"start": ["a", "g", {"stop": [""]}]},
            {"start": ["a", "g", {"stop": vec!["x"; 17]}]},
            {"start": ["a", "g", {"sampling": "{\"no_such\": 1}"}]},
            {"start": ["a", "g", {"sampling": "7"}]},
            {"append-tokens": ["a", [4_000_000]]},
            {"save": ["a", ""]},
            {"save": ["a", "n".repeat(65)]},
            {"open": ["never", "b"]},
            {"forks": ["a", 70]},
            {"start": ["a", "g", {"max-tokens": 3, "sampling": "{\"temperature\": 0}"}]},
            {"finish": "g"},
            {"set": ["", "x"]},
            {"call": ["nothing", {}]},
        ]),
    );
    for (at, part) in
        [(1, "empty"), (2, "empty"), (4, "1 to 256"), (5, "17 stop"), (6, "no_such"), (7, "JSON")]
    {
        assert_eq!(found[at]["error"], "invalid", "{at}: {}", found[at]);
        assert!(found[at]["what"].as_str().unwrap().contains(part), "{at}: {}", found[at]);
    }
    assert_eq!([&found[8]["error"], &found[9]["error"], &found[10]["error"]], ["invalid"; 3]);
    assert_eq!(found[11], false);
    assert_eq!(found[12]["error"], "limit");
    assert_eq!(found[14]["tokens"], 3);
    assert!(found[15]["error"].as_str().unwrap().contains("1 to 256"));
    assert!(found[16]["error"].as_str().unwrap().contains("no tool `nothing`"));
}

#[test]
fn scores_are_the_models_own_probabilities() {
    let agents = agents(drawing());
    let found = steps(
        &agents,
        json!([
            {"new": "a"},
            {"append": ["a", "Once upon"]},
            {"top": ["a", 3]},
            {"score": ["a", [" a time", "", " a"]]},
            {"logits": "a"},
            {"length": "a"},
        ]),
    );
    // The same by hand, one token at a time.
    let model = model(LoadOptions { threads: Some(2), ..LoadOptions::default() });
    let tokenizer = model.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode(text, membrane_text::Specials::AsText).unwrap();
    let log_probability = |session: &Session, token: u32| {
        let logits: Vec<f64> = session.logits().iter().map(|logit| f64::from(*logit)).collect();
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        logits[token as usize] - most - logits.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln()
    };
    let by_hand = |text: &str| {
        let mut session = model.session();
        session.append(&encode("Once upon")).unwrap();
        let mut sum = 0.0;
        for token in encode(text) {
            sum += log_probability(&session, token);
            session.append(&[token]).unwrap();
        }
        sum
    };
    for (score, text) in found[3].as_array().unwrap().iter().zip([" a time", "", " a"]) {
        assert!((score[0].as_f64().unwrap() - by_hand(text)).abs() < 1e-6, "{text}: {score}");
        assert_eq!(score[1].as_u64().unwrap() as usize, encode(text).len());
    }
    let top = found[2].as_array().unwrap();
    let best = top[0][0].as_u64().unwrap() as u32;
    let mut session = model.session();
    session.append(&encode("Once upon")).unwrap();
    assert!((top[0][2].as_f64().unwrap().ln() - log_probability(&session, best)).abs() < 1e-5);
    assert!(top[0][2].as_f64() >= top[1][2].as_f64());
    assert_eq!(found[4].as_u64(), Some(session.logits().len() as u64));
}

#[test]
fn a_conversation_keeps_its_prefix_and_shows_the_tools() {
    let call =
        "<tool_call>\n{\"name\": \"calculator\", \"arguments\": {\"expression\": \"6*7\"}}\n</tool_call>";
    let mut behaviour = saying(&[call]);
    behaviour.tools.push(own("calculator", json!({})));
    let agents = agents(behaviour);
    let found = steps(
        &agents,
        json!([
            "tools",
            {"new": "a"},
            {"chat": ["a", [["user", "Hi"]], false]},
            {"length": "a"},
            {"chat": ["a", [["user", "Hi"]], true]},
            {"length": "a"},
            {"start": ["a", "g", {}]},
            {"finish": "g"},
            {"call": ["calculator", {"expression": "6*7"}]},
            {"chat": ["a", [["user", "Hi"], ["assistant", "Ho"], ["user", "Hm"]], true]},
        ]),
    );
    assert_eq!(found[0], json!(["calculator"]));
    assert!(found[5].as_u64() > found[3].as_u64(), "the tools are in the prompt");
    assert_eq!(found[7]["calls"], json!([["calculator", "{\"expression\":\"6*7\"}"]]));
    assert_eq!(found[7]["text"], "");
    assert_eq!(found[8], "42");
    assert!(found[9][0].as_u64().unwrap() > 10, "the common prefix was kept: {}", found[9]);
    // An agent that does this by itself, with a model that only ever calls.
    let seen = run(&agents, &own("react", json!({ "steps": 2 })), "What is six times seven?");
    assert_eq!(seen.answer.why.as_deref(), Some("there was no answer after 2 steps"));
    let results = seen
        .events
        .iter()
        .filter(|event| matches!(event, Event::ToolResult { output, .. } if output == "42"));
    assert_eq!(results.count(), 2);
}

#[test]
fn a_text_is_what_its_constraint_says() {
    let agents = agents(drawing());
    let found = steps(
        &agents,
        json!([
            {"new": "a"},
            {"append": ["a", "The number is "]},
            {"length": "a"},
            {"start": ["a", "g", {"regex": "[0-9]{3}"}]},
            {"finish": "g"},
            {"length": "a"},
            {"start": ["a", "g", {"regex": "("}]},
            {"start": ["a", "g", {"json-schema": "{"}]},
            {"start": ["a", "g", {"lark": "start: \"yes\" | \"no\""}]},
            {"finish": "g"},
        ]),
    );
    let text = found[4]["text"].as_str().unwrap();
    assert!(text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit()), "{text}");
    assert_eq!(found[5].as_u64().unwrap() - found[2].as_u64().unwrap(), found[4]["tokens"].as_u64().unwrap());
    assert_eq!([&found[6]["error"], &found[7]["error"]], ["invalid"; 2]);
    assert!(["yes", "no"].contains(&found[9]["text"].as_str().unwrap()), "{}", found[9]);
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 7}}, "required": ["n"], "additionalProperties": false}"#;
    let agent = own("extractor", json!({ "schema": schema }));
    let seen = run(&agents, &agent, "She has five cats.");
    let value: Value = serde_json::from_str(&seen.text()).unwrap();
    assert!((3..=7).contains(&value["n"].as_i64().unwrap()), "{value}");
}

#[test]
fn names_keep_contexts_for_runs_of_the_same_agent() {
    let agents = agents(drawing());
    let kept = steps(
        &agents,
        json!([{"new": "a"}, {"append": ["a", "A long prefix of words"]}, {"save": ["a", "prefix"]}, {"tokens": "a"}]),
    );
    let found = steps(&agents, json!([{"open": ["prefix", "b"]}, {"tokens": "b"}]));
    assert_eq!((&found[0], &found[1]), (&json!(true), &kept[3]));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let agents = agents(drawing());
    let agent = own("best-of-n", json!({ "n": 4, "max_tokens": 16 }));
    let text = |seed| run_with(&agents, &agent, "Say something.", seed, &Arc::default()).text();
    let first = text(5);
    assert!(!first.is_empty());
    for _ in 0..4 {
        assert_eq!(text(5), first);
    }
    assert_ne!(text(6), first);
}

/// What is asked may have the word, what is said may not.
const OUTPUT_RULES: &str = r#"
[[clause]]
id = "secret"
when = ["output", "tool-call", "tool-result"]
match = "forbidden"
action = "refuse"
message = "No."
"#;

/// Everything by which an agent can try to hand a text on, after it got at it past all policies.
#[test]
fn no_text_of_an_agent_passes_a_policy() {
    let ways = [
        ("written", json!([{"write": "it is for"}, {"write": "bidden"}])),
        (
            "written behind more",
            json!([{"write": "fine. "}, {"write": "forbid"}, {"write": "den"}, {"write": "!"}]),
        ),
        ("returned", json!([{"write": "forb"}, {"return": "idden"}])),
        ("given up", json!([{"give-up": "forbidden"}])),
        ("panicked", json!([{"panic": "forbidden"}])),
        ("logged", json!([{"log": "forbidden"}])),
        ("as a name", json!([{"start": ["forbidden", "g", {}]}])),
        (
            "generated",
            json!([{"new": "a"}, {"append": ["a", "x"]}, {"start": ["a", "g", {}]}, {"finish": "g"}, "tell", "report"]),
        ),
        (
            "streamed",
            json!([{"new": "a"}, {"append": ["a", "x"]}, {"start": ["a", "g", {}]}, {"next": "g"}, {"next": "g"}, {"next": "g"}, "tell"]),
        ),
        ("called", json!([{"call": ["calculator", {"expression": "forbidden"}]}, "report"])),
        ("not JSON", json!(["forbidden"])),
    ];
    let mut behaviour = saying(&["it is forbidden here"]);
    behaviour.policies.push(own("guard", json!({ "rules": OUTPUT_RULES })));
    behaviour.tools.push(own("calculator", json!({})));
    let agents = agents(behaviour);
    for (way, script) in ways {
        LOGGED.lock().unwrap().clear();
        let seen = run(&agents, &scripted(), &script.to_string());
        let logged = LOGGED.lock().unwrap().join("\n");
        assert!(!seen.everything().contains("forbidden"), "{way}: {}", seen.everything());
        assert!(!logged.contains("forbidden"), "{way}: {logged}");
    }
}

#[test]
fn an_agent_learns_of_a_refusal_and_goes_on() {
    let mut behaviour = saying(&["it is forbidden here"]);
    behaviour.policies.push(own("guard", json!({ "rules": OUTPUT_RULES })));
    let agents = agents(behaviour);
    let script = json!([
        {"new": "a"},
        {"append": ["a", "x"]},
        {"start": ["a", "g", {}]},
        {"finish": "g"},
        {"length": "a"},
        {"start": ["a", "h", {"sampling": "{\"texts\": [\"all is well\"]}"}]},
        {"finish": "h"},
        "report",
    ]);
    let seen = run(&agents, &scripted(), &script.to_string());
    let found: Vec<Value> = serde_json::from_str(&seen.text()).unwrap();
    assert_eq!((&found[3]["error"], &found[3]["what"]), (&json!("refused"), &json!("No.")));
    assert_eq!(found[4], found[1], "nothing of it is in the session");
    assert_eq!(found[6]["text"], "all is well");
    assert_eq!(seen.answer.stats.interventions, 1);
}

#[test]
fn a_system_prompt_can_not_be_left_out() {
    let mut behaviour = saying(&["fine"]);
    let plugin = first_party::find("system-prompt").unwrap();
    let parameters = json!({ "text": "Be kind." });
    let policy =
        load("system-prompt", plugin.bytes.to_vec(), World::Policy, parameters, &[Grant::SystemPrompt]);
    behaviour.policies.push(policy);
    let found = steps(
        &agents(behaviour),
        json!([
            {"new": "a"},
            {"append": ["a", "no system message here"]},
            {"start": ["a", "g", {}]},
            {"chat": ["a", [["user", "Hi"]], false]},
            {"start": ["a", "g", {}]},
            {"finish": "g"},
            {"append": ["a", " and so on"]},
            {"start": ["a", "g", {"max-tokens": 1}]},
            {"truncate": ["a", 3]},
            {"start": ["a", "h", {}]},
        ]),
    );
    assert_eq!(found[2]["error"], "invalid", "{}", found[2]);
    assert_eq!(found[5]["text"], "fine");
    assert_eq!(found[7], "done", "what follows a conversation is part of it");
    assert_eq!(found[9]["error"], "busy");
}

#[test]
fn hostile_agents_end_with_a_clear_error() {
    let agents = agents(drawing());
    for (script, part) in [
        (json!(["loop"]), "ran out of fuel"),
        (json!(["recurse"]), "recursed too deep"),
        (json!([{"eat": 1000}]), "more memory than its limit"),
        (json!([{"panic": "boom"}]), "boom"),
        (json!([{"new": "a"}, {"append": ["a", "x"]}, {"start": ["a", "g", {}]}, "loop"]), "ran out of fuel"),
    ] {
        let limits =
            membrane_host::Limits { fuel_per_call: 300_000_000, memory_bytes: 64 << 20, wall_ms: None };
        let grants = BTreeSet::from([Grant::RawDecoding, Grant::Store]);
        let source = PluginSource {
            grants,
            limits,
            ..PluginSource::new("scripted-agent", guest("scripted-agent"), World::Agent)
        };
        let agent = host().load(source, World::Agent).unwrap();
        let seen = run(&agents, &agent, &script.to_string());
        assert_eq!(seen.answer.reason, EndReason::AgentFailed, "{script}");
        let why = seen.answer.why.unwrap();
        assert!(why.contains(part), "{script}: {why}");
    }
    // The model is as usable as before.
    assert_eq!(run(&agents, &scripted(), r#"[{"write": "ok"}]"#).text(), "ok");
}

#[test]
fn a_run_can_be_cancelled_wherever_it_is() {
    let agents = agents(drawing());
    for script in [
        json!([{"new": "a"}, {"append": ["a", "x"]}, {"start": ["a", "g", {}]}, {"finish": "g"}, {"write": "late"}]),
        json!([{"write": "late"}]),
    ] {
        let cancel = Arc::new(AtomicBool::new(true));
        let seen = run_with(&agents, &scripted(), &script.to_string(), 1, &cancel);
        assert_eq!(seen.answer.reason, EndReason::Cancelled);
        assert!(cancel.load(Ordering::Relaxed));
    }
}

#[test]
fn interfaces_that_were_not_granted_are_named() {
    for (grants, missing) in [(vec![], "raw-decoding"), (vec![Grant::RawDecoding], "store")] {
        let grants = BTreeSet::from_iter(grants);
        let source = PluginSource {
            grants,
            ..PluginSource::new("scripted-agent", guest("scripted-agent"), World::Agent)
        };
        let error = host().load(source, World::Agent).unwrap_err().to_string();
        assert!(error.contains(missing) && error.contains("grants = "), "{error}");
    }
}

/// Several agents at the same time, each with forks: every generation is on record and replays bit for bit, whatever it shared
/// its passes with.
#[test]
fn what_agents_generate_in_shared_passes_is_replayed_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let log =
        Log::open(&path, LogOptions { program: "test 1.0.0".into(), keep: Keep::Text, key: None }).unwrap();
    let log = Arc::new(Mutex::new(log));
    let recorded = audit::Model {
        path: "model.gguf".into(),
        architecture: "test".into(),
        files: Vec::new(),
        tokenizer: audit::Digest::of(b""),
        template: None,
    };
    let audit = Audit::new(log.clone(), recorded).unwrap();
    let experts = model(LoadOptions::default()).plan().experts;
    let paged = LoadOptions { threads: Some(2), experts: Some(experts / 4), ..LoadOptions::default() };
    let agents = Agents::new(host(), model(paged), drawing(), Some(audit)).unwrap();
    let agent = own("best-of-n", json!({ "n": 3, "max_tokens": 24 }));
    let texts: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|seed| {
                let (agents, agent) = (&agents, &agent);
                let task = format!("Task {seed}");
                scope.spawn(move || run_with(agents, agent, &task, seed, &Arc::default()).text())
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let (passes, tokens) = agents.passes();
    assert!(tokens > passes, "{tokens} tokens in {passes} passes");
    for (seed, text) in texts.iter().enumerate() {
        let alone = run_with(&agents, &agent, &format!("Task {seed}"), seed as u64, &Arc::default());
        assert_eq!(alone.text(), *text, "alone as among others");
    }
    log.lock().unwrap().close().unwrap();
    assert!(verify(&path, &Trusted::default()).unwrap().good());
    let transcript = Transcript::read(&path, None).unwrap();
    let kept = Texts::beside(&path).unwrap();
    let all_in_memory = model(LoadOptions { threads: Some(1), ..LoadOptions::default() });
    let mut generator = Generator::new(host(), all_in_memory, drawing()).unwrap();
    let mut generations = 0;
    for answer in &transcript.answers {
        let script = Script::of(answer, kept.as_ref()).unwrap();
        let seed = answer.start.seed;
        let replayed =
            generator.replay(answer.number, seed, &script, Sameness::Bits, &Versions::new()).unwrap();
        assert!(replayed.identical(), "answer {}: {:?}", answer.number, replayed.first);
        generations += usize::from(replayed.tokens > 0);
    }
    assert_eq!(generations, 2 * 4 * 3);
    assert_eq!(transcript.answers.len(), 2 * 4 * (3 + 1));
}
