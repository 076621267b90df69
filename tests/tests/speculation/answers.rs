//! Answers with drafts beside the same answers without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use membrane_audit::text::Texts;
use membrane_audit::{Keep, Script, Transcript};
use membrane_engine::Speculate;
use membrane_generate::{AnswerOptions, Event, Generator, Sameness, Stats, Versions};
use membrane_tests::recorder;
use membrane_tests::stage::Stage;
use membrane_text::{ChatMessage, Grammar, Role};
use serde_json::{Value, json};

use crate::heads::with_heads;
use crate::{FIXTURES, fixture};

/// A text that repeats itself.
const REPEATING: &str = "one two three four. one two three four. one two three four. one two three five! one two three \
                         four. one two three four.";
const CALL: &str = "Let me see. Let me see. <tool_call>\n{\"name\": \"calculator\", \
                    \"arguments\": {\"expression\": \"6*7\"}}\n</tool_call>";

fn user(text: &str) -> ChatMessage {
    ChatMessage::new(Role::User, text)
}

/// Samplers, policies, tools, constraints and ends of every kind.
fn scenes() -> Vec<(&'static str, Stage)> {
    let sampler = |parameters: Value| Stage::empty().first_party("standard-sampler", parameters);
    let scripted = |hook: &str, at: &str, action: &str, text: &str| {
        let parameters = json!({"hook": hook, "at": at, "action": action, "text": text});
        Stage::saying(&[REPEATING]).scripted_policy(parameters)
    };
    let constrained = |grammar: Grammar| {
        let mut stage = sampler(json!({"temperature": 0.7}));
        stage.constraint = Some(grammar);
        stage
    };
    let at_most = |tokens: usize| {
        let mut stage = Stage::saying(&[REPEATING]);
        stage.max_tokens = Some(tokens);
        stage
    };
    let ab = Grammar::Regex("(ab){40}c".into());
    let digits = Grammar::Regex("[0-9]{20}( [01]{8})*".into());
    vec![
        ("greedy", Stage::empty().first_party("greedy", json!({}))),
        ("drawing", sampler(json!({"temperature": 1.4, "top_k": 60, "repeat_penalty": 1.1}))),
        ("cold", sampler(json!({"temperature": 0.2, "top_p": 0.9, "min_p": 0.1}))),
        ("DRY", sampler(json!({"temperature": 0.3, "dry_multiplier": 0.8}))),
        ("repeats itself", Stage::saying(&[REPEATING])),
        ("few tokens", at_most(7)),
        ("no token", at_most(0)),
        ("force", scripted("output", "four. one", "force", "All is well. All is well.")),
        ("stop", scripted("output", "five", "stop", "")),
        ("refuse", scripted("output", "five", "refuse", "No.")),
        ("trap", scripted("output", "five", "trap", "")),
        ("tool", Stage::saying(&[CALL, REPEATING]).first_party("calculator", json!({}))),
        ("one text only", constrained(ab)),
        ("digits", constrained(digits)),
    ]
}

/// Two turns, with what was seen of them but for figures.
fn seen(stage: &Stage, generator: &mut Generator) -> (String, Vec<u32>, Stats) {
    let mut messages = vec![user("Say: one two three four. one two three four.")];
    let (mut all, mut stats) = (String::new(), Stats::default());
    for _ in 0..2 {
        let seen = stage.ask_with(generator, &messages);
        all += &format!("{}{:?}{:?}\n", seen.everything(), seen.verdicts(), seen.refusal());
        match seen.answer {
            Ok(answer) => {
                all += &format!("{:?} {}", answer.reason, answer.stats.decode_tokens);
                stats.drafted_tokens += answer.stats.drafted_tokens;
                stats.accepted_tokens += answer.stats.accepted_tokens;
                messages = answer.messages;
            }
            Err(error) => all += &error.to_string(),
        }
        messages.push(user("Once more."));
    }
    (all, generator.session().tokens().to_vec(), stats)
}

