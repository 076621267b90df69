//! The direction of dependencies between our crates, as ARCHITECTURE.md draws it: `cargo metadata` must show
//! no other arrow. A new arrow is a decision about the architecture, and is made here.

#![cfg(test)]
#![forbid(unsafe_code)]

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate of the runtime may use of ours, as a dependency of any kind.
const ARROWS: [(&str, &[&str]); 10] = [
    ("membrane-formats", &[]),
    ("membrane-kernels", &[]),
    ("membrane-text", &[]),
    ("membrane-profile", &[]),
    ("membrane-codecache", &[]),
    // An auditor can use it alone.
    ("membrane-audit", &[]),
    ("membrane-pager", &["membrane-formats"]),
    ("membrane-engine", &["membrane-formats", "membrane-kernels", "membrane-pager", "membrane-text"]),
    ("membrane-host", &["membrane-codecache", "membrane-profile"]),
    (
        "membrane-generate",
        &["membrane-audit", "membrane-engine", "membrane-host", "membrane-profile", "membrane-text"],
    ),
];

/// Programs and tests: each may use the whole runtime, and no crate may use them.
const LEAVES: [&str; 4] = ["membrane", "membrane-tests", "upcycle", "xtask"];

/// The one crate of ours that guests may use.
const SDK: &str = "membrane-plugin";

/// Folders of guests, which are built for wasm in workspaces of their own.
const GUESTS: [&str; 3] = ["plugins/", "sdk/", "examples/plugins/"];

/// A crate's name to the names of the crates in this repository that it uses.
type Graph = BTreeMap<String, Vec<String>>;

#[test]
fn host_crates_use_each_other_in_one_direction() {
    let wrong = wrong_host_arrows(&graph(&root().join("Cargo.toml")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn guests_use_nothing_of_ours_but_the_sdk() {
    let mut wrong = Vec::new();
    for manifest in guest_manifests() {
        wrong.extend(wrong_guest_arrows(&graph(&manifest)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rule_sees_a_wrong_arrow() {
    let graph = |arrows: &[(&str, &[&str])]| -> Graph {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        arrows.iter().map(|(name, uses)| ((*name).to_owned(), own(uses))).collect()
    };
    let fine = graph(&[("membrane-engine", &["membrane-pager"]), ("membrane-pager", &["membrane-formats"])]);
    assert_eq!(wrong_host_arrows(&fine).len(), 0);
    let upwards = graph(&[("membrane-formats", &["membrane-engine"]), ("membrane-engine", &[])]);
    assert_eq!(wrong_host_arrows(&upwards).len(), 1);
    let leaf_used = graph(&[("membrane", &["xtask"]), ("xtask", &[])]);
    assert_eq!(wrong_host_arrows(&leaf_used).len(), 1);
    let unknown = graph(&[("membrane-surprise", &[])]);
    assert_eq!(wrong_host_arrows(&unknown).len(), 1);
    let guest = graph(&[("guard", &["membrane-plugin", "membrane-text"]), ("membrane-plugin", &[])]);
    assert_eq!(wrong_guest_arrows(&guest).len(), 1);
}

fn wrong_host_arrows(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, uses) in graph {
        let allowed = ARROWS.iter().find(|(known, _)| known == name).map(|(_, allowed)| *allowed);
        let leaf = LEAVES.contains(&name.as_str());
        if allowed.is_none() && !leaf {
            wrong.push(format!("{name} is not in the table of arrows: say there what it may use"));
            continue;
        }
        for used in uses {
            let in_runtime = ARROWS.iter().any(|(known, _)| known == used);
            let fine = match allowed {
                Some(allowed) => allowed.contains(&used.as_str()),
                None => in_runtime,
            };
            if !fine {
                wrong.push(format!("{name} -> {used}: no such arrow is allowed"));
            }
        }
    }
    wrong
}

fn wrong_guest_arrows(graph: &Graph) -> Vec<String> {
    let arrows = graph.iter().flat_map(|(name, uses)| uses.iter().map(move |used| (name, used)));
    // Guests may share code among themselves: a package of the same workspace is in the graph.
    let wrong = arrows.filter(|(_, used)| *used != SDK && !graph.contains_key(*used));
    wrong.map(|(name, used)| format!("{name} -> {used}: guests use only {SDK} of ours")).collect()
}

/// The packages of a workspace with the dependencies that have a path, of every kind.
fn graph(manifest: &Path) -> Graph {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name_of = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let uses = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies.filter(|dependency| dependency["path"].is_string()).map(name_of).collect()
    };
    packages.iter().map(|package| (name_of(package), uses(package))).collect()
}

/// The manifests of the guests' workspaces.
fn guest_manifests() -> Vec<PathBuf> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard", "*/Cargo.toml"];
    let output = Command::new("git").args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    let guests = listed.lines().filter(|path| GUESTS.iter().any(|folder| path.starts_with(folder)));
    let paths = guests.map(|path| root().join(path));
    paths.filter(|path| std::fs::read_to_string(path).unwrap().contains("[workspace")).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}
