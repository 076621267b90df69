//! Lock files: what they hold, what counts as a difference, and hostile ones.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use membrane_profile::{
    ByteSize, Difference, Digest, Generation, Lock, LockedFile, LockedLimits, LockedModel, LockedPlugin,
    Profile, ProfileError,
};
use proptest::prelude::*;

const FINGERPRINT: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const LIMITS: LockedLimits = LockedLimits { fuel_per_call: 1000, memory: ByteSize(1 << 20), wall_ms: None };

fn profile() -> String {
    format!(
        r#"
[generation]
max_tokens = 300
seed = 7

[publishers]
house = "{FINGERPRINT}"

[[sampler]]
plugin = "standard-sampler"
parameters = {{ temperature = 0.5, top_k = 20 }}

[[policy]]
plugin = "guard"
name = "rules"
parameters = {{ rules = "one" }}

[[policy]]
plugin = "guard"
name = "more-rules"

[[tool]]
plugin = "tools/my-tool.wasm"
publisher = "house"
grants = ["clock"]
"#
    )
}

/// The lock of a profile whose components have digests by their names.
fn lock(profile: &str) -> Lock {
    let profile = Profile::parse(profile, "p.toml", Path::new("/nowhere")).unwrap();
    let imports = ["membrane:plugin/log@0.1.0".to_owned()];
    let plugins = profile
        .plugins()
        .map(|plugin| LockedPlugin::new(plugin, Digest::of(plugin.name.as_bytes()), &imports, LIMITS));
    Lock::new(profile.generation, plugins.collect(), Some(model()))
}

fn model() -> LockedModel {
    let file = |name: &str| LockedFile { name: name.into(), bytes: 5, digest: Digest::of(name.as_bytes()) };
    LockedModel {
        tokenizer: Some(Digest::of(b"t")),
        chat_template: None,
        files: vec![file("a.gguf"), file("b.gguf")],
    }
}

/// Differences as `about: what`, with `+` where something may do more.
fn told(differences: &[Difference]) -> Vec<String> {
    let one = |d: &Difference| format!("{}: {}{}", d.about, d.what, if d.widens { " +" } else { "" });
    differences.iter().map(one).collect()
}

#[test]
fn a_lock_reads_back_and_does_not_differ_from_itself() {
    let lock = lock(&profile());
    let path = Path::new("p.lock");
    let text = lock.to_toml(path).unwrap();
    let again = Lock::parse(&text, path).unwrap();
    assert_eq!(again, lock);
    assert_eq!(lock.differences(&again), []);
    assert_eq!(again.model.unwrap().differences(&model()), []);
    assert!(!text.contains("\"one\""), "values of parameters may be private: {text}");
}

#[test]
fn every_change_is_told_by_name_and_what_may_do_more_is_marked() {
    let before = lock(&profile());
    for (from, to, expected) in [
        ("temperature = 0.5", "temperature = 0.6", "sampler standard-sampler: parameters.temperature"),
        (", top_k = 20", "", "sampler standard-sampler: parameters.top_k"),
        ("rules = \"one\"", "rules = \"two\"", "policy rules: parameters.rules"),
        ("seed = 7", "seed = 8", "generation: seed"),
        ("max_tokens = 300\n", "", "generation: max_tokens"),
        ("[\"clock\"]", "[\"clock\", \"more\"]", "tool my-tool: grants +"),
        ("[\"clock\"]", "[]", "tool my-tool: grants"),
        ("publisher = \"house\"", "unsigned = true", "tool my-tool: publisher +"),
        (&FINGERPRINT[60..], "ccccccccccc", "tool my-tool: publisher +"),
        ("[[policy]]\nplugin = \"guard\"\nname = \"more-rules\"\n", "", "policy more-rules: plugin +"),
        ("[[tool]]", "[[tool]]\nplugin = \"clock\"\n[[tool]]", "tool clock: plugin +"),
    ] {
        let now = profile().replacen(from, to, 1);
        assert_ne!(now, profile(), "{from}");
        assert_eq!(told(&before.differences(&lock(&now))), [expected], "{from}");
    }
    let renamed = profile().replace("house", "other");
    assert_eq!(before.differences(&lock(&renamed)), [], "a publisher is its key, not its name");
}

