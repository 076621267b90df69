//! What plugins may import: one file for each interface of the contract.

mod all_logits;
mod clock;
mod environment;
mod files;
mod history;
mod http;
mod inference;
mod log;
mod logits;
mod output;
mod random;
mod raw_decoding;
mod store;
mod tools;
mod vocabulary;

use wasmtime::component::{HasSelf, Linker};

use crate::World;
use crate::bindings::{
    agent::membrane::plugin as agent, sampler::membrane::plugin as sampler, tool::membrane::plugin as tool,
};
use crate::grants::Grant;
use crate::state::State;

impl sampler::types::Host for State {}

/// Adds what a plugin of a world may import, with these grants, and no more.
pub fn offer(linker: &mut Linker<State>, world: World, grants: &[Grant]) -> wasmtime::Result<()> {
    type Own = HasSelf<State>;
    sampler::types::add_to_linker::<State, Own>(linker, |state| state)?;
    sampler::log::add_to_linker::<State, Own>(linker, |state| state)?;
    if world == World::Sampler {
        sampler::logits::add_to_linker::<State, Own>(linker, |state| state)?;
        sampler::history::add_to_linker::<State, Own>(linker, |state| state)?;
        sampler::vocabulary::add_to_linker::<State, Own>(linker, |state| state)?;
        sampler::random::add_to_linker::<State, Own>(linker, |state| state)?;
    }
    if world == World::Agent {
        agent::inference::add_to_linker::<State, Own>(linker, |state| state)?;
        agent::tools::add_to_linker::<State, Own>(linker, |state| state)?;
        agent::output::add_to_linker::<State, Own>(linker, |state| state)?;
        sampler::vocabulary::add_to_linker::<State, Own>(linker, |state| state)?;
        sampler::random::add_to_linker::<State, Own>(linker, |state| state)?;
    }
    for grant in grants {
        match grant {
            Grant::RawDecoding => agent::raw_decoding::add_to_linker::<State, Own>(linker, |state| state)?,
            Grant::Store => agent::store::add_to_linker::<State, Own>(linker, |state| state)?,
            Grant::AllLogits => sampler::all_logits::add_to_linker::<State, Own>(linker, |state| state)?,
            Grant::Clock => tool::clock::add_to_linker::<State, Own>(linker, |state| state)?,
            Grant::Files => tool::files::add_to_linker::<State, Own>(linker, |state| state)?,
            Grant::Http => tool::http::add_to_linker::<State, Own>(linker, |state| state)?,
            Grant::Environment => tool::environment::add_to_linker::<State, Own>(linker, |state| state)?,
            Grant::PromptTokens | Grant::ForceText | Grant::SystemPrompt => {}
        }
    }
    Ok(())
}
