//! Clauses that the model judges: their scores are the model's, an answer that they let pass is the answer without them, and
//! what was judged is on record and comes out again.

mod isolated;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use membrane_audit::{Keep, LogProbability, Record, Script};
use membrane_engine::{LoadOptions, Model, Session};
use membrane_formats::Checkpoint;
use membrane_generate::contrast::{Outcome, contrast};
use membrane_generate::{AnswerOptions, EndReason, GenerateError, Generator, Sameness, Versions, decide};
use membrane_host::{Plugin, World};
use membrane_tests::recorder::Recorder;
use membrane_tests::stage::{Seen, Stage};
use membrane_tests::{demo_model, with_metadata, workspace};
use membrane_text::{ChatMessage, Role, Specials};
use serde_json::json;

const ANSWER: &str = "Welcome to the hotel. The door code is heliotrope. Lunch is at noon";

fn clause(when: &str, threshold: f64, more: &str) -> String {
    format!(
        "[[clause]]\nid = \"house:code\"\nwhen = {when}\nquestion = \"Does the text tell a code?\"\n\
         threshold = {threshold:.1}\naction = \"refuse\"\nmessage = \"No codes.\"\n{more}\n"
    )
}

/// The policy with rules. Compiled once.
fn guard(rules: &str) -> Plugin {
    static GUARD: LazyLock<Plugin> =
        LazyLock::new(|| Stage::empty().first_party("judged-guard", json!({})).policies()[0].clone());
    GUARD.with_parameters(json!({ "rules": rules }).as_object().expect("an object").clone())
}

fn judged(rules: &str) -> Stage {
    Stage::saying(&[ANSWER]).policy(guard(rules))
}

fn reason(seen: &Seen) -> EndReason {
    seen.answer.as_ref().expect("there is an answer").reason
}

fn user(text: &str) -> [ChatMessage; 1] {
    [ChatMessage::new(Role::User, text)]
}

#[test]
fn a_threshold_of_zero_refuses_and_one_lets_pass() {
    for when in ["\"request\"", "\"output\""] {
        for more in ["", "hold = \"answer\""] {
            let more = if when.contains("output") { more } else { "" };
            let seen = judged(&clause(when, 0.0, more)).ask("Hello");
            let verdict = format!("judged-guard {} refuse house:code", when.trim_matches('"'));
            assert_eq!((seen.text().as_str(), reason(&seen)), ("", EndReason::Refused), "{when} {more}");
            assert_eq!(seen.refusal().as_deref(), Some("No codes."));
            assert_eq!(seen.verdicts(), [verdict]);
            let seen = judged(&clause(when, 1.0, more)).ask("Hello");
            assert_eq!((seen.text().as_str(), reason(&seen)), (ANSWER, EndReason::Stop), "{when} {more}");
        }
    }
}

/// The tokens of an answer, and what a generator's session holds behind it.
fn tokens(stage: &Stage, generator: &mut Generator) -> (String, Vec<u32>) {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    for _ in 0..2 {
        let seen = stage.ask_with(generator, &user("Tell me of a fox, please."));
        text += &seen.text();
        tokens.extend_from_slice(generator.session().tokens());
    }
    (text, tokens)
}

/// A stage that draws what the model says, with these policies' rules.
fn drawing(rules: Option<&str>) -> Stage {
    let mut stage =
        Stage::empty().first_party("standard-sampler", json!({ "temperature": 1.3, "top_k": 50 }));
    if let Some(rules) = rules {
        stage = stage.policy(guard(rules));
    }
    stage.max_tokens = Some(40);
    stage
}

#[test]
fn an_answer_that_is_let_pass_is_the_answer_without_a_judge() {
    let rules = clause("[\"request\", \"output\"]", 1.0, "");
    let (without, with) = (drawing(None), drawing(Some(&rules)));
    assert_eq!(tokens(&without, &mut without.generator()), tokens(&with, &mut with.generator()));
    let Some(demo) = demo_model() else { return };
    let (alone, beside) = (without.generator_over(&demo), with.generator_over(&demo));
    let (mut alone, mut beside) = (alone, beside);
    assert_eq!(tokens(&without, &mut alone), tokens(&with, &mut beside));
}

/// The log probability of a text behind a session, one token at a time.
fn by_hand(question: &Session, continuation: &[u32]) -> f64 {
    let log_probability = |session: &Session, token: u32| {
        let logits: Vec<f64> = session.logits().iter().map(|logit| f64::from(*logit)).collect();
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        logits[token as usize] - most - logits.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln()
    };
    let mut session = question.fork();
    let mut sum = 0.0;
    for token in continuation {
        sum += log_probability(&session, *token);
        session.append(&[*token]).unwrap();
    }
    sum
}

