//! Policies that fail, swallow, forge or flood. Whatever they do, nothing passes that another policy has not released.

use membrane_host::{Ended, Grant, Invocation, Message, PolicyChain, Refused, Role, World};
use membrane_tests::guests::guest;
use serde_json::{Value, json};

use crate::arena::{Arena, failed};
use crate::attack::{Attack, Outcome};
use crate::components::policy_giving;

/// An attack in a hook, by a guest with all grants.
fn acting(
    name: &'static str,
    hook: &'static str,
    act: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
) -> Attack {
    Attack::new(name, World::Policy, tries, says, move |arena: &Arena| {
        attempt(arena, json!({ "hook": hook, "act": act, "word": "", "text": "again " }), hook)
    })
}

/// Starts a guest and calls a hook, which must be refused, and with it all that follows.
fn attempt(arena: &Arena, parameters: Value, hook: &str) -> Outcome {
    let mut chain = chain(arena, parameters)?;
    let outcome = call(&mut chain, hook);
    let Err(refused) = outcome else { return Err(format!("{hook} lets pass: {outcome:?}")) };
    match ["request", "prompt", "output", "tool-call", "tool-result"]
        .into_iter()
        .find(|hook| call(&mut chain, hook).is_ok())
    {
        Some(after) => Err(format!("after the failure {after} lets pass")),
        None => Ok(refused.message),
    }
}

fn chain(arena: &Arena, parameters: Value) -> Result<PolicyChain, String> {
    let plugin = arena.guest("test-policy", World::Policy, parameters);
    plugin.and_then(|plugin| arena.policies(&[plugin])).map_err(|error| error.to_string())
}

fn invocation() -> Invocation {
    Invocation { name: "add".into(), arguments: "{}".into() }
}

/// Calls a hook; all that a person would see of it.
fn call(chain: &mut PolicyChain, hook: &str) -> Result<String, Refused> {
    match hook {
        "request" => {
            let asked = vec![Message { role: Role::User, content: "hi".into() }];
            chain
                .request(asked)
                .map(|outcome| outcome.messages.iter().map(|message| message.content.as_str()).collect())
        }
        "prompt" => chain.prompt("hi").map(|()| "hi".into()),
        "tool-call" => chain.tool_call(invocation()).map(|outcome| format!("{outcome:?}")),
        "tool-result" => chain.tool_result(&invocation(), "hi".into()).map(|outcome| outcome.output),
        _ => {
            let outcome = chain.output("sémi.", false);
            match outcome.ended {
                Some(Ended::Refused(refused)) if outcome.released.is_empty() => Err(refused),
                _ => Ok(outcome.released),
            }
        }
    }
}

pub fn attacks() -> Vec<Attack> {
    [failures(), verdicts(), floods(), handmade()].into_iter().flatten().collect()
}

/// Each hook fails in some way.
fn failures() -> Vec<Attack> {
    vec![
        acting(
            "loop in the output",
            "output",
            "loop",
            "never says whether text may pass",
            &[
                "policy `x` failed: output ran out of fuel (150000000 units a call: limits.fuel_per_call in its profile entry)",
            ],
        ),
        acting(
            "memory in the request",
            "request",
            "memory",
            "takes all memory",
            &["policy `x` failed: request asked for more memory than its limit of 64 MiB"],
        ),
        acting(
            "panic in the prompt",
            "prompt",
            "panic",
            "dies before it has judged",
            &["policy `x` failed: prompt trapped: unreachable"],
        ),
        acting(
            "error in a call",
            "tool-call",
            "error",
            "gives an error with escapes for a verdict",
            &["policy `x` failed: tool-call failed: a reported"],
        ),
        acting(
            "loop in a result",
            "tool-result",
            "loop",
            "never says whether the model may read",
            &["policy `x` failed: tool-result ran out of fuel"],
        ),
        acting(
            "memory in the output",
            "output",
            "memory",
            "takes all memory",
            &["policy `x` failed: output asked for more memory"],
        ),
        Attack::new(
            "failure at the end",
            World::Policy,
            "fails when all is said",
            &["x finish fail: finish trapped: unreachable"],
            |arena| {
                let mut chain = chain(arena, json!({ "hook": "finish", "act": "panic" }))?;
                let verdicts =
                    chain.finish("hi").map_err(|refused| format!("it withholds what is out: {refused}"))?;
                let told = verdicts.iter().map(|verdict| {
                    format!("{} {} {}: {}", verdict.policy, verdict.hook, verdict.verdict, verdict.note)
                });
                Ok(told.collect())
            },
        ),
        Attack::new(
            "failure at the start",
            World::Policy,
            "does not begin, so as not to be asked",
            &["plugin `x`: configure failed: a reported"],
            |arena| failed(chain(arena, json!({ "hook": "configure", "act": "error" })).map(|_| ())),
        ),
    ]
}

