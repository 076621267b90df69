//! Tool calls in the text that a model writes, found while it comes.
//!
//! Two ways of writing a call are known: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes,
//! Qwen) and, at the start of an answer or behind `<|python_tag|>`, the bare object `{"name": ...,
//! "parameters": {...}}` (Llama 3). The text is read a character at a time, so that how it is cut into pieces
//! can make no difference.

use serde_json::{Map, Value};

use crate::conversation::ToolCall;
use crate::limits::MAX_TOOL_CALL_BYTES;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const PYTHON: &str = "<|python_tag|>";

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
    state: State,
    events: Vec<ParserEvent>,
    /// A call has been found and no text since.
    after_call: bool,
    /// There has been text, so that an object is part of it.
    in_text: bool,
}

#[derive(Debug)]
enum State {
    /// White space, and perhaps the start of an opening tag.
    Text(String),
    /// Behind an opening tag.
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
    /// Everything from the opening tag on.
    raw: String,
    /// Where the object starts in `raw`.
    start: usize,
    phase: Phase,
    /// Opened by [`PYTHON`], which has no closing tag.
    python: bool,
}

#[derive(Debug)]
enum Phase {
    /// Before the object.
    Start,
    /// In the object.
    Object(Scan),
    /// Behind the object, which ends there in `raw`.
    End(usize),
    /// It can't be a call; all until the closing tag belongs to it.
    Lost(&'static str),
}

impl ToolCallParser {
    /// A parser at the start of an answer.
    pub fn new() -> Self {
        Self::default()
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
            State::Call(Call { raw, start, phase: Phase::End(end), .. }) => self.call(&raw, start..end),
            State::Call(Call { raw, phase: Phase::Lost(why), .. }) => self.malformed(raw, why),
            State::Call(Call { raw, .. }) => self.malformed(raw, "the answer ends within the call"),
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
                    Scanned::Done => match bare_call(&raw) {
                        Some(call) => self.found(call),
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
            if rest == OPEN || rest == PYTHON {
                let (python, start) = (rest == PYTHON, rest.len());
                let call = Call { raw: rest.to_owned(), start, phase: Phase::Start, python };
                self.state = State::Call(call);
                return;
            }
            if OPEN.starts_with(rest) || PYTHON.starts_with(rest) {
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
        call.raw.push(character);
        let here = call.raw.len() - character.len_utf8();
        match &mut call.phase {
            Phase::Start if character.is_whitespace() => {}
            Phase::Start if character == '{' => {
                let mut scan = Scan::default();
                scan.step('{');
                call.start = here;
                call.phase = Phase::Object(scan);
            }
            Phase::Start => call.phase = Phase::Lost("there is no JSON object in it"),
            Phase::Object(scan) => match scan.step(character) {
                Scanned::More => {}
                Scanned::Bad(why) => call.phase = Phase::Lost(why),
                Scanned::Done if call.python => return self.call(&call.raw, call.start..call.raw.len()),
                Scanned::Done => call.phase = Phase::End(call.raw.len()),
            },
            &mut Phase::End(end) => {
                let tail = call.raw[end..].trim_start();
                if tail == CLOSE {
                    return self.call(&call.raw, call.start..end);
                }
                if !CLOSE.starts_with(tail) {
                    call.phase = Phase::Lost("there is more in it than one JSON object");
                }
            }
            Phase::Lost(_) => {}
        }
        match call.phase {
            Phase::Lost(why) if !call.python && call.raw.ends_with(CLOSE) => self.malformed(call.raw, why),
            _ if call.raw.len() > MAX_TOOL_CALL_BYTES => self.malformed(call.raw, "the call is too long"),
            _ => self.state = State::Call(call),
        }
    }

    /// The object of a call between tags.
    fn call(&mut self, raw: &str, object: std::ops::Range<usize>) {
        match tagged_call(&raw[object]) {
            Ok(call) => self.found(call),
            Err(why) => self.malformed(raw.to_owned(), why),
        }
    }

    fn found(&mut self, call: ToolCall) {
        self.after_call = true;
        self.in_text = false;
        self.events.push(ParserEvent::ToolCall(call));
    }

    fn malformed(&mut self, raw: String, why: &'static str) {
        self.after_call = true;
        self.events.push(ParserEvent::Malformed { raw, why });
    }

    /// An object at the start of the answer that came to nothing: text, unless it began as calls do.
    fn not_a_call(&mut self, lead: &str, raw: String, why: &'static str) {
        let key = raw[1..].trim_start();
        if ["\"name\"", "\"type\"", "\"function\""].iter().any(|known| key.starts_with(known)) {
            self.malformed(raw, why);
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

/// Whether a character can stand between calls.
fn separates(character: char, after_call: bool) -> bool {
    character.is_whitespace() || after_call && matches!(character, ';' | ',')
}

/// Follows a JSON object to its end.
#[derive(Debug, Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

enum Scanned {
    More,
    Done,
    Bad(&'static str),
}

impl Scan {
    fn step(&mut self, character: char) -> Scanned {
        if self.in_string {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                '\0'..='\x1f' => return Scanned::Bad("a string in it isn't closed"),
                _ => {}
            }
            return Scanned::More;
        }
        match character {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return Scanned::Done;
                }
            }
            _ => {}
        }
        Scanned::More
    }
}

/// The call in an object between tags.
fn tagged_call(object: &str) -> Result<ToolCall, &'static str> {
    let value: Value = serde_json::from_str(object).map_err(|_| "it isn't valid JSON")?;
    let value = match value.get("function") {
        Some(function) if function.is_object() => function.clone(),
        _ => value,
    };
    let name = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("it doesn't name a tool")?.to_owned();
    let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(json)) => {
            serde_json::from_str(json).map_err(|_| "its arguments aren't an object")?
        }
        Some(other) => other.clone(),
    };
    if !arguments.is_object() {
        return Err("its arguments aren't an object");
    }
    Ok(ToolCall { name, arguments })
}

/// The call in an object without tags, which must have all parts of one.
fn bare_call(object: &str) -> Option<ToolCall> {
    let value: Value = serde_json::from_str(object).ok()?;
    let parts = value.get("function").filter(|function| function.is_object()).unwrap_or(&value);
    let arguments = parts.get("parameters").or_else(|| parts.get("arguments"))?;
    if !arguments.is_object() && !arguments.is_string() {
        return None;
    }
    tagged_call(object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(pieces: &[&str]) -> Vec<ParserEvent> {
        let mut parser = ToolCallParser::new();
        let mut events: Vec<ParserEvent> = pieces.iter().flat_map(|piece| parser.feed(piece)).collect();
        events.extend(parser.finish());
        let mut merged: Vec<ParserEvent> = Vec::new();
        for event in events {
            match (merged.last_mut(), event) {
                (Some(ParserEvent::Text(before)), ParserEvent::Text(text)) => before.push_str(&text),
                (_, event) => merged.push(event),
            }
        }
        merged
    }

    fn call(name: &str, arguments: Value) -> ParserEvent {
        ParserEvent::ToolCall(ToolCall { name: name.into(), arguments })
    }

    fn text(text: &str) -> ParserEvent {
        ParserEvent::Text(text.into())
    }

    #[test]
    fn tagged_calls_are_found_between_texts() {
        let answer = concat!(
            "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n",
            "<tool_call>{\"name\": \"now\"}</tool_call>\nDone <b>.",
        );
        let expected =
            [text("Let me see."), call("add", json!({"a": 1})), call("now", json!({})), text("\nDone <b>.")];
        assert_eq!(parse(&[answer]), expected);
    }

    #[test]
    fn a_closing_tag_in_an_argument_is_part_of_it() {
        let answer = r#"<tool_call>{"name": "say", "arguments": {"x": "a</tool_call>\"}{"}}</tool_call>"#;
        assert_eq!(parse(&[answer]), [call("say", json!({"x": "a</tool_call>\"}{"}))]);
    }

    #[test]
    fn bare_calls_are_found_at_the_start_only() {
        let answer = r#" {"name": "add", "parameters": {"a": 1}}; {"name": "b", "parameters": {}}"#;
        assert_eq!(parse(&[answer]), [call("add", json!({"a": 1})), call("b", json!({}))]);
        let answer = r#"Use {"name": "add", "parameters": {"a": 1}}."#;
        assert_eq!(parse(&[answer]), [text(answer)]);
        let answer = r#"<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": "1"}}"#;
        assert_eq!(parse(&[answer]), [call("add", json!({"a": "1"}))]);
    }

    #[test]
    fn json_answers_are_text() {
        for answer in [r#"{"city": "Paris", "name": 3}"#, "{ x | x > 0 } is a set", "  {", "\n{\"a\": [1, 2"]
        {
            assert_eq!(parse(&[answer]), [text(answer)]);
        }
    }

    #[test]
    fn broken_calls_are_malformed_and_never_text() {
        let cases = [
            ("<tool_call>add(1)</tool_call>", "there is no JSON object in it"),
            ("<tool_call>{\"name\": \"a\"} x</tool_call>", "there is more in it than one JSON object"),
            ("<tool_call>{\"arguments\": {}}</tool_call>", "it doesn't name a tool"),
            ("<tool_call>{\"name\": \"a\", \"arguments\": 3}</tool_call>", "its arguments aren't an object"),
            ("<tool_call>{\"name\": \"a}\n</tool_call>", "a string in it isn't closed"),
            ("<tool_call>{name: \"a\"}</tool_call>", "it isn't valid JSON"),
            ("<tool_call>{\"name\": \"a\"", "the answer ends within the call"),
            ("{\"name\": \"a\", \"param", "the answer ends within the call"),
        ];
        for (raw, why) in cases {
            assert_eq!(parse(&[raw]), [ParserEvent::Malformed { raw: raw.into(), why }]);
        }
    }

    #[test]
    fn an_unclosed_call_with_a_whole_object_counts() {
        assert_eq!(parse(&["<tool_call>{\"name\": \"a\"}\n</tool"]), [call("a", json!({}))]);
    }

    #[test]
    fn a_call_without_end_is_given_up() {
        let long = format!("<tool_call>{{\"name\": \"{}", "a".repeat(2 * MAX_TOOL_CALL_BYTES));
        let events = parse(&[&long]);
        assert!(matches!(&events[0], ParserEvent::Malformed { why: "the call is too long", .. }));
    }

    #[test]
    fn text_is_not_held_back_longer_than_needed() {
        let mut parser = ToolCallParser::new();
        assert_eq!(parser.feed("Hi <tool"), [text("Hi")]);
        assert_eq!(parser.feed("box> there"), [text(" <toolbox> there")]);
        assert_eq!(parser.feed(" <"), []);
        assert_eq!(parser.finish(), [text(" <")]);
    }

    const ANSWERS: &[&str] = &[
        r#"Hi <tool_call>{"name":"a","arguments":{"":"</tool_call>"}}</tool_call> <tool_call>{</tool_call>"#,
        r#" {"name":"a","parameters":{"n":[1,{"b":2}]}};  {"name":"b","parameters":{}} end <tool_cal"#,
        "<|python_tag|> {\"name\":\"a\",\"parameters\":{}}\n\n",
        "<<tool_call><tool_call>{\"name\":\"ü\"}</tool_call></tool_call>",
        "{\"a\": \"<tool_call>\"} <tool_call>{\"name\":\"a\"}",
    ];

    #[test]
    fn every_split_in_two_gives_the_whole() {
        for answer in ANSWERS {
            let whole = parse(&[answer]);
            for (at, _) in answer.char_indices() {
                let (a, b) = answer.split_at(at);
                assert_eq!(parse(&[a, b]), whole, "{a:?} {b:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_whole(
            parts in proptest::collection::vec(prop::sample::select(vec![
                "<tool_call>", "</tool_call>", "{\"name\":\"a\"", ",\"arguments\":{", "}", "}}", "\"", "\\",
                " ", "\n", "x", "<", "<|python_tag|>", ";", "é", "{", "\"parameters\":{}",
            ]), 0..24),
            cuts in proptest::collection::vec(1usize..9, 1..40),
        ) {
            let answer = parts.concat();
            let characters: Vec<char> = answer.chars().collect();
            let mut pieces: Vec<String> = Vec::new();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                if at >= characters.len() {
                    break;
                }
                let end = (at + cut).min(characters.len());
                pieces.push(characters[at..end].iter().collect());
                at = end;
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(parse(&pieces), parse(&[&answer]));
        }
    }
}
