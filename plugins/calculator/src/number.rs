//! Numbers: whole ones exactly, in 128 bits; all others, and what is too large, as 64-bit floating point.

use std::cmp::Ordering;

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Exact.
    Whole(i128),
    /// Finite, rounded to about 16 digits.
    Real(f64),
}

use Number::{Real, Whole};

/// Floats at least this large are printed with an exponent: their digits are not all known.
const EXPONENT_FROM: f64 = 1e15;

impl Number {
    /// A result of floating-point arithmetic. Errors: it is infinite or not a number.
    pub fn real(value: f64) -> Result<Self, String> {
        if value.is_finite() {
            Ok(Real(value))
        } else if value.is_nan() {
            Err("the result is not a real number".to_owned())
        } else {
            Err("the result is too large".to_owned())
        }
    }

    /// The nearest floating-point number.
    pub fn value(self) -> f64 {
        match self {
            Whole(n) => n as f64,
            Real(x) => x,
        }
    }

    /// The number as a whole one, if it is.
    pub fn whole(self) -> Option<i128> {
        match self {
            Whole(n) => Some(n),
            Real(x) => (x.fract() == 0.0 && x.abs() < EXPONENT_FROM).then_some(x as i128),
        }
    }

    /// How it stands to another: exactly where both are whole.
    pub fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Whole(a), Whole(b)) => a.cmp(&b),
            _ => self.value().total_cmp(&other.value()),
        }
    }

    /// `-self`.
    pub fn negate(self) -> Result<Self, String> {
        match self {
            Whole(n) => n.checked_neg().map_or_else(|| Self::real(-(n as f64)), |n| Ok(Whole(n))),
            Real(x) => Ok(Real(-x)),
        }
    }

    /// `self + other`.
    pub fn add(self, other: Self) -> Result<Self, String> {
        self.exactly(other, i128::checked_add).map_or_else(|| Self::real(self.value() + other.value()), Ok)
    }

    /// `self - other`.
    pub fn subtract(self, other: Self) -> Result<Self, String> {
        self.exactly(other, i128::checked_sub).map_or_else(|| Self::real(self.value() - other.value()), Ok)
    }

    /// `self * other`.
    pub fn multiply(self, other: Self) -> Result<Self, String> {
        self.exactly(other, i128::checked_mul).map_or_else(|| Self::real(self.value() * other.value()), Ok)
    }

    /// `self / other`, whole if it divides.
    pub fn divide(self, other: Self) -> Result<Self, String> {
        if other.value() == 0.0 {
            return Err("division by zero".to_owned());
        }
        let divides = |a: i128, b: i128| if a.checked_rem(b)? == 0 { a.checked_div(b) } else { None };
        self.exactly(other, divides).map_or_else(|| Self::real(self.value() / other.value()), Ok)
    }

    /// The remainder of the division rounded down; it has the sign of `other`.
    pub fn remainder(self, other: Self) -> Result<Self, String> {
        if other.value() == 0.0 {
            return Err("remainder of a division by zero".to_owned());
        }
        let floored = |a: i128, b: i128| {
            let rest = a.checked_rem(b)?;
            if rest != 0 && (rest < 0) != (b < 0) { rest.checked_add(b) } else { Some(rest) }
        };
        self.exactly(other, floored).map_or_else(
            || {
                let (a, b) = (self.value(), other.value());
                let rest = a % b;
                Self::real(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest })
            },
            Ok,
        )
    }

    /// `self` to the power of `exponent`.
    pub fn power(self, exponent: Self) -> Result<Self, String> {
        if self.value() == 0.0 && exponent.value() < 0.0 {
            return Err("division by zero: 0 to a negative power".to_owned());
        }
        let exact = self.exactly(exponent, |base, exponent| base.checked_pow(u32::try_from(exponent).ok()?));
        exact.map_or_else(|| Self::real(self.value().powf(exponent.value())), Ok)
    }

    /// `self!`. Errors: not a whole number from 0 to 170.
    pub fn factorial(self) -> Result<Self, String> {
        let n = self.whole().filter(|n| (0..=170).contains(n));
        let n = n.ok_or("a factorial needs a whole number from 0 to 170")?;
        (2..=n).try_fold(Whole(1), |product, factor| product.multiply(Whole(factor)))
    }

    fn exactly(self, other: Self, operation: impl Fn(i128, i128) -> Option<i128>) -> Option<Self> {
        match (self, other) {
            (Whole(a), Whole(b)) => operation(a, b).map(Whole),
            _ => None,
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (*self, self.whole()) {
            (_, Some(n)) => write!(f, "{n}"),
            (Real(x), None) if x.abs() >= EXPONENT_FROM || x.abs() < 1e-6 => write!(f, "{x:e}"),
            (number, None) => write!(f, "{}", number.value()),
        }
    }
}
