//! The interface `tools`, for agents.

use wasmtime::Result;

use crate::agent::Offer;
use crate::bindings::agent::membrane::plugin::tools::{Host, Invocation};
use crate::limits::MAX_ARGUMENTS_BYTES;
use crate::state::State;

impl Host for State {
    fn available(&mut self) -> Result<Vec<Offer>> {
        let offers = self.agency(100)?.environment.tools();
        Ok(offers)
    }

    fn call(&mut self, call: Invocation) -> Result<Result<String, String>> {
        let bytes = call.arguments.len();
        self.charge(bytes + call.name.len())?;
        if bytes > MAX_ARGUMENTS_BYTES {
            return Ok(Err(format!("the arguments have {bytes} bytes; the limit is {MAX_ARGUMENTS_BYTES}")));
        }
        let called = self.agency(1)?.environment.call(call.into());
        self.go_on()?;
        Ok(called)
    }
}
