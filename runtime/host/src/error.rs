//! What can go wrong with plugins. Every error names the plugin, and the hook where there is one, and says
//! what to do.

use membrane_profile::Digest;
use thiserror::Error;

use crate::World;
use crate::grants::Grant;
use crate::limits::MAX_COMPONENT_BYTES;
use crate::plugin::Plugin;

/// Shorthand of this crate.
pub type Result<T, E = HostError> = std::result::Result<T, E>;

/// An error of the host or of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HostError {
    /// The engine can't be set up on this machine.
    #[error("the WebAssembly engine could not be started: {0}")]
    Engine(String),
    /// The file is too large.
    #[error("plugin `{plugin}`: the component has {bytes} bytes; the limit is {MAX_COMPONENT_BYTES}")]
    TooLarge {
        /// Name of the plugin.
        plugin: String,
        /// Size of the component.
        bytes: usize,
    },
    /// The file is not a component.
    #[error("plugin `{plugin}`: {cause}")]
    NotAComponent {
        /// Name of the plugin.
        plugin: String,
        /// What it is instead, or where it is malformed.
        cause: String,
    },
    /// The component was made for another version of the contract.
    #[error(
        "plugin `{plugin}`: `{name}` is of package version {found}; this host serves {served}. Build the \
             plugin with the SDK of this version"
    )]
    Version {
        /// Name of the plugin.
        plugin: String,
        /// The import or export.
        name: String,
        /// Its version.
        found: String,
        /// The version of this host.
        served: &'static str,
    },
    /// The component exports no world of the contract.
    #[error("plugin `{plugin}`: exports none of the interfaces {expected}; it is no Membrane plugin")]
    NoWorld {
        /// Name of the plugin.
        plugin: String,
        /// The interfaces that make a plugin.
        expected: String,
    },
    /// The component exports more than one world.
    #[error("plugin `{plugin}`: exports the interfaces of several worlds ({found}); a plugin is one of them")]
    SeveralWorlds {
        /// Name of the plugin.
        plugin: String,
        /// The worlds.
        found: String,
    },
    /// The component is used for something else than it was made for.
    #[error(
        "plugin `{plugin}`: is {}, and is used as {}; name it in a [[{found}]] entry",
        found.with_article(),
        wanted.with_article()
    )]
    WrongWorld {
        /// Name of the plugin.
        plugin: String,
        /// The world that it exports.
        found: World,
        /// The world that was asked for.
        wanted: World,
    },
    /// The component imports what was not granted.
    #[error(
        "plugin `{plugin}`: asks for the import `{import}`, which needs the grant `{grant}`: add \
             grants = [\"{grant}\"] to its profile entry if it may have it"
    )]
    NotGranted {
        /// Name of the plugin.
        plugin: String,
        /// Name of the import.
        import: String,
        /// The grant that is missing.
        grant: Grant,
    },
    /// The component imports what there is not.
    #[error(
        "plugin `{plugin}`: asks for the import `{import}`, which this host does not offer to {}",
        world.with_article()
    )]
    UnknownImport {
        /// Name of the plugin.
        plugin: String,
        /// Name of the import.
        import: String,
        /// The world of the plugin.
        world: World,
    },
    /// A grant that means nothing for the plugin's world.
    #[error(
        "plugin `{plugin}`: the grant `{grant}` is for {}, not {}; remove it",
        grant.world().with_article(),
        world.with_article()
    )]
    UselessGrant {
        /// Name of the plugin.
        plugin: String,
        /// The grant.
        grant: Grant,
        /// The world of the plugin.
        world: World,
    },
    /// A folder, variable or secret of a profile entry that can't be used.
    #[error("plugin `{plugin}`: {what}")]
    Authority {
        /// Name of the plugin.
        plugin: String,
        /// What can't be used, why, and what to do.
        what: String,
    },
    /// Parameters that are no JSON object.
    #[error("plugin `{plugin}`: its parameters are not a table: {found}")]
    Parameters {
        /// Name of the plugin.
        plugin: String,
        /// What they are.
        found: String,
    },
    /// The component is malformed, or does not fit the contract.
    #[error("plugin `{plugin}`: can't be compiled: {cause}")]
    Compile {
        /// Name of the plugin.
        plugin: String,
        /// The compiler's words.
        cause: String,
    },
    /// The component names this version of the contract, and has other functions or types in it.
    #[error(
        "plugin `{plugin}`: does not fit the contract {} of this host ({what}): it was built against another text of \
             that version. Build it with this version's wit/ or SDK",
        crate::CONTRACT
    )]
    Mismatch {
        /// Name of the plugin.
        plugin: String,
        /// The interfaces and functions that differ.
        what: String,
    },
    /// It can't have a process of its own.
    #[error("plugin `{plugin}`: can't run in a process of its own: {cause}")]
    Isolation {
        /// Name of the plugin.
        plugin: String,
        /// Why.
        cause: String,
    },
    /// A component's file can't be used.
    #[error("plugin `{plugin}`: {path}: {cause}")]
    Unreadable {
        /// Name of the plugin.
        plugin: String,
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The component is not the one that the profile pins.
    #[error(
        "plugin `{plugin}` ({location}) has the digest {found}, but the profile pins {pinned}; if the change is \
             meant, put the new digest into the profile"
    )]
    Pinned {
        /// Name of the plugin.
        plugin: String,
        /// Where it is from.
        location: String,
        /// Its digest.
        found: Digest,
        /// The digest that it should have.
        pinned: Digest,
    },
    /// Nothing in the profile says whose component it takes.
    #[error(
        "plugin `{plugin}` ({location}): the profile does not say whose it is; add to its entry \
             digest = \"{found}\" for these bytes, publisher = \"NAME\" for one of [publishers] who signs it, or \
             unsigned = true for whatever the file holds"
    )]
    Untrusted {
        /// Name of the plugin.
        plugin: String,
        /// Where it is from.
        location: String,
        /// Its digest.
        found: Digest,
    },
    /// The component has no signature that its profile entry asks for.
    #[error("plugin `{plugin}`: must be signed by {publisher}, and the signature {path} {cause}")]
    Signature {
        /// Name of the plugin.
        plugin: String,
        /// Name and fingerprint of the publisher.
        publisher: String,
        /// The signature file.
        path: String,
        /// What is wrong.
        cause: String,
    },
    /// A plugin failed in a hook.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The chain of samplers is empty or none of it chose a token.
    #[error("no sampler chose a token ({asked}); end the chain with one that chooses, such as `greedy`")]
    NoChoice {
        /// Names of the samplers.
        asked: String,
    },
    /// The model's logits can't be sampled from.
    #[error("the model's logits can't be sampled from: {0}")]
    Logits(String),
    /// Two tools have the same name.
    #[error("plugins `{first}` and `{second}` both offer a tool `{tool}`; leave one of them out")]
    DuplicateTool {
        /// The tool.
        tool: String,
        /// The plugin that was first.
        first: String,
        /// The other.
        second: String,
    },
    /// A first-party plugin that there is not.
    #[error("there is no first-party plugin `{name}`; there are: {known}. A file is given as ./{name}.wasm")]
    NoFirstParty {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
}

