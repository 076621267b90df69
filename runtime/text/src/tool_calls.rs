//! Tool calls in the text that a model writes, found while it comes.
//!
//! These ways of writing a call are known:
//!
//! - `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen2.5 and Qwen3),
//! - `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>` (Qwen3-Coder, Qwen3.5),
//! - at the start of an answer or behind `<|python_tag|>` the bare object `{"name": ..., "parameters": {...}}` (Llama 3),
//! - `[TOOL_CALLS][{"name": ..., "arguments": {...}}]` and `[TOOL_CALLS]NAME[ARGS]{...}` (Mistral),
//! - `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>` (DeepSeek V3.1), and what V3 and R1 write,
//! - `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>` (Kimi K2).
//!
//! Those of gpt-oss are in [`crate::ChannelParser`]. The text is read a character at a time, so that how it is cut into pieces
//! can make no difference.

mod bodies;
mod scan;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use serde_json::Value;

use crate::conversation::ToolCall;
use crate::limits::MAX_TOOL_CALL_BYTES;
use bodies::Wrong;
pub(crate) use bodies::named;
use scan::{Scan, Scanned};

/// Text that calls begin with, and what follows.
struct Opening {
    text: &'static str,
    syntax: Syntax,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// An object or a function, and a closing tag.
    Tagged,
    /// An object, and no closing tag.
    Object,
    /// A list of objects, or a name and an object, and no closing tag.
    List,
    /// All until a closing mark.
    Marked { close: &'static str, form: Form },
    /// Nothing: it stands around calls.
    Around,
}

/// What stands between marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    DeepSeek,
    Kimi,
}

const CLOSE: &str = "</tool_call>";

const OPENINGS: &[Opening] = &[
    Opening { text: "<tool_call>", syntax: Syntax::Tagged },
    Opening { text: "<|python_tag|>", syntax: Syntax::Object },
    Opening { text: "[TOOL_CALLS]", syntax: Syntax::List },
    Opening {
        text: "<｜tool▁call▁begin｜>",
        syntax: Syntax::Marked { close: "<｜tool▁call▁end｜>", form: Form::DeepSeek },
    },
    Opening {
        text: "<|tool_call_begin|>",
        syntax: Syntax::Marked { close: "<|tool_call_end|>", form: Form::Kimi },
    },
    Opening { text: "<｜tool▁calls▁begin｜>", syntax: Syntax::Around },
    Opening { text: "<｜tool▁calls▁end｜>", syntax: Syntax::Around },
    Opening { text: "<|tool_calls_section_begin|>", syntax: Syntax::Around },
    Opening { text: "<|tool_calls_section_end|>", syntax: Syntax::Around },
];

