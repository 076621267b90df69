//! What a user writes to say how a model behaves: profiles, plugin manifests, digests and sizes. Pure data:
//! this crate opens the files that it is asked to read and nothing else, and knows neither the engine nor
//! wasm.
//!
//! - [`Profile`]: the samplers, policies and tools of an answer, from a TOML file and the command line.
//! - [`Authority`]: the folders, hosts, environment variables and secrets that a plugin may use.
//! - [`Manifest`]: what a plugin says about itself in its `plugin.toml`.
//! - [`Lock`]: what a profile resolved to when it was approved, and how it differs from now.
//! - [`signature`]: signatures of plugins, and the keys of those who publish them.
//! - [`Digest`] and [`ProfileDigest`]: what pins a component, and what names a whole behaviour.
//! - [`ByteSize`]: sizes as people write them, such as `768MiB`.
#![forbid(unsafe_code)]

mod argument;
mod asks;
mod authority;
mod bytes;
mod canonical;
mod digest;
mod error;
mod lock;
mod manifest;
mod plugin;
mod profile;
mod publisher;
mod read;
pub mod signature;
mod web;

pub use argument::PluginArgument;
pub use asks::{AskedFolder, AskedSecret, Asks};
pub use authority::{Authority, FolderGrant, HostGrant, SecretGrant, SecretSource, is_framing};
pub use bytes::{ByteSize, ByteSizeError};
pub use digest::{Digest, DigestError, Digester, ProfileDigest};
pub use error::{ManifestError, ProfileError};
pub use lock::{Difference, Lock, LockedFile, LockedLimits, LockedModel, LockedPlugin, LockedPublisher};
pub use manifest::{Manifest, Parameter, ParameterType};
pub use plugin::{Isolation, Kind, LimitsSpec, Location, Origin, ResolvedPlugin};
pub use profile::{Generation, Profile};
pub use publisher::Publisher;
pub use web::{WebHost, WebOrigin, WebOriginError};
