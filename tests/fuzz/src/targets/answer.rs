//! What a model writes: its bytes in pieces, made characters, channels and calls of tools.

use membrane_text::{ChannelParser, ToolCallParser, Utf8Stream};

/// Marks that the parsers look for.
pub const WORDS: &[&str] = &[
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<function=",
    "</function>",
    "<parameter=",
    "</parameter>",
    "[TOOL_CALLS]",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
    " to=functions.clock",
    "<|python_tag|>",
    "{\"name\": \"clock\", \"arguments\": {}}",
    "\"parameters\"",
    "```json",
    "```",
];

/// Bytes of a piece, in turn.
const PIECES: [usize; 5] = [1, 7, 2, 64, 3];

/// What a vocabulary has as control tokens in a text of channels.
const CONTROL: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"];

/// Feeds the bytes in pieces.
pub fn target(data: &[u8]) {
    let (mut stream, mut calls) = (Utf8Stream::default(), ToolCallParser::default());
    let mut channels = ChannelParser::new(data.len() % 2 == 0);
    let mut text = String::new();
    let mut rest = data;
    for length in PIECES.into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        let characters = stream.push(piece);
        calls.feed(&characters);
        text.push_str(&characters);
    }
    text.push_str(&stream.finish());
    calls.finish();
    for piece in text.split_inclusive("|>") {
        match CONTROL.iter().find(|mark| piece.ends_with(**mark)) {
            Some(mark) => {
                channels.feed(&piece[..piece.len() - mark.len()]);
                channels.control(mark);
            }
            None => drop(channels.feed(piece)),
        }
    }
    channels.finish(data.len() % 3 == 0);
    if let Ok(whole) = std::str::from_utf8(data) {
        assert_eq!(text, whole, "the pieces of a text are not the text");
    }
}

/// Answers in the forms that models write.
pub fn seeds() -> Vec<Vec<u8>> {
    let answers = [
        "<think>\nLet me see.\n</think>\n\nIt is noon.",
        "<tool_call>\n{\"name\": \"clock\", \"arguments\": {\"zone\": \"UTC\"}}\n</tool_call>",
        "Now:\n<tool_call>\n<function=clock>\n<parameter=zone>\nUTC\n</parameter>\n</function>\n</tool_call> é\u{1f600}",
        "{\"name\": \"clock\", \"parameters\": {\"zone\": \"UTC\"}}",
        "<think>a<tool_call>{\"name\":</think>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.clock <|message|>{}",
        "<|tool_call_begin|>functions.clock:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
    ];
    answers.iter().map(|answer| answer.as_bytes().to_vec()).collect()
}
