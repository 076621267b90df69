//! Writes the table of files that `membrane plugin new` makes folders from: the SDKs with their templates, and the
//! contract; and tells the program which commit it is.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of the source tree that are carried.
const CARRIED: [&str; 2] = ["sdk", "wit"];

/// What builds and tools leave behind in them.
const MADE: [&str; 5] = ["build", "target", "node_modules", ".venv", "__pycache__"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let mut files = Vec::new();
    for folder in CARRIED {
        find(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut source = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("a path is not UTF-8")?.replace('\\', "/");
        writeln!(source, "({name:?}, include_str!({file:?})),")?;
        println!("cargo::rerun-if-changed={}", file.display());
    }
    source.push(']');
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("carried.rs"), source)?;
    println!("cargo::rustc-env=MEMBRANE_COMMIT={}", commit(&root));
    Ok(())
}

/// The commit that is built, `-dirty` behind it if tracked files differ from it; `unknown` outside of a repository. It is looked
/// up whenever a file that the program is made of has changed, or what is checked out.
fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        let text = output.status.success().then_some(output.stdout)?;
        Some(String::from_utf8(text).ok()?.trim().to_owned())
    };
    println!("cargo::rerun-if-changed={}", root.join("runtime").display());
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .unwrap_or_else(|| "unknown".to_owned())
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let mut has_made = false;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let made = MADE.iter().any(|made| entry.file_name() == *made);
        has_made |= made;
        match entry.path() {
            path if made => drop(path),
            path if path.is_dir() => find(&path, files)?,
            path => files.push(path),
        }
    }
    // Cargo looks at everything below a folder that it watches: at what is made there too, which changes by itself.
    if !has_made {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    Ok(())
}
