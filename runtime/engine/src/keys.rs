//! The metadata of one architecture: `{architecture}.{name}`, as the GGUF specification names them. Every number is checked
//! here, once.

use std::path::Path;

use membrane_formats::{Array, Checkpoint, Metadata, Value};

use crate::error::{EngineError, Result, shown};

/// Largest number of blocks that a file may claim; the largest published models have 126.
pub(crate) const MAX_BLOCKS: u32 = 1024;
/// Largest number of heads, experts and so on; keeps every product of two of them within 64 bits.
pub(crate) const MAX_COUNT: u32 = 1 << 20;
/// Largest width of a hidden vector or a feed-forward.
pub(crate) const MAX_WIDTH: u32 = 1 << 20;

/// Metadata of one architecture, with its prefix.
pub(crate) struct Keys<'a> {
    pub checkpoint: &'a Checkpoint,
    path: &'a Path,
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl<'a> Keys<'a> {
    pub fn new(checkpoint: &'a Checkpoint, prefix: &'static str) -> Self {
        Self { checkpoint, path: checkpoint.path(), metadata: checkpoint.metadata(), prefix }
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    /// The architecture's name before its keys.
    pub fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// A required number from 1 to `max`.
    pub fn count(&self, key: &str, max: u32) -> Result<usize> {
        match self.optional_count(key, max)? {
            Some(count) => Ok(count),
            None => Err(self.broken(key, "absent", "the architecture needs it")),
        }
    }

    /// A number from 1 to `max`, if it is there.
    pub fn optional_count(&self, key: &str, max: u32) -> Result<Option<usize>> {
        let Some(value) = self.number(key)? else { return Ok(None) };
        self.rule(key, value, (1..=max).contains(&value), || format!("it must lie between 1 and {max}"))?;
        Ok(Some(value as usize))
    }

    /// Any number, if it is there.
    pub fn number(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.metadata.u32(&self.name(key))?)
    }

    /// A floating-point number, if it is there.
    pub fn float(&self, key: &str) -> Result<Option<f32>> {
        Ok(self.metadata.f32(&self.name(key))?)
    }

    /// A positive floating-point number, if it is there.
    pub fn positive(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.float(key)? else { return Ok(None) };
        self.rule(key, value, value.is_finite() && value > 0.0, || "it must be positive".into())?;
        Ok(Some(value))
    }

    /// A text, if it is there.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        Ok(self.metadata.str(&self.name(key))?)
    }

    /// Integers, if they are there.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<u32>>> {
        Ok(self.metadata.u32_array(&self.name(key))?.map(|numbers| numbers.into_owned()))
    }

    /// Integers of 64 bits, if they are there.
    pub fn wide_numbers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.metadata.i64_array(&self.name(key))?.map(|numbers| numbers.into_owned()))
    }

    /// Whether the key is there.
    pub fn holds(&self, key: &str) -> bool {
        self.metadata.get(&self.name(key)).is_some()
    }

    /// Whether the key holds an array.
    pub fn is_array(&self, key: &str) -> bool {
        matches!(self.metadata.get(&self.name(key)), Some(Value::Array(_)))
    }

    /// A truth value, if it is there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        Ok(self.metadata.bool(&self.name(key))?)
    }

    /// Truth values, if they are there.
    pub fn truths(&self, key: &str) -> Result<Option<&'a [bool]>> {
        match self.metadata.get(&self.name(key)) {
            None => Ok(None),
            Some(Value::Array(Array::Bool(truths))) => Ok(Some(truths)),
            Some(other) => Err(self.broken(key, other, "it must be an array of truth values")),
        }
    }

    /// Truth values, if the key holds an array.
    pub fn truths_if_array(&self, key: &str) -> Result<Option<&'a [bool]>> {
        match self.metadata.get(&self.name(key)) {
            Some(Value::Array(_)) => self.truths(key),
            _ => Ok(None),
        }
    }

    /// An error that names the key unless the rule `holds`.
    pub fn rule(
        &self,
        key: &str,
        found: impl ToString,
        holds: bool,
        rule: impl FnOnce() -> String,
    ) -> Result<()> {
        if holds { Ok(()) } else { Err(self.broken(key, found, rule())) }
    }

    /// The error of a key that breaks a rule.
    pub fn broken(&self, key: &str, found: impl ToString, rule: impl Into<String>) -> EngineError {
        EngineError::Hyperparameter {
            path: self.path.to_owned(),
            key: self.checkpoint.shown_key(&self.name(key)),
            found: shown(&found.to_string()),
            rule: rule.into(),
        }
    }
}
