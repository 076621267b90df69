//! The interface `history`.

use crate::bindings::sampler::membrane::plugin::history::Host;
use crate::grants::Grant;
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
        let prompt = self.has(Grant::PromptTokens);
        let step = self.step(|step| n.min(step.history.len()))?;
        // Without the grant the prompt is not there; `length` and `prompt-length` say no more than how long it is.
        let hidden = if prompt { 0 } else { step.prompt_tokens.min(step.history.len()) };
        let seen = &step.history[hidden..];
        Ok(seen[seen.len().saturating_sub(n)..].to_vec())
    }
}
