//! JSON that guests hand over, as a text: what can be known of it before values are made, which take many times its bytes.

use std::collections::HashSet;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::limits::{MAX_ARGUMENTS_BYTES, MAX_ARGUMENTS_VALUES};

/// How many values the arguments of a call are, the object and all within it. None: they are no JSON object, beyond a limit, or an
/// object in them names a field twice. Readers differ in which of the two they take, so that a policy could be shown another value
/// than the tool.
pub(crate) fn of_arguments(text: &str) -> Option<usize> {
    if text.len() > MAX_ARGUMENTS_BYTES || !text.trim_start().starts_with('{') {
        return None;
    }
    let Unambiguous(values) = serde_json::from_str::<Unambiguous>(text).ok()?;
    (values <= MAX_ARGUMENTS_VALUES).then_some(values)
}

/// How many values a value is, itself and all within it.
pub(crate) fn count(value: &Value) -> usize {
    let within = match value {
        Value::Array(items) => items.iter().map(count).sum::<usize>(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    };
    1 + within
}

/// The number of values that a JSON value without fields of one name in one object is.
struct Unambiguous(usize);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Counting)
    }
}

/// Reads values without keeping them.
struct Counting;

impl<'de> Visitor<'de> for Counting {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous(1))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unambiguous, E> {
        Ok(Unambiguous(1))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unambiguous, E> {
        Ok(Unambiguous(1))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unambiguous, E> {
        Ok(Unambiguous(1))
    }

    fn visit_str<E>(self, _: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous(1))
    }

    fn visit_unit<E>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous(1))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unambiguous, A::Error> {
        let mut values = 1;
        while let Some(Unambiguous(item)) = items.next_element::<Unambiguous>()? {
            values += item;
        }
        Ok(Unambiguous(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Unambiguous, A::Error> {
        let (mut values, mut names) = (1, HashSet::new());
        while let Some((name, Unambiguous(field))) = fields.next_entry::<String, Unambiguous>()? {
            values += field;
            if !names.insert(name) {
                return Err(serde::de::Error::custom("a field is named twice"));
            }
        }
        Ok(Unambiguous(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_objects_that_all_read_alike() {
        for (good, values) in [("{}", 1), (" {\"a\": [1, -2, 0.5, true, null, \"x\", {\"a\": {}}]} ", 10)] {
            assert_eq!(of_arguments(good), Some(values), "{good}");
            assert_eq!(count(&serde_json::from_str(good).unwrap()), values, "{good}");
        }
        let twice = ["{\"a\": 1, \"a\": 1}", "{\"b\": [{\"a\": 1, \"\\u0061\": 2}]}"];
        for bad in twice.into_iter().chain(["", "[]", "1", "{", "{} x", "{\"a\": 1e999}"]) {
            assert_eq!(of_arguments(bad), None, "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(of_arguments(&format!("{{\"a\": {deep}")), None);
    }

    #[test]
    fn arguments_have_no_more_bytes_and_values_than_their_limits() {
        let numbers = |count: usize| format!("{{\"a\": [{}0]}}", "0,".repeat(count - 1));
        assert_eq!(of_arguments(&numbers(MAX_ARGUMENTS_VALUES - 2)), Some(MAX_ARGUMENTS_VALUES));
        assert_eq!(of_arguments(&numbers(MAX_ARGUMENTS_VALUES - 1)), None);
        let text = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
        assert_eq!(of_arguments(&text(MAX_ARGUMENTS_BYTES)), Some(2));
        assert_eq!(of_arguments(&text(MAX_ARGUMENTS_BYTES + 1)), None);
    }
}
