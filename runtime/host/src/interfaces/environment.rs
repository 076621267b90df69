//! The interface `environment`, by grant.

use crate::bindings::tool::membrane::plugin::environment::Host;
use crate::state::State;

impl Host for State {
    fn get(&mut self, name: String) -> wasmtime::Result<Result<Option<String>, String>> {
        self.charge(name.len() + 1)?;
        Ok(self.authority.variable(&name).map(|value| value.map(str::to_owned)))
    }
}
