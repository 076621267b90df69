//! Processes of plugins that die, fall silent or lie: each is a failure of its plugin with a cause that can be read, and
//! the host goes on.
//!
//! The lying ones are tests of `liars`, which confine themselves as the real ones do and then speak the
//! protocol by hand.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "isolation/jail.rs"]
mod jail;
#[path = "isolation/liars.rs"]
mod liars;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{context, options, program, source};
use membrane_host::isolation::ProcessOptions;
use membrane_host::{
    CodeCache, DEFAULT_CAPACITY_BYTES, Host, HostError, HostOptions, Isolation, Limits, POLICY_FAILED,
    Plugin, PluginSource, PolicyChain, SamplerChain, ToolError, ToolSet, World, first_party,
};
use serde_json::{Value, json};

/// A guest of `tests/guests` in a process of its own, with so much fuel.
fn isolated(host: &Host, world: World, parameters: Value, fuel: u64) -> Plugin {
    limited(host, world, parameters, Limits { fuel_per_call: fuel, ..Limits::of(world) })
}

fn limited(host: &Host, world: World, parameters: Value, limits: Limits) -> Plugin {
    let mut source = source("x", common::component(world), world, parameters);
    source.grants.extend(membrane_host::Grant::ALL.into_iter().filter(|grant| grant.world() == world));
    host.load(PluginSource { limits, isolation: Isolation::Process, ..source }, world).unwrap()
}

/// Far more than a test takes.
const MUCH_FUEL: u64 = 100_000_000_000;

/// Ends the process of a plugin after a while.
fn kill_soon(plugin: &Plugin) -> std::thread::JoinHandle<()> {
    let process = plugin.process_id().unwrap().to_string();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
    })
}

fn step(host: &Host, plugin: &Plugin) -> Result<u32, HostError> {
    let mut chain = SamplerChain::start(host, std::slice::from_ref(plugin), context(100, 1))?;
    let mut logits: Vec<f32> = (0..100).map(|token| (token % 37) as f32).collect();
    Ok(chain.next(&mut logits, &[5, 6, 7], 2)?.token)
}

#[test]
fn a_sampler_whose_process_is_killed_in_a_call_fails_and_the_next_answer_has_another() {
    let host = common::host();
    let looping = isolated(&host, World::Sampler, json!({ "mode": "loop" }), MUCH_FUEL);
    let killer = kill_soon(&looping);
    let error = step(&host, &looping).unwrap_err().to_string();
    assert_eq!(error, "plugin `x`: sample failed: its process ended: signal: 9 (SIGKILL)");
    killer.join().unwrap();
    let drawing = looping.with_parameters(json!({ "mode": "draw" }).as_object().unwrap().clone());
    let first = looping.process_id();
    assert!(step(&host, &drawing).is_ok());
    assert_ne!(drawing.process_id(), first);
}

#[test]
fn a_process_that_ended_while_idle_costs_no_answer() {
    let host = common::host();
    let agent = first_party::find("react").unwrap();
    let agent = PluginSource {
        isolation: Isolation::Process,
        ..PluginSource::new("x", agent.bytes.to_vec(), World::Agent)
    };
    let agent = host.load(agent, World::Agent).unwrap();
    let sampler = isolated(&host, World::Sampler, json!({ "mode": "draw" }), MUCH_FUEL);
    for plugin in [&agent, &sampler] {
        let process = plugin.process_id().unwrap().to_string();
        assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
        // It has ended when its last thread has; the first one may be a zombie before.
        let status = || std::fs::read_to_string(format!("/proc/{process}/stat"));
        let threads = || std::fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count);
        while status().is_ok_and(|status| !status.contains(") Z ")) || threads() > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        for _ in 0..2 {
            plugin.try_start().unwrap();
        }
    }
    assert!(step(&host, &sampler).is_ok());
}

#[test]
fn a_policy_whose_process_is_killed_withholds_the_answer() {
    let host = common::host();
    let held = json!({ "hook": "output", "act": "loop", "word": "w" });
    let policy = isolated(&host, World::Policy, held, MUCH_FUEL);
    let mut chain = PolicyChain::start(&host, std::slice::from_ref(&policy)).unwrap();
    let killer = kill_soon(&policy);
    let outcome = chain.output("a w b", true);
    killer.join().unwrap();
    assert_eq!(outcome.released, "");
    let Some(membrane_host::Ended::Refused(refused)) = outcome.ended else { panic!("{outcome:?}") };
    assert_eq!(refused.clause, POLICY_FAILED);
    assert!(refused.message.contains("its process ended: signal: 9 (SIGKILL)"), "{}", refused.message);
    assert!(chain.prompt("anything").is_err());
}

