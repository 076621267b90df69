//! Logits are the same bits whatever the threads, the prefill chunk, the memory budget, what is cached, and
//! how a prefix came to be there.

#[path = "exactness/interleaved.rs"]
mod interleaved;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use membrane_engine::{
    EvictionPolicy, IoMode, Isa, KvFormat, LoadOptions, Model, Precision, Prepared, Session,
};
use membrane_formats::Checkpoint;
use membrane_tests::{references, tiny};

/// Mixtures of experts, dense models and hybrids of both kinds, from the fixtures; those without one are generated.
const MODELS: [&str; 6] = [
    "tiny-qwen3moe-Q8_0.gguf",
    "tiny-qwen2moe-Q8_0.gguf",
    "tiny-qwen3-IQ4_NL.gguf",
    "tiny-qwen3next-Q8_0.gguf",
    "tiny-qwen35moe-Q8_0.gguf",
    "tiny-qwen35-Q8_0.gguf",
];

fn models() -> Vec<PathBuf> {
    let find = |name: &str| {
        let mut roots = references().into_iter();
        roots.find_map(|root| Some(root.join("gguf").join(name)).filter(|path| path.exists()))
    };
    let fixtures =
        MODELS.iter().map(|name| find(name).unwrap_or_else(|| panic!("the fixture {name} is missing")));
    fixtures.chain(generated().iter().cloned()).collect()
}

/// Models of the architectures that have no fixture, written once.
fn generated() -> &'static [PathBuf] {
    static WRITTEN: OnceLock<Vec<PathBuf>> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let write = |architecture: &&str| {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("exactness-{architecture}.gguf"));
            tiny::write(architecture, &path);
            path
        };
        tiny::ARCHITECTURES.iter().map(write).collect()
    })
}

fn options() -> LoadOptions {
    LoadOptions { context: Some(256), threads: Some(2), ..LoadOptions::default() }
}

fn load(path: &Path, options: &LoadOptions) -> Model {
    let checkpoint = Checkpoint::open(path).unwrap().into();
    Prepared::without_text(checkpoint, options).unwrap().load(&mut |_, _| {}).unwrap()
}

