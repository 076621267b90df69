//! The operators that build values, with their cost known before it is paid.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::meter::Meter;
use super::namespace::invalid;
use super::python;

/// `left + right`: numbers, texts, lists.
pub(crate) fn add(meter: &Meter, left: &Value, right: &Value) -> Result<Value, Error> {
    meter.touch(left)?;
    meter.touch(right)?;
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(left) && is_list(right) {
        return Ok(left.try_iter()?.chain(right.try_iter()?).collect());
    }
    number(left, right, i128::checked_add, |a, b| a + b)
        .ok_or_else(|| invalid(format!("{} and {} can't be added", left.kind(), right.kind())))
}

/// `left * right`: numbers, and texts and lists a number of times.
pub(crate) fn multiply(meter: &Meter, left: &Value, right: &Value) -> Result<Value, Error> {
    let (repeated, times) =
        if right.as_str().is_some() || is_list(right) { (right, left) } else { (left, right) };
    if repeated.as_str().is_none() && !is_list(repeated) {
        return number(left, right, i128::checked_mul, |a, b| a * b)
            .ok_or_else(|| invalid(format!("{} and {} can't be multiplied", left.kind(), right.kind())));
    }
    let times = integer(times).ok_or_else(|| invalid("a text or list is repeated by an integer"))?;
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    let length = repeated.as_str().map_or_else(|| repeated.len().unwrap_or(0) * 32, str::len) as u64;
    meter.charge(length.saturating_add(1).saturating_mul(times as u64))?;
    match repeated.as_str() {
        Some(text) => Ok(Value::from(text.repeat(times))),
        None => {
            let items: Vec<Value> = repeated.try_iter()?.collect();
            Ok((0..times).flat_map(|_| items.iter().cloned()).collect())
        }
    }
}

/// `left ~ right`: both as text.
pub(crate) fn concat(meter: &Meter, left: &Value, right: &Value) -> Result<Value, Error> {
    let mut text = python::text(meter, left)?;
    text.push_str(&python::text(meter, right)?);
    Ok(Value::from(text))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn number(
    left: &Value,
    right: &Value,
    integers: fn(i128, i128) -> Option<i128>,
    floats: fn(f64, f64) -> f64,
) -> Option<Value> {
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        let result = integers(left, right)?;
        return Some(i64::try_from(result).map_or_else(|_| Value::from(result), Value::from));
    }
    let float = |value: &Value| match integer(value) {
        Some(integer) => Some(integer as f64),
        None if value.kind() == ValueKind::Number => f64::try_from(value.clone()).ok(),
        None => None,
    };
    Some(Value::from(floats(float(left)?, float(right)?)))
}
