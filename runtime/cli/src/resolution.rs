//! A profile with the components that it names: what a run and the profile verbs start from.

use std::path::Path;

use anyhow::{Context, Result, bail};
use membrane_host::{Component, Description, Grant, Limits};
use membrane_profile::{
    ByteSize, Difference, Digest, Lock, LockedLimits, LockedPlugin, Profile, ProfileDigest, ResolvedPlugin,
};

/// A profile, and the component of each of its plugins in their order.
pub struct Resolution {
    /// The profile.
    pub profile: Profile,
    /// The components, and what they say of themselves.
    pub components: Vec<(Component, Description)>,
}

impl Resolution {
    /// Reads the components. Errors: one that can't be read or is not the one that the profile means.
    pub fn of(profile: Profile) -> Result<Self> {
        let components = profile.plugins().map(component).collect::<Result<_>>()?;
        Ok(Self { profile, components })
    }

    /// Plugins with their components.
    pub fn plugins(&self) -> impl Iterator<Item = (&ResolvedPlugin, &Component, &Description)> {
        self.profile
            .plugins()
            .zip(&self.components)
            .map(|(plugin, (c, description))| (plugin, c, description))
    }

    /// What names the behaviour.
    pub fn digest(&self) -> Result<ProfileDigest> {
        let digests: Vec<Digest> = self.components.iter().map(|(component, _)| component.digest).collect();
        Ok(ProfileDigest::of(&self.profile, &digests)?)
    }

    /// A lock of what the profile is now, without a model. Errors: a grant that there is not.
    pub fn lock(&self) -> Result<Lock> {
        let lock = |(plugin, component, description): (&ResolvedPlugin, &Component, &Description)| {
            grants(plugin)?;
            let limits = limits(plugin, None);
            let limits = LockedLimits {
                fuel_per_call: limits.fuel_per_call,
                memory: ByteSize(limits.memory_bytes as u64),
                wall_ms: limits.wall_ms,
            };
            Ok(LockedPlugin::new(plugin, component.digest, &description.import_names(), limits))
        };
        let plugins = self.plugins().map(lock).collect::<Result<_>>()?;
        Ok(Lock::new(self.profile.generation, plugins, None))
    }

    /// Refuses a profile that is not as its lock approved it. Gives the lock, if there is one.
    pub fn check_lock(&self, path: &Path) -> Result<Option<Lock>> {
        let Some(lock) = Lock::read_beside(path)? else { return Ok(None) };
        let differences = lock.differences(&self.lock()?);
        if !differences.is_empty() {
            // What the profile has of itself is for its lock; what was given beside it is not.
            let own = Self::of(Profile::read(path)?).and_then(|own| own.lock());
            let own = own.map_or_else(|_| differences.clone(), |own| lock.differences(&own));
            let (own, given) = differences.into_iter().partition::<Vec<_>, _>(|found| own.contains(found));
            refuse_given(&own, &given, path)?;
        }
        Ok(Some(lock))
    }
}

/// The component of one plugin, with what it says of itself.
pub fn component(plugin: &ResolvedPlugin) -> Result<(Component, Description)> {
    let component = Component::of(plugin)?;
    let description = Description::of(&plugin.name, &component.bytes)?;
    Ok((component, description))
}

/// The grants of a plugin. Errors: a name that is none.
pub fn grants(plugin: &ResolvedPlugin) -> Result<std::collections::BTreeSet<Grant>> {
    Grant::parse_all(&plugin.grants).with_context(|| format!("plugin `{}`", plugin.name))
}

/// The limits of a plugin. `most`: bytes that an instance may take where its entry does not say.
pub fn limits(resolved: &ResolvedPlugin, most: Option<usize>) -> Limits {
    let mut limits = Limits::of(resolved.kind);
    if let Some(most) = most {
        limits.memory_bytes = limits.memory_bytes.min(most);
    }
    if let Some(fuel) = resolved.limits.fuel_per_call {
        limits.fuel_per_call = fuel;
    }
    if let Some(memory) = resolved.limits.memory {
        limits.memory_bytes = usize::try_from(memory.bytes()).unwrap_or(usize::MAX);
    }
    if let Some(wall) = resolved.limits.wall_ms {
        limits.wall_ms = Some(wall);
    }
    limits
}

/// Refuses what differs from the lock of the profile at `path`.
pub fn refuse(differences: &[Difference], path: &Path) -> Result<()> {
    refuse_given(differences, &[], path)
}

/// The same, with what differs since it was given on the command line, which no lock approves.
fn refuse_given(own: &[Difference], given: &[Difference], path: &Path) -> Result<()> {
    if own.is_empty() && given.is_empty() {
        return Ok(());
    }
    let command = |differences: &[Difference]| {
        let approve = if differences.iter().any(|difference| difference.widens) { " --approve" } else { "" };
        format!("`membrane profile lock {}{approve}`", path.display())
    };
    let mut advice = String::new();
    if !own.is_empty() {
        advice += &format!("\nIf that is meant, approve it with {}", command(own));
    }
    if !given.is_empty() {
        advice += &format!(
            "\nWhat comes from the command line can't be approved: leave it out there, or put it into {} and run {}",
            path.display(),
            command(given)
        );
    }
    let lines = own.iter().map(ToString::to_string);
    let given = given.iter().map(|difference| format!("{difference}, from the command line"));
    bail!("{}{advice}", differing(path, lines.chain(given)))
}

/// Refuses a model, the one at `model`, that differs from what the lock of the profile at `path` pins.
pub fn refuse_model(differences: &[Difference], path: &Path, model: &Path) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    let (shown, model) = (path.display(), model.display());
    bail!(
        "{}\nIf another model is meant, pin it with `membrane profile lock {shown} --model {model}`",
        differing(path, differences.iter().map(ToString::to_string))
    )
}

/// What differs, a line each.
fn differing(path: &Path, lines: impl Iterator<Item = String>) -> String {
    let lines: String = lines.map(|line| format!("\n  {line}")).collect();
    format!("{} is not as its lock {} approved it:{lines}", path.display(), Lock::path_of(path).display())
}
