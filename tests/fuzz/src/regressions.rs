//! Every target over its seeds and several hundred damaged forms of each, the same on every run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::{Random, TARGETS, Target, mutate};

/// Damaged forms of all seeds of a target together.
const MUTATIONS: usize = 500;
/// For compiling a grammar, which takes milliseconds where a mutation of another kind takes microseconds.
const SLOW_MUTATIONS: usize = 100;
/// An input takes at most this long; generous, for a machine that is busy.
const LONGEST: Duration = Duration::from_secs(10);

/// Runs one input; a panic is told with the bytes that made it.
fn run(target: &Target, bytes: &[u8]) {
    let begun = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    let took = begun.elapsed();
    assert!(result.is_ok(), "{} panicked with:\n{}", target.name, bytes.escape_ascii());
    assert!(took < LONGEST, "{} took {took:?} with:\n{}", target.name, bytes.escape_ascii());
}

fn mutations(target: &Target) -> usize {
    match target.name {
        "json_schema" | "regex" | "lark" => SLOW_MUTATIONS,
        _ => MUTATIONS,
    }
}

#[test]
fn seeds_and_their_damaged_forms() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let begun = Instant::now();
        let mut random = Random::new(1);
        run(target, b"");
        for seed in &seeds {
            run(target, seed);
            for _ in 0..mutations(target) / seeds.len() {
                let mut damaged = seed.clone();
                mutate(&mut damaged, target.words, &mut random);
                run(target, &damaged);
            }
        }
        println!("{:16} {:6.2} s", target.name, begun.elapsed().as_secs_f64());
    }
}

#[test]
fn a_target_at_fault_is_noticed() {
    let target = Target { name: "broken", run: |bytes| assert!(bytes != b"x"), seeds: Vec::new, words: &[] };
    run(&target, b"y");
    assert!(catch_unwind(|| run(&target, b"x")).is_err());
}
