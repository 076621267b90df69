//! An agent whose task is a list of steps: for tests of what a host makes of each.
//!
//! The task is a JSON list of steps such as `{"append": ["a", "Once"]}`; sessions and generations have names. What comes of a
//! step is kept; `"report"` writes all of it as JSON.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use membrane_plugin::agent::{
    Agent, Completion, Constraint, Generation, GenerationOptions, InferenceError, Invocation, Role, Session,
    Turn, model, output, random, raw_decoding, store, tools, vocabulary,
};
use membrane_plugin::log;
use serde::Deserialize;
use serde_json::{Value, json};

/// Nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {}

/// A step. Sessions and generations are named by the first text.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Step {
    Model,
    New(String),
    Drop(String),
    Append(String, String),
    Chat(String, Vec<(String, String)>, bool),
    /// A conversation with so many calls in it, each with a list of so many numbers.
    Calls(String, usize, usize),
    Fork(String, String),
    Truncate(String, u32),
    Length(String),
    Room(String),
    Start(String, String, Options),
    Next(String),
    Finish(String),
    Cancel(String),
    Score(String, Vec<String>),
    Save(String, String),
    Open(String, String),
    Tokens(String),
    Top(String, u32),
    Logits(String),
    /// Chooses the likeliest token so many times, past samplers and policies.
    Greedy(String, u32),
    AppendTokens(String, Vec<u32>),
    Call(String, Value),
    Tools,
    Write(String),
    /// Writes the texts of all generations so far.
    Tell,
    Log(String),
    Set(String, String),
    Get(String),
    /// How long a value is.
    Size(String),
    Delete(String),
    Keys(String),
    Random,
    Encode(String),
    Report,
    GiveUp(String),
    Return(String),
    /// Gives so many letters.
    ReturnLetters(usize),
    Panic(String),
    Loop,
    Recurse,
    /// Takes so many MiB of memory.
    Eat(usize),
    /// Forks of a session, so many, up to the first that is not made.
    Forks(String, u32),
    /// So many new sessions, all of them kept.
    Sessions(u32),
    /// So many generations at a time, each in a fork, up to the first that is not started.
    Generations(String, u32),
    /// Sets so many keys to a MiB each, up to the first that is not set.
    Fill(u32),
    /// A step so many times.
    Repeat(u32, Box<Step>),
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Options {
    max_tokens: Option<u32>,
    stop: Vec<String>,
    json_schema: Option<String>,
    regex: Option<String>,
    lark: Option<String>,
    seed: Option<u64>,
    sampling: Option<String>,
}

impl From<Options> for GenerationOptions {
    fn from(options: Options) -> Self {
        let Options { max_tokens, stop, json_schema, regex, lark, seed, sampling } = options;
        let constraint = json_schema
            .map(Constraint::JsonSchema)
            .or(regex.map(Constraint::Regex))
            .or(lark.map(Constraint::Lark));
        Self { max_tokens, stop, constraint, seed, sampling }
    }
}

/// The agent.
#[derive(Default)]
pub struct Scripted {
    sessions: BTreeMap<String, Session>,
    generations: BTreeMap<String, Generation>,
    /// What came of the steps.
    results: Vec<Value>,
    /// Texts that were generated.
    texts: String,
}

impl Agent for Scripted {
    type Parameters = Parameters;

    fn new(_: Parameters) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn run(&mut self, task: &str) -> Result<String, String> {
        let steps: Vec<Step> = serde_json::from_str(task).map_err(|error| format!("task: {error}"))?;
        for step in steps {
            match step {
                Step::GiveUp(why) => return Err(why),
                Step::Return(text) => return Ok(text),
                Step::ReturnLetters(count) => return Ok("x".repeat(count)),
                step => {
                    let result = self.step(step)?;
                    self.results.push(result);
                }
            }
        }
        Ok(String::new())
    }
}

fn outcome<T>(result: Result<T, InferenceError>, shown: impl FnOnce(T) -> Value) -> Value {
    match result {
        Ok(value) => shown(value),
        Err(error) => {
            let kind = match &error {
                InferenceError::Overflow(_) => "overflow",
                InferenceError::Refused(_) => "refused",
                InferenceError::Invalid(_) => "invalid",
                InferenceError::Limit(_) => "limit",
                InferenceError::Busy => "busy",
                InferenceError::Failed(_) => "failed",
            };
            json!({ "error": kind, "what": String::from(error) })
        }
    }
}

