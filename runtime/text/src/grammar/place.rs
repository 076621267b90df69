//! Where in a schema a part stands that can't be compiled: the library tells why, not where.

use serde_json::{Map, Value};

/// Keywords below which a schema stands.
const ONE: [&str; 8] = [
    "items",
    "additionalProperties",
    "additionalItems",
    "not",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords below which there is a list of schemas.
const LISTS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords below which there are schemas by name.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords that a part needs of the whole to be compiled alone.
const DEFINITIONS: [&str; 3] = ["$schema", "$defs", "definitions"];

/// Parts that are compiled alone to find it.
const TRIES: usize = 64;

/// A JSON pointer to the deepest part that fails in the same way alone, as a reference is written: `#/properties/a`.
pub(super) fn of(schema: &Value, fails_alike: &mut dyn FnMut(&Value) -> bool) -> String {
    let mut pointer = "#".to_owned();
    let (mut at, mut tries) = (schema, 0);
    'down: loop {
        for (steps, part) in parts(at) {
            if tries == TRIES {
                return pointer;
            }
            tries += 1;
            if fails_alike(&alone(part, schema)) {
                pointer += &steps;
                at = part;
                continue 'down;
            }
        }
        return pointer;
    }
}

/// The schemas directly below a schema, each with its pointer from there.
fn parts(schema: &Value) -> Vec<(String, &Value)> {
    let Some(map) = schema.as_object() else { return Vec::new() };
    let mut parts = Vec::new();
    for (keyword, value) in map {
        let keyword = keyword.as_str();
        match value {
            _ if ONE.contains(&keyword) => parts.push((format!("/{keyword}"), value)),
            Value::Array(list) if LISTS.contains(&keyword) => {
                parts.extend(
                    list.iter().enumerate().map(|(index, part)| (format!("/{keyword}/{index}"), part)),
                );
            }
            Value::Object(named) if NAMED.contains(&keyword) => {
                let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
                parts
                    .extend(named.iter().map(|(name, part)| (format!("/{keyword}/{}", escaped(name)), part)));
            }
            _ => {}
        }
    }
    parts
}

/// A part with what it may refer to.
fn alone(part: &Value, whole: &Value) -> Value {
    let Some(part) = part.as_object() else { return part.clone() };
    let given = DEFINITIONS.iter().filter_map(|key| Some(((*key).to_owned(), whole.get(key)?.clone())));
    let mut alone: Map<String, Value> = given.collect();
    alone.extend(part.clone());
    Value::Object(alone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_deepest_part_is_found() {
        let schema = json!({"anyOf": [{"type": "null"}, {"properties": {"a/b": {"items": {"not": 1}}}}]});
        let mut fails = |part: &Value| part.to_string().contains("not");
        assert_eq!(of(&schema, &mut fails), "#/anyOf/1/properties/a~1b/items");
        assert_eq!(of(&json!({"not": 1}), &mut fails), "#");
        assert_eq!(of(&schema, &mut |_| false), "#");
    }

    #[test]
    fn a_wide_schema_is_not_compiled_for_ever() {
        let schema = json!({"anyOf": (0..1000).map(|n| json!({"const": n})).collect::<Vec<_>>()});
        let mut tries = 0;
        of(&schema, &mut |_| {
            tries += 1;
            false
        });
        assert_eq!(tries, TRIES);
    }
}
