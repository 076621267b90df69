//! Byte sizes as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units with their size in bytes. A bare letter counts in powers of 1024, as in `ulimit` and systemd.
const UNITS: [(&str, u64); 13] = [
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

/// More decimals than these can't change the number of bytes of any unit.
const MAX_DECIMALS: usize = 12;

/// A number of bytes. Read from `768MiB`, `1.5GB`, `64 KiB`, `2G` (powers of 1024) or plain bytes; the case
/// of the unit does not matter. A fraction of a byte is dropped.
///
/// `{}` prints the size exactly and in a form that reads back; `{:#}` prints it for people, with two
/// decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A text that is not a byte size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// The text has no number, or a number that is not plain decimal.
    #[error("`{0}` is not a size: write a number and a unit, such as 768MiB, 1.5GB or 1073741824")]
    Number(String),
    /// The unit is none of those that are known.
    #[error("`{0}` has an unknown unit: use B, KiB, MiB, GiB, TiB, KB, MB, GB or TB")]
    Unit(String),
    /// The size does not fit in 64 bits.
    #[error("`{0}` is more bytes than can be counted")]
    TooLarge(String),
}

impl ByteSize {
    /// A number of mebibytes.
    pub const fn mebibytes(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let malformed = || ByteSizeError::Number(text.to_owned());
        if whole.is_empty() || decimals.contains('.') || (number.contains('.') && decimals.is_empty()) {
            return Err(malformed());
        }
        let unit = unit.trim().to_ascii_lowercase();
        let scale = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, scale)) => *scale,
            None if unit.is_empty() => 1,
            None => return Err(ByteSizeError::Unit(text.to_owned())),
        };
        let too_large = || ByteSizeError::TooLarge(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let decimals = &decimals[..decimals.len().min(MAX_DECIMALS)];
        let fraction = match decimals {
            "" => 0,
            digits => {
                let value: u128 = digits.parse().map_err(|_| malformed())?;
                value * u128::from(scale) / 10u128.pow(digits.len() as u32)
            }
        };
        let bytes = u128::from(whole) * u128::from(scale) + fraction;
        u64::try_from(bytes).map(Self).map_err(|_| too_large())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        if f.alternate() {
            return match units.iter().find(|(_, scale)| self.0 >= *scale) {
                Some((name, scale)) => write!(f, "{:.2} {name}", self.0 as f64 / *scale as f64),
                None => write!(f, "{} B", self.0),
            };
        }
        match units.iter().find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale)) {
            Some((name, scale)) => write!(f, "{}{name}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as \"64MiB\", or a number of bytes")]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        for (text, bytes) in [
            ("768MiB", 768 << 20),
            ("1GiB", 1 << 30),
            ("1.5GB", 1_500_000_000),
            ("1.5 gib", 3 << 29),
            ("2g", 2 << 30),
            ("4096", 4096),
            ("10 B", 10),
            ("0.001KB", 1),
            ("0.333333333333333333333KiB", 341),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_cause() {
        for text in ["", "MiB", "-1GiB", "1.GiB", ".5GiB", "1.2.3MiB"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ByteSizeError::Number(_))), "{text}");
        }
        for text in ["1XiB", "1 GiBs", "1e9", "5 %"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ByteSizeError::Unit(_))), "{text}");
        }
        for text in ["18446744073709551616", "99999999TiB", "999999999999999999999999"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ByteSizeError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn printing_reads_back_and_is_short_for_people() {
        for bytes in [0, 1, 1023, 1024, 1536, 768 << 20, 1 << 40, (1 << 30) + 1, u64::MAX] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
        assert_eq!(ByteSize::mebibytes(768).to_string(), "768MiB");
        assert_eq!(format!("{:#}", ByteSize(1_500_000_000)), "1.40 GiB");
        assert_eq!(format!("{:#}", ByteSize(12)), "12 B");
    }
}
