//! Runs the golden cases of the first-party plugins against their components, and holds their manifests to what they do.
//!
//! `plugins/README.md` describes the cases.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "golden/manifests.rs"]
mod manifests;
#[path = "golden/mistakes.rs"]
mod mistakes;

use std::path::{Path, PathBuf};

use membrane_host::first_party::{self, FirstParty};
use membrane_host::golden::GoldenCases;
use membrane_host::{Grant, Host, Plugin, PluginSource, World};
use membrane_profile::Manifest;
use serde_json::{Map, Value};

/// The manifest of a plugin, as the program carries it.
fn manifest(plugin: &FirstParty) -> Manifest {
    Manifest::parse(plugin.manifest, plugin.name).unwrap_or_else(|error| panic!("{error}"))
}

/// A plugin with parameters and the grants of its manifest.
fn load(plugin: &FirstParty, parameters: Map<String, Value>) -> (Host, Plugin) {
    let host = common::host();
    let mut source = common::placed(PluginSource::new(plugin.name, plugin.bytes, plugin.world));
    source.parameters = Value::Object(parameters);
    source.grants = Grant::parse_all(&manifest(plugin).grants).unwrap();
    let loaded = host.load(source, plugin.world).unwrap_or_else(|error| panic!("{error}"));
    (host, loaded)
}

/// The folder of a plugin's cases.
fn folder(plugin: &FirstParty) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins").join(plugin.name).join("golden")
}

/// Runs all cases of the plugins of a world, of which each has some.
fn run_all(world: World) {
    for plugin in first_party::list().filter(|plugin| plugin.world == world) {
        let cases = GoldenCases::read(&folder(plugin), world).unwrap_or_else(|error| panic!("{error}"));
        assert!(!cases.is_empty(), "{} has none", plugin.name);
        let (host, loaded) = load(plugin, Map::new());
        let report = cases.run(&host, &loaded).unwrap();
        assert_eq!(report.outcomes.len(), cases.len());
        let failures: Vec<String> = report.failures().map(ToString::to_string).collect();
        assert!(failures.is_empty(), "{}: {}", plugin.name, failures.join("\n"));
    }
}

#[test]
fn samplers_do_what_their_golden_cases_say() {
    run_all(World::Sampler);
}

#[test]
fn policies_do_what_their_golden_cases_say() {
    run_all(World::Policy);
}

#[test]
fn tools_do_what_their_golden_cases_say() {
    run_all(World::Tool);
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    common::again_in_processes("all_of_this_holds_in_processes_of_their_own");
}
