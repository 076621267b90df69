use super::*;
use proptest::prelude::*;
use serde_json::json;

fn parse(pieces: &[&str]) -> Vec<ParserEvent> {
    let mut parser = ToolCallParser::default();
    let mut events: Vec<ParserEvent> = pieces.iter().flat_map(|piece| parser.feed(piece)).collect();
    events.extend(parser.finish());
    merged(events)
}

/// The events with neighbouring texts as one.
pub(crate) fn merged(events: Vec<ParserEvent>) -> Vec<ParserEvent> {
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
    for answer in [r#"{"city": "Paris", "name": 3}"#, "{ x | x > 0 } is a set", "  {", "\n{\"a\": [1, 2"] {
        assert_eq!(parse(&[answer]), [text(answer)]);
    }
}

#[test]
fn broken_calls_are_malformed_and_never_text() {
    let cases = [
        ("<tool_call>add(1)</tool_call>", "there is no JSON object and no function in it"),
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
    let mut parser = ToolCallParser::default();
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

fn weather() -> Vec<Value> {
    let properties = json!({
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "metric": {"type": ["boolean", "null"]},
        "where": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        "unit": {"enum": ["C", "F"]},
    });
    vec![
        json!({"type": "function", "function": {"name": "weather", "parameters": {"properties": properties}}}),
    ]
}

fn parse_with(tools: &[Value], answer: &str) -> Vec<ParserEvent> {
    let mut parser = ToolCallParser::new(tools.into());
    let mut events: Vec<ParserEvent> = answer.chars().flat_map(|c| parser.feed(&c.to_string())).collect();
    events.extend(parser.finish());
    events
}

#[test]
fn parameters_are_what_the_schema_of_the_tool_says() {
    let answer = concat!(
        "<tool_call>\n<function=weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n3\n</parameter>\n",
        "<parameter=metric>\nTrue\n</parameter>\n<parameter=where>\n{\"a\": [1]}\n</parameter>\n",
        "<parameter=unit>\nC\n</parameter>\n<parameter=other>\n7\n</parameter>\n</function>\n</tool_call>\n",
    );
    let arguments =
        json!({"city": "12", "days": 3, "metric": true, "where": {"a": [1]}, "unit": "C", "other": "7"});
    assert_eq!(parse_with(&weather(), answer), [call("weather", arguments)]);
    let answer = concat!(
        "<tool_call><function=weather><parameter=days>three</parameter><parameter=metric>null</parameter>",
        "<parameter=where>None</parameter></function></tool_call>",
    );
    let arguments = json!({"days": "three", "metric": null, "where": null});
    assert_eq!(parse_with(&weather(), answer), [call("weather", arguments)]);
    assert_eq!(parse_with(&[], "<tool_call><function=now></function></tool_call>"), [call("now", json!({}))]);
}

#[test]
fn the_value_of_a_parameter_may_hold_closing_tags_and_lines() {
    let value = "a\n\n  </parameter>\n<b></tool_call>\n";
    let answer = format!(
        "<tool_call>\n<function=say>\n<parameter=x>\n{value}\n</parameter>\n</function>\n</tool_call>"
    );
    assert_eq!(parse(&[&answer]), [call("say", json!({"x": value}))]);
}

#[test]
fn calls_of_other_makers_are_found() {
    let expected = [call("add", json!({"a": 1})), call("now", json!({}))];
    let answers = [
        concat!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>",
            "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        concat!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```",
            "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
        ),
        concat!(
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{\"a\": 1}",
            "<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>",
            "<|tool_calls_section_end|>",
        ),
        "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{}",
        "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"now\", \"arguments\": {}}]",
    ];
    for answer in answers {
        assert_eq!(parse(&[answer]), expected, "{answer}");
        assert_eq!(
            parse_with(&[], &format!("Let me see.\n\n{answer}"))[1..].last(),
            expected.last(),
            "{answer}"
        );
    }
    for mark in ["<｜tool▁sep｜>", "<|tool_call_end|>", "[TOOL_CALLS]", "<tool_call>"] {
        assert!(ToolCallParser::is_mark(mark), "{mark}");
    }
    assert!(!ToolCallParser::is_mark("<|im_start|>"));
}

#[test]
fn broken_calls_of_other_forms_are_malformed() {
    let cases = [
        (
            "<tool_call><function=a><parameter=x>1</parameter></function> y</function></tool_call>",
            "there is more in it than one function",
        ),
        ("<tool_call><function=></function></tool_call>", "it doesn't name a tool"),
        ("<tool_call><function=a></tool_call>", "its function isn't closed"),
        ("<tool_call><function=a><parameter=x>1</function></tool_call>", "a parameter in it isn't closed"),
        ("<tool_call><function=a><parameter=x>1</parameter>", "the answer ends within the call"),
        ("[TOOL_CALLS]a{}", "it doesn't name a tool"),
        ("<|tool_call_begin|>functions.a:0<|tool_call_end|>", "it doesn't name a tool"),
        ("<｜tool▁call▁begin｜>a<｜tool▁sep｜>{<｜tool▁call▁end｜>", "it isn't valid JSON"),
    ];
    for (raw, why) in cases {
        assert_eq!(parse(&[raw]), [ParserEvent::Malformed { raw: raw.into(), why }]);
    }
}

#[test]
fn a_mark_in_prose_holds_nothing_back() {
    let mut parser = ToolCallParser::default();
    let why = "there is no JSON object and no function in it";
    assert_eq!(parser.feed("[TOOL_CALLS]("), [ParserEvent::Malformed { raw: "[TOOL_CALLS](".into(), why }]);
    assert_eq!(parser.feed("is a mark)"), [text("is a mark)")]);
    let why = "behind the name of the tool there is no JSON object";
    assert_eq!(
        parser.feed(" [TOOL_CALLS] is,"),
        [ParserEvent::Malformed { raw: "[TOOL_CALLS] is,".into(), why }]
    );
}
