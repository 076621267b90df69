//! The key-value pairs of a model file.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::error::{FormatError, quoted};
use crate::value::{Array, StrArray, Value};

/// Metadata in the order of the file, with typed access by key.
///
/// Integers are read through any integer type that holds the value, since converters disagree about types;
/// anything else must have the type that is asked for. A present key of the wrong type is an error, not an
/// absence.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// Named in errors.
    path: Arc<Path>,
    entries: Vec<(Box<str>, Value)>,
    /// Indices into `entries`, ordered by key.
    by_key: Vec<u32>,
}

impl Default for Metadata {
    fn default() -> Self {
        Self { path: Path::new("(metadata not yet written)").into(), entries: Vec::new(), by_key: Vec::new() }
    }
}

impl Metadata {
    /// Metadata of the file at `path`; refuses a key that occurs twice.
    pub(crate) fn from_entries(
        path: Arc<Path>,
        entries: Vec<(Box<str>, Value)>,
    ) -> Result<Self, FormatError> {
        let mut by_key: Vec<u32> = (0..entries.len() as u32).collect();
        by_key.sort_unstable_by_key(|&index| &entries[index as usize].0);
        let key = |index: u32| &entries[index as usize].0;
        if let Some(pair) = by_key.windows(2).find(|pair| key(pair[0]) == key(pair[1])) {
            let name = quoted(key(pair[0]));
            return Err(FormatError::Duplicate { path: path.to_path_buf(), what: "metadata key", name });
        }
        Ok(Self { path, entries, by_key })
    }

