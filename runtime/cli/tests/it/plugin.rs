//! `membrane plugin`: inspect, keygen, sign, verify.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use membrane_host::first_party;
use serde_json::{Value, json};

use crate::program::{Ended, membrane, workspace};

/// A folder with first-party components as files, and a key.
pub struct Bench(tempfile::TempDir);

impl Bench {
    /// With `NAME.wasm` for each name, and the key `house`.
    pub fn with(names: &[&str]) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for name in names {
            fs::write(bench.file(&format!("{name}.wasm")), first_party::find(name).unwrap().bytes).unwrap();
        }
        bench.key("house");
        bench
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The path of a file, as an argument.
    pub fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// Makes a key and gives its fingerprint.
    pub fn key(&self, name: &str) -> String {
        membrane(&["plugin", "keygen", &self.path(name)]).good().stdout.trim().to_owned()
    }

    /// Signs a component with a key.
    pub fn sign(&self, component: &str, key: &str) -> Ended {
        membrane(&["plugin", "sign", &self.path(component), "--key", &self.path(&format!("{key}.key"))])
    }
}

fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn a_first_party_plugin_is_told_in_plain_words() {
    let seen = membrane(&["plugin", "inspect", "clock"]).good().stdout;
    for part in [
        "world: tool",
        "asks to read the time of day and the local time zone (grant `clock`)",
        "built for: the contract 0.1.0; this program serves membrane:plugin@0.1.0",
        "part of this program",
        "utc_offset: a string, default \"local\"",
        "digest: sha256:",
    ] {
        assert!(seen.contains(part), "`{part}` is not in: {seen}");
    }
    let report = json_of(&membrane(&["plugin", "inspect", "system-prompt", "--json"]).good());
    assert_eq!((&report["world"], &report["grants"][0]["name"]), (&json!("policy"), &json!("system-prompt")));
    assert_eq!(report["grants"][0]["by"], "manifest");
    assert_eq!(report["parameters"]["text"]["required"], json!(true));
    membrane(&["plugin", "inspect", "none-such"]).failed_saying(&["none-such", "standard-sampler"]);
}

#[test]
fn files_and_folders_are_inspected() {
    let bench = Bench::with(&["calculator"]);
    let report = json_of(&membrane(&["plugin", "inspect", &bench.path("calculator.wasm"), "--json"]).good());
    assert_eq!((&report["world"], &report["parameters"]), (&json!("tool"), &Value::Null));
    assert!(report["signature"].as_str().unwrap().starts_with("none"), "{report}");
    let manifest = workspace().join("plugins/calculator/plugin.toml");
    fs::copy(manifest, bench.file("plugin.toml")).unwrap();
    bench.sign("calculator.wasm", "house").good();
    let report =
        json_of(&membrane(&["plugin", "inspect", bench.folder().to_str().unwrap(), "--json"]).good());
    assert_eq!(report["parameters"]["angle"]["default"], "radians");
    assert!(report["signature"].as_str().unwrap().starts_with("valid, by the key sha256:"), "{report}");
    fs::write(bench.file("calculator.wasm"), first_party::find("greedy").unwrap().bytes).unwrap();
    let seen = membrane(&["plugin", "inspect", bench.folder().to_str().unwrap()]);
    assert_eq!(seen.code, Some(1), "{}", seen.stderr);
    assert!(seen.stdout.contains("signature: not valid"), "{}", seen.stdout);
    assert!(seen.stdout.contains("says that it is a tool, and it is a sampler"), "{}", seen.stdout);
    fs::remove_file(bench.file("calculator.wasm")).unwrap();
    membrane(&["plugin", "inspect", bench.folder().to_str().unwrap()]).failed_saying(&["has no component"]);
}

