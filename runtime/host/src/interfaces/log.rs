//! The interface `log`.

use crate::bindings::sampler::membrane::plugin::log::{Host, Level};
use crate::engine::LogLevel;
use crate::state::State;

impl Host for State {
    fn write(&mut self, level: Level, text: String) -> wasmtime::Result<()> {
        self.charge(text.len())?;
        let level = match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warning => LogLevel::Warning,
        };
        self.log(level, &text);
        Ok(())
    }
}
