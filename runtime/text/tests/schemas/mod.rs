//! Schemas that are made at random, and a validator of what is in them.

use serde_json::{Map, Value, json};

/// A source of numbers below a bound.
pub type Below<'a> = &'a mut dyn FnMut(usize) -> usize;

/// A schema of bounded texts.
pub fn schema(below: Below) -> Value {
    let mut schema = part(below, 3);
    if let Some(map) = schema.as_object_mut()
        && below(3) == 0
    {
        let inner = part(below, 1);
        let refers = json!({"type": "array", "items": {"$ref": "#/$defs/inner"}, "maxItems": 2});
        return json!({"anyOf": [map.clone(), refers], "$defs": {"inner": inner}});
    }
    schema
}

fn part(below: Below, depth: usize) -> Value {
    match below(if depth == 0 { 6 } else { 9 }) {
        0 => json!({"type": "null"}),
        1 => json!({"type": "boolean"}),
        2 => {
            let least = below(2000) as i64 - 1000;
            json!({"type": "integer", "minimum": least, "maximum": least + below(5000) as i64})
        }
        3 => {
            let least = below(4);
            json!({"type": "string", "minLength": least, "maxLength": least + below(12)})
        }
        4 => json!({"enum": (0..1 + below(4)).map(|_| literal(below)).collect::<Vec<_>>()}),
        5 => json!({"const": literal(below)}),
        6 => {
            let least = below(3);
            let most = least + below(3);
            json!({"type": "array", "items": part(below, depth - 1), "minItems": least, "maxItems": most})
        }
        7 => json!({"anyOf": (0..1 + below(3)).map(|_| part(below, depth - 1)).collect::<Vec<_>>()}),
        _ => object(below, depth),
    }
}

fn object(below: Below, depth: usize) -> Value {
    let names = ["a", "name", "the end", "ключ", "q\"\\", "0"];
    let count = below(names.len());
    let properties: Map<String, Value> =
        names[..count].iter().map(|name| ((*name).to_owned(), part(below, depth - 1))).collect();
    let required: Vec<&str> = names[..count].iter().copied().filter(|_| below(2) == 0).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn literal(below: Below) -> Value {
    match below(5) {
        0 => json!(below(100_000)),
        1 => json!(-0.5),
        2 => json!(["the \"end\"", null, true]),
        3 => json!({"k": below(9)}),
        _ => json!(format!("{}é\n<|im_end|>", "word ".repeat(below(3)))),
    }
}

/// Whether a value is valid, for the keywords that [`schema`] uses.
pub fn valid(schema: &Value, root: &Value, value: &Value) -> bool {
    let Some(map) = schema.as_object() else { return schema.as_bool() == Some(true) };
    map.iter().all(|(keyword, rule)| match keyword.as_str() {
        "$ref" => valid(root.pointer(&rule.as_str().unwrap()[1..]).unwrap(), root, value),
        "anyOf" => rule.as_array().unwrap().iter().any(|option| valid(option, root, value)),
        "enum" => rule.as_array().unwrap().contains(value),
        "const" => rule == value,
        "type" => match rule.as_str().unwrap() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{other}"),
        },
        "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= count(rule)),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= count(rule)),
        "minItems" => value.as_array().is_none_or(|items| items.len() >= count(rule)),
        "maxItems" => value.as_array().is_none_or(|items| items.len() <= count(rule)),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| valid(rule, root, item))),
        "properties" => value.as_object().is_none_or(|object| {
            object.iter().all(|(name, value)| rule.get(name).is_none_or(|rule| valid(rule, root, value)))
        }),
        "required" => value.as_object().is_none_or(|object| {
            rule.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
        }),
        "additionalProperties" => value
            .as_object()
            .is_none_or(|object| object.keys().all(|name| schema["properties"].get(name).is_some())),
        "$defs" => true,
        other => panic!("the validator does not know {other}"),
    })
}

fn count(rule: &Value) -> usize {
    rule.as_u64().unwrap() as usize
}
