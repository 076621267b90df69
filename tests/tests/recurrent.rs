//! Recurrent states: however a session came to its tokens, by truncation, forks, errors or checkpoints, its logits are those
//! of a fresh run, and a second turn computes no more than it has to.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use membrane_engine::{EngineError, LoadOptions, Model, Prepared, Session, Synced};
use membrane_formats::Checkpoint;
use membrane_tests::golden::argmax;
use membrane_tests::sessions::{Canceller, bits, fresh, tokens};
use membrane_tests::{tiny, workspace};
use proptest::prelude::*;

const HYBRIDS: [&str; 4] = ["tiny-qwen3next-Q8_0", "tiny-qwen35moe-Q8_0", "tiny-qwen35-Q8_0", GENERATED];
/// One that no fixture has: beside delta-nets it has n-grams with a convolution, and attention that an index makes sparse.
const GENERATED: &str = "qwen4exp";
/// Attention in every layer.
const ATTENTION: &str = "tiny-qwen3moe-Q8_0";

fn file(name: &str) -> PathBuf {
    static WRITTEN: OnceLock<PathBuf> = OnceLock::new();
    if name == GENERATED {
        let write = || {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recurrent-{GENERATED}.gguf"));
            tiny::write(GENERATED, &path);
            path
        };
        return WRITTEN.get_or_init(write).clone();
    }
    workspace().join(format!("tests/fixtures/gguf/{name}.gguf"))
}

fn options() -> LoadOptions {
    LoadOptions { context: Some(3072), contexts: 3, threads: Some(2), ..LoadOptions::default() }
}

fn load(name: &str, options: &LoadOptions) -> Model {
    let checkpoint = Checkpoint::open(&file(name)).unwrap().into();
    Prepared::without_text(checkpoint, options).unwrap().load(&mut |_, _| {}).unwrap()
}

#[test]
fn the_second_turn_of_a_long_conversation_computes_only_its_new_tokens() {
    for name in HYBRIDS.into_iter().chain([ATTENTION]) {
        let model = load(name, &options());
        let mut session = model.session();
        let mut conversation = tokens(2000, 1);
        session.sync(&conversation).unwrap();
        for _ in 0..20 {
            let token = argmax(session.logits()) as u32;
            session.append(&[token]).unwrap();
            conversation.push(token);
        }
        conversation.extend(tokens(60, 2));
        let synced = session.sync(&conversation).unwrap();
        assert_eq!(synced, Synced { reused: 2020, computed: 60, recomputed: 0 }, "{name}");
        assert!(bits(&session) == fresh(&model, &conversation), "{name}");
        // The first answer is rendered without the four tokens of markup that its prompt ended with.
        conversation.drain(1996..2000);
        let synced = session.sync(&conversation).unwrap();
        assert_eq!((synced.reused, synced.computed), (1996, 80), "{name}");
        assert!(synced.recomputed <= 4, "{name}: {synced:?}");
        assert!(bits(&session) == fresh(&model, &conversation), "{name}");
    }
}

