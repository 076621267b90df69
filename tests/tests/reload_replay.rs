//! Answers in whose middle plugins were exchanged: what is on record of that, and that the record makes them again.
#![cfg(test)]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use membrane_audit::verify::{Trusted, verify, verify_reader};
use membrane_audit::{self as audit, Record, RecordedAnswer, Script, Step, Swap, Transcript, line};
use membrane_generate::{Behaviour, Event, Generator, Reload, Replayed, Sameness, Versions, decide};
use membrane_host::{Plugin, World, first_party};
use membrane_tests::guests::guest;
use membrane_tests::recorder::{Recorded, Recorder};
use membrane_tests::stage::{Seen, Stage};
use membrane_text::{ChatMessage, Role};
use serde_json::{Value, json};

/// The recorded behaviours, put together of plugins that are at hand.
fn versions_of(recorded: &Recorded, known: &[Plugin]) -> Versions {
    let plugin = |recorded: &audit::Plugin| {
        let found = known.iter().find(|plugin| {
            let parameters: Value = serde_json::from_str(plugin.parameters()).unwrap();
            plugin.digest().as_bytes() == recorded.digest.as_bytes()
                && parameters == Value::Object(recorded.parameters.clone())
        });
        found.unwrap_or_else(|| panic!("{recorded:?} is not at hand")).clone()
    };
    let behaviour = |recorded: &audit::Behaviour| {
        let of = |kind: World| {
            let plugins = recorded.plugins.iter().filter(|plugin| plugin.kind == kind.as_str());
            plugins.map(plugin).collect()
        };
        Behaviour { samplers: of(World::Sampler), policies: of(World::Policy), ..Behaviour::default() }
    };
    recorded.transcript.behaviours.iter().map(|(number, it)| (*number, behaviour(it))).collect()
}

/// Generates an answer again, in a session of its own.
fn replay_of(recorded: &Recorded, stage: &Stage, index: usize, versions: &Versions) -> Replayed {
    let (answer, script) = recorded.answer(index);
    replay(stage, answer, &script, versions)
}

fn replay(stage: &Stage, answer: &RecordedAnswer, script: &Script, versions: &Versions) -> Replayed {
    let model = stage.generator().model().clone();
    let first = versions[&answer.start.behaviour].clone();
    let mut generator = Generator::new(stage.host().clone(), model, first).unwrap();
    generator.replay(answer.number, answer.start.seed, script, Sameness::Bits, versions).unwrap()
}

/// A component that does the same and has another digest: with a custom section behind it.
fn version(bytes: &[u8], number: u32) -> Vec<u8> {
    let name = format!("version {number}");
    let mut section = vec![0, name.len() as u8 + 1, name.len() as u8];
    section.extend_from_slice(name.as_bytes());
    [bytes, &section[..]].concat()
}

fn user(text: &str) -> [ChatMessage; 1] {
    [ChatMessage::new(Role::User, text)]
}

fn words(count: usize) -> String {
    (0..count).map(|number| format!("{number} ")).collect::<String>().trim_end().to_owned()
}

fn told(seen: &Seen) -> Vec<&Reload> {
    let reloads = seen.events.iter().filter_map(|event| match event {
        Event::Reloaded(reload) => Some(reload),
        _ => None,
    });
    reloads.collect()
}

/// What the record says of each plugin, as the events have it: token, name, digests, effect, state.
type Line = (u64, String, Option<String>, Option<String>, String, bool);

fn lines_of_events(seen: &Seen) -> Vec<Line> {
    let line = |reload: &&Reload| {
        let Reload { plugin, from, to, effect, state, token, .. } = reload;
        let (from, to) = (from.map(|digest| digest.hex()), to.map(|digest| digest.hex()));
        (*token as u64, plugin.clone(), from, to, (*effect).to_owned(), *state)
    };
    told(seen).iter().map(line).collect()
}

