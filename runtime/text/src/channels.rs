//! The channels of an answer by gpt-oss: what the model thinks, calls and says, as OpenAI's harmony format sets them apart
//! (<https://developers.openai.com/cookbook/articles/openai-harmony>).
//!
//! A message is `<|start|>assistant<|channel|>NAME<|message|>TEXT<|end|>`; the prompt ends behind `assistant`. The channel `analysis` is
//! reasoning, `final` the answer, and `commentary to=functions.NAME` a call whose text is its JSON object, ended by `<|call|>`.

use crate::reasoning::{self, Part};
use crate::stream::Utf8Stream;
use crate::tokenizer::{Specials, Tokenizer};
use crate::tool_calls::{ParserEvent, named};
use crate::{Result, limits::MAX_TOOL_CALL_BYTES};

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";
const CALL: &str = "<|call|>";

/// What headers begin with, before the recipient of a call.
const ROLE: &str = "assistant";
const RECIPIENT: &str = "to=";

/// Longest header of a message, in bytes; what is longer is none.
const MAX_HEADER_BYTES: usize = 1024;

/// The channels of a vocabulary that has them.
#[derive(Debug, Clone, Copy)]
pub struct Channels {
    start: u32,
    channel: u32,
    message: u32,
    end: u32,
}

impl Channels {
    /// `None` if the vocabulary has no control tokens for them.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let control = |text| {
            let ids = tokenizer.encode(text, Specials::Parse).ok()?;
            ids.first().copied().filter(|&id| ids.len() == 1 && tokenizer.is_control(id))
        };
        control(CALL)?;
        Some(Self {
            start: control(START)?,
            channel: control(CHANNEL)?,
            message: control(MESSAGE)?,
            end: control(END)?,
        })
    }

    /// What stands between a prompt and an answer that begins with its final text.
    pub fn begin_final(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        self.header(tokenizer, "final")
    }

    /// The tokens of an answer, behind a prompt, whose text as [`ChannelParser`] gives it is `text`.
    pub fn spell(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        if text.is_empty() {
            return Ok(tokens);
        }
        let mut parts = reasoning::parts(text, false);
        // The end of reasoning leaves the model nothing but to say something.
        if matches!(parts.last(), None | Some(Part::Reasoning(_, true))) {
            parts.push(Part::Text(""));
        }
        for (number, part) in parts.into_iter().enumerate() {
            if number > 0 {
                tokens.extend([self.end, self.start]);
                tokens.extend(tokenizer.encode_continuation(ROLE)?);
            }
            let (channel, text) = match part {
                Part::Reasoning(thoughts, _) => ("analysis", thoughts),
                Part::Text(text) => ("final", text),
            };
            tokens.extend(self.header(tokenizer, channel)?);
            tokens.extend(tokenizer.encode_continuation(text)?);
        }
        Ok(tokens)
    }

    /// A parser of what follows these tokens, of which the last message may be whole or not.
    pub fn parser_behind(&self, tokenizer: &Tokenizer, tokens: &[u32], tools: bool) -> Result<ChannelParser> {
        let start = tokens.iter().rposition(|&token| token == self.start).unwrap_or(tokens.len());
        let mut parser = ChannelParser::new(tools);
        let mut utf8 = Utf8Stream::default();
        for &token in &tokens[start..] {
            let bytes = tokenizer.token_bytes(token)?;
            match std::str::from_utf8(bytes) {
                Ok(mark) if tokenizer.is_control(token) => drop(parser.control(mark)),
                _ => drop(parser.feed(&utf8.push(bytes))),
            }
        }
        Ok(parser)
    }

    fn header(&self, tokenizer: &Tokenizer, channel: &str) -> Result<Vec<u32>> {
        let mut tokens = vec![self.channel];
        tokens.extend(tokenizer.encode_continuation(channel)?);
        tokens.push(self.message);
        Ok(tokens)
    }
}

/// Reads an answer in channels, token by token. Reasoning becomes text between `<think>` and `</think>`, as other models write it.
#[derive(Debug)]
pub struct ChannelParser {
    /// Whether calls are looked for; otherwise they are text.
    tools: bool,
    state: State,
    /// There has been visible text.
    said: bool,
    /// A call has come to its end, and with it the answer.
    called: bool,
}

#[derive(Debug)]
enum State {
    /// Between the end of a message and the start of the next.
    Between,
    /// Before the text of a message; with all of its header, marks included.
    Header(String),
    Message(Kind),
}

#[derive(Debug)]
enum Kind {
    /// With whether there has been any.
    Reasoning(bool),
    Text,
    Call {
        name: String,
        arguments: String,
    },
}

