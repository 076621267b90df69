//! The interface `clock`, by grant.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bindings::tool::membrane::plugin::clock::Host;
use crate::state::State;

impl Host for State {
    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(since.map_or(0, |since| since.as_millis() as u64))
    }

    fn utc_offset_minutes(&mut self) -> wasmtime::Result<i32> {
        Ok(crate::timezone::utc_offset_minutes(SystemTime::now()))
    }
}