#[test]
fn answers_are_the_same_to_the_event_and_the_token() {
    let mut accepted = 0;
    for (name, mut stage) in scenes() {
        stage.max_tokens = stage.max_tokens.map(|most| most.min(90));
        // A mixture, a hybrid, and hybrids with heads that are right and wrong.
        let heads = &with_heads()[..2];
        for model in [&fixture(FIXTURES[3]), &fixture(FIXTURES[1])].into_iter().chain(heads) {
            let mut both = [Speculate::Off, Speculate::Always].map(|speculate| {
                stage.speculate = speculate;
                seen(&stage, &mut stage.generator_over(model))
            });
            let (with, without) = (both[1].clone(), &mut both[0]);
            assert_eq!(without.2, Stats::default(), "{name}: nothing is drafted");
            assert_eq!((&with.0, &with.1), (&without.0, &without.1), "{name} over {model:?}");
            assert!(with.2.accepted_tokens <= with.2.drafted_tokens);
            accepted += with.2.accepted_tokens;
            if name == "repeats itself" {
                assert!(with.2.accepted_tokens > 20, "{name} over {model:?}: {:?}", with.2);
            }
            if name == "greedy" && *model == heads[0] {
                assert!(with.2.accepted_tokens * 10 > with.2.drafted_tokens * 8, "{:?}", with.2);
            }
        }
    }
    assert!(accepted > 300, "{accepted}");
}

#[test]
fn records_are_the_same_and_replay_to_the_bit_without_drafts() {
    for (name, mut stage) in scenes() {
        if stage.max_tokens == Some(0) {
            continue;
        }
        stage.speculate = Speculate::Always;
        stage.max_tokens = stage.max_tokens.map(|most| most.min(60));
        let folder = tempfile::tempdir().unwrap();
        let (path, log) = recorder::open(folder.path(), Keep::Tokens);
        let mut drafting = stage.generator_over(&fixture(FIXTURES[1]));
        drafting.record(recorder::audit(&log));
        seen(&stage, &mut drafting);
        log.lock().unwrap().close().unwrap();
        let transcript = Transcript::read(&path, None).unwrap();
        let texts = Texts::beside(&path).unwrap();
        stage.speculate = Speculate::Off;
        let mut plain = stage.generator_over(&fixture(FIXTURES[1]));
        for answer in &transcript.answers {
            let script = Script::of(answer, texts.as_ref()).unwrap();
            if script.tokens().next().is_none() {
                continue;
            }
            let replayed =
                plain.replay(answer.number, answer.start.seed, &script, Sameness::Bits, &Versions::new());
            let replayed = replayed.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(replayed.identical() && replayed.tokens > 0, "{name}: {:?}", replayed.first);
        }
    }
}

#[test]
fn an_answer_that_is_cancelled_leaves_a_session_that_answers_as_ever() {
    for model in [FIXTURES[3], FIXTURES[1]] {
        let mut stage = Stage::saying(&[REPEATING]);
        let texts = [Speculate::Off, Speculate::Always].map(|speculate| {
            stage.speculate = speculate;
            let mut generator = stage.generator_over(&fixture(model));
            let mut told = Vec::new();
            for texts in [1, 4, 9, usize::MAX] {
                let cancel = Arc::new(AtomicBool::new(false));
                let options = AnswerOptions {
                    seed: 1,
                    max_tokens: Some(200),
                    raw: false,
                    now: 0,
                    constraint: None,
                    template: Default::default(),
                };
                let mut text = String::new();
                let mut left = texts;
                let answer = generator.answer(&[user("Say it.")], &options, &cancel, &mut |event| {
                    if let Event::Text { text: more } = event {
                        text += &more;
                        left -= 1;
                        cancel.store(left == 0, Ordering::Relaxed);
                    }
                });
                told.push((answer.unwrap().reason, text, generator.session().tokens().to_vec()));
                assert_eq!(generator.session().ahead(), 0, "nothing is left behind an answer");
            }
            told
        });
        assert_eq!(texts[0], texts[1], "{model}");
    }
}