impl ChannelParser {
    /// A parser at the start of an answer. `tools`: whether calls are looked for.
    pub fn new(tools: bool) -> Self {
        Self { tools, state: State::Header(ROLE.to_owned()), said: false, called: false }
    }

    /// Whether the answer has come to its end although no token said so: a message holds one call, whose result comes next.
    pub fn is_done(&self) -> bool {
        self.called
    }

    /// Takes a control token's text.
    pub fn control(&mut self, mark: &str) -> Vec<ParserEvent> {
        let mut events = Vec::new();
        match &mut self.state {
            State::Header(header) if mark == MESSAGE => {
                let kind = kind(header, self.tools);
                if matches!(kind, Kind::Text) && self.said {
                    events.push(ParserEvent::Text("\n\n".to_owned()));
                }
                self.state = State::Message(kind);
            }
            // It ends without the mark that its text stands behind.
            State::Header(header) if [END, CALL].contains(&mark) => {
                let header = std::mem::take(header);
                self.begin_unmarked(&header, &mut events);
                self.end(true, &mut events);
                self.state = State::Between;
            }
            State::Header(header) if mark != START => header.push_str(mark),
            State::Header(header) => header.clear(),
            // A model may leave the end of a message out.
            State::Message(_) | State::Between if [START, CHANNEL, END, CALL].contains(&mark) => {
                self.end(true, &mut events);
                self.state = match mark {
                    START => State::Header(String::new()),
                    CHANNEL => State::Header(CHANNEL.to_owned()),
                    _ => State::Between,
                };
            }
            State::Message(_) | State::Between => {}
        }
        events
    }

    /// Takes text.
    pub fn feed(&mut self, text: &str) -> Vec<ParserEvent> {
        let mut events = Vec::new();
        if text.is_empty() {
            return events;
        }
        match &mut self.state {
            // A model that does not follow the format says something nevertheless.
            State::Between => {
                self.state = State::Message(Kind::Text);
                self.said(text, &mut events);
            }
            State::Header(header) => {
                header.push_str(text);
                if !may_be_header(header) {
                    let header = std::mem::take(header);
                    self.begin_unmarked(&header, &mut events);
                }
            }
            State::Message(Kind::Reasoning(begun)) => {
                let apart = if self.said { "\n\n" } else { "" };
                let text =
                    if *begun { text.to_owned() } else { format!("{apart}{}\n{text}", reasoning::OPEN) };
                (*begun, self.said) = (true, false);
                events.push(ParserEvent::Text(text));
            }
            State::Message(Kind::Text) => self.said(text, &mut events),
            State::Message(Kind::Call { name, arguments }) => {
                arguments.push_str(text);
                if arguments.len() > MAX_TOOL_CALL_BYTES {
                    events.push(malformed(name, arguments, "the call is too long"));
                    self.state = State::Between;
                }
            }
        }
        events
    }

    /// Ends the answer and gives the rest. `whole`: a token that ends answers did so, which ends the message too.
    pub fn finish(&mut self, whole: bool) -> Vec<ParserEvent> {
        let mut events = Vec::new();
        self.end(whole, &mut events);
        if let State::Header(header) = std::mem::replace(&mut self.state, State::Between)
            && whole
        {
            self.begin_unmarked(&header, &mut events);
            self.end(true, &mut events);
            self.state = State::Between;
        }
        events
    }

    /// Begins a message whose text follows its header without a mark. What it has of that so far is in `header`; a call has none.
    fn begin_unmarked(&mut self, header: &str, events: &mut Vec<ParserEvent>) {
        let text = plain_of(header);
        let kind = if header.contains(CHANNEL) { kind(header, false) } else { Kind::Text };
        let is_paragraph = matches!(kind, Kind::Text) && self.said && !text.is_empty();
        let apart = if is_paragraph { "\n\n" } else { "" };
        self.state = State::Message(kind);
        events.extend(self.feed(&format!("{apart}{text}")));
    }

    fn said(&mut self, text: &str, events: &mut Vec<ParserEvent>) {
        if text.is_empty() {
            return;
        }
        self.said = true;
        events.push(ParserEvent::Text(text.to_owned()));
    }

    /// Ends the message.
    fn end(&mut self, whole: bool, events: &mut Vec<ParserEvent>) {
        match &self.state {
            State::Message(Kind::Reasoning(true)) if whole => {
                events.push(ParserEvent::Text(format!("\n{}\n\n", reasoning::CLOSE)));
            }
            State::Message(Kind::Call { name, arguments }) => {
                let call = if whole {
                    let object = serde_json::from_str(arguments).map_err(|_| "it isn't valid JSON");
                    object.and_then(|object| named(name, Some(object)))
                } else {
                    Err("the answer ends within the call")
                };
                self.called = whole;
                events.push(match call {
                    Ok(call) => ParserEvent::ToolCall(call),
                    Err(why) => malformed(name, arguments, why),
                });
            }
            _ => {}
        }
    }
}

