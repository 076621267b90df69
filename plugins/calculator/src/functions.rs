//! Named functions and constants.

use std::cmp::Ordering;

use serde::Deserialize;

use crate::number::Number;

/// The unit of angles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Angle {
    /// A full turn is 2 pi.
    #[default]
    Radians,
    /// A full turn is 360.
    Degrees,
}

impl Angle {
    fn to_radians(self, angle: f64) -> f64 {
        match self {
            Angle::Radians => angle,
            Angle::Degrees => angle.to_radians(),
        }
    }

    fn of_radians(self, angle: f64) -> f64 {
        match self {
            Angle::Radians => angle,
            Angle::Degrees => angle.to_degrees(),
        }
    }
}

type Result = std::result::Result<Number, String>;

/// What a function takes and does.
enum Function {
    /// One number to one.
    Plain(fn(f64) -> f64),
    /// From an angle.
    OfAngle(fn(f64) -> f64),
    /// To an angle.
    ToAngle(fn(f64) -> f64),
    /// One number, exact where it can be.
    Exact(fn(Number) -> Result),
    /// One number and perhaps a second.
    Optional(fn(Number, Option<Number>) -> Result),
    /// Two numbers.
    Two(fn(f64, f64) -> f64),
    /// One or more numbers.
    Many(fn(&[Number]) -> Number),
}

const FUNCTIONS: [(&str, Function); 24] = [
    ("sqrt", Function::Exact(sqrt)),
    ("cbrt", Function::Plain(f64::cbrt)),
    ("exp", Function::Plain(f64::exp)),
    ("ln", Function::Plain(f64::ln)),
    ("log", Function::Optional(log)),
    ("log2", Function::Plain(f64::log2)),
    ("log10", Function::Plain(f64::log10)),
    ("sin", Function::OfAngle(f64::sin)),
    ("cos", Function::OfAngle(f64::cos)),
    ("tan", Function::OfAngle(f64::tan)),
    ("asin", Function::ToAngle(f64::asin)),
    ("acos", Function::ToAngle(f64::acos)),
    ("atan", Function::ToAngle(f64::atan)),
    ("sinh", Function::Plain(f64::sinh)),
    ("cosh", Function::Plain(f64::cosh)),
    ("tanh", Function::Plain(f64::tanh)),
    ("hypot", Function::Two(f64::hypot)),
    ("abs", Function::Exact(|x| if x.value() < 0.0 { x.negate() } else { Ok(x) })),
    ("floor", Function::Exact(|x| rounded(x, f64::floor))),
    ("ceil", Function::Exact(|x| rounded(x, f64::ceil))),
    ("trunc", Function::Exact(|x| rounded(x, f64::trunc))),
    ("round", Function::Optional(round)),
    ("min", Function::Many(|list| pick(list, Ordering::Less))),
    ("max", Function::Many(|list| pick(list, Ordering::Greater))),
];

/// The names of all functions.
pub fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, _)| *name)
}

/// A named constant.
pub fn constant(name: &str) -> Option<Number> {
    match name {
        "pi" | "π" => Some(Number::Real(std::f64::consts::PI)),
        "tau" | "τ" => Some(Number::Real(std::f64::consts::TAU)),
        "e" => Some(Number::Real(std::f64::consts::E)),
        _ => None,
    }
}

/// Calls a function. Errors: it does not exist, takes another number of arguments, or has no real value
/// there.
pub fn call(name: &str, arguments: &[Number], angle: Angle) -> Result {
    let Some((_, function)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = names().collect();
        return Err(format!("there is no function `{name}`: there are {}", known.join(", ")));
    };
    let result = match (function, arguments) {
        (Function::Plain(f), [x]) => Number::real(f(x.value())),
        (Function::OfAngle(f), [x]) => Number::real(f(angle.to_radians(x.value()))),
        (Function::ToAngle(f), [x]) => Number::real(angle.of_radians(f(x.value()))),
        (Function::Exact(f), [x]) => f(*x),
        (Function::Optional(f), [x]) => f(*x, None),
        (Function::Optional(f), [x, y]) => f(*x, Some(*y)),
        (Function::Two(f), [x, y]) => Number::real(f(x.value(), y.value())),
        (Function::Many(f), [_, ..]) => Ok(f(arguments)),
        (function, _) => {
            let takes = match function {
                Function::Two(_) => "2 arguments",
                Function::Optional(_) => "1 or 2 arguments",
                Function::Many(_) => "at least 1 argument",
                _ => "1 argument",
            };
            return Err(format!("{name} takes {takes}, not {}", arguments.len()));
        }
    };
    result.map_err(|error| format!("{name}: {error}"))
}

fn sqrt(x: Number) -> Result {
    if let Some(n) = x.whole().and_then(|n| u128::try_from(n).ok()) {
        let root = n.isqrt();
        if root * root == n {
            return Ok(Number::Whole(root as i128));
        }
    }
    Number::real(x.value().sqrt())
}

/// The logarithm to base 10, or to another base.
fn log(x: Number, base: Option<Number>) -> Result {
    match base {
        Some(base) => {
            let (value, base) = (x.value(), base.value());
            // The quotient of two logarithms is a little off, where a power is meant too.
            let power = value.log(base);
            let whole = power.round();
            Number::real(if base.powf(whole) == value { whole } else { power })
        }
        None => Number::real(x.value().log10()),
    }
}

fn rounded(x: Number, rounding: fn(f64) -> f64) -> Result {
    match x {
        Number::Whole(_) => Ok(x),
        Number::Real(x) => Number::real(rounding(x)),
    }
}

/// Rounds to whole numbers, or to a number of decimals; halves away from zero.
fn round(x: Number, decimals: Option<Number>) -> Result {
    let Some(decimals) = decimals else { return rounded(x, f64::round) };
    let decimals = decimals.whole().filter(|n| (0..=15).contains(n));
    let scale =
        10f64.powi(decimals.ok_or("the number of decimals must be a whole number from 0 to 15")? as i32);
    match x {
        Number::Whole(_) => Ok(x),
        Number::Real(x) => Number::real((x * scale).round() / scale),
    }
}

fn pick(list: &[Number], wanted: Ordering) -> Number {
    let choose = |best: Number, next: &Number| if next.compare(best) == wanted { *next } else { best };
    list.iter().skip(1).fold(list[0], choose)
}