fn tokens() -> Vec<u32> {
    (0..150_u32).map(|i| (i * 7919 + 13) % 1000).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    assert!(!logits.is_empty() && logits.iter().all(|logit| logit.is_finite()));
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Logits behind the prompt and behind each of a few further tokens.
fn trace(model: &Model) -> Vec<Vec<u32>> {
    let mut session = model.session();
    session.append(&tokens()).unwrap();
    let mut trace = vec![bits(session.logits())];
    for token in [5, 900, 17] {
        session.append(&[token]).unwrap();
        trace.push(bits(session.logits()));
    }
    trace
}

#[test]
fn threads_and_chunks() {
    for path in models() {
        let wanted = trace(&load(&path, &options()));
        for threads in [1, 2, 3] {
            for chunk in [1, 7, 64, 512] {
                let options = LoadOptions { threads: Some(threads), prefill_chunk: Some(chunk), ..options() };
                assert!(trace(&load(&path, &options)) == wanted, "{path:?} threads {threads} chunk {chunk}");
            }
        }
    }
}

/// Fixtures with golden logits are compared in the tests of conformance.
#[test]
fn instruction_sets() {
    for path in generated() {
        let scalar = trace(&load(path, &LoadOptions { isa: Some(Isa::Scalar), ..options() }));
        for isa in Isa::available() {
            assert!(
                trace(&load(path, &LoadOptions { isa: Some(isa), ..options() })) == scalar,
                "{path:?} {isa:?}"
            );
        }
    }
}

/// Each with the integers that it does not take by itself; with the others all tests here are.
#[test]
fn integers_of_the_other_size() {
    for path in models() {
        let own = load(&path, &options());
        let precision = match own.precision() {
            Precision::Int8 => Precision::Int16,
            _ => Precision::Int8,
        };
        let options = LoadOptions { precision, ..options() };
        let wanted = trace(&load(&path, &options));
        assert_ne!(wanted, trace(&own), "{path:?} {precision:?}");
        for isa in Isa::available() {
            let (threads, prefill_chunk) = (Some(3), Some(7));
            let options = LoadOptions { isa: Some(isa), threads, prefill_chunk, ..options.clone() };
            assert!(trace(&load(&path, &options)) == wanted, "{path:?} {isa:?} {precision:?}");
        }
    }
}

#[test]
fn arenas_and_ways_of_reading() {
    for path in models() {
        let whole = load(&path, &options());
        let (wanted, experts) = (trace(&whole), whole.plan().experts);
        drop(whole);
        if experts == 0 {
            continue;
        }
        for (share, eviction) in [20, 8, 2].into_iter().zip(EvictionPolicy::ALL) {
            for io in [IoMode::Auto, IoMode::Direct, IoMode::Buffered] {
                let experts = Some(experts / share);
                let model = load(&path, &LoadOptions { experts, io, eviction, ..options() });
                assert!(trace(&model) == wanted, "{path:?} {io:?} {}", model.plan());
                assert!(trace(&model) == wanted, "{path:?} {io:?} warm {}", model.plan());
                assert!(model.plan().paged() && model.counters().misses > 0, "{path:?}");
            }
        }
    }
}

#[test]
fn experts_that_are_read_ahead() {
    let mut foreseen = 0;
    for path in models() {
        let whole = load(&path, &options());
        let wanted = one_by_one(&whole);
        let experts = whole.plan().experts;
        drop(whole);
        if experts == 0 {
            continue;
        }
        for share in [2, 3] {
            let model =
                load(&path, &LoadOptions { experts: Some(experts / share), lookahead: true, ..options() });
            assert!(one_by_one(&model) == wanted, "{path:?} {}", model.plan());
            assert!(one_by_one(&model) == wanted, "{path:?} warm {}", model.plan());
            foreseen += model.counters().foreseen;
        }
    }
    assert!(foreseen > 0, "no model has room for guesses");
}

#[test]
fn experts_that_earlier_runs_used() {
    let mut recalled = 0;
    for path in models() {
        let whole = load(&path, &options());
        let wanted = one_by_one(&whole);
        let experts = whole.plan().experts;
        drop(whole);
        if experts == 0 {
            continue;
        }
        let paged = LoadOptions { experts: Some(experts / 2), ..options() };
        let first = load(&path, &paged);
        assert!(one_by_one(&first) == wanted, "{path:?}");
        let recall = first.usage();
        assert!(recall.is_some(), "{path:?}");
        for lookahead in [false, true] {
            let next = load(&path, &LoadOptions { recall: recall.clone(), lookahead, ..paged.clone() });
            assert!(one_by_one(&next) == wanted, "{path:?} {lookahead}");
            recalled += next.counters().recalled;
        }
    }
    assert!(recalled > 0, "nothing was read that earlier runs used");
}

/// The logits of each token, which goes through the model by itself.
fn one_by_one(model: &Model) -> Vec<Vec<u32>> {
    let mut session = model.session();
    let step = |token: &u32| {
        session.append(&[*token]).unwrap();
        bits(session.logits())
    };
    tokens()[..24].iter().map(step).collect()
}

#[test]
fn appended_forked_truncated_and_synced() {
    for path in models() {
        // Room for all the sessions that are alive here.
        let model = load(&path, &LoadOptions { context: Some(1024), ..options() });
        let tokens = tokens();
        let mut fresh = model.session();
        fresh.append(&tokens).unwrap();
        let wanted = bits(fresh.logits());

        let mut pieces = model.session();
        for piece in tokens.chunks(11) {
            pieces.append(piece).unwrap();
        }
        assert!(bits(pieces.logits()) == wanted, "{path:?}: in pieces");

        let mut parent = model.session();
        parent.append(&tokens[..100]).unwrap();
        let mut child = parent.fork();
        child.append(&[1, 2, 3]).unwrap();
        parent.append(&tokens[100..]).unwrap();
        assert!(bits(parent.logits()) == wanted, "{path:?}: the parent of a fork");
        child.truncate(100);
        child.append(&tokens[100..]).unwrap();
        assert!(bits(child.logits()) == wanted, "{path:?}: a fork");

        let mut other = model.session();
        let mut different = tokens.clone();
        different[70] += 1;
        other.append(&different).unwrap();
        let synced = other.sync(&tokens).unwrap();
        assert_eq!((synced.reused, synced.computed), (70, 80));
        assert!(bits(other.logits()) == wanted, "{path:?}: synced");
        other.truncate(40);
        assert!(other.logits().is_empty());
        other.sync(&tokens).unwrap();
        assert!(bits(other.logits()) == wanted, "{path:?}: truncated and synced");
    }
}

/// In blocks a cache gives other logits than in halves, near them, and the same ones whatever else is chosen.
#[test]
fn caches_of_blocks() {
    let mut tried = 0;
    for path in models() {
        // What is rounded beside the cache should be little.
        let precision = Precision::Int16;
        let with =
            |kv, more: &LoadOptions| LoadOptions { kv, precision, context: Some(1024), ..more.clone() };
        let halves = load(&path, &with(KvFormat::F16, &options()));
        let mut exact = halves.session();
        exact.append(&tokens()).unwrap();
        // Where an index chooses positions by what the layers before it made of rounded keys, it chooses others now and then.
        let chosen = halves.hyperparameters().indexers().next().is_some();
        let limits = if chosen { [0.1, 0.5] } else { [1e-3, 0.2] };
        for (kv, limit) in [(KvFormat::Q8_0, limits[0]), (KvFormat::Q4_0, limits[1])] {
            let checkpoint = Checkpoint::open(&path).unwrap().into();
            if let Err(error) = Prepared::without_text(checkpoint, &with(kv, &options())) {
                let error = error.to_string();
                assert!(error.contains("--kv-cache") && error.contains("take f16"), "{error}");
                continue;
            }
            tried += 1;
            let model = load(&path, &with(kv, &options()));
            assert!(model.plan().kv < halves.plan().kv, "{path:?}");
            let wanted = trace(&model);
            for (threads, chunk) in [(1, 1), (3, 64), (2, 7)] {
                let options = LoadOptions { threads: Some(threads), prefill_chunk: Some(chunk), ..options() };
                let got = trace(&load(&path, &with(kv, &options)));
                assert!(got == wanted, "{path:?} {kv:?} threads {threads} chunk {chunk}");
            }
            let mut session = model.session();
            session.append(&tokens()).unwrap();
            assert!(bits(session.logits()) != bits(exact.logits()), "{path:?} {kv:?}: nothing was rounded");
            let error = error_share(session.logits(), exact.logits());
            assert!(error < limit, "{path:?} {kv:?}: {error}");
            let mut fork = session.fork();
            fork.append(&[5]).unwrap();
            session.truncate(100);
            session.append(&tokens()[100..]).unwrap();
            session.append(&[5]).unwrap();
            assert!(bits(fork.logits()) == wanted[1] && bits(session.logits()) == wanted[1], "{path:?}");
        }
    }
    assert!(tried >= 4, "{tried} models have heads of whole blocks");
}

/// Squared error over squares.
fn error_share(got: &[f32], wanted: &[f32]) -> f32 {
    let squares = |x: f32| x * x;
    let error: f32 = got.iter().zip(wanted).map(|(got, wanted)| squares(got - wanted)).sum();
    error / wanted.iter().copied().map(squares).sum::<f32>()
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let path = &models()[0];
    let model = load(path, &options());
    let mut session = model.session();
    session.append(&tokens()).unwrap();
    let wanted = bits(session.logits());
    let error = session.append(&[1; 200]).unwrap_err().to_string();
    assert!(error.contains("256") && error.contains("150") && error.contains("200"), "{error}");
    let error = session.append(&[1, 5000]).unwrap_err().to_string();
    assert!(error.contains("5000"), "{error}");
    assert_eq!(session.tokens().len(), 150);
    assert!(bits(session.logits()) == wanted);
}

#[test]
fn a_budget_that_is_too_small_is_refused_with_the_numbers() {
    let path = &models()[0];
    let error = Prepared::open(path, &LoadOptions { memory: Some(1 << 20), ..options() });
    let error = error.err().unwrap().to_string();
    assert!(error.contains("1MiB") && error.contains("resident weights"), "{error}");
}

#[test]
fn what_a_budget_lacks_for_all_experts_is_taken_from_the_chunk() {
    for path in models() {
        let plan = |memory, prefill_chunk| {
            let context = Some(2048);
            let options = LoadOptions { memory, prefill_chunk, context, ..options() };
            let checkpoint = Checkpoint::open(&path).unwrap().into();
            Prepared::without_text(checkpoint, &options).unwrap().plan().clone()
        };
        // The process, which is in each plan, grows while other tests run.
        let quiet = (0..100).find_map(|_| {
            let (whole, half) = (plan(None, None), plan(None, Some(256)));
            let between = (whole.total().0 + half.total().0) / 2;
            let less = plan(Some(between), None);
            let grown =
                less.process.0.abs_diff(whole.process.0).max(half.process.0.abs_diff(whole.process.0));
            (grown < (whole.scratch.0 - half.scratch.0) / 4).then_some((whole, less))
        });
        let (whole, less) = quiet.unwrap();
        assert_eq!((whole.prefill_chunk, less.prefill_chunk, less.paged()), (512, 256, false), "{path:?}");
    }
}

/// Steps of sessions that share the model: prompts of different lengths, then tokens one by one.
const SHARED: [usize; 4] = [150, 1, 64, 90];

fn shared_tokens(session: usize, step: u32) -> u32 {
    (session as u32 * 131 + step * 17 + 5) % 1000
}

#[test]
fn sessions_that_share_a_pass_get_what_each_gets_alone() {
    for path in models() {
        let paged =
            |experts| LoadOptions { context: Some(1024), prefill_chunk: Some(64), experts, ..options() };
        let whole = load(&path, &paged(None));
        let experts = whole.plan().experts;
        let mut alone: Vec<_> = SHARED.iter().map(|_| whole.session()).collect();
        let model = load(&path, &paged((experts > 0).then_some(experts / 3)));
        let mut together: Vec<_> = SHARED.iter().map(|_| model.session()).collect();
        for step in 0..4 {
            let tokens = SHARED.iter().enumerate().map(|(session, &length)| match step {
                0 => tokens()[..length].to_vec(),
                // One takes no part in this step.
                2 if session == 1 => Vec::new(),
                _ => vec![shared_tokens(session, step)],
            });
            let tokens: Vec<Vec<u32>> = tokens.collect();
            let mut batch: Vec<_> =
                together.iter_mut().zip(&tokens).map(|(s, t)| (s, t.as_slice())).collect();
            Session::append_all(&mut batch).unwrap();
            for ((one, shared), tokens) in alone.iter_mut().zip(&together).zip(&tokens) {
                one.append(tokens).unwrap();
                assert_eq!(one.tokens(), shared.tokens());
                assert!(bits(one.logits()) == bits(shared.logits()), "{path:?} step {step}");
            }
        }
    }
}

#[test]
fn sharing_a_pass_reads_fewer_experts() {
    let path = &models()[0];
    let experts = load(path, &options()).plan().experts;
    let read = |together: bool| {
        let model = load(path, &LoadOptions { experts: Some(experts / 4), context: Some(1024), ..options() });
        let (mut a, mut b) = (model.session(), model.session());
        for token in tokens() {
            let other = token / 2;
            if together {
                Session::append_all(&mut [(&mut a, &[token]), (&mut b, &[other])]).unwrap();
            } else {
                a.append(&[token]).unwrap();
                b.append(&[other]).unwrap();
            }
        }
        model.counters().misses
    };
    let (alternating, together) = (read(false), read(true));
    assert!(together < alternating, "{together} experts read together, {alternating} by turns");
}

#[test]
fn a_batch_that_fails_changes_none_of_its_sessions() {
    let model = load(&models()[0], &LoadOptions { context: Some(1024), ..options() });
    let (mut a, mut b) = (model.session(), model.session());
    a.append(&tokens()).unwrap();
    let wanted = bits(a.logits());
    let error = Session::append_all(&mut [(&mut a, &[1]), (&mut b, &[5000])]).unwrap_err().to_string();
    assert!(error.contains("5000"), "{error}");
    assert_eq!((a.tokens().len(), b.tokens().len()), (150, 0));
    assert!(bits(a.logits()) == wanted && b.logits().is_empty());
    let mut stranger = load(&models()[0], &options()).session();
    let error = Session::append_all(&mut [(&mut a, &[1]), (&mut stranger, &[1])]).unwrap_err().to_string();
    assert!(error.contains("one model"), "{error}");
    a.append(&[7]).unwrap();
}
