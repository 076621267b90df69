//! Hostile plugins of all four worlds against one host, in its process and in processes of their own: every attack of the
//! tables is contained, with an error that names its cause, in bounded time and memory, and what stands beside it goes on.
//!
//! `--nocapture` shows the table. The attacks of native code from inside a plugin's process are in
//! `runtime/host/tests/isolation`.
#![allow(clippy::unwrap_used)]

mod agents;
mod arena;
mod attack;
mod components;
mod files;
mod loading;
mod network;
mod policies;
mod samplers;
mod tools;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use arena::Arena;
use attack::{Attack, Trial, judge, table};
use membrane_host::{Isolation, World};

/// What a plugin's process runs.
mod isolated {
    #[test]
    #[ignore = "is the process of a plugin, started by tests"]
    fn plugin_process() {
        membrane_tests::isolation::serve();
    }
}

fn attacks() -> Vec<Attack> {
    [
        loading::attacks(),
        samplers::attacks(),
        policies::attacks(),
        tools::attacks(),
        files::attacks(),
        network::attacks(),
        agents::attacks(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// One test at a time: time and memory are measured.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn every_attack_is_contained_in_process_and_in_processes_of_its_own() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let attacks = attacks();
    let arenas = [Arena::new(Isolation::None), Arena::new(Isolation::Process)];
    // Building attackers takes no attacker's time.
    membrane_tests::guests::guest("test-sampler");
    let mut findings = Vec::new();
    let mut trials = Vec::new();
    for attack in &attacks {
        let pair = arenas.each_ref().map(|arena| Trial::of(attack, arena));
        findings.extend(judge(attack, &pair));
        // So that one that never ends is known by name.
        eprintln!(
            "{} ({}): {} ms, {} ms",
            attack.name,
            attack.world,
            pair[0].took.as_millis(),
            pair[1].took.as_millis()
        );
        trials.push(pair);
    }
    println!("{}", table(&attacks, &trials));
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    let names: BTreeSet<&str> = attacks.iter().map(|attack| attack.name).collect();
    assert_eq!(names.len(), attacks.len(), "two attacks have one name");
    assert!(names.len() >= 40, "{} attacks", names.len());
    for world in [World::Sampler, World::Policy, World::Tool, World::Agent] {
        let count = attacks.iter().filter(|attack| attack.world == world).count();
        assert!(count >= 10, "{count} attacks of the world {world}");
    }
}

/// An attack that succeeds, one that fails for another reason, and one that brings the host down are told.
#[test]
fn the_suite_sees_what_is_not_contained() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let arena = Arena::new(Isolation::None);
    let attack = |says: &'static [&'static str], run: fn(&Arena) -> attack::Outcome| {
        Attack::new("x", World::Sampler, "is no attack", says, run)
    };
    let judged = |attack: &Attack| {
        let trial = Trial::of(attack, &arena);
        judge(attack, &[trial.clone(), trial])
    };
    assert!(judged(&attack(&["fails"], |_| Ok("it fails".into()))).is_empty());
    let succeeds = samplers::stepping("greedy-choice", json_mode("draw"));
    for (attack, part) in [
        (succeeds, "succeeded: it chose token"),
        (attack(&["fuel"], |_| Ok("it fails".into())), "does not say `fuel`"),
        (attack(&[], |_| panic!("on purpose")), "panicked"),
        (attack(&[], |_| Ok("\u{1b}[2J".into())), "control character"),
        (attack(&[], |_| Ok("x".repeat(9000))), "9000 bytes"),
        (attack(&[], |_| Ok(std::iter::repeat_n(' ', 3).collect())), "says nothing"),
    ] {
        let findings = judged(&attack);
        assert!(findings.iter().any(|finding| finding.contains(part)), "{part}: {findings:?}");
    }
    // Where the two modes differ, and where one that is beside it is spoilt.
    let good = Trial::of(&attack(&[], |_| Ok("it fails".into())), &arena);
    let other = Trial { outcome: Ok(Ok("it fails otherwise".into())), ..good.clone() };
    let spoilt = Trial { beside: Err("the sampler beside it fails".into()), ..good.clone() };
    let plain = attack(&[], |_| Ok(String::new()));
    assert!(judge(&plain, &[good.clone(), other])[0].contains("differs"));
    assert!(judge(&plain, &[good, spoilt])[0].contains("the sampler beside it fails"));
}

fn json_mode(mode: &str) -> serde_json::Value {
    serde_json::json!({ "mode": mode })
}
