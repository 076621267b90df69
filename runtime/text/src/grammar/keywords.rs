//! Keywords of JSON schemas: those that there are not, and numbers of some that would not be kept as they are written.

use std::fmt;

use serde_json::Value;

use crate::error::shown;

/// Keywords of JSON Schema, drafts 4 to 2020-12, and of OpenAPI.
const KNOWN: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$dynamicAnchor",
    "$dynamicRef",
    "$id",
    "$recursiveAnchor",
    "$recursiveRef",
    "$ref",
    "$schema",
    "$vocabulary",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "deprecated",
    "description",
    "discriminator",
    "else",
    "enum",
    "example",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "externalDocs",
    "format",
    "id",
    "if",
    "items",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "nullable",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "readOnly",
    "required",
    "then",
    "title",
    "type",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "writeOnly",
    "xml",
];
/// Keywords below which a schema stands, a list of schemas, or schemas by name.
const ONE: [&str; 12] = [
    "items",
    "additionalProperties",
    "additionalItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "contentSchema",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
const NAMED: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];

/// Keywords that bound numbers. The library has them, and values that are demanded, as numbers of 64 bits with a point.
const BOUNDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// A keyword of a schema that JSON Schema does not have. It is allowed, and means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKeyword {
    /// A JSON pointer to its schema, as a reference is written: `#/properties/a`.
    pub place: String,
    /// The keyword.
    pub keyword: String,
    /// The keyword that may be meant.
    pub meant: Option<&'static str>,
}

impl fmt::Display for UnknownKeyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, keyword) = (shown(&self.place), shown(&self.keyword));
        write!(f, "at {place}: {keyword} is no keyword of JSON Schema, and is ignored")?;
        self.meant.map_or(Ok(()), |meant| write!(f, "; `{meant}` may be meant"))
    }
}

/// Keywords that there are not. Those that begin with `x-` are somebody's own.
pub(super) fn unknown(schema: &Value) -> Vec<UnknownKeyword> {
    let mut found = Vec::new();
    walk(schema, &mut |place, keyword, _| {
        if !KNOWN.contains(&keyword) && !keyword.starts_with("x-") {
            let (place, keyword) = (place.to_owned(), keyword.to_owned());
            found.push(UnknownKeyword { place, meant: nearest(&keyword), keyword });
        }
    });
    found
}

/// Why a value or a bound that is demanded can't be kept: it has a whole number that would be rounded.
pub(super) fn rounded(schema: &Value) -> Option<String> {
    let mut found = None;
    walk(schema, &mut |place, keyword, value| {
        let bound =
            BOUNDS.contains(&keyword).then_some(Bound { exclusive: keyword.starts_with("exclusive") });
        if found.is_none() && (bound.is_some() || ["const", "enum"].contains(&keyword)) {
            found = inexact(value, bound).map(|number| {
                let (place, more) = (shown(place), if bound.is_some() { "" } else { "; use a string" });
                format!("at {place}: the {keyword} has {number}, which is not kept exactly{more}")
            });
        }
    });
    found
}

/// A number that values are compared with.
#[derive(Clone, Copy)]
struct Bound {
    /// It is no such value itself, but what is one beside it may be.
    exclusive: bool,
}

impl Bound {
    /// Whether it can be kept: in 64 bits with a sign, and where it is exclusive what is one beside it, too, which floats have not
    /// beyond 2^53.
    fn holds(self, x: f64) -> bool {
        const BEYOND_64_BITS: f64 = 9_223_372_036_854_775_808.0;
        const NO_NEIGHBOURS: f64 = 9_007_199_254_740_992.0;
        if self.exclusive { x.abs() < NO_NEIGHBOURS } else { (-BEYOND_64_BITS..BEYOND_64_BITS).contains(&x) }
    }
}

