//! Sessions and generations, as an agent uses them.

use membrane_engine::{LoadOptions, Model, Session};
use membrane_generate::{Agents, Event, EventSink};
use membrane_host::agent::Store;
use membrane_tests::channels;
use membrane_text::Specials;
use serde_json::{Value, json};

use std::sync::{Arc, Mutex};

use crate::{agents, drawing, host, model, model_at, own, run, run_into, run_with, saying, steps};

#[test]
fn a_session_says_what_fits_and_keeps_what_it_has() {
    let found = steps(
        &agents(drawing()),
        json!([
            "model",
            {"new": "a"},
            {"length": "a"},
            {"append": ["a", "Once upon a time"]},
            {"length": "a"},
            {"room": "a"},
            {"append": ["a", "word ".repeat(1200)]},
            {"length": "a"},
            {"truncate": ["a", 2]},
            {"length": "a"},
            {"tokens": "a"},
            {"encode": "Once upon a time"},
        ]),
    );
    let (context, vocabulary) = (found[0][1].as_u64().unwrap(), found[0][2].as_u64().unwrap());
    assert_eq!((context, found[0][3].as_bool()), (1024, Some(true)));
    assert!(vocabulary > 100);
    let length = found[4].as_u64().unwrap();
    assert_eq!((found[2].as_u64(), found[3].as_u64()), (Some(0), Some(length)));
    assert_eq!(found[5].as_u64(), Some(context - length));
    assert_eq!(found[6]["error"], "overflow", "{:?}", found[6]);
    assert!(found[6]["what"].as_str().unwrap().contains(&format!("room for {} more", context - length)));
    assert_eq!((&found[7], &found[9]), (&json!(length), &json!(2)));
    assert_eq!(found[10].as_array().unwrap()[..], found[11].as_array().unwrap()[..2]);
}

#[test]
fn a_fork_goes_on_by_itself_and_gives_what_a_fresh_session_gives() {
    let options = json!({"max-tokens": 12, "seed": 7});
    let found = steps(
        &agents(drawing()),
        json!([
            {"new": "a"},
            {"append": ["a", "The quick brown"]},
            {"fork": ["a", "b"]},
            {"start": ["b", "one", options]},
            {"start": ["a", "two", {"max-tokens": 12, "seed": 8}]},
            {"finish": "one"},
            {"finish": "two"},
            {"tokens": "a"},
            {"tokens": "b"},
            {"new": "c"},
            {"append": ["c", "The quick brown"]},
            {"start": ["c", "three", options]},
            {"finish": "three"},
            {"tokens": "c"},
            {"truncate": ["c", 3]},
            {"start": ["c", "four", options]},
            {"finish": "four"},
        ]),
    );
    let (one, two, three, four) = (&found[5], &found[6], &found[12], &found[16]);
    assert_eq!(one["tokens"], 12);
    assert_eq!(one["reason"], "EndReason::Length");
    assert_ne!(one["text"], two["text"], "another seed");
    assert_eq!(one, three, "what a pass is shared with changes nothing");
    assert_eq!(found[8], found[13]);
    assert_ne!(found[7], found[8]);
    assert_eq!(four["tokens"], 12);
}

#[test]
fn text_comes_as_it_is_made_and_ends_where_it_is_told_to() {
    let behaviour = || saying(&["one two three four", "a b c"]);
    let found = steps(
        &agents(behaviour()),
        json!([
            {"new": "a"},
            {"append": ["a", "Count:"]},
            {"start": ["a", "g", {"stop": ["thr", "zzz"]}]},
            {"next": "g"},
            {"finish": "g"},
            {"next": "g"},
            {"finish": "g"},
            {"length": "a"},
        ]),
    );
    let first = found[3].as_str().unwrap();
    assert!(!first.is_empty() && "one two ".starts_with(first), "{first}");
    assert_eq!((&found[4]["text"], &found[4]["reason"]), (&json!("one two "), &json!("EndReason::StopText")));
    assert_eq!(found[5], Value::Null);
    assert_eq!(found[6], found[4]);
    assert!(found[7].as_u64() > Some(found[4]["tokens"].as_u64().unwrap()));
}

