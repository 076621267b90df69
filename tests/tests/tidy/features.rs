//! The features of dependencies. A crate with other features for the tests than for the program is compiled twice in
//! a fresh clone, and so is all that stands on it, at worst wasmtime and its compiler.

use std::collections::BTreeSet;
use std::process::Command;

use crate::rules::Finding;

/// Packages that `cargo xtask demo` builds.
const PROGRAM: [&str; 4] = ["--package", "membrane", "--package", "upcycle"];

/// Crates under wasmtime whose features the program sees in another way than the tests.
pub fn compiled_twice() -> Vec<Finding> {
    let with_features = "{p} [{f}]";
    let program = tree(&[&PROGRAM[..], &["--edges", "normal,build"]].concat(), with_features);
    let tests = tree(&["--workspace", "--edges", "normal,build,dev"], with_features);
    let under_wasmtime = tree(&["--package", "wasmtime", "--edges", "normal,build"], "{p}");
    let twice = program.difference(&tests).filter(|line| {
        let package = line.split(" [").next().unwrap_or(line);
        under_wasmtime.contains(package)
    });
    let text = "the tests turn on more features than the program: add them to `runtime/host/Cargo.toml`";
    twice.map(|line| Finding::of_file("Cargo.toml", &format!("{line}: {text}"))).collect()
}

/// The lines that cargo prints of a tree of dependencies, each package in `format`.
fn tree(selection: &[&str], format: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--locked", "--prefix", "none", "--no-dedupe", "--format", format]).args(selection);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim().to_owned()).collect()
}
