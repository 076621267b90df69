//! Cases of policies.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::judges::Played;
use super::read::typed;
use super::report::{Mismatch, Place};
use super::started;
use crate::conversation::{Invocation, Message, Role};
use crate::engine::Host;
use crate::error::Result;
use crate::judge::SharedJudge;
use crate::plugin::Plugin;
use crate::policy::{Ended, Intervention, PolicyChain, Refused, ToolCallOutcome};

/// Hooks of one answer, with what must come of each.
#[derive(Debug)]
pub struct Case {
    hooks: Vec<Hook>,
    /// The model that judges, where the case plays one.
    judge: Option<Played>,
}

/// How the pieces of an answer are cut. Each case is run in all of these ways, and all must release the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// As the case gives them.
    AsGiven,
    /// All at once.
    Whole,
    /// Character by character.
    Characters,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cut::AsGiven => "in the given pieces",
            Cut::Whole => "in one piece",
            Cut::Characters => "character by character",
        })
    }
}

#[derive(Debug)]
enum Hook {
    Request(Request),
    Prompt(Prompt),
    Output(Output),
    ToolCall(ToolCall),
    ToolResult(ToolResult),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    request: Vec<Turn>,
    messages: Option<Vec<Turn>>,
    refused: Option<String>,
    clauses: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    prompt: String,
    refused: Option<String>,
    clauses: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    output: Vec<String>,
    released: String,
    ended: Option<String>,
    clauses: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCall {
    tool_call: Call,
    allowed: Option<String>,
    denied: Option<String>,
    refused: Option<String>,
    clauses: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolResult {
    tool_result: CallAndOutput,
    becomes: Option<String>,
    refused: Option<String>,
    clauses: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    arguments: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallAndOutput {
    call: Call,
    output: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: Speaker,
    content: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    System,
    User,
    Assistant,
    Tool,
}

impl Case {
    /// Reads what is left of a case. The error names the field.
    pub fn read(mut body: Map<String, Value>) -> Result<Self, String> {
        let hooks: Vec<Map<String, Value>> =
            typed("hooks", body.remove("hooks").ok_or("`hooks` is missing")?)?;
        let judge = body.remove("judge").map(|judge| typed("judge", judge)).transpose()?;
        if let Some(stranger) = body.keys().next() {
            return Err(format!(
                "`{stranger}` is not known here: a case of a policy has `hooks` and `judge`"
            ));
        }
        let read = |(index, hook)| Hook::read(hook).map_err(|why| format!("hook {}: {why}", index + 1));
        Ok(Self { hooks: hooks.into_iter().enumerate().map(read).collect::<Result<_, _>>()?, judge })
    }

    /// Starts the policy and calls its hooks, once for each way to cut the answer.
    pub fn run(&self, host: &Host, plugin: &Plugin) -> Result<(), Mismatch> {
        for cut in [Cut::AsGiven, Cut::Whole, Cut::Characters] {
            let judge = self.judge.clone().map(SharedJudge::new);
            let chain = PolicyChain::start_with(host, std::slice::from_ref(plugin), judge);
            let mut chain = started(chain)?;
            for (index, hook) in self.hooks.iter().enumerate() {
                let place = Place::Hook { number: index + 1, name: hook.name(), cut };
                hook.run(&mut chain, cut, place)?;
            }
        }
        Ok(())
    }
}

impl Hook {
    /// The field with what is handed to it tells which hook it is.
    fn read(hook: Map<String, Value>) -> Result<Self, String> {
        fn of<T: DeserializeOwned>(hook: Map<String, Value>) -> Result<T, String> {
            serde_json::from_value(Value::Object(hook)).map_err(|error| error.to_string())
        }
        let has = |name: &str| hook.contains_key(name);
        Ok(match () {
            () if has("request") => Self::Request(of(hook)?),
            () if has("prompt") => Self::Prompt(of(hook)?),
            () if has("output") => Self::Output(of(hook)?),
            () if has("tool_call") => Self::ToolCall(of(hook)?),
            () if has("tool_result") => Self::ToolResult(of(hook)?),
            () => return Err("is none of request, prompt, output, tool_call, tool_result".to_owned()),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Prompt(_) => "prompt",
            Self::Output(_) => "output",
            Self::ToolCall(_) => "tool_call",
            Self::ToolResult(_) => "tool_result",
        }
    }

    fn run(&self, chain: &mut PolicyChain, cut: Cut, place: Place) -> Result<(), Mismatch> {
        match self {
            Self::Request(hook) => hook.run(chain, place),
            Self::Prompt(hook) => hook.run(chain, place),
            Self::Output(hook) => hook.run(chain, cut, place),
            Self::ToolCall(hook) => hook.run(chain, place),
            Self::ToolResult(hook) => hook.run(chain, place),
        }
    }
}

impl Request {
    fn run(&self, chain: &mut PolicyChain, place: Place) -> Result<(), Mismatch> {
        let messages = self.request.iter().cloned().map(Message::from).collect();
        let (messages, refused, interventions) = match chain.request(messages) {
            Ok(outcome) => (Some(outcome.messages), None, outcome.interventions),
            Err(refused) => (None, Some(refused.message), refused.interventions),
        };
        let expected = self.messages.clone();
        let expected = expected.map(|turns| turns.into_iter().map(Message::from).collect::<Vec<_>>());
        if messages != expected {
            let found = transcript(messages.as_deref());
            return Err(Mismatch::differs(place, "`messages`", found, transcript(expected.as_deref())));
        }
        same(place, "`refused`", &refused, &self.refused)?;
        clauses(place, &interventions, &self.clauses)
    }
}

impl Prompt {
    fn run(&self, chain: &mut PolicyChain, place: Place) -> Result<(), Mismatch> {
        let (refused, interventions) = match chain.prompt(&self.prompt) {
            Ok(()) => (None, Vec::new()),
            Err(refused) => (Some(refused.message), refused.interventions),
        };
        same(place, "`refused`", &refused, &self.refused)?;
        clauses(place, &interventions, &self.clauses)
    }
}

impl Output {
    fn run(&self, chain: &mut PolicyChain, cut: Cut, place: Place) -> Result<(), Mismatch> {
        let whole = self.output.concat();
        let pieces = match cut {
            Cut::AsGiven => self.output.clone(),
            Cut::Whole => vec![whole],
            Cut::Characters => whole.chars().map(String::from).collect(),
        };
        let pieces = pieces.iter().map(|piece| (piece.as_str(), false)).chain([("", true)]);
        let (mut released, mut ended, mut interventions) = (String::new(), None, Vec::new());
        for (piece, done) in pieces {
            let outcome = chain.output(piece, done);
            released.push_str(&outcome.released);
            interventions.extend(outcome.interventions);
            ended = match outcome.ended {
                None => continue,
                Some(Ended::Stopped) => Some("stopped".to_owned()),
                // What would come next is the model's, which is not here.
                Some(Ended::Forced) => Some("forced".to_owned()),
                Some(Ended::Refused(Refused { message, interventions: refusal, .. })) => {
                    interventions.extend(refusal);
                    Some(message)
                }
            };
            break;
        }
        same(place, "`ended`", &ended, &self.ended)?;
        Mismatch::unless_same(place, "`released`", Some(&released), Some(&self.released))?;
        clauses(place, &interventions, &self.clauses)
    }
}

impl ToolCall {
    fn run(&self, chain: &mut PolicyChain, place: Place) -> Result<(), Mismatch> {
        let (allowed, denied, refused, interventions) = match chain.tool_call(self.tool_call.clone().into()) {
            Ok(ToolCallOutcome::Allowed { call, interventions }) => {
                (Some(call.arguments), None, None, interventions)
            }
            Ok(ToolCallOutcome::Denied { note, interventions }) => (None, Some(note), None, interventions),
            Err(refused) => (None, None, Some(refused.message), refused.interventions),
        };
        same(place, "`allowed`", &allowed, &self.allowed)?;
        same(place, "`denied`", &denied, &self.denied)?;
        same(place, "`refused`", &refused, &self.refused)?;
        clauses(place, &interventions, &self.clauses)
    }
}

impl ToolResult {
    fn run(&self, chain: &mut PolicyChain, place: Place) -> Result<(), Mismatch> {
        let CallAndOutput { call, output } = &self.tool_result;
        let (becomes, refused, interventions) = match chain.tool_result(&call.clone().into(), output.clone())
        {
            Ok(outcome) => (Some(outcome.output), None, outcome.interventions),
            Err(refused) => (None, Some(refused.message), refused.interventions),
        };
        same(place, "`becomes`", &becomes, &self.becomes)?;
        same(place, "`refused`", &refused, &self.refused)?;
        clauses(place, &interventions, &self.clauses)
    }
}

fn same(
    place: Place,
    what: &'static str,
    found: &Option<String>,
    expected: &Option<String>,
) -> Result<(), Mismatch> {
    Mismatch::unless_same(place, what, found.as_deref(), expected.as_deref())
}

fn clauses(place: Place, interventions: &[Intervention], expected: &[String]) -> Result<(), Mismatch> {
    let found: Vec<&str> = interventions.iter().map(|intervention| intervention.clause.as_str()).collect();
    if found == expected {
        return Ok(());
    }
    Err(Mismatch::differs(place, "`clauses`", format!("{found:?}"), format!("{expected:?}")))
}

/// Messages as they stand in a case.
fn transcript(messages: Option<&[Message]>) -> String {
    let Some(messages) = messages else { return "absent".to_owned() };
    let turn = |message: &Message| format!("{:?}: {:?}", message.role, message.content);
    messages.iter().map(turn).collect::<Vec<_>>().join(", ")
}

impl From<Turn> for Message {
    fn from(turn: Turn) -> Self {
        let role = match turn.role {
            Speaker::System => Role::System,
            Speaker::User => Role::User,
            Speaker::Assistant => Role::Assistant,
            Speaker::Tool => Role::Tool,
        };
        Self { role, content: turn.content }
    }
}

impl From<Call> for Invocation {
    fn from(call: Call) -> Self {
        Self { name: call.name, arguments: call.arguments }
    }
}