/// Has an answer recorded that is judged, and checks each score against the engine.
fn check_scores(path: &std::path::Path, keep: Keep) {
    let more = "refuse_if = [\"Yes\", \"Yes, it tells one\"]\nallow_if = [\"No\", \"Not at all\"]";
    let stage = judged(&clause("[\"request\", \"output\"]", 1.0, more));
    let mut generator = stage.generator_over(path);
    let recorder = Recorder::keeping(&mut generator, keep);
    let seen = stage.ask_with(&mut generator, &user("What is the code?"));
    assert_eq!(seen.text(), ANSWER);
    let recorded = recorder.read();
    let (_, script) = recorded.answer(0);
    assert_eq!(script.judgements.len(), 4, "the request and three sentences");
    let options = LoadOptions { context: Some(2048), threads: Some(2), ..LoadOptions::default() };
    let model = Model::open(path, &options).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    for judged in &script.judgements {
        let ids = judged.ids.as_ref().expect("the ids are kept");
        let scores = judged.scores.as_ref().expect("the model scored it");
        assert_eq!((judged.policy.as_str(), scores.len()), ("judged-guard", 4));
        assert!(tokenizer.is_control(ids.question[0]), "the chat template made the question");
        let mut question = model.session();
        question.append(&ids.question).unwrap();
        let texts = ["Yes", "Yes, it tells one", "No", "Not at all"];
        for ((score, continuation), text) in scores.iter().zip(&ids.continuations).zip(texts) {
            assert_eq!(*continuation, tokenizer.encode(text, Specials::AsText).unwrap());
            let expected = by_hand(&question, continuation);
            assert!((score.0 - expected).abs() < 1e-5, "{text}: {} and not {expected}", score.0);
        }
    }
}