fn lines_of_record(script: &Script) -> Vec<Line> {
    let hex = |digest: &Option<audit::Digest>| digest.map(|digest| digest.hex());
    let lines = |swap: &Swap| {
        let token = swap.token;
        let line = move |it: &audit::Swapped| {
            (token, it.plugin.clone(), hex(&it.from), hex(&it.to), it.effect.clone(), it.state)
        };
        swap.plugins.iter().map(line).collect::<Vec<_>>()
    };
    script.swaps().flat_map(lines).collect()
}

/// A stage with versions of its sampler.
struct Scripted {
    stage: Stage,
    text: String,
}

impl Scripted {
    fn new(words_of_text: usize) -> Self {
        let text = words(words_of_text);
        let mut stage = Stage::saying(&[&text]);
        stage.max_tokens = None;
        Self { stage, text }
    }

    fn sampler(&self, number: u32, fault: Option<&str>) -> Plugin {
        let parameters = json!({ "texts": [self.text], "fault": fault });
        let bytes = version(&guest("scripted-sampler"), number);
        self.stage.load(World::Sampler, "scripted-sampler", bytes, parameters).unwrap()
    }

    fn with(&self, sampler: Plugin) -> Behaviour {
        Behaviour { samplers: vec![sampler], ..self.stage.behaviour() }
    }

    /// An answer in which a version is offered after every `every`th text.
    fn changing(&self, every: usize, offers: &[Plugin]) -> (Seen, Recorded) {
        let mut generator = self.stage.generator();
        let recorder = Recorder::new(&mut generator);
        let reloads = generator.reloads();
        let (mut texts, mut offered) = (0, offers.iter());
        let seen = self.stage.ask_and(&mut generator, &user("Go."), &mut |event| {
            texts += usize::from(matches!(event, Event::Text { .. }));
            if matches!(event, Event::Text { .. })
                && texts % every == 0
                && let Some(plugin) = offered.next()
            {
                // One that does not start is refused here, and not tried.
                let starts = reloads.offer(self.with(plugin.clone())).is_ok();
                assert_eq!(starts, !plugin.parameters().contains("configure"));
            }
        });
        assert!(offered.next().is_none(), "all were offered during the answer");
        (seen, recorder.read())
    }
}

#[test]
fn an_answer_with_30_reloads_a_third_of_them_broken_is_made_again() {
    const FAULTS: [&str; 4] = ["restore", "sample", "fifth-token", "configure"];
    let scripted = Scripted::new(220);
    let offers: Vec<Plugin> = (0..30u32)
        .map(|number| match number % 3 {
            2 => scripted.sampler(100 + number, Some(FAULTS[(number / 3 % 4) as usize])),
            _ => scripted.sampler(number % 7, None),
        })
        .collect();
    let (seen, recorded) = scripted.changing(6, &offers);
    assert_eq!(seen.text(), scripted.text);
    let (answer, script) = recorded.answer(0);
    // The record has what was told, in the same order, at the same tokens.
    assert_eq!(lines_of_record(&script), lines_of_events(&seen));
    let count = |effect: &str| told(&seen).iter().filter(|reload| reload.effect == effect).count();
    // Of ten that are broken, three can't go on from the state, three trap in their first token, two in their fifth.
    assert_eq!((count("next-answer"), count("rolled-back"), count("live")), (3, 5, 25));
    assert_eq!(answer.swaps().filter(|swap| swap.rolled_back).count(), 5);
    let known: Vec<Plugin> = offers.iter().cloned().chain(scripted.stage.behaviour().samplers).collect();
    let versions = versions_of(&recorded, &known);
    let replayed = replay_of(&recorded, &scripted.stage, 0, &versions);
    assert!(replayed.identical(), "{replayed:?}");
    assert_eq!((replayed.tokens, replayed.swaps), (script.tokens().count() as u64, 33));

    // With a version in another's place that does otherwise it shows; and where.
    let swap = script.swaps().find(|swap| !swap.rolled_back).unwrap();
    let mut other = versions.clone();
    let parameters = json!({ "texts": ["something else"], "fault": "restore" });
    let plugin = offers[0].with_parameters(parameters.as_object().unwrap().clone());
    other.get_mut(&swap.behaviour).unwrap().samplers = vec![plugin];
    let replayed = replay_of(&recorded, &scripted.stage, 0, &other);
    assert!(!replayed.identical());
    let what = replayed.first_swap.unwrap();
    assert!(what.contains(&format!("at token {} came out otherwise", swap.token)), "{what}");
    // Without one it is refused.
    let mut lacking = versions.clone();
    lacking.remove(&swap.behaviour);
    let mut generator = scripted.stage.generator();
    let error =
        generator.replay(answer.number, 1, &script, Sameness::Bits, &lacking).unwrap_err().to_string();
    assert!(error.contains(&format!("behaviour {}, which was in force", swap.behaviour)), "{error}");
    // Others stand in the place of all.
    let others = generator.replay(answer.number, 1, &script, Sameness::Tokens, &Versions::new()).unwrap();
    assert_eq!(others.tokens, replayed.tokens);
}