fn done(_: ()) -> Value {
    json!("done")
}

fn completed(completion: Completion) -> Value {
    let calls: Vec<Value> = completion.calls.iter().map(|call| json!([call.name, call.arguments])).collect();
    let reason = format!("{:?}", completion.reason);
    json!({ "text": completion.text, "calls": calls, "reason": reason, "tokens": completion.tokens })
}

fn turn((role, content): (String, String)) -> Turn {
    let role = match role.as_str() {
        "system" => Role::System,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => Role::User,
    };
    Turn::new(role, content)
}

impl Scripted {
    fn session(&self, name: &str) -> Result<&Session, String> {
        self.sessions.get(name).ok_or_else(|| format!("there is no session {name}"))
    }

    fn generation(&self, name: &str) -> Result<&Generation, String> {
        self.generations.get(name).ok_or_else(|| format!("there is no generation {name}"))
    }

    fn step(&mut self, step: Step) -> Result<Value, String> {
        Ok(match step {
            Step::New(name) => {
                self.sessions.insert(name, Session::new());
                done(())
            }
            Step::Drop(name) => {
                self.generations.remove(&name);
                self.sessions.remove(&name);
                done(())
            }
            Step::Append(name, text) => outcome(self.session(&name)?.append(&text), |tokens| json!(tokens)),
            Step::Chat(name, turns, tools) => {
                let turns: Vec<Turn> = turns.into_iter().map(turn).collect();
                outcome(self.session(&name)?.chat(&turns, tools), |synced| {
                    json!([synced.reused, synced.computed])
                })
            }
            Step::Calls(name, calls, numbers) => {
                let arguments = format!("{{\"a\":[{}0]}}", "0,".repeat(numbers.saturating_sub(1)));
                let call = Invocation { name: "add".to_owned(), arguments };
                let said = Turn { calls: vec![call; calls], ..Turn::new(Role::Assistant, "") };
                let turns = [Turn::new(Role::User, "Add."), said];
                outcome(self.session(&name)?.chat(&turns, false), |synced| {
                    json!([synced.reused, synced.computed])
                })
            }
            Step::Fork(name, other) => match self.session(&name)?.fork() {
                Ok(fork) => {
                    self.sessions.insert(other, fork);
                    done(())
                }
                Err(error) => outcome(Err(error), done),
            },
            Step::Truncate(name, tokens) => outcome(self.session(&name)?.truncate(tokens), done),
            Step::Length(name) => json!(self.session(&name)?.length()),
            Step::Room(name) => json!(self.session(&name)?.room()),
            Step::Start(name, generation, options) => match self.session(&name)?.generate(&options.into()) {
                Ok(started) => {
                    self.generations.insert(generation, started);
                    done(())
                }
                Err(error) => outcome(Err(error), done),
            },
            Step::Next(name) => {
                let next = self.generation(&name)?.next();
                if let Ok(Some(text)) = &next {
                    self.texts += text;
                }
                outcome(next, |text| json!(text))
            }
            Step::Finish(name) => {
                let end = self.generation(&name)?.finish();
                if let Ok(completion) = &end {
                    self.texts += &completion.text;
                }
                outcome(end, completed)
            }
            Step::Cancel(name) => {
                self.generation(&name)?.cancel();
                done(())
            }
            Step::Score(name, texts) => outcome(self.session(&name)?.score(&texts), |scores| {
                scores.iter().map(|score| json!([score.log_probability, score.tokens])).collect()
            }),
            Step::Save(name, under) => outcome(self.session(&name)?.save(&under), done),
            Step::Open(under, name) => match Session::open(&under) {
                Some(session) => {
                    self.sessions.insert(name, session);
                    json!(true)
                }
                None => json!(false),
            },
            Step::Forks(name, times) => {
                let session = self.session(&name)?;
                let forks: Result<Vec<Session>, _> = (0..times).map(|_| session.fork()).collect();
                outcome(forks, |forks| json!(forks.len()))
            }
            Step::Sessions(count) => {
                let sessions: Vec<Session> = (0..count).map(|_| Session::new()).collect();
                json!(sessions.len())
            }
            Step::Generations(name, count) => {
                let session = self.session(&name)?;
                let start = |_| {
                    let fork = session.fork()?;
                    let generation = fork.generate(&Options::default().into())?;
                    Ok((generation, fork))
                };
                let started: Result<Vec<_>, InferenceError> = (0..count).map(start).collect();
                outcome(started, |started| json!(started.len()))
            }
            Step::Repeat(times, step) => {
                let mut last = Value::Null;
                for _ in 0..times {
                    last = self.step(Step::clone(&step))?;
                }
                last
            }
            other => self.raw(other)?,
        })
    }

