//! Answers in channels, as gpt-oss writes them, from the model's tokens to the next prompt.

use std::path::PathBuf;
use std::sync::LazyLock;

use membrane_engine::tokenizer;
use membrane_formats::Checkpoint;
use membrane_generate::EndReason;
use membrane_tests::channels;
use membrane_tests::stage::{Seen, Stage};
use membrane_text::{Channels, ChatMessage, Grammar, ParserEvent, Role, Specials, Tokenizer, ToolCall};
use serde_json::json;
use tempfile::TempDir;

/// The folder of the model, and the model.
static MODEL: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels.gguf");
    channels::write(&path);
    (folder, path)
});

fn words() -> Tokenizer {
    tokenizer(&Checkpoint::open(&MODEL.1).unwrap()).unwrap()
}

/// A model that writes these answers, marks included, one in each round.
fn saying(answers: &[&str]) -> Stage {
    let words = words();
    let texts: Vec<Vec<u32>> =
        answers.iter().map(|answer| words.encode(answer, Specials::Parse).unwrap()).collect();
    Stage::writing(&texts)
}

fn ask(stage: &Stage) -> Seen {
    stage.ask_with(
        &mut stage.generator_over(&MODEL.1),
        &[ChatMessage::new(Role::User, "What is six times seven?")],
    )
}

fn reason(seen: &Seen) -> EndReason {
    seen.answer.as_ref().expect("there is an answer").reason
}

const CALL: &str = "<|channel|>analysis<|message|>I compute.<|end|><|start|>assistant<|channel|>commentary \
                    to=functions.calculator <|constrain|>json<|message|>{\"expression\": \"6*7\"}<|call|>";
const FINAL: &str = "<|channel|>analysis<|message|>Done.<|end|><|start|>assistant<|channel|>final<|message|>It is 42.<|return|>";