/// Whether a text can become a header: the role or a part of it, a recipient behind it, then anything behind a channel's mark.
fn may_be_header(text: &str) -> bool {
    if text.len() > MAX_HEADER_BYTES {
        return false;
    }
    let behind = text.strip_prefix(ROLE).unwrap_or(text).trim_start();
    text.contains(CHANNEL)
        || ROLE.starts_with(text)
        || behind.starts_with(RECIPIENT)
        || RECIPIENT.starts_with(behind)
}

/// What a model says in what is no header, since its text follows without a mark: nothing if it calls.
fn plain_of(header: &str) -> &str {
    let (role, channel) = header.split_once(CHANNEL).unwrap_or((header, ""));
    let text = if channel.is_empty() { role.strip_prefix(ROLE).unwrap_or(role) } else { channel };
    let names = ["final", "analysis", "commentary"];
    let text =
        names.iter().find_map(|name| text.strip_prefix(name)).filter(|_| !channel.is_empty()).unwrap_or(text);
    if text.trim_start().starts_with(RECIPIENT) { "" } else { text }
}

fn malformed(name: &str, arguments: &str, why: &'static str) -> ParserEvent {
    ParserEvent::Malformed { raw: format!("to=functions.{name} {arguments}"), why }
}

/// What a message is, by its header, such as `<|channel|>commentary to=functions.NAME <|constrain|>json`.
fn kind(header: &str, tools: bool) -> Kind {
    let (role, channel) = header.split_once(CHANNEL).unwrap_or(("", header));
    let recipient = |part: &str| {
        let to = part.split_once("to=")?.1;
        let name = to.split(|c: char| c.is_whitespace() || c == '<').next().unwrap_or_default();
        Some(name.strip_prefix("functions.").unwrap_or(name).to_owned())
    };
    match recipient(channel).or_else(|| recipient(role)) {
        Some(name) if tools => Kind::Call { name, arguments: String::new() },
        _ if channel.trim_start().starts_with("analysis") => Kind::Reasoning(false),
        _ => Kind::Text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::conversation::ToolCall;
    use crate::tool_calls::tests::merged;

    /// Reads an answer whose control tokens are those of `MARKS`.
    fn read(answer: &str, tools: bool, whole: bool) -> Vec<ParserEvent> {
        const MARKS: &[&str] = &[START, CHANNEL, MESSAGE, END, CALL, "<|constrain|>"];
        let mut parser = ChannelParser::new(tools);
        let (mut events, mut rest) = (Vec::new(), answer);
        while let Some(first) = rest.chars().next() {
            match MARKS.iter().find(|mark| rest.starts_with(**mark)) {
                Some(mark) => {
                    events.extend(parser.control(mark));
                    rest = &rest[mark.len()..];
                }
                None => {
                    let (text, behind) = rest.split_at(first.len_utf8());
                    events.extend(parser.feed(text));
                    rest = behind;
                }
            }
        }
        events.extend(parser.finish(whole));
        merged(events)
    }

    fn text(text: &str) -> ParserEvent {
        ParserEvent::Text(text.to_owned())
    }

    #[test]
    fn reasoning_is_set_apart_from_the_answer() {
        let answer = "<|channel|>analysis<|message|>Hm.\nYes.<|end|><|start|>assistant<|channel|>final<|message|>Noon.";
        for tools in [false, true] {
            assert_eq!(read(answer, tools, true), [text("<think>\nHm.\nYes.\n</think>\n\nNoon.")]);
        }
        assert_eq!(read("<|channel|>analysis<|message|>Hm", true, false), [text("<think>\nHm")]);
        assert_eq!(read("<|channel|>final<|message|>Noon.", true, true), [text("Noon.")]);
        assert_eq!(
            read(
                "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>1",
                true,
                true
            ),
            [text("1")]
        );
    }

    #[test]
    fn calls_are_found_with_the_recipient_on_either_side() {
        let call =
            ParserEvent::ToolCall(ToolCall { name: "clock".into(), arguments: json!({"zone": "UTC"}) });
        let object = "{\"zone\": \"UTC\"}";
        let behind = format!("<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{object}");
        let before = format!(" to=functions.clock<|channel|>commentary json<|message|>{object}");
        for answer in [&behind, &before] {
            assert_eq!(read(answer, true, true), std::slice::from_ref(&call), "{answer}");
        }
        let answer =
            format!("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{behind}<|call|>");
        assert_eq!(read(&answer, true, true), [text("I look."), call]);
        assert_eq!(read(&behind, false, true), [text(object)]);
        let why = "the answer ends within the call";
        let raw = format!("to=functions.clock {object}");
        assert_eq!(read(&behind, true, false), [ParserEvent::Malformed { raw, why }]);
        let broken = "<|channel|>commentary to=functions.clock<|message|>{zone";
        assert!(matches!(
            &read(broken, true, true)[..],
            [ParserEvent::Malformed { why: "it isn't valid JSON", .. }]
        ));
    }

    #[test]
    fn a_model_that_does_not_follow_the_format_is_heard() {
        assert_eq!(read("Noon.", true, true), [text("Noon.")]);
        assert_eq!(read("a", true, true), [text("a")]);
        assert_eq!(read("", true, true), []);
        assert_eq!(read(" to=functions.clock", true, false), []);
        let unended = "<|channel|>analysis<|message|>Hm<|constrain|>.<|channel|>final<|message|>Noon.";
        assert_eq!(read(unended, true, true), [text("<think>\nHm.\n</think>\n\nNoon.")]);
        assert_eq!(read("<|channel|>final<|message|>a<|end|>b", true, true), [text("ab")]);
        let long = "x".repeat(2 * MAX_HEADER_BYTES);
        assert_eq!(read(&format!("<|channel|>{long}"), true, true), [text(&long)]);
        assert_eq!(read("<|channel|>finalNoon.", true, true), [text("Noon.")]);
        assert_eq!(read("assistants are many.", true, true), [text("assistants are many.")]);
        assert_eq!(read("<|channel|>final", true, true), []);
        // Marks are no text, and what stands beside them is not lost.
        let call = "<|channel|>commentary to=functions.clock<|call|>";
        for empty in ["<|end|>", "<|channel|>final<|end|>", call] {
            assert_eq!(read(empty, true, true), [], "{empty}");
        }
        let ended = "<|channel|>finalNoon.<|end|><|start|>assistant<|channel|>final<|message|>Yes.";
        assert_eq!(read(ended, true, true), [text("Noon.\n\nYes.")]);
        for end in ["", "<|end|>"] {
            let both = format!("<|channel|>finalNoon.<|end|><|start|>assistant<|channel|>finalYes.{end}");
            assert_eq!(read(&both, true, true), [text("Noon.\n\nYes.")]);
        }
    }

    #[test]
    fn reasoning_without_the_mark_before_it_is_reasoning() {
        let said = "<|start|>assistant<|channel|>final<|message|>Noon.";
        let thought = format!("<|channel|>analysisHm.<|end|>{said}");
        assert_eq!(read(&thought, true, true), [text("<think>\nHm.\n</think>\n\nNoon.")]);
        assert_eq!(read("<|channel|>analysisHm.", true, true), [text("<think>\nHm.\n</think>\n\n")]);
        let long = "x".repeat(2 * MAX_HEADER_BYTES);
        let thought = format!("<|channel|>analysis{long}<|end|>{said}");
        assert_eq!(read(&thought, true, true), [text(&format!("<think>\n{long}\n</think>\n\nNoon."))]);
        assert_eq!(read(&format!("<|channel|>analysis<|end|>{said}"), true, true), [text("Noon.")]);
        // Not without a channel.
        assert_eq!(ChannelParser::new(true).feed("analysis of it"), [text("analysis of it")]);
    }

    #[test]
    fn reasoning_behind_text_is_a_paragraph_and_the_first_call_ends_the_answer() {
        let thought = |text: &str| format!("<|channel|>analysis<|message|>{text}<|end|><|start|>assistant");
        let said = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant";
        let answer = thought("A") + said + &thought("B") + "<|channel|>final<|message|>Done.";
        let whole = "<think>\nA\n</think>\n\nI look.\n\n<think>\nB\n</think>\n\nDone.";
        assert_eq!(read(&answer, true, true), [text(whole)]);
        assert_eq!(reasoning::split(whole, false), Some(("A\n\nB".into(), "I look.\n\nDone.".into())));
        let mut parser = ChannelParser::new(true);
        parser.control(CHANNEL);
        parser.feed("commentary to=functions.clock");
        parser.control(MESSAGE);
        parser.feed("{}");
        assert!(!parser.is_done());
        assert_eq!(parser.control(END).len(), 1);
        assert!(parser.is_done());
    }
}
