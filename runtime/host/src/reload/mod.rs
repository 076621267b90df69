//! Plugins that are replaced in the middle of an answer, at a token boundary.
//!
//! - A **sampler** takes the place of the version of the same name, with its state if both keep one. The chain before
//!   stays beside it: where the new one fails, it makes the very token and those after it.
//! - A **policy** joins: it is walked through the answer so far, then stands behind the others, which stay in force to
//!   the end of the answer. So nothing passes that either version would have withheld, and a policy that was removed
//!   does not end before the answer does.
//! - A **tool** is replaced between two calls if it describes its tools as before; one that was removed is gone at once.
//!
//! What can't be done within the answer waits for the next one.

mod policies;
mod samplers;
mod tools;

pub use policies::Joining;
pub(crate) use policies::Seen;
pub use samplers::Reverted;

use membrane_profile::Digest;

use crate::World;
use crate::plugin::Plugin;

/// What became of one plugin when the behaviour of an answer was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// The world of the plugin.
    pub world: World,
    /// Its name.
    pub plugin: String,
    /// Digest of the version before; none if it is new.
    pub from: Option<Digest>,
    /// Digest of the version after; none if it was removed.
    pub to: Option<Digest>,
    /// From when on.
    pub effect: Effect,
}

/// From when on a change is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// From the next token or call on.
    Live {
        /// It goes on from the state of the version before.
        state: bool,
    },
    /// From the next text, call or result on, beside the version before, which stays to the end of the answer.
    Beside,
    /// From the next answer on; in this one what was in force stays so.
    NextAnswer {
        /// Why not now.
        why: String,
    },
    /// It failed, and the version before is in force again.
    RolledBack {
        /// The failure.
        why: String,
    },
}

impl Swap {
    /// The change of a plugin between two lists; at least one of them has it.
    pub(crate) fn between(before: Option<&Plugin>, after: Option<&Plugin>, effect: Effect) -> Option<Self> {
        let any = after.or(before)?;
        Some(Self {
            world: any.world(),
            plugin: any.name().to_owned(),
            from: before.map(Plugin::digest),
            to: after.map(Plugin::digest),
            effect,
        })
    }
}

/// The plugin of this name in a list.
pub(crate) fn named<'p>(plugins: &'p [Plugin], name: &str) -> Option<&'p Plugin> {
    plugins.iter().find(|plugin| plugin.name() == name)
}

/// Plugins of `before` whose names `after` has not.
pub(crate) fn removed<'p>(before: &'p [Plugin], after: &'p [Plugin]) -> impl Iterator<Item = &'p Plugin> {
    before.iter().filter(|plugin| named(after, plugin.name()).is_none())
}

/// Plugins of `after` that are not in `before` as they are, each with the one of the same name.
pub(crate) fn changed<'p>(
    before: &'p [Plugin],
    after: &'p [Plugin],
) -> impl Iterator<Item = (Option<&'p Plugin>, &'p Plugin)> {
    let new = after.iter().filter(|plugin| !before.iter().any(|old| old.same(plugin)));
    new.map(|plugin| (named(before, plugin.name()), plugin))
}

/// The changes between two lists of plugins, where all have the same effect.
pub fn swaps(before: &[Plugin], after: &[Plugin], effect: &Effect) -> Vec<Swap> {
    let new = changed(before, after).map(|(old, new)| Swap::between(old, Some(new), effect.clone()));
    let gone = removed(before, after).map(|old| Swap::between(Some(old), None, effect.clone()));
    new.chain(gone).flatten().collect()
}
