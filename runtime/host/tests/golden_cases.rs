//! Runs the golden cases of the first-party plugins against their components, and holds their manifests to what they do.
//!
//! `plugins/README.md` describes the cases.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

#[path = "golden/case.rs"]
mod case;
#[path = "golden/manifests.rs"]
mod manifests;
#[path = "golden/policies.rs"]
mod policies;
#[path = "golden/samplers.rs"]
mod samplers;
#[path = "golden/tools.rs"]
mod tools;

use membrane_host::{World, first_party};

use case::Case;

/// Runs all cases of the plugins of a world; gives how many there were.
fn run_all(world: World, run: fn(&Case)) -> usize {
    let cases: Vec<Case> = first_party::list().filter(|p| p.world == world).flat_map(case::read).collect();
    for case in &cases {
        run(case);
    }
    cases.len()
}

#[test]
fn samplers_do_what_their_golden_cases_say() {
    assert!(run_all(World::Sampler, samplers::run) > 0);
}

#[test]
fn policies_do_what_their_golden_cases_say() {
    assert!(run_all(World::Policy, policies::run) > 0);
}

#[test]
fn tools_do_what_their_golden_cases_say() {
    assert!(run_all(World::Tool, tools::run) > 0);
}

#[test]
fn every_plugin_has_golden_cases() {
    for plugin in first_party::list() {
        assert!(!case::read(plugin).is_empty(), "{} has none", plugin.name);
    }
}
