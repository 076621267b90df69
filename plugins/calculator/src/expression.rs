//! Reading an expression and computing it at once, by recursive descent.
//!
//! From loosest to tightest: `+ -`, then `* / %`, then a sign, then `^` (from the right, and tighter than a
//! sign before it: `-2^2` is -4), then `!`.

use crate::functions::{self, Angle};
use crate::number::Number;

/// Longest expression, in bytes.
const MAX_BYTES: usize = 4096;

/// Deepest nesting: parentheses, signs and powers each go one level down on the guest's stack.
const MAX_DEPTH: usize = 100;

/// Computes an expression. Errors say what is wrong and at which character, from 1.
pub fn evaluate(expression: &str, angle: Angle) -> Result<String, String> {
    if expression.len() > MAX_BYTES {
        return Err(format!(
            "the expression has {} bytes, of which at most {MAX_BYTES} are allowed",
            expression.len()
        ));
    }
    let mut parser = Parser { text: expression.chars().collect(), at: 0, depth: 0, angle };
    let result = parser.sum()?;
    match parser.peek() {
        None => Ok(result.to_string()),
        Some(')') => parser.error("there is no `(` for this `)`"),
        Some(',') => parser.error("a comma only stands between arguments; a decimal point is `.`"),
        Some(other) => parser.error(&format!("expected an operator, not `{other}`")),
    }
}

struct Parser {
    text: Vec<char>,
    at: usize,
    depth: usize,
    angle: Angle,
}

type Parsed = Result<Number, String>;

