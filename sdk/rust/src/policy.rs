//! The world `policy`: decide what may be asked and said.

use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, Visitor};
use serde_json::Value;

pub use crate::bindings::policy::exports::membrane::plugin::policy_plugin::{
    Ending, ForcedText, OutputVerdict, PromptVerdict, Refusal, Replacement, RequestVerdict, RewrittenRequest,
    RewrittenText, ToolCallVerdict, ToolResultVerdict,
};
pub use crate::bindings::policy::membrane::plugin::types::{Invocation, Message, Reason, Role};

impl Reason {
    /// A reason: the id of a clause (at most 128 bytes) and a sentence for people (at most 1,024 bytes).
    pub fn new(clause: impl Into<String>, note: impl Into<String>) -> Self {
        Self { clause: clause.into(), note: note.into() }
    }
}

impl Message {
    /// A turn of a conversation.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

impl OutputVerdict {
    /// Releases all of the pending text.
    pub fn release_all(pending: &str) -> Self {
        // The host caps pending text at 1 MiB.
        Self::Release(pending.len() as u32)
    }
}

impl Invocation {
    /// The arguments as compact JSON, or as they stand if they are no JSON.
    pub fn compact_arguments(&self) -> String {
        serde_json::from_str(&self.arguments)
            .map_or_else(|_| self.arguments.clone(), |arguments: Value| arguments.to_string())
    }

