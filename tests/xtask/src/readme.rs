//! Runs the commands of README.md and of the guide to plugins, so that a reader can trust them.
//!
//! Every code block whose info string begins with `sh` is run as one bash script, with the built binaries in `PATH`. A block
//! marked `sh no-ci` is not run, and its commands are listed as skipped.

use crate::workspace::{phase, root, run as run_command, target_directory};
use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;

/// Commands which a reader types and which CI has run, or is running, by itself.
const DONE_BY_CI: [&str; 2] = ["cargo xtask test", "cargo xtask ci"];

/// A code block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Line of the opening fence, from 1.
    line: usize,
    run: bool,
    script: String,
}

/// Runs the commands of README.md in the root of the repository, then those of the guide to plugins in an empty folder.
///
/// # Errors
/// When a file can't be read, has no commands, or one of them fails.
pub fn run() -> Result<()> {
    phase("the commands of README.md");
    let path = path()?;
    forget_records()?;
    run_file("README.md", &root(), &path)?;
    phase("the commands of plugins/README.md");
    // Outside the repository, as a reader's folder is.
    let folder = std::env::temp_dir().join(format!("membrane-guide-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = run_file("plugins/README.md", &folder, &path);
    std::fs::remove_dir_all(&folder)?;
    done
}

/// Removes what the commands recorded before: answers that plugins of an earlier build made are not made again by those of
/// this one.
fn forget_records() -> Result<()> {
    for entry in std::fs::read_dir(root().join("target/demo")).into_iter().flatten() {
        let path = entry?.path();
        let records =
            path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("log.jsonl"));
        if records {
            std::fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// A `PATH` that begins with the folder of the built programs.
fn path() -> Result<OsString> {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = [target_directory()?.join("release")].into_iter().chain(std::env::split_paths(&inherited));
    Ok(std::env::join_paths(folders)?)
}

/// Runs the blocks of a file in their order.
fn run_file(file: &str, folder: &Path, path: &OsStr) -> Result<()> {
    let text = std::fs::read_to_string(root().join(file)).with_context(|| format!("can't read {file}"))?;
    let blocks = blocks(&text)?;
    if !blocks.iter().any(|block| block.run) {
        bail!("{file} has no commands that can be run");
    }
    for block in blocks {
        if !block.run {
            println!("{file}:{}: skipped (no-ci):\n{}", block.line, block.script);
            continue;
        }
        println!("{file}:{}:", block.line);
        let script = without_done(&block.script);
        let mut bash = Command::new("bash");
        bash.current_dir(folder).env("PATH", path).args(["-euo", "pipefail", "-c", &script]);
        run_command(&mut bash).with_context(|| format!("the commands at {file}:{} failed", block.line))?;
    }
    Ok(())
}

/// The script without the lines that CI runs by itself.
fn without_done(script: &str) -> String {
    let mut kept = String::new();
    for line in script.lines() {
        let command = line.split('#').next().unwrap_or_default().trim();
        if DONE_BY_CI.contains(&command) {
            println!("   `{command}`: run by CI already");
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let mut script = String::new();
        loop {
            let Some((_, line)) = lines.next() else {
                bail!("the code block at line {} does not end", number + 1);
            };
            if line.starts_with("```") {
                break;
            }
            script.push_str(line);
            script.push('\n');
        }
        let mut words = info.split_whitespace();
        if words.next() == Some("sh") {
            let run = match words.next() {
                None => true,
                Some("no-ci") => false,
                Some(other) => bail!("line {}: `sh {other}`: only `no-ci` is known", number + 1),
            };
            found.push(Block { line: number + 1, run, script });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_blocks_of_commands() {
        let text = "# x\n```sh\ncargo xtask demo   # two\ncargo xtask test   # all\n```\n\
                    ```toml\na = 1\n```\n\
                    ```sh no-ci\nsudo reboot\n```\n";
        let found = blocks(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].run), (2, true));
        assert_eq!(without_done(&found[0].script), "cargo xtask demo   # two\n");
        assert_eq!(found[1], Block { line: 9, run: false, script: "sudo reboot\n".to_owned() });
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(blocks("```sh maybe\nls\n```\n").is_err());
        assert!(blocks("```sh\nls\n").is_err());
    }
}
