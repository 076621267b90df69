//! Cases of agents, with a played model: what it says and how likely it finds texts stands in the case.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::read::typed;
use super::report::{Mismatch, Place};
use crate::agent::{
    AgentRun, Completion, EndReason, Environment, Generation, GenerationHandle, GenerationOptions,
    InferenceError, ModelInfo, Offer, Overflow, RunEnd, Score, Session, SessionHandle, Store, Synced, Turn,
};
use crate::conversation::{Invocation, Role};
use crate::engine::LogLevel;
use crate::error::HostError;
use crate::grants::Grant;
use crate::plugin::Plugin;
use crate::random::Random;
use crate::vocabulary::Vocabulary;

/// Bytes that the context of a played session holds: each counts as a token.
const CONTEXT: usize = 32_768;

/// One task, with what the model says and what must come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    task: String,
    /// What the model says to each generation, in the order in which they start.
    #[serde(default)]
    model: VecDeque<Said>,
    /// Log probabilities that the model gives to each scored text, in their order.
    #[serde(default)]
    scores: VecDeque<f64>,
    /// The tools of the run, by name, each with its calls in their order.
    #[serde(default)]
    tools: BTreeMap<String, VecDeque<Call>>,
    output: Option<String>,
    #[serde(default)]
    output_has: Vec<String>,
    /// A part of what the agent says when it gives up, or of its failure.
    error: Option<String>,
}

/// A call of a tool.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "a call of a tool is the text that it gives, or an object with `arguments` and `gives`"
)]
enum Call {
    Gives(String),
    With(CallWith),
}

/// A call of a tool with the arguments that the agent must give it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallWith {
    arguments: Value,
    gives: String,
}

/// A text that the model says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    text: String,
    /// Parts that the context must have.
    #[serde(default)]
    after: Vec<String>,
    /// Calls that it makes, each with name and arguments.
    #[serde(default)]
    calls: Vec<(String, Value)>,
}

impl Case {
    /// Reads what is left of a case. The error names the field.
    pub fn read(body: Map<String, Value>) -> Result<Self, String> {
        let case: Self = typed("case", Value::Object(body))?;
        if (case.output.is_some() || !case.output_has.is_empty()) == case.error.is_some() {
            return Err("needs `output` or `output_has`, or else `error`".to_owned());
        }
        Ok(case)
    }

    /// Starts the agent and gives it the task.
    pub fn run(&self, plugin: &Plugin) -> Result<(), Mismatch> {
        let play = Play::of(self);
        let store = plugin.grants().contains(&Grant::Store).then(Store::in_memory);
        let failed =
            |failure| Mismatch::Failed { place: Place::Start, error: Box::new(HostError::Failed(failure)) };
        let run = AgentRun::start(plugin, Box::new(play.clone()), store).map_err(failed)?;
        let ended = run.run(&self.task);
        let mut play = play.lock();
        if let Some(wrong) = play.wrong.take() {
            return Err(Mismatch::differs(Place::Run, "what it asked for", wrong, "what the case plays"));
        }
        let error = match ended {
            RunEnd::Done(rest) => {
                play.written.push_str(&rest);
                self.judge(&play.written)?;
                return play.case.unless_all_is_used();
            }
            RunEnd::GaveUp(why) => why,
            RunEnd::Failed(failure) => failure.to_string(),
            RunEnd::Ended => "ended".to_owned(),
        };
        match &self.error {
            Some(part) if error.contains(part) => Ok(()),
            Some(part) => Err(Mismatch::differs(Place::Run, "the error", error, part)),
            None => Err(Mismatch::differs(Place::Run, "the output", format!("the error {error}"), "a text")),
        }
    }

    /// What a case plays is what the agent asks for: one that does less is another agent.
    fn unless_all_is_used(&self) -> Result<(), Mismatch> {
        let calls =
            self.tools.iter().map(|(name, calls)| (format!("calls of the tool `{name}`"), calls.len()));
        let of_model =
            [("generations".to_owned(), self.model.len()), ("scores".to_owned(), self.scores.len())];
        match of_model.into_iter().chain(calls).find(|(_, left)| *left > 0) {
            Some((what, left)) => {
                let found = format!("{left} {what} fewer");
                Err(Mismatch::differs(Place::Run, "what it asked for", found, "all that the case plays"))
            }
            None => Ok(()),
        }
    }