    /// What the call says: its name, and of its arguments every string with escapes undone, keys too, and every number as
    /// it is written, and without exponent. Searching each finds a text however the model wrote it in JSON.
    pub fn texts(&self) -> Vec<String> {
        let mut texts = vec![self.name.clone()];
        match serde_json::from_str(&self.arguments) {
            Ok(IgnoredAny) => collect_texts(&self.arguments, &mut texts),
            Err(_) => texts.push(self.arguments.clone()),
        }
        texts
    }
}

/// Largest exponent that is written out: no number that people write has more digits.
const MAX_EXPONENT: i64 = 64;

/// All strings and numbers of JSON, as they come: those of a key that comes twice, and numbers of any size, too.
fn collect_texts(json: &str, texts: &mut Vec<String>) {
    let mut rest = json;
    while let Some(start) = rest.find(|c: char| matches!(c, '"' | '-' | '0'..='9')) {
        rest = &rest[start..];
        let string = rest.starts_with('"');
        let (token, behind) = rest.split_at(if string { string_end(rest) } else { number_end(rest) });
        let text = string.then(|| serde_json::from_str(token).ok()).flatten();
        texts.push(text.map_or_else(|| token.to_owned(), |Lossy(text)| text));
        texts.extend(if string { None } else { without_exponent(token) });
        rest = behind;
    }
}

/// A string, in which half of a surrogate pair is some other character.
struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Lossy;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Lossy, E> {
                Ok(Lossy(String::from_utf8_lossy(bytes).into_owned()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

fn string_end(json: &str) -> usize {
    let mut escaped = true;
    let ends = |byte: u8| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    };
    json.bytes().position(ends).map_or(json.len(), |last| last + 1)
}

fn number_end(json: &str) -> usize {
    let belongs = |c: char| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
    json.find(|c| !belongs(c)).unwrap_or(json.len())
}

/// A number with an exponent as it is without it.
fn without_exponent(number: &str) -> Option<String> {
    let (mantissa, exponent) = number.split_once(['e', 'E'])?;
    let exponent =
        exponent.parse().ok().filter(|exponent| (-MAX_EXPONENT..=MAX_EXPONENT).contains(exponent))?;
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let (whole, fraction) = mantissa[sign.len()..].split_once('.').unwrap_or((&mantissa[sign.len()..], ""));
    let point = whole.len() as i64 + exponent;
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    let digits = format!(
        "{}{whole}{fraction}{}",
        zeros(1 - point),
        zeros(point - (whole.len() + fraction.len()) as i64)
    );
    let (whole, fraction) = digits.split_at(point.max(1) as usize);
    Some(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// A policy. An instance lives for one answer, tool calls included. Every hook lets pass unless it is
/// implemented.
pub trait Policy: Sized {
    /// The parameters in the profile, read with serde; `#[serde(default, deny_unknown_fields)]` is good
    /// practice.
    type Parameters: DeserializeOwned;

    /// Starts an answer. Errors: a parameter that is out of range.
    fn new(parameters: Self::Parameters) -> Result<Self, String>;

    /// The request, before the chat template. The last message is the newest.
    fn request(&mut self, messages: Vec<Message>) -> Result<RequestVerdict, String> {
        let _ = messages;
        Ok(RequestVerdict::Allow)
    }

    /// The rendered prompt, as the model will read it.
    fn prompt(&mut self, rendered: &str) -> Result<PromptVerdict, String> {
        let _ = rendered;
        Ok(PromptVerdict::Allow)
    }

    /// Text of the answer that no one has seen yet: what was held back before, and what is new. `done` is
    /// true once, at the end; what is not released then is dropped.
    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        let _ = done;
        Ok(OutputVerdict::release_all(pending))
    }

    /// A call that the model wants to make.
    fn tool_call(&mut self, call: Invocation) -> Result<ToolCallVerdict, String> {
        let _ = call;
        Ok(ToolCallVerdict::Allow)
    }

    /// What a tool gave back, before the model reads it.
    fn tool_result(&mut self, call: Invocation, output: &str) -> Result<ToolResultVerdict, String> {
        let _ = (call, output);
        Ok(ToolResultVerdict::Allow)
    }

    /// All that was released, at the end of the answer.
    fn finish(&mut self, released: &str) -> Result<(), String> {
        let _ = released;
        Ok(())
    }
}

/// Makes a type that implements [`Policy`](policy::Policy) the plugin of this crate.
#[macro_export]
macro_rules! export_policy {
    ($plugin:ty) => {
        // Natively, for tests, there is no host to export to.
        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::std::cell::RefCell;
            use $crate::__private::bindings::policy::exports::membrane::plugin::policy_plugin as exports;
            use $crate::policy::{Invocation, Message, Policy};

            ::std::thread_local! {
                static PLUGIN: RefCell<Option<$plugin>> = const { RefCell::new(None) };
            }

            fn with<R>(hook: impl FnOnce(&mut $plugin) -> Result<R, String>) -> Result<R, String> {
                PLUGIN.with_borrow_mut(|plugin| hook(plugin.as_mut().ok_or("not configured")?))
            }

            struct Exported;

            impl exports::Guest for Exported {
                fn configure(parameters: String) -> Result<(), String> {
                    $crate::__private::report_panics();
                    let parameters = $crate::__private::parse(&parameters)?;
                    PLUGIN.set(Some(<$plugin as Policy>::new(parameters)?));
                    Ok(())
                }

                fn request(messages: Vec<Message>) -> Result<exports::RequestVerdict, String> {
                    with(|plugin| plugin.request(messages))
                }

                fn prompt(rendered: String) -> Result<exports::PromptVerdict, String> {
                    with(|plugin| plugin.prompt(&rendered))
                }

                fn output(pending: String, done: bool) -> Result<exports::OutputVerdict, String> {
                    with(|plugin| plugin.output(&pending, done))
                }

                fn tool_call(call: Invocation) -> Result<exports::ToolCallVerdict, String> {
                    with(|plugin| plugin.tool_call(call))
                }

                fn tool_result(
                    call: Invocation,
                    output: String,
                ) -> Result<exports::ToolResultVerdict, String> {
                    with(|plugin| plugin.tool_result(call, &output))
                }

                fn finish(released: String) -> Result<(), String> {
                    with(|plugin| plugin.finish(&released))
                }
            }

            $crate::__private::bindings::policy::export!(
                Exported with_types_in $crate::__private::bindings::policy
            );
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_its_strings_without_escapes() {
        let call = |arguments: &str| Invocation { name: "say".into(), arguments: arguments.into() };
        let nested = call(r#"{"\u0061": ["b\n", {"c": 1, "d": "\u2603"}]}"#);
        assert_eq!(nested.texts(), ["say", "a", "b\n", "c", "1", "d", "☃"]);
        assert_eq!(nested.compact_arguments(), r#"{"a":["b\n",{"c":1,"d":"☃"}]}"#);
        let twice = call(r#"{"a": "\"\\", "a": "\ud800\u0061"}"#).texts();
        assert_eq!(twice[..4], ["say", "a", "\"\\", "a"]);
        assert!(twice[4].ends_with("\u{fffd}a"), "{twice:?}");
        assert_eq!(call("no JSON").texts(), ["say", "no JSON"]);
        assert_eq!(call("no JSON").compact_arguments(), "no JSON");
    }
    #[test]
    fn a_call_says_its_numbers_as_they_are_written_and_without_exponent() {
        let said = |number: &str| {
            let call = Invocation { name: "say".into(), arguments: format!(r#"{{"card":[{number}]}}"#) };
            call.texts().split_off(2)
        };
        for whole in ["4111111111111111", "411111111111111122223333", "-0.10", "4111111111111111.0"] {
            assert_eq!(said(whole), [whole]);
        }
        for (number, without) in [
            ("4.111111111111111e15", "4111111111111111"),
            ("41111111111111112222.5E+1", "411111111111111122225"),
            ("-41111.5e-2", "-411.115"),
            ("4111e-6", "0.004111"),
            ("4111e-4", "0.4111"),
            ("12e3", "12000"),
        ] {
            assert_eq!(said(number), [number, without]);
        }
        assert_eq!(said("1e999, 4"), ["1e999", "4"]);
    }
}
