//! `membrane model ls` and `membrane model verify`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use membrane_profile::Digest;
use membrane_profile::signature::{Algorithm, Resource, SecretKey, Statement, sign};
use serde_json::Value;

use crate::program::{DENSE, Ended, MOE, command, fixture, membrane};

/// The program of a user with this home.
fn at_home(home: &Path, arguments: &[&str]) -> Ended {
    let mut command = command(arguments);
    for name in ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE"] {
        command.env_remove(name);
    }
    command.env("HOME", home).env("XDG_CACHE_HOME", home.join(".cache")).output().unwrap().into()
}

fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn digest(path: &Path) -> Digest {
    Digest::of(&fs::read(path).unwrap())
}

/// A home in which four programs keep a model each, and what is none beside them.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let model = fs::read(fixture(MOE)).unwrap();
    let hex = Digest::of(&model).hex();
    let below = |path: &str| home.path().join(path);

    let repository = below(".cache/huggingface/hub/models--org--name");
    put(&repository.join("blobs").join(&hex), &model);
    fs::create_dir_all(repository.join("snapshots/abc")).unwrap();
    symlink(format!("../../blobs/{hex}"), repository.join("snapshots/abc/m.gguf")).unwrap();

    let ollama = below(".ollama/models");
    put(&ollama.join(format!("blobs/sha256-{hex}")), &model);
    let layers = format!(
        r#"{{"layers": [{{"mediaType": "text/x", "digest": "sha256:00"}},
            {{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:{hex}"}}]}}"#
    );
    put(&ollama.join("manifests/registry.ollama.ai/library/tiny/1b"), layers);
    let outside =
        r#"{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../x"}]}"#;
    put(&ollama.join("manifests/registry.ollama.ai/library/evil/1b"), outside);

    put(&below(".lmstudio/models/publisher/tiny/dense.gguf"), fs::read(fixture(DENSE)).unwrap());
    put(&below(".cache/llama.cpp/broken\u{1b}[2J.gguf"), &model[..1000]);
    put(&below(".cache/llama.cpp/x-00002-of-00002.gguf"), &model);
    home
}

#[test]
fn models_are_found_where_programs_keep_them() {
    let home = home();
    let run = at_home(home.path(), &["model", "ls", "--json"]).good();
    let rows: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    let found: Vec<_> = rows.iter().map(|row| (row["keeper"].as_str().unwrap(), &row["name"])).collect();
    assert_eq!(
        found,
        [
            ("hugging-face", &Value::from("org/name m.gguf")),
            ("ollama", &Value::from("tiny:1b")),
            ("lm-studio", &Value::from("publisher/tiny/dense.gguf")),
            ("llama-cpp", &Value::from("broken\u{1b}[2J.gguf")),
        ]
    );
    for row in &rows[..2] {
        assert_eq!((&row["architecture"], &row["quantisation"]), (&"qwen3moe".into(), &"Q8_0".into()));
        assert_eq!(row["bytes"], fs::metadata(fixture(MOE)).unwrap().len());
        // What is named there can be run in place.
        let path = row["path"].as_str().unwrap();
        at_home(home.path(), &["model", "inspect", path]).good();
    }
    assert!(rows[3]["problem"].as_str().unwrap().contains("broken"), "{}", rows[3]);

    let run = at_home(home.path(), &["model", "ls"]).good();
    assert!(run.stdout.contains("tiny:1b\n"), "{}", run.stdout);
    assert!(run.stdout.contains("can't be run"), "{}", run.stdout);
    assert!(!run.stdout.contains('\u{1b}'), "{}", run.stdout);

    // So can its name, and that of a repository with one file.
    for name in ["org/name m.gguf", "org/name", "tiny:1b", "publisher/tiny/dense.gguf"] {
        at_home(home.path(), &["run", name, "Hello", "-n", "1", "-q"]).good();
    }
    for name in ["org", "org/name n.gguf", "tiny", ""] {
        at_home(home.path(), &["model", "inspect", name]).failed_saying(&[name]);
    }
    let snapshot = home.path().join(".cache/huggingface/hub/models--org--name/snapshots/abc");
    // What lets a model see lies beside it.
    fs::copy(fixture(DENSE), snapshot.join("mmproj-f16.gguf")).unwrap();
    let run = at_home(home.path(), &["model", "inspect", "org/name"]).good();
    assert!(run.stdout.contains("abc/m.gguf"), "{}", run.stdout);
    fs::copy(fixture(DENSE), snapshot.join("n.gguf")).unwrap();
    let several = at_home(home.path(), &["model", "inspect", "org/name"]);
    several.failed_saying(&["org/name", "several", "abc/m.gguf", "abc/n.gguf"]);
    at_home(home.path(), &["model", "inspect", "org/name n.gguf"]).good();
    // Where there is nothing else, the model is called so.
    let other = home.path().join(".cache/huggingface/hub/models--org--other");
    put(&other.join("refs/main"), "abc");
    put(&other.join("snapshots/abc/m-imatrix.gguf"), fs::read(fixture(DENSE)).unwrap());
    at_home(home.path(), &["model", "inspect", "org/other"]).good();
}

#[test]
fn models_come_once_with_their_revisions_and_what_they_lack() {
    let home = home();
    let hub = home.path().join(".cache/huggingface/hub");
    let repository = hub.join("models--org--name");
    fs::create_dir_all(repository.join("snapshots/0123456789ab")).unwrap();
    fs::copy(fixture(DENSE), repository.join("snapshots/0123456789ab/m.gguf")).unwrap();
    put(&repository.join("refs/main"), "abc");
    // Neither data sets nor blobs are models, nor does a link that leads back end the search.
    put(&hub.join("datasets--org--set/snapshots/abc/d.gguf"), fs::read(fixture(DENSE)).unwrap());
    let lm_studio = home.path().join(".lmstudio/models");
    symlink(&lm_studio, lm_studio.join("publisher/back")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(fixture(DENSE), elsewhere.path().join("e.gguf")).unwrap();
    symlink(elsewhere.path(), lm_studio.join("linked")).unwrap();
    // The older place of the same program is a link to the newer.
    fs::create_dir_all(home.path().join(".cache/lm-studio")).unwrap();
    symlink(&lm_studio, home.path().join(".cache/lm-studio/models")).unwrap();
    let manifests = home.path().join(".ollama/models/manifests/registry.ollama.ai/library/tiny");
    let tuned = fs::read_to_string(manifests.join("1b")).unwrap();
    let adapter = r#"[{"mediaType": "application/vnd.ollama.image.adapter", "digest": "sha256:00"}, "#;
    fs::write(manifests.join("tuned"), tuned.replacen('[', adapter, 1)).unwrap();

    let run = at_home(home.path(), &["model", "ls", "--json"]).good();
    let rows: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "org/name m.gguf",
            "org/name@01234567 m.gguf",
            "tiny:1b",
            "tiny:tuned",
            "linked/e.gguf",
            "publisher/tiny/dense.gguf",
            "broken\u{1b}[2J.gguf"
        ]
    );
    assert_eq!((&rows[2]["note"], &rows[3]["problem"]), (&Value::Null, &Value::Null));
    assert!(rows[3]["note"].as_str().unwrap().contains("adapter"), "{}", rows[3]);
    // A repository is run in its main revision.
    let run = at_home(home.path(), &["model", "inspect", repository.to_str().unwrap(), "--json"]).good();
    assert!(run.stdout.contains("qwen3moe"), "{}", run.stdout);
}