#[test]
fn a_truncated_session_goes_on_like_a_fresh_one_wherever_its_checkpoints_are() {
    let all = tokens(700, 3);
    for name in HYBRIDS {
        for checkpoints in [Some(0), Some(1), None] {
            let model = load(name, &LoadOptions { checkpoints, ..options() });
            let wanted = fresh(&model, &all);
            let mut session = model.session();
            session.append(&all).unwrap();
            // Back and forth, also below a truncation whose tokens have not been computed again yet.
            for length in [699, 650, 300, 256, 257, 255, 8, 1, 0] {
                session.truncate(length);
                assert_eq!(session.tokens(), &all[..length]);
                assert!(session.logits().is_empty());
                if length % 2 == 0 {
                    session.append(&all[length..]).unwrap();
                    assert!(bits(&session) == wanted, "{name} {checkpoints:?} {length}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_the_logits_of_a_fresh_run(
        steps in prop::collection::vec((0..5_u8, 1..90_usize, any::<u32>()), 1..14),
        hybrid in 0..HYBRIDS.len(),
        chunk in prop::sample::select(vec![3, 64, 512]),
    ) {
        let options = LoadOptions { prefill_chunk: Some(chunk), checkpoints: Some(3), ..options() };
        let model = load(HYBRIDS[hybrid], &options);
        let mut sessions = vec![model.session()];
        for (what, count, seed) in steps {
            let (index, alive) = (seed as usize % sessions.len(), sessions.len());
            let session = &mut sessions[index];
            match what {
                0 if session.tokens().len() < 1000 => session.append(&tokens(count, seed)).unwrap(),
                1 => session.truncate(session.tokens().len().saturating_sub(count)),
                2 if alive < 3 => {
                    let fork = session.fork();
                    sessions.push(fork);
                }
                3 => {
                    let mut wanted = session.tokens()[..session.tokens().len() / 2].to_vec();
                    wanted.extend(tokens(count, seed));
                    session.sync(&wanted).unwrap();
                }
                _ => {
                    let one = [seed % 1000];
                    let mut batch: Vec<_> = sessions.iter_mut().map(|session| (session, &one[..])).collect();
                    Session::append_all(&mut batch).unwrap();
                }
            }
        }
        for session in &mut sessions {
            session.append(&[7]).unwrap();
            prop_assert!(bits(session) == fresh(&model, session.tokens()));
        }
    }
}

#[test]
fn a_prefix_that_is_kept_serves_sessions_that_share_passes() {
    for name in HYBRIDS {
        let model = load(name, &LoadOptions { prefill_chunk: Some(64), ..options() });
        let prefix = tokens(333, 11);
        let kept = {
            let mut session = model.session();
            session.append(&prefix).unwrap();
            session.fork()
        };
        for round in 0..2 {
            let mut sessions: Vec<Session> = (0..3).map(|_| kept.fork()).collect();
            for (step, lengths) in [[40, 1, 90], [1, 1, 1], [1, 0, 1], [3, 70, 1]].into_iter().enumerate() {
                let more: Vec<Vec<u32>> = lengths
                    .into_iter()
                    .enumerate()
                    .map(|(session, length)| tokens(length, 100 * round + 10 * step as u32 + session as u32))
                    .collect();
                let mut batch: Vec<_> =
                    sessions.iter_mut().zip(&more).map(|(s, t)| (s, t.as_slice())).collect();
                Session::append_all(&mut batch).unwrap();
                for session in &sessions {
                    assert!(bits(session) == fresh(&model, session.tokens()), "{name} {round} {step}");
                }
            }
        }
        assert!(kept.tokens() == prefix && bits(&kept) == fresh(&model, &prefix), "{name}");
    }
}

#[test]
fn a_pass_that_is_cancelled_leaves_the_session_as_it_was() {
    for name in HYBRIDS {
        let options = LoadOptions { prefill_chunk: Some(64), checkpoints: Some(2), ..options() };
        let model = load(name, &options);
        let (begin, more) = (tokens(90, 5), tokens(150, 6));
        let whole = [&begin[..], &more].concat();
        let wanted = fresh(&load(name, &options), &whole);
        for layers_left in [1, 2, 6] {
            let mut session = model.session();
            session.append(&begin).unwrap();
            let before = bits(&session);
            let mut canceller = Canceller { flag: model.cancel_flag(), layers_left };
            let error = session.append_observed(&more, &mut canceller).unwrap_err();
            assert!(matches!(error, EngineError::Cancelled), "{name}: {error}");
            assert_eq!((session.tokens(), bits(&session)), (&begin[..], before));
            let mut fork = session.fork();
            // The checkpoint at its end is still there, though there are two only and the pass was to make others.
            let synced = session.sync(&whole).unwrap();
            assert_eq!(synced, Synced { reused: 90, computed: 150, recomputed: 0 }, "{name} {layers_left}");
            fork.append(&more).unwrap();
            assert!(bits(&session) == wanted && bits(&fork) == wanted, "{name} {layers_left}");
        }
    }
}

#[test]
fn checkpoints_give_way_to_sessions_and_a_full_pool_is_an_error() {
    for name in HYBRIDS {
        let options =
            LoadOptions { context: Some(448), contexts: 1, sessions: 2, checkpoints: Some(2), ..options() };
        let model = load(name, &options);
        let plan = model.plan();
        assert_eq!((plan.recurrent_states, plan.checkpoints), (2, 2));
        let begin = tokens(400, 8);
        let wanted = fresh(&model, &begin);
        let mut parent = model.session();
        parent.append(&begin).unwrap();
        let mut forks = Vec::new();
        // Room for four states in all, and for the keys and values of one full context, of which the parent takes seven
        // blocks and each fork its own copy of the last; where an index makes blocks larger than states, that is one fork.
        let error = loop {
            let mut fork = parent.fork();
            match fork.append(&[forks.len() as u32]) {
                Ok(()) => forks.push(fork),
                Err(error) => break error,
            }
            assert!(forks.len() < 10, "{name}: the pool has no end");
        };
        assert!(
            matches!(error, EngineError::KvFull { .. })
                && (if name == GENERATED { 1..=3 } else { 2..=3 }).contains(&forks.len()),
            "{name}: {error}"
        );
        assert_eq!(parent.tokens(), &begin[..]);
        forks.truncate(if name == GENERATED { 0 } else { 1 });
        parent.append(&[9]).unwrap();
        parent.truncate(400);
        parent.sync(&begin).unwrap();
        assert!(bits(&parent) == wanted, "{name}");
    }
}

#[test]
fn the_plan_counts_states_and_a_budget_without_room_for_them_says_so() {
    for (name, bytes) in [
        ("tiny-qwen35moe-Q8_0", 6 * 4 * (4 * 32 * 32 + 3 * 256)),
        ("tiny-qwen35-Q8_0", 3 * 4 * (6 * 32 * 32 + 3 * 320)),
    ] {
        let plan = load(name, &LoadOptions { checkpoints: Some(5), ..options() }).plan().clone();
        assert_eq!(plan.recurrent.0, (3 + 5) * bytes, "{name}");
        let text = plan.to_string();
        assert!(
            text.contains("recurrent states") && text.contains("3 at a time and 5 checkpoints"),
            "{text}"
        );
        let keys = plan.kv.0 / 3 / 3072;
        let layers = if name.contains("moe") { 2 } else { 1 };
        assert_eq!(keys, layers * 2 * (64 + 64), "keys and values of the layers with attention only");
        let small = LoadOptions { memory: Some(1 << 20), ..options() };
        let error = Prepared::open(&file(name), &small).err().unwrap().to_string();
        assert!(error.contains("for recurrent states"), "{error}");
    }
}

/// Two delta-nets, and for n-grams the last nine inputs of a convolution over three streams of 64; beside keys and values an index
/// has a key for each position, and for each third one more, of which 22 end in the block of 64 positions that has most.
#[test]
fn the_plan_counts_what_n_grams_and_an_index_remember() {
    let plan = load(GENERATED, &LoadOptions { checkpoints: Some(5), ..options() }).plan().clone();
    let state = 2 * 4 * (4 * 32 * 32 + 3 * 256) + 4 * 9 * 3 * 64;
    assert_eq!(plan.recurrent.0, (3 + 5) * state);
    let block = 2 * (64 * 2 * (64 + 64) + (64 + 22) * 32 * 4);
    assert_eq!(plan.kv.0, 3 * 3072 / 64 * block);
    assert_eq!(plan.ngrams_on_disk.0, 448 * 34);
    assert!(plan.to_string().contains("n-grams"), "{plan}");
    let without = load(ATTENTION, &options()).plan().clone();
    assert!(without.ngrams_on_disk.0 == 0 && !without.to_string().contains("n-grams"), "{without}");
}

#[test]
fn without_recurrent_layers_nothing_is_planned_for_them() {
    let plan = load(ATTENTION, &options()).plan().clone();
    assert_eq!((plan.recurrent.0, plan.recurrent_states, plan.checkpoints), (0, 0, 0));
    assert!(!plan.to_string().contains("recurrent"));
}
