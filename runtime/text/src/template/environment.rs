//! What a template may use: filters, tests, functions and the methods of Python's values, all metered.

use minijinja::value::{FunctionArgs, Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, functions, tests};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::limits::{TEMPLATE_FUEL, TEMPLATE_RECURSION};

use super::meter::{Meter, Stop};
use super::namespace::{self, invalid};
use super::python::{self, Json};
use super::{operators, rewrite};

/// Largest indentation that a template may ask for, and the largest width in a format.
const MAX_WIDTH: usize = 999;

/// An environment for one rendering.
pub(crate) fn environment<'a>(meter: &Meter, now: i64) -> Environment<'a> {
    let mut env = Environment::empty();
    env.set_fuel(Some(TEMPLATE_FUEL));
    env.set_recursion_limit(TEMPLATE_RECURSION);
    env.set_debug(false);
    let output = meter.clone();
    env.set_formatter(move |out, _, value| {
        let text = python::text(&output, value)?;
        out.write_str(&text).map_err(|_| invalid("the output can't be written"))
    });
    add_operators(&mut env, meter);
    add_functions(&mut env, meter, now);
    add_filters(&mut env, meter);
    add_tests(&mut env, meter);
    let methods = meter.clone();
    env.set_unknown_method_callback(move |state, value, name, args| {
        method(&methods, state, value, name, args)
    });
    env
}

fn add_operators(env: &mut Environment<'_>, meter: &Meter) {
    type Operator = fn(&Meter, &Value, &Value) -> Result<Value, Error>;
    let operators: [(&'static str, Operator); 3] = [
        (rewrite::ADD, operators::add),
        (rewrite::MULTIPLY, operators::multiply),
        (rewrite::CONCAT, operators::concat),
    ];
    for (name, operator) in operators {
        let meter = meter.clone();
        env.add_function(name, move |left: Value, right: Value| operator(&meter, &left, &right));
    }
    let slice = meter.clone();
    env.add_function(rewrite::SLICE, move |value: Value, start: Value, stop: Value, step: Value| {
        operators::slice(&slice, &value, [&start, &stop, &step])
    });
    let touch = meter.clone();
    env.add_function(rewrite::TOUCH, move |value: Value| touch.touch(&value).map(|()| value));
    let read = meter.clone();
    env.add_function(rewrite::READ, move |value: Value| read.read(&value).map(|()| value));
    let solid = meter.clone();
    env.add_function(rewrite::SOLID, move |value: Value| solid.solid(value));
    let set = meter.clone();
    env.add_function(rewrite::SET, move |target: Value, name: String, value: Value| {
        namespace::set(&set, &target, &name, value)
    });
    let append = meter.clone();
    env.add_function(rewrite::APPEND, move |target: Value, name: String, value: Value| {
        namespace::append(&append, &target, &name, value)
    });
    let pop = meter.clone();
    env.add_function(rewrite::POP, move |target: Value, name: String, place: Option<i64>| {
        namespace::pop(&pop, &target, &name, place)
    });
}

fn add_functions(env: &mut Environment<'_>, meter: &Meter, now: i64) {
    env.add_function("range", functions::range);
    let shallow = meter.clone();
    env.add_function("dict", move |value: Option<Value>, update: Kwargs| {
        let value = functions::dict(value, update)?;
        shallow.check_depth(&value).map(|()| value)
    });
    let attributes = meter.clone();
    env.add_function("namespace", move |positional: Rest<Value>, named: Kwargs| {
        namespace::namespace(&attributes, positional, named)
    });
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Stop::Raised(message).into())
    });
    env.add_function("strftime_now", move |format: &str| python::strftime(now, format));
}

