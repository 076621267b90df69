//! A model that says what a script says, and plugins that look at it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use membrane_engine::{LoadOptions, Model, Speculate};
use membrane_generate::{
    Answer, AnswerOptions, Behaviour, Event, GenerateError, Generator, Intervention, asks_the_model,
};
use membrane_host::{
    CompileLimits, Grant, Host, HostError, HostOptions, Plugin, PluginSource, World, first_party,
};
use membrane_text::{ChatMessage, Grammar, Role};
use serde_json::{Value, json};

use crate::guests::guest;
use crate::isolation;
use crate::workspace;

/// A model with plugins, ready to answer.
pub struct Stage {
    host: Host,
    behaviour: Behaviour,
    /// Most tokens of an answer.
    pub max_tokens: Option<usize>,
    /// What answers must follow.
    pub constraint: Option<Grammar>,
    /// Whether the models of its generators draft tokens.
    pub speculate: Speculate,
}

/// What was seen of an answer.
pub struct Seen {
    /// In their order.
    pub events: Vec<Event>,
    /// What became of it.
    pub answer: Result<Answer, GenerateError>,
}

impl Stage {
    /// A model without plugins.
    pub fn empty() -> Self {
        static HOST: LazyLock<Host> = LazyLock::new(|| {
            // What compiling takes is measured on the whole process, in which other tests load models.
            let compile = CompileLimits { memory_bytes: 4 << 30, ..CompileLimits::default() };
            let options = HostOptions { compile, ..isolation::options() };
            Host::new(options).expect("the host starts")
        });
        Self {
            host: HOST.clone(),
            behaviour: Behaviour::default(),
            max_tokens: Some(400),
            constraint: None,
            speculate: Speculate::Off,
        }
    }

    /// A model that writes these texts, one in each round.
    pub fn saying(texts: &[&str]) -> Self {
        Self::scripted(json!({ "texts": texts }))
    }

    /// A model that writes these tokens, one list in each round.
    pub fn writing(tokens: &[Vec<u32>]) -> Self {
        Self::scripted(json!({ "texts": tokens }))
    }

    fn scripted(parameters: Value) -> Self {
        let stage = Self::empty();
        let sampler = guest("scripted-sampler");
        let plugin = stage.load(World::Sampler, "scripted-sampler", sampler, parameters);
        stage.with(World::Sampler, plugin)
    }

    /// Adds a plugin that the binary carries.
    pub fn first_party(self, name: &str, parameters: Value) -> Self {
        let plugin = first_party::find(name).expect("a first-party plugin");
        let grants = plugin.manifest().expect("its manifest is good").grants;
        let grants = Grant::parse_all(&grants).expect("its grants exist");
        let loaded = self.load_granted(plugin.world, name, plugin.bytes.to_vec(), parameters, grants);
        self.with(plugin.world, loaded)
    }

    /// Adds a policy that is loaded already.
    pub fn policy(self, policy: Plugin) -> Self {
        self.with(World::Policy, Ok(policy))
    }

    /// Adds the policy that follows a script.
    pub fn scripted_policy(self, parameters: Value) -> Self {
        let plugin = self.load(World::Policy, "scripted-policy", guest("scripted-policy"), parameters);
        self.with(World::Policy, plugin)
    }

    /// Adds the policy of clauses; `rules` is its file.
    pub fn guard(self, rules: &str) -> Self {
        self.first_party("guard", json!({ "rules": rules }))
    }

    /// The plugins, for tests that change them.
    pub fn behaviour(&self) -> Behaviour {
        self.behaviour.clone()
    }

    /// Loads a plugin, a policy with all that policies may be granted.
    pub fn load(
        &self,
        world: World,
        name: &str,
        bytes: Vec<u8>,
        parameters: Value,
    ) -> Result<Plugin, HostError> {
        let grants = match world {
            World::Policy => BTreeSet::from([Grant::ForceText, Grant::SystemPrompt]),
            World::Sampler | World::Tool | World::Agent => BTreeSet::new(),
        };
        self.load_granted(world, name, bytes, parameters, grants)
    }

    fn load_granted(
        &self,
        world: World,
        name: &str,
        bytes: Vec<u8>,
        parameters: Value,
        grants: BTreeSet<Grant>,
    ) -> Result<Plugin, HostError> {
        let isolation = isolation::of_tests();
        let source = PluginSource { parameters, grants, isolation, ..PluginSource::new(name, bytes, world) };
        self.host.load(source, world)
    }

