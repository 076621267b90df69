//! Plugins that are replaced while answers are made: no token is lost or repeated, no policy is left out, and what
//! fails is taken back.
#![allow(clippy::unwrap_used)]

mod isolated;

use std::sync::OnceLock;

use membrane_generate::{Behaviour, EndReason, Event, GenerateError, Generator, Reload, Reloads};
use membrane_host::{Grant, Plugin, PluginSource, World, first_party};
use membrane_tests::guests::guest;
use membrane_tests::stage::{Seen, Stage};
use membrane_text::{ChatMessage, Grammar, Role};
use serde_json::{Value, json};

/// A component that does the same and has another digest: with a custom section behind it.
fn version(bytes: &[u8], number: u32) -> Vec<u8> {
    let name = format!("version {number}");
    let mut section = vec![0, name.len() as u8 + 1, name.len() as u8];
    section.extend_from_slice(name.as_bytes());
    [bytes, &section[..]].concat()
}

/// So many words that differ.
fn words(count: usize) -> String {
    (0..count).map(|number| format!("{number} ")).collect::<String>().trim_end().to_owned()
}

fn reloads_of(seen: &Seen) -> Vec<&Reload> {
    let reloads = seen.events.iter().filter_map(|event| match event {
        Event::Reloaded(reload) => Some(reload),
        _ => None,
    });
    reloads.collect()
}

fn effects(seen: &Seen) -> Vec<&'static str> {
    reloads_of(seen).iter().map(|reload| reload.effect).collect()
}

fn user(text: &str) -> [ChatMessage; 1] {
    [ChatMessage::new(Role::User, text)]
}

/// A stage with what is needed to change its sampler.
struct Scripted {
    stage: Stage,
    component: Vec<u8>,
    text: String,
}

impl Scripted {
    fn new(words_of_text: usize) -> Self {
        let text = words(words_of_text);
        let mut stage = Stage::saying(&[&text]);
        stage.max_tokens = None;
        Self { stage, component: guest("scripted-sampler"), text }
    }

    fn sampler(&self, number: u32, fault: Option<&str>) -> Plugin {
        let parameters = json!({ "texts": [self.text], "fault": fault });
        let bytes = version(&self.component, number);
        self.stage.load(World::Sampler, "scripted-sampler", bytes, parameters).unwrap()
    }

    fn with(&self, sampler: Plugin) -> Behaviour {
        Behaviour { samplers: vec![sampler], ..self.stage.behaviour() }
    }
}

/// One of 200 reloads.
enum Offer {
    Good(Plugin),
    /// Fails in a way: `configure`, `restore` or `sample`.
    Faulty(Plugin),
    /// Is not even loaded: cut short, or of another world.
    Broken(Vec<u8>),
}

#[test]
fn no_token_is_lost_or_repeated_over_200_reloads_a_third_of_them_broken() {
    const FAULTS: [&str; 3] = ["configure", "restore", "sample"];
    let scripted = Scripted::new(400);
    let good: Vec<Plugin> = (0..5).map(|number| scripted.sampler(number, None)).collect();
    let offers: Vec<Offer> = (0..200u32)
        .map(|number| match (number % 3, number / 3 % 5) {
            (2, 3) => Offer::Broken(scripted.component[..scripted.component.len() / 2].to_vec()),
            (2, 4) => Offer::Broken(guest("scripted-policy")),
            (2, fault) => Offer::Faulty(scripted.sampler(1000 + number, Some(FAULTS[fault as usize]))),
            _ => Offer::Good(good[(number % 5) as usize].clone()),
        })
        .collect();
    let mut generator = scripted.stage.generator();
    let reloads = generator.reloads();
    let (mut texts, mut offered) = (0, offers.iter());
    let seen = scripted.stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        texts += usize::from(matches!(event, Event::Text { .. }));
        if texts % 2 == 1 || !matches!(event, Event::Text { .. }) {
            return;
        }
        match offered.next() {
            Some(Offer::Good(plugin)) => reloads.offer(scripted.with(plugin.clone())).unwrap(),
            Some(Offer::Faulty(plugin)) => {
                let starts = reloads.offer(scripted.with(plugin.clone())).is_ok();
                assert_eq!(starts, !plugin.parameters().contains("configure"));
            }
            Some(Offer::Broken(bytes)) => {
                let name = "scripted-sampler";
                let loaded = scripted.stage.load(World::Sampler, name, bytes.clone(), json!({"texts": []}));
                assert!(loaded.is_err());
            }
            None => {}
        }
    });
    assert!(offered.next().is_none(), "all were made during the answer");
    assert_eq!(seen.text(), scripted.text);
    assert_eq!(seen.answer.as_ref().unwrap().reason, EndReason::Stop);
    let count = |wanted: &str| effects(&seen).iter().filter(|effect| **effect == wanted).count();
    // Of 66 that are broken, 13 can't go on from the state, and 13 trap in their first token.
    assert_eq!((count("next-answer"), count("rolled-back")), (13, 13));
    assert_eq!(count("live"), 134 + 13);
    check_history(&seen);
}