#[test]
fn what_only_looks_like_a_model_is_told() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let gguf = |metadata: &[[&str; 2]]| {
        let counts = [0, metadata.len() as u64].map(u64::to_le_bytes).concat();
        let pairs =
            metadata.iter().flat_map(|[key, value]| [text(key), vec![8, 0, 0, 0], text(value)].concat());
        [b"GGUF\x03\0\0\0".to_vec(), counts, pairs.collect()].concat()
    };
    let folder = tempfile::tempdir().unwrap();
    let architecture = ["general.architecture", "llama"];
    put(&folder.path().join("adapter.gguf"), gguf(&[architecture, ["general.type", "adapter"]]));
    put(&folder.path().join("vocabulary.gguf"), gguf(&[architecture]));
    let run = membrane(&["model", "ls", folder.path().to_str().unwrap(), "--json"]).good();
    let rows: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    for (row, words) in rows.iter().zip(["adapter (LoRA)", "no weights"]) {
        assert!(row["problem"].as_str().unwrap().contains(words), "{row}");
    }
    assert_eq!(rows.len(), 2);
}

#[test]
fn a_place_of_ones_own_can_be_named() {
    let home = home();
    let folder = home.path().join(".lmstudio");
    let run = at_home(home.path(), &["model", "ls", folder.to_str().unwrap(), "--json"]).good();
    let rows: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["name"], "models/publisher/tiny/dense.gguf");

    let empty = tempfile::tempdir().unwrap();
    let run = at_home(empty.path(), &["model", "ls"]).good();
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("no models in") && run.stderr.contains(".ollama/models"), "{}", run.stderr);
    at_home(empty.path(), &["model", "ls", "/nowhere/at/all"]).failed_saying(&["/nowhere/at/all"]);
}