    fn with(mut self, world: World, plugin: Result<Plugin, HostError>) -> Self {
        let plugin = plugin.expect("the plugin loads");
        match world {
            World::Sampler => self.behaviour.samplers.push(plugin),
            World::Policy => self.behaviour.policies.push(plugin),
            World::Tool => self.behaviour.tools.push(plugin),
            World::Agent => unreachable!("an agent stands beside a behaviour"),
        }
        self
    }

    /// The host of the plugins.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The policies.
    pub fn policies(&self) -> &[Plugin] {
        &self.behaviour.policies
    }

    /// A generator over a fixture.
    pub fn generator(&self) -> Generator {
        let path = workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf");
        self.generator_over(&path)
    }

    /// A generator over a model file.
    pub fn generator_over(&self, path: &Path) -> Generator {
        let side_contexts = u32::from(asks_the_model(&self.behaviour.policies));
        let options = LoadOptions {
            context: Some(2048),
            side_contexts,
            threads: Some(1),
            speculate: self.speculate,
            ..LoadOptions::default()
        };
        let model = Model::open(path, &options).expect("the model loads");
        Generator::new(self.host.clone(), model, self.behaviour.clone()).expect("the parts fit")
    }

    /// The answer of a fixture model to a message.
    pub fn ask(&self, text: &str) -> Seen {
        self.ask_with(&mut self.generator(), &[ChatMessage::new(Role::User, text)])
    }

    /// The answer of a generator to a conversation.
    pub fn ask_with(&self, generator: &mut Generator, messages: &[ChatMessage]) -> Seen {
        self.ask_and(generator, messages, &mut |_| {})
    }

    /// The same, with something that is done at each event.
    pub fn ask_and(
        &self,
        generator: &mut Generator,
        messages: &[ChatMessage],
        at: &mut dyn FnMut(&Event),
    ) -> Seen {
        let options = AnswerOptions {
            seed: 1,
            max_tokens: self.max_tokens,
            raw: false,
            now: 0,
            constraint: self.constraint.clone(),
            template: Default::default(),
        };
        let mut events = Vec::new();
        let cancel = Arc::default();
        let answer = generator.answer(messages, &options, &cancel, &mut |event| {
            at(&event);
            events.push(event);
        });
        Seen { events, answer }
    }
}

impl Seen {
    /// The text that a person saw.
    pub fn text(&self) -> String {
        let texts = self.events.iter().filter_map(|event| match event {
            Event::Text { text } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// Everything that went out, as JSON: nothing that must not be seen may stand in it. System messages
    /// don't go out; figures such as times may hold any digits and are left out.
    pub fn everything(&self) -> String {
        let mut all = String::new();
        for event in &self.events {
            let mut event = serde_json::to_value(event).expect("events are JSON");
            if let Some(fields) = event.as_object_mut() {
                fields.remove("stats");
                fields.remove("prompt_tokens");
                fields.remove("reused_tokens");
            }
            all += &event.to_string();
        }
        let messages = self.answer.iter().flat_map(|answer| &answer.messages);
        for message in messages.filter(|message| message.role != Role::System) {
            all += &serde_json::to_string(message).expect("messages are JSON");
        }
        all
    }

    /// Verdicts, as `policy hook verdict clause`.
    pub fn verdicts(&self) -> Vec<String> {
        let verdict = |event: &Event| match event {
            Event::Intervention(Intervention { policy, hook, verdict, clause, .. }) => {
                Some(format!("{policy} {hook} {verdict} {clause}"))
            }
            _ => None,
        };
        self.events.iter().filter_map(verdict).collect()
    }

    /// Tool calls, as `name arguments`.
    pub fn calls(&self) -> Vec<String> {
        let call = |event: &Event| match event {
            Event::ToolCall { name, arguments } => Some(format!("{name} {arguments}")),
            _ => None,
        };
        self.events.iter().filter_map(call).collect()
    }

    /// The message that stands in place of a refused answer.
    pub fn refusal(&self) -> Option<String> {
        match self.events.last() {
            Some(Event::End { message, .. }) => message.clone(),
            _ => None,
        }
    }
}