/// Marks within calls that vocabularies have as control tokens.
const WITHIN: &[&str] =
    &["</tool_call>", "[ARGS]", "[CALL_ID]", "<｜tool▁sep｜>", "<|tool_call_argument_begin|>"];

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ParserEvent {
    /// Text for the reader.
    Text(String),
    /// A call.
    ToolCall(ToolCall),
    /// Something that was begun as a call and isn't one.
    Malformed {
        /// Its text, tags included.
        raw: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Separates tool calls from text. For answers to requests that offer tools; without tools all is text.
///
/// White space around calls is dropped. No part of a call is given as text, except of one that can't be told
/// from JSON that the model writes as its answer.
#[derive(Debug, Default)]
pub struct ToolCallParser {
    tools: Arc<[Value]>,
    state: State,
    events: Vec<ParserEvent>,
    /// A call has been found and no text since.
    after_call: bool,
    /// There has been text, so that an object is part of it.
    in_text: bool,
}

#[derive(Debug)]
enum State {
    /// White space, and perhaps the start of an opening.
    Text(String),
    /// Behind an opening.
    Call(Call),
    /// An object at the start of the answer, with the white space before it.
    Bare { lead: String, raw: String, scan: Scan },
}

impl Default for State {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

#[derive(Debug)]
struct Call {
    /// Everything from the opening on.
    raw: String,
    /// Where what is called starts in `raw`.
    start: usize,
    syntax: Syntax,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Before what is called.
    Start,
    /// In the name before an object.
    Name,
    /// In an object or a list.
    Json(Scan),
    /// Behind it; it ends there in `raw`.
    End(usize),
    /// In what has a closing tag and is read as a whole.
    Whole,
    /// It can't be a call; all until the closing tag belongs to it.
    Lost(Wrong),
}

impl ToolCallParser {
    /// A parser at the start of an answer. `tools`: those that the model may call, as chat templates are given them
    /// ([`crate::Conversation::tools`]); by their schemas values are told from texts where a model writes both alike.
    pub fn new(tools: Arc<[Value]>) -> Self {
        Self { tools, ..Self::default() }
    }

    /// Whether a control token of this text belongs to the calls; others have no text.
    pub fn is_mark(text: &str) -> bool {
        let closes = |syntax| matches!(syntax, Syntax::Marked { close, .. } if close == text);
        WITHIN.contains(&text)
            || OPENINGS.iter().any(|opening| opening.text == text || closes(opening.syntax))
    }

    /// Takes more of the answer and gives what is certain. Neighbouring texts are one event.
    pub fn feed(&mut self, text: &str) -> Vec<ParserEvent> {
        text.chars().for_each(|character| self.step(character));
        std::mem::take(&mut self.events)
    }

    /// Ends the answer and gives the rest.
    pub fn finish(&mut self) -> Vec<ParserEvent> {
        match std::mem::take(&mut self.state) {
            State::Text(held) if self.after_call && held.chars().all(|c| separates(c, true)) => {}
            State::Text(held) => self.text(&held),
            State::Bare { lead, raw, .. } => self.not_a_call(&lead, raw, "the answer ends within the call"),
            State::Call(call) => {
                let read = match call.phase {
                    Phase::End(end) => call.read(end, &self.tools),
                    Phase::Lost(why) => Err(why),
                    Phase::Whole if call.raw.trim_end().ends_with(bodies::FUNCTION_END) => {
                        call.read(call.raw.len(), &self.tools)
                    }
                    Phase::Start | Phase::Name | Phase::Json(_) | Phase::Whole => {
                        Err("the answer ends within the call")
                    }
                };
                self.found(call.raw, read);
            }
        }
        std::mem::take(&mut self.events)
    }

    fn step(&mut self, character: char) {
        match std::mem::take(&mut self.state) {
            State::Text(held) => self.step_text(held, character),
            State::Call(call) => self.step_call(call, character),
            State::Bare { lead, mut raw, mut scan } => {
                raw.push(character);
                match scan.step(character) {
                    Scanned::More if raw.len() <= MAX_TOOL_CALL_BYTES => {
                        self.state = State::Bare { lead, raw, scan };
                    }
                    Scanned::More => self.not_a_call(&lead, raw, "the call is too long"),
                    Scanned::Bad(why) => self.not_a_call(&lead, raw, why),
                    Scanned::Done => match bodies::bare(&raw) {
                        Some(call) => self.found(raw, Ok(vec![call])),
                        None => self.text(&(lead + &raw)),
                    },
                }
            }
        }
    }

    fn step_text(&mut self, mut held: String, character: char) {
        held.push(character);
        loop {
            let space = held.find(|c| !separates(c, self.after_call)).unwrap_or(held.len());
            let (lead, rest) = held.split_at(space);
            let Some(first) = rest.chars().next() else { break };
            if let Some(opening) = OPENINGS.iter().find(|opening| opening.text == rest) {
                if opening.syntax == Syntax::Around {
                    self.after_call = true;
                    return;
                }
                let (raw, start) = (rest.to_owned(), rest.len());
                let phase = match opening.syntax {
                    Syntax::Marked { .. } => Phase::Whole,
                    _ => Phase::Start,
                };
                self.state = State::Call(Call { raw, start, syntax: opening.syntax, phase });
                return;
            }
            if OPENINGS.iter().any(|opening| opening.text.starts_with(rest)) {
                break;
            }
            if rest == "{" && !self.in_text {
                let mut scan = Scan::default();
                scan.step('{');
                self.state = State::Bare { lead: lead.to_owned(), raw: rest.to_owned(), scan };
                return;
            }
            let sure = space + first.len_utf8();
            let after = held.split_off(sure);
            self.text(&held);
            held = after;
        }
        self.state = State::Text(held);
    }

    fn step_call(&mut self, mut call: Call, character: char) {
        match call.step(character) {
            Some(Ok(end)) => {
                let read = call.read(end, &self.tools);
                self.found(call.raw, read);
            }
            Some(Err(why)) => self.found(call.raw, Err(why)),
            None if call.raw.len() > MAX_TOOL_CALL_BYTES => {
                self.found(call.raw, Err("the call is too long"));
            }
            None => self.state = State::Call(call),
        }
    }

    /// Tells of what stood between an opening and an end.
    fn found(&mut self, raw: String, read: Result<Vec<ToolCall>, Wrong>) {
        self.after_call = true;
        match read {
            Ok(calls) => {
                self.in_text = false;
                self.events.extend(calls.into_iter().map(ParserEvent::ToolCall));
            }
            Err(why) => self.events.push(ParserEvent::Malformed { raw, why }),
        }
    }

    /// An object at the start of the answer that came to nothing: text, unless it began as calls do.
    fn not_a_call(&mut self, lead: &str, raw: String, why: Wrong) {
        let key = raw[1..].trim_start();
        if ["\"name\"", "\"type\"", "\"function\""].iter().any(|known| key.starts_with(known)) {
            self.found(raw, Err(why));
        } else {
            self.text(&format!("{lead}{raw}"));
        }
    }

    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.after_call = false;
        self.in_text |= !text.trim().is_empty();
        match self.events.last_mut() {
            Some(ParserEvent::Text(before)) => before.push_str(text),
            _ => self.events.push(ParserEvent::Text(text.to_owned())),
        }
    }
}

impl Call {
    /// Takes one character more. Gives where what is called ends in `raw` once the call is complete, or what is wrong with it once
    /// that has come to its end.
    fn step(&mut self, character: char) -> Option<Result<usize, Wrong>> {
        let here = self.raw.len();
        self.raw.push(character);
        let tagged = self.syntax == Syntax::Tagged;
        match &mut self.phase {
            Phase::Start if character.is_whitespace() => {}
            Phase::Start if character == if self.syntax == Syntax::List { '[' } else { '{' } => {
                let mut scan = Scan::default();
                scan.step(character);
                self.start = here;
                self.phase = Phase::Json(scan);
            }
            Phase::Start if tagged && character == '<' => {
                self.start = here;
                self.phase = Phase::Whole;
            }
            Phase::Start if self.syntax == Syntax::List && in_name(character) => {
                self.start = here;
                self.phase = Phase::Name;
            }
            Phase::Name if character == '{' => {
                let mut scan = Scan::default();
                scan.step(character);
                self.phase = Phase::Json(scan);
            }
            Phase::Name if in_name(character) || matches!(character, '[' | ']') => {}
            Phase::Name => self.phase = Phase::Lost("behind the name of the tool there is no JSON object"),
            Phase::Start => self.phase = Phase::Lost("there is no JSON object and no function in it"),
            Phase::Json(scan) => match scan.step(character) {
                Scanned::More => {}
                Scanned::Bad(why) => self.phase = Phase::Lost(why),
                Scanned::Done if tagged => self.phase = Phase::End(self.raw.len()),
                Scanned::Done => return Some(Ok(self.raw.len())),
            },
            &mut Phase::End(end) => {
                let tail = self.raw[end..].trim_start();
                if tail == CLOSE {
                    return Some(Ok(end));
                }
                if !CLOSE.starts_with(tail) {
                    self.phase = Phase::Lost("there is more in it than one JSON object");
                }
            }
            Phase::Whole => {
                let close = if let Syntax::Marked { close, .. } = self.syntax { close } else { CLOSE };
                let body = self.raw[self.start..].strip_suffix(close);
                // The value of a parameter may hold the tag.
                let done = |body: &str| !tagged || whole_function(body);
                if let Some(body) = body.filter(|body| done(body)) {
                    return Some(Ok(self.start + body.len()));
                }
            }
            Phase::Lost(_) => {}
        }
        // What has no closing tag ends where it is seen to be none.
        let ends = !tagged || self.raw.ends_with(CLOSE);
        match self.phase {
            Phase::Lost(why) if ends => Some(Err(why)),
            _ => None,
        }
    }

    /// The calls in it, of which the last ends at `end` in `raw`.
    fn read(&self, end: usize, tools: &[Value]) -> Result<Vec<ToolCall>, Wrong> {
        let body = &self.raw[self.start..end];
        let call = match self.syntax {
            Syntax::List => return bodies::list(body),
            Syntax::Marked { form: Form::DeepSeek, .. } => bodies::deepseek(body),
            Syntax::Marked { form: Form::Kimi, .. } => bodies::kimi(body),
            _ if matches!(self.phase, Phase::Whole) => bodies::function(body, tools),
            _ => bodies::object(body),
        };
        call.map(|call| vec![call])
    }
}

/// Whether what stands before a closing tag is complete, or is no function anyway.
fn whole_function(body: &str) -> bool {
    body.trim_end().ends_with(bodies::FUNCTION_END) || !body.contains("<parameter=")
}

/// Whether a character can stand in the name of a tool.
fn in_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.')
}

/// Whether a character can stand between calls.
fn separates(character: char, after_call: bool) -> bool {
    character.is_whitespace() || after_call && matches!(character, ';' | ',')
}