    fn judge(&self, written: &str) -> Result<(), Mismatch> {
        if let Some(error) = &self.error {
            let expected = format!("an error with {error:?}");
            return Err(Mismatch::differs(Place::Run, "the output", format!("{written:?}"), expected));
        }
        if self.output.is_some() {
            Mismatch::unless_same(Place::Run, "the output", Some(written), self.output.as_deref())?;
        }
        match self.output_has.iter().find(|part| !written.contains(part.as_str())) {
            Some(part) => {
                let expected = format!("a text with {part:?}");
                Err(Mismatch::differs(Place::Run, "the output", format!("{written:?}"), expected))
            }
            None => Ok(()),
        }
    }
}

/// Starts an agent that must not start.
pub fn start_bare(plugin: &Plugin) -> crate::error::Result<()> {
    let play = Play::of(&Case {
        task: String::new(),
        model: VecDeque::new(),
        scores: VecDeque::new(),
        tools: BTreeMap::new(),
        output: None,
        output_has: Vec::new(),
        error: None,
    });
    AgentRun::start(plugin, Box::new(play), None).map(drop).map_err(HostError::Failed)
}

/// The played model and tools. Clones are the same.
#[derive(Clone)]
struct Play(Arc<Mutex<Played>>);

struct Played {
    case: Case,
    random: Random,
    written: String,
    /// What was asked for that the case does not have.
    wrong: Option<String>,
}

