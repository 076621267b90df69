//! Agents that forge handles, take more than their share, or never end. The model behind them is a real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use membrane_generate::EndReason;
use membrane_host::agent::Store;
use membrane_host::{Grant, World};
use membrane_tests::guests::guest;
use serde_json::{Value, json};

use crate::arena::{Arena, failed};
use crate::attack::{Attack, Outcome};
use crate::components::agent_doing;

/// An attack that the host ends: the run fails.
fn ends(
    name: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
    script: fn() -> Value,
) -> Attack {
    Attack::new(name, World::Agent, tries, says, move |arena: &Arena| {
        let ran = scripted(arena, &script())?;
        match (ran.answer.reason, ran.answer.why.clone()) {
            (EndReason::AgentFailed, Some(why)) => Ok(why),
            (reason, why) => Err(format!("the run ends with {reason:?}, {why:?}: {:.300}", ran.text())),
        }
    })
}

/// An attack that is refused to the agent's face: what its last step before the report gives.
fn told(
    name: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
    script: fn() -> Vec<Value>,
) -> Attack {
    Attack::new(name, World::Agent, tries, says, move |arena: &Arena| {
        let mut steps = script();
        steps.push(json!("report"));
        let ran = scripted(arena, &Value::Array(steps))?;
        let found: Vec<Value> = serde_json::from_str(&ran.text())
            .map_err(|error| format!("{error}: {:?}, {:?}", ran.answer.reason, ran.answer.why))?;
        let last = found.last().cloned().unwrap_or_default();
        match last.get("what").or(last.get("error")).and_then(Value::as_str) {
            Some(what) => Ok(what.to_owned()),
            None => Err(format!("it gave {last:.300}")),
        }
    })
}

/// An attack by handles, in a component that no toolchain would make.
fn handles(
    name: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
    body: &'static str,
) -> Attack {
    Attack::new(name, World::Agent, tries, says, move |arena: &Arena| {
        let source = arena.source(World::Agent, agent_doing(body), json!({}));
        let source = membrane_host::PluginSource { grants: [].into(), ..source };
        let agent = arena.load(source, World::Agent).map_err(|error| error.to_string())?;
        let ran = arena.run(&agent, "task", Store::in_memory());
        match (ran.answer.reason, ran.answer.why) {
            (EndReason::AgentFailed, Some(why)) => Ok(why),
            other => Err(format!("the run ends with {other:?}")),
        }
    })
}

fn scripted(arena: &Arena, script: &Value) -> Result<crate::arena::Ran, String> {
    let agent = arena.guest("scripted-agent", World::Agent, json!({})).map_err(|error| error.to_string())?;
    Ok(arena.run(&agent, &script.to_string(), Store::in_memory()))
}

/// A session with a text in it, and more steps.
fn behind(steps: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let begin = [json!({"new": "a"}), json!({"append": ["a", "Once"]})];
    begin.into_iter().chain(steps).collect()
}

pub fn attacks() -> Vec<Attack> {
    [failures(), forgeries(), shares(), bombs(), others()].into_iter().flatten().collect()
}

fn failures() -> Vec<Attack> {
    vec![
        ends(
            "loop of an agent",
            "never comes back",
            &[
                "plugin `x`: run ran out of fuel (150000000 units a call: limits.fuel_per_call in its profile entry)",
            ],
            || json!(["loop"]),
        ),
        ends(
            "loop beside a generation",
            "never comes back, and leaves a generation running",
            &["plugin `x`: run ran out of fuel"],
            || Value::Array(behind([json!({"start": ["a", "g", {}]}), json!("loop")])),
        ),
        ends(
            "recursion of an agent",
            "ends the host's stack",
            &["plugin `x`: run recursed too deep"],
            || json!(["recurse"]),
        ),
        ends(
            "memory of an agent",
            "takes all memory",
            &["plugin `x`: run asked for more memory than its limit of 64 MiB"],
            || json!([{"eat": 1000}]),
        ),
        ends(
            "panic with a secret",
            "dies with a forbidden text on its lips",
            &["(withheld by a policy)"],
            || json!([{"panic": "it is forbidden"}]),
        ),
        ends(
            "flood of text",
            "writes without end",
            &["plugin `x`: run broke the contract: it wrote more than 16 MiB"],
            || json!([{"repeat": [100_000, {"write": "x".repeat(50_000)}]}]),
        ),
        ends(
            "long rest",
            "gives more than it may write",
            &["plugin `x`: run broke the contract: it gave more than 16 MiB"],
            || json!([{"return-letters": 17 << 20}]),
        ),
        ends(
            "calls without end",
            "calls a tool for ever",
            &["plugin `x`: run ran out of fuel"],
            || json!([{"repeat": [4_000_000, {"call": ["calculator", {"expression": "1+1"}]}]}]),
        ),
    ]
}

