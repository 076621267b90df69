//! The interface `output`, for agents.

use crate::bindings::agent::membrane::plugin::output::Host;
use crate::error::Cause;
use crate::limits::MAX_ANSWER_BYTES;
use crate::state::State;

impl Host for State {
    fn write(&mut self, text: String) -> wasmtime::Result<()> {
        let agency = self.agency(text.len())?;
        agency.written = agency.written.saturating_add(text.len());
        if agency.written > MAX_ANSWER_BYTES {
            return Err(self.end(Cause::Broke(format!("it wrote more than {} MiB", MAX_ANSWER_BYTES >> 20))));
        }
        agency.environment.write(&text);
        self.go_on()
    }
}