impl Play {
    fn of(case: &Case) -> Self {
        let (case, random) = (case.clone(), Random::new(0));
        Self(Arc::new(Mutex::new(Played { case, random, written: String::new(), wrong: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Played> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the case does not play something.
    fn missing(&self, what: String) -> InferenceError {
        self.lock().wrong.get_or_insert(what);
        InferenceError::Failed("the golden case plays no more".into())
    }
}

/// Every byte is a token.
struct Bytes;

/// All bytes, so that each can be lent.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < 256 {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

impl Vocabulary for Bytes {
    fn size(&self) -> u32 {
        257
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        match token {
            256 => Some(&[]),
            token => BYTES.get(token as usize..=token as usize),
        }
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn is_end(&self, token: u32) -> bool {
        token == 256
    }

    fn end_token(&self) -> Option<u32> {
        Some(256)
    }
}

impl Environment for Play {
    fn model(&self) -> ModelInfo {
        let context = CONTEXT as u32;
        ModelInfo { architecture: "played".into(), context, vocabulary: Bytes.size(), chat: true }
    }

    fn vocabulary(&self) -> Arc<dyn Vocabulary> {
        Arc::new(Bytes)
    }

    fn random(&mut self) -> u64 {
        self.lock().random.bits()
    }

    fn session(&mut self) -> SessionHandle {
        Box::new(PlayedSession { play: self.clone(), context: Arc::default() })
    }

    fn open(&mut self, _name: &str) -> Option<SessionHandle> {
        None
    }

    fn tools(&mut self) -> Vec<Offer> {
        let play = self.lock();
        let offer = |name: &String| Offer {
            name: name.clone(),
            description: String::new(),
            parameters: json!({"type": "object"}).to_string(),
        };
        play.case.tools.keys().map(offer).collect()
    }

    fn call(&mut self, call: Invocation) -> Result<String, String> {
        let mut play = self.lock();
        let Some(calls) = play.case.tools.get_mut(&call.name) else {
            return Err(format!("there is no tool `{}`", call.name));
        };
        let wrong = match calls.pop_front() {
            Some(Call::Gives(text)) => return Ok(text),
            Some(Call::With(CallWith { arguments, gives })) => {
                if serde_json::from_str::<Value>(&call.arguments).is_ok_and(|given| given == arguments) {
                    return Ok(gives);
                }
                format!("the tool `{}` with {} and not {arguments}", call.name, call.arguments)
            }
            None => format!("one more result of the tool `{}`", call.name),
        };
        play.wrong.get_or_insert(wrong);
        Err("the golden case plays no more".into())
    }

    fn write(&mut self, text: &str) {
        self.lock().written.push_str(text);
    }

    fn log(&mut self, _level: LogLevel, _line: &str) {}

    fn ended(&self) -> bool {
        false
    }
}

struct PlayedSession {
    play: Play,
    /// Shared with a generation, which adds what it says.
    context: Arc<Mutex<String>>,
}

impl PlayedSession {
    fn context(&self) -> MutexGuard<'_, String> {
        self.context.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session for PlayedSession {
    fn fork(&self) -> Result<SessionHandle, InferenceError> {
        let context = Arc::new(Mutex::new(self.context().clone()));
        Ok(Box::new(Self { play: self.play.clone(), context }))
    }

    fn length(&self) -> usize {
        self.context().len()
    }

    fn conversation_bytes(&self) -> usize {
        self.length()
    }

    fn room(&self) -> usize {
        CONTEXT.saturating_sub(self.length())
    }

    fn truncate(&mut self, tokens: usize) -> Result<(), InferenceError> {
        let mut context = self.context();
        let end = context.floor_char_boundary(tokens);
        context.truncate(end);
        Ok(())
    }

    fn append(&mut self, text: &str) -> Result<usize, InferenceError> {
        let room = self.room();
        if text.len() > room {
            let (needed, room) = (text.len() as u32, room as u32);
            return Err(InferenceError::Overflow(Overflow { needed, room }));
        }
        self.context().push_str(text);
        Ok(text.len())
    }

    fn chat(&mut self, turns: &[Turn], tools: bool) -> Result<Synced, InferenceError> {
        let mut text = String::new();
        if tools {
            let names: Vec<String> = self.play.lock().case.tools.keys().cloned().collect();
            text = format!("tools: {}\n", names.join(", "));
        }
        for turn in turns {
            let role = match Role::from(turn.role) {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
                Role::Tool => "tool",
            };
            text += &format!("{role}: {}\n", turn.content);
        }
        text += "assistant: ";
        let reused = self.context().bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let computed = (text.len() - reused) as u32;
        *self.context() = text;
        Ok(Synced { reused: reused as u32, computed })
    }

    fn generate(&mut self, options: GenerationOptions) -> Result<GenerationHandle, InferenceError> {
        let said = self.play.lock().case.model.pop_front();
        let Some(said) = said else { return Err(self.play.missing("one more generation".into())) };
        let mut context = self.context();
        if let Some(part) = said.after.iter().find(|part| !context.contains(part.as_str())) {
            let what = format!("a generation behind {:?}, without {part:?}", *context);
            return Err(self.play.missing(what));
        }
        let (text, reason) = cut(&said.text, &options);
        context.push_str(&text);
        let calls = said.calls.into_iter();
        let calls =
            calls.map(|(name, arguments)| (&Invocation { name, arguments: arguments.to_string() }).into());
        let tokens = text.len() as u32;
        let completion = Completion { text: text.clone(), calls: calls.collect(), reason, tokens };
        let rest = (!text.is_empty()).then_some(text);
        Ok(Box::new(PlayedGeneration { rest, completion }))
    }

    fn score(&mut self, continuations: &[String]) -> Result<Vec<Score>, InferenceError> {
        let mut scores = Vec::new();
        for continuation in continuations {
            let score = self.play.lock().case.scores.pop_front();
            let Some(log_probability) = score else {
                return Err(self.play.missing(format!("the score of {continuation:?}")));
            };
            scores.push(Score { log_probability, tokens: continuation.len() as u32 });
        }
        Ok(scores)
    }

    fn save(&mut self, _name: &str) -> Result<(), InferenceError> {
        Ok(())
    }

    fn tokens(&self) -> Result<Vec<u32>, InferenceError> {
        Ok(self.context().bytes().map(u32::from).collect())
    }

    fn logits(&mut self, _read: &mut dyn FnMut(&[f32])) -> Result<(), InferenceError> {
        Err(self.play.missing("logits, which golden cases do not play".into()))
    }

    fn append_tokens(&mut self, _tokens: &[u32]) -> Result<(), InferenceError> {
        Err(self.play.missing("tokens to be appended, which golden cases do not play".into()))
    }
}

/// What of a text is said before a stop text or the most tokens.
fn cut(text: &str, options: &GenerationOptions) -> (String, EndReason) {
    let stop = options.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
    let (mut end, mut reason) = stop.map_or((text.len(), EndReason::Stop), |at| (at, EndReason::StopText));
    let most = options.max_tokens.map_or(usize::MAX, |most| most as usize);
    if most < end {
        (end, reason) = (text.floor_char_boundary(most), EndReason::Length);
    }
    (text[..end].to_owned(), reason)
}

struct PlayedGeneration {
    rest: Option<String>,
    completion: Completion,
}

impl Generation for PlayedGeneration {
    fn next(&mut self) -> Result<Option<String>, InferenceError> {
        Ok(self.rest.take())
    }

    fn finish(&mut self) -> Result<Completion, InferenceError> {
        Ok(self.completion.clone())
    }

    fn cancel(&mut self) {}
}