fn forgeries() -> Vec<Attack> {
    vec![
        handles(
            "forged handle",
            "makes a handle of a number",
            &["plugin `x`: run trapped", "handle"],
            "(drop (call $length (i32.const 12345)))",
        ),
        handles(
            "handle of nothing",
            "uses handle 0",
            &["plugin `x`: run trapped", "handle"],
            "(drop (call $length (i32.const 0)))",
        ),
        handles(
            "double drop",
            "gives a session back twice",
            &["plugin `x`: run trapped", "handle"],
            "(local.set $a (call $session)) (call $drop (local.get $a)) (call $drop (local.get $a))",
        ),
        handles(
            "use after drop",
            "uses a session that is gone",
            &["plugin `x`: run trapped", "handle"],
            "(local.set $a (call $session)) (call $drop (local.get $a)) (drop (call $length (local.get $a)))",
        ),
        handles(
            "handle of another kind",
            "cancels a session as if it were a generation",
            &["plugin `x`: run trapped", "handle"],
            "(call $cancel (call $session))",
        ),
        handles(
            "100,000 handles",
            "takes sessions and gives none back",
            &["plugin `x`: run broke the contract: there are 64 sessions already"],
            "(loop $more (local.set $a (i32.add (local.get $a) (i32.const 1))) (drop (call $session)) \
             (br_if $more (i32.lt_u (local.get $a) (i32.const 100000))))",
        ),
    ]
}

