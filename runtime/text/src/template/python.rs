//! Values written as Python writes them, which is what chat templates are made for: `str`, `repr`,
//! `json.dumps`, `strftime`.

use std::fmt::Write;

use minijinja::value::{ObjectRepr, ValueKind};
use minijinja::{Error, Value};

use super::meter::{Meter, Stop};
use super::namespace::invalid;

/// Deepest nesting that is written: twice what a template can build, plus what JSON input may have.
const MAX_DEPTH: usize = 256;

/// `str(value)`; an undefined value is empty.
pub(crate) fn text(meter: &Meter, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        meter.charge(text.len() as u64)?;
        return Ok(text.to_owned());
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    let mut writer = Writer::new(meter, Style::Repr);
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// How `tojson` writes.
#[derive(Debug, Default)]
pub(crate) struct Json {
    /// Each level on lines of its own, moved in by this.
    pub indent: Option<String>,
    /// Between elements, and between a key and its value.
    pub separators: Option<(String, String)>,
    /// Only ASCII characters.
    pub ensure_ascii: bool,
    /// Keys in order.
    pub sort_keys: bool,
}

/// `json.dumps(value)`.
pub(crate) fn json(meter: &Meter, value: &Value, how: Json) -> Result<String, Error> {
    let mut writer = Writer::new(meter, Style::Json(how));
    writer.value(value, 0)?;
    Ok(writer.out)
}

enum Style {
    Repr,
    Json(Json),
}

struct Writer<'a> {
    meter: &'a Meter,
    style: Style,
    out: String,
    charged: usize,
}

impl<'a> Writer<'a> {
    fn new(meter: &'a Meter, style: Style) -> Self {
        Self { meter, style, out: String::new(), charged: 0 }
    }

    fn settle(&mut self) -> Result<(), Error> {
        let new = self.out.len() - self.charged;
        self.charged = self.out.len();
        self.meter.charge(new as u64 + 1)
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Stop::Limit("levels of nesting", MAX_DEPTH as u64).into());
        }
        self.settle()?;
        let repr = matches!(self.style, Style::Repr);
        match value.kind() {
            ValueKind::Undefined if repr => self.out.push_str("Undefined"),
            ValueKind::Undefined => return Err(invalid("an undefined value can't be written as JSON")),
            ValueKind::None => self.out.push_str(if repr { "None" } else { "null" }),
            ValueKind::Bool => self.out.push_str(match (value.is_true(), repr) {
                (true, true) => "True",
                (false, true) => "False",
                (true, false) => "true",
                (false, false) => "false",
            }),
            ValueKind::Number if value.is_integer() => self.display(value),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(number) => self.out.push_str(&float(number)),
                Err(_) => self.display(value),
            },
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                self.meter.charge(text.len() as u64)?;
                match &self.style {
                    Style::Repr => quote(&mut self.out, text),
                    Style::Json(how) => quote_json(&mut self.out, text, how.ensure_ascii),
                }
            }
            _ => return self.object(value, depth),
        }
        Ok(())
    }

    fn display(&mut self, value: &Value) {
        // Writing to a string can't fail.
        let _ = write!(self.out, "{value}");
    }

    fn object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let object =
            value.as_object().ok_or_else(|| invalid(format!("a {} can't be written", value.kind())))?;
        match object.repr() {
            ObjectRepr::Map => {
                let mut pairs: Vec<(Value, Value)> = object.try_iter_pairs().into_iter().flatten().collect();
                if matches!(&self.style, Style::Json(Json { sort_keys: true, .. })) {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list(('{', '}'), depth, pairs.into_iter(), |writer, (key, value)| {
                    writer.key(&key, depth)?;
                    writer.value(&value, depth + 1)
                })
            }
            ObjectRepr::Seq | ObjectRepr::Iterable => {
                let items = object.try_iter().into_iter().flatten();
                self.list(('[', ']'), depth, items, |writer, item| writer.value(&item, depth + 1))
            }
            _ if matches!(self.style, Style::Repr) => {
                self.display(value);
                Ok(())
            }
            _ => Err(invalid("this object can't be written as JSON")),
        }
    }

    fn key(&mut self, key: &Value, depth: usize) -> Result<(), Error> {
        let colon = match &self.style {
            Style::Json(Json { separators: Some((_, colon)), .. }) => colon.clone(),
            _ => ": ".to_owned(),
        };
        self.value(key, depth + 1)?;
        self.out.push_str(&colon);
        Ok(())
    }

    fn list<T>(
        &mut self,
        (open, close): (char, char),
        depth: usize,
        items: impl Iterator<Item = T>,
        mut each: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (comma, indent) = match &self.style {
            Style::Repr => (", ".to_owned(), None),
            Style::Json(how) => {
                let comma = if how.indent.is_some() { "," } else { ", " };
                let comma = how.separators.as_ref().map_or(comma.to_owned(), |(comma, _)| comma.clone());
                (comma, how.indent.clone())
            }
        };
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        self.out.push(open);
        let mut any = false;
        for item in items {
            if any {
                self.out.push_str(&comma);
            }
            any = true;
            line(&mut self.out, depth + 1);
            each(self, item)?;
        }
        if any {
            line(&mut self.out, depth);
        }
        self.out.push(close);
        self.settle()
    }
}

