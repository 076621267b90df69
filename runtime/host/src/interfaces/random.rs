//! The interface `random`.

use crate::bindings::sampler::membrane::plugin::random::Host;
use crate::state::State;

impl Host for State {
    fn next(&mut self) -> wasmtime::Result<u64> {
        match &self.agency {
            Some(_) => Ok(self.agency(1)?.environment.random()),
            None => Ok(self.step(|_| 1)?.random.bits()),
        }
    }
}
