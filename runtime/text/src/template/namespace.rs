//! `namespace`: the one value that a template can change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::meter::Meter;

/// A set of attributes.
///
/// The engine has one of its own, but that can be made to contain itself, which overflows the stack or waits
/// for ever when it is printed. This one can be neither listed nor printed, and [`set`] keeps what it holds
/// shallow.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    attributes: Mutex<BTreeMap<String, Value>>,
}

impl Namespace {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.attributes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attributes' values.
    pub fn values(&self) -> Vec<Value> {
        self.lock().values().cloned().collect()
    }
}

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.lock().get(key.as_str()?).cloned()
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Namespace>")
    }
}

/// `namespace(...)`: attributes from a dictionary and from keyword arguments.
pub(crate) fn namespace(meter: &Meter, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let namespace = Namespace::default();
    for value in positional.iter() {
        let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
        let pairs = pairs.ok_or_else(|| invalid("namespace() takes a dictionary or keyword arguments"))?;
        for (key, value) in pairs {
            meter.check_depth(&value)?;
            namespace.lock().insert(key.to_string(), value);
        }
    }
    for key in named.args() {
        let value: Value = named.peek(key)?;
        meter.check_depth(&value)?;
        namespace.lock().insert(key.to_owned(), value);
    }
    Ok(Value::from_object(namespace))
}

/// `{% set target.name = value %}`.
pub(crate) fn set(meter: &Meter, target: &Value, name: &str, value: Value) -> Result<Value, Error> {
    let namespace = target.downcast_object_ref::<Namespace>();
    let namespace = namespace.ok_or_else(|| invalid("only attributes of a namespace can be set"))?;
    meter.check_depth(&value)?;
    namespace.lock().insert(name.to_owned(), value);
    Ok(Value::UNDEFINED)
}

/// `target.name.append(value)`: the namespace gets a longer list, since lists don't change.
pub(crate) fn append(meter: &Meter, target: &Value, name: &str, value: Value) -> Result<Value, Error> {
    let (namespace, list) = list(meter, target, name)?;
    let longer = Value::from_iter(list.into_iter().chain([value]));
    meter.check_depth(&longer)?;
    namespace.lock().insert(name.to_owned(), longer);
    Ok(Value::from(()))
}

/// `target.name.pop(place)`: the namespace gets a list without the element there, or without the last.
pub(crate) fn pop(meter: &Meter, target: &Value, name: &str, place: Option<i64>) -> Result<Value, Error> {
    let (namespace, mut list) = list(meter, target, name)?;
    let (place, length) = (place.unwrap_or(-1), list.len() as i64);
    let at = if place < 0 { place + length } else { place };
    if !(0..length).contains(&at) {
        return Err(invalid(format!("`{name}` of the namespace has no element {place} to take out")));
    }
    let taken = list.remove(at as usize);
    namespace.lock().insert(name.to_owned(), Value::from(list));
    Ok(taken)
}

/// A list in a namespace.
fn list<'a>(meter: &Meter, target: &'a Value, name: &str) -> Result<(&'a Namespace, Vec<Value>), Error> {
    let namespace = target.downcast_object_ref::<Namespace>();
    let namespace = namespace.ok_or_else(|| invalid("only lists in a namespace can be changed"))?;
    let list = namespace.lock().get(name).cloned().filter(|list| list.kind() == ValueKind::Seq);
    let list = list.ok_or_else(|| invalid(format!("`{name}` of the namespace is no list")))?;
    meter.touch(&list)?;
    Ok((namespace, list.try_iter()?.collect()))
}

/// An operation that makes no sense.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}
