//! The interface `output`, for agents.

use crate::bindings::agent::membrane::plugin::output::Host;
use crate::state::State;

impl Host for State {
    fn write(&mut self, text: String) -> wasmtime::Result<()> {
        self.agency(text.len())?.environment.write(&text);
        self.go_on()
    }
}
