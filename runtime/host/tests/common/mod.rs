//! What the host's tests share: guests that are built for them, and a vocabulary.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use membrane_host::isolation::{ProcessOptions, Program};
use membrane_host::{
    AnswerContext, CodeCache, DEFAULT_CAPACITY_BYTES, Grant, Host, HostOptions, Isolation, Limits, Plugin,
    PluginSource, Vocabulary, World,
};
use serde_json::Value;

/// Fuel of guests in tests: some tenths of a second, and enough to fill all the memory that they may have.
pub const LITTLE_FUEL: u64 = 150_000_000;

/// Tokens that are numbers.
pub struct Numbers(Vec<String>);

impl Numbers {
    pub fn new(size: usize) -> Self {
        Self((0..size).map(|token| token.to_string()).collect())
    }
}

impl Vocabulary for Numbers {
    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.0.get(token as usize).map(String::as_bytes)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        text.split(' ').map(|word| word.parse().map_err(|_| format!("{word} is no number"))).collect()
    }

    fn is_end(&self, token: u32) -> bool {
        token == 0
    }

    fn end_token(&self) -> Option<u32> {
        Some(0)
    }
}

pub fn context(size: usize, seed: u64) -> AnswerContext {
    AnswerContext { vocabulary: Arc::new(Numbers::new(size)), seed }
}

pub fn host() -> Host {
    host_with(options())
}

/// A host that compiles each component once for all tests and runs.
pub fn host_with(options: HostOptions) -> Host {
    static CACHE: OnceLock<Arc<CodeCache>> = OnceLock::new();
    let cache = CACHE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("host-code");
        let key = folder.with_extension("key");
        Arc::new(CodeCache::open(&folder, &key, DEFAULT_CAPACITY_BYTES).unwrap())
    });
    Host::new(HostOptions { cache: Some(cache.clone()), ..options }).unwrap()
}

/// Options of a host whose plugins may have processes of their own.
pub fn options() -> HostOptions {
    let processes = Some(ProcessOptions::new(program("common::plugin_process")));
    HostOptions { processes, ..HostOptions::default() }
}

/// This test's own program, as one that runs an ignored test.
pub fn program(test: &str) -> Program {
    let arguments = ["--exact", test, "--ignored", "--test-threads=1", "--nocapture"];
    Program { path: std::env::current_exe().unwrap(), arguments: arguments.map(str::to_owned).to_vec() }
}

#[test]
#[ignore = "is the process of a plugin, started by tests"]
fn plugin_process() {
    membrane_host::isolation::serve();
}

/// Says that plugins of tests run in processes of their own.
const ISOLATED: &str = "MEMBRANE_TEST_ISOLATED";

/// Where plugins of tests run.
pub fn isolation() -> Isolation {
    if std::env::var_os(ISOLATED).is_some() { Isolation::Process } else { Isolation::None }
}

/// A source that runs where those of tests do.
pub fn placed(source: PluginSource) -> PluginSource {
    PluginSource { isolation: isolation(), ..source }
}

/// Runs the tests of a file again, with the same results, texts of errors included. `caller`: the test that does it.
pub fn again_in_processes(caller: &str) {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--skip", caller, "--test-threads=2"]).env(ISOLATED, "yes");
    let output = again.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("running 0 tests"), "{text}");
}

/// A source with few units of fuel, so that what loops is over soon.
pub fn source(name: &str, bytes: Vec<u8>, world: World, parameters: Value) -> PluginSource {
    let limits = Limits { fuel_per_call: LITTLE_FUEL, ..Limits::of(world) };
    placed(PluginSource { parameters, limits, ..PluginSource::new(name, bytes, world) })
}

/// A guest of `tests/guests` with all grants of its world, which misbehaves as its parameters say.
pub fn guest(host: &Host, world: World, parameters: Value) -> Plugin {
    let mut source = source("x", component(world), world, parameters);
    source.grants.extend(Grant::ALL.into_iter().filter(|grant| grant.world() == world));
    load(host, source)
}

pub fn load(host: &Host, source: PluginSource) -> Plugin {
    let world = Host::world_of(&source.name, &source.bytes).unwrap();
    host.load(placed(source), world).unwrap()
}

/// A sampler of `tests/guests` with all grants.
pub fn sampler(host: &Host, mode: &str) -> Plugin {
    guest(host, World::Sampler, serde_json::json!({ "mode": mode }))
}

/// The component of a guest of `tests/guests`, built on first use.
pub fn component(world: World) -> Vec<u8> {
    package(&format!("test-{world}"))
}

/// The same by the name of its package.
pub fn package(name: &str) -> Vec<u8> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(build);
    std::fs::read(folder.join(format!("{}.wasm", name.replace('-', "_")))).unwrap()
}

fn build() -> PathBuf {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars() {
        // Which toolchain, and whether rustup may install one, is the caller's business.
        let of_rust = name.starts_with("RUST") && !name.starts_with("RUSTUP_");
        if of_rust || name.starts_with("CARGO_") && name != "CARGO_HOME" {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(&guests).args(["build", "--release", "--locked", "--target-dir"]).arg(&target);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("wasm32-unknown-unknown/release")
}