#[test]
fn a_session_is_busy_until_its_generation_has_ended() {
    let found = steps(
        &agents(drawing()),
        json!([
            {"new": "a"},
            {"append": ["a", "Once"]},
            {"length": "a"},
            {"start": ["a", "g", {"max-tokens": 30}]},
            {"append": ["a", "more"]},
            {"fork": ["a", "b"]},
            {"truncate": ["a", 0]},
            {"start": ["a", "h", {}]},
            {"length": "a"},
            {"cancel": "g"},
            {"length": "a"},
            {"finish": "g"},
            {"start": ["a", "i", {"max-tokens": 3}]},
            {"drop": "i"},
            {"length": "a"},
        ]),
    );
    for busy in &found[4..8] {
        assert_eq!(busy["error"], "busy", "{busy}");
    }
    let length = &found[2];
    assert_eq!([&found[8], &found[10], &found[14]], [length, length, length]);
    assert_eq!(found[11]["reason"], "EndReason::Cancelled");
}

#[test]
fn what_can_not_be_is_refused_and_said() {
    let found = steps(
        &agents(drawing()),
        json!([
            {"new": "a"},
            {"start": ["a", "g", {}]},
            {"score": ["a", ["x"]]},
            {"append": ["a", "Once"]},
            {"start": ["a", "g", {"stop": [""]}]},
            {"start": ["a", "g", {"stop": vec!["x"; 17]}]},
            {"start": ["a", "g", {"sampling": "{\"no_such\": 1}"}]},
            {"start": ["a", "g", {"sampling": "7"}]},
            {"append-tokens": ["a", [4_000_000]]},
            {"save": ["a", ""]},
            {"save": ["a", "n".repeat(65)]},
            {"open": ["never", "b"]},
            {"forks": ["a", 70]},
            {"start": ["a", "g", {"max-tokens": 3, "sampling": "{\"temperature\": 0}"}]},
            {"finish": "g"},
            {"set": ["", "x"]},
            {"call": ["nothing", {}]},
        ]),
    );
    for (at, part) in
        [(1, "empty"), (2, "empty"), (4, "1 to 256"), (5, "17 stop"), (6, "no_such"), (7, "JSON")]
    {
        assert_eq!(found[at]["error"], "invalid", "{at}: {}", found[at]);
        assert!(found[at]["what"].as_str().unwrap().contains(part), "{at}: {}", found[at]);
    }
    assert_eq!([&found[8]["error"], &found[9]["error"], &found[10]["error"]], ["invalid"; 3]);
    assert_eq!(found[11], false);
    assert_eq!(found[12]["error"], "limit");
    assert_eq!(found[14]["tokens"], 3);
    assert!(found[15]["error"].as_str().unwrap().contains("1 to 256"));
    assert!(found[16]["error"].as_str().unwrap().contains("no tool `nothing`"));
}

/// The log probability of tokens behind others, one at a time.
fn log_probability(model: &Model, behind: &[u32], tokens: &[u32]) -> f64 {
    let mut session = model.session();
    session.append(behind).unwrap();
    let of = |session: &Session, token: u32| {
        let logits: Vec<f64> = session.logits().iter().map(|logit| f64::from(*logit)).collect();
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        logits[token as usize] - most - logits.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln()
    };
    let mut sum = 0.0;
    for &token in tokens {
        sum += of(&session, token);
        session.append(&[token]).unwrap();
    }
    sum
}

#[test]
fn scores_are_the_models_own_probabilities() {
    let agents = agents(drawing());
    let found = steps(
        &agents,
        json!([
            {"new": "a"},
            {"append": ["a", "Once upon"]},
            {"top": ["a", 3]},
            {"score": ["a", [" a time", "", " a"]]},
            {"logits": "a"},
            {"length": "a"},
        ]),
    );
    // The same by hand, one token at a time.
    let model = model(LoadOptions { threads: Some(2), ..LoadOptions::default() });
    let tokenizer = model.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode(text, Specials::AsText).unwrap();
    let by_hand = |text: &str| log_probability(&model, &encode("Once upon"), &encode(text));
    for (score, text) in found[3].as_array().unwrap().iter().zip([" a time", "", " a"]) {
        assert!((score[0].as_f64().unwrap() - by_hand(text)).abs() < 1e-6, "{text}: {score}");
        assert_eq!(score[1].as_u64().unwrap() as usize, encode(text).len());
    }
    let top = found[2].as_array().unwrap();
    let best = top[0][0].as_u64().unwrap() as u32;
    let mut session = model.session();
    session.append(&encode("Once upon")).unwrap();
    assert!(
        (top[0][2].as_f64().unwrap().ln() - log_probability(&model, &encode("Once upon"), &[best])).abs()
            < 1e-5
    );
    assert!(top[0][2].as_f64() >= top[1][2].as_f64());
    assert_eq!(found[4].as_u64(), Some(session.logits().len() as u64));
}

