//! Where the prompt goes in a conversation, and what becomes of the system messages that are there already.

use membrane_plugin::policy::{Message, Role};
use serde::Deserialize;

/// What becomes of the request's own system messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They follow the prompt, in the same first message, in their order.
    Prepend,
    /// They are dropped.
    Replace,
    /// They stay, and the prompt is only added where there is none.
    OnlyIfAbsent,
}

/// What stands between the prompt and a system message of the request.
const SEPARATOR: &str = "\n\n";

/// The conversation with the prompt as its only system message, in front. `None` if the prompt is not to be
/// added. A prompt that an earlier turn has added already is not added twice.
pub fn rewrite(text: &str, mode: Mode, messages: &[Message]) -> Option<Vec<Message>> {
    let own: Vec<&str> = messages
        .iter()
        .filter(|message| message.role == Role::System)
        .map(|message| without_prompt(text, &message.content))
        .filter(|content| !content.trim().is_empty())
        .collect();
    let content = match mode {
        Mode::OnlyIfAbsent if !own.is_empty() => return None,
        Mode::Prepend => std::iter::once(text).chain(own).collect::<Vec<_>>().join(SEPARATOR),
        Mode::Replace | Mode::OnlyIfAbsent => text.to_owned(),
    };
    let rest = messages.iter().filter(|message| message.role != Role::System).cloned();
    Some(std::iter::once(Message::new(Role::System, content)).chain(rest).collect())
}

/// Whether two conversations are the same.
pub fn same(a: &[Message], b: &[Message]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.role == b.role && a.content == b.content)
}

/// A system message without the prompt that this policy put before it in an earlier turn.
fn without_prompt<'a>(text: &str, content: &'a str) -> &'a str {
    match content.strip_prefix(text) {
        Some("") => "",
        Some(rest) => rest.strip_prefix(SEPARATOR).unwrap_or(content),
        None => content,
    }
}
