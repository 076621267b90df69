//! Finding and running the tools of a language.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program of `PATH`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| executable(&folder, name)).find(|path| path.is_file())
}

/// A program in a folder below the plugin's, such as `node_modules/.bin`, or else of `PATH`.
pub fn in_folder_or_path(folder: &Path, name: &str) -> Option<PathBuf> {
    let own = executable(folder, name);
    if own.is_file() {
        // The command runs in the plugin's folder, from where a relative path would lead elsewhere. Links stay: the python3 of an
        // environment is a link to one that has none of the environment's packages.
        return std::path::absolute(&own).ok();
    }
    in_path(name)
}

/// The folder of the programs of a Python environment.
pub fn environment(folder: &Path) -> PathBuf {
    folder.join(".venv").join(if cfg!(windows) { "Scripts" } else { "bin" })
}

fn executable(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// Whether a command succeeds; what it says is not shown.
pub fn succeeds(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a command to its end, shows it, and hands what it prints to standard error: standard output is for data.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    eprintln!("   {shown}");
    // Tools written in Rust would show a page of their own frames with each mistake in a plugin.
    let status = command.env_remove("RUST_BACKTRACE").stdin(Stdio::null()).stdout(io::stderr()).status();
    let status = status.with_context(|| format!("can't run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status}); what it said is above");
    }
    Ok(())
}

/// A command as one would type it.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_stem().unwrap_or_default().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(word));
    words.join(" ")
}

fn word(argument: &OsStr) -> String {
    let text = argument.to_string_lossy();
    let plain = !text.is_empty() && !text.contains(char::is_whitespace);
    if plain { text.into_owned() } else { format!("{text:?}") }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_a_link_is_found_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("python3");
        std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        assert_eq!(in_folder_or_path(folder.path(), "python3"), Some(link));
    }
}
