//! The paths, each an entry of a table.

use membrane_audit::Keep;
use membrane_generate::{Behaviour, Event, decide};
use membrane_host::Plugin;
use membrane_tests::recorder::Recorder;
use membrane_text::{ChatMessage, Role};
use serde_json::{Value, json};

use crate::scene::{Play, Scene, Seen, encode, gather, props, scripted, with};

/// A rule that stops nothing that the model says here.
const STOPPING: &str = "[[clause]]\nid = \"x\"\nwhen = \"output\"\nmatch = 'nowhere'\naction = \"stop\"\n";

/// A call whose result is one of them.
const COMPUTES: &str =
    "<tool_call>{\"name\": \"calculator\", \"arguments\": {\"expression\": \"7700+31\"}}</tool_call>";

/// A way on which a text can reach somebody.
pub struct Path {
    pub name: &'static str,
    /// Whether all of the forbidden text comes out there if nothing forbids it.
    pub leads_out: bool,
    /// Whether it takes many rounds.
    pub long: bool,
    pub walk: fn(&Scene) -> Seen,
}

pub const PATHS: &[Path] = &[
    Path { name: "streamed", leads_out: true, long: false, walk: streamed },
    Path { name: "without a template", leads_out: true, long: false, walk: raw },
    Path { name: "cut by the limit of tokens", leads_out: true, long: false, walk: limited },
    Path { name: "cancelled", leads_out: false, long: false, walk: cancelled },
    Path { name: "arguments of a call", leads_out: true, long: false, walk: arguments },
    Path { name: "arguments in escapes", leads_out: true, long: false, walk: escaped },
    Path { name: "name of a tool", leads_out: true, long: false, walk: tool_name },
    Path { name: "a name in the arguments", leads_out: true, long: false, walk: argument_name },
    Path { name: "result of a call", leads_out: true, long: false, walk: result },
    Path { name: "around a call", leads_out: true, long: false, walk: around_a_call },
    Path { name: "a call that is none", leads_out: true, long: false, walk: malformed },
    Path { name: "calls without end", leads_out: true, long: true, walk: endless },
    Path { name: "a policy fails", leads_out: true, long: false, walk: policy_fails },
    Path { name: "the sampler fails", leads_out: false, long: false, walk: sampler_fails },
    Path { name: "a text is forced", leads_out: true, long: false, walk: forced },
    Path { name: "policies are exchanged", leads_out: true, long: false, walk: policies_exchanged },
    Path {
        name: "a policy that failed is taken back",
        leads_out: true,
        long: false,
        walk: policy_taken_back,
    },
    Path { name: "samplers are exchanged", leads_out: true, long: false, walk: samplers_exchanged },
    Path { name: "a second answer", leads_out: true, long: false, walk: second_answer },
    Path { name: "an agent says it", leads_out: true, long: false, walk: agent_says },
    Path { name: "an agent calls tools", leads_out: true, long: false, walk: agent_calls },
    Path { name: "the record", leads_out: true, long: false, walk: record },
];

fn streamed(scene: &Scene) -> Seen {
    let alone = scene.rounds(vec![scene.tokens.clone()]);
    let twice = [scene.tokens.clone(), scene.tokens.clone()].concat();
    alone.and(scene.rounds(vec![scene.within("He said: ", ".")])).and(scene.rounds(vec![twice]))
}

fn raw(scene: &Scene) -> Seen {
    let rounds = vec![scene.within("a ", " b")];
    scene.play(&Play { rounds, raw: true, ..Play::default() })
}

fn limited(scene: &Scene) -> Seen {
    let tokens = scene.within("So", " it is");
    let plays = (1..=tokens.len() + 1).map(|max| {
        scene.play(&Play { rounds: vec![tokens.clone()], max_tokens: Some(max), ..Play::default() })
    });
    plays.fold(Seen::default(), Seen::and)
}