#[test]
fn a_conversation_keeps_its_prefix_and_shows_the_tools() {
    let call =
        "<tool_call>\n{\"name\": \"calculator\", \"arguments\": {\"expression\": \"6*7\"}}\n</tool_call>";
    let mut behaviour = saying(&[call]);
    behaviour.tools.push(own("calculator", json!({})));
    let agents = agents(behaviour);
    let found = steps(
        &agents,
        json!([
            "tools",
            {"new": "a"},
            {"chat": ["a", [["user", "Hi"]], false]},
            {"length": "a"},
            {"chat": ["a", [["user", "Hi"]], true]},
            {"length": "a"},
            {"start": ["a", "g", {}]},
            {"finish": "g"},
            {"call": ["calculator", {"expression": "6*7"}]},
            {"chat": ["a", [["user", "Hi"], ["assistant", "Ho"], ["user", "Hm"]], true]},
        ]),
    );
    assert_eq!(found[0], json!(["calculator"]));
    assert!(found[5].as_u64() > found[3].as_u64(), "the tools are in the prompt");
    assert_eq!(found[7]["calls"], json!([["calculator", "{\"expression\":\"6*7\"}"]]));
    assert_eq!(found[7]["text"], "");
    assert_eq!(found[8], "42");
    assert!(found[9][0].as_u64().unwrap() > 10, "the common prefix was kept: {}", found[9]);
    // An agent that does this by itself, with a model that only ever calls.
    let seen = run(&agents, &own("react", json!({ "steps": 2 })), "What is six times seven?");
    assert_eq!(seen.answer.why.as_deref(), Some("there was no answer after 2 steps"));
    let results = seen
        .events
        .iter()
        .filter(|event| matches!(event, Event::ToolResult { output, .. } if output == "42"));
    assert_eq!(results.count(), 2);
}

#[test]
fn a_text_is_what_its_constraint_says() {
    let agents = agents(drawing());
    let found = steps(
        &agents,
        json!([
            {"new": "a"},
            {"append": ["a", "The number is "]},
            {"length": "a"},
            {"start": ["a", "g", {"regex": "[0-9]{3}"}]},
            {"finish": "g"},
            {"length": "a"},
            {"start": ["a", "g", {"regex": "("}]},
            {"start": ["a", "g", {"json-schema": "{"}]},
            {"start": ["a", "g", {"lark": "start: \"yes\" | \"no\""}]},
            {"finish": "g"},
        ]),
    );
    let text = found[4]["text"].as_str().unwrap();
    assert!(text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit()), "{text}");
    assert_eq!(found[5].as_u64().unwrap() - found[2].as_u64().unwrap(), found[4]["tokens"].as_u64().unwrap());
    assert_eq!([&found[6]["error"], &found[7]["error"]], ["invalid"; 2]);
    assert!(["yes", "no"].contains(&found[9]["text"].as_str().unwrap()), "{}", found[9]);
    let schema = json!({
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 7}},
        "required": ["n"],
        "additionalProperties": false,
    });
    let agent = own("extractor", json!({ "schema": schema.to_string() }));
    let seen = run(&agents, &agent, "She has five cats.");
    let value: Value = serde_json::from_str(&seen.text()).unwrap();
    assert!((3..=7).contains(&value["n"].as_i64().unwrap()), "{value}");
}

/// Agents over a model that answers in channels.
fn in_channels() -> (Model, Agents) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels.gguf");
    channels::write(&path);
    let model = model_at(&path, LoadOptions { threads: Some(1), ..LoadOptions::default() });
    let agents = Agents::new(host(), model.clone(), drawing(), None).unwrap();
    (model, agents)
}

#[test]
fn a_constrained_text_stands_in_the_final_channel_where_there_are_channels() {
    let (model, agents) = in_channels();
    let found = steps(
        &agents,
        json!([
            {"new": "a"},
            {"chat": ["a", [["user", "Hi"]], false]},
            {"length": "a"},
            {"start": ["a", "g", {"regex": "[0-9]{3}"}]},
            {"finish": "g"},
            {"tokens": "a"},
        ]),
    );
    let tokens: Vec<u32> =
        found[5].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let behind = model.tokenizer().unwrap().decode(&tokens[found[2].as_u64().unwrap() as usize..], false);
    assert_eq!(behind, format!("<|channel|>final<|message|>{}", found[4]["text"].as_str().unwrap()));
}

