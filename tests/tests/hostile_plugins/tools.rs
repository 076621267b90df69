//! Tools that fail, describe what can't be, or hand over too much. What fails spoils one call.

use membrane_host::reload::Effect;
use membrane_host::{ToolSet, World};
use membrane_tests::guests::guest;
use serde_json::{Value, json};

use crate::arena::{Arena, failed};
use crate::attack::{Attack, Outcome};
use crate::components::tool_describing;

/// An attack in a call: the call fails, and the next one is made.
fn calling(
    name: &'static str,
    act: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
) -> Attack {
    Attack::new(name, World::Tool, tries, says, move |arena: &Arena| {
        let mut set = set(arena, &[json!({ "names": ["one"] })])?;
        let outcome = failed(set.call("one", &json!({ "act": act }).to_string()));
        match set.call("one", "{}").as_deref() {
            Ok("one, call 1") => outcome,
            other => Err(format!("the next call gives {other:?}")),
        }
    })
}

/// An attack by what is described.
fn describing(
    name: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
    parameters: fn() -> Vec<Value>,
) -> Attack {
    Attack::new(name, World::Tool, tries, says, move |arena: &Arena| match set(arena, &parameters()) {
        Ok(set) => Err(format!("it offers {} tools", set.descriptions().len())),
        Err(error) => Ok(error),
    })
}

fn set(arena: &Arena, parameters: &[Value]) -> Result<ToolSet, String> {
    let load = |parameters: &Value| arena.guest("test-tool", World::Tool, parameters.clone());
    let plugins =
        parameters.iter().map(load).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    arena.tools(&plugins).map_err(|error| error.to_string())
}

pub fn attacks() -> Vec<Attack> {
    [calls(), descriptions(), states()].into_iter().flatten().collect()
}

