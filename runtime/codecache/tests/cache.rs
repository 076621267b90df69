//! What the cache gives back, and what it does with entries that are not what was stored.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use membrane_codecache::{CacheError, CodeCache, DEFAULT_CAPACITY_BYTES};
use tempfile::TempDir;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

const DIGEST: [u8; 32] = [7; 32];
/// MAGIC and MAC.
const HEAD_BYTES: usize = 48;

struct Place {
    folder: TempDir,
    engine: Engine,
}

impl Place {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), engine: Engine::default() }
    }

    fn code(&self) -> PathBuf {
        self.folder.path().join("cache/code")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("state/code.key")
    }

    fn open(&self) -> CodeCache {
        self.open_with(DEFAULT_CAPACITY_BYTES)
    }

    fn open_with(&self, capacity: u64) -> CodeCache {
        CodeCache::open(&self.code(), &self.key(), capacity).unwrap()
    }

    /// A component whose function `answer` gives a number.
    fn component(&self, number: u32) -> Component {
        let text = format!(
            "(component (core module $m (func (export \"answer\") (result i32) i32.const {number})) \
             (core instance $i (instantiate $m)) \
             (func (export \"answer\") (result u32) (canon lift (core func $i \"answer\"))))"
        );
        Component::new(&self.engine, wat::parse_str(text).unwrap()).unwrap()
    }

    fn answer(&self, component: &Component) -> u32 {
        let mut store = Store::new(&self.engine, ());
        let instance = Linker::new(&self.engine).instantiate(&mut store, component).unwrap();
        let answer = instance.get_typed_func::<(), (u32,)>(&mut store, "answer").unwrap();
        answer.call(&mut store, ()).unwrap().0
    }

    fn entries(&self) -> Vec<PathBuf> {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(self.code()).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        entries
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_was_stored_comes_back_in_another_process_life() {
    let place = Place::new();
    assert!(place.open().load(&place.engine, &DIGEST).is_none());
    place.open().store(&place.engine, &DIGEST, &place.component(42)).unwrap();
    let component = place.open().load(&place.engine, &DIGEST).unwrap();
    assert_eq!(place.answer(&component), 42);
    assert!(place.open().load(&place.engine, &[8; 32]).is_none());
    assert_eq!(place.open().usage().unwrap().1, 1);
}

#[test]
fn folders_entries_and_key_are_this_users_alone() {
    let place = Place::new();
    fs::create_dir_all(place.code()).unwrap();
    fs::set_permissions(place.code(), fs::Permissions::from_mode(0o777)).unwrap();
    place.open().store(&place.engine, &DIGEST, &place.component(1)).unwrap();
    assert_eq!((mode(&place.code()), mode(&place.key())), (0o700, 0o600));
    assert_eq!(mode(place.key().parent().unwrap()), 0o700);
    assert_eq!(mode(&place.entries()[0]), 0o600);
}

#[test]
fn every_changed_bit_and_every_cut_is_refused_and_deleted() {
    let place = Place::new();
    let cache = place.open();
    cache.store(&place.engine, &DIGEST, &place.component(42)).unwrap();
    let entry = place.entries().remove(0);
    let good = fs::read(&entry).unwrap();
    let flips = (0..HEAD_BYTES).chain((HEAD_BYTES..good.len()).step_by(211)).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    let cuts = (0..good.len()).step_by(307).chain([good.len() - 1]).map(|length| good[..length].to_vec());
    let longer = std::iter::once([&good[..], b"\0"].concat());
    for (index, bytes) in flips.chain(cuts).chain(longer).enumerate() {
        fs::write(&entry, bytes).unwrap();
        assert!(cache.load(&place.engine, &DIGEST).is_none(), "case {index}");
        assert!(!entry.exists(), "case {index}");
    }
    fs::write(&entry, &good).unwrap();
    assert!(cache.load(&place.engine, &DIGEST).is_some());
}

#[test]
fn an_entry_of_another_component_engine_or_key_is_refused() {
    let place = Place::new();
    let cache = place.open();
    cache.store(&place.engine, &DIGEST, &place.component(1)).unwrap();
    let entry = place.entries().remove(0);
    let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
    // Another component's name.
    let other = place.code().join(name.replace(&"07".repeat(32), &"08".repeat(32)));
    fs::copy(&entry, &other).unwrap();
    assert!(cache.load(&place.engine, &[8; 32]).is_none() && !other.exists());
    // Another engine has entries of its own, and does not take these under its name.
    let engine = Engine::new(Config::new().consume_fuel(true)).unwrap();
    assert!(cache.load(&engine, &DIGEST).is_none());
    let component = Component::new(&engine, wat::parse_str("(component)").unwrap()).unwrap();
    cache.store(&engine, &DIGEST, &component).unwrap();
    let foreign = place.entries().into_iter().find(|path| *path != entry).unwrap();
    fs::copy(&entry, &foreign).unwrap();
    assert!(cache.load(&engine, &DIGEST).is_none() && !foreign.exists());
    // Another user's key.
    let elsewhere = place.folder.path().join("elsewhere/code.key");
    let stranger = CodeCache::open(&place.code(), &elsewhere, DEFAULT_CAPACITY_BYTES).unwrap();
    assert!(stranger.load(&place.engine, &DIGEST).is_none() && !entry.exists());
}

#[test]
fn what_is_no_file_of_ours_is_not_read() {
    let place = Place::new();
    let cache = place.open();
    cache.store(&place.engine, &DIGEST, &place.component(1)).unwrap();
    let entry = place.entries().remove(0);
    let moved = place.folder.path().join("moved");
    fs::rename(&entry, &moved).unwrap();
    symlink(&moved, &entry).unwrap();
    assert!(cache.load(&place.engine, &DIGEST).is_none(), "a link");
    fs::remove_file(&entry).unwrap();
    // A pipe does not hold the program up.
    assert!(Command::new("mkfifo").arg(&entry).status().unwrap().success());
    assert!(cache.load(&place.engine, &DIGEST).is_none() && !entry.exists());
    fs::create_dir(&entry).unwrap();
    assert!(cache.load(&place.engine, &DIGEST).is_none() && !entry.exists());
    // A file of terabytes takes no memory.
    fs::File::create(&entry).unwrap().set_len(1 << 42).unwrap();
    assert!(cache.load(&place.engine, &DIGEST).is_none() && !entry.exists());
}

#[test]
fn a_folder_or_key_that_is_not_private_is_refused() {
    let place = Place::new();
    place.open();
    fs::set_permissions(place.key(), fs::Permissions::from_mode(0o644)).unwrap();
    let open = || CodeCache::open(&place.code(), &place.key(), DEFAULT_CAPACITY_BYTES);
    assert!(matches!(open(), Err(CacheError::NotPrivate { .. })));
    fs::remove_file(place.key()).unwrap();
    symlink(place.folder.path().join("stolen"), place.key()).unwrap();
    assert!(open().is_err());
    fs::remove_file(place.key()).unwrap();
    // What is left of a key that was cut short is replaced.
    fs::write(place.key(), [1; 31]).unwrap();
    fs::set_permissions(place.key(), fs::Permissions::from_mode(0o600)).unwrap();
    open().unwrap();
    assert_eq!(fs::read(place.key()).unwrap().len(), 32);
    let link = place.folder.path().join("link");
    symlink(place.code(), &link).unwrap();
    assert!(CodeCache::open(&link, &place.key(), 0).is_err());
    assert!(CodeCache::open(&place.key(), &place.key(), 0).is_err(), "a file in place of the folder");
}

#[test]
fn entries_used_longest_ago_are_evicted_first() {
    let place = Place::new();
    let component = place.component(1);
    place.open().store(&place.engine, &[0; 32], &component).unwrap();
    let bytes = fs::metadata(&place.entries()[0]).unwrap().len();
    let cache = place.open_with(3 * bytes);
    let digests: Vec<[u8; 32]> = (0..5).map(|number| [number; 32]).collect();
    let age = |number: u8, seconds: u64| {
        let name = format!("{number:02x}").repeat(32);
        let entry = place.entries().into_iter().find(|path| path.to_str().unwrap().contains(&name)).unwrap();
        let file = fs::OpenOptions::new().write(true).open(entry).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    for (number, digest) in (0u8..3).zip(&digests) {
        cache.store(&place.engine, digest, &component).unwrap();
        age(number, 1000 - 100 * u64::from(number));
    }
    // The oldest is used again, so that the second goes.
    assert!(cache.load(&place.engine, &digests[0]).is_some());
    cache.store(&place.engine, &digests[3], &component).unwrap();
    let there: Vec<bool> = digests.iter().map(|digest| cache.load(&place.engine, digest).is_some()).collect();
    assert_eq!(there, [true, false, true, true, false]);
    assert!(cache.usage().unwrap().0 <= 3 * bytes);
    // What a process did not finish goes when it is old; what one writes now stays.
    for (name, seconds) in [(".old.tmp", 3600), (".new.tmp", 0)] {
        let file = fs::File::create(place.code().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }
    cache.store(&place.engine, &digests[4], &component).unwrap();
    assert!(!place.code().join(".old.tmp").exists() && place.code().join(".new.tmp").exists());
    // An entry larger than the whole cache is not kept.
    place.open_with(bytes - 1).store(&place.engine, &[9; 32], &component).unwrap();
    assert!(place.open().load(&place.engine, &[9; 32]).is_none());
}

#[test]
fn caches_opened_at_once_agree_on_a_key_and_read_whole_entries() {
    for _ in 0..8 {
        let place = Place::new();
        let components: Vec<Component> = (0..4).map(|number| place.component(number)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cache = place.open();
                    for round in 0..20u8 {
                        let number = round % 4;
                        let digest = [number; 32];
                        if let Some(found) = cache.load(&place.engine, &digest) {
                            assert_eq!(place.answer(&found), u32::from(number));
                        }
                        cache.store(&place.engine, &digest, &components[usize::from(number)]).unwrap();
                    }
                });
            }
        });
        let cache = place.open();
        for number in 0..4u8 {
            let found = cache.load(&place.engine, &[number; 32]).expect("all use one key");
            assert_eq!(place.answer(&found), u32::from(number));
        }
    }
}

