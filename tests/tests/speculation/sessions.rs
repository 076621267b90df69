//! Sessions that compute drafts ahead.

use std::path::Path;

use membrane_engine::{Continuation, EngineError, LoadOptions, MOST_DRAFTS, Session, Speculate};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, FormatError};
use membrane_tests::sessions::Canceller;
use proptest::prelude::*;

use crate::{FIXTURES, HYBRIDS, bits, fixture, fresh, load, models, options, tokens};

/// The next tokens, of which the one at `wrong` is another.
fn drafts(next: &[u32], wrong: Option<usize>) -> Vec<u32> {
    let change = |(at, &token): (usize, &u32)| if Some(at) == wrong { (token + 1) % 1000 } else { token };
    next.iter().take(MOST_DRAFTS).enumerate().map(change).collect()
}

#[test]
fn logits_are_those_of_tokens_that_come_one_by_one() {
    let text = tokens(60, 1);
    for path in models() {
        for chunk in [1, 4, 512] {
            let model = load(&path, &LoadOptions { prefill_chunk: Some(chunk), ..options() });
            let mut plain = model.session();
            let mut session = model.session();
            plain.append(&text[..9]).unwrap();
            session.append(&text[..9]).unwrap();
            let (mut passes, mut at) = (0, 9);
            while at < text.len() {
                if !session.foresees(&text[at..=at]) {
                    passes += 1;
                    let wrong = [None, Some(0), Some(3), Some(6)][passes % 4];
                    let drafts = drafts(&text[at + 1..], wrong);
                    // A hybrid that has tokens to compute again does that first.
                    let wanted = if session.behind() > 0 { 0 } else { drafts.len() };
                    session.append_ahead(&text[at..=at], &drafts).unwrap();
                    assert_eq!(session.ahead(), wanted);
                    assert!(session.behind() <= 1 + MOST_DRAFTS, "tokens to compute again pile up");
                } else {
                    session.append(&text[at..=at]).unwrap();
                }
                at += 1;
                plain.append(&text[at - 1..at]).unwrap();
                assert_eq!(session.tokens(), &text[..at]);
                assert!(bits(&session) == bits(&plain), "{path:?} chunk {chunk} at {at}");
            }
            assert!(passes < 24, "{passes} passes for 51 tokens: drafts that are right spare some");
        }
    }
}

/// A fixture in which the embedding of one token is no number.
fn poisoned(name: &str, token: usize, path: &Path) {
    let source = Checkpoint::open(&fixture(name)).unwrap();
    let mut writer = GgufWriter::new(path, source.metadata().clone());
    for tensor in source.tensors() {
        writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims()).unwrap();
    }
    let mut tensors = source.tensors().iter();
    let written = writer.write(|info, sink| -> Result<(), FormatError> {
        let tensor = tensors.next().unwrap();
        let mut bytes = vec![0; info.bytes as usize];
        source.read(tensor, 0, &mut bytes)?;
        if tensor.name == "token_embd.weight" {
            let row = bytes.len() / tensor.shape.dims()[1] as usize;
            bytes[token * row..][..row].fill(0xFF);
        }
        sink.put(&bytes)
    });
    written.unwrap();
}