#[test]
fn a_version_that_fails_no_more_or_fails_now_is_told() {
    let scripted = Scripted::new(60);
    let offers = [scripted.sampler(1, None), scripted.sampler(2, Some("fifth-token"))];
    let (_, recorded) = scripted.changing(8, &offers);
    let known: Vec<Plugin> = offers.iter().cloned().chain(scripted.stage.behaviour().samplers).collect();
    let versions = versions_of(&recorded, &known);
    assert!(replay_of(&recorded, &scripted.stage, 0, &versions).identical());
    let (_, script) = recorded.answer(0);
    let swaps: Vec<&Swap> = script.swaps().collect();
    let cases = [(1, None, "and do not now"), (0, Some("sample"), "and did not then")];
    for (swap, fault, what) in cases {
        let mut other = versions.clone();
        let digest_stays = json!({ "texts": [scripted.text], "fault": fault });
        let samplers = &mut other.get_mut(&swaps[swap].behaviour).unwrap().samplers;
        samplers[0] = samplers[0].with_parameters(digest_stays.as_object().unwrap().clone());
        let first = replay_of(&recorded, &scripted.stage, 0, &other).first_swap.unwrap();
        assert!(first.contains(what), "{first}");
    }
}

/// Samplers that draw, keep a state, pass, and fail after they have drawn; chains that only change their order.
#[test]
fn drawn_tokens_over_reloads_come_out_again_to_the_bit() {
    let mut stage = Stage::saying(&[]);
    stage.max_tokens = Some(80);
    let load = |name: &str, number: u32, parameters: Value| {
        let bytes = match first_party::get(name) {
            Some(plugin) => plugin.bytes.to_vec(),
            None => guest(name),
        };
        stage.load(World::Sampler, name, version(&bytes, number), parameters).unwrap()
    };
    let standard = |number| load("standard-sampler", number, json!({ "temperature": 1.3, "top_k": 0 }));
    let mirostat = |number, tau: f64| load("mirostat", number, json!({ "tau": tau }));
    let failing = load("scripted-sampler", 0, json!({ "texts": ["x"], "fault": "sample" }));
    let chains: Vec<Vec<Plugin>> = vec![
        vec![standard(0)],
        vec![mirostat(0, 5.0), standard(0)],
        vec![mirostat(1, 5.0), standard(0)],
        vec![standard(0), mirostat(1, 5.0)],
        vec![failing, standard(1)],
        vec![mirostat(1, 3.0), standard(1)],
        vec![standard(2)],
    ];
    let behaviour = |samplers: &Vec<Plugin>| Behaviour { samplers: samplers.clone(), ..Behaviour::default() };
    let mut generator = stage.generator();
    let recorder = Recorder::new(&mut generator);
    let reloads = generator.reloads();
    reloads.offer(behaviour(&chains[0])).unwrap();
    let (mut texts, mut offered) = (0, chains[1..].iter());
    let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        texts += usize::from(matches!(event, Event::Text { .. }));
        if matches!(event, Event::Text { .. })
            && texts % 5 == 0
            && let Some(chain) = offered.next()
        {
            reloads.offer(behaviour(chain)).unwrap();
        }
    });
    assert!(offered.next().is_none(), "all were offered during the answer");
    let recorded = recorder.read();
    let known: Vec<Plugin> = chains.concat().into_iter().chain(stage.behaviour().samplers).collect();
    let versions = versions_of(&recorded, &known);
    let (answer, script) = recorded.answer(0);
    assert_eq!(
        lines_of_record(&script),
        lines_of_events(&seen)[2..],
        "the first reload was before the answer"
    );
    let swaps: Vec<&Swap> = answer.swaps().collect();
    assert_eq!(swaps.len(), 7);
    assert!(swaps.iter().any(|swap| swap.plugins.is_empty()), "a change of the order is on record too");
    assert!(swaps.iter().any(|swap| swap.plugins.iter().any(|plugin| plugin.state)), "states were carried");
    let replayed = replay_of(&recorded, &stage, 0, &versions);
    assert!(replayed.identical(), "{replayed:?}");
    assert_eq!((replayed.tokens, replayed.swaps), (80, 7));
    // A writer that was killed leaves the beginning: whatever of it is on record comes out again.
    let whole = std::fs::read_to_string(&recorder.path).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let mut replays = 0;
    for cut in 4..lines.len() {
        std::fs::write(&recorder.path, lines[..cut].concat()).unwrap();
        let transcript = Transcript::read(&recorder.path, None).unwrap();
        let Some(answer) = transcript.answers.first() else { continue };
        let script = Script::of(answer, recorded.texts.as_ref()).unwrap();
        assert!(replay(&stage, answer, &script, &versions).identical(), "cut behind line {cut}");
        replays += 1;
    }
    assert!(replays > 15, "{replays}");
}

