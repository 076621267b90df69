//! The candidate engine against a plain reference: double precision, whole sorts, each stage as its paper or
//! llama.cpp defines it.
#![allow(clippy::unwrap_used)]

#[path = "sampling/reference.rs"]
mod reference;

use membrane_host::Vocabulary;
use membrane_host::sampling::{
    Candidates, Context, Dry, Operation, Penalties, Repetition, SamplingError, Temperature, Xtc,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A vocabulary whose tokens are letters, with a newline at every tenth.
struct Letters(Vec<Vec<u8>>);

impl Letters {
    fn new(size: usize) -> Self {
        let text =
            |token: usize| if token % 10 == 9 { vec![b'\n'] } else { format!("t{token}").into_bytes() };
        Self((0..size).map(text).collect())
    }
}

impl Vocabulary for Letters {
    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.0.get(token as usize).map(Vec::as_slice)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let token = |byte: u8| self.0.iter().position(|bytes| *bytes == [byte]).map(|token| token as u32);
        text.bytes().map(|byte| token(byte).ok_or("no such token".to_owned())).collect()
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }

    fn end_token(&self) -> Option<u32> {
        None
    }
}

/// Numbers from a seed, for large inputs.
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Logits of a shape: 0 random, 1 like a language model's, 2 peaked, 3 many ties, 4 some masked.
fn logits(size: usize, shape: u8, seed: u64) -> Vec<f32> {
    let mut next = numbers(seed);
    let mut uniform = move || (next() >> 40) as f32 / (1u32 << 24) as f32;
    let mut logits: Vec<f32> = (0..size)
        .map(|_| match shape {
            0 => uniform() * 20.0 - 10.0,
            1 => (0..6).map(|_| uniform()).sum::<f32>() * 6.0 - 18.0,
            2 => uniform(),
            3 => (uniform() * 8.0).floor(),
            _ => {
                if uniform() < 0.3 {
                    f32::NEG_INFINITY
                } else {
                    uniform() * 6.0
                }
            }
        })
        .collect();
    if shape == 2 {
        logits[size / 3] = 18.0;
        logits[size / 2] = 17.0;
    }
    if shape == 4 {
        logits[0] = 5.0;
    }
    logits
}

/// Runs operations in the engine; gives the probability of each token, 0 for those out of the running. With `look`
/// the best token and its probability are asked for before each, which must change nothing.
fn distribution(
    logits: &[f32],
    operations: &[Operation],
    history: &[u32],
    seed: u64,
    look: bool,
) -> Result<Vec<f64>, SamplingError> {
    let vocabulary = Letters::new(logits.len());
    let mut candidates = Candidates::default();
    candidates.start(&mut logits.to_vec())?;
    let mut next = numbers(seed);
    let mut repetition = Repetition::default();
    let mut context =
        Context { history, vocabulary: &vocabulary, random: &mut || next(), repetition: &mut repetition };
    for operation in operations {
        if look {
            candidates.greedy()?;
        }
        operation.apply(&mut candidates, &mut context)?;
    }
    let mut probabilities = vec![0.0; logits.len()];
    for (candidate, probability) in candidates.top(logits.len())? {
        probabilities[candidate.token as usize] = f64::from(probability);
    }
    Ok(probabilities)
}

/// Holds a chain to the reference. A token may differ if its own threshold is a near tie, seen by its
/// probability.
fn compare(logits: &[f32], operations: &[Operation], history: &[u32], seed: u64) {
    let vocabulary = Letters::new(logits.len());
    let found = distribution(logits, operations, history, seed, false).unwrap();
    let looked = distribution(logits, operations, history, seed, true).unwrap();
    assert!(found.iter().zip(&looked).all(|(a, b)| (a - b).abs() < 1e-6), "{operations:?}");
    let expected = reference::distribution(logits, operations, history, &vocabulary, &mut numbers(seed));
    assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-4);
    let distance: f64 = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0;
    assert!(distance < 2e-4, "total variation {distance:e} after {operations:?}");
}

fn history(length: usize, size: usize, seed: u64) -> Vec<u32> {
    let mut next = numbers(seed ^ 77);
    // Few different tokens, so that there are repetitions.
    (0..length).map(|_| (next() % (size as u64).min(12)) as u32).collect()
}