/// The record says which version made which token: each takes over from the one that was in force.
fn check_history(seen: &Seen) {
    let (mut in_force, mut token) = (None, 0);
    for reload in reloads_of(seen) {
        assert!(reload.token >= token, "{reload:?}");
        token = reload.token;
        if let Some(digest) = in_force {
            assert_eq!(reload.from, Some(digest), "{reload:?}");
        }
        if reload.effect != "next-answer" {
            in_force = reload.to;
        }
    }
}

#[test]
fn a_version_that_traps_later_leaves_its_state_to_the_one_before() {
    let scripted = Scripted::new(60);
    let mut generator = scripted.stage.generator();
    let reloads = generator.reloads();
    let faulty = scripted.sampler(1, Some("fifth-token"));
    let mut texts = 0;
    let seen = scripted.stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        if matches!(event, Event::Text { .. }) {
            texts += 1;
            match texts {
                10 => reloads.offer(scripted.with(scripted.sampler(0, None))).unwrap(),
                20 => reloads.offer(scripted.with(faulty.clone())).unwrap(),
                _ => {}
            }
        }
    });
    assert_eq!(seen.text(), scripted.text);
    assert_eq!(effects(&seen), ["live", "live", "rolled-back"]);
    let reloads_seen = reloads_of(&seen);
    let states: Vec<bool> = reloads_seen.iter().map(|reload| reload.state).collect();
    assert_eq!(states, [true, true, false]);
    assert_eq!(
        reloads_seen[2].token,
        reloads_seen[1].token + 4,
        "four tokens are those of the faulty version"
    );
    // It is known, and not tried again.
    let again = reloads.offer(scripted.with(faulty)).unwrap_err();
    assert!(again.to_string().contains("is not tried again until it changes"), "{again}");
}

#[test]
fn an_answer_that_begins_on_trial_goes_back_too() {
    let scripted = Scripted::new(20);
    let mut generator = scripted.stage.generator();
    let reloads = generator.reloads();
    reloads.offer(scripted.with(scripted.sampler(1, Some("sample")))).unwrap();
    let seen = scripted.stage.ask_with(&mut generator, &user("Go."));
    assert_eq!(seen.text(), scripted.text);
    assert_eq!(effects(&seen), ["live", "rolled-back"]);
    assert_eq!(reloads_of(&seen).iter().map(|reload| reload.token).collect::<Vec<_>>(), [0, 0]);
    let seen = scripted.stage.ask_with(&mut generator, &user("Go."));
    assert_eq!((seen.text(), effects(&seen).len()), (scripted.text, 0));
}

#[test]
fn drawn_tokens_do_not_change_with_a_version_that_does_the_same() {
    let mut stage = Stage::saying(&[]);
    stage.max_tokens = Some(60);
    let standard = first_party::find("standard-sampler").unwrap();
    let parameters = json!({ "temperature": 1.0, "top_k": 0 });
    let load = |number| {
        let bytes = version(standard.bytes, number);
        stage.load(World::Sampler, "standard-sampler", bytes, parameters.clone()).unwrap()
    };
    let behaviour = |number| Behaviour { samplers: vec![load(number)], ..Behaviour::default() };
    let run = |changing: bool| {
        let mut generator = stage.generator();
        let reloads = generator.reloads();
        reloads.offer(behaviour(0)).unwrap();
        let mut number = 0;
        let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
            if changing && matches!(event, Event::Text { .. }) {
                number += 1;
                reloads.offer(behaviour(number)).unwrap();
            }
        });
        let live = effects(&seen).len();
        (generator.session().tokens().to_vec(), seen.text(), live)
    };
    let (alone, changed) = (run(false), run(true));
    assert_eq!((&alone.0, &alone.1), (&changed.0, &changed.1));
    assert!(changed.2 > 20, "{}", changed.2);
}

/// A policy that looks for a text and does something there.
fn policy(stage: &Stage, name: &str, parameters: Value) -> Plugin {
    stage.load(World::Policy, name, guest("scripted-policy"), parameters).unwrap()
}

fn redacting(text: &str) -> String {
    format!("[[clause]]\nid = \"a\"\nwhen = [\"output\"]\nmatch = [\"{text}\"]\naction = \"redact\"\n")
}