#[test]
fn an_answer_that_began_on_trial_and_went_back_is_made_again() {
    let scripted = Scripted::new(30);
    for fault in ["sample", "fifth-token"] {
        let mut generator = scripted.stage.generator();
        let recorder = Recorder::new(&mut generator);
        let reloads = generator.reloads();
        let faulty = scripted.sampler(1, Some(fault));
        reloads.offer(scripted.with(faulty.clone())).unwrap();
        for _ in 0..2 {
            let seen = scripted.stage.ask_with(&mut generator, &user("Go."));
            assert_eq!(seen.text(), scripted.text);
        }
        let recorded = recorder.read();
        let known: Vec<Plugin> = [faulty].into_iter().chain(scripted.stage.behaviour().samplers).collect();
        let versions = versions_of(&recorded, &known);
        let (first, script) = recorded.answer(0);
        let back = script.swaps().next().unwrap();
        assert!(back.rolled_back);
        assert_eq!(back.token, if fault == "sample" { 0 } else { 4 });
        let (second, _) = recorded.answer(1);
        assert_eq!((first.start.before, second.start.before), (Some(back.behaviour), None));
        assert_eq!(
            second.start.behaviour, back.behaviour,
            "the next answer is made by what was gone back to"
        );
        for index in 0..2 {
            let replayed = replay_of(&recorded, &scripted.stage, index, &versions);
            assert!(replayed.identical(), "{fault}, {index}: {replayed:?}");
        }
    }
}

