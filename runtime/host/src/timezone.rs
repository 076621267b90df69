//! The host's local time zone.

use std::time::{SystemTime, UNIX_EPOCH};

use tz::TimeZone;

/// Offset of the local time zone from UTC at a time, in minutes east; 0 where the machine doesn't say.
pub fn utc_offset_minutes(at: SystemTime) -> i32 {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let local = TimeZone::local().ok();
    let kind = local.as_ref().and_then(|zone| zone.find_local_time_type(seconds).ok());
    kind.map_or(0, |kind| kind.ut_offset() / 60)
}
