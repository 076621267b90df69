//! Lock files: what a profile resolved to when somebody approved it, and what has become of that since.
//!
//! `strict.toml` has its lock in `strict.lock`, a profile with another ending in its whole name and `.lock`. A lock adds
//! nothing to what a profile may do; a run refuses what differs from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bytes::ByteSize;
use crate::canonical;
use crate::digest::Digest;
use crate::error::ProfileError;
use crate::plugin::{Isolation, Kind, ResolvedPlugin};
use crate::profile::Generation;
use crate::read;
use crate::signature::Fingerprint;

/// The form of lock files that this crate reads and writes.
const VERSION: u32 = 1;
const EXTENSION: &str = "lock";
/// The ending of profiles that the one of locks takes the place of.
const PROFILE: &str = "toml";
const HEAD: &str = "\
# Written by `membrane profile lock`: what the profile beside it may be. A run refuses what differs.
# To approve a change, run that again.

";

/// What a lock file pins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// Settings of the decode loop.
    #[serde(default)]
    pub generation: Generation,
    /// The model, if the lock pins one.
    pub model: Option<LockedModel>,
    /// The plugins: samplers, policies, tools, each in their order.
    #[serde(default, rename = "plugin")]
    pub plugins: Vec<LockedPlugin>,
}

/// A model by its digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedModel {
    /// Of what the tokenizer is made from; none if the model has none.
    pub tokenizer: Option<Digest>,
    /// Of the chat template's text; none if the model has none.
    pub chat_template: Option<Digest>,
    /// Its files, in their order.
    #[serde(rename = "file")]
    pub files: Vec<LockedFile>,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Its name, for people: it may lie anywhere and be called otherwise.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Of the whole file.
    pub digest: Digest,
}

/// A plugin as it was approved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPlugin {
    /// The world that it is used for.
    pub kind: Kind,
    /// Its name in the profile.
    pub name: String,
    /// Of the component.
    pub digest: Digest,
    /// Who must have signed it.
    pub publisher: Option<LockedPublisher>,
    /// Names of the interfaces that it imports.
    #[serde(default)]
    pub imports: BTreeSet<String>,
    /// Names of its grants.
    #[serde(default)]
    pub grants: BTreeSet<String>,
    /// What it finds behind grants that have values: [`crate::Authority::lines`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub authority: BTreeSet<String>,
    /// Where its instances run.
    #[serde(default = "in_the_host")]
    pub isolation: Isolation,
    /// Limits of an instance, the host's own where the profile says nothing.
    pub limits: LockedLimits,
    /// Digests of the parameters, as canonical JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Digest>,
}

/// Where plugins of locks run that were written before plugins could run elsewhere.
fn in_the_host() -> Isolation {
    Isolation::None
}

/// A publisher as it was approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPublisher {
    /// The profile's name for them.
    pub name: String,
    /// Fingerprint of their key.
    pub fingerprint: Fingerprint,
}

/// Limits of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedLimits {
    /// Units of fuel of one call.
    pub fuel_per_call: u64,
    /// Linear memory.
    pub memory: ByteSize,
    /// Milliseconds by the clock of one call; tools only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
}

/// One thing that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `model`, `generation`, `profile`, or a plugin, such as `policy guard`.
    pub about: String,
    /// What differs there, such as `digest`, `grants` or `parameters.rules`.
    pub what: String,
    /// As it was; none if it was not there.
    pub from: Option<String>,
    /// As it is; none if it is not there any more.
    pub to: Option<String>,
    /// Something may do more than before, or is watched by less.
    pub widens: bool,
}

impl Lock {
    /// A lock of plugins, and of a model if there is one.
    pub fn new(generation: Generation, plugins: Vec<LockedPlugin>, model: Option<LockedModel>) -> Self {
        Self { version: VERSION, generation, model, plugins }
    }

    /// Where the lock of a profile is.
    pub fn path_of(profile: &Path) -> PathBuf {
        if profile.extension().is_some_and(|extension| extension == PROFILE) {
            return profile.with_extension(EXTENSION);
        }
        let mut path = profile.as_os_str().to_owned();
        path.push(".");
        path.push(EXTENSION);
        path.into()
    }

