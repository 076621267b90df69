//! Chains of samplers, well behaved and not. Every failure names the plugin, the hook and the cause, and the
//! process lives.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::{LITTLE_FUEL, component, context, guest, host, load, options, sampler, source};
use membrane_host::{
    Cause, Chosen, Failure, Grant, Host, HostError, HostOptions, LogLine, Plugin, PluginSource, SamplerChain,
    World, first_party,
};
use serde_json::json;

fn logits() -> Vec<f32> {
    (0..100).map(|token| (token % 37) as f32 / 10.0).collect()
}

fn one_step(host: &Host, plugins: &[Plugin]) -> Result<Chosen, HostError> {
    SamplerChain::start(host, plugins, context(100, 1))?.next(&mut logits(), &[5, 6, 7], 2)
}

/// The error of a chain of one, which must not keep another answer from being given.
fn failure(mode: &str) -> String {
    let host = host();
    let error = one_step(&host, &[sampler(&host, mode)]).unwrap_err().to_string();
    let greedy = first_party("greedy", &host);
    assert_eq!(one_step(&host, &[greedy]).unwrap().token, 36);
    error
}

fn first_party(name: &str, host: &Host) -> Plugin {
    let plugin = first_party::find(name).unwrap();
    load(host, PluginSource::new(name, plugin.bytes, plugin.world))
}

#[test]
fn a_loop_runs_out_of_fuel() {
    assert_eq!(failure("loop"), format!("plugin `x`: sample ran out of fuel ({LITTLE_FUEL} units a call)"));
    let start = 4 * LITTLE_FUEL;
    assert_eq!(
        failure("configure-loop"),
        format!("plugin `x`: configure ran out of fuel ({start} units a call)")
    );
}

#[test]
fn work_that_the_host_does_costs_fuel_too() {
    assert_eq!(
        failure("host-work"),
        format!("plugin `x`: sample ran out of fuel ({LITTLE_FUEL} units a call)")
    );
}

#[test]
fn memory_ends_at_its_limit() {
    assert_eq!(failure("memory"), "plugin `x`: sample asked for more memory than its limit of 64 MiB");
}

#[test]
fn recursion_ends() {
    assert_eq!(failure("recursion"), "plugin `x`: sample recursed too deep");
    let error = failure("wide-recursion");
    assert!(error.starts_with("plugin `x`: sample trapped: out of bounds memory access"), "{error}");
    assert!(error.ends_with("recursing too deep for the plugin's own stack"), "{error}");
}

#[test]
fn a_panic_is_told_in_its_own_words() {
    let error = failure("panic");
    assert!(error.starts_with("plugin `x`: sample trapped: unreachable instruction"), "{error}");
    assert!(error.ends_with("on[31m purpose"), "{error}");
}

#[test]
fn tokens_that_may_not_be_chosen_are_refused() {
    assert_eq!(
        failure("out-of-vocabulary"),
        "plugin `x`: sample broke the contract: it chose token 4294967295; the vocabulary has 100 tokens"
    );
    assert_eq!(
        failure("masked"),
        "plugin `x`: sample broke the contract: it chose token 2, which is not in the running"
    );
}

#[test]
fn mistakes_are_told_to_the_guest() {
    assert_eq!(failure("nan"), "plugin `x`: sample failed: the logit of token 0 is not a number");
    assert_eq!(failure("mask-all"), "plugin `x`: sample failed: no token is left in the running");
    assert_eq!(
        failure("bad-parameter"),
        "plugin `x`: sample failed: top-p is NaN, which is not a finite number"
    );
}

#[test]
fn texts_of_guests_are_cut_and_cleaned() {
    assert_eq!(failure("configure-error"), "plugin `x`: configure failed: no[31m such luck");
    let error = failure("long-error");
    assert!(error.len() < 1200 && !error.contains(|c: char| c.is_control()), "{error}");
    assert!(failure("too-long-error").starts_with("plugin `x`: sample "));
}

#[test]
fn a_flood_of_log_lines_is_cut_and_cleaned() {
    let lines: Arc<Mutex<Vec<LogLine>>> = Arc::default();
    let kept = lines.clone();
    let sink = Arc::new(move |line: &LogLine| kept.lock().unwrap().push(line.clone()));
    let host = Host::new(HostOptions { log: Some(sink), ..options() }).unwrap();
    assert!(one_step(&host, &[sampler(&host, "flood")]).is_ok());
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 256);
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line.plugin, "x");
        assert!(line.text.starts_with(&format!("[2J{number}  forged")), "{}", line.text);
        assert!(
            line.text.len() <= 1024 + 3 && !line.text.contains(|c: char| c.is_control()),
            "{}",
            line.text
        );
    }
}

#[test]
fn an_ungranted_interface_is_refused_before_anything_runs() {
    let world = World::Sampler;
    let error = host().load(source("x", component(world), world, json!({})), world).unwrap_err();
    assert!(matches!(error, HostError::NotGranted { grant: Grant::AllLogits, .. }), "{error}");
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
