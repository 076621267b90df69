//! Samplers, policies and agents for tests, from WAT and the contract's WIT.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::program::workspace;

/// A sampler that does `body` for each token, in which `$log` logs, and then fails with an error or, without one, lets the
/// next one choose.
pub fn sampler(data: &str, body: &str, error: Option<&str>) -> Vec<u8> {
    let (failed, error) = (u8::from(error.is_some()), error.unwrap_or_default());
    let interface = "membrane:plugin/sampler-plugin@0.1.0";
    // At 64 stands the result of `sample`: whether it failed, then where its error is and how long.
    let wat = format!(
        r#"(module (import "membrane:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
        (memory (export "memory") 1) {data}
        (data (i32.const 64) "\{failed:02x}\00\00\00\00\02\00\00\{:02x}\00\00\00") (data (i32.const 512) {error:?})
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 32768)
        (func (export "{interface}#configure") (param i32 i32) (result i32) i32.const 16)
        (func (export "{interface}#sample") (result i32) {body} i32.const 64))"#,
        error.len()
    );
    component("sampler", &wat)
}

/// A policy that does `body` with each request, in which `$log` logs, and allows everything.
pub fn policy(data: &str, body: &str) -> Vec<u8> {
    let interface = "membrane:plugin/policy-plugin@0.1.0";
    // At 16 stand zeros, which allow. At 64 stands the result of `output`, which releases what there is.
    let wat = format!(
        r#"(module (import "membrane:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
        (memory (export "memory") 1) {data}
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 32768)
        (func (export "{interface}#configure") (param i32 i32) (result i32) i32.const 16)
        (func (export "{interface}#request") (param i32 i32) (result i32) {body} i32.const 16)
        (func (export "{interface}#prompt") (param i32 i32) (result i32) i32.const 16)
        (func (export "{interface}#output") (param i32 i32 i32) (result i32)
            (i32.store (i32.const 72) (local.get 1)) i32.const 64)
        (func (export "{interface}#tool-call") (param i32 i32 i32 i32) (result i32) i32.const 16)
        (func (export "{interface}#tool-result") (param i32 i32 i32 i32 i32 i32) (result i32) i32.const 16)
        (func (export "{interface}#finish") (param i32 i32) (result i32) i32.const 16))"#
    );
    component("policy", &wat)
}

/// An agent that does `body` with each task, in which `$log` logs, and gives an empty answer.
pub fn agent(data: &str, body: &str) -> Vec<u8> {
    let interface = "membrane:plugin/agent-plugin@0.1.0";
    // At 16 stand zeros: the task is done, and what is given is empty.
    let wat = format!(
        r#"(module (import "membrane:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
        (memory (export "memory") 1) {data}
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 32768)
        (func (export "{interface}#configure") (param i32 i32) (result i32) i32.const 16)
        (func (export "{interface}#run") (param i32 i32) (result i32) {body} i32.const 16))"#
    );
    component("agent", &wat)
}

fn component(world: &str, wat: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(workspace().join("wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(wat).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}
