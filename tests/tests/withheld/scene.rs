//! A model that writes forbidden texts, policies that forbid them, and everything that somebody can see of the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use membrane_engine::{LoadOptions, Model};
use membrane_generate::{AgentOptions, Agents, AnswerOptions, Behaviour, Event, EventSink, Generator};
use membrane_host::{Host, HostOptions, Plugin, PluginSource, World, first_party};
use membrane_tests::guests::{code_cache, guest};
use membrane_tests::workspace;
use membrane_text::{ChatMessage, Role, Specials};
use serde_json::{Value, json};

/// What the policies forbid: words, digits that a tool computes, characters of several bytes, a text that begins with itself.
pub const FORBIDDEN: [&str; 4] = ["secret", "7731", "caf\u{e9} \u{2615}", "aab"];
/// What all scenes share: each plugin is compiled once.
pub struct Props {
    pub host: Host,
    pub sampler: Plugin,
    pub guard: Plugin,
    pub second: Plugin,
    pub scripted: Plugin,
    pub calculator: Plugin,
    pub react: Plugin,
    pub best_of_n: Plugin,
    /// Tokens by their bytes.
    pub words: BTreeMap<Vec<u8>, u32>,
}

pub fn props() -> &'static Props {
    static PROPS: OnceLock<Props> = OnceLock::new();
    PROPS.get_or_init(|| {
        let host = Host::new(HostOptions { cache: Some(code_cache()), ..HostOptions::default() }).unwrap();
        let model = model();
        let tokenizer = model.tokenizer().unwrap();
        let plain = (0..tokenizer.vocab_size() as u32).filter(|token| !tokenizer.is_control(*token));
        let words = plain.map(|token| (tokenizer.token_bytes(token).unwrap().to_vec(), token)).collect();
        let load = |name: &str, bytes: Vec<u8>, world: World| {
            let grants = match world {
                World::Policy => BTreeSet::from([membrane_host::Grant::ForceText]),
                _ => BTreeSet::new(),
            };
            host.load(PluginSource { grants, ..PluginSource::new(name, bytes, world) }, world).unwrap()
        };
        let first = |name: &str| first_party::find(name).unwrap().bytes.to_vec();
        Props {
            sampler: load("scripted-sampler", guest("scripted-sampler"), World::Sampler),
            guard: load("guard", first("guard"), World::Policy),
            second: load("second", first("guard"), World::Policy),
            scripted: load("scripted", guest("scripted-policy"), World::Policy),
            calculator: load("calculator", first("calculator"), World::Tool),
            react: load("react", first("react"), World::Agent),
            best_of_n: load("best-of-n", first("best-of-n"), World::Agent),
            host,
            words,
        }
    })
}

/// The model of a test: sessions of one compute one after the other, those of several beside each other.
pub fn model() -> Model {
    thread_local! {
        static MODEL: Model = {
            let path = workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf");
            let options = LoadOptions { context: Some(8192), threads: Some(1), ..LoadOptions::default() };
            Model::open(&path, &options).unwrap()
        };
    }
    MODEL.with(Model::clone)
}

pub fn with(plugin: &Plugin, parameters: Value) -> Plugin {
    plugin.with_parameters(parameters.as_object().unwrap().clone())
}

pub fn encode(text: &str) -> Vec<u32> {
    model().tokenizer().unwrap().encode(text, Specials::AsText).unwrap()
}

/// All ways to cut bytes into tokens of the vocabulary.
pub fn splits(bytes: &[u8]) -> Vec<Vec<u32>> {
    if bytes.is_empty() {
        return vec![Vec::new()];
    }
    let first = (1..=bytes.len()).filter_map(|length| {
        let token = *props().words.get(&bytes[..length])?;
        Some(splits(&bytes[length..]).into_iter().map(move |rest| [&[token][..], &rest].concat()))
    });
    first.flatten().collect()
}

/// How the policies forbid.
#[derive(Clone, Copy, Debug)]
pub enum Setting {
    Redacts,
    Stops,
    Refuses,
    /// Two policies, each of which forbids some of it.
    Two,
    /// Behind one that holds everything back, and before it.
    Holding,
    /// Nothing is forbidden: what is seen then shows that the path leads out.
    Free,
}

pub const SETTINGS: [Setting; 5] =
    [Setting::Redacts, Setting::Stops, Setting::Refuses, Setting::Two, Setting::Holding];

impl Setting {
    pub fn policies(self) -> Vec<Plugin> {
        let props = props();
        let rules = |plugin: &Plugin, forbidden: &[&str], action: &str| {
            let clause = |text: &&str| {
                format!(
                    "[[clause]]\nid = \"c\"\nwhen = \"output\"\nmatch = '{text}'\naction = \"{action}\"\n"
                )
            };
            let text = match action {
                "refuse" => "message = \"No.\"\n",
                _ => "",
            };
            let clauses = forbidden.iter().enumerate();
            let clauses = clauses.map(|(id, it)| clause(it).replace("\"c\"", &format!("\"c:{id}\"")) + text);
            with(plugin, json!({ "rules": clauses.collect::<String>() }))
        };
        let holding = || {
            let parameters = json!({"hook": "output", "at": "nowhere", "action": "stop"});
            with(&props.scripted, parameters)
        };
        match self {
            Self::Redacts => vec![rules(&props.guard, &FORBIDDEN, "redact")],
            Self::Stops => vec![rules(&props.guard, &FORBIDDEN, "stop")],
            Self::Refuses => vec![rules(&props.guard, &FORBIDDEN, "refuse")],
            Self::Two => vec![
                rules(&props.guard, &FORBIDDEN[..2], "redact"),
                rules(&props.second, &FORBIDDEN[2..], "redact"),
            ],
            Self::Holding => vec![holding(), rules(&props.guard, &FORBIDDEN, "redact")],
            Self::Free => Vec::new(),
        }
    }
}

