//! Code that was compiled in haste does what well compiled code does.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{context, host, isolation, placed};
use membrane_host::{CompileLimits, Host, HostError, PluginSource, SamplerChain, World, first_party};
use serde_json::json;

/// Tokens that a sampler draws from flat logits.
fn drawn(host: &Host, name: &str) -> Vec<u32> {
    let plugin = first_party::find(name).unwrap();
    let source = placed(PluginSource::new(name, plugin.bytes, World::Sampler));
    let plugin = host.load(PluginSource { parameters: json!({}), ..source }, World::Sampler).unwrap();
    let mut chain = SamplerChain::start(host, &[plugin], context(500, 7)).unwrap();
    let mut history = vec![1, 2, 3];
    for step in 0..60u32 {
        let mut logits: Vec<f32> =
            (0..500u32).map(|token| ((token * 37 + step * 11) % 101) as f32 * 0.05).collect();
        let chosen = chain.next(&mut logits, &history, 3).unwrap();
        history.push(chosen.token);
    }
    history
}

#[test]
fn a_draft_draws_the_same_tokens_and_both_run_side_by_side() {
    let host = host();
    let draft = host.draft().unwrap();
    for name in ["standard-sampler", "mirostat", "greedy"] {
        assert_eq!(drawn(&host, name), drawn(&draft, name), "{name}");
    }
}

/// Most of their functions are in one of the others.
#[test]
fn a_draft_that_has_compiled_others_draws_the_same_tokens() {
    let host = host();
    let draft = host.draft().unwrap();
    let names = ["standard-sampler", "mirostat", "adaptive-p"];
    for name in names {
        draft.foresee(first_party::find(name).unwrap().bytes, World::Sampler, isolation());
    }
    for name in names {
        assert_eq!(drawn(&host, name), drawn(&draft, name), "{name}");
    }
}

#[test]
fn a_component_that_meets_a_limit_spoils_no_other() {
    let host = host();
    let draft = host.draft().unwrap();
    let none =
        CompileLimits { time: Duration::ZERO, time_per_mib: Duration::ZERO, ..CompileLimits::default() };
    for _ in 0..2 {
        let bytes = first_party::find("guard").unwrap().bytes;
        let source = placed(PluginSource::new("bomb", bytes, World::Policy));
        let error = draft.within(none).load(source, World::Policy).unwrap_err();
        assert!(matches!(&error, HostError::Compile { plugin, .. } if plugin == "bomb"), "{error}");
        assert!(error.to_string().contains("takes more than 0.0 s"), "{error}");
        assert_eq!(drawn(&host, "greedy"), drawn(&draft, "greedy"));
    }
}

/// A limit of fuel falls on the same instruction.
#[test]
fn a_draft_uses_the_same_fuel() {
    let host = host();
    let draft = host.draft().unwrap();
    let starts = |host: &Host, fuel: u64| {
        let plugin = first_party::find("standard-sampler").unwrap();
        let mut source = placed(PluginSource::new("s", plugin.bytes, World::Sampler));
        source.limits.fuel_per_call = fuel;
        let plugin = host.load(source, World::Sampler).unwrap();
        SamplerChain::start(host, &[plugin], context(50, 7)).is_ok()
    };
    let (mut low, mut high) = (1, 1 << 20);
    assert!(starts(&host, high) && !starts(&host, low));
    while high - low > 1 {
        let middle = (low + high) / 2;
        if starts(&host, middle) { high = middle } else { low = middle }
    }
    assert!(starts(&draft, high) && !starts(&draft, low), "{high} units");
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    common::again_in_processes("all_of_this_holds_in_processes_of_their_own");
}