fn penalties() -> impl Strategy<Value = Operation> {
    (-1..40i32, 0.5..2.0f32, -1.0..1.0f32, -1.0..1.0f32).prop_map(|(last, repeat, frequency, presence)| {
        Operation::Penalties(Penalties { last, repeat, frequency, presence })
    })
}

fn dry() -> impl Strategy<Value = Operation> {
    let breakers =
        prop_oneof![Just(vec![]), Just(vec!["\n".to_owned()]), Just(vec!["t3".to_owned(), "\nt".to_owned()])];
    (0.0..3.0f32, 0.9..3.0f32, 0..4u32, -1..60i32, breakers).prop_map(
        |(multiplier, base, allowed_length, last, breakers)| {
            Operation::Dry(Dry { multiplier, base, allowed_length, last, breakers })
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        prop::collection::vec((0..20u32, -5.0..5.0f32), 0..6).prop_map(Operation::LogitBias),
        penalties(),
        dry(),
        (-1.0..4.0f32).prop_map(Operation::TopNSigma),
        prop_oneof![-1..60i32, Just(i32::MAX), Just(i32::MIN)].prop_map(Operation::TopK),
        (-0.1..1.1f32).prop_map(Operation::Typical),
        (-0.1..1.1f32).prop_map(Operation::TopP),
        (-0.1..1.2f32).prop_map(Operation::MinP),
        (-0.1..1.1f32, 0.0..0.6f32)
            .prop_map(|(probability, threshold)| Operation::Xtc(Xtc { probability, threshold })),
        (0.05..3.0f32, prop_oneof![Just(0.0f32), 0.0..2.0f32], 0.2..3.0f32).prop_map(
            |(temperature, range, exponent)| {
                Operation::Temperature(Temperature { temperature, range, exponent })
            }
        ),
        (-1.0..20.0f32).prop_map(Operation::SurpriseLimit),
    ]
}

/// The standard chain with its default values, every stage on that can be.
fn standard_chain() -> Vec<Operation> {
    vec![
        Operation::LogitBias(vec![(3, 1.0), (5, f32::NEG_INFINITY)]),
        Operation::Penalties(Penalties { last: 64, repeat: 1.1, frequency: 0.1, presence: 0.1 }),
        Operation::Dry(Dry {
            multiplier: 0.8,
            base: 1.75,
            allowed_length: 2,
            last: -1,
            breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
        }),
        Operation::TopNSigma(3.0),
        Operation::TopK(40),
        Operation::Typical(0.98),
        Operation::TopP(0.95),
        Operation::MinP(0.05),
        Operation::Xtc(Xtc { probability: 0.5, threshold: 0.1 }),
        Operation::Temperature(Temperature { temperature: 0.8, range: 0.3, exponent: 1.2 }),
    ]
}

const SIZES: [usize; 5] = [2, 17, 128, 1000, 5000];

#[test]
fn every_stage_alone_is_the_references() {
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let inputs = (operation(), 0..SIZES.len(), 0..5u8, 0..60usize, any::<u32>());
    runner
        .run(&inputs, |(operation, size, shape, length, seed)| {
            let (size, seed) = (SIZES[size], u64::from(seed));
            let operation = within(operation, size);
            compare(&logits(size, shape, seed), &[operation], &history(length, size, seed), seed);
            Ok(())
        })
        .unwrap();
}

#[test]
fn stages_in_any_order_are_the_references() {
    let mut runner = TestRunner::new(Config { cases: 800, failure_persistence: None, ..Config::default() });
    let operations = prop::collection::vec(operation(), 2..7);
    let inputs = (operations, 0..SIZES.len(), 0..5u8, 0..60usize, any::<u32>());
    runner
        .run(&inputs, |(operations, size, shape, length, seed)| {
            let (size, seed) = (SIZES[size], u64::from(seed));
            let operations: Vec<Operation> =
                operations.into_iter().map(|operation| within(operation, size)).collect();
            compare(&logits(size, shape, seed), &operations, &history(length, size, seed), seed);
            Ok(())
        })
        .unwrap();
}

/// Biases only of tokens that the vocabulary has.
fn within(operation: Operation, size: usize) -> Operation {
    match operation {
        Operation::LogitBias(biases) => {
            Operation::LogitBias(biases.into_iter().filter(|(token, _)| (*token as usize) < size).collect())
        }
        other => other,
    }
}

#[test]
fn the_standard_chain_is_the_references_at_the_size_of_a_real_vocabulary() {
    for (shape, seed) in [(0, 1), (1, 2), (1, 3), (2, 4), (4, 6)] {
        let logits = logits(151_936, shape, seed);
        let history = history(300, logits.len(), seed);
        for length in 0..=standard_chain().len() {
            compare(&logits, &standard_chain()[..length], &history, seed);
        }
        for operation in standard_chain() {
            compare(&logits, &[operation], &history, seed);
        }
    }
}

#[test]
fn stages_that_are_off_change_nothing() {
    let logits = logits(3000, 1, 9);
    let before = distribution(&logits, &[], &[], 0, false).unwrap();
    let off = [
        Operation::LogitBias(vec![]),
        Operation::Penalties(Penalties { last: 0, repeat: 2.0, frequency: 1.0, presence: 1.0 }),
        Operation::Penalties(Penalties { last: -1, repeat: 1.0, frequency: 0.0, presence: 0.0 }),
        Operation::TopNSigma(0.0),
        Operation::TopNSigma(-1.0),
        Operation::TopK(0),
        Operation::TopK(-1),
        Operation::TopK(3000),
        Operation::TopK(i32::MAX),
        Operation::Typical(1.0),
        Operation::TopP(1.0),
        Operation::MinP(0.0),
        Operation::Xtc(Xtc { probability: 0.0, threshold: 0.1 }),
        Operation::Xtc(Xtc { probability: 1.0, threshold: 0.51 }),
        Operation::Temperature(Temperature { temperature: 1.0, range: 0.0, exponent: 1.0 }),
    ];
    for operation in off {
        let after =
            distribution(&logits, std::slice::from_ref(&operation), &[1, 2, 1, 2, 1], 0, false).unwrap();
        let distance: f64 = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).sum();
        assert!(distance < 1e-6, "{operation:?}: {distance}");
    }
}