/// The guard with a rule that redacts a text. It is compiled once.
fn guard(stage: &Stage, text: &str) -> Plugin {
    static GUARD: OnceLock<Plugin> = OnceLock::new();
    let guard = GUARD.get_or_init(|| {
        let guard = first_party::find("guard").unwrap();
        stage.load(World::Policy, "guard", guard.bytes.to_vec(), json!({})).unwrap()
    });
    let rules = json!({ "rules": redacting(text) });
    guard.with_parameters(rules.as_object().unwrap().clone())
}

/// Changes the policies from `before` to `after` when so many pieces of text have come out.
fn change_policies(stage: &Stage, text: usize, after: Vec<Plugin>) -> (Seen, Vec<&'static str>) {
    let mut generator = stage.generator();
    let reloads = generator.reloads();
    let mut texts = 0;
    let behaviour = Behaviour { policies: after, ..stage.behaviour() };
    let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        texts += usize::from(matches!(event, Event::Text { .. }));
        if texts == text && matches!(event, Event::Text { .. } | Event::Prefill { .. }) {
            offer(&reloads, &behaviour);
            texts += usize::from(text == 0);
        }
    });
    let effects = effects(&seen);
    (seen, effects)
}

fn offer(reloads: &Reloads, behaviour: &Behaviour) {
    reloads.offer(behaviour.clone()).unwrap();
}

/// What either version withholds stays withheld, wherever in the answer the change falls.
#[test]
fn what_either_version_of_a_policy_withholds_does_not_pass_in_the_answer_of_the_change() {
    let text = "one secret two hidden three secret four hidden five";
    let plain = Stage::saying(&[text]);
    for at in 0..40 {
        let rules =
            "[[clause]]\nid = \"a\"\nwhen = [\"output\"]\nmatch = [\"secret\"]\naction = \"redact\"\n";
        let stage = Stage::saying(&[text]).guard(rules);
        let (seen, _) = change_policies(&stage, at, vec![guard(&plain, "hidden")]);
        let shown = seen.text();
        assert!(!shown.contains("secret"), "at {at}: {shown}");
        let reloads = reloads_of(&seen);
        let changed = reloads.first().map(|reload| (reload.effect, reload.token));
        if let Some((effect, token)) = changed {
            assert_eq!(effect, "beside");
            // Of the text that came after the change nothing passes that the new version withholds.
            let before: String = text_before(&seen);
            let after = shown.strip_prefix(&before).unwrap();
            assert!(!after.contains("hidden"), "at {at}, token {token}: {shown}");
            let whole = text.replace("secret", "[redacted]");
            assert!(shown.len() <= whole.len() + 40 && shown.ends_with("five"), "at {at}: {shown}");
        }
    }
}