/// Verdicts that contradict the text or the contract.
fn verdicts() -> Vec<Attack> {
    vec![
        acting(
            "release beyond",
            "output",
            "release-beyond",
            "releases what there is not yet",
            &["policy `x` failed: ", "a release of 7 bytes ends beyond the pending text, which has 6 bytes"],
        ),
        acting(
            "release within a character",
            "output",
            "release-within",
            "splits UTF-8",
            &["a release of 2 bytes ends within a character"],
        ),
        acting(
            "replacement of nothing",
            "output",
            "replace-nothing",
            "is asked again for ever",
            &["it replaced nothing"],
        ),
        acting(
            "long replacement",
            "output",
            "replace-long",
            "writes an answer of its own",
            &["a text of 65537 bytes; the limit is 65536"],
        ),
        acting("request without messages", "request", "empty", "asks nothing", &["0 messages"]),
        acting(
            "arguments that are no JSON",
            "tool-call",
            "rewrite",
            "breaks a call",
            &["policy `x` failed: ", "JSON"],
        ),
        Attack::new(
            "forced text without grant",
            World::Policy,
            "puts words into the model's mouth",
            &["forced a text, which needs the grant `force-text`"],
            |arena| {
                ungranted(arena, json!({ "hook": "output", "act": "force-always", "text": "x" }), "output")
            },
        ),
        Attack::new(
            "system prompt without grant",
            World::Policy,
            "gives the model other orders",
            &["changed the system messages, which needs the grant `system-prompt`"],
            |arena| {
                ungranted(
                    arena,
                    json!({ "hook": "request", "act": "rewrite", "text": "Obey me." }),
                    "request",
                )
            },
        ),
    ]
}

/// The same without grants.
fn ungranted(arena: &Arena, parameters: Value, hook: &str) -> Outcome {
    let mut source = arena.source(World::Policy, guest("test-policy"), parameters);
    for grant in [Grant::ForceText, Grant::SystemPrompt] {
        source.grants.remove(&grant);
    }
    let plugin = arena.load(source, World::Policy).map_err(|error| error.to_string())?;
    let mut chain = arena.policies(&[plugin]).map_err(|error| error.to_string())?;
    match call(&mut chain, hook) {
        Ok(passed) => Err(format!("it lets pass {passed}")),
        Err(refused) => Ok(refused.message),
    }
}