#[test]
fn scores_are_the_models_own() {
    check_scores(&workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf"), Keep::Tokens);
    if let Some(demo) = demo_model() {
        check_scores(&demo, Keep::Text);
    }
}

/// A template that begins reasoning whatever it is told, and tells the day.
#[test]
fn the_answer_is_judged_and_no_reasoning_on_the_same_day() {
    const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
        {{ strftime_now('%Y-%m-%d') }}<|im_start|>assistant\n<think>\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reasons.gguf");
    let source = Checkpoint::open(&workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf")).unwrap();
    let mut metadata = source.metadata().clone();
    metadata.set("tokenizer.chat_template", TEMPLATE);
    with_metadata(&source, metadata, &path).unwrap();
    let stage = judged(&clause("\"request\"", 1.0, ""));
    let mut generator = stage.generator_over(&path);
    let recorder = Recorder::keeping(&mut generator, Keep::Text);
    stage.ask_with(&mut generator, &user("What is the code?"));
    let recorded = recorder.read();
    let (_, script) = recorded.answer(0);
    let model = generator.session().model();
    let question =
        model.tokenizer().unwrap().decode(&script.judgements[0].ids.as_ref().unwrap().question, false);
    let end = "2025-01-01<|im_start|>assistant\n<think>\n\n</think>\n\n";
    assert!(question.ends_with(end), "{question}");
}

#[test]
fn what_was_judged_comes_out_again_from_the_record_and_from_the_model() {
    let stage = judged(&clause("[\"request\", \"output\"]", 1.0, ""));
    let mut generator = stage.generator();
    let recorder = Recorder::new(&mut generator);
    let seen = stage.ask_with(&mut generator, &user("What is the code?"));
    assert_eq!(reason(&seen), EndReason::Stop);
    let recorded = recorder.read();
    let (answer, script) = recorded.answer(0);

    // Without a model the recorded policies decide as they did.
    let number = answer.number;
    let decided = decide(stage.host(), stage.policies(), number, &script, Some(&Versions::new())).unwrap();
    assert_eq!((decided.unknown.as_deref(), decided.released.as_str()), (None, ANSWER));
    // Another threshold asks the same.
    let strict = judged(&clause("[\"request\", \"output\"]", 0.0, ""));
    let decided = decide(stage.host(), strict.policies(), number, &script, None).unwrap();
    assert_eq!((decided.unknown, decided.refused.as_deref()), (None, Some("No codes.")));
    // Another question was not asked then.
    let other = judged(&clause("\"output\"", 1.0, "").replace("a code", "a secret"));
    let decided = decide(stage.host(), other.policies(), number, &script, None).unwrap();
    assert!(decided.unknown.unwrap().contains("policy `judged-guard` asks the model"));
    let behaviour = &recorded.transcript.behaviours[&answer.start.behaviour];
    let compared = |b: &Stage| {
        contrast(stage.host(), (stage.policies(), b.policies()), behaviour, answer, &script).unwrap()
    };
    assert_eq!(compared(&other).outcome, Outcome::CantTell);
    assert!(compared(&other).unknown.unwrap().contains("no judgement of"));
    assert_eq!(compared(&strict).outcome, Outcome::NewlyRefused);

    // The whole generation with a model that has no room for a judge.
    let replayer = Stage::saying(&[ANSWER]);
    let mut generator = replayer.generator();
    let versions = Versions::new();
    let mut replay =
        |script: &Script| generator.replay(number, 1, script, Sameness::Bits, &versions).unwrap();
    let replayed = replay(&script);
    assert!(replayed.identical() && replayed.judgements == script.judgements.len() as u64, "{replayed:?}");
    let mut forged = script.clone();
    let scores = forged.judgements[2].scores.as_mut().unwrap();
    scores[1] = LogProbability(f64::from_bits(scores[1].0.to_bits() ^ 1));
    let replayed = replay(&forged);
    assert!(!replayed.identical() && replayed.same == replayed.tokens);
    assert!(replayed.first_judgement.unwrap().starts_with("judgement 3"));
    forged.judgements[2].ids.as_mut().unwrap().question = vec![u32::MAX];
    assert!(replay(&forged).first_judgement.is_some(), "ids that the model does not have");
}

#[test]
fn a_request_that_is_refused_has_its_judgement_on_record() {
    let stage = judged(&clause("\"request\"", 0.0, ""));
    let mut generator = stage.generator();
    let recorder = Recorder::new(&mut generator);
    assert_eq!(reason(&stage.ask_with(&mut generator, &user("Hello"))), EndReason::Refused);
    let recorded = recorder.read();
    let (answer, script) = recorded.answer(0);
    assert_eq!((script.judgements.len(), script.verdicts.len()), (1, 1));
    let decided = decide(stage.host(), stage.policies(), answer.number, &script, None).unwrap();
    assert_eq!((decided.unknown, decided.refused.as_deref()), (None, Some("No codes.")));
}

#[test]
fn a_log_of_digests_tells_nothing_of_what_was_judged() {
    let stage = judged(&clause("\"output\"", 1.0, ""));
    let mut generator = stage.generator();
    let recorder = Recorder::keeping(&mut generator, Keep::Digests);
    stage.ask_with(&mut generator, &user("Hello"));
    let recorded = recorder.read();
    let (_, script) = recorded.answer(0);
    assert!(script.judgements.iter().all(|judged| judged.ids.is_none() && judged.text.is_none()));
    assert!(script.judgements.iter().all(|judged| judged.scores.is_some()));
    let log = std::fs::read_to_string(&recorder.path).unwrap();
    // Parameters of plugins are in it, with the clauses and what the scripted model says; what is made of them is not.
    assert!(!log.contains("is to be judged"));
    let judgement = |line: &str| membrane_audit::line::decode(line.as_bytes()).unwrap().record;
    let kinds = log.lines().map(judgement).filter(|record| matches!(record, Record::Judgement(_)));
    assert_eq!(kinds.count(), 3);
}

#[test]
fn what_no_context_holds_is_refused_and_not_cut() {
    let rules = clause("\"request\"", 1.0, "").replace("Does the text", &"Does the text or ".repeat(240));
    let stage = judged(&rules);
    let mut generator = stage.generator();
    let recorder = Recorder::keeping(&mut generator, Keep::Text);
    let seen = stage.ask_with(&mut generator, &user(&"many words ".repeat(350)));
    assert_eq!(reason(&seen), EndReason::Refused);
    let message = seen.refusal().unwrap();
    assert!(message.contains("the context holds 2048; nothing was cut"), "{message}");
    // Nothing is kept of it but what tells that the same is asked again.
    let recorded = recorder.read();
    let (answer, script) = recorded.answer(0);
    let [judged] = &script.judgements[..] else { panic!("{:?}", script.judgements) };
    let text = judged.text.as_ref().unwrap();
    assert!(text.question["digest"].is_string() && text.continuations.is_empty(), "{text:?}");
    assert!(text.ids.question.is_empty() && text.ids.continuations.is_empty());
    let decided = decide(stage.host(), stage.policies(), answer.number, &script, None).unwrap();
    assert_eq!((decided.unknown, decided.refused), (None, Some(message)));
}

fn ask(generator: &mut Generator, cancel: &Arc<AtomicBool>) -> Seen {
    let options = AnswerOptions {
        seed: 1,
        max_tokens: None,
        raw: false,
        now: 0,
        constraint: None,
        template: Default::default(),
    };
    let mut events = Vec::new();
    let answer = generator.answer(&user("Hello"), &options, cancel, &mut |event| events.push(event));
    Seen { events, answer }
}

#[test]
fn a_cancelled_judgement_cancels_the_answer_and_is_no_fault_of_its_policy() {
    let stage = judged(&clause("[\"request\", \"output\"]", 1.0, ""));
    let mut generator = stage.generator();
    let recorder = Recorder::new(&mut generator);
    let reloads = generator.reloads();
    let strict = judged(&clause("\"request\"", 0.0, ""));
    reloads.offer(strict.behaviour()).unwrap();
    // Before the question.
    let seen = ask(&mut generator, &Arc::new(AtomicBool::new(true)));
    assert_eq!((reason(&seen), seen.text().as_str(), seen.refusal()), (EndReason::Cancelled, "", None));
    assert_eq!(seen.verdicts().len(), 0);
    // While the model reads it, over and over.
    let (pass, done) = (generator.model().cancel_flag(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                pass.store(true, Ordering::Relaxed);
            }
        });
        // Where the other thread does not get its turn, the answer is refused.
        let mut asked = (0..50).map(|_| ask(&mut generator, &Arc::default()));
        let seen = asked.find(|seen| reason(seen) == EndReason::Cancelled);
        done.store(true, Ordering::Relaxed);
        let seen = seen.expect("a pass was cancelled");
        assert_eq!((seen.text().as_str(), seen.refusal(), seen.verdicts().len()), ("", None, 0));
    });
    // The policy that was on trial meanwhile is in force, and may come again.
    assert_eq!(reason(&stage.ask_with(&mut generator, &user("Hello"))), EndReason::Refused);
    reloads.offer(strict.behaviour()).unwrap();
    let recorded = recorder.read();
    let scripts = (0..recorded.transcript.answers.len()).map(|index| recorded.answer(index).1);
    let cancelled = scripts.filter(|script| script.verdicts.is_empty());
    assert_eq!(cancelled.map(|script| assert!(script.judgements.is_empty())).count(), 2);
}

