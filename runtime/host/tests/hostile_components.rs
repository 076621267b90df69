//! Components that are refused before they run, or fail when they start. Each is made here from WAT and WIT.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{context, host, options, refusal, source};
use membrane_host::{CompileLimits, Grant, Host, HostError, HostOptions, SamplerChain, World};
use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const CONFIGURE: &str = r#"(func (export "membrane:plugin/sampler-plugin@0.1.0#configure")
    (param i32 i32) (result i32) i32.const 16)"#;
const SAMPLE: &str =
    r#"(func (export "membrane:plugin/sampler-plugin@0.1.0#sample") (result i32) i32.const 16)"#;
const REALLOC: &str = r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)"#;

/// The text of the contract.
fn contract() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut text = String::from("package membrane:plugin@0.1.0;\n");
    for file in ["types.wit", "sampler.wit", "policy.wit", "tool.wit", "agent.wit", "state.wit", "world.wit"]
    {
        let source = std::fs::read_to_string(folder.join(file)).unwrap();
        let lines = source.lines().filter(|line| !line.starts_with("package ") && !line.starts_with("///"));
        lines.for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text
}

/// A component of a world of the contract `wit`, whose core module is `wat`.
fn component(wit: &str, world: &str, wat: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("test.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(wat).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A sampler with these parts beside a `configure` and a `sample` that pass.
fn sampler(memory: &str, more: &str) -> Vec<u8> {
    let wat = format!("(module {memory} {REALLOC} {CONFIGURE} {SAMPLE} {more})");
    component(&contract(), "sampler", &wat)
}

const MEMORY: &str = r#"(memory (export "memory") 1)"#;

/// The error of an answer with one such sampler, which must come soon.
fn failure(bytes: Vec<u8>) -> String {
    let host = host();
    let plugin = host.load(source("x", bytes, World::Sampler, json!({})), World::Sampler).unwrap();
    let begun = Instant::now();
    let error = SamplerChain::start(&host, &[plugin], context(16, 1))
        .and_then(|mut chain| chain.next(&mut vec![0.0; 16], &[], 0))
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    error.to_string()
}

#[test]
fn a_plain_sampler_of_this_kind_runs() {
    assert!(failure(sampler(MEMORY, "")).starts_with("no sampler chose a token (x)"));
}

/// A component of many functions, which takes a good part of a second to compile.
fn laborious() -> Vec<u8> {
    let function = "(func (param i32) (result i32) local.get 0 i32.const 3 i32.mul i32.const 7 i32.add)";
    sampler(MEMORY, &function.repeat(4_000))
}

#[test]
fn a_component_that_takes_too_long_to_compile_is_refused() {
    let limits = CompileLimits {
        time: Duration::from_millis(30),
        time_per_mib: Duration::ZERO,
        ..CompileLimits::default()
    };
    let host = Host::new(HostOptions { compile: limits, ..options() }).unwrap();
    let begun = Instant::now();
    let error = host.load(source("x", laborious(), World::Sampler, json!({})), World::Sampler).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let error = error.to_string();
    assert!(error.contains("plugin `x`") && error.contains("takes more than 0.0 s"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_component_that_takes_too_much_memory_to_compile_is_refused() {
    let limits = CompileLimits { memory_bytes: 1 << 20, memory_per_byte: 0, ..CompileLimits::default() };
    let host = Host::new(HostOptions { compile: limits, ..options() }).unwrap();
    let error = host.load(source("x", laborious(), World::Sampler, json!({})), World::Sampler).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("plugin `x`") && error.contains("takes more than 1 MiB"), "{error}");
}

#[test]
fn an_import_without_its_grant_is_refused_with_the_line_to_add() {
    let import = r#"(import "membrane:plugin/all-logits@0.1.0" "read" (func (param i32)))"#;
    let bytes = sampler(&format!("{import} {MEMORY}"), "");
    let error = refusal(bytes.clone(), World::Sampler, &[]).to_string();
    assert!(error.contains("plugin `x`") && error.contains("membrane:plugin/all-logits@0.1.0"), "{error}");
    assert!(error.contains("grants = [\"all-logits\"]"), "{error}");
    let mut granted = source("x", bytes, World::Sampler, json!({}));
    granted.grants.insert(Grant::AllLogits);
    let loaded = host().load(granted, World::Sampler).unwrap();
    assert!(loaded.imports().iter().any(|name| name == "membrane:plugin/all-logits@0.1.0"));
}

#[test]
fn a_grant_of_another_world_is_refused() {
    let error = refusal(sampler(MEMORY, ""), World::Sampler, &[Grant::Clock]).to_string();
    assert!(error.contains("the grant `clock` is for a tool"), "{error}");
}

#[test]
fn an_interface_of_another_world_is_refused() {
    let world = "world odd { import clock; export sampler-plugin; }";
    let import = r#"(import "membrane:plugin/clock@0.1.0" "now-ms" (func (result i64)))"#;
    let wat = format!("(module {import} {MEMORY} {REALLOC} {CONFIGURE} {SAMPLE})");
    let error = refusal(component(&format!("{}{world}", contract()), "odd", &wat), World::Sampler, &[]);
    assert!(matches!(error, HostError::UnknownImport { .. }), "{error}");
    assert!(error.to_string().contains("membrane:plugin/clock@0.1.0"), "{error}");
}

/// A text of the contract that has the same version and is not the same.
#[test]
fn another_contract_of_the_same_version_is_told_by_its_names() {
    let wider = contract().replace("size: func() -> u32", "size: func() -> u64");
    let import = r#"(import "membrane:plugin/vocabulary@0.1.0" "size" (func (result i64)))"#;
    let wat = format!("(module {import} {MEMORY} {REALLOC} {CONFIGURE} {SAMPLE})");
    let imported = refusal(component(&wider, "sampler", &wat), World::Sampler, &[]);
    let other = contract().replace("sample: func() -> result<choice, string>", "sample: func() -> u64");
    let sample = r#"(func (export "membrane:plugin/sampler-plugin@0.1.0#sample") (result i64) i64.const 1)"#;
    let wat = format!("(module {MEMORY} {REALLOC} {CONFIGURE} {sample})");
    let exported = failure(component(&other, "sampler", &wat));
    let words = "has other parameters or results than in membrane:plugin@0.1.0";
    assert!(exported.starts_with("plugin `x`: start") && exported.contains(words), "{exported}");
    let removed = contract().replace("is-end: func", "is-the-end: func");
    let import =
        r#"(import "membrane:plugin/vocabulary@0.1.0" "is-the-end" (func (param i32) (result i32)))"#;
    let wat = format!("(module {import} {MEMORY} {REALLOC} {CONFIGURE} {SAMPLE})");
    let missing = refusal(component(&removed, "sampler", &wat), World::Sampler, &[]);
    for (error, names) in
        [(imported, ["vocabulary@0.1.0", "size"]), (missing, ["vocabulary@0.1.0", "is-the-end"])]
    {
        assert!(matches!(error, HostError::Mismatch { .. }), "{error}");
        let error = error.to_string();
        assert!(names.iter().all(|name| error.contains(name)), "{error}");
        assert!(error.contains("Build it with this version's wit/ or SDK"), "{error}");
        assert!(!error.contains("linker") && !error.contains("instance"), "{error}");
    }
}

#[test]
fn wasi_is_refused_by_name() {
    let wasi = "package wasi:cli@0.2.6 { interface environment { secrets: func() -> u32; } }";
    let world = "package test:odd { world odd {
        import wasi:cli/environment@0.2.6; export membrane:plugin/sampler-plugin@0.1.0; } }";
    let contract = contract().replace("package membrane:plugin@0.1.0;", "package membrane:plugin@0.1.0 {");
    let wit = format!("package test:root;\n{contract} }}\n{wasi}\n{world}");
    let import = r#"(import "wasi:cli/environment@0.2.6" "secrets" (func (result i32)))"#;
    let wat = format!("(module {import} {MEMORY} {REALLOC} {CONFIGURE} {SAMPLE})");
    let mut resolve = Resolve::default();
    resolve.push_str("test.wit", &wit).unwrap();
    let package = resolve.packages.iter().find(|(_, p)| p.name.name == "odd").unwrap().0;
    let world = resolve.select_world(&[package], Some("odd")).unwrap();
    let mut module = wat::parse_str(wat).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let bytes = ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
    let error = refusal(bytes, World::Sampler, &[]).to_string();
    assert!(error.contains("plugin `x`") && error.contains("`wasi:cli/environment@0.2.6`"), "{error}");
    assert!(error.contains("does not offer to a sampler"), "{error}");
}

#[test]
fn another_version_of_the_contract_is_refused_with_both_versions() {
    let next = |text: &str| text.replace("@0.1.0", "@0.2.0");
    let wat = format!("(module {MEMORY} {REALLOC} {} {})", next(CONFIGURE), next(SAMPLE));
    let error = refusal(component(&next(&contract()), "sampler", &wat), World::Sampler, &[]).to_string();
    assert!(error.contains("package version 0.2.0; this host serves 0.1.0"), "{error}");
}

#[test]
fn a_plugin_in_the_wrong_place_is_told_which_is_right() {
    let error = refusal(sampler(MEMORY, ""), World::Policy, &[]).to_string();
    assert!(error.contains("is a sampler, and is used as a policy"), "{error}");
    assert_eq!(Host::world_of("x", &sampler(MEMORY, "")), Ok(World::Sampler));
}

#[test]
fn what_is_no_component_is_refused_by_what_it_is() {
    let whole = sampler(MEMORY, "");
    let core = wat::parse_str("(module)").unwrap();
    let empty = wat::parse_str("(component)").unwrap();
    for (bytes, expected) in [
        (Vec::new(), "is not WebAssembly"),
        (b"hello".to_vec(), "is not WebAssembly"),
        (b"(component)".to_vec(), "is not WebAssembly"),
        (b"\x7fELF\x02\x01".to_vec(), "precompiled machine code"),
        (core, "is a core module, not a component"),
        (empty, "exports none of the interfaces"),
        (whole[..whole.len() / 2].to_vec(), "is malformed"),
        (vec![0; (32 << 20) + 1], "has 33554433 bytes; the limit is 33554432"),
    ] {
        let error = refusal(bytes, World::Sampler, &[]).to_string();
        assert!(error.contains("plugin `x`") && error.contains(expected), "{error}");
    }
}

#[test]
fn every_truncation_and_many_corruptions_end_in_an_error_or_load() {
    let whole = sampler(MEMORY, "");
    let host = host();
    for length in (0..whole.len()).step_by(7) {
        let cut = source("x", whole[..length].to_vec(), World::Sampler, json!({}));
        assert!(host.load(cut, World::Sampler).is_err(), "{length}");
    }
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let _ = host.load(source("x", bytes, World::Sampler, json!({})), World::Sampler);
    }
}

#[test]
fn a_function_that_would_take_long_to_compile_is_refused() {
    let body = "(block)".repeat(400_000);
    let error = refusal(sampler(MEMORY, &format!("(func {body})")), World::Sampler, &[]).to_string();
    assert!(error.contains("has a function of") && error.contains("the limit is 1048576"), "{error}");
}

#[test]
fn too_many_modules_are_refused() {
    let modules = "(core module)".repeat(200);
    let bytes = wat::parse_str(format!("(component {modules})")).unwrap();
    let error = refusal(bytes, World::Sampler, &[]).to_string();
    assert!(error.contains("more than 128 modules"), "{error}");
}

#[test]
fn a_start_function_that_loops_runs_out_of_fuel() {
    let error = failure(sampler(MEMORY, "(func $spin (loop br 0)) (start $spin)"));
    assert_eq!(error, "plugin `x`: start ran out of fuel (600000000 units a call)");
}

#[test]
fn memories_beyond_the_limit_are_refused() {
    let error = failure(sampler(r#"(memory (export "memory") 1100)"#, ""));
    assert_eq!(error, "plugin `x`: start asked for more memory than its limit of 64 MiB");
}

#[test]
fn a_table_of_a_million_elements_is_refused() {
    let error = failure(sampler(MEMORY, "(table 1000000 funcref)"));
    assert!(error.starts_with("plugin `x`: start "), "{error}");
}

#[test]
fn a_text_of_2_gib_out_of_nowhere_is_a_trap() {
    // An error whose text starts at 0 and has 2^31 - 1 bytes.
    let data = r#"(data (i32.const 16) "\01\00\00\00\00\00\00\00\ff\ff\ff\7f")"#;
    let wat = format!(
        r#"(module {MEMORY} {REALLOC} {SAMPLE} {data}
        (func (export "membrane:plugin/sampler-plugin@0.1.0#configure")
            (param i32 i32) (result i32) i32.const 48))"#
    );
    let error = failure(component(&contract(), "sampler", &wat));
    assert!(error.starts_with("plugin `x`: sample trapped: ") && error.contains("out"), "{error}");
}

#[test]
fn an_unknown_case_of_a_verdict_is_a_trap() {
    let data = r#"(data (i32.const 16) "\07")"#;
    let wat = format!(
        r#"(module {MEMORY} {REALLOC} {SAMPLE} {data}
        (func (export "membrane:plugin/sampler-plugin@0.1.0#configure")
            (param i32 i32) (result i32) i32.const 48))"#
    );
    let error = failure(component(&contract(), "sampler", &wat));
    assert!(error.starts_with("plugin `x`: sample trapped: "), "{error}");
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    common::again_in_processes("all_of_this_holds_in_processes_of_their_own");
}