/// A model alone in a folder.
fn model() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::copy(fixture(DENSE), &path).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn files_are_compared_with_a_list() {
    let (folder, path) = model();
    let found = digest(Path::new(&path));
    let run = membrane(&["model", "verify", &path]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains(&found.to_string()) && run.stderr.contains("--sums"), "{}", run.stderr);

    let sums = folder.path().join("SHA256SUMS");
    let other = "0".repeat(64);
    fs::write(&sums, format!("# a list\n{other}  other.gguf\n\n{} *dir/m.gguf\n", found.hex())).unwrap();
    let run = membrane(&["model", "verify", &path]).good();
    assert!(run.stdout.contains("good: ") && run.stdout.contains("SHA256SUMS"), "{}", run.stdout);
    // The same by the folder of the only file.
    let run = membrane(&["model", "verify", folder.path().to_str().unwrap()]).good();
    assert!(run.stdout.contains("good: ") && run.stdout.contains("SHA256SUMS"), "{}", run.stdout);

    for (list, words) in [
        (format!("{other}  m.gguf\n"), &[&other[..], "should have"][..]),
        (format!("{other}  m.gguf.\n"), &["does not name `m.gguf`"]),
    ] {
        let own = folder.path().join("own.txt");
        fs::write(&own, list).unwrap();
        let run = membrane(&["model", "verify", &path, "--sums", own.to_str().unwrap(), "--json"]);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let problem = report["checks"][0]["problem"].as_str().unwrap();
        assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
    }
    for (list, words) in [
        ("xyz  m.gguf\n".to_owned(), &["line 1"][..]),
        ("\n0000\n".to_owned(), &["line 2", "no digest and a name"]),
        (format!("{}  m.gguf\n{other}  m.gguf\n", found.hex()), &["line 2", "second time"]),
    ] {
        fs::write(&sums, list).unwrap();
        membrane(&["model", "verify", &path]).failed_saying(words);
    }
}

#[test]
fn blobs_are_compared_with_their_names() {
    let home = home();
    let hub = home.path().join(".cache/huggingface/hub/models--org--name");
    let path = hub.join("snapshots/abc/m.gguf");
    let run = membrane(&["model", "verify", path.to_str().unwrap()]).good();
    assert!(run.stdout.contains("names of blobs: 1 of 1"), "{}", run.stdout);

    // A bit of a weight.
    let blob = path.canonicalize().unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, bytes).unwrap();
    let run = membrane(&["model", "verify", path.to_str().unwrap()]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("BAD: names of blobs"), "{}", run.stdout);
}

