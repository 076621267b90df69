//! The interface `history`.

use crate::bindings::sampler::membrane::plugin::history::Host;
use crate::limits::MAX_TAIL;
use crate::state::State;

impl Host for State {
    fn length(&mut self) -> wasmtime::Result<u32> {
        Ok(self.step(|_| 1)?.history.len() as u32)
    }

    fn prompt_length(&mut self) -> wasmtime::Result<u32> {
        Ok(self.step(|_| 1)?.prompt_tokens as u32)
    }

    fn tail(&mut self, n: u32) -> wasmtime::Result<Vec<u32>> {
        let n = n.min(MAX_TAIL) as usize;
        let history = &self.step(|step| n.min(step.history.len()))?.history;
        Ok(history[history.len().saturating_sub(n)..].to_vec())
    }
}
