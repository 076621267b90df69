//! Tools with one folder, who want another. `runtime/host/tests/tools_files.rs` holds every function to this.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use membrane_host::{ToolSet, World};
use membrane_profile::{Authority, FolderGrant};
use membrane_tests::guests::guest;
use serde_json::{Value, json};

use crate::arena::{Arena, failed};
use crate::attack::{Attack, Outcome};

const SECRET: &str = "outside of the folder";

/// An attack by one call in a folder beside one that was not granted; what is outside stays as it is.
fn by(
    name: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
    prepare: fn(&Path),
    arguments: fn() -> Value,
) -> Attack {
    Attack::new(name, World::Tool, tries, says, move |arena: &Arena| {
        let root = tempfile::tempdir().unwrap();
        for folder in ["notes", "outside"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("outside/secret"), SECRET).unwrap();
        prepare(root.path());
        let outcome = call(arena, &root.path().join("notes"), &arguments());
        let listed = fs::read_dir(root.path().join("outside")).unwrap().count();
        match fs::read_to_string(root.path().join("outside/secret")) {
            Ok(text) if text == SECRET && listed == 1 => outcome,
            other => Err(format!("what is outside has changed: {other:?}, {listed} files")),
        }
    })
}

fn call(arena: &Arena, folder: &Path, arguments: &Value) -> Outcome {
    let mut source = arena.source(World::Tool, guest("test-tool"), json!({ "names": ["one"] }));
    source.limits.fuel_per_call = 2_000_000_000;
    let (name, path) = ("notes".to_owned(), folder.to_owned());
    let folders = vec![FolderGrant { written: name.clone(), name, path, write: true }];
    source.authority = Authority { folders, ..Authority::default() };
    let started = arena.load(source, World::Tool).and_then(|plugin| arena.tools(&[plugin]));
    let mut set: ToolSet = started.map_err(|error| error.to_string())?;
    failed(set.call("one", &arguments.to_string()))
}

fn nothing(_: &Path) {}

pub fn attacks() -> Vec<Attack> {
    vec![
        by(
            "parent folder",
            "reads `../outside/secret`",
            &["no `.`, no `..`"],
            nothing,
            || json!({ "act": "read", "path": "../outside/secret" }),
        ),
        by(
            "absolute path",
            "reads `/etc/passwd`",
            &["relative to the folder"],
            nothing,
            || json!({ "act": "read", "path": "/etc/passwd" }),
        ),
        by(
            "path with a zero",
            "ends a path early",
            &["none of them 0"],
            nothing,
            || json!({ "act": "write", "path": "a\u{0}b" }),
        ),
        by(
            "folder without grant",
            "names another folder",
            &["the folder `../outside` is not granted (notes)"],
            nothing,
            || json!({ "act": "read", "folder": "../outside", "path": "secret" }),
        ),
        by(
            "link to a file",
            "reads through a symbolic link",
            &["is a symbolic link, which is not followed"],
            |root| {
                symlink(root.join("outside/secret"), root.join("notes/link")).unwrap();
            },
            || json!({ "act": "read", "path": "link" }),
        ),
        by(
            "link to a folder",
            "writes through a symbolic link",
            &["symbolic link"],
            |root| {
                symlink(root.join("outside"), root.join("notes/link")).unwrap();
            },
            || json!({ "act": "write", "path": "link/secret", "text": "changed" }),
        ),
        by(
            "link to /proc",
            "reads the host's environment",
            &["symbolic link"],
            |root| {
                symlink("/proc/self", root.join("notes/proc")).unwrap();
            },
            || json!({ "act": "read", "path": "proc/environ" }),
        ),
        by(
            "hard link",
            "appends to a file that is elsewhere too",
            &["hard links"],
            |root| {
                fs::hard_link(root.join("outside/secret"), root.join("notes/link")).unwrap();
            },
            || json!({ "act": "append", "path": "link", "text": "changed" }),
        ),
        by(
            "pipe",
            "waits for a writer for ever",
            &["is a pipe"],
            |root| {
                assert!(Command::new("mkfifo").arg(root.join("notes/pipe")).status().unwrap().success());
            },
            || json!({ "act": "read", "path": "pipe" }),
        ),
        by(
            "files without end",
            "fills a folder",
            &["more than the 256 files and folders of one call"],
            nothing,
            || json!({ "act": "fill", "path": "f", "text": "x", "length": 1, "times": 300 }),
        ),
        by(
            "file without end",
            "fills the disk",
            &["more than the 16777216 bytes of one call"],
            nothing,
            || json!({ "act": "grow", "path": "g", "text": "x", "length": 1 << 20, "times": 17 }),
        ),
        by(
            "read of 4 GiB",
            "has the host take memory",
            &["more than the 1048576 of one read"],
            |root| {
                fs::File::create(root.join("notes/huge")).unwrap().set_len(1 << 40).unwrap();
            },
            || json!({ "act": "read", "path": "huge", "length": u32::MAX }),
        ),
    ]
}
