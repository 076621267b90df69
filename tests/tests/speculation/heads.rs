//! Models with a head for multi-token prediction.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use membrane_engine::{LoadOptions, MemoryPlan, Model, Observer, Precision, Prepared, Session, Speculate};
use membrane_formats::Checkpoint;
use membrane_tests::drafting::hybrid_with_head;
use membrane_tests::golden::argmax;
use membrane_tests::{references, tiny, workspace};

use crate::{bits, fixture, fresh, load, options, tokens};

/// A hybrid whose head is right, one whose head is right by chance, and a model with latent attention.
pub fn with_heads() -> &'static [PathBuf; 3] {
    static WRITTEN: LazyLock<[PathBuf; 3]> = LazyLock::new(|| {
        let path =
            |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("speculation-{name}.gguf"));
        let paths = [path("right-head"), path("chance-head"), path("latent-head")];
        hybrid_with_head(&paths[0], true);
        hybrid_with_head(&paths[1], false);
        tiny::write_with_head(&paths[2]);
        paths
    });
    &WRITTEN
}

/// The bits of what the head says.
#[derive(Default)]
struct Said(Vec<u32>);

impl Observer for Said {
    fn draft(&mut self, _number: usize, logits: &[f32]) {
        assert!(logits.iter().all(|logit| logit.is_finite()));
        self.0.extend(logits.iter().map(|logit| logit.to_bits()));
    }
}

fn said(session: &mut Session, token: u32) -> Vec<u32> {
    let mut said = Said::default();
    session.propose_observed(token, 3, &mut said).unwrap();
    assert!(!said.0.is_empty());
    said.0
}

#[test]
fn a_head_that_passes_the_next_token_through_is_right() {
    let options = LoadOptions { precision: Precision::Reference, ..options() };
    let model = load(&with_heads()[0], &options);
    let (mut right, mut all) = (0, 0);
    for seed in 0..12 {
        let mut session = model.session();
        session.append(&tokens(9, seed)).unwrap();
        let mut token = 40 * seed + 7;
        for _ in 0..3 {
            let drafts = session.propose(token, 3).unwrap();
            assert_eq!(drafts.len(), 3);
            session.append_ahead(&[token], &drafts).unwrap();
            all += drafts.len();
            token = argmax(session.logits()) as u32;
            while session.foresees(&[token]) {
                right += 1;
                session.append(&[token]).unwrap();
                assert!(bits(&session) == fresh(&model, session.tokens()));
                token = argmax(session.logits()) as u32;
            }
        }
    }
    assert_eq!(right, all, "each draft comes true");
}

#[test]
fn what_a_head_says_does_not_depend_on_how_its_tokens_came() {
    let text = tokens(90, 4);
    for path in with_heads() {
        let model = load(path, &options());
        let mut whole = model.session();
        whole.append(&text).unwrap();
        let wanted = said(&mut whole, 11);
        for chunk in [1, 7, 64] {
            let model = load(path, &LoadOptions { prefill_chunk: Some(chunk), ..options() });
            let mut session = model.session();
            session.append(&text).unwrap();
            assert!(said(&mut session, 11) == wanted, "{path:?} chunk {chunk}");
        }
        // One by one; with drafts that are right, wrong and half right; with proposals between.
        for way in 0..3 {
            let mut session = model.session();
            session.append(&text[..5]).unwrap();
            for at in 5..text.len() {
                let token = &text[at..=at];
                if session.foresees(token) || way == 0 {
                    session.append(token).unwrap();
                    continue;
                }
                if way == 2 {
                    session.propose(text[at], 1 + at % 3).unwrap();
                }
                let mut drafts: Vec<u32> = text[at + 1..].iter().copied().take(4).collect();
                if let Some(draft) = drafts.get_mut(at % 5) {
                    *draft = (*draft + 1) % 1000;
                }
                session.append_ahead(token, &drafts).unwrap();
            }
            assert!(said(&mut session, 11) == wanted, "{path:?} way {way}");
            // What it says changes nothing, and is the same when asked again.
            assert!(said(&mut session, 11) == wanted);
            session.append(&[11]).unwrap();
            assert!(bits(&session) == fresh(&model, session.tokens()), "{path:?} way {way}");
        }
    }
}