/// A forbidden text in certain tokens, and the policies that forbid it.
pub struct Scene {
    pub tokens: Vec<u32>,
    pub setting: Setting,
}

/// An answer to be made.
#[derive(Default)]
pub struct Play<'a> {
    /// What the model writes, in each round.
    pub rounds: Vec<Vec<u32>>,
    /// How the sampler fails.
    pub fault: Option<&'a str>,
    /// Another policy before the others, and one behind them.
    pub before: Option<Plugin>,
    pub behind: Option<Plugin>,
    pub max_tokens: Option<usize>,
    /// The answer is cancelled at this event.
    pub cancelled_at: Option<usize>,
    pub raw: bool,
}

/// Everything that somebody can see, one text for each way of looking at it.
#[derive(Default)]
pub struct Seen {
    pub texts: Vec<String>,
    pub events: Vec<Event>,
    pub messages: Vec<ChatMessage>,
}

impl Scene {
    /// The tokens between others.
    pub fn within(&self, before: &str, after: &str) -> Vec<u32> {
        [encode(before), self.tokens.clone(), encode(after)].concat()
    }

    pub fn text(&self) -> String {
        model().tokenizer().unwrap().decode(&self.tokens, false)
    }

    pub fn behaviour(&self, play: &Play) -> Behaviour {
        let props = props();
        let sampler = with(&props.sampler, json!({ "texts": play.rounds, "fault": play.fault }));
        let policies = play.before.iter().cloned().chain(self.setting.policies());
        Behaviour {
            samplers: vec![sampler],
            policies: policies.chain(play.behind.clone()).collect(),
            tools: vec![props.calculator.clone()],
            record: None,
        }
    }

    pub fn generator(&self, play: &Play) -> Generator {
        let props = props();
        Generator::new(props.host.clone(), model(), self.behaviour(play)).unwrap()
    }

    /// One answer to a first question.
    pub fn play(&self, play: &Play) -> Seen {
        self.answer(&mut self.generator(play), play, &[ChatMessage::new(Role::User, "Go.")], &mut |_| {})
    }

    pub fn rounds(&self, rounds: Vec<Vec<u32>>) -> Seen {
        self.play(&Play { rounds, ..Play::default() })
    }

    pub fn answer(
        &self,
        generator: &mut Generator,
        play: &Play,
        messages: &[ChatMessage],
        at: &mut dyn FnMut(&Event),
    ) -> Seen {
        let options = AnswerOptions {
            seed: 1,
            max_tokens: play.max_tokens.or(Some(200)),
            raw: play.raw,
            now: 0,
            constraint: None,
            template: Default::default(),
        };
        let (cancel, mut events) = (Arc::new(AtomicBool::new(false)), Vec::new());
        let answer = generator.answer(messages, &options, &cancel, &mut |event| {
            at(&event);
            events.push(event);
            cancel.store(play.cancelled_at.is_some_and(|at| at <= events.len()), Ordering::Relaxed);
        });
        let mut seen = Seen::of(events);
        match answer {
            Ok(answer) => {
                seen.add(&serde_json::to_value(&answer.messages).unwrap());
                seen.messages = answer.messages;
            }
            Err(error) => seen.texts.push(format!("{error} {error:?}")),
        }
        seen
    }
}

impl Scene {
    /// What an agent makes of a task.
    pub fn pursue(&self, agent: &Plugin, play: &Play) -> Seen {
        let props = props();
        let behaviour = self.behaviour(play);
        let agents = Agents::new(props.host.clone(), model(), behaviour, None).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink: EventSink = {
            let told = told.clone();
            Arc::new(Mutex::new(move |event: Event| told.lock().unwrap().push(event)))
        };
        let options = AgentOptions { seed: 1, max_tokens: Some(200), now: 0, template: Default::default() };
        let cancel = Arc::new(AtomicBool::new(false));
        let answer = agents.run(agent, "Go.", &options, None, &cancel, &sink);
        let mut seen = Seen::of(told.lock().unwrap().clone());
        match answer {
            Ok(answer) => seen.texts.extend(answer.why),
            Err(error) => seen.texts.push(format!("{error} {error:?}")),
        }
        seen
    }
}

impl Seen {
    fn of(events: Vec<Event>) -> Self {
        let mut seen = Self { events, ..Self::default() };
        let text = |event: &Event| match event {
            Event::Text { text } => Some(text.clone()),
            _ => None,
        };
        seen.texts.push(seen.events.iter().filter_map(text).collect());
        seen.add(&serde_json::to_value(&seen.events).unwrap());
        seen
    }

    /// All texts of a value, each by itself and one behind the other.
    pub fn add(&mut self, value: &Value) {
        let mut found = Vec::new();
        gather(value, &mut found);
        self.texts.push(found.concat());
        self.texts.extend(found);
    }

    pub fn and(mut self, other: Self) -> Self {
        self.texts.extend(other.texts);
        self
    }

    /// The first forbidden text that can be seen, in upper or lower case.
    pub fn leak(&self) -> Option<&str> {
        let forbidden = |text: &&String| {
            let text = text.to_lowercase();
            FORBIDDEN.iter().any(|forbidden| text.contains(forbidden))
        };
        self.texts.iter().find(forbidden).map(String::as_str)
    }
}

pub fn gather(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| gather(value, found)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            found.push(name.clone());
            gather(value, found);
        }),
        _ => {}
    }
}

pub fn scripted(hook: &str, at: &str, action: &str) -> Option<Plugin> {
    let parameters = json!({"hook": hook, "at": at, "action": action, "text": "Then dinner."});
    Some(with(&props().scripted, parameters))
}
