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

/// `value[start:stop:step]` of a text or a list, as Python has it; what is not there is an empty list. The library's own
/// ends the thread for an empty text from behind, a start behind the stop, and the least of all steps.
pub(crate) fn slice(meter: &Meter, value: &Value, parts: [&Value; 3]) -> Result<Value, Error> {
    meter.touch(value)?;
    let part = |part: &Value| match integer(part) {
        Some(number) => Ok(Some(number)),
        None if part.is_none() || part.is_undefined() => Ok(None),
        None => Err(invalid(format!("a slice is cut by integers, not by {}", part.kind()))),
    };
    let [start, stop, step] = parts;
    let (start, stop, step) = (part(start)?, part(stop)?, part(step)?.unwrap_or(1));
    if step == 0 {
        return Err(invalid("a slice can't have the step 0"));
    }
    if value.is_none() || value.is_undefined() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    if let Some(text) = value.as_str() {
        let characters: Vec<char> = text.chars().collect();
        let places = places(characters.len(), start, stop, step);
        return Ok(Value::from(places.map(|at| characters[at]).collect::<String>()));
    }
    if !is_list(value) {
        return Err(invalid(format!("{} can't be sliced", value.kind())));
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    Ok(places(items.len(), start, stop, step).map(|at| items[at].clone()).collect())
}

/// The places of a slice of something of this length, in its order; the step is not 0.
fn places(length: usize, start: Option<i128>, stop: Option<i128>, step: i128) -> impl Iterator<Item = usize> {
    let length = length as i128;
    let (least, most) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let from_end = |end: i128| if end < 0 { end.saturating_add(length) } else { end };
    let within = |end: Option<i128>, none| end.map_or(none, |end| from_end(end).clamp(least, most));
    let (start, stop) = if step > 0 {
        (within(start, least), within(stop, most))
    } else {
        (within(start, most), within(stop, least))
    };
    let next = move |at: &i128| Some(at.saturating_add(step));
    let inside = move |at: &i128| if step > 0 { *at < stop } else { *at > stop };
    std::iter::successors(Some(start), next).take_while(inside).map(|at| at as usize)
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
