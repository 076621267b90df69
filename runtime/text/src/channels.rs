//! The channels of an answer by gpt-oss: what the model thinks, calls and says, as OpenAI's harmony format sets them apart
//! (<https://developers.openai.com/cookbook/articles/openai-harmony>).
//!
//! A message is `<|start|>assistant<|channel|>NAME<|message|>TEXT<|end|>`; the prompt ends behind `assistant`. The channel `analysis` is
//! reasoning, `final` the answer, and `commentary to=functions.NAME` a call whose text is its JSON object, ended by `<|call|>`.

use crate::reasoning;
use crate::tokenizer::{Specials, Tokenizer};
use crate::tool_calls::{ParserEvent, named};
use crate::{Result, limits::MAX_TOOL_CALL_BYTES};

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";
const CALL: &str = "<|call|>";

/// What headers begin with.
const WORDS: &[&str] = &["to=", "assistant"];

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
        let Some(thoughts) = text.strip_prefix(reasoning::OPEN) else {
            return Ok([self.begin_final(tokenizer)?, tokenizer.encode_continuation(text)?].concat());
        };
        let (thoughts, rest) = match thoughts.split_once(reasoning::CLOSE) {
            Some((thoughts, rest)) => (thoughts, Some(rest)),
            None => (thoughts, None),
        };
        let mut tokens = self.header(tokenizer, "analysis")?;
        tokens.extend(tokenizer.encode_continuation(thoughts.trim_matches('\n'))?);
        if let Some(rest) = rest {
            tokens.extend([self.end, self.start]);
            tokens.extend(tokenizer.encode_continuation("assistant")?);
            tokens.extend(self.begin_final(tokenizer)?);
            tokens.extend(tokenizer.encode_continuation(rest.trim_start_matches('\n'))?);
        }
        Ok(tokens)
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
        Self { tools, state: State::Header(String::new()), said: false }
    }

    /// A parser behind a text that it gave before, as [`Channels::spell`] makes tokens of it.
    pub fn behind(text: &str, tools: bool) -> Self {
        let thinks = text.starts_with(reasoning::OPEN) && !text.contains(reasoning::CLOSE);
        let kind = if thinks { Kind::Reasoning(true) } else { Kind::Text };
        Self { tools, state: State::Message(kind), said: false }
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
                let plain = header.trim_start();
                let begun = WORDS.iter().any(|word| plain.starts_with(word) || word.starts_with(plain));
                if !header.contains(CHANNEL) && !begun || header.len() > MAX_HEADER_BYTES {
                    let text = std::mem::take(header);
                    self.state = State::Message(Kind::Text);
                    self.said(&text, &mut events);
                }
            }
            State::Message(Kind::Reasoning(begun)) => {
                let text = if *begun { text.to_owned() } else { format!("{}\n{text}", reasoning::OPEN) };
                *begun = true;
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
            && !header.contains(CHANNEL)
            && !WORDS.iter().any(|word| header.trim_start().starts_with(word))
        {
            self.said(&header, &mut events);
        }
        events
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
                events.push(match call {
                    Ok(call) => ParserEvent::ToolCall(call),
                    Err(why) => malformed(name, arguments, why),
                });
            }
            _ => {}
        }
    }
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
        let mut merged: Vec<ParserEvent> = Vec::new();
        for event in events {
            match (merged.last_mut(), event) {
                (Some(ParserEvent::Text(before)), ParserEvent::Text(text)) => before.push_str(&text),
                (_, event) => merged.push(event),
            }
        }
        merged
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
        assert_eq!(read(&format!("<|channel|>{long}"), true, true), [text(&format!("{CHANNEL}{long}"))]);
    }

    #[test]
    fn a_parser_behind_a_text_goes_on_with_it() {
        let mut parser = ChannelParser::behind("<think>\nHm", true);
        assert_eq!(parser.feed("."), [text(".")]);
        assert_eq!(parser.control(END), [text("\n</think>\n\n")]);
        let mut parser = ChannelParser::behind("<think>\nHm.\n</think>\n\nNo", true);
        assert_eq!(parser.feed("on"), [text("on")]);
    }
}