fn cancelled(scene: &Scene) -> Seen {
    let rounds = vec![scene.within("a b c", " d e f")];
    let plays = (0..8)
        .map(|at| scene.play(&Play { rounds: rounds.clone(), cancelled_at: Some(at), ..Play::default() }));
    plays.fold(Seen::default(), Seen::and)
}

fn arguments(scene: &Scene) -> Seen {
    let call = |before: &str| {
        let start =
            format!("{before}<tool_call>{{\"name\": \"calculator\", \"arguments\": {{\"expression\": \"");
        scene.within(&start, "\"}}</tool_call>")
    };
    let both = [call("Hm. "), call("")].concat();
    scene.rounds(vec![call("Hm. "), encode("Done.")]).and(scene.rounds(vec![both, encode("Done.")]))
}

fn escaped(scene: &Scene) -> Seen {
    let escapes: String = scene.text().encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    let call = format!(
        "<tool_call>{{\"name\": \"calculator\", \"arguments\": {{\"expression\": \"{escapes}\"}}}}</tool_call>"
    );
    scene.rounds(vec![encode(&call), encode("Done.")])
}

fn tool_name(scene: &Scene) -> Seen {
    let call = scene.within("<tool_call>{\"name\": \"", "\", \"arguments\": {}}</tool_call>");
    scene.rounds(vec![call, encode("Done.")])
}

fn argument_name(scene: &Scene) -> Seen {
    let start = "<tool_call>{\"name\": \"calculator\", \"arguments\": {\"";
    let call = scene.within(start, "\": 1, \"expression\": \"1\"}}</tool_call>");
    scene.rounds(vec![call, encode("Done.")])
}

fn result(scene: &Scene) -> Seen {
    scene.rounds(vec![encode(COMPUTES), scene.within("It is ", ".")])
}

/// The text begins before a call and ends behind it.
fn around_a_call(scene: &Scene) -> Seen {
    let call = "<tool_call>{\"name\": \"calculator\", \"arguments\": {\"expression\": \"1\"}}</tool_call>";
    let cuts = (0..=scene.tokens.len()).map(|at| {
        let (ahead, behind) = scene.tokens.split_at(at);
        scene.rounds(vec![[ahead, &encode(call)].concat(), behind.to_vec()])
    });
    let within = scene.rounds(vec![[encode(call), scene.tokens.clone()].concat(), scene.tokens.clone()]);
    cuts.fold(within, Seen::and)
}

fn malformed(scene: &Scene) -> Seen {
    [
        ("<tool_call>", "</tool_call> on"),
        ("<tool_call>{\"name\": ", ""),
        ("{\"name\": \"", ""),
        ("<tool", "<tool_"),
    ]
    .into_iter()
    .map(|(before, after)| scene.rounds(vec![scene.within(before, after)]))
    .fold(Seen::default(), Seen::and)
}

/// A model that calls tools for ever is ended; what was held back comes out then.
fn endless(scene: &Scene) -> Seen {
    let call = "<tool_call>{\"name\": \"calculator\", \"arguments\": {\"expression\": \"1\"}}</tool_call>";
    let (ahead, behind) = scene.tokens.split_at(scene.tokens.len() / 2);
    let mut rounds = vec![encode(call); 15];
    rounds.push([ahead, &encode(call)].concat());
    rounds.push([behind, &encode(call)].concat());
    scene.play(&Play { rounds, max_tokens: Some(900), ..Play::default() })
}

fn policy_fails(scene: &Scene) -> Seen {
    let text = scene.text();
    let first: String = text.chars().take(1).collect();
    let mut seen = Seen::default();
    for (at, action) in
        [(first.as_str(), "trap"), (&text, "trap"), (&text, "error"), ("on", "trap"), ("zzz", "trap")]
    {
        for before in [true, false] {
            let failing = scripted("output", at, action);
            let (before, behind) = if before { (failing, None) } else { (None, failing) };
            let rounds = vec![scene.within("It goes ", " on")];
            seen = seen.and(scene.play(&Play { rounds, before, behind, ..Play::default() }));
        }
    }
    let finishing = scripted("finish", "", "error");
    let rounds = vec![scene.within("It goes ", " on")];
    seen.and(scene.play(&Play { rounds, behind: finishing, ..Play::default() }))
}

