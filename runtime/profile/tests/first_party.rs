//! The manifests, READMEs and example profiles of this repository agree with each other.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use membrane_profile::{Location, Manifest, Profile};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn manifests() -> Vec<(PathBuf, Manifest)> {
    let folders = fs::read_dir(root().join("plugins")).unwrap().map(|entry| entry.unwrap().path());
    let read = |folder: PathBuf| {
        let manifest = Manifest::read(&folder.join("plugin.toml")).unwrap_or_else(|error| panic!("{error}"));
        (folder, manifest)
    };
    folders.filter(|folder| folder.join("Cargo.toml").exists()).map(read).collect()
}

#[test]
fn every_plugin_has_a_manifest_under_its_own_name() {
    let manifests = manifests();
    for (folder, manifest) in &manifests {
        assert_eq!(manifest.name, folder.file_name().unwrap().to_string_lossy());
    }
    assert!(manifests.len() >= 7, "only {} plugins were found", manifests.len());
}

#[test]
fn every_readme_names_all_parameters_and_grants() {
    for (folder, manifest) in manifests() {
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        for name in manifest.parameters.keys().chain(&manifest.grants) {
            let quoted = format!("`{name}`");
            assert!(readme.contains(&quoted), "the README of {} does not name {quoted}", manifest.name);
        }
    }
}

#[test]
fn example_profiles_are_read_and_give_the_plugins_what_they_take() {
    let manifests = manifests();
    let mut read = 0;
    for entry in fs::read_dir(root().join("examples/profiles")).unwrap() {
        let path = entry.unwrap().path();
        let is_rules = path.file_name().unwrap() == "rules.toml";
        if path.extension().is_none_or(|extension| extension != "toml") || is_rules {
            continue;
        }
        let profile = Profile::read(&path).unwrap_or_else(|error| panic!("{error}"));
        for plugin in profile.plugins() {
            let Location::FirstParty(name) = &plugin.location else { continue };
            let (_, manifest) = manifests.iter().find(|(_, manifest)| manifest.name == *name).unwrap();
            manifest.check(&plugin.parameters).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!((plugin.kind, &plugin.grants), (manifest.world, &manifest.grants), "{name}");
        }
        read += 1;
    }
    assert!(read >= 2, "only {read} profiles were read");
}