    fn raw(&mut self, step: Step) -> Result<Value, String> {
        Ok(match step {
            Step::Tokens(name) => outcome(raw_decoding::tokens(self.session(&name)?), |tokens| json!(tokens)),
            Step::Top(name, n) => outcome(raw_decoding::top(self.session(&name)?, n), |top| {
                top.iter().map(|one| json!([one.token, one.logit, one.probability])).collect()
            }),
            Step::Logits(name) => outcome(raw_decoding::logits(self.session(&name)?), |all| json!(all.len())),
            Step::Greedy(name, n) => {
                let session = self.session(&name)?;
                let mut tokens = Vec::new();
                let mut bytes = Vec::new();
                for _ in 0..n {
                    let top = raw_decoding::top(session, 1)?;
                    let Some(best) = top.first().filter(|best| !vocabulary::is_end(best.token)) else {
                        break;
                    };
                    bytes.extend(vocabulary::bytes_of(best.token)?);
                    tokens.push(best.token);
                    raw_decoding::append(session, &[best.token])?;
                }
                self.texts += &String::from_utf8_lossy(&bytes);
                json!(tokens)
            }
            Step::AppendTokens(name, tokens) => {
                outcome(raw_decoding::append(self.session(&name)?, &tokens), done)
            }
            other => self.world(other)?,
        })
    }

    fn world(&mut self, step: Step) -> Result<Value, String> {
        Ok(match step {
            Step::Model => {
                let model = model();
                json!([model.architecture, model.context, model.vocabulary, model.chat])
            }
            Step::Call(name, arguments) => {
                let call = Invocation { name, arguments: arguments.to_string() };
                tools::call(&call).map_or_else(|error| json!({ "error": error }), |text| json!(text))
            }
            Step::Tools => tools::available().into_iter().map(|tool| json!(tool.name)).collect(),
            Step::Write(text) => {
                output::write(&text);
                done(())
            }
            Step::Tell => {
                output::write(&self.texts);
                done(())
            }
            Step::Log(text) => {
                log::info(&text);
                done(())
            }
            Step::Set(key, value) => {
                store::set(&key, value.as_bytes()).map_or_else(|error| json!({ "error": error }), done)
            }
            Step::Fill(count) => {
                let value = vec![0; 1 << 20];
                let set: Result<(), String> =
                    (0..count).try_for_each(|key| store::set(&format!("fill {key}"), &value));
                set.map_or_else(|error| json!({ "error": error }), done)
            }
            Step::Get(key) => store::get(&key).map_or_else(
                |error| json!({ "error": error }),
                |value| json!(value.map(|v| String::from_utf8(v).ok())),
            ),
            Step::Size(key) => store::get(&key)
                .map_or_else(|error| json!({ "error": error }), |value| json!(value.map(|v| v.len()))),
            Step::Delete(key) => store::delete(&key).map_or_else(|error| json!({ "error": error }), done),
            Step::Keys(prefix) => {
                store::keys(&prefix).map_or_else(|error| json!({ "error": error }), |keys| json!(keys))
            }
            Step::Random => json!(random::next().to_string()),
            Step::Encode(text) => json!(vocabulary::encode(&text)?),
            Step::Report => {
                output::write(&Value::Array(self.results.clone()).to_string());
                done(())
            }
            Step::Panic(why) => panic!("{why}"),
            #[expect(clippy::empty_loop, reason = "the host has to end it")]
            Step::Loop => loop {},
            Step::Recurse => json!(recurse(1)),
            Step::Eat(mebibytes) => {
                let eaten: Vec<Vec<u8>> = (0..mebibytes).map(|at| vec![at as u8; 1 << 20]).collect();
                json!(eaten.len())
            }
            _ => return Err("no such step here".into()),
        })
    }
}

/// Deeper than any stack; the work behind the call keeps it from becoming a loop.
fn recurse(depth: u64) -> u64 {
    if depth == u64::MAX { 0 } else { recurse(depth + 1).wrapping_mul(3) ^ depth }
}

membrane_plugin::export_agent!(Scripted);