fn sampler_fails(scene: &Scene) -> Seen {
    let mut seen = Seen::default();
    // The token at which it fails falls before the text, on each of its first tokens, and behind it.
    for before in 0..5 {
        let rounds = vec![[&encode("a b c d e f")[..before], &scene.tokens].concat()];
        seen = seen.and(scene.play(&Play { rounds, fault: Some("fifth-token"), ..Play::default() }));
    }
    seen
}

fn forced(scene: &Scene) -> Seen {
    let mut seen = Seen::default();
    for (at, before) in [("goes", true), ("goes", false), ("on", true), ("on", false)] {
        let forcing = scripted("output", at, "force");
        let (before, behind) = if before { (forcing, None) } else { (None, forcing) };
        let rounds = vec![scene.within("It goes ", " on and on")];
        seen = seen.and(scene.play(&Play { rounds, before, behind, ..Play::default() }));
    }
    seen
}

/// At each text, the policies are replaced, others join, or all are removed.
fn policies_exchanged(scene: &Scene) -> Seen {
    let rounds = vec![scene.within("It is ", " and so on")];
    let play = Play { rounds, ..Play::default() };
    let now = scene.behaviour(&play);
    let redacting = |text: &str| {
        let rules =
            format!("[[clause]]\nid = \"x\"\nwhen = \"output\"\nmatch = '{text}'\naction = \"redact\"\n");
        with(&props().guard, json!({ "rules": rules }))
    };
    let others: [Vec<Plugin>; 4] = [
        vec![],
        vec![redacting("nowhere")],
        [&now.policies[..], &[with(&props().second, json!({ "rules": STOPPING }))]].concat(),
        scripted("output", "so", "trap").into_iter().collect(),
    ];
    let mut seen = Seen::default();
    for policies in &others {
        for at in 0..4 {
            let mut generator = scene.generator(&play);
            let reloads = generator.reloads();
            let new = Behaviour { policies: policies.clone(), ..now.clone() };
            let mut events = 0;
            let user = [ChatMessage::new(Role::User, "Go.")];
            seen = seen.and(scene.answer(&mut generator, &play, &user, &mut |_| {
                if events == at {
                    reloads.offer(new.clone()).unwrap();
                }
                events += 1;
            }));
        }
    }
    seen
}

/// A new version of a policy fails in the answer that it joined: it withholds the rest.
fn policy_taken_back(scene: &Scene) -> Seen {
    let play = Play { rounds: vec![scene.within("It is ", " and so on")], ..Play::default() };
    let mut generator = scene.generator(&play);
    let reloads = generator.reloads();
    let now = scene.behaviour(&play);
    let failing = scripted("output", "and", "trap");
    let policies = failing.into_iter().chain(now.policies.clone()).collect();
    reloads.offer(Behaviour { policies, ..now }).unwrap();
    let user = [ChatMessage::new(Role::User, "Go.")];
    let first = scene.answer(&mut generator, &play, &user, &mut |_| {});
    first.and(scene.answer(&mut generator, &play, &user, &mut |_| {}))
}