#[test]
fn a_component_of_another_contract_says_which() {
    let bench = Bench::with(&["clock"]);
    let mut bytes = fs::read(bench.file("clock.wasm")).unwrap();
    // Every name of the contract in it, versions of the same length.
    let mut changed = 0;
    for at in 0..bytes.len().saturating_sub(6) {
        if &bytes[at..at + 6] == b"@0.1.0" {
            bytes[at + 3] = b'9';
            changed += 1;
        }
    }
    assert!(changed > 0);
    fs::write(bench.file("clock.wasm"), bytes).unwrap();
    let seen = membrane(&["plugin", "inspect", &bench.path("clock.wasm")]);
    assert_eq!(seen.code, Some(1), "{}", seen.stderr);
    for part in ["the contract 0.9.0", "of package version 0.9.0; this host serves 0.1.0"] {
        assert!(seen.stdout.contains(part), "`{part}` is not in: {}", seen.stdout);
    }
    bench.sign("clock.wasm", "house").failed_saying(&["0.9.0"]);
    fs::write(bench.file("clock.wasm"), b"\0asm").unwrap();
    membrane(&["plugin", "inspect", &bench.path("clock.wasm")]).failed_saying(&["clock"]);
}

#[test]
fn a_first_party_plugin_is_not_developed() {
    let dev = ["plugin", "dev", "react", "--model", "model.gguf"];
    membrane(&dev).failed_saying(&[
        "`react` is a plugin that the program carries",
        "./react",
        "membrane plugin new",
    ]);
}

#[test]
fn keys_are_private_and_never_overwritten() {
    let bench = Bench::with(&[]);
    let mode = |name: &str| fs::metadata(bench.file(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("house.key"), 0o600);
    let before = fs::read(bench.file("house.key")).unwrap();
    membrane(&["plugin", "keygen", &bench.path("house")]).failed_saying(&["house.key", "can't be written"]);
    assert_eq!(fs::read(bench.file("house.key")).unwrap(), before);
    for kind in ["ed25519", "p256", "p384"] {
        let name = bench.path(kind);
        let report = json_of(&membrane(&["plugin", "keygen", &name, "--type", kind, "--json"]).good());
        assert_eq!(report["type"], kind);
    }
}

#[test]
fn signatures_are_checked_against_a_key_that_is_known() {
    let bench = Bench::with(&["guard"]);
    let component = bench.path("guard.wasm");
    let fork = bench.key("fork");
    let verify = |arguments: &[&str]| membrane(&[&["plugin", "verify", &component], arguments].concat());
    let (house_pub, fork_pub) = (bench.path("house.pub"), bench.path("fork.pub"));
    let missing = verify(&["--key", &house_pub]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stdout.contains("guard.wasm.sig is not there"), "{}", missing.stdout);
    verify(&[]).failed_saying(&["--key"]);
    let signed = bench.sign("guard.wasm", "house").good().stdout;
    let fingerprint = signed.split("signed by ").nth(1).unwrap().trim().to_owned();
    verify(&["--key", &house_pub]).good();
    let report = json_of(&verify(&["--fingerprint", &fingerprint, "--json"]).good());
    assert_eq!((&report["valid"], &report["signer"]), (&json!(true), &json!(fingerprint)));
    for (arguments, expected) in
        [(["--key", &fork_pub], "was made with the key"), (["--fingerprint", &fork], "was made with the key")]
    {
        let wrong = verify(&arguments);
        assert_eq!(wrong.code, Some(1));
        assert!(wrong.stdout.contains(expected), "{}", wrong.stdout);
    }
    fs::write(bench.file("guard.wasm"), first_party::find("greedy").unwrap().bytes).unwrap();
    let changed = verify(&["--key", &house_pub]);
    assert_eq!(changed.code, Some(1));
    assert!(changed.stdout.contains("is of other bytes"), "{}", changed.stdout);
    verify(&["--key", &bench.path("house.key")]).failed_saying(&["it is a PRIVATE KEY, not a PUBLIC KEY"]);
    bench.sign("house.pub", "house").failed_saying(&["is not WebAssembly"]);
}

#[test]
fn folders_that_model_signing_signed_are_checked() {
    let bench = Bench::with(&[]);
    let fixtures = workspace().join("runtime/profile/tests/fixtures/model-signing");
    let folder = bench.file("folder");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("one.txt"), "one\n").unwrap();
    fs::write(folder.join("sub/two.txt"), "two\n").unwrap();
    fs::write(folder.join("skipped"), "anything").unwrap();
    let (key, signature) = (fixtures.join("p256.pub"), fixtures.join("folder.sig"));
    let verify = || {
        let (key, signature) = (key.to_str().unwrap(), signature.to_str().unwrap());
        membrane(&["plugin", "verify", folder.to_str().unwrap(), "--key", key, "--signature", signature])
    };
    let refused = |expected: &str| {
        let ended = verify();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stdout.contains(expected), "{}", ended.stdout);
    };
    verify().good();
    fs::write(folder.join("more"), "").unwrap();
    refused("does not name `more`");
    let (key, signature_path) = (fixtures.join("p256.pub"), fixtures.join("folder.sig"));
    let ignoring = ["--signature", signature_path.to_str().unwrap(), "--ignore", "more"];
    let start = ["plugin", "verify", folder.to_str().unwrap(), "--key", key.to_str().unwrap()];
    membrane(&[&start[..], &ignoring].concat()).good();
    fs::remove_file(folder.join("more")).unwrap();
    fs::write(folder.join("sub/two.txt"), "2\n").unwrap();
    refused("`sub/two.txt` has the digest");
    fs::remove_file(folder.join("sub/two.txt")).unwrap();
    refused("names `sub/two.txt`, which is not in the folder");
    std::os::unix::fs::symlink("../one.txt", folder.join("sub/two.txt")).unwrap();
    refused("is no regular file");
}

