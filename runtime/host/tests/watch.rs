//! Watched files: every way in which programs write them is told, and nothing else.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use membrane_host::watch::FileWatch;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(150);

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("watch-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_file_is_told_when_it_is_written_replaced_deleted_or_made() {
    let folder = folder("file");
    let file = folder.join("a.wasm");
    fs::write(&file, "1").unwrap();
    let mut watch = FileWatch::new().unwrap();
    watch.set(std::slice::from_ref(&file), &[]).unwrap();
    assert!(!watch.wait(SHORT), "nothing has happened");
    fs::write(&file, "2").unwrap();
    assert!(watch.wait(LONG), "written");
    fs::write(folder.join("new"), "3").unwrap();
    fs::rename(folder.join("new"), &file).unwrap();
    assert!(watch.wait(LONG), "replaced");
    fs::remove_file(&file).unwrap();
    assert!(watch.wait(LONG), "deleted");
    fs::hard_link(folder.join("other").as_path(), &file).unwrap_or_else(|_| fs::write(&file, "4").unwrap());
    assert!(watch.wait(LONG), "made");
    fs::write(folder.join("b.wasm"), "5").unwrap();
    fs::read(&file).unwrap();
    assert!(!watch.wait(SHORT), "another file, and reading");
    watch.set(&[], &[]).unwrap();
    fs::write(&file, "6").unwrap();
    assert!(!watch.wait(SHORT), "not watched any more");
}

#[test]
fn many_writes_are_one_change_and_endless_ones_are_told_too() {
    let folder = folder("many");
    let file = folder.join("a");
    let mut watch = FileWatch::new().unwrap();
    watch.set(std::slice::from_ref(&file), &[]).unwrap();
    for number in 0..20 {
        fs::write(&file, number.to_string()).unwrap();
    }
    assert!(watch.wait(LONG));
    assert!(!watch.wait(SHORT));
    let end = Instant::now() + Duration::from_secs(2);
    let writer = std::thread::spawn({
        let file = file.clone();
        move || {
            while Instant::now() < end {
                fs::write(&file, "x").unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    assert!(watch.wait(LONG));
    assert!(Instant::now() < end, "it waited until the last write");
    writer.join().unwrap();
}

#[test]
fn a_folder_is_told_with_all_that_lies_in_it_but_what_is_built() {
    let folder = folder("tree");
    for inner in ["src/deep", "target/release", ".git"] {
        fs::create_dir_all(folder.join(inner)).unwrap();
    }
    let mut watch = FileWatch::new().unwrap();
    watch.set(&[], std::slice::from_ref(&folder)).unwrap();
    for inside in ["Cargo.toml", "src/lib.rs", "src/deep/more.rs"] {
        fs::write(folder.join(inside), "x").unwrap();
        assert!(watch.wait(LONG), "{inside}");
    }
    for outside in ["target/release/a.wasm", ".git/index", ".Cargo.toml.swp"] {
        fs::write(folder.join(outside), "x").unwrap();
        assert!(!watch.wait(SHORT), "{outside}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_names_it() {
    let missing = folder("missing").join("none/a.wasm");
    let error = FileWatch::new().unwrap().set(&[missing], &[]).unwrap_err().to_string();
    assert!(error.contains("none: can't be watched"), "{error}");
}

/// Takes what is still to be told.
fn settle(watch: &mut FileWatch) {
    while watch.wait(SHORT) {}
}

#[test]
fn a_folder_that_is_removed_and_made_again_is_watched_again() {
    let outer = folder("again");
    let (inner, moved) = (outer.join("inner"), outer.join("moved"));
    let file = inner.join("a.wasm");
    fs::create_dir(&inner).unwrap();
    fs::write(&file, "1").unwrap();
    let mut watch = FileWatch::new().unwrap();
    watch.set(std::slice::from_ref(&file), &[]).unwrap();
    let written = |watch: &mut FileWatch, what: &str| {
        settle(watch);
        fs::write(&file, "2").unwrap();
        assert!(watch.wait(LONG), "written after it was {what}");
        settle(watch);
    };
    fs::remove_dir_all(&inner).unwrap();
    assert!(watch.wait(LONG), "removed");
    settle(&mut watch);
    fs::create_dir(&inner).unwrap();
    assert!(watch.wait(LONG), "made again");
    written(&mut watch, "removed, and made when that was told");
    fs::remove_dir_all(&inner).unwrap();
    fs::create_dir(&inner).unwrap();
    written(&mut watch, "removed, and made at once");
    fs::rename(&inner, &moved).unwrap();
    assert!(watch.wait(LONG), "moved away");
    settle(&mut watch);
    fs::write(moved.join("a.wasm"), "3").unwrap();
    assert!(!watch.wait(SHORT), "what was moved away");
    fs::create_dir(&inner).unwrap();
    written(&mut watch, "moved away, and made");
    fs::remove_dir_all(&inner).unwrap();
    settle(&mut watch);
    assert!(watch.set(std::slice::from_ref(&file), &[]).is_err());
    watch.add(&file);
    fs::create_dir(&inner).unwrap();
    assert!(watch.wait(LONG), "looked for after an error");
    written(&mut watch, "removed, and set while it was gone");
}
