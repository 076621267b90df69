//! Errors of profiles and manifests. Each names the file or the command-line argument, the place in it, and
//! what is allowed there.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::plugin::Kind;

/// A profile that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A file, the profile's own or one that a parameter refers to, can't be read.
    #[error("{path}: can't be read: {cause}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file is larger than a profile or a parameter may be.
    #[error("{path}: has {bytes} bytes, of which at most {limit} are allowed here", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The largest size in bytes.
        limit: u64,
    },
    /// A profile refers to a file outside of its folder.
    #[error("{path}: is not below {folder}, where the profile is: a profile may only use files there",
        path = path.display(), folder = Shown(folder))]
    Outside {
        /// The file.
        path: PathBuf,
        /// The folder of the profile.
        folder: PathBuf,
    },
    /// A name that is none, or too many plugins.
    #[error("{origin}: {message}")]
    Name {
        /// The file.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// A publisher whose key can't be used.
    #[error("{origin}: publishers.{name}: {message}")]
    Publisher {
        /// The file.
        origin: String,
        /// Name of the publisher.
        name: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A lock file that can't be used.
    #[error("{path}: {message}", path = path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A file that must be text is not UTF-8.
    #[error("{path}: is not UTF-8 text", path = path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Not TOML, an unknown field, or a value of the wrong type.
    #[error("{origin}:{line}: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A plugin entry that can't be resolved.
    #[error("{origin}: {kind} {position}: {message}")]
    Entry {
        /// The file, or `command line`.
        origin: String,
        /// In which list the entry stands.
        kind: Kind,
        /// Its place in the list, from 1.
        position: usize,
        /// What is wrong and what to do.
        message: String,
    },
    /// A `--sampler`, `--policy` or `--tool` argument that can't be read.
    #[error("`{argument}`: {message}")]
    Argument {
        /// The argument.
        argument: String,
        /// What is wrong and how it is written.
        message: String,
    },
    /// A plugin that an override names is not in the profile.
    #[error("profile `{profile}` has no {kind} named `{name}`: it has {known}")]
    NoSuchPlugin {
        /// Name of the profile.
        profile: String,
        /// Kind that was looked for.
        kind: Kind,
        /// Name that was looked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A profile digest was asked for with the wrong number of component digests.
    #[error("the profile has {plugins} plugins, {digests} component digests were given: give one for each")]
    DigestCount {
        /// Plugins of the profile.
        plugins: usize,
        /// Digests that were given.
        digests: usize,
    },
}

/// A folder; the current one has no name of its own.
struct Shown<'a>(&'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.as_os_str().is_empty() {
            f.write_str("the current folder")
        } else {
            self.0.display().fmt(f)
        }
    }
}

/// A `plugin.toml` that can't be used, or parameters that it does not allow.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file can't be read.
    #[error(transparent)]
    File(#[from] ProfileError),
    /// A field of the manifest has a value that it must not have.
    #[error("{origin}: {field}: {message}")]
    Field {
        /// The file.
        origin: String,
        /// The field, such as `parameters.top_k.default`.
        field: String,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// A parameter that the manifest does not know or whose value is out of range.
    #[error("plugin `{plugin}`: parameter `{parameter}`: {message}")]
    Parameter {
        /// Name of the plugin.
        plugin: String,
        /// Name of the parameter.
        parameter: String,
        /// What is wrong and what is allowed.
        message: String,
    },
}