fn calls() -> Vec<Attack> {
    vec![
        calling(
            "panic in a call",
            "panic",
            "dies at work",
            &["plugin `x`: call trapped: unreachable", "on purpose"],
        ),
        calling(
            "loop in a call",
            "loop",
            "never comes back",
            &[
                "plugin `x`: call ran out of fuel (150000000 units a call: limits.fuel_per_call in its profile entry)",
            ],
        ),
        calling(
            "memory in a call",
            "memory",
            "takes all memory",
            &["plugin `x`: call asked for more memory than its limit of 64 MiB"],
        ),
        calling(
            "result of 50 MiB",
            "huge",
            "fills the context, and the host",
            &["plugin `x`: call handed over more than 48 MiB"],
        ),
        Attack::new("long result", World::Tool, "fills the context", &["cut at 262144 bytes"], |arena| {
            let result = set(arena, &[json!({ "names": ["one"] })])?.call("one", r#"{"act": "long"}"#);
            let result = result.map_err(|error| error.to_string())?;
            match result.len() {
                262_144 if result.chars().all(|c| c == 'é') => {
                    Ok(format!("it is cut at {} bytes, at a character", result.len()))
                }
                bytes => Err(format!("{bytes} bytes")),
            }
        }),
        Attack::new(
            "loop by the clock",
            World::Tool,
            "has fuel for a minute",
            &["took longer than its limit of 400 ms"],
            |arena| {
                let mut source = arena.source(World::Tool, guest("test-tool"), json!({ "names": ["one"] }));
                source.limits.fuel_per_call = 40_000_000_000;
                source.limits.wall_ms = Some(400);
                let plugin = arena.load(source, World::Tool).map_err(|error| error.to_string())?;
                let mut set = arena.tools(&[plugin]).map_err(|error| error.to_string())?;
                failed(set.call("one", r#"{"act": "loop"}"#))
            },
        ),
        Attack::new(
            "flood of warnings",
            World::Tool,
            "logs 1,000 lines in a call",
            &["256 of 1000 lines"],
            |arena| {
                arena.logged();
                set(arena, &[json!({ "names": ["one"] })])?
                    .call("one", r#"{"act": "log"}"#)
                    .map_err(|error| error.to_string())?;
                let lines = arena.logged();
                match lines.iter().find(|line| line.text.contains(|c: char| c.is_control())) {
                    Some(line) => Err(format!("a line with control characters: {line:?}")),
                    None => Ok(format!("{} of 1000 lines are shown", lines.len())),
                }
            },
        ),
        Attack::new(
            "variables of the host",
            World::Tool,
            "reads the environment",
            &["is not granted: it takes the grant `environment`"],
            |arena| {
                failed(
                    set(arena, &[json!({ "names": ["one"] })])?
                        .call("one", r#"{"act": "variable", "name": "PATH"}"#),
                )
            },
        ),
        Attack::new(
            "tools of an agent",
            World::Tool,
            "imports what agents have, to call itself",
            &["plugin `x`", "tools@0.1.0", "does not offer to a tool"],
            |arena| {
                let world = "world odd { import tools; export tool-plugin; }";
                let wit = format!("{}{world}", crate::components::contract());
                let wat = r#"(module (import "membrane:plugin/tools@0.1.0" "available" (func (param i32)))
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
                (func (export "membrane:plugin/tool-plugin@0.1.0#configure") (param i32 i32) (result i32) i32.const 16)
                (func (export "membrane:plugin/tool-plugin@0.1.0#describe") (result i32) i32.const 48)
                (func (export "membrane:plugin/tool-plugin@0.1.0#call") (param i32 i32 i32 i32) (result i32) i32.const 16))"#;
                let source =
                    arena.source(World::Tool, crate::components::component(&wit, "odd", wat), json!({}));
                failed(arena.load(source, World::Tool))
            },
        ),
    ]
}

fn descriptions() -> Vec<Attack> {
    let list = |name, tries, says, pages, data: &'static str| {
        Attack::new(name, World::Tool, tries, says, move |arena: &Arena| {
            let source = arena.source(World::Tool, tool_describing(pages, data), json!({}));
            let started = arena.load(source, World::Tool).and_then(|plugin| arena.tools(&[plugin]));
            failed(started.map(|set| set.descriptions().len()))
        })
    };
    vec![
        describing(
            "no tools",
            "is a tool that offers none",
            &["plugin `x`: describe broke the contract: it describes 0 tools"],
            || vec![json!({ "names": [] })],
        ),
        describing("65 tools", "fills the prompt", &["it describes 65 tools"], || {
            vec![json!({ "names": vec!["one"; 65] })]
        }),
        describing("name with a space", "breaks the template", &["the tool's name `a b`"], || {
            vec![json!({ "names": ["a b"] })]
        }),
        describing("long name", "breaks the prompt", &["is not of 1 to 64 letters"], || {
            vec![json!({ "names": ["x".repeat(100_000)] })]
        }),
        describing(
            "long description",
            "fills the prompt",
            &["the description of `one` has more than 4096 bytes"],
            || vec![json!({ "names": ["one"], "words": 1_000_000 })],
        ),
        describing(
            "schema that is none",
            "describes its arguments by a list",
            &["the schema of `one` is not a JSON object"],
            || vec![json!({ "names": ["one"], "schema": "[]" })],
        ),
        describing(
            "long schema",
            "fills the prompt",
            &["the schema of `one` has more than 65536 bytes"],
            || vec![json!({ "names": ["one"], "schema": format!("{{\"a\": \"{}\"}}", "x".repeat(100_000)) })],
        ),
        describing(
            "deep schema",
            "is nested 30,000 times",
            &["the schema of `one` is not a JSON object"],
            || {
                vec![
                    json!({ "names": ["one"], "schema": format!("{}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000)) }),
                ]
            },
        ),
        describing(
            "schemas that unfold",
            "has the host keep 150 MB of values of 4 MB of text",
            &["the schemas of its tools have more than 65536 JSON values together"],
            || {
                let names: Vec<String> = (0..64).map(|number| format!("tool-{number}")).collect();
                vec![json!({ "names": names, "schema": format!("{{\"a\": [{}0]}}", "0,".repeat(32_000)) })]
            },
        ),
        describing(
            "name of another tool",
            "takes calls of another plugin",
            &["both offer a tool `one`"],
            || vec![json!({ "names": ["one"] }), json!({ "names": ["two", "one"] })],
        ),
        list(
            "2.7 million descriptions",
            "has the host make 200 MB of 64",
            &["plugin `x`: describe "],
            1023,
            r"\00\00\00\00\e0\32\29\00",
        ),
        list(
            "2^31 descriptions",
            "describes beyond its memory",
            &["plugin `x`: describe trapped"],
            1,
            r"\00\00\00\00\ff\ff\ff\7f",
        ),
    ]
}

/// State that goes from one version to the next.
fn states() -> Vec<Attack> {
    vec![
        Attack::new(
            "snapshot of 2 MiB",
            World::Tool,
            "hands all its memory on",
            &["plugin `x`: snapshot broke the contract: a snapshot of 2097152 bytes; the limit is 1048576"],
            |arena| replaced(arena, json!({ "snapshot": "huge" }), json!({})),
        ),
        Attack::new(
            "snapshot that loops",
            World::Tool,
            "keeps its successor out",
            &["plugin `x`: snapshot ran out of fuel"],
            |arena| replaced(arena, json!({ "snapshot": "loop" }), json!({})),
        ),
        Attack::new(
            "restore that loops",
            World::Tool,
            "never takes over",
            &["plugin `x`: restore ran out of fuel"],
            |arena| replaced(arena, json!({}), json!({ "restore": "loop" })),
        ),
        Attack::new(
            "restore that takes memory",
            World::Tool,
            "unfolds a bomb",
            &["plugin `x`: restore asked for more memory"],
            |arena| replaced(arena, json!({}), json!({ "restore": "memory" })),
        ),
    ]
}

/// A version that is to replace another in the middle of an answer, and is not taken; the first goes on.
fn replaced(arena: &Arena, first: Value, second: Value) -> Outcome {
    let load = |mut parameters: Value, version: u32| {
        parameters["names"] = json!(["one"]);
        parameters["version"] = json!(version);
        let source = arena.source(World::Tool, guest("test-tool"), parameters);
        arena.load(source, World::Tool)
    };
    let (first, second) = (
        load(first, 1).map_err(|error| error.to_string())?,
        load(second, 2).map_err(|error| error.to_string())?,
    );
    let mut set = arena.tools(&[first]).map_err(|error| error.to_string())?;
    set.call("one", "{}").map_err(|error| error.to_string())?;
    let swaps = set.reload(&[second]);
    let [swap] = &swaps[..] else { return Err(format!("{swaps:?}")) };
    let Effect::NextAnswer { why } = &swap.effect else { return Err(format!("{:?}", swap.effect)) };
    match set.call("one", "{}") {
        Ok(_) => Ok(why.clone()),
        // An instance that failed in its snapshot is gone; the next call has a new one of the same version.
        Err(_) if set.call("one", "{}").is_ok() => Ok(why.clone()),
        Err(error) => Err(format!("the version before does not go on: {error}")),
    }
}
