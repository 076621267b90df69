//! A profile, and the lock and the digest made of it.

use std::path::Path;

use membrane_profile::{ByteSize, Digest, Lock, LockedLimits, LockedPlugin, Profile, ProfileDigest};

use super::shown;

/// Tables and keys.
pub const WORDS: &[&str] = &[
    "[generation]",
    "[publishers]",
    "[[sampler]]",
    "[[policy]]",
    "[[tool]]",
    "[[agent]]",
    "plugin = ",
    "name = ",
    "parameters = {",
    "grants = [",
    "limits = {",
    "fuel_per_call",
    "memory = \"64MiB\"",
    "wall_ms",
    "digest = \"sha256:",
    "publisher = ",
    "unsigned = true",
    "isolation = \"process\"",
    "folders = [",
    "hosts = [",
    "environment = [",
    "secrets = [",
    "from_env",
    "prefix",
    "header",
    "private = true",
    "file:",
    "https://",
    "[::1]:1",
    "'''",
    "\"\"\"",
    "seed",
    "context",
];

/// Parses it, locks it, and reads the lock again.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let profile = match Profile::parse(text, "p.toml", Path::new("/nowhere")) {
        Ok(profile) => profile,
        Err(error) => return shown(&error),
    };
    let limits = LockedLimits { fuel_per_call: 1, memory: ByteSize(1), wall_ms: None };
    let digests: Vec<Digest> = profile.plugins().map(|plugin| Digest::of(plugin.name.as_bytes())).collect();
    let _ = ProfileDigest::of(&profile, &digests).inspect_err(|error| shown(error));
    let locked = profile.plugins().zip(&digests);
    let locked = locked.map(|(plugin, digest)| LockedPlugin::new(plugin, *digest, &[], limits)).collect();
    let lock = Lock::new(profile.generation, locked, None);
    let path = Path::new("p.lock");
    let written = lock.to_toml(path).expect("a lock that can be written");
    let again = Lock::parse(&written, path).expect("a written lock that can be read");
    assert_eq!(lock.differences(&again), [], "{written}");
}

/// One of everything.
pub fn seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"abc");
    let everything = format!(
        r#"name = "strict"
[generation]
max_tokens = 300
seed = 7
context = 1024
[publishers]
house = "{digest}"
[[sampler]]
plugin = "standard-sampler"
parameters = {{ temperature = 0.5, top_k = 20 }}
grants = ["all-logits"]
limits = {{ fuel_per_call = 1000, memory = "64MiB" }}
[[policy]]
plugin = "guard"
name = "house-rules"
isolation = "required"
[policy.parameters]
rules = '''
[[clause]]
id = "a"
'''
[[tool]]
plugin = "tools/my-tool.wasm"
publisher = "house"
[[agent]]
plugin = "react"
digest = "{digest}"
"#
    );
    let granted = r#"[[tool]]
plugin = "http-fetch"
grants = ["http", "files", "environment"]
folders = [{ name = "notes", path = "n" }, { name = "drafts", path = "/d", write = true }]
hosts = ["api.example.org", { host = "http://intranet.example:8080", private = true }, "[::1]:1 private"]
environment = ["LANG"]
secrets = [
    { name = "key", from_env = "API_KEY", host = "https://API.example.org:443", prefix = "Bearer " },
    { name = "other", file = "k", host = "http://intranet.example:8080", header = "X-Key" },
]
limits = { wall_ms = 5000 }
"#;
    vec![everything.into_bytes(), granted.as_bytes().to_vec(), b"[[sampler]]\nplugin = \"greedy\"\n".to_vec()]
}
