//! A conversation that policies have rewritten, with what they are not shown of its messages: calls, and names of tools.

use std::borrow::Cow;
use std::ops::Range;

use membrane_host::{Message, Role};
use membrane_text::ChatMessage;

use crate::answer::from_host;

/// The conversation `before`, of which policies were `given` roles and contents, as they made it `now`. A turn that is there
/// as it was, or with other contents in its place, keeps its calls and names.
pub(crate) fn merge(before: &[ChatMessage], given: &[Message], now: &[Message]) -> Vec<ChatMessage> {
    let (old, new) = (turns(given), turns(now));
    let mut rewritten = Vec::with_capacity(now.len());
    for (turn, source) in new.iter().zip(sources((given, &old[..]), (now, &new[..]))) {
        let messages = &now[turn.clone()];
        match source {
            Some(source) => rewritten.extend(amended(&before[old[source].clone()], messages)),
            None => rewritten.extend(messages.iter().cloned().map(from_host)),
        }
    }
    rewritten
}

/// The same, without a copy where policies left it as it was.
pub(crate) fn rewritten<'a>(
    before: &'a [ChatMessage],
    given: &[Message],
    now: &[Message],
) -> Cow<'a, [ChatMessage]> {
    if given == now { Cow::Borrowed(before) } else { Cow::Owned(merge(before, given, now)) }
}

/// The turns of a conversation: a message, and the results of tools behind it.
fn turns(messages: &[Message]) -> Vec<Range<usize>> {
    let mut turns: Vec<Range<usize>> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        match turns.last_mut() {
            Some(turn) if message.role == Role::Tool => turn.end = at + 1,
            _ => turns.push(at..at + 1),
        }
    }
    turns
}

type Turns<'a> = (&'a [Message], &'a [Range<usize>]);

/// The old turn that each new one comes from. They keep their order; of turns that are alike the last is taken, since policies
/// shorten a conversation at its beginning.
fn sources((given, old): Turns<'_>, (now, new): Turns<'_>) -> Vec<Option<usize>> {
    let alike = |a: usize, b: usize| given[old[a].clone()] == now[new[b].clone()];
    let least = old.len().min(new.len());
    let behind = (0..least).take_while(|at| alike(old.len() - 1 - at, new.len() - 1 - at)).count();
    let ahead = (0..least - behind).take_while(|&at| alike(at, at)).count();
    let mut sources: Vec<Option<usize>> = (0..new.len()).map(|at| (at < ahead).then_some(at)).collect();
    for at in 0..behind {
        sources[new.len() - 1 - at] = Some(old.len() - 1 - at);
    }
    let between = ahead..new.len() - behind;
    let mut end = old.len() - behind;
    for at in between.clone().rev() {
        sources[at] = (ahead..end).rev().find(|&turn| alike(turn, at));
        end = sources[at].unwrap_or(end);
    }
    // What is left between two that were found was changed in its place.
    end = old.len() - behind;
    for at in between.rev() {
        if sources[at].is_none() {
            let start = sources[..at].iter().rev().flatten().next().map_or(0, |source| source + 1);
            let role = now[new[at].start].role;
            let mut fits = (start..end).rev().filter(|&turn| given[old[turn].start].role == role);
            // With as many results, if there is one.
            let best = fits.clone().find(|&turn| old[turn].len() == new[at].len());
            sources[at] = best.or_else(|| fits.next());
        }
        end = sources[at].unwrap_or(end);
    }
    sources
}

/// A turn with other contents. Calls whose results are gone are gone with them.
fn amended(before: &[ChatMessage], now: &[Message]) -> Vec<ChatMessage> {
    let old = |at: usize| match at {
        0 => before.first().filter(|_| before.len() == 1 || now.len() > 1),
        _ if before.len() == now.len() => before.get(at),
        _ => before[1..].iter().find(|old| old.content == now[at].content),
    };
    let message = |(at, message): (usize, &Message)| match old(at) {
        Some(old) => ChatMessage { content: message.content.clone(), ..old.clone() },
        None => from_host(message.clone()),
    };
    now.iter().enumerate().map(message).collect()
}

#[cfg(test)]
mod tests {
    use membrane_text::{Role, ToolCall};
    use serde_json::json;

