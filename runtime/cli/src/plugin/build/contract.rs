//! The world of a plugin, with the imports that its manifest grants.
//!
//! Generators for languages with an interpreter import everything that a world lists, used or not, and the host
//! refuses a component that imports what it was not granted.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use membrane_host::Grant;
use wit_bindgen_core::wit_parser::{Resolve, WorldId, WorldItem, WorldKey};
use wit_component::WitPrinter;

use crate::plugin::package::Package;

/// The contract in the plugin's folder `wit`, and the plugin's world without what is not granted.
pub fn granted(package: &Package) -> Result<(Resolve, WorldId)> {
    let wit = package.folder.join("wit");
    let mut resolve = Resolve::default();
    let (contract, _) = resolve.push_dir(&wit).with_context(|| format!("{}: the contract", wit.display()))?;
    let world = resolve.select_world(&[contract], Some(package.manifest.world.as_str()))?;
    let granted = |name: &str| package.manifest.grants.iter().any(|grant| grant == name);
    let denied = |name: &str| Grant::ALL.iter().any(|grant| grant.name() == name) && !granted(name);
    let interfaces = &resolve.interfaces;
    let keep = |key: &WorldKey, _: &mut WorldItem| match key {
        WorldKey::Interface(id) => !interfaces[*id].name.as_deref().is_some_and(denied),
        WorldKey::Name(name) => !denied(name),
    };
    resolve.worlds[world].imports.retain(keep);
    Ok((resolve, world))
}

/// What to write into the manifest, where a source that could not be built names an interface that is by grant: it is missing from
/// what the generator was given, and the generator does not know why.
pub fn missing_grant(package: &Package, source: &Path) -> Option<String> {
    let text = fs::read_to_string(package.folder.join(source)).ok()?;
    let granted = |name: &str| package.manifest.grants.iter().any(|grant| grant == name);
    let imports: Vec<&str> =
        text.lines().filter(|line| line.contains("membrane:plugin/") || line.contains("wit_world")).collect();
    let is_imported = |name: &str| {
        let named = |word: &str| word == name || word.replace('_', "-") == name;
        imports
            .iter()
            .any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_').any(named))
    };
    let missing =
        Grant::ALL.iter().map(|grant| grant.name()).find(|name| is_imported(name) && !granted(name))?;
    Some(format!(
        "{} imports `{missing}`, which is by grant: add it to the grants of plugin.toml, such as `grants = [\"{missing}\"]`",
        source.display()
    ))
}

/// Writes it to `build/wit` of the plugin's folder, for tools that read WIT.
pub fn write(package: &Package) -> Result<()> {
    let (resolve, world) = granted(package)?;
    let contract = resolve.worlds[world].package.context("the world is in no package")?;
    let mut printer = WitPrinter::default();
    printer.print(&resolve, contract, &[])?;
    let folder = package.folder.join("build/wit");
    fs::create_dir_all(&folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    let path = folder.join("contract.wit");
    fs::write(&path, printer.output.to_string()).with_context(|| format!("can't write {}", path.display()))
}