/// A number in a value that would be rounded.
fn inexact(value: &Value, bound: Option<Bound>) -> Option<String> {
    match value {
        Value::Array(values) => values.iter().find_map(|value| inexact(value, bound)),
        Value::Object(fields) => fields.values().find_map(|value| inexact(value, bound)),
        Value::Number(number) => {
            let exact = number.as_i128().is_none_or(|whole| whole as f64 as i128 == whole);
            let kept = bound.is_none_or(|bound| number.as_f64().is_some_and(|x| bound.holds(x)));
            (!exact || !kept).then(|| number.to_string())
        }
        _ => None,
    }
}

/// A whole number in the text of a JSON that has more digits than 64 bits hold, and was rounded when it was read.
pub(super) fn rounded_when_read(json: &str) -> Option<&str> {
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = behind_string(bytes, at + 1),
            b'-' | b'0'..=b'9' => {
                let of_number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let end = at + bytes[at..].iter().take_while(of_number).count();
                if was_rounded(&json[at..end]) {
                    return Some(&json[at..end]);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

/// The place behind a string whose first byte is here.
fn behind_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

fn was_rounded(number: &str) -> bool {
    let digits = number.trim_start_matches('-');
    let long = number.parse::<i64>().is_err() && number.parse::<u64>().is_err();
    let whole = long && digits.bytes().all(|byte| byte.is_ascii_digit());
    whole && digits.parse::<f64>().is_ok_and(|read| format!("{read:.0}") != digits)
}

/// Shows each keyword of a schema and of those in it, with the place of its schema and its value.
fn walk<'s>(schema: &'s Value, look: &mut dyn FnMut(&str, &str, &'s Value)) {
    let mut left = vec![("#".to_owned(), schema)];
    while let Some((place, schema)) = left.pop() {
        let Some(fields) = schema.as_object() else { continue };
        for (keyword, value) in fields {
            look(&place, keyword, value);
            let keyword = keyword.as_str();
            match value {
                Value::Array(list) if LISTS.contains(&keyword) => {
                    let parts = list.iter().enumerate();
                    left.extend(parts.map(|(index, part)| (format!("{place}/{keyword}/{index}"), part)));
                }
                Value::Object(named) if NAMED.contains(&keyword) => {
                    let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
                    let parts = named.iter();
                    left.extend(
                        parts.map(|(name, part)| (format!("{place}/{keyword}/{}", escaped(name)), part)),
                    );
                }
                Value::Object(_) if ONE.contains(&keyword) => {
                    left.push((format!("{place}/{keyword}"), value))
                }
                _ => {}
            }
        }
    }
}

/// The known keyword that is spelt most like a text, if one nearly is.
fn nearest(text: &str) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase().replace(['_', '-'], "");
    let near = KNOWN.iter().map(|known| (distance(&lower, &known.to_ascii_lowercase()), *known));
    near.min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .map(|near| near.1)
}

/// How many letters are to be put in, taken out or exchanged (Levenshtein). Of long texts the beginning counts.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, x) in a.chars().take(LONGEST).enumerate() {
        let mut corner = row[0];
        row[0] = above + 1;
        for (at, y) in b.iter().enumerate() {
            let swapped = corner + usize::from(x != *y);
            corner = row[at + 1];
            row[at + 1] = swapped.min(row[at] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn misspelt_keywords_are_found_where_schemas_stand_and_nowhere_else() {
        let schema = json!({
            "type": "object",
            "propertys": {},
            "properties": {
                "maxlength": {"type": "string", "maxlength": 3, "x-own": 1, "default": {"requird": 1}},
                "a/b": {"items": {"anyOf": [{"enumm": [1]}, {"const": {"requird": 1}}]}},
            },
            "additional_properties": false,
            "requird": [],
            "hxqwz": 1,
        });
        let mut found: Vec<String> = unknown(&schema).iter().map(ToString::to_string).collect();
        found.sort();
        let said = |place: &str, keyword: &str| {
            format!("at {place:?}: {keyword:?} is no keyword of JSON Schema, and is ignored")
        };
        let meant = |place: &str, keyword: &str, meant: &str| {
            format!("{}; `{meant}` may be meant", said(place, keyword))
        };
        let mut expected = vec![
            meant("#", "propertys", "properties"),
            meant("#/properties/maxlength", "maxlength", "maxLength"),
            meant("#/properties/a~1b/items/anyOf/0", "enumm", "enum"),
            meant("#", "additional_properties", "additionalProperties"),
            meant("#", "requird", "required"),
            said("#", "hxqwz"),
        ];
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_known_is_not_told() {
        let all: serde_json::Map<String, Value> =
            KNOWN.iter().map(|known| ((*known).to_owned(), json!(1))).collect();
        assert_eq!(unknown(&Value::Object(all)), []);
        assert!(KNOWN.iter().all(|known| nearest(known) == Some(*known)));
    }

    #[test]
    fn whole_numbers_that_would_be_rounded_are_found_in_what_is_demanded() {
        for (schema, place) in [
            (json!({"const": 9_007_199_254_740_993_u64}), Some("#")),
            (
                json!({"properties": {"a": {"enum": ["x", [-9_007_199_254_740_993_i64]]}}}),
                Some("#/properties/a"),
            ),
            (json!({"minimum": 9_007_199_254_740_993_u64}), Some("#")),
            (json!({"items": {"maximum": -9_007_199_254_740_993_i64}}), Some("#/items")),
            (json!({"exclusiveMinimum": 9_007_199_254_740_993_u64}), Some("#")),
            (json!({"exclusiveMaximum": 9_007_199_254_740_993_u64}), Some("#")),
            (json!({"multipleOf": 9_007_199_254_740_993_u64}), Some("#")),
            (json!({"maximum": u64::MAX}), Some("#")),
            (json!({"minimum": 1_u64 << 63}), Some("#")),
            (json!({"const": [1_u64 << 63, i64::MIN, 9_007_199_254_740_994_u64]}), None),
            (
                json!({"minimum": i64::MIN, "maximum": 9_007_199_254_740_994_u64, "exclusiveMinimum": true}),
                None,
            ),
            (json!({"const": 1e300, "maximum": 1e18, "minimum": -1e18}), None),
            (json!({"minimum": 100_000_000_000_000_000_u64}), None),
            (json!({"exclusiveMinimum": 9_007_199_254_740_991_u64}), None),
            // What is one beside is no float.
            (json!({"exclusiveMinimum": 9_007_199_254_740_992_u64}), Some("#")),
            (json!({"exclusiveMaximum": -100_000_000_000_000_000_i64}), Some("#")),
            // Beyond 64 bits with a sign.
            (json!({"exclusiveMinimum": 1e17}), Some("#")),
            (json!({"exclusiveMinimum": 1e15}), None),
            (json!({"maximum": 1e19}), Some("#")),
            (json!({"minimum": -1e300}), Some("#")),
            (json!({"const": 9_007_199_254_740_992_u64}), None),
            (json!({"const": "9007199254740993"}), None),
            (json!({"enum": [1.5, 1e-300]}), None),
            (json!({"default": u64::MAX}), None),
        ] {
            let found = rounded(&schema);
            assert_eq!(found.is_some(), place.is_some(), "{schema}: {found:?}");
            assert!(
                place.is_none_or(|place| found.as_ref().unwrap().starts_with(&format!("at {place:?}: "))),
                "{found:?}"
            );
        }
    }

    #[test]
    fn whole_numbers_of_more_than_64_bits_are_found_where_reading_rounds_them() {
        for (json, found) in [
            (r#"{"const": 123456789012345678901234567890}"#, Some("123456789012345678901234567890")),
            (r#"[{"minimum":-18446744073709551615}]"#, Some("-18446744073709551615")),
            (
                r#"{"const": 18446744073709551616, "a": -9223372036854775808, "b": 18446744073709551615}"#,
                None,
            ),
            (
                r#"{"const": 1e300, "a": 123456789012345678901234567890.5, "b": 123456789012345678901E3}"#,
                None,
            ),
            (r#"{"a\"12345678901234567890123": "\\", "b": "é123456789012345678901234567890"}"#, None),
            (r#""\"#, None),
        ] {
            assert_eq!(rounded_when_read(json), found, "{json}");
        }
    }
}
