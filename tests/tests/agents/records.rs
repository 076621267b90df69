//! What agents leave in the audit log, and its replay.

use std::sync::Arc;

use membrane_audit::text::Texts;
use membrane_audit::verify::{Trusted, verify};
use membrane_audit::{Keep, Script, Transcript};
use membrane_engine::LoadOptions;
use membrane_generate::{Agents, Behaviour, Generator, Sameness, Versions, decide};
use membrane_host::{Grant, World, first_party};
use membrane_tests::guests::guest;
use membrane_tests::recorder;
use serde_json::json;

use crate::{drawing, host, load, model, own, run, run_with, scripted, steps};

/// Several agents at the same time, each with forks: every generation is on record and replays bit for bit, whatever it shared
/// its passes with.
#[test]
fn what_agents_generate_in_shared_passes_is_replayed_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Text);
    let audit = recorder::audit(&log);
    let experts = model(LoadOptions::default()).plan().experts;
    let paged = LoadOptions { threads: Some(2), experts: Some(experts / 4), ..LoadOptions::default() };
    let agents = Agents::new(host(), model(paged), drawing(), Some(audit)).unwrap();
    let agent = own("best-of-n", json!({ "n": 3, "max_tokens": 24 }));
    let texts: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|seed| {
                let (agents, agent) = (&agents, &agent);
                let task = format!("Task {seed}");
                scope.spawn(move || run_with(agents, agent, &task, seed, &Arc::default()).text())
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let (passes, tokens) = agents.passes();
    assert!(tokens > passes, "{tokens} tokens in {passes} passes");
    for (seed, text) in texts.iter().enumerate() {
        let alone = run_with(&agents, &agent, &format!("Task {seed}"), seed as u64, &Arc::default());
        assert_eq!(alone.text(), *text, "alone as among others");
    }
    log.lock().unwrap().close().unwrap();
    assert!(verify(&path, &Trusted::default()).unwrap().good());
    let transcript = Transcript::read(&path, None).unwrap();
    let kept = Texts::beside(&path).unwrap();
    let all_in_memory = model(LoadOptions { threads: Some(1), ..LoadOptions::default() });
    let mut generator = Generator::new(host(), all_in_memory, drawing()).unwrap();
    let mut generations = 0;
    for answer in &transcript.answers {
        let script = Script::of(answer, kept.as_ref()).unwrap();
        let seed = answer.start.seed;
        let replayed =
            generator.replay(answer.number, seed, &script, Sameness::Bits, &Versions::new()).unwrap();
        assert!(replayed.identical(), "answer {}: {:?}", answer.number, replayed.first);
        generations += usize::from(replayed.tokens > 0);
    }
    assert_eq!(generations, 2 * 4 * 3);
    assert_eq!(transcript.answers.len(), 2 * 4 * (3 + 1));
}

/// Of a generation with sampling of its own the log has the sampler that chose its tokens.
#[test]
fn sampling_of_a_generation_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Text);
    let audit = recorder::audit(&log);
    let of_all = || model(LoadOptions { threads: Some(1), ..LoadOptions::default() });
    let agents = Agents::new(host(), of_all(), drawing(), Some(audit)).unwrap();
    let sampling = "{\"temperature\": 0.0}";
    steps(
        &agents,
        json!([
            {"new": "a"},
            {"append": ["a", "Once upon"]},
            {"start": ["a", "g", {"max-tokens": 12, "sampling": sampling}]},
            {"finish": "g"},
        ]),
    );
    log.lock().unwrap().close().unwrap();
    let transcript = Transcript::read(&path, None).unwrap();
    let kept = Texts::beside(&path).unwrap();
    let mut replayed = 0;
    for answer in &transcript.answers {
        let script = Script::of(answer, kept.as_ref()).unwrap();
        let recorded = &transcript.behaviours[&answer.start.behaviour];
        let sampler = recorded.plugins.iter().rfind(|plugin| plugin.kind == "sampler").unwrap();
        let mut behaviour = drawing();
        let last = behaviour.samplers.last_mut().unwrap();
        *last = last.with_parameters(sampler.parameters.clone());
        let mut generator = Generator::new(host(), of_all(), behaviour).unwrap();
        let (number, seed) = (answer.number, answer.start.seed);
        let found = generator.replay(number, seed, &script, Sameness::Bits, &Versions::new()).unwrap();
        assert!(found.identical(), "answer {number}: {:?}", found.first);
        if found.tokens > 0 {
            assert_eq!(sampler.parameters["temperature"], 0.0);
            replayed += 1;
        }
    }
    assert_eq!(replayed, 1);
}

