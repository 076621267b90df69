//! Hostile tools and files: nothing outside of a granted folder is read or changed, nothing hangs, and every error says what
//! is wrong.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{component, host, source};
use membrane_host::{Grant, HostError, PluginSource, ToolSet, World};
use membrane_profile::{Authority, FolderGrant};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "outside of the folder";

/// A folder that is granted, beside one that is not.
struct Bench {
    root: TempDir,
    tools: ToolSet,
}

impl Bench {
    fn new(write: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["notes", "outside"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("outside/secret"), SECRET).unwrap();
        fs::write(root.path().join("notes/a.txt"), "inside").unwrap();
        let tools = start(&root.path().join("notes"), write, &[Grant::Files]).unwrap();
        Self { root, tools }
    }

    fn notes(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join("notes").join(path)
    }

    fn outside(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join("outside").join(path)
    }

    fn call(&mut self, act: &str, path: &str) -> Result<String, String> {
        self.call_with(json!({ "act": act, "path": path, "text": "changed" }))
    }

    fn call_with(&mut self, arguments: Value) -> Result<String, String> {
        self.tools.call("test", &arguments.to_string()).map_err(|error| error.to_string())
    }

    /// Holds the call of every function to an error with a part.
    fn all_fail(&mut self, path: &str, part: &str) {
        for act in ["read", "metadata", "entries", "write", "append", "make-folder", "delete"] {
            let error = self.call(act, path).unwrap_err();
            assert!(error.contains(part), "{act} {path}: {error}");
        }
        assert_eq!(fs::read_to_string(self.outside("secret")).unwrap(), SECRET);
    }
}

fn with(authority: Authority, grants: &[Grant]) -> PluginSource {
    let mut source = source("x", component(World::Tool), World::Tool, json!({ "names": ["test"] }));
    // All that the guest imports, so that what is missed is the value.
    source.grants = [Grant::Clock, Grant::Files, Grant::Http, Grant::Environment].into();
    source.grants.extend(grants);
    source.limits.fuel_per_call = 2_000_000_000;
    source.authority = authority;
    source
}

fn start(folder: &Path, write: bool, grants: &[Grant]) -> Result<ToolSet, HostError> {
    let (name, written, path) = ("notes".to_owned(), "notes".to_owned(), folder.to_owned());
    let folders = vec![FolderGrant { name, written, path, write }];
    let host = host();
    let plugin = host.load(with(Authority { folders, ..Authority::default() }, grants), World::Tool)?;
    ToolSet::start(&host, &[plugin])
}

#[test]
fn what_is_granted_works() {
    let mut bench = Bench::new(true);
    assert_eq!(bench.call("folders", "").unwrap(), "notes true\n");
    assert_eq!(bench.call("read", "a.txt").unwrap(), "inside");
    let part = json!({ "act": "read", "path": "a.txt", "offset": 2, "length": 3 });
    assert_eq!(bench.call_with(part).unwrap(), "sid");
    let behind = json!({ "act": "read", "path": "a.txt", "offset": u64::MAX, "length": 3 });
    assert_eq!(bench.call_with(behind).unwrap(), "");
    bench.call("make-folder", "sub").unwrap();
    bench.call("write", "sub/b").unwrap();
    bench.call("append", "sub/b").unwrap();
    bench.call("append", "sub/c").unwrap();
    assert_eq!(fs::read_to_string(bench.notes("sub/b")).unwrap(), "changedchanged");
    assert_eq!(bench.call("entries", "sub").unwrap(), "b Kind::File 14\nc Kind::File 7\n");
    assert_eq!(bench.call("entries", "").unwrap(), "a.txt Kind::File 6\nsub Kind::Folder 0\n");
    bench.call("delete", "sub/b").unwrap();
    assert!(bench.call("read", "sub/b").unwrap_err().contains("is not there"));
    assert!(bench.call("make-folder", "sub").unwrap_err().contains("is there already"));
}