    /// Reads the lock of a profile, if it has one.
    ///
    /// # Errors
    /// The file is there and can't be read, has an unknown field or version, or names a plugin twice.
    pub fn read_beside(profile: &Path) -> Result<Option<Self>, ProfileError> {
        let path = Self::path_of(profile);
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::once_called(profile, &path),
            _ => Self::parse(&read::text(&path)?, &path).map(Some),
        }
    }

    /// Refuses to take a profile for one without a lock whose lock has the name that earlier versions gave it.
    fn once_called(profile: &Path, path: &Path) -> Result<Option<Self>, ProfileError> {
        let earlier = profile.with_extension(EXTENSION);
        // That of another profile has the name that it must have.
        if earlier == *path
            || !earlier.exists()
            || profile.with_extension(PROFILE).is_file()
            || profile.with_extension("").is_file()
            || earlier == *profile
        {
            return Ok(None);
        }
        let message = format!(
            "would be the lock of {} in earlier versions, and is now {}: rename it, or move it aside",
            profile.display(),
            path.display()
        );
        Err(ProfileError::Lock { path: earlier, message })
    }

    /// Parses the text of a lock; `path` names it in errors.
    ///
    /// # Errors
    /// As for [`Lock::read_beside`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ProfileError> {
        let lock: Lock = read::toml(&path.display().to_string(), text)?;
        let error = |message: String| ProfileError::Lock { path: path.to_owned(), message };
        if lock.version != VERSION {
            return Err(error(format!(
                "is a lock of version {}; this program reads version {VERSION}: write it anew with `membrane profile lock \
                 PROFILE --approve`, and --model MODEL if it is to pin one",
                lock.version
            )));
        }
        let mut names = BTreeSet::new();
        if let Some(plugin) = lock.plugins.iter().find(|plugin| !names.insert(&plugin.name)) {
            return Err(error(format!("has the plugin `{}` twice", plugin.name)));
        }
        if lock.model.as_ref().is_some_and(|model| model.files.is_empty()) {
            return Err(error("pins a model without files".to_owned()));
        }
        Ok(lock)
    }

    /// The text of the lock file.
    ///
    /// # Errors
    /// A number that TOML can't hold.
    pub fn to_toml(&self, path: &Path) -> Result<String, ProfileError> {
        let error = |cause: toml::ser::Error| ProfileError::Lock {
            path: path.to_owned(),
            message: format!("can't be written: {cause}"),
        };
        Ok(format!("{HEAD}{}", toml::to_string(self).map_err(error)?))
    }

    /// What differs in `now`, the model left out: models are compared by [`LockedModel::differences`].
    pub fn differences(&self, now: &Lock) -> Vec<Difference> {
        let mut found = Vec::new();
        self.generation.differences(&now.generation, &mut found);
        let find = |plugins: &[LockedPlugin], wanted: &LockedPlugin| {
            plugins.iter().find(|plugin| plugin.is(wanted)).cloned()
        };
        for plugin in &now.plugins {
            match find(&self.plugins, plugin) {
                Some(before) => before.differences(plugin, &mut found),
                None => found.push(plugin.difference("plugin", None, Some(plugin.digest.to_string()), true)),
            }
        }
        for gone in self.plugins.iter().filter(|plugin| find(&now.plugins, plugin).is_none()) {
            // A policy that is gone watches no more; without another plugin there is less to watch.
            let widens = gone.kind == Kind::Policy;
            found.push(gone.difference("plugin", Some(gone.digest.to_string()), None, widens));
        }
        for kind in [Kind::Sampler, Kind::Policy, Kind::Tool, Kind::Agent] {
            let (before, after) = (order(self, now, kind), order(now, self, kind));
            if before != after {
                let (from, to) = (Some(before.join(", ")), Some(after.join(", ")));
                let what = format!("order of each {kind}");
                found.push(Difference { about: "profile".to_owned(), what, from, to, widens: false });
            }
        }
        found
    }
}

/// The names of a kind that both have, in the order of the first.
fn order(of: &Lock, and: &Lock, kind: Kind) -> Vec<String> {
    let both =
        |plugin: &&LockedPlugin| plugin.kind == kind && and.plugins.iter().any(|other| other.is(plugin));
    of.plugins.iter().filter(both).map(|plugin| plugin.name.clone()).collect()
}

