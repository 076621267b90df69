//! Values of metadata.

/// A metadata value with the type that it is stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Unsigned, 8 bits.
    U8(u8),
    /// Signed, 8 bits.
    I8(i8),
    /// Unsigned, 16 bits.
    U16(u16),
    /// Signed, 16 bits.
    I16(i16),
    /// Unsigned, 32 bits.
    U32(u32),
    /// Signed, 32 bits.
    I32(i32),
    /// IEEE 754 binary32.
    F32(f32),
    /// Truth value.
    Bool(bool),
    /// Text.
    Str(String),
    /// Elements of one type; arrays of arrays are refused.
    Array(Array),
    /// Unsigned, 64 bits.
    U64(u64),
    /// Signed, 64 bits.
    I64(i64),
    /// IEEE 754 binary64.
    F64(f64),
}

/// An array of metadata, by the type of its elements.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Unsigned, 8 bits.
    U8(Vec<u8>),
    /// Signed, 8 bits.
    I8(Vec<i8>),
    /// Unsigned, 16 bits.
    U16(Vec<u16>),
    /// Signed, 16 bits.
    I16(Vec<i16>),
    /// Unsigned, 32 bits.
    U32(Vec<u32>),
    /// Signed, 32 bits.
    I32(Vec<i32>),
    /// IEEE 754 binary32.
    F32(Vec<f32>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts.
    Str(StrArray),
    /// Unsigned, 64 bits.
    U64(Vec<u64>),
    /// Signed, 64 bits.
    I64(Vec<i64>),
    /// IEEE 754 binary64.
    F64(Vec<f64>),
}

/// Strings stored end to end: a vocabulary of 250,000 tokens is two allocations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StrArray {
    text: String,
    /// Where each string ends in `text`, bytes.
    ends: Vec<usize>,
}

impl StrArray {
    /// Builds from the joined text and the end of each string in it; `None` unless the ends ascend to the end
    /// of the text along character boundaries.
    pub fn from_parts(text: String, ends: Vec<usize>) -> Option<Self> {
        let ascending = ends.is_sorted() && ends.iter().all(|&end| text.is_char_boundary(end));
        (ascending && ends.last().copied().unwrap_or(0) == text.len()).then_some(Self { text, ends })
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.text[std::mem::replace(&mut start, end)..end])
    }
}

impl<S: AsRef<str>> FromIterator<S> for StrArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut array = Self::default();
        for string in strings {
            array.text.push_str(string.as_ref());
            array.ends.push(array.text.len());
        }
        array
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(a) => a.len(),
            Array::I8(a) => a.len(),
            Array::U16(a) => a.len(),
            Array::I16(a) => a.len(),
            Array::U32(a) => a.len(),
            Array::I32(a) => a.len(),
            Array::F32(a) => a.len(),
            Array::Bool(a) => a.len(),
            Array::Str(a) => a.len(),
            Array::U64(a) => a.len(),
            Array::I64(a) => a.len(),
            Array::F64(a) => a.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `count` elements, or all if there are fewer.
    pub fn first(&self, count: usize) -> Vec<Value> {
        macro_rules! values {
            ($elements:expr) => {
                $elements.iter().take(count).map(|&element| element.into()).collect()
            };
        }
        match self {
            Array::U8(a) => values!(a),
            Array::I8(a) => values!(a),
            Array::U16(a) => values!(a),
            Array::I16(a) => values!(a),
            Array::U32(a) => values!(a),
            Array::I32(a) => values!(a),
            Array::F32(a) => values!(a),
            Array::Bool(a) => values!(a),
            Array::Str(a) => a.iter().take(count).map(Value::from).collect(),
            Array::U64(a) => values!(a),
            Array::I64(a) => values!(a),
            Array::F64(a) => values!(a),
        }
    }

    /// Name of the elements' type: `u8`, `str` and so on.
    pub fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "u8",
            Array::I8(_) => "i8",
            Array::U16(_) => "u16",
            Array::I16(_) => "i16",
            Array::U32(_) => "u32",
            Array::I32(_) => "i32",
            Array::F32(_) => "f32",
            Array::Bool(_) => "bool",
            Array::Str(_) => "str",
            Array::U64(_) => "u64",
            Array::I64(_) => "i64",
            Array::F64(_) => "f64",
        }
    }
}