/// A policy that came with a sampler goes with it, and those who follow what is in force are told.
#[test]
fn what_goes_back_with_a_sampler_is_told_and_on_record() {
    let scripted = Scripted::new(40);
    let policies = vec![guard(&scripted.stage, "nowhere")];
    let faulty = scripted.sampler(1, Some("fifth-token"));
    let faulty = Behaviour { policies, ..scripted.with(faulty) };
    let mut generator = scripted.stage.generator();
    let recorder = Recorder::new(&mut generator);
    let reloads = generator.reloads();
    let followed = Arc::new(Mutex::new(Vec::new()));
    let into = followed.clone();
    reloads.follow(move |now, policies| into.lock().unwrap().push((now.policies.len(), policies.len())));
    let mut texts = 0;
    let seen = scripted.stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        texts += usize::from(matches!(event, Event::Text { .. }));
        if texts == 10 && matches!(event, Event::Text { .. }) {
            reloads.offer(faulty.clone()).unwrap();
        }
    });
    assert_eq!(seen.text(), scripted.text);
    let effects: Vec<_> = told(&seen).iter().map(|it| (it.plugin.as_str(), it.effect)).collect();
    let expected = [("live", "beside"), ("rolled-back", "next-answer")];
    let expected = expected.map(|(sampler, policy)| [("scripted-sampler", sampler), ("guard", policy)]);
    assert_eq!(effects, expected.concat());
    assert!(told(&scripted.stage.ask_with(&mut generator, &user("Go."))).is_empty());
    // The policy that joined withholds to the end of the answer.
    assert_eq!(*followed.lock().unwrap(), [(0, 0), (1, 1), (0, 1), (0, 0)]);
    let recorded = recorder.read();
    let known: Vec<Plugin> = faulty.plugins().chain(&scripted.stage.behaviour().samplers).cloned().collect();
    let versions = versions_of(&recorded, &known);
    let (answer, script) = recorded.answer(0);
    assert_eq!(lines_of_record(&script), lines_of_events(&seen));
    let replayed = replay_of(&recorded, &scripted.stage, 0, &versions);
    assert!(replayed.identical(), "{replayed:?}");
    let now = decide(scripted.stage.host(), &[], answer.number, &script, Some(&versions)).unwrap();
    assert_eq!((now.released, now.first_swap), (seen.text(), None));
}

/// A policy that looks for a text and does something there.
fn policy(stage: &Stage, name: &str, parameters: Value) -> Plugin {
    stage.load(World::Policy, name, guest("scripted-policy"), parameters).unwrap()
}

fn guard(stage: &Stage, text: &str) -> Plugin {
    let rules =
        format!("[[clause]]\nid = \"a\"\nwhen = [\"output\"]\nmatch = [\"{text}\"]\naction = \"redact\"\n");
    let guard = first_party::find("guard").unwrap();
    stage.load(World::Policy, "guard", guard.bytes.to_vec(), json!({ "rules": rules })).unwrap()
}

#[test]
fn decisions_of_policies_that_joined_come_out_again() {
    let text = "one secret two hidden three secret four hidden five six seven";
    let stage = Stage::saying(&[text])
        .guard("[[clause]]\nid = \"old\"\nwhen = [\"output\"]\nmatch = [\"secret\"]\naction = \"redact\"\n");
    let scripted = |hook: &str, at: &str, action: &str| {
        policy(&stage, "late", json!({"hook": hook, "at": at, "action": action, "text": "No."}))
    };
    let cases: Vec<(&str, Option<Plugin>)> = vec![
        ("redacts from here on", Some(guard(&stage, "hidden"))),
        ("refuses what is out", Some(scripted("output", "one", "refuse"))),
        ("refuses the prompt", Some(scripted("prompt", "Go.", "refuse"))),
        ("refuses later", Some(scripted("output", "five", "refuse"))),
        ("stops what is out", Some(scripted("output", "one", "stop"))),
        ("would have forced", Some(scripted("output", "one", "force"))),
        ("forces later", Some(scripted("output", "five", "force"))),
        ("fails on what is out", Some(scripted("output", "one", "trap"))),
        ("fails later", Some(scripted("output", "five", "trap"))),
        ("leaves", None),
    ];
    for (name, joining) in cases {
        for at in [1, 4, 9] {
            let mut generator = stage.generator();
            let recorder = Recorder::new(&mut generator);
            let reloads = generator.reloads();
            let mut texts = 0;
            let after = Behaviour { policies: joining.iter().cloned().collect(), ..stage.behaviour() };
            let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
                texts += usize::from(matches!(event, Event::Text { .. }));
                if texts == at && matches!(event, Event::Text { .. }) {
                    reloads.offer(after.clone()).unwrap();
                }
            });
            assert!(!told(&seen).is_empty(), "{name} at {at}: it was exchanged in the answer");
            let recorded = recorder.read();
            let known: Vec<Plugin> =
                joining.iter().chain(stage.policies()).chain(&stage.behaviour().samplers).cloned().collect();
            let versions = versions_of(&recorded, &known);
            let (answer, script) = recorded.answer(0);
            assert_eq!(lines_of_record(&script), lines_of_events(&seen), "{name} at {at}");
            let first = &versions[&answer.start.behaviour].policies;
            let now = decide(stage.host(), first, answer.number, &script, Some(&versions)).unwrap();
            let verdicts: Vec<String> = now
                .verdicts
                .iter()
                .map(|made| format!("{} {} {} {}", made.policy, made.hook, made.verdict, made.clause))
                .collect();
            assert_eq!(verdicts, seen.verdicts(), "{name} at {at}");
            assert_eq!((now.released, now.refused), (seen.text(), seen.refusal()), "{name} at {at}");
            assert_eq!(now.first_swap, None, "{name} at {at}");
            assert!(replay_of(&recorded, &stage, 0, &versions).identical(), "{name} at {at}");
            // Without those that joined the decisions are others, where it did anything.
            let alone = decide(stage.host(), first, answer.number, &script, None).unwrap();
            assert!(alone.verdicts.len() <= now.verdicts.len(), "{name} at {at}");
        }
    }
}