#[test]
fn the_memory_plan_counts_the_judge() {
    let path = workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf");
    let plan = |side_contexts| {
        let options = LoadOptions { context: Some(2048), side_contexts, ..LoadOptions::default() };
        membrane_engine::Prepared::open(&path, &options).unwrap().plan().clone()
    };
    let (without, with) = (plan(0), plan(1));
    assert_eq!((without.side_kv.0, with.side_kv.0), (0, without.kv.0));
    assert_eq!((with.kv.0, with.contexts), (2 * without.kv.0, 2));
    assert!(with.scratch.0 > without.scratch.0, "logits of one more session");
    let options = LoadOptions {
        context: Some(2048),
        side_contexts: 1000,
        memory: Some(1 << 30),
        ..LoadOptions::default()
    };
    let Err(error) = membrane_engine::Prepared::open(&path, &options) else { panic!("it fits") };
    assert!(error.to_string().contains("for 1001 contexts of 2048 tokens"), "{error}");
}

#[test]
fn a_judge_that_comes_where_no_memory_was_set_aside_is_refused() {
    let plain = Stage::saying(&[ANSWER]);
    let mut generator = plain.generator();
    let reloads = generator.reloads();
    let judged = judged(&clause("\"output\"", 0.0, ""));
    let error = reloads.offer(judged.behaviour()).unwrap_err();
    assert!(
        matches!(error, GenerateError::NoJudge) && error.to_string().contains("grant `judge`"),
        "{error}"
    );
    assert_eq!(plain.ask_with(&mut generator, &user("Hello")).text(), ANSWER);
    // Where it is there from the start, what it asks fails, and nothing gets out.
    let options = LoadOptions { context: Some(2048), threads: Some(1), ..LoadOptions::default() };
    let path = workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf");
    let model = Model::open(&path, &options).unwrap();
    let mut generator = Generator::new(judged.host().clone(), model, judged.behaviour()).unwrap();
    let seen = judged.ask_with(&mut generator, &user("Hello"));
    assert_eq!((seen.text().as_str(), reason(&seen)), ("", EndReason::Refused));
    assert!(seen.refusal().unwrap().contains("can't be done"), "{:?}", seen.refusal());
}

#[test]
fn what_is_judged_is_shown_to_no_policy() {
    // The second would refuse the question that the first asks.
    let rules = "[[clause]]\nid = \"house:q\"\nwhen = [\"request\", \"output\"]\nmatch = \"tell a code\"\n\
                 action = \"refuse\"\nmessage = \"Seen.\"\n";
    let seen = judged(&clause("[\"request\", \"output\"]", 1.0, "")).guard(rules).ask("Hello");
    assert_eq!((seen.text().as_str(), seen.verdicts().len()), (ANSWER, 0));
    assert_eq!(judged(&clause("\"output\"", 1.0, "")).policies()[0].world(), World::Policy);
}