/// The text that was out when the first reload came.
fn text_before(seen: &Seen) -> String {
    let before = seen.events.iter().take_while(|event| !matches!(event, Event::Reloaded(_)));
    before
        .filter_map(|event| match event {
            Event::Text { text } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn no_text_is_lost_or_repeated_where_a_policy_joins() {
    let text = words(30);
    let stage = Stage::saying(&[&text]);
    // It holds back whatever might be the beginning of its text, some of which is out already.
    for (at, watched) in
        (1..40).zip(["1 2 x", "12 13 14 15 x", "9 10 y", "0 1 2 3 4 5 6 7 8 9 z"].iter().cycle())
    {
        let joining = guard(&stage, watched);
        let (seen, effects) = change_policies(&stage, at, vec![joining]);
        assert_eq!(seen.text(), text, "at {at}: {watched}");
        assert_eq!(effects, ["beside"], "at {at}");
    }
}

#[test]
fn a_policy_that_is_removed_stays_to_the_end_of_the_answer() {
    let stage = Stage::saying(&["one two three four secret five"]).guard(&redacting("secret"));
    let mut generator = stage.generator();
    let reloads = generator.reloads();
    let none = Behaviour { policies: Vec::new(), ..stage.behaviour() };
    let mut first = true;
    let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        if matches!(event, Event::Text { .. }) && std::mem::take(&mut first) {
            offer(&reloads, &none);
        }
    });
    assert!(!seen.text().contains("secret"), "{}", seen.text());
    assert_eq!(effects(&seen), ["next-answer"]);
    let seen = stage.ask_with(&mut generator, &user("Go."));
    assert!(seen.text().contains("secret"), "{}", seen.text());
}

#[test]
fn a_joining_policy_that_ends_the_answer_ends_it_before_a_tool_is_called() {
    let call =
        "one <tool_call>{\"name\": \"calculator\", \"arguments\": {\"expression\": \"6*7\"}}</tool_call>";
    let stage = Stage::saying(&[call, "two"]).first_party("calculator", json!({}));
    let stops = json!({"hook": "output", "at": "one", "action": "stop"});
    let (seen, effects) = change_policies(&stage, 1, vec![policy(&stage, "late", stops)]);
    assert_eq!((effects[0], seen.answer.as_ref().unwrap().reason), ("beside", EndReason::PolicyStop));
    assert_eq!((seen.text().as_str(), seen.calls().len()), ("one", 0));
}

#[test]
fn a_joining_policy_sees_request_prompt_and_text_and_may_end_the_answer() {
    let stage = Stage::saying(&["one two three four five six"]);
    let case = |parameters: Value| change_policies(&stage, 3, vec![policy(&stage, "late", parameters)]);
    let refusing = |hook: &str, at: &str| json!({"hook": hook, "at": at, "action": "refuse", "text": "No."});
    for (hook, at) in [("prompt", "Go."), ("output", "one"), ("output", "one two three")] {
        let (seen, effects) = case(refusing(hook, at));
        assert_eq!((effects[0], seen.refusal().as_deref()), ("beside", Some("No.")), "{hook}: {at}");
        assert!(!seen.text().contains("four"), "{hook} {at}: {}", seen.text());
        assert_eq!(seen.verdicts(), [format!("late {hook} refuse script:1")]);
    }
    let (seen, _) = case(json!({"hook": "output", "at": "one", "action": "stop"}));
    assert_eq!(seen.answer.as_ref().unwrap().reason, EndReason::PolicyStop);
    assert!(!seen.text().contains("four"), "{}", seen.text());
    assert_eq!(seen.verdicts(), ["late output stop script:1"]);
    // What would have turned the model elsewhere waits; so does what fails on the answer so far.
    for (action, why) in
        [("force", "the model's course"), ("trap", "trapped"), ("error", "as the script says")]
    {
        let (seen, effects) = case(json!({"hook": "output", "at": "one", "action": action, "text": "x"}));
        assert_eq!(
            (effects[0], seen.text().as_str()),
            ("next-answer", "one two three four five six"),
            "{action}"
        );
        assert!(reloads_of(&seen)[0].note.contains(why), "{:?}", reloads_of(&seen)[0]);
    }
    // One that finds its text only later acts as any policy does.
    let (seen, effects) = case(refusing("output", "five"));
    assert_eq!((effects[0], seen.refusal().as_deref()), ("beside", Some("No.")));
    assert!(!seen.text().contains("five"), "{}", seen.text());
}

#[test]
fn a_policy_that_fails_on_trial_lets_nothing_pass_and_is_taken_back() {
    let stage = Stage::saying(&["one two three four five six"]);
    let trap = json!({"hook": "output", "at": "five", "action": "trap"});
    let mut generator = stage.generator();
    let reloads = generator.reloads();
    offer(&reloads, &Behaviour { policies: vec![policy(&stage, "late", trap)], ..stage.behaviour() });
    let seen = stage.ask_with(&mut generator, &user("Go."));
    assert_eq!(seen.answer.as_ref().unwrap().reason, EndReason::Refused);
    assert!(!seen.text().contains("five"), "{}", seen.text());
    assert_eq!(effects(&seen), ["live", "rolled-back"]);
    let seen = stage.ask_with(&mut generator, &user("Go."));
    assert_eq!(seen.text(), "one two three four five six");
}

#[test]
fn policies_that_change_all_the_time_are_limited_and_all_of_them_hold() {
    let text = words(60);
    let stage = Stage::saying(&[&text]);
    let plugins: Vec<Plugin> = (30..50).map(|number| guard(&stage, &format!("{number} "))).collect();
    let mut generator = stage.generator();
    let reloads = generator.reloads();
    let mut offered = plugins.iter();
    let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        if matches!(event, Event::Text { .. })
            && let Some(plugin) = offered.next()
        {
            offer(&reloads, &Behaviour { policies: vec![plugin.clone()], ..stage.behaviour() });
        }
    });
    let joined = effects(&seen).iter().filter(|effect| **effect == "beside").count();
    assert_eq!(joined, membrane_host::limits::MAX_JOINED);
    for number in 30..30 + joined {
        assert!(!seen.text().contains(&format!(" {number} ")), "{number}: {}", seen.text());
    }
}

