//! Where attacks take place: a host with a model, honest plugins beside the attacker, and ways to bring one in.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use membrane_engine::{LoadOptions, Model};
use membrane_generate::{AgentAnswer, AgentOptions, Agents, Behaviour, EndReason, Event, EventSink};
use membrane_host::agent::Store;
use membrane_host::{
    AnswerContext, Ended, Grant, Host, HostError, HostOptions, Isolation, Limits, LogLine, Plugin,
    PluginSource, PolicyChain, SamplerChain, ToolSet, Vocabulary, World, first_party,
};
use membrane_tests::guests::{code_cache, guest};
use membrane_tests::{isolation, workspace};
use serde_json::{Value, json};

use crate::attack::Outcome;

/// Fuel of an attacker's call: some tenths of a second, and enough to fill all the memory that it may have.
const FUEL: u64 = 150_000_000;
/// Memory of an attacker.
const MEMORY_BYTES: usize = 64 << 20;
/// Events of a run that are kept.
const MOST_EVENTS: usize = 1000;
/// Tokens of the vocabulary that samplers choose from.
const TOKENS: usize = 100;

/// A host with all that runs in it.
pub struct Arena {
    pub mode: Isolation,
    host: Host,
    lines: Arc<Mutex<Vec<LogLine>>>,
    honest: Honest,
    agents: Agents,
}

struct Honest {
    sampler: Plugin,
    policy: Plugin,
    tool: Plugin,
    agent: Plugin,
}

/// Tokens that are numbers.
struct Numbers(Vec<String>);

impl Vocabulary for Numbers {
    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.0.get(token as usize).map(String::as_bytes)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        text.split(' ').map(|word| word.parse().map_err(|_| format!("{word} is no number"))).collect()
    }

    fn is_end(&self, token: u32) -> bool {
        token == 0
    }

    fn end_token(&self) -> Option<u32> {
        Some(0)
    }
}

/// What came of an agent's run.
pub struct Ran {
    pub answer: AgentAnswer,
    pub events: Vec<Event>,
}

impl Ran {
    /// The text that a person saw.
    pub fn text(&self) -> String {
        let text = |event: &Event| match event {
            Event::Text { text } => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }
}

impl Arena {
    pub fn new(mode: Isolation) -> Self {
        let lines: Arc<Mutex<Vec<LogLine>>> = Arc::default();
        let host = Self::host(&lines, HostOptions::default());
        let load = |name: &str, parameters: Value| {
            let plugin = first_party::find(name).unwrap();
            let source = PluginSource {
                parameters,
                isolation: mode,
                ..PluginSource::new(name, plugin.bytes.to_vec(), plugin.world)
            };
            host.load(source, plugin.world).unwrap()
        };
        let rules = "[[clause]]\nid = \"word\"\nwhen = \"output\"\nmatch = \"forbidden\"\naction = \"refuse\"\nmessage = \"No.\"\n";
        let agent = PluginSource {
            grants: [Grant::RawDecoding, Grant::Store].into(),
            isolation: mode,
            ..PluginSource::new("honest", guest("scripted-agent"), World::Agent)
        };
        let honest = Honest {
            sampler: load("greedy", json!({})),
            policy: load("guard", json!({ "rules": rules })),
            tool: load("calculator", json!({})),
            agent: host.load(agent, World::Agent).unwrap(),
        };
        let behaviour = Behaviour {
            samplers: vec![honest.sampler.clone()],
            policies: vec![honest.policy.clone()],
            tools: vec![honest.tool.clone()],
            ..Behaviour::default()
        };
        let agents = Agents::new(host.clone(), model(), behaviour, None).unwrap();
        Self { mode, host, lines, honest, agents }
    }

    fn host(lines: &Arc<Mutex<Vec<LogLine>>>, options: HostOptions) -> Host {
        let kept = lines.clone();
        let log = Arc::new(move |line: &LogLine| kept.lock().unwrap().push(line.clone()));
        let cache = (options.compile == Default::default()).then(code_cache);
        let processes = isolation::options().processes;
        Host::new(HostOptions { log: Some(log), cache, processes, ..options }).unwrap()
    }

    /// The same with another host.
    pub fn with(&self, options: HostOptions) -> Host {
        Self::host(&self.lines, options)
    }

    /// What plugins logged since the last time.
    pub fn logged(&self) -> Vec<LogLine> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    /// An attacker with all grants of its world, and little fuel.
    pub fn source(&self, world: World, bytes: Vec<u8>, parameters: Value) -> PluginSource {
        let limits =
            Limits { fuel_per_call: FUEL, memory_bytes: MEMORY_BYTES, wall_ms: Limits::of(world).wall_ms };
        let grants: BTreeSet<Grant> = Grant::ALL.into_iter().filter(|grant| grant.world() == world).collect();
        PluginSource {
            parameters,
            limits,
            grants,
            isolation: self.mode,
            ..PluginSource::new("x", bytes, world)
        }
    }

