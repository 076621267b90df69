//! Agents over a model: sessions, generations, tools, policies, records, and passes that sessions share.

#[path = "../isolated/mod.rs"]
mod isolated;
mod judges;
mod limits;
mod policies;
mod records;
mod sessions;
mod speculation;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex};

use membrane_engine::{LoadOptions, Model};
use membrane_generate::{AgentAnswer, AgentOptions, Agents, Behaviour, EndReason, Event, EventSink};
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
    model_at(&workspace().join("tests/fixtures/gguf").join(MODEL), options)
}

fn model_at(path: &Path, options: LoadOptions) -> Model {
    let options = LoadOptions { context: Some(1024), contexts: 8, sessions: 64, ..options };
    Model::open(path, &options).unwrap()
}

fn agents(behaviour: Behaviour) -> Agents {
    let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    Agents::new(host(), model(options), behaviour, None).unwrap()
}

struct Seen {
    events: Vec<Event>,
    answer: AgentAnswer,
}

/// A run of the agent whose task is a list of steps.
fn run_into(
    agents: &Agents,
    task: &str,
    store: &Store,
    cancel: &Arc<AtomicBool>,
    sink: &EventSink,
) -> AgentAnswer {
    let options = AgentOptions { seed: 1, max_tokens: Some(200), now: 0, template: Default::default() };
    agents.run(&scripted(), task, &options, Some(store.clone()), cancel, sink).unwrap()
}

fn run_with(agents: &Agents, agent: &Plugin, task: &str, seed: u64, cancel: &Arc<AtomicBool>) -> Seen {
    let events = Arc::new(Mutex::new(Vec::new()));
    let into = events.clone();
    let sink: EventSink = Arc::new(Mutex::new(move |event| into.lock().unwrap().push(event)));
    let options = AgentOptions { seed, max_tokens: Some(200), now: 0, template: Default::default() };
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