/// `repr` of a float: the shortest digits that read back as the same number.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if number != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}

/// `repr` of a string.
fn quote(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if character == quote => out.extend(['\\', character]),
            '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{ad}' => {
                let _ = write!(out, "\\x{:02x}", character as u32);
            }
            _ => out.push(character),
        }
    }
    out.push(quote);
}

fn quote_json(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\0'..='\x1f' => {
                let _ = write!(out, "\\u{:04x}", character as u32);
            }
            _ if ascii && character as u32 > 0x7e => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `strftime` of a time in seconds since 1970, UTC. Directives that aren't known stay as they are.
pub(crate) fn strftime(now: i64, format: &str) -> String {
    let (days, second) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let weekday = (days + 4).rem_euclid(7);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[weekday as usize];
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let year_day = days - days_before(year, 1, 1) + 1;
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut directive = characters.next();
        let plain = directive == Some('-');
        if plain {
            directive = characters.next();
        }
        let mut number = |value: i64, width: usize| {
            let width = if plain { 0 } else { width };
            let _ = write!(out, "{value:0width$}");
        };
        match directive {
            Some('Y') => number(year, 4),
            Some('y') => number(year.rem_euclid(100), 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('H') => number(hour, 2),
            Some('I') => number(hour12, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('j') => number(year_day, 3),
            Some('w') => number(weekday, 1),
            Some('s') => number(now, 1),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('F') => out.push_str(&format!("{year:04}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('%') => out.push('%'),
            other => out.extend(['%'].into_iter().chain(other)),
        }
    }
    out
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while days_before(year + 1, 1, 1) <= days {
        year += 1 + (days - days_before(year + 1, 1, 1)) / 366;
    }
    let mut month = 1;
    while month < 12 && days_before(year, month + 1, 1) <= days {
        month += 1;
    }
    (year, month, days - days_before(year, month, 1) + 1)
}

/// Days from 1970 to a date.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    const BEFORE_MONTH: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let past = year - 1;
    let leap_days = past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400);
    const LEAP_DAYS_BEFORE_1970: i64 = 477;
    let in_year = BEFORE_MONTH[month as usize - 1] + i64::from(leap && month > 2);
    (year - 1970) * 365 + leap_days - LEAP_DAYS_BEFORE_1970 + in_year + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    #[test]
    fn values_are_written_as_python_does() {
        let meter = Meter::new(0);
        let value = context! { a => vec![Value::from("it's"), Value::from(()), Value::from(true)], b => 1.0 };
        assert_eq!(text(&meter, &value).unwrap(), r#"{'a': ["it's", None, True], 'b': 1.0}"#);
        let how = Json::default();
        assert_eq!(json(&meter, &value, how).unwrap(), r#"{"a": ["it's", null, true], "b": 1.0}"#);
        let how = Json { indent: Some("  ".into()), ..Json::default() };
        let expected = "{\n  \"a\": [\n    \"it's\",\n    null,\n    true\n  ],\n  \"b\": 1.0\n}";
        assert_eq!(json(&meter, &value, how).unwrap(), expected);
    }

    #[test]
    fn floats_have_the_shortest_digits() {
        let cases = [
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (1.5e16, "1.5e+16"),
            (1e15, "1000000000000000.0"),
            (-0.0, "-0.0"),
        ];
        for (number, expected) in cases {
            assert_eq!(float(number), expected);
        }
    }

    #[test]
    fn dates_are_right_at_the_edges_of_months_and_years() {
        let cases = [
            (0, "1970-01-01 Thursday 001"),
            (951_782_400, "2000-02-29 Tuesday 060"),
            (1_735_689_599, "2024-12-31 Tuesday 366"),
            (1_735_689_600, "2025-01-01 Wednesday 001"),
            (-1, "1969-12-31 Wednesday 365"),
            (4_107_542_400, "2100-03-01 Monday 060"),
        ];
        for (now, expected) in cases {
            assert_eq!(strftime(now, "%F %A %j"), expected);
        }
        assert_eq!(strftime(1_735_689_599, "%d %b %Y, %-I:%M %p %q%"), "31 Dec 2024, 11:59 PM %q%");
    }
}
