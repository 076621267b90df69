//! The manifests of the plugins in this repository are well-formed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use membrane_profile::Manifest;

#[test]
fn every_plugin_has_a_manifest_under_its_own_name() {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    let mut checked = 0;
    for entry in fs::read_dir(plugins).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("Cargo.toml").exists() {
            let manifest =
                Manifest::read(&folder.join("plugin.toml")).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(manifest.name, folder.file_name().unwrap().to_string_lossy());
            checked += 1;
        }
    }
    assert!(checked >= 7, "only {checked} plugins were found");
}
