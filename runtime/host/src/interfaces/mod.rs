//! What plugins may import: one file for each interface of the contract.

mod all_logits;
mod clock;
mod environment;
mod files;
mod history;
mod http;
mod inference;
mod judge;
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
    agent::membrane::plugin as agent, policy::membrane::plugin as policy,
    sampler::membrane::plugin as sampler, tool::membrane::plugin as tool,
};
use crate::grants::Grant;
use crate::state::State;

impl sampler::types::Host for State {}

/// Something that serves all interfaces: the host itself, or what asks it from another process.
pub(crate) trait Interfaces:
    sampler::types::Host
    + sampler::log::Host
    + sampler::logits::Host
    + sampler::history::Host
    + sampler::vocabulary::Host
    + sampler::random::Host
    + sampler::all_logits::Host
    + policy::judge::Host
    + tool::clock::Host
    + tool::files::Host
    + tool::http::Host
    + tool::environment::Host
    + agent::inference::Host
    + agent::tools::Host
    + agent::output::Host
    + agent::raw_decoding::Host
    + agent::store::Host
    + Send
    + 'static
{
}

impl<T> Interfaces for T where
    T: sampler::types::Host
        + sampler::log::Host
        + sampler::logits::Host
        + sampler::history::Host
        + sampler::vocabulary::Host
        + sampler::random::Host
        + sampler::all_logits::Host
        + policy::judge::Host
        + tool::clock::Host
        + tool::files::Host
        + tool::http::Host
        + tool::environment::Host
        + agent::inference::Host
        + agent::tools::Host
        + agent::output::Host
        + agent::raw_decoding::Host
        + agent::store::Host
        + Send
        + 'static
{
}

/// The interfaces that every plugin of a world may import.
pub(crate) fn common(world: World) -> &'static [&'static str] {
    match world {
        World::Sampler => &["types", "log", "logits", "history", "vocabulary", "random"],
        World::Policy | World::Tool => &["types", "log"],
        World::Agent => &["types", "log", "inference", "vocabulary", "random", "tools", "output"],
    }
}

/// Whether a plugin of a world may import an interface with these grants.
pub(crate) fn is_offered<'g>(
    interface: &str,
    world: World,
    grants: impl IntoIterator<Item = &'g Grant>,
) -> bool {
    common(world).contains(&interface)
        || grants.into_iter().any(|grant| grant.interface() == Some(interface) && grant.world() == world)
}

/// Adds what a plugin of a world may import, with these grants, and no more.
pub(crate) fn offer<'g, T: Interfaces>(
    linker: &mut Linker<T>,
    world: World,
    grants: impl IntoIterator<Item = &'g Grant>,
) -> wasmtime::Result<()> {
    sampler::types::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
    sampler::log::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
    if world == World::Sampler {
        sampler::logits::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
        sampler::history::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
        sampler::vocabulary::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
        sampler::random::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
    }
    if world == World::Agent {
        agent::inference::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
        agent::tools::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
        agent::output::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
        sampler::vocabulary::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
        sampler::random::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?;
    }
    for grant in grants {
        match grant {
            Grant::RawDecoding => agent::raw_decoding::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?,
            Grant::Store => agent::store::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?,
            Grant::Judge => policy::judge::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?,
            Grant::AllLogits => sampler::all_logits::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?,
            Grant::Clock => tool::clock::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?,
            Grant::Files => tool::files::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?,
            Grant::Http => tool::http::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?,
            Grant::Environment => tool::environment::add_to_linker::<T, HasSelf<T>>(linker, |state| state)?,
            Grant::PromptTokens | Grant::ForceText | Grant::SystemPrompt => {}
        }
    }
    Ok(())
}