    /// Sets `key`, in its place if it exists and at the end otherwise.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        match self.find(key) {
            Ok(place) => self.entries[self.by_key[place] as usize].1 = value.into(),
            Err(place) => {
                self.by_key.insert(place, self.entries.len() as u32);
                self.entries.push((key.into(), value.into()));
            }
        }
    }

    /// Removes `key` and returns its value, if it exists.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let place = self.find(key).ok()?;
        let removed = self.by_key.remove(place);
        for index in self.by_key.iter_mut().filter(|index| **index > removed) {
            *index -= 1;
        }
        Some(self.entries.remove(removed as usize).1)
    }

    /// The value of `key`, of whatever type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let place = self.find(key).ok()?;
        Some(&self.entries[self.by_key[place] as usize].1)
    }

    /// Keys and values in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An integer that fits a u32.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, FormatError> {
        self.integer(key, "an integer from 0 to 4294967295")
    }

    /// An integer that fits a u64.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, FormatError> {
        self.integer(key, "an integer from 0 to 18446744073709551615")
    }

    /// A floating-point number, rounded to f32. NaN and infinity pass: what they mean is the caller's to
    /// judge.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(value)) => Ok(Some(*value)),
            Some(Value::F64(value)) => Ok(Some(*value as f32)),
            Some(other) => Err(self.wrong(key, other, "a floating-point number")),
        }
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, other, "a bool")),
        }
    }

    /// A text.
    pub fn str(&self, key: &str) -> Result<Option<&str>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Str(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// An array of texts.
    pub fn str_array(&self, key: &str) -> Result<Option<&StrArray>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Str(array))) => Ok(Some(array)),
            Some(other) => Err(self.wrong(key, other, "an array of strings")),
        }
    }

    /// An array of integers that all fit an i32; borrowed if it is stored as i32.
    pub fn i32_array(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, FormatError> {
        match self.get(key) {
            Some(Value::Array(Array::I32(array))) => Ok(Some(array.into())),
            _ => self.integers(key, "an array of integers from -2147483648 to 2147483647"),
        }
    }

    /// An array of integers that all fit a u32; borrowed if it is stored as u32.
    pub fn u32_array(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>, FormatError> {
        match self.get(key) {
            Some(Value::Array(Array::U32(array))) => Ok(Some(array.into())),
            _ => self.integers(key, "an array of integers from 0 to 4294967295"),
        }
    }

    /// An array of integers that all fit an i64; borrowed if it is stored as i64.
    pub fn i64_array(&self, key: &str) -> Result<Option<Cow<'_, [i64]>>, FormatError> {
        match self.get(key) {
            Some(Value::Array(Array::I64(array))) => Ok(Some(array.into())),
            _ => self.integers(key, "an array of integers from -2^63 to 2^63 - 1"),
        }
    }

    /// An array of floating-point numbers, rounded to f32; borrowed if it is stored as f32.
    pub fn f32_array(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(array))) => Ok(Some(array.into())),
            Some(Value::Array(Array::F64(array))) => Ok(Some(array.iter().map(|&v| v as f32).collect())),
            Some(other) => Err(self.wrong(key, other, "an array of floating-point numbers")),
        }
    }

    /// As [`Metadata::u32`]; absence is an error.
    pub fn require_u32(&self, key: &str) -> Result<u32, FormatError> {
        self.u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Metadata::u64`]; absence is an error.
    pub fn require_u64(&self, key: &str) -> Result<u64, FormatError> {
        self.u64(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Metadata::f32`]; absence is an error.
    pub fn require_f32(&self, key: &str) -> Result<f32, FormatError> {
        self.f32(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Metadata::bool`]; absence is an error.
    pub fn require_bool(&self, key: &str) -> Result<bool, FormatError> {
        self.bool(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Metadata::str`]; absence is an error.
    pub fn require_str(&self, key: &str) -> Result<&str, FormatError> {
        self.str(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Metadata::str_array`]; absence is an error.
    pub fn require_str_array(&self, key: &str) -> Result<&StrArray, FormatError> {
        self.str_array(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Metadata::i32_array`]; absence is an error.
    pub fn require_i32_array(&self, key: &str) -> Result<Cow<'_, [i32]>, FormatError> {
        self.i32_array(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Metadata::u32_array`]; absence is an error.
    pub fn require_u32_array(&self, key: &str) -> Result<Cow<'_, [u32]>, FormatError> {
        self.u32_array(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Metadata::f32_array`]; absence is an error.
    pub fn require_f32_array(&self, key: &str) -> Result<Cow<'_, [f32]>, FormatError> {
        self.f32_array(key)?.ok_or_else(|| self.missing(key))
    }

    /// Where `key` stands in `by_key`, or would stand.
    fn find(&self, key: &str) -> Result<usize, usize> {
        self.by_key.binary_search_by(|&index| (*self.entries[index as usize].0).cmp(key))
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, wanted: &'static str) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let fits = value.as_integer().and_then(|v| T::try_from(v).ok());
        fits.map(Some).ok_or_else(|| self.wrong(key, value, wanted))
    }

    fn integers<T>(&self, key: &str, wanted: &'static str) -> Result<Option<Cow<'_, [T]>>, FormatError>
    where
        T: Clone
            + TryFrom<u8>
            + TryFrom<i8>
            + TryFrom<u16>
            + TryFrom<i16>
            + TryFrom<u32>
            + TryFrom<i32>
            + TryFrom<u64>
            + TryFrom<i64>,
    {
        fn convert<S: Copy, T: TryFrom<S>>(array: &[S]) -> Option<Vec<T>> {
            array.iter().map(|&v| T::try_from(v).ok()).collect()
        }
        let Some(value) = self.get(key) else { return Ok(None) };
        let converted = match value {
            Value::Array(Array::U8(a)) => convert(a),
            Value::Array(Array::I8(a)) => convert(a),
            Value::Array(Array::U16(a)) => convert(a),
            Value::Array(Array::I16(a)) => convert(a),
            Value::Array(Array::U32(a)) => convert(a),
            Value::Array(Array::I32(a)) => convert(a),
            Value::Array(Array::U64(a)) => convert(a),
            Value::Array(Array::I64(a)) => convert(a),
            _ => None,
        };
        converted.map(|a| Some(Cow::Owned(a))).ok_or_else(|| self.wrong(key, value, wanted))
    }

    fn wrong(&self, key: &str, found: &Value, wanted: &'static str) -> FormatError {
        FormatError::KeyType {
            path: self.path.to_path_buf(),
            key: quoted(key),
            found: found.described(),
            wanted,
        }
    }

    fn missing(&self, key: &str) -> FormatError {
        FormatError::KeyMissing { path: self.path.to_path_buf(), key: quoted(key) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut metadata = Metadata::default();
        metadata.set("z.count", 7u16);
        metadata.set("a.name", "x");
        metadata.set("m.negative", -1i64);
        metadata.set("m.bytes", Array::U8(vec![1, 255]));
        metadata.set("m.wide", Array::I64(vec![-5, 1 << 40]));
        metadata.set("m.epsilon", 1e-6f64);
        metadata
    }

    #[test]
    fn keeps_order_and_finds_by_key() {
        let mut metadata = sample();
        metadata.set("a.name", "y");
        assert_eq!(metadata.remove("m.negative"), Some(Value::I64(-1)));
        assert_eq!(metadata.remove("m.negative"), None);
        let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["z.count", "a.name", "m.bytes", "m.wide", "m.epsilon"]);
        assert_eq!(metadata.str("a.name").unwrap(), Some("y"));
        assert!(keys.iter().all(|key| metadata.get(key).is_some()));
        assert_eq!(metadata.get("a"), None);
    }

    #[test]
    fn reads_integers_through_any_width_that_fits() {
        let metadata = sample();
        assert_eq!(metadata.u32("z.count").unwrap(), Some(7));
        assert_eq!(metadata.u32("absent").unwrap(), None);
        assert_eq!(metadata.i32_array("m.bytes").unwrap().unwrap(), vec![1, 255]);
        assert_eq!(metadata.i64_array("m.bytes").unwrap().unwrap(), vec![1, 255]);
        assert_eq!(metadata.i64_array("m.wide").unwrap().unwrap(), vec![-5, 1 << 40]);
        assert_eq!(metadata.f32("m.epsilon").unwrap(), Some(1e-6));
        let message = metadata.u32("m.negative").unwrap_err().to_string();
        assert!(message.contains(r#""m.negative" is -1 (i64)"#), "{message}");
        let message = metadata.u32_array("m.wide").unwrap_err().to_string();
        assert!(message.contains("an array of 2 i64"), "{message}");
    }

    #[test]
    fn wrong_types_and_absences_are_errors() {
        let metadata = sample();
        assert!(matches!(metadata.bool("z.count"), Err(FormatError::KeyType { .. })));
        assert!(matches!(metadata.str("z.count"), Err(FormatError::KeyType { .. })));
        assert!(matches!(metadata.f32("z.count"), Err(FormatError::KeyType { .. })));
        assert!(matches!(metadata.str_array("m.bytes"), Err(FormatError::KeyType { .. })));
        assert!(matches!(metadata.f32_array("m.bytes"), Err(FormatError::KeyType { .. })));
        assert!(matches!(metadata.i32_array("a.name"), Err(FormatError::KeyType { .. })));
        assert!(matches!(metadata.require_u64("absent"), Err(FormatError::KeyMissing { .. })));
    }
}
