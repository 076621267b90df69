//! From milliseconds since 1970 to dates of the Gregorian calendar.

use std::fmt;
use std::str::FromStr;

const SECONDS_PER_DAY: i64 = 86_400;

/// The largest offset of a time zone from UTC, in minutes; ISO 8601 knows none beyond a day.
const MAX_OFFSET_MINUTES: i32 = 24 * 60 - 1;

/// An offset from UTC in minutes, east positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(i32);

impl Offset {
    /// UTC itself.
    #[cfg(test)]
    pub const UTC: Self = Self(0);

    /// Minutes east of UTC. Errors: a day or more.
    pub fn minutes(minutes: i32) -> Result<Self, String> {
        if minutes.unsigned_abs() > MAX_OFFSET_MINUTES.unsigned_abs() {
            return Err(format!("utc_offset: {minutes} minutes are more than a day"));
        }
        Ok(Self(minutes))
    }
}

impl FromStr for Offset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("utc_offset: `{text}` is neither Z nor +hh:mm nor -hh:mm");
        let sign = match text.as_bytes() {
            b"Z" => return Ok(Self(0)),
            [b'+', _, _, b':', _, _] => 1,
            [b'-', _, _, b':', _, _] => -1,
            _ => return Err(malformed()),
        };
        let two = |at: usize, limit: i32| {
            let digits = text.get(at..at + 2).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|digits| digits.parse().ok()).filter(|value: &i32| *value < limit)
        };
        match (two(1, 24), two(4, 60)) {
            (Some(hours), Some(minutes)) => Ok(Self(sign * (hours * 60 + minutes))),
            _ => Err(malformed()),
        }
    }
}

/// A moment in a time zone. Prints as ISO 8601 with seconds.
pub struct Moment {
    /// Seconds since 1970-01-01T00:00:00 in that zone.
    local_seconds: i64,
    offset: Offset,
}

impl Moment {
    /// The moment this many milliseconds after 1970-01-01T00:00:00Z.
    pub fn new(unix_ms: u64, offset: Offset) -> Self {
        let seconds = (unix_ms / 1000) as i64;
        Self { local_seconds: seconds + i64::from(offset.0) * 60, offset }
    }

    /// The day of the week, in English.
    pub fn weekday(&self) -> &'static str {
        let names = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
        names[self.local_seconds.div_euclid(SECONDS_PER_DAY).rem_euclid(7) as usize]
    }

    /// Year, month and day. Counts in eras of 400 years from 0000-03-01, so that a leap day ends a year.
    fn date(&self) -> (i64, i64, i64) {
        let days = self.local_seconds.div_euclid(SECONDS_PER_DAY) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        (era * 400 + year_of_era + i64::from(month <= 2), month, day)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        let second = self.local_seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match self.offset.0 {
            0 => f.write_str("Z"),
            minutes => {
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, offset: &str) -> (String, &'static str) {
        let moment = Moment::new(seconds * 1000 + 999, offset.parse().unwrap());
        (moment.to_string(), moment.weekday())
    }

    #[test]
    fn known_moments_have_their_dates() {
        for (seconds, offset, time, weekday) in [
            (0, "Z", "1970-01-01T00:00:00Z", "Thursday"),
            (0, "-00:01", "1969-12-31T23:59:00-00:01", "Wednesday"),
            (951_782_399, "Z", "2000-02-28T23:59:59Z", "Monday"),
            (951_782_400, "Z", "2000-02-29T00:00:00Z", "Tuesday"),
            (951_868_800, "Z", "2000-03-01T00:00:00Z", "Wednesday"),
            (1_700_000_000, "+05:45", "2023-11-15T03:58:20+05:45", "Wednesday"),
            (1_709_210_096, "-08:00", "2024-02-29T04:34:56-08:00", "Thursday"),
            (4_107_542_399, "Z", "2100-02-28T23:59:59Z", "Sunday"),
            (4_107_542_400, "Z", "2100-03-01T00:00:00Z", "Monday"),
        ] {
            assert_eq!(at(seconds, offset), (time.to_owned(), weekday));
        }
    }

    #[test]
    fn days_follow_each_other_without_gaps() {
        let lengths = |year: i64| {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..200_000u64 {
            let moment = Moment::new(days * 86_400_000, Offset::UTC);
            assert_eq!(moment.date(), (year, month, day));
            day += 1;
            if day > lengths(year)[month as usize - 1] {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn malformed_offsets_are_refused() {
        for text in
            ["", "z", "UTC", "+1:00", "+24:00", "+01:60", "+0100", "+ 1:00", "++1:00", "01:00", "+é:00"]
        {
            assert!(text.parse::<Offset>().is_err(), "{text}");
        }
        assert!(Offset::minutes(1440).is_err() && Offset::minutes(i32::MIN).is_err());
        assert_eq!(Offset::minutes(-90).unwrap(), "-01:30".parse().unwrap());
    }
}