    use super::*;
    use crate::answer::to_host;

    fn says(role: Role, content: &str) -> ChatMessage {
        ChatMessage::new(role, content)
    }

    /// A turn that calls a tool and reads a result.
    fn calls(tool: &str, content: &str, result: &str) -> [ChatMessage; 2] {
        let call = ToolCall { name: tool.into(), arguments: json!({ "of": tool }) };
        let name = Some(tool.to_owned());
        [
            ChatMessage { tool_calls: vec![call], ..says(Role::Assistant, content) },
            ChatMessage { name, ..says(Role::Tool, result) },
        ]
    }

    /// A question, two calls without words, another question.
    fn conversation() -> Vec<ChatMessage> {
        let [first, second] = [calls("a", "", "3"), calls("b", "", "4")];
        let (asks, more) = (says(Role::User, "x"), says(Role::User, "y"));
        [vec![asks], first.to_vec(), second.to_vec(), vec![more]].concat()
    }

    fn merged(before: &[ChatMessage], change: impl FnOnce(&mut Vec<Message>)) -> Vec<ChatMessage> {
        let given: Vec<Message> = before.iter().map(to_host).collect();
        let mut now = given.clone();
        change(&mut now);
        merge(before, &given, &now)
    }

    #[test]
    fn what_stays_keeps_its_own_calls_whatever_else_is_dropped() {
        let before = conversation();
        for (from, to) in [(0, 0), (1, 3), (3, 5), (0, 3), (1, 5), (3, 6), (0, 5)] {
            let mut expected = before.clone();
            expected.drain(from..to);
            assert_eq!(merged(&before, |now| drop(now.drain(from..to))), expected, "{from} to {to}");
        }
        let thrice = [calls("a", "", "3"), calls("b", "", "4"), calls("c", "", "5")].concat();
        let both_ends = |now: &mut Vec<Message>| {
            now.truncate(4);
            now.drain(..2);
        };
        assert_eq!(merged(&thrice, both_ends), thrice[2..4]);
        let alike = [calls("a", "", "4"), calls("b", "", "4")].concat();
        assert_eq!(merged(&alike, |now| drop(now.drain(..2))), alike[2..]);
    }

    #[test]
    fn contents_that_change_in_their_place_leave_calls_and_names() {
        let before = conversation();
        for at in 0..before.len() {
            let mut expected = before.clone();
            expected[at].content = "[redacted]".into();
            let redact = |now: &mut Vec<Message>| now[at].content = "[redacted]".into();
            assert_eq!(merged(&before, redact), expected, "{at}");
            let system = says(Role::System, "Be kind.");
            let and_more = |now: &mut Vec<Message>| {
                redact(now);
                now.insert(0, to_host(&system));
            };
            assert_eq!(
                merged(&before, and_more),
                [vec![system.clone()], expected].concat(),
                "{at}, behind more"
            );
        }
    }

    #[test]
    fn calls_go_with_their_results() {
        let before = conversation();
        let summed_up = says(Role::Assistant, "It was 3.");
        let sum_up = |now: &mut Vec<Message>| drop(now.splice(1..3, [to_host(&summed_up)]));
        let expected = [&before[..1], std::slice::from_ref(&summed_up), &before[3..]].concat();
        assert_eq!(merged(&before, sum_up), expected);
        // An answer behind them is gone, and their result is another: they are still theirs.
        let [asks, _] = calls("a", "Let me see.", "3");
        let turns =
            [calls("a", "Let me see.", "3").to_vec(), vec![says(Role::Assistant, "It was 3.")]].concat();
        let expected = [asks.clone(), ChatMessage { content: "[redacted]".into(), ..turns[1].clone() }];
        let cut = |now: &mut Vec<Message>| {
            now.truncate(2);
            now[1].content = "[redacted]".into();
        };
        assert_eq!(merged(&turns, cut), expected);
        // One of two results.
        let mut both = calls("a", "", "3").to_vec();
        both.extend(calls("b", "", "4").into_iter().skip(1));
        assert_eq!(merged(&both, |now| drop(now.remove(1))), [both[0].clone(), both[2].clone()]);
    }
}