/// The failure of a plugin in a hook.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("plugin `{plugin}`: {hook} {cause}")]
pub struct Failure {
    /// Name of the plugin.
    pub plugin: String,
    /// The hook, as the contract names it, or `start`.
    pub hook: &'static str,
    /// Why.
    pub cause: Cause,
}

/// Why a plugin failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// It used up its fuel.
    #[error("ran out of fuel ({units} units a call: limits.fuel_per_call in its profile entry)")]
    Fuel {
        /// The limit.
        units: u64,
    },
    /// It took too long.
    #[error("took longer than its limit of {ms} ms (limits.wall_ms in its profile entry)")]
    Wall {
        /// The limit in milliseconds.
        ms: u64,
    },
    /// It asked for more memory than it may have.
    #[error("asked for more memory than its limit of {} MiB", bytes >> 20)]
    Memory {
        /// The limit.
        bytes: usize,
    },
    /// It used up its stack.
    #[error("recursed too deep")]
    Recursion,
    /// It handed over more than the host takes.
    #[error("handed over more than {} MiB", bytes >> 20)]
    Transfer {
        /// The limit.
        bytes: usize,
    },
    /// It trapped.
    #[error("trapped: {0}")]
    Trapped(String),
    /// The process that it ran in is gone.
    #[error("failed: {0}")]
    Process(String),
    /// It needs the model as a judge, and can't have it.
    #[error("asked the model to judge, which can't be done: {0}")]
    Unjudged(String),
    /// It returned an error.
    #[error("failed: {0}")]
    Reported(String),
    /// It returned something that the contract does not allow.
    #[error("broke the contract: {0}")]
    Broke(String),
}

/// The error of a plugin that is used for another world than its own.
pub(crate) fn wrong_world(plugin: &Plugin, wanted: World) -> HostError {
    HostError::WrongWorld { plugin: plugin.name().to_owned(), found: plugin.world(), wanted }
}