#[test]
fn what_build_makes_is_inspected_by_its_folder_and_by_itself() {
    let bench = Bench::with(&["calculator"]);
    fs::copy(workspace().join("plugins/calculator/plugin.toml"), bench.file("plugin.toml")).unwrap();
    fs::create_dir(bench.file("build")).unwrap();
    fs::rename(bench.file("calculator.wasm"), bench.file("build/calculator.wasm")).unwrap();
    fs::copy(bench.file("build/calculator.wasm"), bench.file("build/other.wasm")).unwrap();
    let inspect = |path: &str| json_of(&membrane(&["plugin", "inspect", path, "--json"]).good());
    for path in [bench.folder().to_str().unwrap(), &bench.path("build/calculator.wasm")] {
        let report = inspect(path);
        assert_eq!((&report["name"], &report["world"]), (&json!("calculator"), &json!("tool")));
        assert_eq!(report["parameters"]["angle"]["default"], "radians", "{path}");
    }
    // What else lies there is not what the manifest is of.
    assert_eq!(inspect(&bench.path("build/other.wasm"))["parameters"], Value::Null);
    fs::remove_dir_all(bench.file("build")).unwrap();
    membrane(&["plugin", "inspect", bench.folder().to_str().unwrap()]).failed_saying(&[
        "has no component",
        "membrane plugin build",
        "build/calculator.wasm",
    ]);
}

#[test]
fn a_signature_takes_the_place_of_nothing_that_it_is_made_from() {
    let bench = Bench::with(&["clock"]);
    let (component, key) = (bench.path("clock.wasm"), bench.path("house.key"));
    let before = (fs::read(&component).unwrap(), fs::read(&key).unwrap());
    let sign = |out: &str| membrane(&["plugin", "sign", &component, "--key", &key, "--out", out]);
    std::os::unix::fs::symlink("clock.wasm", bench.file("link")).unwrap();
    for (out, what) in
        [(&component, "is the component"), (&key, "is the key"), (&bench.path("link"), "is the component")]
    {
        sign(out).failed_saying(&["--out", what]);
    }
    assert_eq!((fs::read(&component).unwrap(), fs::read(&key).unwrap()), before);
    sign(&bench.path("clock.wasm.sig")).good();
    sign(&bench.path("clock.wasm.sig")).good();
    membrane(&["plugin", "verify", &component, "--key", &bench.path("house.pub")]).good();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    bench.sign("clock.wasm", "house").failed_saying(&["house.key", "others than its owner", "chmod 600"]);
}
