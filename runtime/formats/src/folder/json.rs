//! JSON from strangers: no key twice, no more elements than a limit, no depth that overflows the stack.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{FormatError, quoted};
use crate::limits;
use crate::source::SourceFile;

/// Reads a whole document that must be one JSON object.
pub(super) fn object(source: &SourceFile) -> Result<Map<String, Value>, FormatError> {
    let bytes = document(source, limits::JSON_BYTES)?;
    match parse(source, &bytes, Bounded { left: &Cell::new(limits::JSON_ELEMENTS) })? {
        Value::Object(object) => Ok(object),
        _ => Err(broken(source, "it is not a JSON object")),
    }
}

/// The bytes of a whole file of at most `limit` bytes.
pub(crate) fn document(source: &SourceFile, limit: u64) -> Result<Vec<u8>, FormatError> {
    if source.bytes > limit {
        return Err(FormatError::Limit {
            path: source.path.clone(),
            offset: 0,
            what: "the length of the document".into(),
            found: source.bytes,
            limit,
        });
    }
    let mut bytes = vec![0; source.bytes as usize];
    source.read(0, &mut bytes, || "the document".into())?;
    Ok(bytes)
}

/// Parses `bytes` by a seed; what stands behind the value must be white space. serde_json stops at 128 levels by itself.
pub(super) fn parse<'de, S: DeserializeSeed<'de>>(
    source: &SourceFile,
    bytes: &'de [u8],
    seed: S,
) -> Result<S::Value, FormatError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = seed.deserialize(&mut json).map_err(|error| broken(source, &error.to_string()))?;
    json.end().map_err(|error| broken(source, &error.to_string()))?;
    Ok(value)
}

/// The error of a document that breaks a rule. Messages of the parser repeat keys as they stand.
pub(super) fn broken(source: &SourceFile, rule: &str) -> FormatError {
    const LONGEST: usize = 200;
    let rule = rule.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    FormatError::Json { path: source.path.clone(), rule }
}

/// Makes a value of at most `left` elements.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<u64>,
}

impl Bounded<'_> {
    fn take<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| {
            E::custom(format_args!("more than the {} elements that are accepted", limits::JSON_ELEMENTS))
        })?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        self.take()?;
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element_seed(self)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {} occurs twice", quoted(&key))));
            }
            let value = map.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
