//! `membrane plugin new`: a folder with a plugin to start from, out of what the program carries.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use membrane_profile::Kind;
use serde::Serialize;

use super::sources::{self, Language};
use crate::report;

/// Bytes of a name: it becomes names of files and packages.
const MAX_NAME_BYTES: usize = 64;

#[derive(clap::Args)]
pub struct Args {
    /// What the plugin is
    #[arg(value_enum)]
    world: World,
    /// Its name, and that of the new folder: lower-case letters, digits and `-`
    name: String,
    /// The language to write it in
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// The folder to make the plugin's folder in
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    into: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Worlds that there are templates of.
#[derive(Clone, Copy, ValueEnum)]
enum World {
    /// Chooses tokens.
    Sampler,
    /// Decides what may be asked and said.
    Policy,
    /// Does something for the model.
    Tool,
    /// Pursues a task with the model.
    Agent,
}

#[derive(Serialize)]
struct Made<'a> {
    folder: PathBuf,
    name: &'a str,
    world: Kind,
    language: Language,
    files: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    check_name(&args.name)?;
    let world = match args.world {
        World::Sampler => Kind::Sampler,
        World::Policy => Kind::Policy,
        World::Tool => Kind::Tool,
        World::Agent => Kind::Agent,
    };
    let folder = args.into.join(&args.name);
    let files = sources::files(args.lang, world, &args.name);
    write(&folder, &files)?;
    let files = files.into_iter().map(|(path, _)| path).collect();
    let made = Made { folder, name: &args.name, world, language: args.lang, files };
    if args.json {
        report::json(&made, &mut io::stdout().lock())?;
    } else {
        println!("{}", made.folder.display());
        eprintln!("Next: `cd {}`, then what its README.md says.", made.folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn check_name(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins = name.bytes().next().is_some_and(|first| first.is_ascii_lowercase());
    ensure!(
        begins && name.bytes().all(fits) && !name.ends_with('-') && name.len() <= MAX_NAME_BYTES,
        "`{}` can't be the name of a plugin: use lower-case letters, digits and `-`, a letter first, at most \
         {MAX_NAME_BYTES}",
        report::printable(name)
    );
    Ok(())
}

fn write(folder: &Path, files: &[(String, String)]) -> Result<()> {
    let shown = folder.display();
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{shown} is there already, and nothing in it was changed: choose another name")
        }
        Err(error) => return Err(error).with_context(|| format!("can't make the folder {shown}")),
    }
    for (path, text) in files {
        let path = folder.join(path);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_manifests_and_packages() {
        for good in ["a", "first-words", "no2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "2a", "A", "a_b", "../a", "a/b", "é", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
