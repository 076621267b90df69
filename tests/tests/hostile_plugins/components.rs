//! Components that no toolchain would make, from WAT and the contract's WIT.

use membrane_tests::workspace;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

pub const CONFIGURE: &str = r#"(func (export "membrane:plugin/sampler-plugin@0.1.0#configure")
    (param i32 i32) (result i32) i32.const 16)"#;
pub const SAMPLE: &str =
    r#"(func (export "membrane:plugin/sampler-plugin@0.1.0#sample") (result i32) i32.const 16)"#;
pub const REALLOC: &str =
    r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)"#;
pub const MEMORY: &str = r#"(memory (export "memory") 1)"#;

/// The text of the contract.
pub fn contract() -> String {
    let folder = workspace().join("wit");
    let mut text = String::from("package membrane:plugin@0.1.0;\n");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wit"));
    files.sort();
    for file in files {
        let source = std::fs::read_to_string(file).unwrap();
        let lines = source.lines().filter(|line| !line.starts_with("package ") && !line.starts_with("///"));
        lines.for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text
}

/// A component of a world of the contract `wit`, whose core module is `wat`.
pub fn component(wit: &str, world: &str, wat: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_str("test.wit", wit).unwrap();
    let packages = resolve.packages.iter();
    let mut of_world = packages.filter(|(_, package)| package.worlds.contains_key(world)).map(|(id, _)| id);
    let package = of_world.next_back().unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(wat).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A sampler with these parts beside a `configure` and a `sample` that pass.
pub fn sampler(memory: &str, more: &str) -> Vec<u8> {
    let wat = format!("(module {memory} {REALLOC} {CONFIGURE} {SAMPLE} {more})");
    component(&contract(), "sampler", &wat)
}

/// A sampler whose `sample` gives what stands at address 48: `data` in the text format.
pub fn sampler_giving(data: &str) -> Vec<u8> {
    let wat = format!(
        r#"(module {MEMORY} {REALLOC} {CONFIGURE} (data (i32.const 48) "{data}")
        (func (export "membrane:plugin/sampler-plugin@0.1.0#sample") (result i32) i32.const 48))"#
    );
    component(&contract(), "sampler", &wat)
}

/// A policy that allows all in every hook but `output`, whose verdict stands at address 48.
pub fn policy_giving(data: &str) -> Vec<u8> {
    let hook = |name: &str, parameters: usize, at: u32| {
        format!(
            r#"(func (export "membrane:plugin/policy-plugin@0.1.0#{name}") (param {}) (result i32) i32.const {at})"#,
            "i32 ".repeat(parameters)
        )
    };
    let hooks = [
        hook("configure", 2, 16),
        hook("request", 2, 16),
        hook("prompt", 2, 16),
        hook("output", 3, 48),
        hook("tool-call", 4, 16),
        hook("tool-result", 6, 16),
        hook("finish", 2, 16),
    ];
    let wat = format!(r#"(module {MEMORY} {REALLOC} (data (i32.const 48) "{data}") {})"#, hooks.concat());
    component(&contract(), "policy", &wat)
}

/// A tool whose `describe` gives the list that is described at address 48, in so many pages of memory.
pub fn tool_describing(pages: u32, data: &str) -> Vec<u8> {
    let wat = format!(
        r#"(module (memory (export "memory") {pages}) {REALLOC} (data (i32.const 48) "{data}")
        (func (export "membrane:plugin/tool-plugin@0.1.0#configure") (param i32 i32) (result i32) i32.const 16)
        (func (export "membrane:plugin/tool-plugin@0.1.0#describe") (result i32) i32.const 48)
        (func (export "membrane:plugin/tool-plugin@0.1.0#call") (param i32 i32 i32 i32) (result i32) i32.const 16))"#
    );
    component(&contract(), "tool", &wat)
}

/// An agent that does `body` with its handles; `$session`, `$length`, `$drop`, `$next` and `$cancel` are imported.
pub fn agent_doing(body: &str) -> Vec<u8> {
    let import = |name: &str, function: &str, shape: &str| {
        format!(r#"(import "membrane:plugin/inference@0.1.0" "{function}" (func ${name} {shape}))"#)
    };
    let imports = [
        import("session", "[constructor]session", "(result i32)"),
        import("length", "[method]session.length", "(param i32) (result i32)"),
        import("drop", "[resource-drop]session", "(param i32)"),
        import("next", "[method]generation.next", "(param i32 i32)"),
        import("cancel", "[method]generation.cancel", "(param i32)"),
    ];
    let wat = format!(
        r#"(module {} {MEMORY} {REALLOC}
        (func (export "membrane:plugin/agent-plugin@0.1.0#configure") (param i32 i32) (result i32) i32.const 16)
        (func (export "membrane:plugin/agent-plugin@0.1.0#run") (param i32 i32) (result i32)
            (local $a i32) {body} i32.const 16))"#,
        imports.concat()
    );
    component(&contract(), "agent", &wat)
}