fn samplers_exchanged(scene: &Scene) -> Seen {
    let play = Play { rounds: vec![scene.within("a b c d", " e f g")], ..Play::default() };
    let mut seen = Seen::default();
    for fault in [None, Some("sample"), Some("fifth-token")] {
        let mut generator = scene.generator(&play);
        let reloads = generator.reloads();
        let other =
            Play { rounds: play.rounds.clone(), fault: fault.or(Some("configure")), ..Play::default() };
        let mut new = scene.behaviour(&Play { fault, ..other });
        if fault.is_none() {
            // The same with a parameter written otherwise: a version of its own.
            new.samplers[0] = with(&props().sampler, json!({ "texts": play.rounds }));
        }
        let user = [ChatMessage::new(Role::User, "Go.")];
        seen = seen.and(scene.answer(&mut generator, &play, &user, &mut |event| {
            if matches!(event, Event::Text { .. } | Event::Prefill { .. }) {
                // One that failed is refused from then on.
                let _ = reloads.offer(new.clone());
            }
        }));
    }
    seen
}

/// The session goes on from the first answer, in whose tokens the text stands.
fn second_answer(scene: &Scene) -> Seen {
    let rounds = vec![scene.within("It is ", " indeed")];
    let play = Play { rounds, ..Play::default() };
    let mut seen = Seen::default();
    for cut in [None, Some(2), Some(4)] {
        let mut generator = scene.generator(&play);
        let mut messages = vec![ChatMessage::new(Role::User, "Go.")];
        let first = scene.answer(
            &mut generator,
            &Play { rounds: play.rounds.clone(), max_tokens: cut, ..Play::default() },
            &messages,
            &mut |_| {},
        );
        messages = first.messages.clone();
        messages.push(ChatMessage::new(Role::User, "And again."));
        seen = seen.and(first).and(scene.answer(&mut generator, &play, &messages, &mut |_| {}));
    }
    seen
}

/// The agent hands on what the model says, and chooses among what it says in forks.
fn agent_says(scene: &Scene) -> Seen {
    let play = Play { rounds: vec![scene.within("It is ", " indeed")], ..Play::default() };
    let one = scene.pursue(&with(&props().react, json!({ "steps": 2 })), &play);
    one.and(scene.pursue(&with(&props().best_of_n, json!({ "n": 2 })), &play))
}

/// A call whose arguments have it, and one whose result has it.
fn agent_calls(scene: &Scene) -> Seen {
    let react = with(&props().react, json!({ "steps": 2 }));
    let start = "<tool_call>{\"name\": \"calculator\", \"arguments\": {\"expression\": \"";
    let calls = [scene.within(start, "\"}}</tool_call>"), encode(COMPUTES)];
    let plays = calls.map(|call| scene.pursue(&react, &Play { rounds: vec![call], ..Play::default() }));
    plays.into_iter().fold(Seen::default(), Seen::and)
}

/// What the log itself says, and of the texts what the person saw; decisions again.
fn record(scene: &Scene) -> Seen {
    let mut seen = Seen::default();
    for keep in [Keep::Digests, Keep::Tokens, Keep::Text] {
        let play = Play { rounds: vec![encode(COMPUTES), scene.within("It is ", ".")], ..Play::default() };
        let mut generator = scene.generator(&play);
        let recorder = Recorder::keeping(&mut generator, keep);
        let user = [ChatMessage::new(Role::User, "Go.")];
        seen = seen.and(scene.answer(&mut generator, &play, &user, &mut |_| {}));
        let recorded = recorder.read();
        let log = std::fs::read_to_string(&recorder.path).unwrap();
        // What is configured names what is forbidden; digests and times may hold any digits.
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["record"].get("behaviour").is_none() {
                let mut found = Vec::new();
                gather(&line["record"], &mut found);
                found.retain(|text| !text.starts_with("sha256:") && text.len() != 32);
                seen.texts.push(found.concat());
            }
        }
        let (answer, script) = recorded.answer(0);
        if let Some(end) = &script.end {
            seen.texts.extend([end.released.clone(), end.message.clone().unwrap_or_default()]);
            seen.texts.push(end.notes.concat());
            let policies = scene.behaviour(&play).policies;
            let now = decide(&props().host, &policies, answer.number, &script, None).unwrap();
            seen.texts.extend([now.released, now.refused.unwrap_or_default()]);
        }
    }
    seen
}
