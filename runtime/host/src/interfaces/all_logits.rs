//! The interface `all-logits`, by grant.

use crate::bindings::sampler::membrane::plugin::all_logits::Host;
use crate::state::State;

impl Host for State {
    fn read(&mut self) -> wasmtime::Result<Vec<f32>> {
        Ok(self.step(|step| step.candidates.vocabulary() as usize)?.candidates.read())
    }

    fn write(&mut self, logits: Vec<f32>) -> wasmtime::Result<Result<(), String>> {
        let written = self.step(|_| logits.len())?.candidates.write(&logits);
        Ok(written.map_err(|error| error.to_string()))
    }
}