#[test]
fn a_plugin_that_is_replaced_is_told_by_what_it_asks_for() {
    let before = lock(&profile());
    let mut now = before.clone();
    let plugin = now.plugins.last_mut().unwrap();
    plugin.digest = Digest::of(b"an upgrade");
    plugin.imports.insert("membrane:plugin/clock@0.1.0".to_owned());
    plugin.limits = LockedLimits { fuel_per_call: 1001, memory: ByteSize(1), wall_ms: None };
    assert_eq!(
        told(&before.differences(&now)),
        [
            "tool my-tool: digest",
            "tool my-tool: imports +",
            "tool my-tool: limits.fuel_per_call +",
            "tool my-tool: limits.memory"
        ]
    );
    let text = before.differences(&now)[1].to_string();
    assert_eq!(text, "tool my-tool: imports added: membrane:plugin/clock@0.1.0 (may do more)");
    now.plugins.swap(1, 2);
    assert!(told(&before.differences(&now)).contains(&"profile: order of each policy".to_owned()));
}

#[test]
fn a_model_is_its_bytes_and_not_its_name() {
    let before = model();
    let mut now = model();
    now.files[0].name = "renamed.gguf".to_owned();
    assert_eq!(before.differences(&now), []);
    now.files[1].digest = Digest::of(b"x");
    now.tokenizer = None;
    now.chat_template = Some(Digest::of(b"c"));
    now.files.push(now.files[0].clone());
    assert_eq!(
        told(&before.differences(&now)),
        ["model: tokenizer", "model: chat template", "model: file b.gguf", "model: file renamed.gguf"]
    );
    let documents = |name: &str| {
        let mut model = model();
        model.files[0].name = name.to_owned();
        model
    };
    let (was, is) = (documents("tokenizer_config.json"), documents("hf_quant_config.json"));
    assert_eq!(told(&was.differences(&is)), ["model: name of file 0"]);
    let (was, is) = (documents("tool_use.jinja"), documents("additional_chat_templates/tool_use.jinja"));
    assert_eq!(was.differences(&is), []);
    now.files.truncate(1);
    assert!(told(&before.differences(&now)).contains(&"model: file b.gguf".to_owned()));
}

#[test]
fn the_lock_lies_beside_its_profile() {
    for (profile, expected) in [
        ("a/strict.toml", "a/strict.lock"),
        ("strict", "strict.lock"),
        ("x.lock", "x.lock.lock"),
        ("s.v1", "s.v1.lock"),
        ("s.v2", "s.v2.lock"),
    ] {
        assert_eq!(Lock::path_of(Path::new(profile)), Path::new(expected));
    }
    let folder = tempfile::tempdir().unwrap();
    let profile_path = folder.path().join("p.toml");
    assert!(Lock::read_beside(&profile_path).unwrap().is_none());
    let path = folder.path().join("p.lock");
    fs::write(&path, lock(&profile()).to_toml(&path).unwrap()).unwrap();
    assert_eq!(Lock::read_beside(&profile_path).unwrap(), Some(lock(&profile())));
    // Earlier versions would have called it so, which must not be taken for no lock.
    let other = folder.path().join("p.v1");
    assert_eq!(Lock::read_beside(&other).unwrap_err().to_string().matches("rename it").count(), 1);
    fs::write(&profile_path, "").unwrap();
    assert_eq!(Lock::read_beside(&other).unwrap(), None);
    fs::remove_file(&path).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let error = Lock::read_beside(&profile_path).unwrap_err();
        assert!(matches!(error, ProfileError::Unreadable { .. }), "a lock that can't be read is not none");
    }
}