#[test]
fn a_final_channel_is_gone_with_a_generation_that_did_not_come_to_its_end() {
    let (_, agents) = in_channels();
    let found = steps(
        &agents,
        json!([
            {"new": "a"},
            {"chat": ["a", [["user", "Hi"]], false]},
            {"tokens": "a"},
            {"start": ["a", "g", {"regex": "("}]},
            {"tokens": "a"},
            {"start": ["a", "g", {"regex": "[0-9]{3}", "sampling": "7"}]},
            {"tokens": "a"},
            {"start": ["a", "g", {"regex": "[0-9]{300}"}]},
            {"cancel": "g"},
            {"tokens": "a"},
            {"start": ["a", "g", {"regex": "[0-9]{3}"}]},
            {"finish": "g"},
        ]),
    );
    assert_eq!([&found[3]["error"], &found[5]["error"]], ["invalid"; 2]);
    assert_eq!([&found[4], &found[6], &found[9]], [&found[2]; 3]);
    assert_eq!(found[11]["text"].as_str().map(str::len), Some(3), "{}", found[11]);
}

#[test]
fn scores_behind_a_conversation_are_those_of_answers_in_channels() {
    let (model, agents) = in_channels();
    let found = steps(
        &agents,
        json!([
            {"new": "a"},
            {"chat": ["a", [["user", "Hi"]], false]},
            {"tokens": "a"},
            {"score": ["a", ["Hello", "<think>\nA greeting.\n</think>\n\nHello"]]},
            {"append": ["a", "<|message|>"]},
            {"score": ["a", ["Hello"]]},
        ]),
    );
    let tokenizer = model.tokenizer().unwrap();
    let begun: Vec<u32> = found[2].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let message = "<|channel|>final<|message|>Hello";
    let thought = "<|channel|>analysis<|message|>A greeting.<|end|><|start|>assistant".to_owned() + message;
    for (score, text) in found[3].as_array().unwrap().iter().zip([message, &thought]) {
        let ids = tokenizer.encode(text, Specials::Parse).unwrap();
        assert_eq!(score[1].as_u64().unwrap() as usize, ids.len(), "{text}");
        let expected = log_probability(&model, &begun, &ids);
        assert!((score[0].as_f64().unwrap() - expected).abs() < 1e-4, "{text}: {score}, not {expected}");
    }
    let plain = tokenizer.encode("Hello", Specials::AsText).unwrap();
    assert_eq!(found[5][0][1].as_u64().unwrap() as usize, plain.len());
}

#[test]
fn names_keep_contexts_for_runs_of_the_same_agent_as_long_as_one_goes_on() {
    let agents = agents(drawing());
    let seen: Arc<Mutex<Vec<Vec<Value>>>> = Arc::default();
    let (others, into) = (agents.behaving(drawing()).unwrap(), seen.clone());
    // Another run, also after a reload, goes on where the first reports.
    let sink: EventSink = Arc::new(Mutex::new(move |event: Event| {
        if let Event::Text { text } = event {
            let opened = steps(&others, json!([{"open": ["prefix", "b"]}, {"tokens": "b"}]));
            into.lock().unwrap().extend([serde_json::from_str(&text).unwrap(), opened]);
        }
    }));
    let task = json!([
        {"new": "a"},
        {"append": ["a", "A long prefix of words"]},
        {"save": ["a", "prefix"]},
        {"tokens": "a"},
        "report",
    ]);
    run_into(&agents, &task.to_string(), &Store::in_memory(), &Arc::default(), &sink);
    let seen = seen.lock().unwrap();
    let [kept, opened] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&opened[0], &opened[1]), (&json!(true), &kept[3]));
    assert_eq!(steps(&agents, json!([{"open": ["prefix", "b"]}])), [json!(false)]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let agents = agents(drawing());
    let agent = own("best-of-n", json!({ "n": 4, "max_tokens": 16 }));
    let text = |seed| run_with(&agents, &agent, "Say something.", seed, &Arc::default()).text();
    let first = text(5);
    assert!(!first.is_empty());
    for _ in 0..4 {
        assert_eq!(text(5), first);
    }
    assert_ne!(text(6), first);
}
