//! Chains of samplers. Those that misbehave are in `tests/tests/hostile_plugins`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{component, context, guest, host, load, sampler, source};
use membrane_host::{
    Cause, Chosen, Failure, Grant, Host, HostError, Plugin, PluginSource, SamplerChain, World, first_party,
};
use serde_json::json;

fn logits() -> Vec<f32> {
    (0..100).map(|token| (token % 37) as f32 / 10.0).collect()
}

fn one_step(host: &Host, plugins: &[Plugin]) -> Result<Chosen, HostError> {
    SamplerChain::start(host, plugins, context(100, 1))?.next(&mut logits(), &[5, 6, 7], 2)
}

fn first_party(name: &str, host: &Host) -> Plugin {
    let plugin = first_party::find(name).unwrap();
    load(host, PluginSource::new(name, plugin.bytes, plugin.world))
}

#[test]
fn texts_of_guests_are_cleaned() {
    let host = host();
    let error = one_step(&host, &[sampler(&host, "configure-error")]).unwrap_err().to_string();
    assert_eq!(error, "plugin `x`: configure failed: no[31m such luck");
}

#[test]
fn parameters_that_a_plugin_does_not_have_are_refused_by_name() {
    let host = host();
    let mut source = source("x", component(World::Sampler), World::Sampler, json!({ "mood": "loop" }));
    source.grants.insert(Grant::AllLogits);
    let error = one_step(&host, &[load(&host, source.clone())]).unwrap_err().to_string();
    assert!(error.starts_with("plugin `x`: configure failed: parameters: unknown field `mood`"), "{error}");
    source.parameters = json!(["mode"]);
    let error = host.load(source, World::Sampler).unwrap_err().to_string();
    assert!(error.contains("its parameters are not a table"), "{error}");
}

#[test]
fn the_first_to_choose_wins_and_sees_what_those_before_have_done() {
    let host = host();
    let chain = [sampler(&host, "pass"), sampler(&host, "reverse"), first_party("greedy", &host)];
    let chosen = one_step(&host, &chain).unwrap();
    assert_eq!((chosen.token, chosen.by.as_str()), (0, "greedy"));
    assert_eq!(chosen.probability, Some(1.0), "the others are out of the running by then");
    let never_asked = sampler(&host, "loop");
    let chain = [first_party("greedy", &host), never_asked];
    assert_eq!(one_step(&host, &chain).unwrap().token, 36);
}

#[test]
fn a_chain_that_does_not_choose_is_an_error() {
    let host = host();
    let error =
        one_step(&host, &[sampler(&host, "pass"), sampler(&host, "reverse")]).unwrap_err().to_string();
    assert!(error.starts_with("no sampler chose a token (x, x)"), "{error}");
    assert!(one_step(&host, &[]).unwrap_err().to_string().contains("there is none"));
}

#[test]
fn history_follows_the_context_wherever_it_goes() {
    let host = host();
    let plugin = sampler(&host, "count-down");
    let mut chain = SamplerChain::start(&host, &[plugin], context(100, 1)).unwrap();
    let mut next = |history: &[u32]| chain.next(&mut logits(), history, 0).unwrap().token;
    assert_eq!(next(&[]), 0);
    assert_eq!(next(&[10, 20]), 19);
    assert_eq!(next(&[10, 20, 19]), 18);
    // Rewound, and another text.
    assert_eq!(next(&[10, 20]), 19);
    assert_eq!(next(&[7]), 6);
    assert_eq!(next(&[7, 8, 9, 50]), 49);
}

#[test]
fn the_prompt_is_hidden_without_its_grant() {
    let host = host();
    let parameters = serde_json::json!({ "mode": "count-down" });
    let mut hidden = source("x", component(World::Sampler), World::Sampler, parameters);
    hidden.grants.insert(Grant::AllLogits);
    let mut hidden = SamplerChain::start(&host, &[load(&host, hidden)], context(100, 1)).unwrap();
    let mut seeing = SamplerChain::start(&host, &[sampler(&host, "count-down")], context(100, 1)).unwrap();
    let next = |chain: &mut SamplerChain, prompt: usize| {
        chain.next(&mut logits(), &[10, 20, 30], prompt).unwrap().token
    };
    assert_eq!(next(&mut seeing, 3), 29);
    // The guest takes what is not there for 0.
    assert_eq!(next(&mut hidden, 3), 0);
    assert_eq!(next(&mut hidden, 2), 29, "what the model wrote is seen");
}

#[test]
fn the_seed_decides_and_steps_differ() {
    let host = host();
    for mode in ["draw", "random"] {
        let plugin = sampler(&host, mode);
        let tokens = |seed: u64| {
            let mut chain =
                SamplerChain::start(&host, std::slice::from_ref(&plugin), context(100, seed)).unwrap();
            (0..20).map(|_| chain.next(&mut logits(), &[], 0).unwrap().token).collect::<Vec<_>>()
        };
        let first = tokens(1);
        assert_eq!(first, tokens(1), "{mode}");
        assert_ne!(first, tokens(2), "{mode}");
        assert!(first.iter().any(|token| *token != first[0]), "{mode}");
    }
}

#[test]
fn logits_that_can_not_be_sampled_from_are_the_models_fault() {
    let host = host();
    let mut chain = SamplerChain::start(&host, &[first_party("greedy", &host)], context(3, 1)).unwrap();
    for bad in [vec![f32::NAN; 3], vec![f32::NEG_INFINITY; 3], vec![0.0, f32::INFINITY, 0.0], Vec::new()] {
        let error = chain.next(&mut bad.clone(), &[], 0).unwrap_err();
        assert!(matches!(error, HostError::Logits(_)), "{error}");
    }
    assert_eq!(chain.next(&mut vec![0.0, f32::NAN, 1.0], &[], 0).unwrap().token, 2);
}

#[test]
fn a_failure_is_typed() {
    let host = host();
    let error = one_step(&host, &[sampler(&host, "recursion")]).unwrap_err();
    let expected = Failure { plugin: "x".into(), hook: "sample", cause: Cause::Recursion };
    assert_eq!(error, HostError::Failed(expected));
}

#[test]
fn a_policy_is_no_sampler() {
    let host = host();
    let policy = guest(&host, World::Policy, json!({ "hook": "output", "act": "none" }));
    let error = one_step(&host, &[policy]).unwrap_err().to_string();
    assert!(error.contains("is a policy, and is used as a sampler"), "{error}");
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    common::again_in_processes("all_of_this_holds_in_processes_of_their_own");
}