#[test]
fn a_call_is_made_from_the_channel_of_calls() {
    let stage = saying(&[CALL, FINAL]).first_party("calculator", json!({}));
    let seen = ask(&stage);
    assert_eq!(seen.calls(), [r#"calculator {"expression":"6*7"}"#]);
    let thought = |thought: &str| format!("<think>\n{thought}\n</think>\n\n");
    assert_eq!(seen.text(), thought("I compute.") + &thought("Done.") + "It is 42.");
    assert_eq!(reason(&seen), EndReason::Stop);
    let roles: Vec<Role> = seen.answer.unwrap().messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
}

#[test]
fn the_next_prompt_has_each_part_in_its_channel() {
    let refused = |at: &str| {
        let script = json!({"hook": "prompt", "at": at, "action": "refuse", "text": "Seen."});
        let stage = saying(&[CALL, FINAL]).first_party("calculator", json!({})).scripted_policy(script);
        reason(&ask(&stage)) == EndReason::Refused
    };
    assert!(refused(
        "<|channel|>analysis<|message|>I compute.<|end|><|start|>assistant to=functions.calculator"
    ));
    assert!(refused("<|message|>{\"expression\": \"6*7\"}<|call|><|start|>tool<|message|>42<|end|>"));
    assert!(!refused("<think>"));
}

#[test]
fn without_tools_the_answer_is_text_and_the_next_prompt_has_no_reasoning() {
    let stage = saying(&[FINAL]);
    let mut generator = stage.generator_over(&MODEL.1);
    let mut messages = vec![ChatMessage::new(Role::User, "Say it.")];
    messages = stage.ask_with(&mut generator, &messages).answer.unwrap().messages;
    assert_eq!(messages[1].content, "<think>\nDone.\n</think>\n\nIt is 42.");
    messages.push(ChatMessage::new(Role::User, "Again."));
    let script = json!({"hook": "prompt", "at": "final<|message|>It is 42.<|end|>", "action": "refuse", "text": "Seen."});
    let stage = saying(&[FINAL]).scripted_policy(script);
    assert_eq!(reason(&stage.ask_with(&mut stage.generator_over(&MODEL.1), &messages)), EndReason::Refused);
}

#[test]
fn an_answer_goes_on_in_its_channel_behind_a_forced_text() {
    let words = words();
    let channels = Channels::of(&words).unwrap();
    let spelled = |text: &str| words.decode(&channels.spell(&words, text).unwrap(), false);
    let thinking = "<|channel|>analysis<|message|>Hm.";
    assert_eq!(spelled("<think>\nHm."), thinking);
    assert_eq!(spelled("Yes"), "<|channel|>final<|message|>Yes");
    let whole = format!("{thinking}<|end|><|start|>assistant<|channel|>final<|message|>Yes");
    assert_eq!(spelled("<think>\nHm.\n</think>\n\nYes"), whole);
    let script = json!({"hook": "output", "at": "It is", "action": "force", "text": "forced"});
    let seen = ask(&saying(&[FINAL]).scripted_policy(script));
    assert_eq!(
        (seen.text().as_str(), seen.verdicts().len(), reason(&seen)),
        ("forced 42.", 1, EndReason::Stop)
    );
}

#[test]
fn an_answer_holds_one_call_and_ends_behind_it() {
    let second =
        CALL.replace("<|call|>", "<|end|><|start|>assistant<|channel|>final<|message|>Not this.<|return|>");
    let seen = ask(&saying(&[&second, FINAL]).first_party("calculator", json!({})));
    assert_eq!(seen.calls().len(), 1);
    assert!(!seen.text().contains("Not this") && seen.text().ends_with("It is 42."), "{}", seen.text());
}

#[test]
fn half_a_character_does_not_go_over_into_the_next_channel() {
    let words = words();
    let half = (0..words.vocab_size() as u32).find(|&token| words.token_bytes(token) == Ok(&[0xC3])).unwrap();
    let encode = |text: &str| words.encode(text, Specials::Parse).unwrap();
    let (thoughts, rest) = FINAL.split_once("<|end|>").unwrap();
    let tokens = [encode(thoughts), vec![half], encode(&format!("<|end|>{rest}"))].concat();
    let seen = ask(&Stage::writing(&[tokens]));
    assert_eq!(seen.text(), "<think>\nDone.\u{FFFD}\n</think>\n\nIt is 42.");
}

#[test]
fn a_parser_goes_on_within_a_message() {
    let words = words();
    let channels = Channels::of(&words).unwrap();
    let behind = |prompt: &str| {
        let tokens = words.encode(prompt, Specials::Parse).unwrap();
        channels.parser_behind(&words, &tokens, true).unwrap()
    };
    let text = |text: &str| vec![ParserEvent::Text(text.into())];
    let prompt = "<|start|>user<|message|>Hi<|end|><|start|>assistant";
    assert_eq!(behind(prompt).feed("Noon."), text("Noon."));
    let mut thinking = behind(&format!("{prompt}<|channel|>analysis<|message|>Hm"));
    assert_eq!(thinking.feed("."), text("."));
    assert_eq!(thinking.control("<|end|>"), text("\n</think>\n\n"));
    let called = "<|channel|>commentary to=functions.clock<|message|>{\"a\":";
    let mut calling = behind(&format!("{prompt}{called}"));
    assert!(calling.feed("1}").is_empty());
    let arguments = json!({"a": 1});
    assert_eq!(calling.finish(true), [ParserEvent::ToolCall(ToolCall { name: "clock".into(), arguments })]);
}

#[test]
fn a_constrained_answer_is_in_the_final_channel() {
    let mut stage = saying(&["123<|return|>"]);
    stage.constraint = Some(Grammar::Regex("[0-9]{3}".into()));
    let seen = ask(&stage);
    assert_eq!((seen.text().as_str(), reason(&seen)), ("123", EndReason::Stop));
    let script = json!({"hook": "prompt", "at": "<|start|>assistant<|channel|>final<|message|>", "action": "refuse", "text": "Seen."});
    let mut stage = saying(&["123<|return|>"]).scripted_policy(script);
    stage.constraint = Some(Grammar::Regex("[0-9]{3}".into()));
    assert_eq!(reason(&ask(&stage)), EndReason::Refused);
}

#[test]
fn functions_of_qwen_get_values_of_the_types_that_the_tool_wants() {
    let call = "<tool_call>\n<function=calculator>\n<parameter=expression>\n6*7\n</parameter>\n</function>\n</tool_call>";
    let seen = Stage::saying(&[call, "It is 42."])
        .first_party("calculator", json!({}))
        .ask("What is six times seven?");
    assert_eq!(seen.calls(), [r#"calculator {"expression":"6*7"}"#]);
    assert_eq!(seen.text(), "It is 42.");
}
