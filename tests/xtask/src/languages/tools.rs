//! The toolchains of guest languages, under `target/tools`: pinned versions, with the digests that `tests/xtask/tools` lists.

use crate::pool::{self, Job};
use crate::workspace::{output, phase, root, run, scratch};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Node.js that componentize-qjs runs on.
const NODE_MAJOR: u32 = 20;

/// Installs what is missing; gives a `PATH` that has all of it, with the program `membrane` in front.
///
/// # Errors
/// When python3 with pip, or a package, is out of reach, or a digest is not the listed one.
pub fn path(membrane: &Path) -> Result<OsString> {
    let lists = lists();
    let own = membrane.parent().context("membrane lies in no folder")?.to_owned();
    let python = || Ok(vec![environment("python", &lists.join("requirements.txt"))?]);
    let javascript = || {
        let node = node()?;
        let path = with(node.as_slice())?;
        Ok(std::iter::once(javascript(&lists, &path)?).chain(node).collect())
    };
    let installed =
        pool::run(vec![Job::new("Python packages", python), Job::new("JavaScript packages", javascript)])?;
    with(&std::iter::once(own).chain(installed.into_iter().flatten()).collect::<Vec<PathBuf>>())
}

/// The folder of Node.js, which is installed if the machine has none that is new enough. None if it has one.
///
/// # Errors
/// As for [`path`].
pub fn node() -> Result<Option<PathBuf>> {
    if has_node() { Ok(None) } else { environment("node", &lists().join("node.txt")).map(Some) }
}

/// What is installed, by kind.
fn lists() -> PathBuf {
    root().join("tests/xtask/tools")
}

/// `PATH` with folders in front.
///
/// # Errors
/// When one can't be in `PATH`.
pub fn with(folders: &[PathBuf]) -> Result<OsString> {
    let before = std::env::var_os("PATH").unwrap_or_default();
    let all = folders.iter().cloned().chain(std::env::split_paths(&before));
    std::env::join_paths(all).context("a folder of PATH can't be in PATH")
}

/// A Python environment with the packages of a list; gives the folder of its programs.
fn environment(name: &str, list: &Path) -> Result<PathBuf> {
    let folder = scratch("tools")?.join(name);
    let programs = folder.join("bin");
    let wanted = fs::read_to_string(list).with_context(|| list.display().to_string())?;
    if is_installed(&folder, &wanted) {
        return Ok(programs);
    }
    phase(&format!("installing the packages of {} into target/tools/{name}", shown(list)));
    let python3 = "python3 with the modules venv and pip is needed (Debian: `apt-get install python3-venv`)";
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).context(python3)?;
    let mut pip = Command::new(programs.join("python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
    ]);
    run(pip.args(["--only-binary", ":all:", "--requirement"]).arg(list))?;
    installed(&folder, &wanted)?;
    Ok(programs)
}

/// componentize-qjs; gives the folder of its program.
fn javascript(lists: &Path, path: &OsString) -> Result<PathBuf> {
    let folder = scratch("tools")?.join("javascript");
    let programs = folder.join("node_modules/.bin");
    let wanted = fs::read_to_string(lists.join("package-lock.json")).context("package-lock.json")?;
    if is_installed(&folder, &wanted) {
        return Ok(programs);
    }
    phase("installing the packages of tests/xtask/tools/package-lock.json into target/tools/javascript");
    fs::create_dir_all(&folder)?;
    for list in ["package.json", "package-lock.json"] {
        fs::copy(lists.join(list), folder.join(list)).context(list)?;
    }
    let mut npm = Command::new("npm");
    npm.current_dir(&folder).env("PATH", path).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    run(&mut npm)?;
    installed(&folder, &wanted)?;
    Ok(programs)
}

/// Whether the machine has Node.js with npm, new enough.
fn has_node() -> bool {
    let version = output(Command::new("node").arg("--version")).unwrap_or_default();
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    major.is_some_and(|major: u32| major >= NODE_MAJOR)
        && output(Command::new("npm").arg("--version")).is_ok()
}

/// Whether a folder was filled from a list that said the same.
fn is_installed(folder: &Path, wanted: &str) -> bool {
    fs::read_to_string(folder.join("installed.txt")).is_ok_and(|installed| installed == wanted)
}

fn installed(folder: &Path, wanted: &str) -> Result<()> {
    fs::write(folder.join("installed.txt"), wanted).context("installed.txt")
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// New plugins are built with the versions that CI has tried.
    #[test]
    fn templates_pin_the_same_versions() {
        let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
        let list = read("tests/xtask/tools/requirements.txt");
        let package = read("tests/xtask/tools/package.json");
        let line = package.lines().find(|line| line.contains("componentize-qjs")).unwrap();
        for world in ["sampler", "policy", "tool", "agent"] {
            for language in ["c", "python"] {
                let pinned = read(&format!("sdk/{language}/template/{world}/requirements.txt"));
                assert!(
                    list.lines().any(|line| line.starts_with(&format!("{} ", pinned.trim()))),
                    "{pinned}"
                );
            }
            let pinned = read(&format!("sdk/javascript/template/{world}/package.json"));
            assert!(pinned.contains(line.trim()), "{pinned}");
        }
    }
}
