//! Values of metadata, for people and as JSON. They come from files that nobody vouches for.

use membrane_formats::{Metadata, Value};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::report::printable;

/// Values longer than this are cut where they are shown to people, in characters.
const SHOWN: usize = 100;
/// Elements of a long array that are shown: an array may have millions.
const SHOWN_ELEMENTS: usize = 4;
/// Elements of the longest array that is whole in JSON.
const WHOLE_ELEMENTS: usize = 16;

/// A value on one line, without control characters.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Array(array) => {
            let first: Vec<String> = array.first(SHOWN_ELEMENTS).iter().map(Value::to_string).collect();
            let dots = if array.len() > first.len() { ", ..." } else { "" };
            format!("{value} {}", cut(&format!("{}{dots}", first.join(", "))))
        }
        single => cut(&single.to_string()),
    }
}

/// The beginning of a text, in one line and without what drives a terminal.
pub fn cut(text: &str) -> String {
    let begin: String = text.chars().take(SHOWN).collect();
    let mut line = printable(&begin).replace(char::is_control, " ");
    if text.chars().nth(SHOWN).is_some() {
        line.push_str("...");
    }
    line
}

/// Metadata as a JSON object, made while it is written.
pub struct MetadataJson<'a>(pub &'a Metadata);

impl Serialize for MetadataJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, ValueJson(value))))
    }
}

/// A value as JSON. Of a long array its type, its length and the first elements.
struct ValueJson<'a>(&'a Value);

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::U8(number) => number.serialize(serializer),
            Value::I8(number) => number.serialize(serializer),
            Value::U16(number) => number.serialize(serializer),
            Value::I16(number) => number.serialize(serializer),
            Value::U32(number) => number.serialize(serializer),
            Value::I32(number) => number.serialize(serializer),
            Value::U64(number) => number.serialize(serializer),
            Value::I64(number) => number.serialize(serializer),
            Value::F32(number) => number.serialize(serializer),
            Value::F64(number) => number.serialize(serializer),
            Value::Bool(flag) => flag.serialize(serializer),
            Value::Str(text) => text.serialize(serializer),
            Value::Array(array) if array.len() <= WHOLE_ELEMENTS => {
                serializer.collect_seq(array.first(WHOLE_ELEMENTS).iter().map(ValueJson))
            }
            Value::Array(array) => {
                let first = array.first(SHOWN_ELEMENTS);
                let mut object = serializer.serialize_struct("array", 3)?;
                object.serialize_field("type", array.type_name())?;
                object.serialize_field("len", &array.len())?;
                object.serialize_field("first", &first.iter().map(ValueJson).collect::<Vec<_>>())?;
                object.end()
            }
        }
    }
}