#[test]
fn sessions_that_share_passes_keep_their_heads_apart() {
    for path in with_heads() {
        let model = load(path, &LoadOptions { prefill_chunk: Some(6), ..options() });
        let texts = [tokens(30, 1), tokens(23, 2), tokens(17, 3)];
        let alone: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| {
                let mut session = model.session();
                session.append(text).unwrap();
                said(&mut session, 3)
            })
            .collect();
        let mut sessions: Vec<Session> = texts.iter().map(|_| model.session()).collect();
        let mut parts: Vec<_> =
            sessions.iter_mut().zip(&texts).map(|(session, text)| (session, &text[..])).collect();
        Session::append_all(&mut parts).unwrap();
        for (session, alone) in sessions.iter_mut().zip(&alone) {
            assert!(said(session, 3) == *alone, "{path:?}");
            // A fork says the same, and goes on by itself.
            assert!(said(&mut session.fork(), 3) == *alone, "{path:?}");
        }
    }
}

#[test]
fn a_fork_beside_drafts_says_what_a_fresh_session_says_or_nothing() {
    let text = tokens(44, 6);
    for path in with_heads() {
        let model = load(path, &options());
        let mut whole = model.session();
        whole.append(&text[..41]).unwrap();
        let wanted = said(&mut whole, 11);
        let mut session = model.session();
        session.append(&text[..40]).unwrap();
        session.append_ahead(&text[40..41], &text[41..]).unwrap();
        // The fork of a hybrid is behind the drafts, and so is what its head has read.
        let (mut fork, mut found) = (session.fork(), Said::default());
        fork.propose_observed(11, 3, &mut found).unwrap();
        assert!(found.0.is_empty() || found.0 == wanted, "{path:?}");
        whole.append(&[11]).unwrap();
        fork.append(&[11]).unwrap();
        assert!(said(&mut fork, 4) == said(&mut whole, 4), "{path:?}");
    }
}

#[test]
fn where_it_is_not_known_what_was_last_nothing_is_drafted() {
    for path in with_heads() {
        let model = load(path, &options());
        let mut session = model.session();
        assert!(session.propose(1, 3).unwrap().is_empty());
        session.append(&tokens(20, 1)).unwrap();
        session.truncate(10);
        assert!(session.propose(1, 3).unwrap().is_empty());
        session.append(&[1, 2]).unwrap();
        assert_eq!(session.propose(3, 3).unwrap().len(), 3);
        assert!(session.propose(u32::MAX, 3).unwrap().is_empty());
        assert!(session.propose(3, 0).unwrap().is_empty());
        // A block that is full is not written to, and for drafts alone none is begun.
        let mut full = model.session();
        full.append(&tokens(64, 1)).unwrap();
        assert!(full.propose(3, 3).unwrap().is_empty());
        assert!(bits(&session) == fresh(&model, session.tokens()));
    }
    let model = load(&fixture("tiny-qwen3moe-Q8_0"), &options());
    let mut session = model.session();
    session.append(&[1, 2]).unwrap();
    assert!(!model.has_draft_head() && session.propose(1, 3).unwrap().is_empty());
}

/// Whether the head is loaded, and of how many experts there are slots.
fn loaded(path: &Path, options: &LoadOptions) -> (bool, bool) {
    let model: Model = load(path, options);
    assert_eq!(model.has_draft_head(), model.hyperparameters().draft_layer.is_some());
    (model.has_draft_head(), model.plan().paged())
}

