//! Components that are refused before they run, cost too much to compile, or fail when they start.

use std::time::Duration;

use membrane_host::{CompileLimits, Grant, HostError, HostOptions, PluginSource, World};
use serde_json::json;

use crate::arena::{Arena, failed};
use crate::attack::{Attack, Outcome};
use crate::components::{CONFIGURE, MEMORY, REALLOC, SAMPLE, component, contract, sampler, sampler_giving};

/// An attack by a component that is loaded and started, as a sampler without grants.
fn by(
    name: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
    bytes: fn() -> Vec<u8>,
) -> Attack {
    Attack::new(name, World::Sampler, tries, says, move |arena| start(arena, bytes()))
}

fn plain(arena: &Arena, bytes: Vec<u8>) -> PluginSource {
    PluginSource { grants: [].into(), ..arena.source(World::Sampler, bytes, json!({})) }
}

fn start(arena: &Arena, bytes: Vec<u8>) -> Outcome {
    failed(arena.load(plain(arena, bytes), World::Sampler).and_then(|plugin| arena.step(&[plugin])))
}

pub fn attacks() -> Vec<Attack> {
    [refused(), bombs(), starts(), results()].into_iter().flatten().collect()
}

/// What is not loaded.
fn refused() -> Vec<Attack> {
    vec![
        by("empty file", "is no WebAssembly", &["plugin `x`", "is not WebAssembly"], Vec::new),
        by("text file", "is WAT, which a host could compile", &["is not WebAssembly"], || {
            b"(component)".to_vec()
        }),
        by("machine code", "is precompiled, which a host would run", &["precompiled machine code"], || {
            b"\x7fELF\x02\x01".to_vec()
        }),
        by("core module", "is no component", &["a core module, not a component"], || {
            wat::parse_str("(module)").unwrap()
        }),
        by("no plugin", "exports nothing", &["exports none of the interfaces"], || {
            wat::parse_str("(component)").unwrap()
        }),
        by("half a component", "ends in the middle", &["is malformed"], || {
            let whole = sampler(MEMORY, "");
            whole[..whole.len() / 2].to_vec()
        }),
        by("32 MiB and a byte", "is too large", &["has 33554433 bytes; the limit is 33554432"], || {
            vec![0; (32 << 20) + 1]
        }),
        Attack::new(
            "cut and corrupted",
            World::Sampler,
            "is a plugin but for one byte",
            &["of no consequence"],
            corrupted,
        ),
        by("import without grant", "reads all logits", &["all-logits", "grants = [\"all-logits\"]"], || {
            let import = r#"(import "membrane:plugin/all-logits@0.1.0" "read" (func (param i32)))"#;
            sampler(&format!("{import} {MEMORY}"), "")
        }),
        Attack::new(
            "grant of another world",
            World::Sampler,
            "has the clock granted",
            &["is for a tool"],
            |arena| {
                let source = plain(arena, sampler(MEMORY, ""));
                failed(arena.load(PluginSource { grants: [Grant::Clock].into(), ..source }, World::Sampler))
            },
        ),
        by(
            "interface of another world",
            "imports the clock as a sampler",
            &["clock@0.1.0", "not offer"],
            || {
                let world = "world odd { import clock; export sampler-plugin; }";
                importing(
                    &format!("{}{world}", contract()),
                    "odd",
                    r#""clock@0.1.0" "now-ms" (func (result i64))"#,
                )
            },
        ),
        by("WASI", "imports the environment of WASI", &["wasi:cli/environment@0.2.6", "not offer"], wasi),
        by(
            "misspelt version",
            "is of a version that there is not",
            &["0.2.0; this host serves 0.1.0"],
            || {
                let next = |text: &str| text.replace("@0.1.0", "@0.2.0");
                let wat = format!("(module {MEMORY} {REALLOC} {} {})", next(CONFIGURE), next(SAMPLE));
                component(&next(&contract()), "sampler", &wat)
            },
        ),
        by(
            "other type of an import",
            "is handed 64 bits for 32",
            &["vocabulary", "size", "Build it with"],
            || {
                let other = contract().replace("size: func() -> u32", "size: func() -> u64");
                importing(&other, "sampler", r#""vocabulary@0.1.0" "size" (func (result i64))"#)
            },
        ),
        by("function that there is not", "imports a new function", &["is-the-end", "Build it with"], || {
            let other = contract().replace("is-end: func", "is-the-end: func");
            importing(&other, "sampler", r#""vocabulary@0.1.0" "is-the-end" (func (param i32) (result i32))"#)
        }),
        by(
            "other type of an export",
            "gives a number for a choice",
            &["has other parameters or results"],
            || {
                let result = "sample: func() -> result<choice, string>";
                let other = contract().replace(result, "sample: func() -> u64");
                let sample = r#"(func (export "membrane:plugin/sampler-plugin@0.1.0#sample") (result i64) i64.const 1)"#;
                component(&other, "sampler", &format!("(module {MEMORY} {REALLOC} {CONFIGURE} {sample})"))
            },
        ),
        Attack::new(
            "wrong place",
            World::Sampler,
            "stands where policies do",
            &["is used as a policy"],
            |arena| failed(arena.load(plain(arena, sampler(MEMORY, "")), World::Policy)),
        ),
    ]
}

/// A sampler with one import, by interface, function and type.
fn importing(wit: &str, world: &str, import: &str) -> Vec<u8> {
    let import = import.trim_start_matches('"');
    let wat =
        format!(r#"(module (import "membrane:plugin/{import}) {MEMORY} {REALLOC} {CONFIGURE} {SAMPLE})"#);
    component(wit, world, &wat)
}

fn wasi() -> Vec<u8> {
    let wasi = "package wasi:cli@0.2.6 { interface environment { secrets: func() -> u32; } }";
    let world = "package test:odd { world odd {
        import wasi:cli/environment@0.2.6; export membrane:plugin/sampler-plugin@0.1.0; } }";
    let contract = contract().replace("package membrane:plugin@0.1.0;", "package membrane:plugin@0.1.0 {");
    let wit = format!("package test:root;\n{contract} }}\n{wasi}\n{world}");
    let import = r#"(import "wasi:cli/environment@0.2.6" "secrets" (func (result i32)))"#;
    component(&wit, "odd", &format!("(module {import} {MEMORY} {REALLOC} {CONFIGURE} {SAMPLE})"))
}

/// Beginnings of a component, which must be refused, and changes of single bytes, which may be harmless.
fn corrupted(arena: &Arena) -> Outcome {
    let whole = sampler(MEMORY, "");
    for length in (0..whole.len()).step_by(31) {
        if let Err(achieved) = failed(arena.load(plain(arena, whole[..length].to_vec()), World::Sampler)) {
            return Err(format!("its first {length} bytes load: {achieved}"));
        }
    }
    let places: Vec<usize> = (0..whole.len()).step_by(37).collect();
    let harmless = |at: &&usize| {
        let mut bytes = whole.clone();
        if let Some(byte) = bytes.get_mut(**at) {
            *byte ^= 0x55;
        }
        let stepped =
            arena.load(plain(arena, bytes), World::Sampler).and_then(|plugin| arena.step(&[plugin]));
        // As the whole one does, which leaves the choice to others.
        matches!(stepped, Err(HostError::NoChoice { .. }))
    };
    if !harmless(&&usize::MAX) {
        return Err("the whole one does not load".into());
    }
    Ok(format!(
        "{} of {} changes of it are of no consequence",
        places.iter().filter(harmless).count(),
        places.len()
    ))
}

/// What costs too much to check or to compile.
fn bombs() -> Vec<Attack> {
    vec![
        by("endless function", "has 400,000 blocks in one function", &["a function of", "1048576"], || {
            sampler(MEMORY, &format!("(func {})", "(block)".repeat(400_000)))
        }),
        by("100,001 functions", "has more than can be compiled", &["more than 100000 functions"], || {
            sampler(MEMORY, &"(func)".repeat(100_001))
        }),
        by("200 modules", "has more than can be compiled", &["more than 128 modules"], || {
            wat::parse_str(format!("(component {})", "(core module)".repeat(200))).unwrap()
        }),
        by("nested components", "has 1,000 in each other", &["plugin `x`"], || within_each_other(1000)),
        by("60,000 locals", "has a frame of half a megabyte", &["plugin `x`", "locals"], || {
            sampler(MEMORY, &format!("(func {})", "(local i64)".repeat(60_000)))
        }),
        by("1,000 exports", "has more names than can be told", &["imports or exports"], || {
            let exports: String =
                (0..1000).map(|number| format!(r#"(export "n{number}" (func $f))"#)).collect();
            let lifted = r#"(core module $m (func (export "f"))) (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f")))"#;
            wat::parse_str(format!("(component {lifted} {exports})")).unwrap()
        }),
        Attack::new(
            "slow to compile",
            World::Sampler,
            "takes the compiler's time",
            &["takes more than 0.0 s"],
            |arena| {
                let limits = CompileLimits {
                    time: Duration::from_millis(30),
                    time_per_mib: Duration::ZERO,
                    ..CompileLimits::default()
                };
                bounded(arena, limits)
            },
        ),
        Attack::new(
            "memory of the compiler",
            World::Sampler,
            "takes the compiler's memory",
            &["more than 1 MiB"],
            |arena| {
                let limits =
                    CompileLimits { memory_bytes: 1 << 20, memory_per_byte: 0, ..CompileLimits::default() };
                bounded(arena, limits)
            },
        ),
    ]
}

/// So many components, each the whole of the one around it.
fn within_each_other(depth: usize) -> Vec<u8> {
    const HEADER: [u8; 8] = [0, b'a', b's', b'm', 13, 0, 1, 0];
    const COMPONENT_SECTION: u8 = 4;
    let mut component = HEADER.to_vec();
    for _ in 1..depth {
        let mut length = component.len();
        let mut size = Vec::new();
        while length >= 0x80 {
            size.push(length as u8 | 0x80);
            length >>= 7;
        }
        size.push(length as u8);
        component = [&HEADER[..], &[COMPONENT_SECTION], &size, &component].concat();
    }
    component
}

/// A component of many functions, which takes a good part of a second to compile, where that is too much.
fn bounded(arena: &Arena, compile: CompileLimits) -> Outcome {
    let function = "(func (param i32) (result i32) local.get 0 i32.const 3 i32.mul i32.const 7 i32.add)";
    let host = arena.with(HostOptions { compile, ..HostOptions::default() });
    failed(host.load(plain(arena, sampler(MEMORY, &function.repeat(4_000))), World::Sampler))
}

/// What goes wrong before the first call.
fn starts() -> Vec<Attack> {
    vec![
        by(
            "start that loops",
            "never begins",
            &[
                "plugin `x`: start ran out of fuel (600000000 units a call: limits.fuel_per_call in its profile entry)",
            ],
            || sampler(MEMORY, "(func $spin (loop br 0)) (start $spin)"),
        ),
        by("start that traps", "fails at once", &["plugin `x`: start trapped", "unreachable"], || {
            sampler(MEMORY, "(func $trap unreachable) (start $trap)")
        }),
        by("start that recurses", "takes the host's stack", &["plugin `x`: start recursed too deep"], || {
            sampler(
                MEMORY,
                "(func $deep (result i32) call $deep i32.const 1 i32.add) (func $go call $deep drop) (start $go)",
            )
        }),
        by(
            "large memory",
            "begins with 69 MiB",
            &["plugin `x`: start asked for more memory than its limit of 64 MiB"],
            || sampler(r#"(memory (export "memory") 1100)"#, ""),
        ),
        by("17 memories", "has one limit for each", &["plugin `x`: start "], || {
            sampler(MEMORY, &"(memory 1)".repeat(17))
        }),
        by("large table", "has a million entries", &["plugin `x`: start "], || {
            sampler(MEMORY, "(table 1000000 funcref)")
        }),
        by("many tables", "has 100 tables", &["plugin `x`"], || {
            sampler(MEMORY, &"(table 1 funcref)".repeat(100))
        }),
        by("table that grows", "asks for 2^31 entries", &["plugin `x`: start ran out of fuel"], || {
            let grow = "(table $t 1 funcref) (func $grow
                (if (i32.lt_s (table.grow $t (ref.null func) (i32.const 2147483647)) (i32.const 0)) (then unreachable)))";
            sampler(MEMORY, &format!("{grow} (start $grow)"))
        }),
    ]
}

/// What a call hands over.
fn results() -> Vec<Attack> {
    let given = |name, tries, says, data: &'static str| {
        Attack::new(name, World::Sampler, tries, says, move |arena: &Arena| {
            start(arena, sampler_giving(data))
        })
    };
    vec![
        given(
            "text of 2 GiB",
            "gives an error of 2^31 bytes",
            &["plugin `x`: sample trapped", "out"],
            r"\01\00\00\00\00\00\00\00\ff\ff\ff\7f",
        ),
        given(
            "text out of nowhere",
            "gives an error beyond its memory",
            &["plugin `x`: sample trapped"],
            r"\01\00\00\00\f0\ff\ff\ff\ff\00\00\00",
        ),
        given(
            "no UTF-8",
            "gives an error that is no text",
            &["plugin `x`: sample trapped", "utf-8"],
            r"\01\00\00\00\40\00\00\00\04\00\00\00\00\00\00\00\ff\fe\fd\fc",
        ),
        given("unknown result", "is neither good nor bad", &["plugin `x`: sample trapped"], r"\07"),
        given(
            "unknown choice",
            "chooses what there is not",
            &["plugin `x`: sample trapped"],
            r"\00\00\00\00\09",
        ),
        by(
            "result at no address",
            "gives a place beyond its memory",
            &["plugin `x`: sample trapped"],
            || {
                let sample = r#"(func (export "membrane:plugin/sampler-plugin@0.1.0#sample") (result i32) i32.const -4)"#;
                component(
                    &contract(),
                    "sampler",
                    &format!("(module {MEMORY} {REALLOC} {CONFIGURE} {sample})"),
                )
            },
        ),
        by(
            "lying allocator",
            "has parameters written beyond its memory",
            &["plugin `x`: configure trapped"],
            || {
                let realloc = REALLOC.replace("i32.const 1024", "i32.const -16");
                component(
                    &contract(),
                    "sampler",
                    &format!("(module {MEMORY} {realloc} {CONFIGURE} {SAMPLE})"),
                )
            },
        ),
        by(
            "re-entrant allocator",
            "calls the host while the host calls it",
            &["plugin `x`: configure trapped"],
            || {
                let import = r#"(import "membrane:plugin/random@0.1.0" "next" (func $next (result i64)))"#;
                let realloc = REALLOC.replace("i32.const 1024", "call $next drop i32.const 1024");
                component(
                    &contract(),
                    "sampler",
                    &format!("(module {import} {MEMORY} {realloc} {CONFIGURE} {SAMPLE})"),
                )
            },
        ),
    ]
}