#[test]
fn a_profile_s_lock_says_what_the_model_is() {
    let (folder, path) = model();
    let profile = folder.path().join("p.toml");
    let sampler = "[[sampler]]\nplugin = \"greedy\"\n";
    fs::write(&profile, format!("name = \"p\"\n{sampler}")).unwrap();
    let profile = profile.to_str().unwrap();
    membrane(&["model", "verify", &path, "--profile", profile]).failed_saying(&["profile lock"]);
    membrane(&["profile", "lock", profile]).good();
    membrane(&["model", "verify", &path, "--profile", profile]).failed_saying(&["pins no model"]);
    membrane(&["profile", "lock", profile, "--model", &path]).good();
    membrane(&["model", "verify", &path, "--profile", profile]).good();
    fs::copy(fixture(MOE), &path).unwrap();
    let run = membrane(&["model", "verify", &path, "--profile", profile]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("file m.gguf"), "{}", run.stdout);
}

#[test]
fn signatures_say_whose_the_files_are() {
    let (folder, path) = model();
    let found = digest(Path::new(&path));
    let (house, _) = SecretKey::generate(Algorithm::Ed25519).unwrap();
    let (other, _) = SecretKey::generate(Algorithm::Ed25519).unwrap();
    let key = |key: &SecretKey, name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, key.public().to_pem()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (house_key, other_key) = (key(&house, "house.pub"), key(&other, "other.pub"));
    let signature = folder.path().join("m.gguf.sig");
    membrane(&["model", "verify", &path, "--key", &house_key]).failed_saying(&["no signature"]);
    let whole = Statement::of_file("m.gguf", found);
    let resources = vec![Resource { name: "m.gguf".to_owned(), digest: found }];
    let of_folder = Statement { resources, ..whole.clone() };
    for statement in [whole, of_folder] {
        fs::write(&signature, sign(&statement, &house).unwrap()).unwrap();
        let run = membrane(&["model", "verify", &path, "--key", &house_key]).good();
        assert!(run.stdout.contains(&house.public().fingerprint().to_string()), "{}", run.stdout);
        let run = membrane(&["model", "verify", &path, "--key", &other_key]);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
    }
    // A signature without a key that is known is nobody's.
    let run = membrane(&["model", "verify", &path]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("--key"), "{}", run.stderr);

    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let run = membrane(&["model", "verify", &path, "--key", &house_key]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("should have"), "{}", run.stdout);
}

#[test]
fn a_packed_model_answers_as_before() {
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("packed.gguf");
    let out = out.to_str().unwrap();
    let model = fixture(MOE);
    let run = membrane(&["model", "pack", &model, out]).good();
    assert!(run.stderr.contains("written and read back"), "{}", run.stderr);
    let report = |path: &str| -> Value {
        serde_json::from_str(&membrane(&["model", "inspect", path, "--json"]).good().stdout).unwrap()
    };
    let (was, is) = (report(&model), report(out));
    for key in
        ["parameters", "architecture", "tokenizer", "chat_template", "quantisation", "unusual", "problem"]
    {
        assert_eq!(was[key], is[key], "{key}");
    }
    assert_eq!(was["plan"]["experts"], is["plan"]["experts"]);
    let answer = |path: &str| {
        let flags =
            ["--raw", "-n", "12", "--memory", "96MiB", "--ctx", "128", "--quiet", "--temperature", "0"];
        membrane(&[&["run", path, "Once upon"][..], &flags].concat()).good().stdout
    };
    assert_eq!(answer(&model), answer(out));

    let whole = fs::read(out).unwrap();
    let again = membrane(&["model", "pack", &model, out]);
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("packed.gguf: exists already"), "{}", again.stderr);
    assert!(fs::read(out).unwrap() == whole);
    let nowhere = room.path().join("no/folder");
    let nowhere = membrane(&["model", "pack", &model, nowhere.to_str().unwrap()]);
    assert_eq!(nowhere.code, Some(2));
    assert!(nowhere.stderr.contains("no/folder.unfinished"), "{}", nowhere.stderr);
}