#[test]
fn code_of_confined_compilers_and_of_our_own_are_never_mixed_up() {
    let place = Place::new();
    let cache = place.open();
    let code = place.component(666).serialize().unwrap();
    cache.store_confined(&place.engine, &DIGEST, &code).unwrap();
    assert!(cache.load(&place.engine, &DIGEST).is_none());
    assert_eq!(cache.read_confined(&place.engine, &DIGEST).as_deref(), Some(&code[..]));
    let confined = &place.entries()[0];
    cache.store(&place.engine, &DIGEST, &place.component(42)).unwrap();
    let own = place.entries().into_iter().find(|path| path != confined).unwrap();
    let (ours, theirs) = (fs::read(&own).unwrap(), fs::read(confined).unwrap());
    // Under the other's name each is refused and deleted.
    fs::write(&own, &theirs).unwrap();
    assert!(cache.load(&place.engine, &DIGEST).is_none() && !own.exists());
    fs::write(confined, &ours).unwrap();
    assert!(cache.read_confined(&place.engine, &DIGEST).is_none() && !confined.exists());
    fs::write(&own, &ours).unwrap();
    assert_eq!(place.answer(&cache.load(&place.engine, &DIGEST).unwrap()), 42);
}

#[test]
fn code_for_a_confined_process_is_of_its_engine() {
    let place = Place::new();
    let code = place.component(42).serialize().unwrap();
    assert_eq!(place.answer(&membrane_codecache::load_confined(&place.engine, &code).unwrap()), 42);
    let other = Engine::new(Config::new().consume_fuel(true)).unwrap();
    assert!(membrane_codecache::load_confined(&other, &code).is_err());
    assert!(membrane_codecache::load_confined(&place.engine, b"no code").is_err());
}