#[test]
fn a_head_is_loaded_where_all_is_in_memory_or_where_it_is_asked_for() {
    for path in with_heads() {
        let off = LoadOptions { speculate: Speculate::Off, ..options() };
        let auto = LoadOptions { speculate: Speculate::Auto, ..options() };
        assert_eq!(loaded(path, &off), (false, false));
        assert_eq!(loaded(path, &auto), (true, false));
        let few = |options: LoadOptions| LoadOptions { experts: Some(10), ..options };
        assert_eq!(loaded(path, &few(auto)), (false, true));
        assert_eq!(loaded(path, &few(options())), (true, true));
        let (with, without) = (load(path, &options()), load(path, &off));
        let (with, without) = (with.plan(), without.plan());
        assert!(with.weights.0 > without.weights.0 && with.kv.0 > without.kv.0, "it is in the plan");
        assert!(with.experts > without.experts && with.scratch.0 > without.scratch.0);
    }
}

#[test]
fn drafts_that_nobody_asked_for_page_no_experts() {
    let path = fixture("tiny-qwen35moe-Q8_0");
    let plan = |memory, speculate| {
        let options = LoadOptions { memory, speculate, prefill_chunk: Some(64), ..options() };
        let checkpoint = Checkpoint::open(&path).unwrap().into();
        Prepared::without_text(checkpoint, &options).unwrap().plan().clone()
    };
    // The process, which is in each plan, grows while other tests run.
    let quiet = (0..100).find_map(|_| {
        let (with, without) = (plan(None, Speculate::Auto), plan(None, Speculate::Off));
        let room = with.total().0 - without.total().0;
        let memory = Some(without.total().0 + room / 2);
        let plans = [with, plan(memory, Speculate::Auto), plan(memory, Speculate::Always)];
        let grown = |plan: &MemoryPlan| plan.process.0.abs_diff(without.process.0);
        plans.iter().all(|plan| grown(plan) < room / 4).then_some(plans)
    });
    let told = quiet.unwrap().map(|plan| (plan.paged(), plan.drafts > 0));
    assert_eq!(told, [(false, true), (false, false), (true, true)]);
}

#[test]
fn a_paged_head_says_what_one_in_memory_says() {
    for path in with_heads() {
        let whole = load(path, &options());
        let paged = load(path, &LoadOptions { experts: Some(10), ..options() });
        let both = [&whole, &paged].map(|model| {
            let mut session = model.session();
            session.append(&tokens(40, 5)).unwrap();
            (said(&mut session, 9), bits(&session))
        });
        assert!(both[0] == both[1], "{path:?}");
        assert!(paged.plan().paged() && paged.counters().misses > 0);
    }
}

/// What `tests/peer/draft_head.py` makes of the published folder, where that is there.
#[test]
fn the_head_of_a_published_folder_drafts_by_its_formula() {
    let Some(folder) =
        references().into_iter().map(|root| root.join("models/tiny-qwen35moe")).find(|f| f.is_dir())
    else {
        return;
    };
    let golden = std::fs::read(workspace().join("tests/fixtures/golden/tiny-qwen35moe.head.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
    };
    let ids: Vec<u32> = numbers(&golden["input_ids"]).into_iter().map(|id| id as u32).collect();
    let wanted: Vec<Vec<f32>> = golden["logits"].as_array().unwrap().iter().map(numbers).collect();
    let model = load(&folder, &LoadOptions { precision: Precision::Reference, ..options() });
    assert!(model.has_draft_head());
    let mut session = model.session();
    for (at, token) in ids.iter().enumerate().skip(1) {
        session.append(&ids[at - 1..at]).unwrap();
        let said: Vec<f32> = said(&mut session, *token).into_iter().map(f32::from_bits).collect();
        // Behind the last token the golden has what the head says of its own drafts, too.
        let chained = if at + 1 == ids.len() { 3 } else { 1 };
        for (number, wanted) in wanted[at - 1..].iter().take(chained).enumerate() {
            let found = &said[number * wanted.len()..(number + 1) * wanted.len()];
            let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("behind token {at}, draft {number}: off by {off:e}");
            assert!(off < 2e-3, "behind token {at}, draft {number}: off by {off}");
        }
    }
}
