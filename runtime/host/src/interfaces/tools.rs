//! The interface `tools`, for agents.

use wasmtime::Result;

use crate::agent::Offer;
use crate::bindings::agent::membrane::plugin::tools::{Host, Invocation};
use crate::limits::{ITEM_UNITS, MAX_ARGUMENTS_BYTES};
use crate::state::State;

impl Host for State {
    fn available(&mut self) -> Result<Vec<Offer>> {
        let offers = self.agency(100)?.environment.tools();
        let bytes = |offer: &Offer| offer.name.len() + offer.description.len() + offer.parameters.len();
        self.give(offers, |offers| offers.iter().map(|offer| ITEM_UNITS + bytes(offer)).sum())
    }

    fn call(&mut self, call: Invocation) -> Result<Result<String, String>> {
        let bytes = call.arguments.len();
        self.charge(bytes + call.name.len())?;
        if bytes > MAX_ARGUMENTS_BYTES {
            return Ok(Err(format!("the arguments have {bytes} bytes; the limit is {MAX_ARGUMENTS_BYTES}")));
        }
        let called = self.agency(1)?.environment.call(call.into());
        self.give(called, |called| called.as_ref().map_or_else(String::len, String::len))
    }
}
