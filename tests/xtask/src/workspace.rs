//! Where things are, and running other programs with their command shown.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// `target/NAME` of the repository, made if it is missing. What is fetched or generated stays in the
/// repository's own target folder also when cargo builds elsewhere, so that tests find it without being told.
///
/// # Errors
/// When the folder can't be made.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let path = root().join("target").join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("can't make the folder {}", path.display()))?;
    Ok(path)
}

/// Prints a line that tells which phase begins.
pub fn phase(text: &str) {
    eprintln!("== {text}");
}

/// The cargo that runs this program, in the root of the repository.
pub fn cargo() -> Command {
    cargo_in(&root())
}

/// The cargo that runs this program, in `folder`, so that the folder's own `.cargo/config.toml` holds there.
pub fn cargo_in(folder: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder);
    // Cargo hands the package that it runs to its children; a nested build script must not see xtask's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end with its output shown.
///
/// # Errors
/// When it can't be started or does not succeed; names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("   {shown}");
    let status = command.status().with_context(|| format!("can't run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs a command and gives its standard output.
///
/// # Errors
/// When it can't be started or does not succeed; carries the end of its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("can't run `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = said.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("`{shown}` failed ({}): {}", output.status, tail.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or_default().to_string_lossy().into_owned()];
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let plain = !argument.is_empty() && !argument.contains(char::is_whitespace);
        words.push(if plain { argument.into_owned() } else { format!("{argument:?}") });
    }
    words.join(" ")
}

/// The folder into which cargo puts what it builds.
///
/// # Errors
/// When `cargo metadata` fails.
pub fn target_directory() -> Result<PathBuf> {
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata is no JSON")?;
    let path = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(path))
}

/// The target triple of this machine.
///
/// # Errors
/// When `rustc` can't be asked.
pub fn host_triple() -> Result<String> {
    let text = output(Command::new("rustc").args(["--version", "--verbose"]).current_dir(root()))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc --version --verbose` names no host")?.to_owned())
}

/// The folders of the guests' workspaces: every tracked `Cargo.toml` with a `[workspace]` table but the
/// root's.
///
/// # Errors
/// When git can't list the files or one can't be read.
pub fn guest_workspaces() -> Result<Vec<PathBuf>> {
    let root = root();
    let list = output(Command::new("git").args(["ls-files", "*/Cargo.toml"]).current_dir(&root))?;
    let mut folders = Vec::new();
    // Guests that a test builds are that test's own, broken ones among them; the fuzzers in tests/ are no guests.
    let of_tests = |line: &&str| line.starts_with("tests/") || line.contains("/tests/");
    for path in list.lines().filter(|line| !of_tests(line)).map(|line| root.join(line)) {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let workspace = text.lines().any(|line| line.trim().starts_with("[workspace"));
        if let (true, Some(folder)) = (workspace, path.parent()) {
            folders.push(folder.to_path_buf());
        }
    }
    Ok(folders)
}