#[test]
fn the_harshest_cut_leaves_the_likeliest_token() {
    let logits = logits(3000, 1, 9);
    let likeliest = (0..3000).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a))).unwrap();
    let harshest = [
        Operation::TopNSigma(1e-9),
        Operation::TopK(1),
        Operation::TopP(-1.0),
        Operation::MinP(2.0),
        Operation::Temperature(Temperature { temperature: 0.0, range: 0.0, exponent: 1.0 }),
        Operation::Temperature(Temperature { temperature: -1.0, range: 0.0, exponent: 1.0 }),
        Operation::Temperature(Temperature { temperature: 1e-44, range: 0.0, exponent: 1.0 }),
        Operation::SurpriseLimit(-5.0),
    ];
    for operation in harshest {
        let after = distribution(&logits, std::slice::from_ref(&operation), &[], 0, false).unwrap();
        assert_eq!(after[likeliest], 1.0, "{operation:?}");
    }
    assert_eq!(
        distribution(&logits, &[Operation::Typical(-1.0)], &[], 0, false)
            .unwrap()
            .iter()
            .filter(|p| **p > 0.0)
            .count(),
        1
    );
}

#[test]
fn parameters_that_are_not_numbers_are_refused_by_name() {
    let nan = f32::NAN;
    for (operation, name) in [
        (Operation::TopP(nan), "top-p"),
        (Operation::MinP(f32::INFINITY), "min-p"),
        (
            Operation::Penalties(Penalties { last: 1, repeat: 0.0, frequency: 0.0, presence: 0.0 }),
            "penalties.repeat",
        ),
        (
            Operation::Temperature(Temperature { temperature: 1.0, range: nan, exponent: 1.0 }),
            "temperature.range",
        ),
        (Operation::LogitBias(vec![(1, nan)]), "bias of token 1"),
        (Operation::LogitBias(vec![(1, f32::INFINITY)]), "bias of token 1"),
        (Operation::LogitBias(vec![(99, 1.0)]), "token 99"),
    ] {
        let error = distribution(&[0.0, 1.0], &[operation], &[], 0, false).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn ties_go_to_the_lower_token() {
    let mut candidates = Candidates::default();
    candidates.start(&mut vec![1.0; 1000]).unwrap();
    assert_eq!(candidates.greedy().unwrap().0, 0);
    candidates.forbid(&[0, 1, 2]).unwrap();
    assert_eq!(candidates.greedy().unwrap().0, 3);
    let top: Vec<u32> = candidates.top(4).unwrap().iter().map(|(candidate, _)| candidate.token).collect();
    assert_eq!(top, [3, 4, 5, 6]);
}

#[test]
fn draws_follow_the_distribution() {
    let logits = logits(500, 1, 4);
    let chain = [
        Operation::TopK(20),
        Operation::Temperature(Temperature { temperature: 0.7, range: 0.0, exponent: 1.0 }),
    ];
    let expected = distribution(&logits, &chain, &[], 0, false).unwrap();
    let vocabulary = Letters::new(500);
    let mut next = numbers(5);
    let draws = 60_000;
    let mut counts = vec![0f64; 500];
    for _ in 0..draws {
        let mut candidates = Candidates::default();
        candidates.start(&mut logits.clone()).unwrap();
        let mut repetition = Repetition::default();
        let mut context =
            Context { history: &[], vocabulary: &vocabulary, random: &mut || 0, repetition: &mut repetition };
        chain.iter().for_each(|operation| operation.apply(&mut candidates, &mut context).unwrap());
        let uniform = (next() >> 11) as f64 / (1u64 << 53) as f64;
        counts[candidates.draw(uniform).unwrap().0 as usize] += 1.0;
    }
    // Chi-squared with 19 degrees of freedom exceeds 50 once in ten thousand.
    let statistic: f64 = (0..500)
        .filter(|token| expected[*token] > 0.0)
        .map(|token| {
            (counts[token] - expected[token] * draws as f64).powi(2) / (expected[token] * draws as f64)
        })
        .sum();
    assert!(statistic < 50.0, "{statistic}");
    assert!((0..500).all(|token| expected[token] > 0.0 || counts[token] == 0.0));
}

#[test]
fn masks_cut_whatever_the_form_and_never_all() {
    for listed in [false, true] {
        let mut candidates = Candidates::default();
        candidates.start(&mut (0..300).map(|i| i as f32 / 100.0).collect()).unwrap();
        if listed {
            candidates.allow(&(0..300).collect::<Vec<_>>()).unwrap();
        }
        assert_eq!(candidates.forbid(&(0..300).collect::<Vec<_>>()), Err(SamplingError::Empty));
        assert_eq!(candidates.count(), 300);
        candidates.forbid(&[299, 299, 298]).unwrap();
        assert_eq!((candidates.count(), candidates.greedy().unwrap().0), (298, 297));
        assert_eq!(candidates.allow(&[299]), Err(SamplingError::Empty));
        candidates.allow(&[4, 299, 7, 4]).unwrap();
        assert_eq!((candidates.count(), candidates.get(299).unwrap()), (2, f32::NEG_INFINITY));
        assert_eq!(candidates.forbid(&[300]), Err(SamplingError::Token { token: 300, size: 300 }));
        candidates.add([(4, f32::NEG_INFINITY), (7, f32::NEG_INFINITY)].into_iter()).unwrap();
        assert_eq!((candidates.count(), candidates.greedy()), (0, Err(SamplingError::Empty)));
    }
}

#[test]
fn all_logits_can_be_read_and_replaced() {
    let mut candidates = Candidates::default();
    candidates.start(&mut vec![1.0, f32::NAN, 3.0, 2.0]).unwrap();
    assert_eq!(candidates.read(), [1.0, f32::NEG_INFINITY, 3.0, 2.0]);
    let mut context_free = |logits: &[f32]| candidates.write(logits).map_err(|error| error.to_string());
    assert!(context_free(&[1.0]).unwrap_err().contains("1 logits for 4 tokens"));
    assert!(context_free(&[1.0, f32::NAN, 0.0, 0.0]).unwrap_err().contains("token 1 is not a number"));
    assert!(context_free(&[f32::INFINITY, 0.0, 0.0, 0.0]).unwrap_err().contains("plus infinity"));
    assert!(context_free(&[f32::NEG_INFINITY; 4]).unwrap_err().contains("no token"));
    assert_eq!(candidates.greedy().unwrap().0, 2);
    candidates.write(&[9.0, 1.0, 2.0, f32::NEG_INFINITY]).unwrap();
    assert_eq!((candidates.greedy().unwrap().0, candidates.count()), (0, 3));
}