/// What goes on without end.
fn floods() -> Vec<Attack> {
    vec![
        Attack::new(
            "hold-back without end",
            World::Policy,
            "never releases",
            &["policy `x` failed: ", "it holds back more than 1048576 bytes"],
            |arena| pieces(arena, json!({ "hook": "output", "act": "never" }), 20, 100_000),
        ),
        Attack::new(
            "forced texts without end",
            World::Policy,
            "speaks in the model's place for ever",
            &["more than 16 forced texts"],
            |arena| {
                pieces(arena, json!({ "hook": "output", "act": "force-always", "text": "again " }), 20, 1)
            },
        ),
        Attack::new(
            "text that grows",
            World::Policy,
            "makes 64 KiB of each byte",
            &["policy `x` failed: ", "replacements of one piece of text"],
            |arena| pieces(arena, json!({ "hook": "output", "act": "amplify" }), 1, 4_000),
        ),
        Attack::new(
            "answer that grows",
            World::Policy,
            "makes 64 KiB of each token",
            &["policy `x` failed: ", "it made one answer longer by more than 16 MiB"],
            |arena| pieces(arena, json!({ "hook": "output", "act": "amplify" }), 260, 1),
        ),
        Attack::new(
            "replacements without end",
            World::Policy,
            "is asked again for each byte",
            &["policy `x` failed: ", "more than 4096 replacements"],
            |arena| pieces(arena, json!({ "hook": "output", "act": "nibble", "text": "y" }), 1, 100_000),
        ),
        acting(
            "20,000 messages",
            "request",
            "messages",
            "makes a conversation without end",
            &["policy `x` failed: ", "20001 messages"],
        ),
        acting(
            "message of 17 MiB",
            "request",
            "long-message",
            "makes a message without end",
            &["policy `x` failed: "],
        ),
        Attack::new(
            "long refusal",
            World::Policy,
            "refuses in 8 MB of terminal titles",
            &["refused in", "without control characters"],
            |arena| {
                let mut chain = chain(arena, json!({ "hook": "output", "act": "long-refusal" }))?;
                let Err(refused) = call(&mut chain, "output") else {
                    return Err("it does not refuse".into());
                };
                let bytes = refused.message.len();
                let control = refused.message.contains(|c: char| c.is_control() && c != '\n');
                match bytes > 5 * (16 << 10) || control {
                    true => Err(format!("{bytes} bytes reach the person")),
                    false => Ok(format!("refused in {bytes} bytes, without control characters")),
                }
            },
        ),
    ]
}

/// Sends so many pieces of so many bytes.
fn pieces(arena: &Arena, parameters: Value, count: usize, bytes: usize) -> Outcome {
    let mut chain = chain(arena, parameters)?;
    for _ in 0..count {
        let outcome = chain.output(&"x".repeat(bytes), false);
        if let Some(Ended::Refused(refused)) = outcome.ended {
            return Ok(refused.message);
        }
        if outcome.released.len() > 1 << 20 {
            return Err(format!("{} bytes come out", outcome.released.len()));
        }
    }
    Err("nothing ended it".into())
}

/// Verdicts that no toolchain would write: each stands at address 48.
fn handmade() -> Vec<Attack> {
    let given = |name, tries, data: &'static str| {
        Attack::new(
            name,
            World::Policy,
            tries,
            &["policy `x` failed: output trapped"],
            move |arena: &Arena| {
                let source = arena.source(World::Policy, policy_giving(data), json!({}));
                let plugin = arena.load(source, World::Policy).map_err(|error| error.to_string())?;
                let mut chain = arena.policies(&[plugin]).map_err(|error| error.to_string())?;
                match call(&mut chain, "output") {
                    Ok(passed) => Err(format!("it lets pass {passed}")),
                    Err(refused) => Ok(refused.message),
                }
            },
        )
    };
    vec![
        given("unknown verdict", "says what the contract does not know", r"\00\00\00\00\09\00\00\00"),
        given(
            "refusal that is no text",
            "refuses in bytes that are no UTF-8",
            r"\00\00\00\00\03\00\00\00\30\00\00\00\08\00\00\00\ff\fe\fd\fc\00\00\00\00\00\00\00\00",
        ),
        given(
            "replacement out of nowhere",
            "has the host read beyond its memory",
            r"\00\00\00\00\01\00\00\00\01\00\00\00\00\00\f0\7f\ff\ff\00\00",
        ),
    ]
}
