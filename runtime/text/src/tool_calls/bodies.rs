//! What stands in a call, by the way that a model writes calls.

use serde_json::{Map, Value};

use crate::conversation::ToolCall;

/// What is wrong with a call.
pub(super) type Wrong = &'static str;

/// Parts a call of DeepSeek's into what is called and with what.
const DEEPSEEK_SEPARATOR: &str = "<｜tool▁sep｜>";
/// The same for Kimi.
const KIMI_SEPARATOR: &str = "<|tool_call_argument_begin|>";

/// The call in an object between tags.
pub(super) fn object(object: &str) -> Result<ToolCall, Wrong> {
    let value: Value = serde_json::from_str(object).map_err(|_| "it isn't valid JSON")?;
    let value = match value.get("function") {
        Some(function) if function.is_object() => function.clone(),
        _ => value,
    };
    let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
    named(name, value.get("arguments").or_else(|| value.get("parameters")).cloned())
}

/// The call in an object without tags, which must have all parts of one.
pub(super) fn bare(text: &str) -> Option<ToolCall> {
    let value: Value = serde_json::from_str(text).ok()?;
    let parts = value.get("function").filter(|function| function.is_object()).unwrap_or(&value);
    let arguments = parts.get("parameters").or_else(|| parts.get("arguments"))?;
    if !arguments.is_object() && !arguments.is_string() {
        return None;
    }
    object(text).ok()
}

/// The calls of a list, or the one of `NAME[ARGS]{...}`, as Mistral's models write them.
pub(super) fn list(text: &str) -> Result<Vec<ToolCall>, Wrong> {
    if text.starts_with('[') {
        let values: Vec<Value> = serde_json::from_str(text).map_err(|_| "it isn't valid JSON")?;
        return values.iter().map(|value| object(&value.to_string())).collect();
    }
    let (name, arguments) = text.split_once("[ARGS]").ok_or("it doesn't name a tool")?;
    // An id may stand between them.
    let name = name.split('[').next().unwrap_or(name);
    Ok(vec![named(name.trim(), Some(json(arguments)?))?])
}

/// `NAME`, separator, object; in DeepSeek's first form `function`, separator, `NAME` and the object as a block of code.
pub(super) fn deepseek(body: &str) -> Result<ToolCall, Wrong> {
    let (before, after) = body.split_once(DEEPSEEK_SEPARATOR).ok_or("it doesn't name a tool")?;
    let after = after.trim();
    if after.starts_with('{') {
        return named(before.trim(), Some(json(after)?));
    }
    let (name, block) = after.split_once('\n').unwrap_or((after, "{}"));
    let block = block.trim().trim_start_matches("```json").trim_matches('`');
    named(name.trim(), Some(json(block)?))
}

/// `functions.NAME:NUMBER`, separator, object.
pub(super) fn kimi(body: &str) -> Result<ToolCall, Wrong> {
    let (id, arguments) = body.split_once(KIMI_SEPARATOR).ok_or("it doesn't name a tool")?;
    let id = id.trim();
    let name = match id.rsplit_once(':') {
        Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => id,
    };
    named(name.strip_prefix("functions.").unwrap_or(name), Some(json(arguments)?))
}

/// A call of a tool by name, with an object, a text that holds one, or nothing.
pub(crate) fn named(name: &str, arguments: Option<Value>) -> Result<ToolCall, Wrong> {
    if name.is_empty() {
        return Err("it doesn't name a tool");
    }
    let arguments = match arguments {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) => json(&text).map_err(|_| "its arguments aren't an object")?,
        Some(other) => other,
    };
    if !arguments.is_object() {
        return Err("its arguments aren't an object");
    }
    Ok(ToolCall { name: name.to_owned(), arguments })
}

fn json(text: &str) -> Result<Value, Wrong> {
    serde_json::from_str(text).map_err(|_| "it isn't valid JSON")
}

const FUNCTION: &str = "<function=";
pub(super) const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// `<function=NAME><parameter=KEY>VALUE</parameter>...</function>`, as Qwen3-Coder and Qwen3.5 write it. What a value is, is told by the
/// tool's description among `tools`.
pub(super) fn function(body: &str, tools: &[Value]) -> Result<ToolCall, Wrong> {
    let body = body.trim().strip_prefix(FUNCTION).ok_or("there is no JSON object and no function in it")?;
    let (name, body) = body.split_once('>').ok_or("it doesn't name a tool")?;
    let name = name.trim();
    let mut rest = body.trim_start();
    let mut arguments = Map::new();
    while let Some(parameter) = rest.strip_prefix(PARAMETER) {
        let (key, behind) = parameter.split_once('>').ok_or("a parameter in it has no name")?;
        let end = value_end(behind).ok_or("a parameter in it isn't closed")?;
        let value = &behind[..end];
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let key = key.trim();
        arguments.insert(key.to_owned(), typed(schema(tools, name, key), value));
        rest = behind[end + PARAMETER_END.len()..].trim_start();
    }
    match rest.strip_prefix(FUNCTION_END).map(str::trim) {
        Some("") => named(name, Some(Value::Object(arguments))),
        Some(_) => Err("there is more in it than one function"),
        None => Err("its function isn't closed"),
    }
}

/// Where the value at the start of a text ends: at the first closing tag behind which the call goes on as calls do.
fn value_end(text: &str) -> Option<usize> {
    let ends = |at: &usize| {
        let behind = text[at + PARAMETER_END.len()..].trim_start();
        behind.starts_with(PARAMETER) || behind.starts_with(FUNCTION_END)
    };
    text.match_indices(PARAMETER_END).map(|(at, _)| at).find(ends)
}

/// The description of a tool's parameter.
fn schema<'a>(tools: &'a [Value], tool: &str, parameter: &str) -> Option<&'a Value> {
    let functions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
    let mut named = functions.filter(|function| function.get("name").and_then(Value::as_str) == Some(tool));
    named.next()?.get("parameters")?.get("properties")?.get(parameter)
}

/// A value that stands as plain text, as what its schema calls for; a text where that isn't known or the value is none of that kind.
fn typed(schema: Option<&Value>, text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    let Some(schema) = schema else { return as_text() };
    let trimmed = text.trim();
    if allows(schema, "null") && matches!(trimmed, "null" | "None") {
        return Value::Null;
    }
    if allows(schema, "string") {
        return as_text();
    }
    match trimmed {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        _ => serde_json::from_str(trimmed).unwrap_or_else(|_| as_text()),
    }
}

/// Whether a schema names a type, itself or in one of its alternatives, or lists a value of it.
fn allows(schema: &Value, kind: &str) -> bool {
    let is = |value: &Value| value.as_str() == Some(kind);
    let listed = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(is),
        Some(name) => is(name),
        None => {
            let values = schema.get("enum").and_then(Value::as_array);
            values.is_some_and(|values| values.iter().any(|value| kind == "string" && value.is_string()))
        }
    };
    let alternatives = ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    listed || alternatives.into_iter().any(|schema| allows(schema, kind))
}