/// More than one's share of what all share.
fn shares() -> Vec<Attack> {
    vec![
        ends(
            "sessions without end",
            "takes 100",
            &["plugin `x`: run broke the contract: there are 64 sessions already; drop one"],
            || json!([{"sessions": 100}]),
        ),
        told("forks without end", "takes 1,000", &["there are 64 sessions already; drop one"], || {
            behind([json!({"forks": ["a", 1000]})])
        }),
        told(
            "generations without end",
            "starts 40 at a time",
            &["there are 16 generations already; drop one"],
            || behind([json!({"generations": ["a", 40]})]),
        ),
        ends(
            "generations of no token",
            "has policies started and records written for nothing",
            &["plugin `x`: run ran out of fuel"],
            || {
                let start = json!({"start": ["a", "g", {"max-tokens": 0}]});
                Value::Array(behind([json!({"repeat": [3100, start]})]))
            },
        ),
        ends(
            "long prompts without end",
            "has the log written full of one prompt",
            &["plugin `x`: run ran out of fuel"],
            || {
                let start = json!({"start": ["a", "g", {"max-tokens": 0}]});
                let long = json!({"append": ["a", "word ".repeat(240)]});
                Value::Array(behind([long, json!({"repeat": [2100, start]})]))
            },
        ),
        told("names without end", "keeps 100 contexts", &["there are 64 names already"], || {
            behind((0..100).map(|number| json!({"save": ["a", format!("name {number}")]})))
        }),
        told(
            "long name of a context",
            "keeps a context under 1 MB of name",
            &["a name has 1 to 64 bytes"],
            || behind([json!({"save": ["a", "n".repeat(1_000_000)]})]),
        ),
        told("text beyond the context", "fills more than the context", &["room for"], || {
            behind([json!({"append": ["a", "word ".repeat(3000)]})])
        }),
        Attack::new(
            "generation without end",
            World::Agent,
            "asks for 4 billion tokens",
            &["50 tokens", "Length"],
            |arena| {
                let script = behind([
                    json!({"start": ["a", "g", {"max-tokens": u32::MAX}]}),
                    json!({"finish": "g"}),
                    json!("report"),
                ]);
                let ran = scripted(arena, &Value::Array(script))?;
                let found: Vec<Value> =
                    serde_json::from_str(&ran.text()).map_err(|error| error.to_string())?;
                match &found[3]["tokens"] {
                    tokens if tokens.as_u64() <= Some(50) => {
                        Ok(format!("it ends after {tokens} tokens: {}", found[3]["reason"]))
                    }
                    tokens => Err(format!("{tokens} tokens")),
                }
            },
        ),
        told(
            "256 texts to score and one",
            "has the model read 257 texts",
            &["257 continuations; the limit is 256"],
            || behind([json!({"score": ["a", vec!["x"; 257]]})]),
        ),
        told("17 texts to stop at", "has 17 texts looked for", &["17 stop texts; the limit is 16"], || {
            behind([json!({"start": ["a", "g", {"stop": vec!["x"; 17]}]})])
        }),
        told(
            "store of 20 MiB",
            "fills the disk",
            &["the store is full: at most 4096 keys and 16777216 bytes"],
            || vec![json!({"fill": 20})],
        ),
        ends(
            "reads without end",
            "has 1 MB of its store handed over again and again",
            &["plugin `x`: run ran out of fuel"],
            || json!([{"set": ["k", "x".repeat(1_000_000)]}, {"repeat": [200, {"size": "k"}]}]),
        ),
        told("key of 1 MB", "fills memory with keys", &["a key has 1 to 256 bytes"], || {
            vec![json!({"set": ["k".repeat(1_000_000), "x"]})]
        }),
        Attack::new(
            "key with a path",
            World::Agent,
            "writes `../../secret` on disk",
            &["stays in its folder"],
            |arena| {
                let root = tempfile::tempdir().unwrap();
                let store = Store::open(&root.path().join("a/store")).unwrap();
                let agent = arena
                    .guest("scripted-agent", World::Agent, json!({}))
                    .map_err(|error| error.to_string())?;
                let keys = ["../../secret", "/etc/secret", "a/../b", ".", "..", "a\u{0}b"];
                let script: Vec<Value> = keys.iter().map(|key| json!({"set": [key, "x"]})).collect();
                let ran = arena.run(&agent, &Value::Array(script).to_string(), store.clone());
                let files = std::fs::read_dir(root.path().join("a/store")).unwrap().count();
                let beside = std::fs::read_dir(root.path()).unwrap().count()
                    + std::fs::read_dir(root.path().join("a")).unwrap().count();
                match (ran.answer.reason, store.keys("").len(), files, beside) {
                    // The lock is a file, too.
                    (EndReason::Stop, 6, 7, 2) => {
                        Ok("each of 6 keys stays in its folder, under the name of its digest".into())
                    }
                    other => Err(format!("{other:?}: {:?}", ran.answer.why)),
                }
            },
        ),
    ]
}

