//! Checks of a grammar before it is compiled: what the library would take too much for, or take otherwise than it is
//! written.

use serde_json::{Map, Value, json};

use super::error::GrammarError;
use super::{Grammar, keywords};
use crate::limits::{
    GRAMMAR_INTERSECTIONS, GRAMMAR_NESTING, MAX_LARK_BYTES, MAX_REGEX_BYTES, MAX_SCHEMA_BYTES,
    SCHEMA_MULTIPLES, SCHEMA_PATTERNS,
};

/// White space between the parts of a JSON text: a few blanks, or a new line with its indentation. JSON allows any
/// amount, and a model that has lost its way then writes blanks to the end of its context.
const WHITE_SPACE: &str = r"[ \t]{1,4}|\n[ \t]{0,64}";

/// Where the library takes options from a schema.
const OPTIONS: &str = "x-guidance";

/// Keywords whose schemas are combined with those of the keywords beside them.
const COMBINING: [&str; 4] = ["allOf", "anyOf", "oneOf", "$ref"];

/// Keywords through which a regular expression can come to be combined with another.
const COMBINED: [&str; 7] =
    ["pattern", "format", "properties", "patternProperties", "additionalProperties", "items", "prefixItems"];

/// Refuses a JSON schema's text that is too long.
pub(super) fn schema_size(bytes: usize) -> Result<(), GrammarError> {
    // Blanks are not counted in the end, but must not be endless either.
    within("JSON schema", "bytes", bytes, 8 * MAX_SCHEMA_BYTES)
}

fn within(kind: &'static str, what: &'static str, found: usize, max: usize) -> Result<(), GrammarError> {
    if found > max { Err(GrammarError::TooLarge { kind, what, found, max }) } else { Ok(()) }
}

/// Refuses what is too large or too deep.
pub(super) fn check(grammar: &Grammar) -> Result<(), GrammarError> {
    let kind = grammar.kind();
    let text = match grammar {
        Grammar::JsonSchema(schema) => return check_schema(schema),
        Grammar::Regex(text) | Grammar::Lark(text) => text,
    };
    let max = if matches!(grammar, Grammar::Lark(_)) { MAX_LARK_BYTES } else { MAX_REGEX_BYTES };
    within(kind, "bytes", text.len(), max)?;
    within(kind, "levels of brackets", brackets(text), GRAMMAR_NESTING)?;
    if let Grammar::Lark(text) = grammar {
        within(kind, "signs `&`", text.matches('&').count(), GRAMMAR_INTERSECTIONS)?;
        for inner in text.split("%json").skip(1) {
            // What is no JSON is no schema either, but a text, or refused by the library.
            let mut values = serde_json::Deserializer::from_str(inner).into_iter::<Value>();
            if let Some(Ok(schema)) = values.next() {
                check_schema(&schema)?;
            }
        }
    }
    Ok(())
}

fn check_schema(schema: &Value) -> Result<(), GrammarError> {
    let kind = "JSON schema";
    within(kind, "levels", levels(schema), GRAMMAR_NESTING)?;
    within(kind, "bytes", schema.to_string().len(), MAX_SCHEMA_BYTES)?;
    if let Some(reason) = keywords::rounded(schema) {
        return refuse(&reason);
    }
    let parts = Parts::of(schema);
    if parts.options {
        return refuse("`x-guidance` is no part of JSON Schema and is not taken; leave it out");
    }
    if parts.named && parts.refers {
        return refuse(
            "it has a `$id` below its root, and a `$ref`; name definitions by their place, `#/$defs/NAME`",
        );
    }
    let (what, most) = if parts.combines {
        ("patterns and formats beside allOf, anyOf, oneOf or $ref with other keywords", GRAMMAR_INTERSECTIONS)
    } else {
        ("patterns and formats", SCHEMA_PATTERNS)
    };
    within(kind, what, parts.patterns, most)?;
    if parts.multiples > SCHEMA_MULTIPLES {
        return refuse(
            "the values of multipleOf take too large an automaton; their digits may multiply to 10,000",
        );
    }
    Ok(())
}

fn refuse(reason: &str) -> Result<(), GrammarError> {
    Err(GrammarError::schema(reason.to_owned()))
}

/// What a schema has, anywhere in it, that the library takes too much for or reads otherwise than it is meant.
#[derive(Default)]
struct Parts {
    /// Options that weaken a schema.
    options: bool,
    /// A name in the middle, which changes what references below it refer to.
    named: bool,
    refers: bool,
    /// Regular expressions may have to hold at the same time.
    combines: bool,
    patterns: usize,
    /// The product of the digits of all `multipleOf`.
    multiples: u64,
}

impl Parts {
    fn of(schema: &Value) -> Self {
        let mut parts = Self { multiples: 1, ..Self::default() };
        let mut left = vec![(schema, true)];
        while let Some((value, root)) = left.pop() {
            match value {
                Value::Array(items) => left.extend(items.iter().map(|item| (item, false))),
                Value::Object(map) => {
                    parts.count(map, root);
                    left.extend(map.values().map(|item| (item, false)));
                }
                _ => {}
            }
        }
        parts
    }

    fn count(&mut self, map: &Map<String, Value>, root: bool) {
        let has = |keys: &[&str]| keys.iter().filter(|key| map.contains_key(**key)).count();
        self.options |= map.contains_key(OPTIONS);
        self.named |= !root && map.get("$id").is_some_and(Value::is_string);
        self.refers |= map.get("$ref").is_some_and(Value::is_string);
        let several = map.get("allOf").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
        self.combines |= several || has(&COMBINING) > 1 || has(&COMBINING) == 1 && has(&COMBINED) > 0;
        self.patterns += has(&["pattern", "format"]);
        self.patterns += map.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        if let Some(Value::Number(number)) = map.get("multipleOf") {
            self.multiples = self.multiples.saturating_mul(digits(&number.to_string()));
        }
    }
}

/// The digits of a number as a whole number: 25 of 0.25, of 2500 and of 2.5e9.
fn digits(number: &str) -> u64 {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').parse().unwrap_or(if digits.trim_matches('0').is_empty() { 1 } else { u64::MAX })
}

/// The schema as the library is to read it.
pub(super) fn for_library(schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(map) => map.clone(),
        // `true` and `false` are schemas, too, but have no place for options.
        other => Map::from_iter([("allOf".to_owned(), json!([other]))]),
    };
    schema.insert(OPTIONS.to_owned(), json!({ "whitespace_pattern": WHITE_SPACE }));
    Value::Object(schema)
}

/// How deep lists and objects lie in each other.
fn levels(value: &Value) -> usize {
    let mut deepest = 0;
    let mut left = vec![(value, 1)];
    while let Some((value, level)) = left.pop() {
        deepest = deepest.max(level);
        if deepest > GRAMMAR_NESTING {
            break;
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, level + 1))),
            Value::Object(map) => left.extend(map.values().map(|item| (item, level + 1))),
            _ => {}
        }
    }
    deepest
}

/// The largest number of brackets that are open at a place. Those in texts and classes count, too: what this stops is
/// far beyond what anybody writes.
fn brackets(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => {}
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        escaped = byte == b'\\' && !escaped;
        most = most.max(open);
    }
    most
}
