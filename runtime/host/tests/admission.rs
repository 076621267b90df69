//! Whose components are taken: digests, signatures, and what a profile says of neither.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use membrane_host::{Component, Description, Grant, HostError, World, first_party, signature_path};
use membrane_profile::signature::{Algorithm, SecretKey, Statement, sign};
use membrane_profile::{Digest, Profile, ResolvedPlugin};
use serde_json::{Value, json};

/// A folder with a component of its own and keys of two publishers.
struct Stage {
    folder: tempfile::TempDir,
    house: SecretKey,
    fork: SecretKey,
}

impl Stage {
    fn new() -> Self {
        let stage = Self {
            folder: tempfile::tempdir().unwrap(),
            house: SecretKey::generate(Algorithm::Ed25519).unwrap().0,
            fork: SecretKey::generate(Algorithm::Ed25519).unwrap().0,
        };
        stage.write("x.wasm", first_party::find("clock").unwrap().bytes);
        stage
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    /// Signs what is in `x.wasm`.
    fn sign(&self, key: &SecretKey) -> String {
        let digest = Digest::of(&fs::read(self.path().join("x.wasm")).unwrap());
        let text = sign(&Statement::of_file("x.wasm", digest), key).unwrap();
        self.write("x.wasm.sig", text.as_bytes());
        text
    }

    /// The tool of a profile with these lines in its entry; the publisher is known by `known`.
    fn plugin(&self, known: &str, entry: &str) -> ResolvedPlugin {
        let text = format!("[publishers]\nhouse = \"{known}\"\n[[tool]]\nplugin = \"x.wasm\"\n{entry}\n");
        let profile = Profile::parse(&text, "p.toml", self.path()).unwrap();
        profile.tools()[0].clone()
    }

    fn fingerprint(&self) -> String {
        self.house.public().fingerprint().to_string()
    }

    fn load(&self, entry: &str) -> Result<Component, HostError> {
        Component::of(&self.plugin(&self.fingerprint(), entry))
    }

    fn refusal(&self, entry: &str) -> String {
        let error = self.load(entry).map(|component| component.digest).unwrap_err().to_string();
        assert!(error.starts_with("plugin `x`"), "{error}");
        error
    }
}

const SIGNED: &str = "publisher = \"house\"";

#[test]
fn a_file_needs_a_word_on_whose_it_is() {
    let stage = Stage::new();
    let digest = Digest::of(first_party::find("clock").unwrap().bytes);
    let error = stage.refusal("");
    for part in [&format!("digest = \"{digest}\""), "publisher = \"NAME\"", "unsigned = true"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    assert_eq!(stage.load("unsigned = true").unwrap().digest, digest);
    assert_eq!(stage.load(&format!("digest = \"{digest}\"")).unwrap().digest, digest);
    stage.sign(&stage.house);
    assert!(
        stage.refusal("").contains("does not say whose it is"),
        "a signature says nothing to who asks for none"
    );
    stage.write("x.wasm", b"other bytes");
    assert!(stage.refusal(&format!("digest = \"{digest}\"")).contains("put the new digest into the profile"));
}

#[test]
fn what_is_typed_is_taken() {
    let stage = Stage::new();
    let path = stage.path().join("x.wasm");
    let argument = path.to_str().unwrap().parse().unwrap();
    let profile = Profile::default_profile().with_tools(vec![argument]).unwrap();
    assert!(Component::of(&profile.tools()[0]).is_ok());
}

#[test]
fn a_publishers_signature_is_asked_for_and_no_other_will_do() {
    let stage = Stage::new();
    assert!(stage.refusal(SIGNED).contains("x.wasm.sig is not there"));
    stage.sign(&stage.house);
    assert!(stage.load(SIGNED).is_ok());
    stage.sign(&stage.fork);
    let error = stage.refusal(SIGNED);
    assert!(
        error.contains("must be signed by `house`") && error.contains("was made with the key"),
        "{error}"
    );
    assert!(error.contains(&stage.fork.public().fingerprint().to_string()), "{error}");
}

#[test]
fn a_fork_that_lies_about_its_key_is_refused() {
    let stage = Stage::new();
    let mut forged: Value = serde_json::from_str(&stage.sign(&stage.fork)).unwrap();
    let own: Value = serde_json::from_str(&stage.sign(&stage.house)).unwrap();
    forged["verificationMaterial"] = own["verificationMaterial"].clone();
    stage.write("x.wasm.sig", forged.to_string().as_bytes());
    assert!(stage.refusal(SIGNED).contains("did not sign it"));
    // The house's own signature of something else.
    stage.write("x.wasm", first_party::find("calculator").unwrap().bytes);
    stage.write("x.wasm.sig", own.to_string().as_bytes());
    assert!(stage.refusal(SIGNED).contains("is of other bytes"));
    for broken in ["", "{}", "\u{1b}[2J", "null"] {
        stage.write("x.wasm.sig", broken.as_bytes());
        let error = stage.refusal(SIGNED);
        assert!(error.contains("is no signature") && !error.contains('\u{1b}'), "{error}");
    }
}

#[test]
fn digest_and_publisher_are_both_held_to() {
    let stage = Stage::new();
    stage.sign(&stage.house);
    let digest = Digest::of(first_party::find("clock").unwrap().bytes);
    assert!(stage.load(&format!("{SIGNED}\ndigest = \"{digest}\"")).is_ok());
    // An older or newer component of the same publisher.
    stage.write("x.wasm", first_party::find("calculator").unwrap().bytes);
    stage.sign(&stage.house);
    assert!(stage.load(SIGNED).is_ok());
    assert!(stage.refusal(&format!("{SIGNED}\ndigest = \"{digest}\"")).contains("the profile pins"));
}

#[test]
fn a_signature_that_names_its_key_only_needs_the_key_in_the_profile() {
    let stage = Stage::new();
    let mut bundle: Value = serde_json::from_str(&stage.sign(&stage.house)).unwrap();
    bundle["verificationMaterial"]["publicKey"] = json!({ "hint": stage.house.public().fingerprint().hex() });
    stage.write("x.wasm.sig", bundle.to_string().as_bytes());
    assert!(stage.refusal(SIGNED).contains("give the public key"));
    stage.write("house.pub", stage.house.public().to_pem().as_bytes());
    assert!(Component::of(&stage.plugin("file:house.pub", SIGNED)).is_ok());
}

#[test]
fn what_is_no_file_is_refused() {
    let stage = Stage::new();
    fs::remove_file(stage.path().join("x.wasm")).unwrap();
    assert!(stage.refusal("unsigned = true").contains("x.wasm"));
    fs::create_dir(stage.path().join("x.wasm")).unwrap();
    assert!(stage.refusal("unsigned = true").contains("is a folder; give the component"));
}

#[test]
fn signatures_lie_beside_their_components() {
    assert_eq!(signature_path(Path::new("a/b.wasm")), Path::new("a/b.wasm.sig"));
}

#[test]
fn every_first_party_plugin_describes_itself_and_asks_for_what_its_manifest_says() {
    for plugin in first_party::list() {
        let description = Description::of(plugin.name, plugin.bytes).unwrap();
        assert_eq!(description.world, Ok(plugin.world));
        assert!(description.imports.iter().all(|import| import.offered), "{description:?}");
        assert_eq!(description.contract.iter().collect::<Vec<_>>(), ["0.1.0"]);
        let named = Grant::parse_all(&plugin.manifest().unwrap().grants).unwrap();
        assert!(description.grants().is_subset(&named), "{}", plugin.name);
        let by_import = named.iter().filter(|grant| grant.interface().is_some());
        assert_eq!(
            by_import.count(),
            description.grants().len(),
            "{}: a grant that is not used",
            plugin.name
        );
        assert!(named.iter().all(|grant| grant.world() == plugin.world), "{}", plugin.name);
    }
    let clock = Description::of("clock", first_party::find("clock").unwrap().bytes).unwrap();
    assert_eq!(clock.grants().into_iter().collect::<Vec<_>>(), [Grant::Clock]);
    assert_eq!(clock.world, Ok(World::Tool));
}