#[test]
fn a_file_is_replaced_whole_and_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bench = Bench::new(true);
    fs::set_permissions(bench.notes("a.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    bench.call("write", "a.txt").unwrap();
    assert_eq!(fs::read_to_string(bench.notes("a.txt")).unwrap(), "changed");
    assert_eq!(fs::metadata(bench.notes("a.txt")).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(bench.call("entries", "").unwrap(), "a.txt Kind::File 7\n", "nothing is left beside it");
}

#[test]
fn parents_are_out_of_reach() {
    let mut bench = Bench::new(true);
    for path in ["..", "../outside/secret", "sub/../../outside/secret", "a/..", "./a.txt", "a//b", "a/", "."]
    {
        bench.all_fail(path, "no `.`, no `..`");
    }
    let backslash = bench.call("read", "..\\outside\\secret").unwrap_err();
    assert!(backslash.contains("is not there"), "{backslash}");
}

#[test]
fn absolute_and_overlong_paths_are_refused() {
    let mut bench = Bench::new(true);
    let secret = bench.outside("secret").display().to_string();
    bench.all_fail(&secret, "relative to the folder");
    bench.all_fail("/etc/passwd", "relative to the folder");
    bench.all_fail("a\0b", "none of them 0");
    bench.all_fail(&"a".repeat(1025), "at most 1024 bytes");
    bench.all_fail(&vec!["a"; 33].join("/"), "at most 32 names");
    assert!(bench.call("read", &"a".repeat(300)).is_err());
}

#[test]
fn links_are_not_followed() {
    let mut bench = Bench::new(true);
    symlink(bench.outside("secret"), bench.notes("file")).unwrap();
    symlink(bench.outside(""), bench.notes("folder")).unwrap();
    symlink("/", bench.notes("root")).unwrap();
    symlink("loop", bench.notes("loop")).unwrap();
    symlink("/proc/self", bench.notes("proc")).unwrap();
    for path in ["file", "loop"] {
        for act in ["read", "write", "append", "delete"] {
            let error = bench.call(act, path).unwrap_err();
            assert!(error.contains("is a symbolic link, which is not followed"), "{act}: {error}");
        }
    }
    for path in ["folder/secret", "root/etc/passwd", "proc/environ", "loop/x"] {
        bench.all_fail(path, "symbolic link");
    }
    for path in ["folder", "root", "proc/root"] {
        assert!(bench.call("entries", path).unwrap_err().contains("symbolic link"), "{path}");
    }
    assert!(bench.call("entries", "").unwrap().contains("file Kind::Other 0\n"), "it is shown as what it is");
    assert!(bench.notes("file").is_symlink() && bench.notes("loop").is_symlink(), "they are still there");
}

#[test]
fn a_link_that_is_swapped_in_leads_nowhere() {
    let mut bench = Bench::new(true);
    // `swap` is a folder in one moment and a link to the one outside in the next, and so is the file in `here`.
    let (real, away) = (bench.notes("real"), bench.outside(""));
    fs::create_dir(&real).unwrap();
    fs::write(real.join("secret"), "harmless").unwrap();
    fs::create_dir(bench.notes("here")).unwrap();
    let (swap, file, secret) = (bench.notes("swap"), bench.notes("here/secret"), bench.outside("secret"));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = fs::rename(&real, &swap);
                let _ = fs::write(&file, "harmless");
                let _ = fs::rename(&swap, &real);
                let _ = fs::remove_file(&file);
                let _ = symlink(&away, &swap);
                let _ = symlink(&secret, &file);
                let _ = fs::remove_file(&swap);
                let _ = fs::remove_file(&file);
            }
        });
        let begin = Instant::now();
        let (mut read, mut leaks) = (0, Vec::new());
        while begin.elapsed() < Duration::from_millis(1500) {
            for path in ["swap/secret", "here/secret"] {
                if let Ok(text) = bench.call("read", path) {
                    read += 1;
                    leaks.extend(text.contains(SECRET).then_some(path));
                }
                let _ = bench.call("append", path);
                let _ = bench.call("write", path);
            }
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(leaks, [""; 0], "these were read through the link");
        assert!(read > 0, "the file was never there when it was read");
    });
    assert_eq!(fs::read_to_string(bench.outside("secret")).unwrap(), SECRET);
    assert_eq!(fs::read_dir(bench.outside("")).unwrap().count(), 1, "nothing was made there");
}