/// Small things that unfold.
fn bombs() -> Vec<Attack> {
    vec![
        told("token beyond the vocabulary", "appends token 2^32 - 1, past samplers", &["4294967295"], || {
            behind([json!({"append-tokens": ["a", [u32::MAX]]})])
        }),
        told("deep expression", "is nested 5,000 times", &["levels of brackets"], || {
            behind([
                json!({"start": ["a", "g", {"regex": format!("{}{}", "(".repeat(5000), ")".repeat(5000))}]}),
            ])
        }),
        told(
            "long expression",
            "has 300 KB compiled",
            &["the constraint has 300000 bytes; the limit is 262144"],
            || behind([json!({"start": ["a", "g", {"regex": "a".repeat(300_000)}]})]),
        ),
        told("deep schema of an agent", "is nested 20,000 times", &["schema"], || {
            let deep = format!("{}{{}}{}", r#"{"items":"#.repeat(20_000), "}".repeat(20_000));
            behind([json!({"start": ["a", "g", {"json-schema": deep}]})])
        }),
        told("grammar without bottom", "is a rule that only calls itself", &["grammar"], || {
            behind([
                json!({"start": ["a", "g", {"lark": "start: start start | start"}]}),
                json!({"finish": "g"}),
            ])
        }),
        told(
            "parameters that are nested",
            "is nested 20,000 times",
            &["sampling: is no JSON object"],
            || {
                let deep = format!("{{\"a\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
                behind([json!({"start": ["a", "g", {"sampling": deep}]})])
            },
        ),
        told("parameters of a sampler", "sets what the sampler does not have", &["no_such"], || {
            behind([json!({"start": ["a", "g", {"sampling": "{\"no_such\": 1}"}]})])
        }),
        told(
            "arguments that unfold",
            "shows the model 1 MB of arguments that are half a million values",
            &["no JSON object of at most 1048576 bytes and 65536 values"],
            || behind([json!({"calls": ["a", 1, 500_000]})]),
        ),
        told(
            "calls that unfold together",
            "has the host make 450,000 values of 15 calls",
            &["the arguments of all calls in the conversation have 450030 JSON values; the limit is 65536"],
            || behind([json!({"calls": ["a", 15, 30_000]})]),
        ),
        told(
            "arguments that are a list",
            "calls a tool with what it does not take",
            &["are not a JSON object"],
            || vec![json!({"call": ["calculator", [1, 2]]})],
        ),
    ]
}

fn others() -> Vec<Attack> {
    vec![
        told("tool without grant", "calls what its run does not have", &["there is no tool `files`"], || {
            vec![json!({"call": ["files", {"path": "x"}]})]
        }),
        Attack::new(
            "raw decoding without grant",
            World::Agent,
            "imports what stands past the policies",
            &["plugin `x`", "raw-decoding", "grants = "],
            |arena| ungranted(arena, Grant::RawDecoding),
        ),
        Attack::new(
            "store without grant",
            World::Agent,
            "imports what outlives the run",
            &["plugin `x`", "store", "grants = "],
            |arena| ungranted(arena, Grant::Store),
        ),
        Attack::new(
            "forbidden text",
            World::Agent,
            "writes what a policy forbids, a letter at a time",
            &["No."],
            |arena| {
                let script: Vec<Value> =
                    "it is forbidden".chars().map(|letter| json!({"write": letter.to_string()})).collect();
                let ran = scripted(arena, &Value::Array(script))?;
                match ran.text().contains("forbidden") || ran.answer.reason != EndReason::Refused {
                    true => Err(format!("{:?}: {}", ran.answer.reason, ran.text())),
                    false => Ok(ran.answer.why.unwrap_or_default()),
                }
            },
        ),
        Attack::new(
            "forged log",
            World::Agent,
            "logs 1,000 lines with escapes",
            &["256 of 1000 lines"],
            |arena| {
                arena.logged();
                scripted(arena, &json!([{"repeat": [1000, {"log": "\u{1b}[2Jx\r\nforged\u{202e}"}]}]))?;
                let lines = arena.logged();
                let forged = lines.iter().find(|line| {
                    line.plugin != "x" || line.text.contains(|c: char| c.is_control() || c == '\u{202e}')
                });
                match forged {
                    Some(line) => Err(format!("{line:?}")),
                    None if lines.len() > 256 => Err(format!("{} lines", lines.len())),
                    None => {
                        Ok(format!("{} of 1000 lines are shown, without control characters", lines.len()))
                    }
                }
            },
        ),
        Attack::new(
            "work without end",
            World::Agent,
            "has the model read for ever, at little fuel",
            &["cancelled within"],
            cancelled,
        ),
    ]
}

fn ungranted(arena: &Arena, grant: Grant) -> Outcome {
    let mut source = arena.source(World::Agent, guest("scripted-agent"), json!({}));
    source.grants.remove(&grant);
    failed(arena.load(source, World::Agent))
}

/// What the model does for an agent has no end of its own: whoever started the run ends it.
fn cancelled(arena: &Arena) -> Outcome {
    let agent = arena.guest("scripted-agent", World::Agent, json!({})).map_err(|error| error.to_string())?;
    let text = "word ".repeat(500);
    let round = [json!({"append": ["a", text]}), json!({"truncate": ["a", 1]})];
    let more = std::iter::repeat_n(round, 2000).flatten();
    let cancel: Arc<AtomicBool> = Arc::default();
    let (flag, begun) = (cancel.clone(), Instant::now());
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        flag.store(true, Ordering::Relaxed);
    });
    let ran = arena.run_until(&agent, &Value::Array(behind(more)).to_string(), Store::in_memory(), &cancel);
    let late = begun.elapsed().saturating_sub(Duration::from_millis(500));
    stopper.join().unwrap();
    match ran.answer.reason {
        EndReason::Cancelled if late < Duration::from_secs(5) => Ok("it was cancelled within 5 s".into()),
        reason => Err(format!("{reason:?} after {late:?}: {:?}", ran.answer.why)),
    }
}
