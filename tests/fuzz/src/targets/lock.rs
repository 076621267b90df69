//! A lock file, compared with itself as written again.

use std::path::Path;

use membrane_profile::{
    ByteSize, Digest, Generation, Lock, LockedFile, LockedLimits, LockedModel, LockedPlugin, Profile,
};

use super::{profile, shown};

/// Tables and keys.
pub const WORDS: &[&str] = &[
    "version = ",
    "[model]",
    "[[model.files]]",
    "[[plugin]]",
    "kind = \"sampler\"",
    "digest = \"sha256:",
    "imports = [",
    "grants = [",
    "authority = [",
    "isolation = ",
    "[plugin.limits]",
    "[plugin.parameters]",
    "[plugin.publisher]",
    "fingerprint",
    "fuel_per_call",
    "wall_ms",
    "[generation]",
];

/// Parses it and reads what is written of it.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("p.lock");
    let lock = match Lock::parse(text, path) {
        Ok(lock) => lock,
        Err(error) => return shown(&error),
    };
    for difference in lock.differences(&Lock::new(Generation::default(), Vec::new(), None)) {
        shown(&difference);
    }
    match lock.to_toml(path) {
        Ok(written) => {
            let again = Lock::parse(&written, path).expect("a written lock that can be read");
            assert_eq!(lock.differences(&again), [], "{written}");
        }
        Err(error) => shown(&error),
    }
}

/// Locks of the profiles that [`profile`] is tried on.
pub fn seeds() -> Vec<Vec<u8>> {
    let limits = LockedLimits { fuel_per_call: 1000, memory: ByteSize(1 << 20), wall_ms: Some(5) };
    let file = LockedFile { name: "a.gguf".into(), bytes: 5, digest: Digest::of(b"a") };
    let model = LockedModel { tokenizer: Some(Digest::of(b"t")), chat_template: None, files: vec![file] };
    let imports = ["membrane:plugin/log@0.1.0".to_owned()];
    let lock = |text: Vec<u8>| {
        let text = String::from_utf8(text).expect("a text");
        let profile = Profile::parse(&text, "p.toml", Path::new("/nowhere")).expect("a valid profile");
        let plugins =
            profile.plugins().map(|plugin| LockedPlugin::new(plugin, Digest::of(b"p"), &imports, limits));
        let lock = Lock::new(profile.generation, plugins.collect(), Some(model.clone()));
        lock.to_toml(Path::new("p.lock")).expect("a valid lock").into_bytes()
    };
    profile::seeds().into_iter().map(lock).collect()
}
