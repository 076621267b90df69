//! The world of a plugin, with the imports that its manifest grants.
//!
//! Generators for languages with an interpreter import everything that a world lists, used or not, and the host
//! refuses a component that imports what it was not granted.

use std::fs;

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