/// What a policy makes of a conversation is told and on record, with what is generated of it or where it is scored, and decided
/// again alike.
#[test]
fn what_policies_rewrite_of_a_conversation_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Text);
    let audit = recorder::audit(&log);
    let bytes = first_party::find("system-prompt").unwrap().bytes.to_vec();
    let parameters = json!({ "text": "Be kind." });
    let policies = vec![load("system-prompt", bytes, World::Policy, parameters, &[Grant::SystemPrompt])];
    let behaviour = Behaviour { policies: policies.clone(), ..drawing() };
    let model = model(LoadOptions { threads: Some(1), ..LoadOptions::default() });
    let agents = Agents::new(host(), model, behaviour, Some(audit)).unwrap();
    let chat = json!({"chat": ["a", [["user", "Hi"]], false]});
    for (last, interventions) in [
        (json!("report"), 1),
        (json!({"score": ["a", [" Yes", " No"]]}), 2),
        (json!({"save": ["a", "prefix"]}), 2),
        (json!({"start": ["a", "g", {}]}), 2),
    ] {
        let seen = run(&agents, &scripted(), &json!([{"new": "a"}, chat, last]).to_string());
        assert_eq!(
            seen.answer.stats.interventions, interventions,
            "of the task, and of the conversation: {last}"
        );
    }
    log.lock().unwrap().close().unwrap();
    assert!(verify(&path, &Trusted::default()).unwrap().good());
    let transcript = Transcript::read(&path, None).unwrap();
    let kept = Texts::beside(&path).unwrap();
    assert_eq!(transcript.answers.len(), 7);
    for answer in &transcript.answers {
        let script = Script::of(answer, kept.as_ref()).unwrap();
        let recorded: Vec<(&str, &str)> =
            script.verdicts.iter().map(|made| (made.hook.as_str(), made.verdict.as_str())).collect();
        assert_eq!(recorded, [("request", "rewrite")]);
        let now = decide(&host(), &policies, answer.number, &script, None).unwrap();
        let now: Vec<(&str, &str)> =
            now.verdicts.iter().map(|made| (made.hook.as_str(), made.verdict.as_str())).collect();
        assert_eq!(now, recorded);
    }
}

#[test]
fn a_refused_prompt_of_an_agent_is_refused_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Text);
    let audit = recorder::audit(&log);
    let script = json!({"hook": "prompt", "at": "Hi", "action": "refuse", "text": "No."});
    let policies = vec![load("late", guest("scripted-policy"), World::Policy, script, &[])];
    let behaviour = Behaviour { policies: policies.clone(), ..drawing() };
    let model = model(LoadOptions { threads: Some(1), ..LoadOptions::default() });
    let agents = Agents::new(host(), model, behaviour, Some(audit)).unwrap();
    let task = json!([{"new": "a"}, {"chat": ["a", [["user", "Hi"]], false]}, {"start": ["a", "g", {}]}]);
    run(&agents, &scripted(), &task.to_string());
    log.lock().unwrap().close().unwrap();
    let transcript = Transcript::read(&path, None).unwrap();
    let kept = Texts::beside(&path).unwrap();
    let mut refused = 0;
    for answer in &transcript.answers {
        let script = Script::of(answer, kept.as_ref()).unwrap();
        let recorded: Vec<&str> = script.verdicts.iter().map(|made| made.hook.as_str()).collect();
        let now = decide(&host(), &policies, answer.number, &script, None).unwrap();
        let now: Vec<&str> = now.verdicts.iter().map(|made| made.hook.as_str()).collect();
        assert_eq!(now, recorded);
        refused += recorded.iter().filter(|hook| **hook == "prompt").count();
    }
    assert_eq!(refused, 1);
}