/// Adds filters of the engine: what goes in and what comes out is charged.
fn add_filters(env: &mut Environment<'_>, meter: &Meter) {
    let plain = [
        ("abs", Value::from_function(filters::abs)),
        ("attr", Value::from_function(filters::attr)),
        ("bool", Value::from_function(filters::bool)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("count", Value::from_function(filters::length)),
        ("d", Value::from_function(filters::default)),
        ("default", Value::from_function(filters::default)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("first", Value::from_function(filters::first)),
        ("float", Value::from_function(filters::float)),
        ("groupby", Value::from_function(filters::groupby)),
        ("int", Value::from_function(filters::int)),
        ("items", Value::from_function(filters::items)),
        ("last", Value::from_function(filters::last)),
        ("length", Value::from_function(filters::length)),
        ("list", Value::from_function(filters::list)),
        ("lower", Value::from_function(filters::lower)),
        ("map", Value::from_function(filters::map)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("reverse", Value::from_function(filters::reverse)),
        ("round", Value::from_function(filters::round)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("sort", Value::from_function(filters::sort)),
        ("sum", Value::from_function(filters::sum)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
    ];
    for (name, filter) in plain {
        let meter = meter.clone();
        let compares = ["dictsort", "groupby", "max", "min", "sort", "unique"].contains(&name);
        env.add_filter(name, move |state: &State, args: Rest<Value>| {
            if compares {
                args.iter().try_for_each(|arg| meter.read(arg))?;
            }
            metered(&meter, state, &filter, &args)
        });
    }
    add_own_filters(env, meter);
}

/// Adds filters whose output Python writes otherwise, or whose cost has to be known before they run.
fn add_own_filters(env: &mut Environment<'_>, meter: &Meter) {
    env.add_filter("safe", |value: Value| value);
    env.add_filter("e", escape(meter));
    env.add_filter("escape", escape(meter));
    let text = meter.clone();
    env.add_filter("string", move |value: Value| python::text(&text, &value));
    let json = meter.clone();
    env.add_filter("tojson", move |value: Value, places: Rest<Value>| tojson(&json, &value, &places));
    let joined = meter.clone();
    env.add_filter("join", move |list: Value, glue: Option<Value>, options: Kwargs| {
        let attribute = options.get::<Option<Value>>("attribute")?;
        let glue = glue.map_or(Ok(options.get::<Option<Value>>("d")?), |glue| Ok::<_, Error>(Some(glue)))?;
        join(&joined, &list, glue.as_ref(), attribute.as_ref())
    });
    let replaced = meter.clone();
    env.add_filter("replace", move |text: Value, old: String, new: String| {
        replace(&replaced, &python::text(&replaced, &text)?, &old, &new, None)
    });
    let indented = meter.clone();
    let indent = Value::from_function(filters::indent);
    env.add_filter("indent", move |state: &State, args: Rest<Value>| {
        check_width(&indented, &args)?;
        metered(&indented, state, &indent, &args)
    });
}

fn metered(meter: &Meter, state: &State, function: &Value, args: &[Value]) -> Result<Value, Error> {
    args.iter().try_for_each(|arg| meter.touch(arg))?;
    meter.solid(function.call(state, args)?)
}

/// Charges for the white space that an indentation adds.
fn check_width(meter: &Meter, args: &[Value]) -> Result<(), Error> {
    let lines = args.first().and_then(Value::as_str).map_or(0, |text| text.matches('\n').count() + 1);
    let mut width = 4;
    for arg in &args[1.min(args.len())..] {
        let given = match Kwargs::try_from(arg.clone()) {
            Ok(options) if arg.is_kwargs() => options.peek::<Option<usize>>("width")?,
            _ => arg.as_usize(),
        };
        width = width.max(given.unwrap_or(0));
    }
    if width > MAX_WIDTH {
        return Err(Stop::Limit("columns of indentation", MAX_WIDTH as u64).into());
    }
    meter.charge((lines * width) as u64)
}

fn escape(meter: &Meter) -> impl Fn(Value) -> Result<String, Error> + Send + Sync + 'static {
    let meter = meter.clone();
    move |value| {
        let mut text = python::text(&meter, &value)?;
        for (from, to) in [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ("\"", "&#34;")] {
            text = replace(&meter, &text, from, to, None)?;
        }
        Ok(text)
    }
}

/// The filter of transformers, whose arguments have another order than those of Jinja's own.
fn tojson(meter: &Meter, value: &Value, arguments: &[Value]) -> Result<String, Error> {
    let (places, options): (&[Value], Kwargs) = from_args(arguments)?;
    let option = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let told = match places.get(place) {
            Some(told) => Some(told.clone()),
            None => options.get::<Option<Value>>(name)?,
        };
        Ok(told.filter(|told| !told.is_none()))
    };
    let flag = |place, name| Ok::<_, Error>(option(place, name)?.is_some_and(|told| told.is_true()));
    let ensure_ascii = flag(0, "ensure_ascii")?;
    let indent = match option(1, "indent")? {
        None => None,
        Some(text) if text.as_str().is_some_and(|text| text.len() <= MAX_WIDTH) => Some(text.to_string()),
        Some(width) => match width.as_usize() {
            Some(width) if width <= MAX_WIDTH => Some(" ".repeat(width)),
            _ => return Err(Stop::Limit("columns of indentation", MAX_WIDTH as u64).into()),
        },
    };
    let separators = match option(2, "separators")? {
        None => None,
        Some(pair) => {
            let texts: Vec<Value> = pair.try_iter()?.take(3).collect();
            match texts.iter().map(Value::as_str).collect::<Vec<_>>()[..] {
                [Some(comma), Some(colon)] => Some((comma.to_owned(), colon.to_owned())),
                _ => return Err(invalid("`separators` takes two texts")),
            }
        }
    };
    let sort_keys = flag(3, "sort_keys")?;
    options.assert_all_used()?;
    if places.len() > 4 {
        return Err(invalid("`tojson` takes four arguments at most"));
    }
    python::json(meter, value, Json { indent, separators, ensure_ascii, sort_keys })
}

fn join(
    meter: &Meter,
    list: &Value,
    glue: Option<&Value>,
    attribute: Option<&Value>,
) -> Result<String, Error> {
    meter.touch(list)?;
    let glue = glue.map_or(Ok(String::new()), |glue| python::text(meter, glue))?;
    let mut out = String::new();
    for (index, item) in list.try_iter()?.enumerate() {
        let item = match attribute {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        if index > 0 {
            meter.charge(glue.len() as u64)?;
            out.push_str(&glue);
        }
        out.push_str(&python::text(meter, &item)?);
    }
    Ok(out)
}

/// `text` with `old` replaced, at most `count` times; the result is charged before it is built.
fn replace(meter: &Meter, text: &str, old: &str, new: &str, count: Option<usize>) -> Result<String, Error> {
    let places = if old.is_empty() { text.len() + 1 } else { text.matches(old).count() };
    let places = places.min(count.unwrap_or(usize::MAX));
    meter.charge(text.len() as u64 + places as u64 * new.len() as u64)?;
    Ok(text.replacen(old, new, places))
}

fn add_tests(env: &mut Environment<'_>, meter: &Meter) {
    let all = [
        ("!=", Value::from_function(tests::is_ne)),
        ("<", Value::from_function(tests::is_lt)),
        ("<=", Value::from_function(tests::is_le)),
        ("==", Value::from_function(tests::is_eq)),
        (">", Value::from_function(tests::is_gt)),
        (">=", Value::from_function(tests::is_ge)),
        ("boolean", Value::from_function(tests::is_boolean)),
        ("defined", Value::from_function(tests::is_defined)),
        ("divisibleby", Value::from_function(tests::is_divisibleby)),
        ("endingwith", Value::from_function(tests::is_endingwith)),
        ("eq", Value::from_function(tests::is_eq)),
        ("equalto", Value::from_function(tests::is_eq)),
        ("even", Value::from_function(tests::is_even)),
        ("false", Value::from_function(tests::is_false)),
        ("float", Value::from_function(tests::is_float)),
        ("ge", Value::from_function(tests::is_ge)),
        ("gt", Value::from_function(tests::is_gt)),
        ("in", Value::from_function(tests::is_in)),
        ("integer", Value::from_function(tests::is_integer)),
        ("iterable", Value::from_function(is_iterable)),
        ("le", Value::from_function(tests::is_le)),
        ("lower", Value::from_function(tests::is_lower)),
        ("lt", Value::from_function(tests::is_lt)),
        ("mapping", Value::from_function(tests::is_mapping)),
        ("ne", Value::from_function(tests::is_ne)),
        ("none", Value::from_function(tests::is_none)),
        ("number", Value::from_function(tests::is_number)),
        ("odd", Value::from_function(tests::is_odd)),
        ("sameas", Value::from_function(tests::is_sameas)),
        ("sequence", Value::from_function(is_sequence)),
        ("startingwith", Value::from_function(tests::is_startingwith)),
        ("string", Value::from_function(tests::is_string)),
        ("true", Value::from_function(tests::is_true)),
        ("undefined", Value::from_function(tests::is_undefined)),
        ("upper", Value::from_function(tests::is_upper)),
    ];
    for (name, test) in all {
        let meter = meter.clone();
        env.add_test(name, move |state: &State, args: Rest<Value>| -> Result<bool, Error> {
            // With a second argument it compares.
            let charge = if args.len() > 1 { Meter::read } else { Meter::touch };
            args.iter().try_for_each(|arg| charge(&meter, arg))?;
            Ok(test.call(state, &args)?.is_true())
        });
    }
}

/// What Python can iterate over.
fn is_iterable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::String)
        || value.is_undefined()
}

/// What has a length and elements by number or key: in Jinja these are texts and dictionaries too.
fn is_sequence(value: &Value) -> bool {
    is_iterable(value)
}

/// A method of a Python value.
fn method(meter: &Meter, state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let charge = if name == "count" { Meter::read } else { Meter::touch };
    charge(meter, value)?;
    args.iter().try_for_each(|arg| meter.read(arg))?;
    if let Some(text) = value.as_str() {
        return text_method(meter, state, value, text, name, args);
    }
    meter.solid(unknown_method_callback(state, value, name, args)?)
}

fn text_method(
    meter: &Meter,
    state: &State,
    value: &Value,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match name {
        "count" => {
            let (what,): (&str,) = parse(args)?;
            Ok(Value::from(if what.is_empty() {
                text.chars().count() + 1
            } else {
                text.matches(what).count()
            }))
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = parse(args)?;
            let count = count.and_then(|count| usize::try_from(count).ok());
            replace(meter, text, old, new, count).map(Value::from)
        }
        "join" => {
            let (list,): (Value,) = parse(args)?;
            join(meter, &list, Some(value), None).map(Value::from)
        }
        "format" => {
            check_format(text)?;
            meter.charge((text.matches('{').count() * MAX_WIDTH) as u64)?;
            args.iter().try_for_each(|arg| meter.check_depth(arg))?;
            unknown_method_callback(state, value, name, args)
        }
        "split" | "splitlines" => {
            let parts = match args.first().and_then(Value::as_str) {
                Some(separator) => text.matches(separator).count() + 1,
                None => text.split_whitespace().count().max(text.lines().count()),
            };
            meter.charge(parts as u64 * 48)?;
            unknown_method_callback(state, value, name, args)
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = parse(args)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

fn parse<'a, T: FunctionArgs<'a, Output = T>>(args: &'a [Value]) -> Result<T, Error> {
    from_args(args)
}

/// Refuses formats that ask for more than [`MAX_WIDTH`] columns or take their width from an argument.
fn check_format(format: &str) -> Result<(), Error> {
    let (mut digits, mut open) = (0, false);
    for character in format.chars() {
        digits = if character.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 3 {
            return Err(Stop::Limit("columns in a format", MAX_WIDTH as u64).into());
        }
        if character == '{' && open {
            open = false;
        } else if character == '{' {
            open = true;
        } else if character == '}' {
            open = false;
        }
        if open && character == ':' && format.contains(":{") {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "a format can't take its width from an argument",
            ));
        }
    }
    Ok(())
}