#[test]
fn pipes_sockets_and_devices_are_not_opened() {
    let mut bench = Bench::new(true);
    assert!(Command::new("mkfifo").arg(bench.notes("pipe")).status().unwrap().success());
    let _socket = UnixListener::bind(bench.notes("socket")).unwrap();
    // Only root may make one; elsewhere the other two show it.
    let device = Command::new("mknod").arg(bench.notes("device")).args(["c", "1", "5"]).output().unwrap();
    let begin = Instant::now();
    for (path, what) in [("pipe", "is a pipe"), ("socket", "is a socket"), ("device", "is a device")] {
        if path == "device" && !device.status.success() {
            continue;
        }
        for act in ["read", "write", "append", "delete"] {
            let error = bench.call(act, path).unwrap_err();
            assert!(error.contains(what), "{act}: {error}");
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "it waited for the other end of a pipe");
}

#[test]
fn a_file_larger_than_memory_is_read_in_pieces() {
    let mut bench = Bench::new(false);
    let file = fs::File::create(bench.notes("huge")).unwrap();
    file.write_all_at(b"end", (1 << 40) - 3).unwrap();
    let read = |offset: u64, length: u32| json!({ "act": "read", "path": "huge", "offset": offset, "length": length });
    assert_eq!(bench.call_with(read((1 << 40) - 3, 1 << 20)).unwrap(), "end");
    let error = bench.call_with(read(0, (1 << 20) + 1)).unwrap_err();
    assert!(error.contains("more than the 1048576 of one read"), "{error}");
    assert!(bench.call("metadata", "huge").unwrap().contains("1099511627776"));
}

#[test]
fn a_folder_of_very_many_files_is_not_listed() {
    let mut bench = Bench::new(false);
    for number in 0..10_000 {
        fs::File::create(bench.notes(&number.to_string())).unwrap();
    }
    let error = bench.call("entries", "").unwrap_err();
    assert!(error.contains("more than 10000 entries"), "{error}");
    assert_eq!(bench.call("read", "a.txt").unwrap(), "inside");
}

#[test]
fn read_only_is_read_only() {
    let mut bench = Bench::new(false);
    for (act, path) in [
        ("write", "a.txt"),
        ("write", "new"),
        ("append", "a.txt"),
        ("make-folder", "new"),
        ("delete", "a.txt"),
    ] {
        let error = bench.call(act, path).unwrap_err();
        assert!(error.contains("may only be read: writing takes write = true"), "{act}: {error}");
    }
    assert_eq!(bench.call("entries", "").unwrap(), "a.txt Kind::File 6\n");
    assert_eq!(bench.call("read", "a.txt").unwrap(), "inside");
}

#[test]
fn what_a_hard_link_shares_stays_as_it_is() {
    let mut bench = Bench::new(true);
    fs::hard_link(bench.outside("secret"), bench.notes("linked")).unwrap();
    let error = bench.call("append", "linked").unwrap_err();
    assert!(error.contains("hard links"), "{error}");
    bench.call("write", "linked").unwrap();
    assert_eq!(fs::read_to_string(bench.notes("linked")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(bench.outside("secret")).unwrap(), SECRET);
}

#[test]
fn one_call_does_not_fill_the_disk() {
    let mut bench = Bench::new(true);
    let many = bench.call_with(json!({ "act": "fill", "path": "f", "text": "x", "length": 1, "times": 300 }));
    assert!(many.unwrap_err().contains("more than the 256 files and folders of one call"));
    let large = json!({ "act": "grow", "path": "g", "text": "x", "length": 1 << 20, "times": 17 });
    let error = bench.call_with(large).unwrap_err();
    assert!(error.contains("more than the 16777216 bytes of one call"), "{error}");
    let more = bench.call_with(json!({ "act": "append", "path": "g", "text": "x" })).unwrap_err();
    assert!(more.contains("would have more than 16777216 bytes"), "{more}");
    let whole = json!({ "act": "fill", "path": "w", "text": "x", "length": (1 << 20) + 1 });
    assert!(bench.call_with(whole).unwrap_err().contains("more than the 1048576 of one write"));
    let files = fs::read_dir(bench.notes("")).unwrap().count();
    assert!(files <= 259, "{files} files were made");
}

#[test]
fn folders_that_are_not_granted_are_told_by_name() {
    let mut bench = Bench::new(true);
    for folder in ["", "outside", "../outside", "Notes", "notes/"] {
        let error =
            bench.call_with(json!({ "act": "read", "folder": folder, "path": "secret" })).unwrap_err();
        assert!(error.contains(&format!("the folder `{folder}` is not granted (notes)")), "{error}");
        assert!(error.contains("folders = [{ name ="), "{error}");
    }
}

#[test]
fn variables_are_read_by_granted_name_only() {
    let host = host();
    // Cargo sets the first for its tests; the second is not set by anyone.
    let environment = vec!["CARGO_PKG_NAME".to_owned(), "MEMBRANE_TEST_UNSET".to_owned()];
    let plugin =
        host.load(with(Authority { environment, ..Authority::default() }, &[]), World::Tool).unwrap();
    let mut tools = ToolSet::start(&host, &[plugin]).unwrap();
    let mut get = |name: &str| {
        let arguments = json!({ "act": "variable", "name": name }).to_string();
        tools.call("test", &arguments).map_err(|error| error.to_string())
    };
    assert_eq!(get("CARGO_PKG_NAME").unwrap(), "Some(\"membrane-host\")");
    assert_eq!(get("MEMBRANE_TEST_UNSET").unwrap(), "None");
    for name in ["PATH", "HOME", "", "CARGO_PKG_NAME\0", "cargo_pkg_name", "*"] {
        let error = get(name).unwrap_err();
        assert!(error.contains("is not granted: it takes the grant `environment`"), "{error}");
    }
}

#[test]
fn values_need_the_grant_and_the_grant_needs_what_it_names() {
    let load = |authority: Authority, grants: &[Grant]| {
        let mut source = with(authority, &[]);
        source.grants = grants.iter().copied().collect();
        host().load(source, World::Tool).unwrap_err().to_string()
    };
    let environment = Authority { environment: vec!["PATH".to_owned()], ..Authority::default() };
    let all_but_one = [Grant::Clock, Grant::Files, Grant::Http];
    let error = load(environment, &all_but_one);
    assert!(error.contains("grants = [\"environment\"]") || error.contains("add \"environment\""), "{error}");
    let missing = start(Path::new("/nowhere/at/all"), false, &[]).err().unwrap().to_string();
    assert!(
        missing.contains("the folder `notes` (/nowhere/at/all) can't be opened: is not there"),
        "{missing}"
    );
    let file = start(Path::new("/etc/passwd"), false, &[]).err().unwrap().to_string();
    assert!(file.contains("can't be opened"), "{file}");
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    common::again_in_processes("all_of_this_holds_in_processes_of_their_own");
}