#[test]
fn a_draft_that_fails_fails_nothing() {
    const BAD: u32 = 1020;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let text = tokens(20, 1);
    for name in ["tiny-qwen35moe-Q8_0", "tiny-qwen3moe-Q8_0"] {
        poisoned(name, BAD as usize, &path);
        let model = load(&path, &options());
        let mut session = model.session();
        session.append(&text[..9]).unwrap();
        session.append_ahead(&text[9..10], &[5, BAD]).unwrap();
        assert_eq!(session.ahead(), 0, "{name}");
        assert!(bits(&session) == fresh(&model, &text[..10]), "{name}");
        session.append_ahead(&text[10..11], &text[11..14]).unwrap();
        assert_eq!(session.ahead(), 3, "{name}");
        let error = session.append(&[BAD]).unwrap_err();
        assert!(error.to_string().contains("token_embd.weight"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_the_logits_of_a_fresh_run(
        steps in prop::collection::vec((0..8_u8, 1..40_usize, any::<u32>()), 1..20),
        name in prop::sample::select(FIXTURES.to_vec()),
        chunk in prop::sample::select(vec![3, 64]),
    ) {
        let options = LoadOptions { prefill_chunk: Some(chunk), checkpoints: Some(3), ..options() };
        let model = load(&fixture(name), &options);
        let mut sessions = vec![model.session()];
        for (what, count, seed) in steps {
            let (index, alive) = (seed as usize % sessions.len(), sessions.len());
            let session = &mut sessions[index];
            let text = tokens(count + MOST_DRAFTS, seed);
            match what {
                0 if session.room() > 60 => session.append(&text[..count]).unwrap(),
                1 => session.truncate(session.tokens().len().saturating_sub(count)),
                2 if alive < 3 => {
                    let fork = session.fork();
                    sessions.push(fork);
                }
                3 => {
                    let mut wanted = session.tokens()[..session.tokens().len() / 2].to_vec();
                    wanted.extend(&text[..count]);
                    session.sync(&wanted).unwrap();
                }
                4 => session.drop_ahead(),
                _ if session.room() > 60 => {
                    // Of tokens that it foresees by chance, what was computed behind them stays.
                    let foreseen = session.foresees(&text[..count]);
                    session.append_ahead(&text[..count], &text[count..]).unwrap();
                    prop_assert!(bits(session) == fresh(&model, session.tokens()));
                    // Some of them are taken, at once or one by one, and then what comes is another.
                    let taken = if foreseen { 0 } else { count % (session.ahead() + 1) };
                    let all = &text[count..count + taken];
                    prop_assert!(all.is_empty() || session.foresees(all));
                    if seed % 2 == 0 {
                        session.append(all).unwrap();
                    } else {
                        all.iter().for_each(|token| session.append(&[*token]).unwrap());
                    }
                    prop_assert!(bits(session) == fresh(&model, session.tokens()));
                    let one = [seed % 1000];
                    let mut parts: Vec<_> = sessions
                        .iter_mut()
                        .filter(|session| session.room() > 60)
                        .map(|session| Continuation { session, tokens: &one, drafts: &text[..count % 5] })
                        .collect();
                    if what == 7 {
                        Session::append_all_ahead(&mut parts).unwrap();
                    }
                }
                _ => {}
            }
        }
        for session in sessions.iter_mut().filter(|session| session.room() > 0) {
            session.append(&[7]).unwrap();
            prop_assert!(bits(session) == fresh(&model, session.tokens()));
        }
    }
}

#[test]
fn drafts_end_where_the_context_ends_and_unknown_tokens_are_none() {
    for path in models() {
        let model = load(&path, &LoadOptions { context: Some(40), ..options() });
        let text = tokens(40, 2);
        let mut session = model.session();
        session.append_ahead(&text[..35], &text[35..]).unwrap();
        assert_eq!((session.ahead(), session.room()), (5, 5));
        session.append(&text[35..36]).unwrap();
        session.append(&[999]).unwrap();
        session.append_ahead(&[998], &text[..8]).unwrap();
        assert_eq!((session.ahead(), session.room()), (2, 2));
        session.append(&text[..2]).unwrap();
        assert!(bits(&session) == fresh(&model, session.tokens()), "{path:?}");
        let error = session.append_ahead(&[1], &[2]).unwrap_err();
        assert!(matches!(error, EngineError::ContextFull { .. }), "{error}");
        session.truncate(10);
        session.append(&[4]).unwrap();
        let vocabulary = model.hyperparameters().vocabulary as u32;
        session.append_ahead(&[5], &[6, vocabulary, 7]).unwrap();
        assert_eq!(session.ahead(), 1);
        session.append_ahead(&[5], &[vocabulary]).unwrap();
        assert_eq!(session.ahead(), 0);
    }
}

#[test]
fn a_pass_with_drafts_that_is_cancelled_leaves_the_session_as_it_was() {
    let (begin, more) = (tokens(50, 3), tokens(12, 4));
    for path in models() {
        let model = load(&path, &options());
        let wanted = fresh(&model, &[&begin[..], &more[..1]].concat());
        for layers_left in [1, 2] {
            let mut session = model.session();
            session.append(&begin).unwrap();
            let before = bits(&session);
            let mut canceller = Canceller { flag: model.cancel_flag(), layers_left };
            let error = session.append_ahead_observed(&more[..1], &more[1..], &mut canceller).unwrap_err();
            assert!(matches!(error, EngineError::Cancelled), "{path:?}: {error}");
            assert_eq!((session.tokens(), bits(&session), session.ahead()), (&begin[..], before, 0));
            assert_eq!(session.behind(), 0, "{path:?}: what was there is there");
            session.append(&more[..1]).unwrap();
            assert!(bits(&session) == wanted, "{path:?} {layers_left}");
        }
    }
}

#[test]
fn an_error_of_one_session_spoils_the_drafts_of_none() {
    for name in FIXTURES {
        let model = load(&fixture(name), &LoadOptions { context: Some(32), ..options() });
        let (mut one, mut full) = (model.session(), model.session());
        one.append_ahead(&tokens(8, 5), &[1, 2, 3]).unwrap();
        full.append(&tokens(32, 6)).unwrap();
        let continuation = |session| Continuation { session, tokens: &[1], drafts: &[] };
        let error = Session::append_all_ahead(&mut [continuation(&mut one), continuation(&mut full)]);
        assert!(matches!(error, Err(EngineError::ContextFull { .. })));
        assert!(one.foresees(&[1, 2, 3]), "{name}");
        one.append(&[1, 2]).unwrap();
        assert!(bits(&one) == fresh(&model, one.tokens()), "{name}");
    }
}

#[test]
fn drafts_give_way_where_there_is_no_room() {
    for name in FIXTURES {
        let model = load(&fixture(name), &LoadOptions { contexts: 1, sessions: 2, ..options() });
        let mut sessions: Vec<Session> = (0..2).map(|_| model.session()).collect();
        let drafts = tokens(MOST_DRAFTS, 8);
        for session in &mut sessions {
            session.append(&[3]).unwrap();
            session.append_ahead(&tokens(8, 7), &drafts).unwrap();
        }
        // The plan has room for the drafts of one.
        assert_eq!(sessions.iter().map(Session::ahead).collect::<Vec<_>>(), [MOST_DRAFTS, 0], "{name}");
        sessions[0].append(&drafts).unwrap();
        sessions[1].append_ahead(&[9], &drafts).unwrap();
        assert_eq!(sessions.iter().map(Session::ahead).collect::<Vec<_>>(), [0, MOST_DRAFTS], "{name}");
        for session in &mut sessions {
            assert!(bits(session) == fresh(session.model(), session.tokens()), "{name}");
        }
    }
}

#[test]
fn drafts_take_no_block_that_tokens_do_not_need() {
    for name in FIXTURES {
        let model = load(&fixture(name), &options());
        let mut session = model.session();
        for (length, most) in [(58, 6), (62, 2), (64, 0), (65, MOST_DRAFTS)] {
            session.truncate(0);
            session.append_ahead(&tokens(length, 1), &tokens(MOST_DRAFTS, 2)).unwrap();
            assert_eq!(session.ahead(), most, "{name} {length}");
        }
    }
}

#[test]
fn nothing_is_set_aside_and_nothing_drafted_unless_asked_for() {
    for name in FIXTURES {
        let off = load(&fixture(name), &LoadOptions { speculate: Speculate::Off, ..options() });
        let on = load(&fixture(name), &options());
        assert_eq!((off.plan().drafts, off.plan().ahead.0), (0, 0));
        assert!(on.plan().ahead.0 > 0 && on.plan().total().0 > on.plan().ahead.0);
        let mut session = off.session();
        session.append_ahead(&[1, 2], &[3, 4]).unwrap();
        assert_eq!(session.ahead(), 0);
        // A thirty-second of a budget is the most that drafts take of it by themselves.
        let (bytes, plan) = (on.plan().ahead.0, off.plan().total().0);
        let budget = plan + bytes + (64 << 20);
        let auto = LoadOptions { speculate: Speculate::Auto, memory: Some(budget), ..options() };
        assert_eq!(load(&fixture(name), &auto).plan().drafts > 0, bytes <= budget / 32, "{name}");
    }
}

#[test]
fn checkpoints_are_made_where_they_would_be_without_drafts() {
    for name in &FIXTURES[..HYBRIDS] {
        let model = load(&fixture(name), &options());
        let mut session = model.session();
        let text = tokens(560, 9);
        session.append(&text[..470]).unwrap();
        for at in 470..560 {
            if session.foresees(&text[at..=at]) {
                session.append(&text[at..=at]).unwrap();
            } else {
                session.append_ahead(&text[at..=at], &text[at + 1..]).unwrap();
            }
        }
        session.truncate(520);
        assert_eq!(session.behind(), 8, "{name}: from the checkpoint at 512 on");
        session.append(&text[520..]).unwrap();
        assert!(bits(&session) == fresh(&model, &text), "{name}");
    }
}
