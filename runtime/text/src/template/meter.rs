//! What a rendering has used, and the errors that end it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::{DynObject, ObjectRepr};
use minijinja::{Error, ErrorKind, Value};

use crate::limits::{TEMPLATE_VALUE_DEPTH, TEMPLATE_WORK_BYTES, TEMPLATE_WORK_PER_INPUT_BYTE};

use super::namespace::{Namespace, invalid};

/// Cost of an element of a list or a dictionary, bytes.
const ELEMENT_BYTES: u64 = 32;

/// Cost of a value within another, bytes.
const NODE_BYTES: u64 = 8;

/// Elements that a value counts for that doesn't know how many it has.
const UNSIZED_ELEMENTS: usize = 64;

/// Why the host ended a rendering; carried as the source of the engine's error.
#[derive(Debug, Clone)]
pub(crate) enum Stop {
    /// `raise_exception` with this message.
    Raised(String),
    /// A limit: what, and how many.
    Limit(&'static str, u64),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(message) => f.write_str(message),
            Self::Limit(what, max) => write!(f, "more than {max} {what}"),
        }
    }
}

impl std::error::Error for Stop {}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        Error::new(ErrorKind::InvalidOperation, stop.to_string()).with_source(stop)
    }
}

/// Counts the bytes that a rendering reads, copies and builds, and stops it beyond its allowance.
///
/// The engine's own fuel counts instructions, but one instruction can double a string.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    left: Arc<AtomicU64>,
    allowance: u64,
}

impl Meter {
    /// A meter for a conversation of this many bytes.
    pub fn new(input_bytes: u64) -> Self {
        let allowance =
            TEMPLATE_WORK_BYTES.saturating_add(input_bytes.saturating_mul(TEMPLATE_WORK_PER_INPUT_BYTE));
        Self { left: Arc::new(AtomicU64::new(allowance)), allowance }
    }

    /// Uses `bytes` of the allowance.
    pub fn charge(&self, bytes: u64) -> Result<(), Error> {
        let left = self.left.load(Ordering::Relaxed);
        match left.checked_sub(bytes) {
            Some(left) => {
                self.left.store(left, Ordering::Relaxed);
                Ok(())
            }
            None => Err(Stop::Limit("bytes of work", self.allowance).into()),
        }
    }

    /// Charges for reading a value once, without what its elements hold.
    pub fn touch(&self, value: &Value) -> Result<(), Error> {
        self.charge(size(value))
    }

    /// A result of the engine as a value that may be kept: lazy ones are collected, too deep ones refused.
    ///
    /// A lazy value holds what it is made of, so each `x = x | reverse` would wrap `x` once more, and to read
    /// or free it after thousands of times overflows the stack. Its elements don't show how deep it is.
    pub fn solid(&self, value: Value) -> Result<Value, Error> {
        self.touch(&value)?;
        let lazy = value.as_object().is_some_and(|object| object.repr() == ObjectRepr::Iterable);
        let value = if lazy { self.collect(&value)? } else { value };
        self.check_depth(&value)?;
        Ok(value)
    }

    fn collect(&self, value: &Value) -> Result<Value, Error> {
        let mut items = Vec::new();
        for item in value.try_iter()? {
            self.charge(ELEMENT_BYTES)?;
            items.push(item);
        }
        Ok(Value::from(items))
    }

    /// Refuses a value that is to be kept if it is nested too deeply, or isn't or doesn't hold data alone.
    pub fn check_depth(&self, value: &Value) -> Result<(), Error> {
        self.walk(value, TEMPLATE_VALUE_DEPTH, Purpose::Keep)
    }

    /// Charges for reading a value with all that it holds, as a comparison does.
    pub fn read(&self, value: &Value) -> Result<(), Error> {
        self.walk(value, TEMPLATE_VALUE_DEPTH, Purpose::Read)
    }

    fn walk(&self, value: &Value, left: usize, purpose: Purpose) -> Result<(), Error> {
        self.charge(NODE_BYTES)?;
        if purpose == Purpose::Read {
            self.charge(value.as_str().map_or(0, str::len) as u64)?;
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if is_of_the_engine(object) {
            return match purpose {
                Purpose::Read => Ok(()),
                Purpose::Keep => Err(invalid("a loop or a macro can't be put into a value")),
            };
        }
        if left == 0 {
            return Err(Stop::Limit("levels of nesting", TEMPLATE_VALUE_DEPTH as u64).into());
        }
        if let Some(namespace) = value.downcast_object_ref::<Namespace>() {
            return namespace.values().iter().try_for_each(|value| self.walk(value, left - 1, purpose));
        }
        let inner = |value: Value| self.walk(&value, left - 1, purpose);
        match object.repr() {
            ObjectRepr::Map => object
                .try_iter_pairs()
                .into_iter()
                .flatten()
                .try_for_each(|(key, value)| inner(key).and_then(|()| inner(value))),
            ObjectRepr::Seq | ObjectRepr::Iterable => {
                object.try_iter().into_iter().flatten().try_for_each(inner)
            }
            _ => Ok(()),
        }
    }
}

/// What a value is walked through for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Keep,
    Read,
}

/// Whether this is a loop or a macro. They hold values that they don't show: a loop in a list that the next
/// loop goes over, and so on, overflows the stack when the last one is freed.
fn is_of_the_engine(object: &DynObject) -> bool {
    ["::Loop", "::Macro"].iter().any(|name| object.type_name().ends_with(name))
}

/// About how many bytes it takes to read a value once, without what its elements hold.
fn size(value: &Value) -> u64 {
    if let Some(text) = value.as_str() {
        return text.len() as u64 + 1;
    }
    let elements = value.as_object().map_or(0, |object| object.enumerator_len().unwrap_or(UNSIZED_ELEMENTS));
    elements as u64 * ELEMENT_BYTES + 1
}