#[test]
fn a_policy_whose_process_died_between_two_calls_withholds_the_rest() {
    let host = common::host();
    let policy = isolated(&host, World::Policy, json!({ "hook": "none", "act": "none" }), MUCH_FUEL);
    let mut chain = PolicyChain::start(&host, std::slice::from_ref(&policy)).unwrap();
    let process = policy.process_id().unwrap().to_string();
    assert!(chain.output("a", false).ended.is_none());
    assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
    let outcome = chain.output("b", true);
    assert_eq!(outcome.released, "");
    assert!(matches!(outcome.ended, Some(membrane_host::Ended::Refused(_))), "{outcome:?}");
}

#[test]
fn a_tool_whose_process_is_killed_spoils_one_call() {
    let host = common::host();
    let tool = isolated(&host, World::Tool, json!({ "names": ["one"] }), MUCH_FUEL);
    let mut set = ToolSet::start(&host, std::slice::from_ref(&tool)).unwrap();
    assert_eq!(set.call("one", "{}").unwrap(), "one, call 1");
    let killer = kill_soon(&tool);
    let failed = set.call("one", r#"{"act": "loop"}"#).unwrap_err();
    killer.join().unwrap();
    assert!(matches!(&failed, ToolError::Failed(_)), "{failed}");
    assert_eq!(failed.to_string(), "plugin `x`: call failed: its process ended: signal: 9 (SIGKILL)");
    assert_eq!(set.call("one", "{}").unwrap(), "one, call 1");
}

#[test]
#[ignore = "is a host that is killed, started by a test"]
fn host_with_a_sampler_that_loops() {
    let looping = isolated(&common::host(), World::Sampler, json!({ "mode": "loop" }), u64::MAX);
    println!("process {}", looping.process_id().unwrap());
    let _ = step(&common::host(), &looping);
}

/// What computes for ever asks its host for nothing, and so does not notice by itself that it is gone.
#[test]
fn a_process_that_computes_ends_with_a_host_that_is_killed() {
    let program = program("host_with_a_sampler_that_loops");
    let mut host = Command::new(program.path).args(program.arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map(Result::unwrap);
    let process = lines.find_map(|line| Some(line.split_once("process ")?.1.to_owned())).unwrap();
    let running = || Path::new("/proc").join(&process).exists();
    assert!(running());
    std::thread::sleep(Duration::from_millis(300));
    host.kill().unwrap();
    host.wait().unwrap();
    let killed = Instant::now();
    while running() {
        assert!(killed.elapsed() < Duration::from_secs(20), "process {process} outlives its host");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_process_outlives_the_thread_that_asked_for_it() {
    let host = common::host();
    let ask = || isolated(&host, World::Sampler, json!({ "mode": "draw" }), MUCH_FUEL);
    let plugin = std::thread::scope(|scope| scope.spawn(ask).join().unwrap());
    let process = plugin.process_id();
    std::thread::sleep(Duration::from_millis(100));
    assert!(step(&host, &plugin).is_ok());
    assert_eq!(plugin.process_id(), process);
}

/// What comes of a call whose process is `liar`.
fn lied_to(liar: &str) -> String {
    let mut options = options();
    let patience = Duration::from_millis(400);
    options.processes =
        Some(ProcessOptions { patience, ..ProcessOptions::new(program(&format!("liars::{liar}"))) });
    let host = Host::new(options).unwrap();
    let greedy = first_party::find("greedy").unwrap();
    let source = PluginSource {
        isolation: Isolation::Process,
        ..PluginSource::new("x", greedy.bytes, World::Sampler)
    };
    let limits = Limits { fuel_per_call: 1_000_000, ..source.limits };
    let begun = Instant::now();
    let error = match host.load(PluginSource { limits, ..source }, World::Sampler) {
        Ok(plugin) => step(&host, &plugin).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(begun.elapsed() < Duration::from_secs(20), "{liar}: {:?}", begun.elapsed());
    error
}

#[test]
fn processes_that_lie_are_ended_and_named() {
    let broke = "plugin `x`: configure failed: its process broke the protocol: ";
    for (liar, expected) in [
        ("garbage", format!("{broke}a malformed message")),
        ("oversized", format!("{broke}a frame of 4294967295 bytes; the limit is 50397184")),
        ("half", "plugin `x`: configure failed: its process did not answer for 1 s".into()),
        ("silent", "plugin `x`: configure failed: its process did not answer for 1 s".into()),
        ("trickle", "plugin `x`: configure failed: its process did not answer for 1 s".into()),
        ("floods", "plugin `x`: configure failed: its process did not answer for 1 s".into()),
        ("leaves", "plugin `x`: configure failed: its process ended: exit status: 7".into()),
        ("ungranted", format!("{broke}it asked for `clock`, which it was not granted")),
        ("malformed_import", format!("{broke}a malformed import")),
        ("malformed_result", format!("{broke}an unexpected answer")),
        ("result_with_more", format!("{broke}an unexpected answer")),
        ("wrong_answer", format!("{broke}an unexpected answer")),
        ("goes_on", format!("{broke}it asked for an import after the host had ended the call")),
        ("succeeds_all_the_same", format!("{broke}it went on after the host had ended the call")),
        ("own_end", format!("{broke}it spoke of its own end")),
    ] {
        assert_eq!(lied_to(liar), expected, "{liar}");
    }
}

#[test]
fn programs_that_serve_no_plugins_are_told_so() {
    let missing = membrane_host::isolation::Program { path: "/nowhere/at/all".into(), arguments: Vec::new() };
    let quits = membrane_host::isolation::Program { path: "/bin/true".into(), arguments: Vec::new() };
    for (program, expected) in [
        (missing, "/nowhere/at/all: No such file or directory"),
        (quits, "/bin/true did not get ready: its process"),
        (program("liars::another_version"), "speaks version 99 of the protocol, and this host "),
    ] {
        let processes = Some(ProcessOptions::new(program));
        let host = Host::new(HostOptions { processes, ..HostOptions::default() }).unwrap();
        let greedy = first_party::find("greedy").unwrap();
        let source = PluginSource::new("x", greedy.bytes, World::Sampler);
        let source = PluginSource { isolation: Isolation::Process, ..source };
        let error = host.load(source, World::Sampler).unwrap_err().to_string();
        assert!(error.starts_with("plugin `x`: can't run in a process of its own: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn without_a_program_nothing_runs_in_the_hosts_process_instead() {
    let host = Host::new(HostOptions::default()).unwrap();
    let greedy = first_party::find("greedy").unwrap();
    for isolation in [Isolation::Process, Isolation::Required] {
        let source = PluginSource { isolation, ..PluginSource::new("x", greedy.bytes, World::Sampler) };
        let error = host.load(source, World::Sampler).unwrap_err();
        assert!(matches!(error, HostError::Isolation { .. }), "{error}");
    }
}

/// The same tokens, from instances that live side by side in one process.
#[test]
fn answers_share_a_process_and_nothing_else() {
    let host = common::host();
    let tokens = |plugin: &Plugin, seeds: &[u64]| -> Vec<Vec<u32>> {
        let start =
            |seed| SamplerChain::start(&host, std::slice::from_ref(plugin), context(300, seed)).unwrap();
        let mut chains: Vec<SamplerChain> = seeds.iter().map(|seed| start(*seed)).collect();
        let mut histories = vec![vec![1, 2, 3]; chains.len()];
        for turn in 0..40 {
            for (chain, history) in chains.iter_mut().zip(&mut histories) {
                let logits = (0..300u32).map(|token| ((token * 37 + turn * 11) % 101) as f32 * 0.05);
                history.push(chain.next(&mut logits.collect(), history, 3).unwrap().token);
            }
        }
        histories
    };
    for name in ["standard-sampler", "mirostat"] {
        let found = first_party::find(name).unwrap();
        let source = PluginSource::new(name, found.bytes, World::Sampler);
        let here = host.load(source.clone(), World::Sampler).unwrap();
        let apart = PluginSource { isolation: Isolation::Process, ..source };
        let apart = host.load(apart, World::Sampler).unwrap();
        let seeds: Vec<u64> = (0..20).collect();
        let alone: Vec<Vec<u32>> = seeds.iter().flat_map(|seed| tokens(&here, &[*seed])).collect();
        assert_eq!(tokens(&apart, &seeds), alone, "{name}");
        assert!(apart.process_id().is_some() && here.process_id().is_none());
    }
}

#[test]
fn calls_from_many_threads_take_turns() {
    let host = common::host();
    let plugin = isolated(&host, World::Tool, json!({ "names": ["one"] }), MUCH_FUEL);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut set = ToolSet::start(&host, std::slice::from_ref(&plugin)).unwrap();
                for call in 1..=50 {
                    assert_eq!(set.call("one", "{}").unwrap(), format!("one, call {call}"));
                }
            });
        }
    });
}

#[test]
fn waiting_for_the_calls_of_others_takes_nothing_of_a_calls_time() {
    /// The last one waits for longer than the limit, of which its own work is a small part however busy the machine is.
    const CALLS: u32 = 24;
    let host = common::host();
    let load = |wall_ms: Option<u64>| {
        let limits = Limits { fuel_per_call: 1_000_000_000, wall_ms, ..Limits::of(World::Tool) };
        limited(&host, World::Tool, json!({ "names": ["one"] }), limits)
    };
    let computes = |plugin: &Plugin| {
        let mut set = ToolSet::start(&host, std::slice::from_ref(plugin)).unwrap();
        let begun = Instant::now();
        let error = set.call("one", r#"{"act": "loop"}"#).unwrap_err().to_string();
        assert!(error.contains("ran out of fuel"), "{error}");
        begun.elapsed()
    };
    let alone = computes(&load(None));
    let plugin = load(Some(10 * u64::try_from(alone.as_millis()).unwrap().max(1)));
    std::thread::scope(|scope| {
        for _ in 0..CALLS {
            scope.spawn(|| computes(&plugin));
        }
    });
}

#[test]
fn compiled_code_comes_back_to_such_processes_and_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let (code, key) = (folder.path().join("code"), folder.path().join("key/code.key"));
        Some(Arc::new(CodeCache::open(&code, &key, DEFAULT_CAPACITY_BYTES).unwrap()))
    };
    let host = || Host::new(HostOptions { cache: open(), ..options() }).unwrap();
    let entries = || -> Vec<String> {
        let listed = std::fs::read_dir(folder.path().join("code")).unwrap();
        listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let first = guest_apart(&host());
    assert!(step(&host(), &first).is_ok());
    let written = entries();
    assert!(written.len() == 1 && written[0].ends_with("-confined.cwasm"), "{written:?}");
    // It is taken: a component that such a process takes in compiled is not written again.
    let path = folder.path().join("code").join(&written[0]);
    let before = std::fs::read(&path).unwrap();
    assert!(step(&host(), &guest_apart(&host())).is_ok());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // Under the name of an entry for the host's own process it is worth nothing.
    let own = folder.path().join("code").join(written[0].replace("-confined", ""));
    std::fs::copy(&path, &own).unwrap();
    let here = PluginSource { isolation: Isolation::None, ..guest_source() };
    host().load(here, World::Sampler).unwrap();
    assert_ne!(std::fs::read(&own).unwrap(), before, "code of a confined compiler was taken in");
    // What was changed is compiled again.
    let mut changed = before.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&path, changed).unwrap();
    assert!(step(&host(), &guest_apart(&host())).is_ok());
}

fn guest_source() -> PluginSource {
    let bytes = common::component(World::Sampler);
    let mut source = source("x", bytes, World::Sampler, json!({ "mode": "draw" }));
    source.grants.insert(membrane_host::Grant::AllLogits);
    source
}

fn guest_apart(host: &Host) -> Plugin {
    let source = PluginSource { isolation: Isolation::Process, ..guest_source() };
    host.load(source, World::Sampler).unwrap()
}

#[test]
fn a_process_ends_with_its_plugin() {
    let host = common::host();
    let plugin = guest_apart(&host);
    let folder = std::path::PathBuf::from(format!("/proc/{}", plugin.process_id().unwrap()));
    assert!(folder.exists());
    let chain = SamplerChain::start(&host, std::slice::from_ref(&plugin), context(100, 1)).unwrap();
    drop(plugin);
    assert!(folder.exists());
    drop(chain);
    assert!(!folder.exists());
}

const NUMBERS: &str = "MEMBRANE_TEST_NUMBERS";

#[test]
#[ignore = "is a host that is killed, started by a test"]
fn doomed_host() {
    let plugin = guest_apart(&common::host());
    std::fs::write(std::env::var_os(NUMBERS).unwrap(), plugin.process_id().unwrap().to_string()).unwrap();
    std::thread::park_timeout(Duration::from_secs(60));
}

#[test]
fn a_process_ends_with_a_host_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (numbers, program) = (folder.path().join("numbers"), program("doomed_host"));
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).env(NUMBERS, &numbers).stdout(std::process::Stdio::null());
    let mut host = command.spawn().unwrap();
    let begun = Instant::now();
    let waits = |done: &dyn Fn() -> bool| {
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let number = || std::fs::read_to_string(&numbers).unwrap_or_default();
    waits(&|| !number().is_empty());
    let process = std::path::PathBuf::from(format!("/proc/{}/status", number()));
    assert!(process.exists());
    host.kill().unwrap();
    host.wait().unwrap();
    // It may be the zombie of whoever adopted it.
    waits(&|| std::fs::read_to_string(&process).map_or(true, |status| status.contains("State:\tZ")));
}