/// The lines of a log with another record in the place of one, and all hashes computed anew.
fn forged(log: &str, at: usize, change: impl FnOnce(&mut Record)) -> String {
    let (mut out, mut previous) = (Vec::new(), audit::Digest::ZERO);
    let mut change = Some(change);
    for (index, text) in log.lines().enumerate() {
        let mut line = line::decode(text.as_bytes()).unwrap();
        if index == at {
            change.take().unwrap()(&mut line.record);
        }
        let (bytes, hash) = line::encode(line.number, previous, line.at_ms, &line.record).unwrap();
        out.extend(bytes);
        previous = hash;
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn a_reload_that_was_tampered_with_is_found() {
    let scripted = Scripted::new(40);
    let (_, recorded) = scripted.changing(10, &[scripted.sampler(1, None), scripted.sampler(2, None)]);
    assert_eq!(recorded.transcript.answers[0].swaps().count(), 2);
    let mut generator = scripted.stage.generator();
    let recorder = Recorder::new(&mut generator);
    let reloads = generator.reloads();
    let mut texts = 0;
    scripted.stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        texts += usize::from(matches!(event, Event::Text { .. }));
        if texts == 10 {
            reloads.offer(scripted.with(scripted.sampler(1, None))).unwrap();
        }
    });
    recorder.read();
    let log = std::fs::read_to_string(&recorder.path).unwrap();
    let at = log.lines().position(|line| line.contains("{\"swap\":")).unwrap();
    let swap_line = log.lines().nth(at).unwrap();
    // Each byte of the record.
    let start = log.find(swap_line).unwrap();
    for byte in start..start + swap_line.len() {
        let mut changed = log.clone().into_bytes();
        changed[byte] ^= 1;
        let report = verify_reader(&changed[..], &Trusted::default()).unwrap();
        assert!(report.findings.iter().any(|finding| finding.line == at as u64 + 1), "byte {byte}");
    }
    // Written anew with all hashes, it is no longer the log of its head; and what contradicts itself is not replayed.
    type Change = fn(&mut Swap);
    let changes: [(Change, Option<&str>); 4] = [
        (|swap| swap.token += 1, Some("an exchange of plugins is at token")),
        (|swap| swap.behaviour = 999, Some("it names behaviour 999, which is not on record before it")),
        (|swap| swap.rolled_back = true, None),
        (|swap| swap.plugins[0].to = None, None),
    ];
    for (change, wrong) in changes {
        let other = forged(&log, at, |record| match record {
            Record::Swap(swap) => change(swap),
            other => panic!("{other:?}"),
        });
        std::fs::write(&recorder.path, other).unwrap();
        assert!(!verify(&recorder.path, &Trusted::default()).unwrap().good());
        let read = Transcript::read(&recorder.path, None).map_err(|error| error.to_string());
        let script = read.and_then(|transcript| Script::of(&transcript.answers[0], None));
        match wrong {
            Some(wrong) => {
                let error = script.unwrap_err();
                assert!(error.contains(wrong), "{error}");
            }
            None => assert!(script.unwrap().steps.iter().any(|step| matches!(step, Step::Swap(_)))),
        }
    }
}