impl LockedPlugin {
    /// A plugin as it is now. `imports`: names of the interfaces that its component imports.
    pub fn new(plugin: &ResolvedPlugin, digest: Digest, imports: &[String], limits: LockedLimits) -> Self {
        let publisher = plugin.publisher.as_ref();
        let parameters = plugin.parameters.iter();
        Self {
            kind: plugin.kind,
            name: plugin.name.clone(),
            digest,
            publisher: publisher
                .map(|p| LockedPublisher { name: p.name.clone(), fingerprint: p.fingerprint }),
            imports: imports.iter().cloned().collect(),
            grants: plugin.grants.iter().cloned().collect(),
            authority: plugin.authority.lines(),
            limits,
            isolation: plugin.isolation(),
            parameters: parameters
                .map(|(name, value)| (name.clone(), Digest::of(canonical::text(value).as_bytes())))
                .collect(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        (self.kind, &self.name) == (other.kind, &other.name)
    }

    fn difference(&self, what: &str, from: Option<String>, to: Option<String>, widens: bool) -> Difference {
        Difference { about: format!("{} {}", self.kind, self.name), what: what.to_owned(), from, to, widens }
    }

    fn differences(&self, now: &Self, found: &mut Vec<Difference>) {
        if self.digest != now.digest {
            let (from, to) = (Some(self.digest.to_string()), Some(now.digest.to_string()));
            found.push(self.difference("digest", from, to, false));
        }
        if self.publisher.as_ref().map(|p| p.fingerprint) != now.publisher.as_ref().map(|p| p.fingerprint) {
            let shown = |publisher: &Option<LockedPublisher>| publisher.as_ref().map(ToString::to_string);
            let widens = self.publisher.is_some();
            found.push(self.difference("publisher", shown(&self.publisher), shown(&now.publisher), widens));
        }
        for (what, before, after) in [
            ("imports", &self.imports, &now.imports),
            ("grants", &self.grants, &now.grants),
            ("authority", &self.authority, &now.authority),
        ] {
            let added = after.difference(before).map(|name| (None, Some(name.clone()), true));
            let removed = before.difference(after).map(|name| (Some(name.clone()), None, false));
            found.extend(
                added.chain(removed).map(|(from, to, widens)| self.difference(what, from, to, widens)),
            );
        }
        let (before, after) = (self.limits, now.limits);
        for (what, before, after) in [
            ("limits.fuel_per_call", before.fuel_per_call, after.fuel_per_call),
            ("limits.memory", before.memory.bytes(), after.memory.bytes()),
        ] {
            if before != after {
                let shown = |number: u64| Some(number.to_string());
                found.push(self.difference(what, shown(before), shown(after), after > before));
            }
        }
        if before.wall_ms != after.wall_ms {
            let shown = |wall: Option<u64>| wall.map(|wall| wall.to_string());
            // Without a limit it may take any time.
            let widens =
                before.wall_ms.is_some_and(|before| after.wall_ms.is_none_or(|after| after > before));
            found.push(self.difference(
                "limits.wall_ms",
                shown(before.wall_ms),
                shown(after.wall_ms),
                widens,
            ));
        }
        // What is held more than was approved may run.
        if now.isolation < self.isolation {
            let shown = |isolation: Isolation| Some(isolation.to_string());
            found.push(self.difference("isolation", shown(self.isolation), shown(now.isolation), true));
        }
        let names: BTreeSet<&String> = self.parameters.keys().chain(now.parameters.keys()).collect();
        for name in names {
            let digest = |plugin: &Self| plugin.parameters.get(name).map(Digest::to_string);
            let (from, to) = (digest(self), digest(now));
            if from != to {
                found.push(self.difference(&format!("parameters.{name}"), from, to, false));
            }
        }
    }
}

impl Generation {
    fn differences(&self, now: &Self, found: &mut Vec<Difference>) {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        for (what, from, to) in [
            ("max_tokens", self.max_tokens.map(u64::from), now.max_tokens.map(u64::from)),
            ("seed", self.seed, now.seed),
            ("context", self.context.map(u64::from), now.context.map(u64::from)),
        ] {
            if from != to {
                let (about, what) = ("generation".to_owned(), what.to_owned());
                found.push(Difference { about, what, from: number(from), to: number(to), widens: false });
            }
        }
    }
}

impl LockedFile {
    /// The last part of its name: locks of before had no more.
    fn last_name(&self) -> String {
        Path::new(&self.name).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// Whether it is told what it is for by its name.
    fn is_document(&self) -> bool {
        let ending = Path::new(&self.name).extension();
        ending.is_some_and(|ending| ["json", "jinja", "txt", "model"].iter().any(|known| ending == *known))
    }
}

impl LockedModel {
    /// What differs in `now`. Weights that were renamed or moved don't; a document of a folder is what its name says.
    pub fn differences(&self, now: &LockedModel) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut add = |what: String, from: Option<String>, to: Option<String>| {
            if from != to {
                found.push(Difference { about: "model".to_owned(), what, from, to, widens: false });
            }
        };
        let shown = |digest: &Option<Digest>| digest.as_ref().map(Digest::to_string);
        add("tokenizer".to_owned(), shown(&self.tokenizer), shown(&now.tokenizer));
        add("chat template".to_owned(), shown(&self.chat_template), shown(&now.chat_template));
        let digest = |file: Option<&LockedFile>| file.map(|file| file.digest.to_string());
        for index in 0..self.files.len().max(now.files.len()) {
            let (from, to) = (self.files.get(index), now.files.get(index));
            let name = to.or(from).map_or("", |file| file.name.as_str());
            add(format!("file {name}"), digest(from), digest(to));
            if let (Some(from), Some(to)) = (from, to)
                && (from.is_document() || to.is_document())
            {
                add(format!("name of file {index}"), Some(from.last_name()), Some(to.last_name()));
            }
        }
        found
    }
}

impl fmt::Display for LockedPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.fingerprint)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ", self.about, self.what)?;
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{from} -> {to}")?,
            (None, Some(to)) => write!(f, "added: {to}")?,
            (Some(from), None) => write!(f, "removed: {from}")?,
            (None, None) => f.write_str("differs")?,
        }
        if self.widens { f.write_str(" (may do more)") } else { Ok(()) }
    }
}
