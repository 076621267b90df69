//! The interface `raw-decoding`, by grant.

use wasmtime::Result;
use wasmtime::component::Resource;

use crate::agent::{self, Candidate, InferenceError, SessionHandle};
use crate::bindings::agent::membrane::plugin::raw_decoding::Host;
use crate::state::State;

/// Choosing among the logits takes about so many units for one of them.
const TOP_UNITS: usize = 4;

impl Host for State {
    fn top(
        &mut self,
        session: Resource<SessionHandle>,
        n: u32,
    ) -> Result<Result<Vec<Candidate>, InferenceError>> {
        let work = self.agency(1)?.environment.model().vocabulary as usize * TOP_UNITS;
        self.inferred(work, |agency| {
            let mut found = Vec::new();
            let mut look = |logits: &[f32]| found = agent::top(logits, n as usize);
            let looked = agency.sessions.get_mut(&session)?.logits(&mut look);
            Ok(looked.map(|()| found))
        })
    }

    fn logits(&mut self, session: Resource<SessionHandle>) -> Result<Result<Vec<f32>, InferenceError>> {
        let work = self.agency(1)?.environment.model().vocabulary as usize;
        self.inferred(work, |agency| {
            let mut all = Vec::new();
            let mut copy = |logits: &[f32]| all = logits.to_vec();
            let looked = agency.sessions.get_mut(&session)?.logits(&mut copy);
            Ok(looked.map(|()| all))
        })
    }

    fn tokens(&mut self, session: Resource<SessionHandle>) -> Result<Result<Vec<u32>, InferenceError>> {
        let bytes = self.agency(100)?.sessions.get(&session)?.length() * size_of::<u32>();
        self.inferred(bytes, |agency| Ok(agency.sessions.get(&session)?.tokens()))
    }

    fn append(
        &mut self,
        session: Resource<SessionHandle>,
        tokens: Vec<u32>,
    ) -> Result<Result<(), InferenceError>> {
        self.inferred(tokens.len(), |agency| Ok(agency.sessions.get_mut(&session)?.append_tokens(&tokens)))
    }
}