/// A grammar can't be had with tools, which is found when the plugins have started.
#[test]
fn what_is_in_force_stays_so_where_an_answer_does_not_begin() {
    let mut stage = Stage::saying(&["one secret two"]).guard(&redacting("secret"));
    stage = stage.first_party("calculator", json!({}));
    let mut generator = stage.generator();
    let reloads = generator.reloads();
    stage.constraint = Some(Grammar::Regex("[a-z]+".into()));
    let error = stage.ask_with(&mut generator, &user("Go.")).answer.unwrap_err();
    assert!(matches!(error, GenerateError::GrammarWithTools), "{error}");
    stage.constraint = None;
    assert_eq!(stage.ask_with(&mut generator, &user("Go.")).text(), "one [redacted] two");
    offer(&reloads, &Behaviour { policies: Vec::new(), ..stage.behaviour() });
    let seen = stage.ask_with(&mut generator, &user("Go."));
    assert_eq!((seen.text().as_str(), effects(&seen)), ("one secret two", vec!["live"]));
}

#[test]
fn a_new_version_is_not_blamed_for_a_failure_of_the_one_before() {
    let text = "one two three four five six";
    let trap = json!({"hook": "output", "at": "five", "action": "trap"});
    let stage = Stage::saying(&[text]);
    let broken = policy(&stage, "late", trap);
    let stage = stage.policy(broken);
    let good = policy(&stage, "late", json!({"hook": "output", "at": "nowhere", "action": "stop"}));
    let good = Behaviour { policies: vec![good], ..stage.behaviour() };
    let mut generator = stage.generator();
    let reloads = generator.reloads();
    let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        if matches!(event, Event::Prefill { .. }) {
            offer(&reloads, &good);
        }
    });
    assert_eq!((seen.answer.as_ref().unwrap().reason, effects(&seen)), (EndReason::Refused, vec!["beside"]));
    offer(&reloads, &good);
    let seen = stage.ask_with(&mut generator, &user("Go."));
    assert_eq!((seen.text().as_str(), effects(&seen).len()), (text, 0));
}

#[test]
fn a_tool_that_waits_is_not_blamed_for_a_failure_of_the_one_that_is_called() {
    let call = "<tool_call>{\"name\": \"it\", \"arguments\": {\"act\": \"panic\"}}</tool_call>";
    let stage = Stage::saying(&[call, "Done."]);
    let described = |words: u32| {
        let parameters = json!({ "names": ["it"], "words": words });
        let source = PluginSource {
            parameters,
            grants: Grant::ALL.into_iter().filter(|grant| grant.world() == World::Tool).collect(),
            isolation: membrane_tests::isolation::of_tests(),
            ..PluginSource::new("it", guest("test-tool"), World::Tool)
        };
        let tool = stage.host().load(source, World::Tool).unwrap();
        Behaviour { tools: vec![tool], ..stage.behaviour() }
    };
    let (old, new) = (described(5), described(6));
    let model = stage.generator().model().clone();
    let mut generator = Generator::new(stage.host().clone(), model, old).unwrap();
    let reloads = generator.reloads();
    let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        if matches!(event, Event::Prefill { .. }) {
            offer(&reloads, &new);
        }
    });
    assert!(seen.events.iter().any(|event| matches!(event, Event::ToolResult { ok: false, .. })));
    assert_eq!((seen.text().as_str(), effects(&seen)), ("Done.", vec!["next-answer"]));
    offer(&reloads, &new);
}

/// What failed is in both of the last two behaviours, and both go.
#[test]
fn a_policy_that_fails_goes_where_it_came_with_the_behaviour_before() {
    let text = "one two three four five six";
    let mut stage = Stage::saying(&[text]);
    let failing = policy(&stage, "late", json!({"hook": "output", "at": "five", "action": "trap"}));
    let first = Behaviour { policies: vec![failing], ..stage.behaviour() };
    let mut second = first.clone();
    second.policies.push(guard(&stage, "nowhere"));
    let mut generator = stage.generator();
    let reloads = generator.reloads();
    // It joins, and the answer is over before the text at which it fails.
    stage.max_tokens = Some(3);
    let seen = stage.ask_and(&mut generator, &user("Go."), &mut |event| {
        if matches!(event, Event::Prefill { .. }) {
            offer(&reloads, &first);
        }
    });
    assert_eq!((seen.answer.as_ref().unwrap().reason, effects(&seen)), (EndReason::Length, vec!["beside"]));
    stage.max_tokens = None;
    offer(&reloads, &second);
    assert_eq!(
        effects(&stage.ask_with(&mut generator, &user("Go."))),
        ["live", "rolled-back", "rolled-back"]
    );
    assert_eq!(stage.ask_with(&mut generator, &user("Go.")).text(), text);
}