impl Value {
    /// Name of the type: `u32`, `str`, `array`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::F32(_) => "f32",
            Value::Bool(_) => "bool",
            Value::Str(_) => "str",
            Value::Array(_) => "array",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F64(_) => "f64",
        }
    }

    /// The value for an error: type, and number if it is one; never text from the file.
    pub(crate) fn described(&self) -> String {
        match self {
            Value::Array(array) => format!("an array of {} {}", array.len(), array.type_name()),
            Value::Str(_) => "a string".to_owned(),
            number => format!("{number} ({})", number.type_name()),
        }
    }

    /// The value as an integer, if it is of an integer type.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}

impl std::fmt::Display for Value {
    /// The value as in Rust source; arrays by type and length only: `[str; 1024]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::F32(v) => write!(f, "{v}"),
            Value::F64(v) => write!(f, "{v}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::Str(v) => write!(f, "{v:?}"),
            Value::Array(a) => write!(f, "[{}; {}]", a.type_name(), a.len()),
            integer => write!(f, "{}", integer.as_integer().unwrap_or_default()),
        }
    }
}

/// `From` for the types that a value can hold.
macro_rules! from {
    ($($source:ty => |$v:ident| $value:expr;)*) => {
        $(impl From<$source> for Value {
            fn from($v: $source) -> Self {
                $value
            }
        })*
    };
}

from! {
    u8 => |v| Value::U8(v);
    i8 => |v| Value::I8(v);
    u16 => |v| Value::U16(v);
    i16 => |v| Value::I16(v);
    u32 => |v| Value::U32(v);
    i32 => |v| Value::I32(v);
    f32 => |v| Value::F32(v);
    bool => |v| Value::Bool(v);
    &str => |v| Value::Str(v.to_owned());
    String => |v| Value::Str(v);
    u64 => |v| Value::U64(v);
    i64 => |v| Value::I64(v);
    f64 => |v| Value::F64(v);
    StrArray => |v| Value::Array(Array::Str(v));
    Vec<i32> => |v| Value::Array(Array::I32(v));
    Vec<u32> => |v| Value::Array(Array::U32(v));
    Vec<f32> => |v| Value::Array(Array::F32(v));
    Array => |v| Value::Array(v);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_lie_end_to_end() {
        let array: StrArray = ["a", "", "déjà", ""].into_iter().collect();
        assert_eq!(array.iter().collect::<Vec<_>>(), ["a", "", "déjà", ""]);
        assert_eq!((array.get(2), array.get(3), array.get(4)), (Some("déjà"), Some(""), None));
        assert_eq!(array.iter().len(), 4);
        assert_eq!(StrArray::from_parts("adéjà".into(), vec![1, 1, 7, 7]), Some(array));
        assert_eq!(StrArray::from_parts("é".into(), vec![1, 2]), None, "inside a character");
        assert_eq!(StrArray::from_parts("ab".into(), vec![1]), None, "text left over");
        assert_eq!(StrArray::from_parts("ab".into(), vec![2, 1, 2]), None, "descending");
        assert_eq!(StrArray::from_parts("ab".into(), vec![1, 3]), None, "past the end");
    }

    #[test]
    fn shows_values() {
        assert_eq!(Value::from(-3i8).to_string(), "-3");
        assert_eq!(Value::from(u64::MAX).to_string(), "18446744073709551615");
        assert_eq!(Value::from("a\x1b").to_string(), r#""a\u{1b}""#);
        assert_eq!(Value::from(vec![1.5f32, 2.0]).to_string(), "[f32; 2]");
        assert_eq!(Array::I32(vec![1, 2, 3]).first(2), [1.into(), 2.into()]);
        assert_eq!(Array::Str(["a"].into_iter().collect()).first(2), ["a".into()]);
    }
}