    pub fn load(&self, source: PluginSource, world: World) -> Result<Plugin, HostError> {
        self.host.load(source, world)
    }

    /// Loads a guest that misbehaves as its parameters say.
    pub fn guest(&self, name: &str, world: World, parameters: Value) -> Result<Plugin, HostError> {
        self.load(self.source(world, guest(name), parameters), world)
    }

    /// One token of a chain of samplers.
    pub fn step(&self, plugins: &[Plugin]) -> Result<u32, HostError> {
        let mut chain = SamplerChain::start(&self.host, plugins, context())?;
        chain.next(&mut logits(), &[5, 6, 7], 2).map(|chosen| chosen.token)
    }

    pub fn policies(&self, plugins: &[Plugin]) -> Result<PolicyChain, HostError> {
        PolicyChain::start(&self.host, plugins)
    }

    pub fn tools(&self, plugins: &[Plugin]) -> Result<ToolSet, HostError> {
        ToolSet::start(&self.host, plugins)
    }

    /// A run of an agent among the honest plugins.
    pub fn run(&self, agent: &Plugin, task: &str, store: Store) -> Ran {
        self.run_until(agent, task, store, &Arc::default())
    }

    /// The same, until it is cancelled.
    pub fn run_until(&self, agent: &Plugin, task: &str, store: Store, cancel: &Arc<AtomicBool>) -> Ran {
        let events = Arc::new(Mutex::new(Vec::new()));
        let into = events.clone();
        // What is written without end is not kept without end.
        let sink: EventSink = Arc::new(Mutex::new(move |event| {
            let mut kept = into.lock().unwrap();
            if kept.len() < MOST_EVENTS {
                kept.push(event);
            }
        }));
        let options = AgentOptions { seed: 1, max_tokens: Some(50), now: 0, template: Default::default() };
        let answer = self.agents.run(agent, task, &options, Some(store), cancel, &sink).unwrap();
        let events = std::mem::take(&mut *events.lock().unwrap());
        Ran { answer, events }
    }

    /// Honest plugins at work.
    pub fn bystanders(&self) -> Bystanders {
        let one = std::slice::from_ref;
        Bystanders {
            samplers: SamplerChain::start(&self.host, one(&self.honest.sampler), context()).unwrap(),
            policies: self.policies(one(&self.honest.policy)).unwrap(),
            tools: self.tools(one(&self.honest.tool)).unwrap(),
        }
    }
}

/// Instances of honest plugins that were started before an attack.
pub struct Bystanders {
    samplers: SamplerChain,
    policies: PolicyChain,
    tools: ToolSet,
}

impl Bystanders {
    /// Goes on with them, and has others started. Error: what does not do what it should.
    pub fn go_on(&mut self, arena: &Arena) -> Result<(), String> {
        self.check()?;
        arena.bystanders().check()?;
        let ran = arena.run(&arena.honest.agent, r#"[{"write":"ok"}]"#, Store::in_memory());
        match (ran.answer.reason, ran.text().as_str()) {
            (EndReason::Stop, "ok") => Ok(()),
            (reason, text) => {
                Err(format!("an agent ends with {reason:?} and says {text}: {:?}", ran.answer.why))
            }
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let chosen = self.samplers.next(&mut logits(), &[5, 6, 7], 2);
        match chosen.map(|chosen| chosen.token) {
            Ok(36) => {}
            other => return Err(format!("a sampler gives {other:?}")),
        }
        match self.tools.call("calculator", r#"{"expression": "6*7"}"#).as_deref() {
            Ok("42") => {}
            other => return Err(format!("a tool gives {other:?}")),
        }
        let fine = self.policies.output("fine ", false);
        if fine.released != "fine " || fine.ended.is_some() {
            return Err(format!("a policy makes {fine:?} of a harmless text"));
        }
        let refused = self.policies.output("forbidden", true);
        match refused.ended {
            Some(Ended::Refused(refused)) if refused.message == "No." => Ok(()),
            other => Err(format!("a policy makes {other:?} of what it forbids")),
        }
    }
}

/// The outcome where something should have failed.
pub fn failed<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> Outcome {
    match result {
        Ok(value) => Err(format!("it gave {:.300}", format!("{value:?}"))),
        Err(error) => Ok(error.to_string()),
    }
}

fn model() -> Model {
    let path = workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf");
    let options = LoadOptions {
        context: Some(1024),
        contexts: 8,
        sessions: 64,
        threads: Some(1),
        ..LoadOptions::default()
    };
    Model::open(&path, &options).unwrap()
}

fn context() -> AnswerContext {
    let words = (0..TOKENS).map(|token| token.to_string()).collect();
    AnswerContext { vocabulary: Arc::new(Numbers(words)), seed: 1 }
}

fn logits() -> Vec<f32> {
    (0..TOKENS).map(|token| (token % 37) as f32 / 10.0).collect()
}
