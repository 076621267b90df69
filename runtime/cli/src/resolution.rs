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
        refuse(&lock.differences(&self.lock()?), path)?;
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
    if differences.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = differences.iter().map(|difference| format!("\n  {difference}")).collect();
    let (shown, lock) = (path.display(), Lock::path_of(path));
    let approve = if differences.iter().any(|difference| difference.widens) { " --approve" } else { "" };
    bail!(
        "{shown} is not as its lock {} approved it:{}\nIf that is meant, approve it with \
         `membrane profile lock {shown}{approve}`",
        lock.display(),
        lines.concat()
    )
}
