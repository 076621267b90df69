//! Cases of policies.

use membrane_host::{Ended, Intervention, Invocation, Message, PolicyChain, Refused, Role, ToolCallOutcome};
use serde::Deserialize;

use crate::case::Case;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    hooks: Vec<Hook>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Hook {
    Request(Request),
    Output(Output),
    ToolCall(ToolCall),
    ToolResult(ToolResult),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    request: Vec<Turn>,
    messages: Option<Vec<Turn>>,
    refused: Option<String>,
    clauses: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    output: Vec<String>,
    released: String,
    ended: Option<String>,
    clauses: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCall {
    tool_call: Call,
    allowed: Option<String>,
    denied: Option<String>,
    refused: Option<String>,
    clauses: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolResult {
    tool_result: CallAndOutput,
    becomes: Option<String>,
    refused: Option<String>,
    clauses: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    arguments: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallAndOutput {
    call: Call,
    output: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: String,
    content: String,
}

/// How the pieces of an answer are cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    AsGiven,
    Whole,
    Characters,
}

/// Starts the policy and calls its hooks, once for each way to cut the answer.
pub fn run(case: &Case) {
    let (host, plugin) = case.load();
    let plugins = [plugin];
    if case.is_refused(&PolicyChain::start(&host, &plugins)) {
        return;
    }
    let body: Body = case.body();
    for cut in [Cut::AsGiven, Cut::Whole, Cut::Characters] {
        let mut chain = PolicyChain::start(&host, &plugins).unwrap();
        let title = format!("{} ({cut:?})", case.title());
        for hook in body.hooks.clone() {
            match hook {
                Hook::Request(hook) => request(&mut chain, hook, &title),
                Hook::Output(hook) => output(&mut chain, hook, cut, &title),
                Hook::ToolCall(hook) => tool_call(&mut chain, hook, &title),
                Hook::ToolResult(hook) => tool_result(&mut chain, hook, &title),
            }
        }
    }
}

fn request(chain: &mut PolicyChain, hook: Request, title: &str) {
    let messages =
        hook.request.into_iter().map(|turn| Message { role: role(&turn.role), content: turn.content });
    let (messages, refused, interventions) = match chain.request(messages.collect()) {
        Ok(outcome) => (Some(outcome.messages), None, outcome.interventions),
        Err(refused) => (None, Some(refused.message), refused.interventions),
    };
    let turn = |message: Message| Turn { role: word(message.role).to_owned(), content: message.content };
    let messages: Option<Vec<Turn>> = messages.map(|messages| messages.into_iter().map(turn).collect());
    assert_eq!((messages, refused), (hook.messages, hook.refused), "{title}");
    assert_eq!(clauses(&interventions), hook.clauses, "{title}");
}

fn output(chain: &mut PolicyChain, hook: Output, cut: Cut, title: &str) {
    let whole = hook.output.concat();
    let pieces = match cut {
        Cut::AsGiven => hook.output,
        Cut::Whole => vec![whole],
        Cut::Characters => whole.chars().map(String::from).collect(),
    };
    let pieces = pieces.iter().map(|piece| (piece.as_str(), false)).chain([("", true)]);
    let (mut released, mut ended, mut interventions) = (String::new(), None, Vec::new());
    for (piece, done) in pieces {
        let outcome = chain.output(piece, done);
        released.push_str(&outcome.released);
        interventions.extend(outcome.interventions);
        ended = match outcome.ended {
            Some(Ended::Stopped) => Some("stopped".to_owned()),
            Some(Ended::Refused(Refused { message, interventions: refusal, .. })) => {
                interventions.extend(refusal);
                Some(message)
            }
            Some(Ended::Forced) => panic!("{title}: forced a text"),
            None => continue,
        };
        break;
    }
    assert_eq!((released, ended), (hook.released, hook.ended), "{title}");
    assert_eq!(clauses(&interventions), hook.clauses, "{title}");
}

fn tool_call(chain: &mut PolicyChain, hook: ToolCall, title: &str) {
    let outcome = chain.tool_call(invocation(hook.tool_call));
    let (allowed, denied, refused, interventions) = match outcome {
        Ok(ToolCallOutcome::Allowed { call, interventions }) => {
            (Some(call.arguments), None, None, interventions)
        }
        Ok(ToolCallOutcome::Denied { note, interventions }) => (None, Some(note), None, interventions),
        Err(refused) => (None, None, Some(refused.message), refused.interventions),
    };
    assert_eq!((allowed, denied, refused), (hook.allowed, hook.denied, hook.refused), "{title}");
    assert_eq!(clauses(&interventions), hook.clauses, "{title}");
}

fn tool_result(chain: &mut PolicyChain, hook: ToolResult, title: &str) {
    let CallAndOutput { call, output } = hook.tool_result;
    let (becomes, refused, interventions) = match chain.tool_result(&invocation(call), output) {
        Ok(outcome) => (Some(outcome.output), None, outcome.interventions),
        Err(refused) => (None, Some(refused.message), refused.interventions),
    };
    assert_eq!((becomes, refused), (hook.becomes, hook.refused), "{title}");
    assert_eq!(clauses(&interventions), hook.clauses, "{title}");
}

fn invocation(call: Call) -> Invocation {
    Invocation { name: call.name, arguments: call.arguments }
}

fn clauses(interventions: &[Intervention]) -> Vec<String> {
    interventions.iter().map(|intervention| intervention.clause.clone()).collect()
}

fn role(word: &str) -> Role {
    match word {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        other => panic!("there is no role {other:?}"),
    }
}

fn word(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}