#[test]
fn hostile_locks_are_refused_by_field() {
    let path = Path::new("p.lock");
    let good = lock(&profile()).to_toml(path).unwrap();
    let plugin = good.split("[[plugin]]").nth(1).unwrap();
    let one = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    for (text, expected) in [
        (String::new(), "missing field `version`"),
        (one("version = 1", "version = 2"), "lock of version 2"),
        (one("version = 1", "version = -1"), "invalid value"),
        (one("version = 1", "version = 1\nversion = 1"), "duplicate key"),
        (one("version = 1", "version = 1\nsurprise = 1"), "unknown field `surprise`"),
        (one("kind = \"sampler\"", "kind = \"demon\""), "unknown variant `demon`"),
        (one("digest = \"sha256:", "digest = \"sha256:0"), "is not a digest"),
        (one("digest = \"sha256:", "digest = \"md5:"), "is not a digest"),
        (one("bytes = 5", "bytes = -5"), "invalid value"),
        (one("memory = \"1MiB\"", "memory = \"1XB\""), "unknown unit"),
        (format!("{good}\n[[plugin]]{plugin}"), "has the plugin `standard-sampler` twice"),
        (format!("version = 1\nx = {}", "[".repeat(100_000)), "p.lock:2"),
        ("version = 1\n[model]\nfile = []".to_owned(), "a model without files"),
        (good[..good.len() - 10].to_owned(), "p.lock:"),
    ] {
        let error = Lock::parse(&text, path).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

proptest! {
    /// A lock with one character changed is refused, or still says something that is told, or means the same.
    #[test]
    fn a_changed_character_is_refused_or_told(at in any::<prop::sample::Index>(), with in "[a-z0-9\"=\\[]") {
        let path = Path::new("p.lock");
        let lock = lock(&profile());
        let text = lock.to_toml(path).unwrap();
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = with.as_bytes()[0];
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        let Ok(read) = Lock::parse(&text, path) else { return Ok(()) };
        let silent = read.differences(&lock).is_empty()
            && read.model.as_ref().is_some_and(|model| model.differences(&lock.model.clone().unwrap()).is_empty());
        if silent {
            // Names for people and comments: nothing that decides.
            let mut read = read;
            for (read, own) in read.plugins.iter_mut().zip(&lock.plugins) {
                read.publisher.clone_from(&own.publisher);
            }
            read.model = lock.model.clone();
            prop_assert_eq!(read, lock);
        }
    }
}

#[test]
fn a_generation_without_settings_is_one() {
    let lock = Lock::new(Generation::default(), Vec::new(), None);
    let text = lock.to_toml(Path::new("p.lock")).unwrap();
    assert_eq!(Lock::parse(&text, Path::new("p.lock")).unwrap(), lock);
}

#[test]
fn a_plugin_that_is_held_less_than_was_approved_differs() {
    let entry = |isolation: &str| {
        let line =
            if isolation.is_empty() { String::new() } else { format!("isolation = \"{isolation}\"\n") };
        lock(&format!("[[tool]]\nplugin = \"t.wasm\"\nunsigned = true\n{line}"))
    };
    for (before, now, expected) in [
        ("", "none", &["tool t: isolation +"][..]),
        ("required", "", &["tool t: isolation +"]),
        ("required", "process", &["tool t: isolation +"]),
        ("none", "process", &[]),
        ("none", "", &[]),
        ("", "process", &[]),
    ] {
        assert_eq!(told(&entry(before).differences(&entry(now))), expected, "{before} -> {now}");
    }
    let path = Path::new("p.lock");
    let text = entry("required").to_toml(path).unwrap();
    assert_eq!(Lock::parse(&text, path).unwrap(), entry("required"));
    let older = entry("none").to_toml(path).unwrap().replace("isolation = \"none\"\n", "");
    assert_eq!(Lock::parse(&older, path).unwrap(), entry("none"));
}