impl Parser {
    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let operation = match self.peek() {
                Some('+') => Number::add,
                Some('-' | '−') => Number::subtract,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.product()?;
            left = operation(left, right)?;
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.signed()?;
        loop {
            let operation = match self.peek() {
                // `**` is a power and is read with its base.
                Some('*' | '×' | '·') => Number::multiply,
                Some('/' | '÷') => Number::divide,
                Some('%') => Number::remainder,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.signed()?;
            left = operation(left, right)?;
        }
    }

    fn signed(&mut self) -> Parsed {
        self.deeper(|parser| match parser.peek() {
            Some('-' | '−') => {
                parser.at += 1;
                parser.signed()?.negate()
            }
            Some('+') => {
                parser.at += 1;
                parser.signed()
            }
            _ => parser.power(),
        })
    }

    fn power(&mut self) -> Parsed {
        let mut base = self.atom()?;
        while self.peek() == Some('!') {
            self.at += 1;
            base = base.factorial()?;
        }
        match self.peek() {
            Some('^') => self.at += 1,
            Some('*') if self.text.get(self.at + 1) == Some(&'*') => self.at += 2,
            _ => return Ok(base),
        }
        let exponent = self.signed()?;
        base.power(exponent)
    }

    fn atom(&mut self) -> Parsed {
        match self.peek() {
            Some('(') => {
                self.at += 1;
                let inner = self.sum()?;
                self.close()?;
                Ok(inner)
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some(c) if c.is_alphabetic() => self.name(),
            Some(c) => self.error(&format!("expected a number, a name or `(`, not `{c}`")),
            None => self.error("the expression ends where a number should be"),
        }
    }

    fn number(&mut self) -> Parsed {
        let start = self.at;
        let mut text = String::new();
        self.digits(&mut text);
        if self.next_is('.') {
            text.push('.');
            self.at += 1;
            self.digits(&mut text);
        }
        self.exponent(&mut text);
        let number = match text.parse::<i128>() {
            Ok(whole) => Some(Number::Whole(whole)),
            Err(_) => text.parse::<f64>().ok().filter(|x| x.is_finite()).map(Number::Real),
        };
        number.map_or_else(|| Err(format!("character {}: `{text}` is not a number", start + 1)), Ok)
    }

    /// Digits, in which `_` may separate groups.
    fn digits(&mut self, text: &mut String) {
        while let Some(c) = self.text.get(self.at).filter(|c| c.is_ascii_digit() || **c == '_') {
            if *c != '_' {
                text.push(*c);
            }
            self.at += 1;
        }
    }

    /// `e` and digits belong to the number; any other `e` is left for what follows.
    fn exponent(&mut self, text: &mut String) {
        if !(self.next_is('e') || self.next_is('E')) {
            return;
        }
        let sign = self.text.get(self.at + 1).filter(|c| matches!(c, '+' | '-')).copied();
        let digits = self.at + 1 + usize::from(sign.is_some());
        if self.text.get(digits).is_some_and(char::is_ascii_digit) {
            text.push('e');
            text.extend(sign);
            self.at = digits;
            self.digits(text);
        }
    }

    fn name(&mut self) -> Parsed {
        let start = self.at;
        while self.text.get(self.at).is_some_and(|c| c.is_alphanumeric()) {
            self.at += 1;
        }
        let name: String = self.text[start..self.at].iter().collect::<String>().to_lowercase();
        if self.peek() == Some('(') {
            self.at += 1;
            let arguments = self.arguments()?;
            return functions::call(&name, &arguments, self.angle);
        }
        functions::constant(&name).ok_or_else(|| {
            format!("character {}: there is no constant `{name}`: there are pi, e, tau", start + 1)
        })
    }

    fn arguments(&mut self) -> Result<Vec<Number>, String> {
        let mut arguments = Vec::new();
        if self.peek() != Some(')') {
            arguments.push(self.sum()?);
            while self.peek() == Some(',') {
                self.at += 1;
                arguments.push(self.sum()?);
            }
        }
        self.close()?;
        Ok(arguments)
    }

    fn close(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(')') => {
                self.at += 1;
                Ok(())
            }
            _ => self.error("expected `)`"),
        }
    }

    fn deeper(&mut self, inner: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error(&format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// The next character that is not white space.
    fn peek(&mut self) -> Option<char> {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn next_is(&self, expected: char) -> bool {
        self.text.get(self.at) == Some(&expected)
    }

    fn error<T>(&self, message: &str) -> Result<T, String> {
        Err(format!("character {}: {message}", self.at + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(expression: &str) -> Result<String, String> {
        evaluate(expression, Angle::Radians)
    }

    #[test]
    fn expressions_have_their_usual_values() {
        for (expression, expected) in [
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("2 - 3 - 4", "-5"),
            ("-2^2", "-4"),
            ("2^3^2", "512"),
            ("2**-1", "0.5"),
            ("2 * *3", "character 5: expected a number, a name or `(`, not `*`"),
            ("7 / 2", "3.5"),
            ("84 / -2", "-42"),
            ("-7 % 3", "2"),
            ("7 % -3", "-2"),
            ("7.5 % 2", "1.5"),
            ("5! / 3!", "20"),
            ("1e3 + 1_000", "2000"),
            ("0.1 + 0.2", "0.30000000000000004"),
            ("round(0.1 + 0.2, 2)", "0.3"),
            ("2 × 3 ÷ 4 − 1", "0.5"),
            ("sqrt(16) + cbrt(27)", "7"),
            ("log(1000) + log(8, 2) + ln(e)", "7"),
            ("log(1000, 10) + log(125, 5)", "6"),
            ("log(2, 4) + log(0.25, 2)", "-1.5"),
            ("max(1, 5, 3) - min(4, 2)", "3"),
            ("max(0.5, 2, -1) + min(0.5, 2, -1.5)", "0.5"),
            ("abs(-3) + floor(2.7) + ceil(2.1) + trunc(-2.7)", "6"),
            ("cos(0) + SIN(0)", "1"),
            ("hypot(3,4)", "5"),
            ("1/3", "0.3333333333333333"),
            ("1e-9", "1e-9"),
            (" 42 ", "42"),
        ] {
            assert_eq!(compute(expression).unwrap_or_else(|error| error), expected, "{expression}");
        }
    }

    #[test]
    fn whole_numbers_are_exact_beyond_floating_point() {
        assert_eq!(compute("2^100 + 1"), Ok("1267650600228229401496703205377".to_owned()));
        assert_eq!(compute("123456789012345678 * 1000000007"), Ok("123456789876543201086419746".to_owned()));
        assert_eq!(compute("sqrt(1000000000000000000000000000000)"), Ok("1000000000000000".to_owned()));
        assert_eq!(compute("25! / 24!"), Ok("25".to_owned()));
        // Both are one floating-point number.
        assert_eq!(compute("max(9007199254740992, 9007199254740993)"), Ok("9007199254740993".to_owned()));
        assert_eq!(compute("min(9007199254740993, 9007199254740992)"), Ok("9007199254740992".to_owned()));
    }

    #[test]
    fn what_is_too_large_for_whole_numbers_is_rounded() {
        assert_eq!(compute("2^200"), Ok("1.6069380442589903e60".to_owned()));
        assert_eq!(
            compute("170141183460469231731687303715884105727 + 1"),
            Ok("1.7014118346046923e38".to_owned())
        );
        assert_eq!(
            compute("-170141183460469231731687303715884105727 - 2"),
            Ok("-1.7014118346046923e38".to_owned())
        );
    }

    #[test]
    fn angles_are_in_the_unit_of_the_parameter() {
        assert_eq!(evaluate("round(sin(30), 9)", Angle::Degrees), Ok("0.5".to_owned()));
        assert_eq!(evaluate("atan(1)", Angle::Degrees), Ok("45".to_owned()));
        assert_eq!(compute("round(sin(pi / 6), 9)"), Ok("0.5".to_owned()));
    }

    #[test]
    fn errors_say_what_is_wrong_and_where() {
        for (expression, expected) in [
            ("", "character 1: the expression ends"),
            ("1 +", "the expression ends"),
            ("1 $ 2", "character 3: expected an operator, not `$`"),
            ("(1 + 2", "character 7: expected `)`"),
            ("1)", "character 2: there is no `(`"),
            ("1,5", "character 2: a comma"),
            ("1/0", "division by zero"),
            ("5 % 0", "division by zero"),
            ("0^-1", "division by zero"),
            ("sqrt(-1)", "sqrt: the result is not a real number"),
            ("ln(0)", "ln: the result is too large"),
            ("(-8)^(1/3)", "not a real number"),
            ("9^9^9^9", "too large"),
            ("1e999", "`1e999` is not a number"),
            ("1.2.3", "character 4: expected an operator"),
            (".", "`.` is not a number"),
            ("foo(1)", "there is no function `foo`: there are sqrt"),
            ("foo", "there is no constant `foo`"),
            ("sin(1, 2)", "sin takes 1 argument, not 2"),
            ("min()", "min takes at least 1 argument, not 0"),
            ("hypot(1)", "hypot takes 2 arguments, not 1"),
            ("2.5!", "whole number from 0 to 170"),
            ("171!", "whole number from 0 to 170"),
            ("round(1.5, 99)", "decimals"),
        ] {
            let error = compute(expression).unwrap_err();
            assert!(error.contains(expected), "{expression}: {error}");
        }
    }

    #[test]
    fn deep_and_long_expressions_are_refused() {
        for expression in ["(".repeat(2000), "-".repeat(2000), "2^".repeat(1000), "sin(".repeat(500)] {
            assert!(compute(&expression).unwrap_err().contains("nested deeper"), "{}", &expression[..4]);
        }
        assert!(compute(&"1+".repeat(3000)).unwrap_err().contains("6000 bytes"));
        assert_eq!(compute(&format!("{}1{}", "(".repeat(90), ")".repeat(90))), Ok("1".to_owned()));
    }
}
