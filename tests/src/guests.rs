//! Components of the example plugins and of the guests that misbehave for the host's tests, built from source by the tests
//! that use them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock, OnceLock};

use membrane_host::{CodeCache, DEFAULT_CAPACITY_BYTES};

use crate::workspace;

const TARGET: &str = "wasm32-unknown-unknown";

/// Settings of the build that runs the tests; guests have their own.
const FOREIGN: [&str; 5] = ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTC", "RUSTDOC"];
const FOREIGN_PREFIXES: [&str; 4] = ["CARGO_TARGET_", "CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_ENCODED_"];

/// Workspaces of guests: where they are, and the folder in the target folder in which they are built.
const WORKSPACES: [(&str, &str); 2] =
    [("examples/plugins", "guests"), ("runtime/host/tests/guests", "hostile-guests")];

/// The component of an example plugin or a guest of the host's tests (`test-...`), by its package's name.
pub fn guest(name: &str) -> Vec<u8> {
    static FOLDERS: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
    let of_host = usize::from(name.starts_with("test-"));
    let (folder, target) = WORKSPACES[of_host];
    let folder = FOLDERS[of_host].get_or_init(|| build(folder, target));
    let path = folder.join(format!("{}.wasm", name.replace('-', "_")));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Machine code of components, so that each is compiled once for all programs of tests.
pub fn code_cache() -> Arc<CodeCache> {
    static CACHE: LazyLock<Arc<CodeCache>> = LazyLock::new(|| {
        let folder = target_folder().join("tmp/code");
        let key = folder.with_extension("key");
        Arc::new(CodeCache::open(&folder, &key, DEFAULT_CAPACITY_BYTES).expect("the target folder is ours"))
    });
    CACHE.clone()
}

fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => workspace().join(folder),
        None => workspace().join("target"),
    }
}

/// Builds all of a workspace and gives the folder that they are in.
fn build(folder: &str, within: &str) -> PathBuf {
    let target = target_folder().join(within);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if FOREIGN.contains(&text.as_ref()) || FOREIGN_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        {
            cargo.env_remove(&name);
        }
    }
    // The folder's own .cargo/config.toml, which makes components, is found from there.
    cargo.current_dir(workspace().join(folder));
    cargo.args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(&target);
    let output = cargo.output().expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{folder} could not be built:\n{errors}");
    target.join(TARGET).join("release")
}
