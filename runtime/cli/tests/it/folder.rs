//! Models in folders as they are published: the verbs that take a model take them, and name what is wrong with one.

#[path = "../../../../tests/tests/folders/publish.rs"]
#[allow(dead_code, reason = "the tests of the engine use more of it")]
mod publish;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use membrane_profile::Digest;
use membrane_profile::signature::{Algorithm, Resource, SecretKey, Statement, sign};
use publish::{Published, Scheme};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

use crate::program::{fixture, membrane};

/// The fixture that folders are made of.
const SOURCE: &str = "tiny-qwen3moe-BF16.gguf";

fn published() -> Published {
    Published::of(Path::new(&fixture(SOURCE)))
}

fn folder(change: impl FnOnce(&mut Published)) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut model = published();
    change(&mut model);
    model.write_sharded(folder.path(), 2);
    let path = folder.path().to_str().unwrap().to_owned();
    (folder, path)
}

fn logits(model: &str, flags: &[&str]) -> Vec<u8> {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.safetensors");
    let verb = ["logits", model, "--tokens", "5,900,17,33", "--out", path.to_str().unwrap()];
    membrane(&[&verb[..], flags].concat()).good();
    let file = std::fs::read(path).unwrap();
    SafeTensors::deserialize(&file).unwrap().tensor("logits").unwrap().data().to_vec()
}

#[test]
fn a_folder_is_described() {
    let (_kept, path) = folder(|_| {});
    let run = membrane(&["model", "inspect", &path]).good();
    for part in [
        "model-00001-of-00002.safetensors",
        "config.json",
        "safetensors, ",
        "architecture: qwen3moe",
        "24 experts",
        "BF16",
    ] {
        assert!(run.stdout.contains(part), "`{part}` is not in:\n{}", run.stdout);
    }
    let run = membrane(&["model", "inspect", &path, "--json"]).good();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&report["format"], &report["gguf_version"]), (&json!("safetensors"), &Value::Null));
    assert_eq!(report["plan"]["experts"], 4 * 24);
}

#[test]
fn quantised_matrices_are_counted_by_the_numbers_that_they_stand_for() {
    let of = |scheme: Option<Scheme>| {
        let (kept, path) = folder(|model| {
            if let Some(scheme) = scheme {
                *model = model.quantised(scheme).0;
            }
        });
        let run = membrane(&["model", "inspect", &path, "--json"]).good();
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let run = membrane(&["model", "ls", &path, "--json"]).good();
        let rows: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(rows[0]["parameters"], report["parameters"]);
        (kept, report, rows[0]["quantisation"].as_str().unwrap().to_owned())
    };
    let (_kept, plain, _) = of(None);
    let gptq = Scheme::Gptq { v2: false, symmetric: true, act_order: true };
    for (scheme, name) in [
        (gptq, "GPTQ"),
        (Scheme::GptqFewBits { bits: 3, symmetric: false }, "GPTQ of 3 bits"),
        (Scheme::Gptq8 { act_order: false }, "GPTQ of 8 bits"),
        (Scheme::Awq, "AWQ"),
        (Scheme::Nvfp4 { compressed: false }, "NVFP4"),
        (Scheme::Nvfp4 { compressed: true }, "NVFP4"),
        (Scheme::Fp8Blocks, "FP8"),
        (Scheme::PackQuantized { zeros: true, act_order: true }, "packed integers of 4 bits"),
        (Scheme::Int8 { packed: true, act_order: false }, "packed integers of 8 bits"),
        (Scheme::Int8 { packed: false, act_order: false }, "integers of 8 bits"),
        (Scheme::Mx { bits: 4, compressed: true }, "MXFP4"),
        (Scheme::Mx { bits: 4, compressed: false }, "MXFP4"),
        (Scheme::Mx { bits: 8, compressed: true }, "MXFP8"),
    ] {
        let (_kept, report, most) = of(Some(scheme));
        assert_eq!(report["parameters"], plain["parameters"], "{name}");
        let quantisation = report["quantisation"].as_str().unwrap();
        assert!(
            quantisation.contains(&format!("{name} ")) && quantisation.starts_with(&most),
            "{quantisation}"
        );
        let forms = report["tensors"].as_object().unwrap();
        assert!(!["I32", "I8", "U8", "F8_E4M3"].iter().any(|words| forms.contains_key(*words)), "{forms:?}");
        let (all, bytes): (u64, u64) = forms.values().fold((0, 0), |(all, bytes), form| {
            (all + form["tensors"].as_u64().unwrap(), bytes + form["bytes"].as_u64().unwrap())
        });
        let tensors: u64 =
            plain["tensors"].as_object().unwrap().values().map(|f| f["tensors"].as_u64().unwrap()).sum();
        assert_eq!(all, tensors, "{name}");
        assert!(bytes < report["bytes"].as_u64().unwrap());
    }
}

#[test]
fn what_is_unusual_of_a_folder_is_told() {
    let (kept, path) = folder(|model| {
        let scale = crate::published::Tensor::f32(&[1], &[1.0]);
        model.tensors.insert("model.layers.0.self_attn.k_proj.k_scale".into(), scale);
    });
    let elsewhere = tempfile::tempdir().unwrap();
    let (name, target) = (kept.path().join("generation_config.json"), elsewhere.path().join("g.json"));
    std::fs::rename(&name, &target).unwrap();
    std::os::unix::fs::symlink(&target, &name).unwrap();
    let run = membrane(&["model", "inspect", &path]).good();
    let unusual = run.stdout.split("unusual:\n").nth(1).unwrap().split("metadata:").next().unwrap();
    for words in ["`model.layers.0.self_attn.k_proj.k_scale` is left out: ", "cache", "none of those known"] {
        assert!(unusual.contains(words), "{words}: {unusual}");
    }
    assert!(
        unusual.contains(&format!("is a link to {}", target.canonicalize().unwrap().display())),
        "{unusual}"
    );
    // A cache of the hub is made of links, which is usual.
    let cached = publish::in_a_cache(Path::new(&path), elsewhere.path());
    let run = membrane(&["model", "inspect", cached.to_str().unwrap()]).good();
    assert!(!run.stdout.contains("is a link to"), "{}", run.stdout);
}

#[test]
fn logits_are_those_of_the_file_that_the_folder_was_made_of() {
    let (_kept, path) = folder(|_| {});
    assert!(logits(&path, &["--reference"]) == logits(&fixture(SOURCE), &["--reference"]));
    let (_kept, path) = folder(|model| *model = model.quantised(Scheme::Fp8Blocks).0);
    let whole = logits(&path, &[]);
    assert!(whole == logits(&path, &["--threads", "1", "--prefill-chunk", "2"]));
    assert!(whole != logits(&fixture(SOURCE), &[]));
}

#[test]
fn a_folder_runs_and_is_measured() {
    let (_kept, path) = folder(|_| {});
    let flags = ["--max-tokens", "6", "--seed", "3"];
    let run = |model: &str| membrane(&[&["run", model, "Hello"], &flags[..]].concat()).good().stdout;
    // The folder has a template of its own, which gives the text as it is; so does the flag for the file.
    assert!(!run(&path).is_empty());
    let run = membrane(&["bench", &path, "--prompt", "8", "--decode", "4", "--json"]).good();
    let figures: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(figures["runs"][0]["speed"]["decode"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_lock_pins_every_file_of_a_folder() {
    let (kept, path) = folder(|_| {});
    let profile = kept.path().join("profile.toml");
    std::fs::write(&profile, "[generation]\nmax_tokens = 4\n").unwrap();
    let profile = profile.to_str().unwrap();
    membrane(&["profile", "lock", profile, "--model", &path]).good();
    membrane(&["profile", "check", profile, "--model", &path]).good();
    for name in [
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "model-00002-of-00002.safetensors",
    ] {
        let place = kept.path().join(name);
        let before = std::fs::read(&place).unwrap();
        let mut changed = before.clone();
        match name.ends_with("safetensors") {
            true => *changed.last_mut().unwrap() ^= 1,
            false => changed.push(b' '),
        }
        std::fs::write(&place, changed).unwrap();
        let run = membrane(&["profile", "check", profile, "--model", &path]);
        assert!(run.code != Some(0), "{name}: {}", run.stdout);
        assert!(
            format!("{}{}", run.stdout, run.stderr).contains(name),
            "{name}: {} {}",
            run.stdout,
            run.stderr
        );
        std::fs::write(&place, before).unwrap();
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    const QUERY: &str = "model.layers.1.self_attn.q_proj.weight";
    const EXPERT: &str = "model.layers.2.mlp.experts.7.up_proj.weight";
    let refused = |change: &dyn Fn(&mut Published), parts: &[&str]| {
        let (_kept, path) = folder(change);
        membrane(&["run", &path, "Hello"]).failed_saying(parts);
    };
    refused(&|model| model.config["model_type"] = json!("qwen9"), &["qwen9", "supported are"]);
    for name in [QUERY, EXPERT, "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"] {
        refused(&|model| drop(model.tensors.remove(name)), &[name, "missing"]);
    }
    for (key, value) in [
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1u64 << 31)),
        ("num_attention_heads", json!(0)),
        ("num_experts_per_tok", json!(25)),
        ("vocab_size", json!(7)),
        ("rms_norm_eps", json!(-1)),
        ("mlp_only_layers", json!("x")),
        ("mlp_only_layers", json!([1])),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!("full_attention")),
        ("layer_types", json!(["full_attention", "full_attention", "full_attention", "linear_attention"])),
        ("layer_types", json!(["full_attention", "full_attention", "full_attention", "other"])),
    ] {
        refused(&|model| model.config[key] = value.clone(), &[key]);
    }
    refused(&|model| model.config["hidden_size"] = json!(64), &["model.embed_tokens.weight", "shape"]);
    refused(
        &|model| model.config["rope_scaling"] = json!({"rope_type": "longrope"}),
        &["rope_scaling", "longrope"],
    );
    refused(&|model| model.tokenizer["model"]["type"] = json!("Unigram"), &["Unigram"]);
    let (kept, path) = folder(|model| model.config["layer_types"] = json!(vec!["full_attention"; 4]));
    std::fs::remove_file(kept.path().join("tokenizer.json")).unwrap();
    membrane(&["run", &path, "Hello"]).failed_saying(&[&path, "no `tokenizer.json`"]);
    assert!(!logits(&path, &[]).is_empty());
    refused(&|model| model.tokenizer["added_tokens"][0]["id"] = json!(5000), &["5001", "1024 rows"]);
    refused(
        &|model| model.tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(a+)+$"),
        &["(a+)+$"],
    );
}

/// Older folders have no `tokenizer.json`, but what it would be made of; their template may be in a document of its own.
#[test]
fn a_tokenizer_in_parts_is_that_of_one_document() {
    let (kept, path) = folder(|_| {});
    let file = |name: &str| kept.path().join(name);
    let ask = || membrane(&["run", &path, "Hello there", "-n", "8", "-q", "--seed", "1"]).good().stdout;
    let expected = ask();
    let json: Value = serde_json::from_slice(&std::fs::read(file("tokenizer.json")).unwrap()).unwrap();
    let rules = json["model"]["merges"].as_array().unwrap().iter();
    let rules: Vec<String> = rules
        .map(|rule| match rule {
            Value::String(rule) => rule.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    let mut config: Value = std::fs::read(file("tokenizer_config.json"))
        .map_or(json!({}), |config| serde_json::from_slice(&config).unwrap());
    config["tokenizer_class"] = json!("Qwen2Tokenizer");
    for token in json["added_tokens"].as_array().unwrap() {
        config["added_tokens_decoder"][token["id"].to_string()] = token.clone();
    }
    std::fs::write(file("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
    std::fs::write(file("merges.txt"), format!("#version: 0.2\n{}\n", rules.join("\n"))).unwrap();
    std::fs::write(file("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::remove_file(file("tokenizer.json")).unwrap();
    assert_eq!(ask(), expected);
    let inspect = || membrane(&["model", "inspect", &path]).good().stdout;
    assert!(inspect().contains("qwen2") && !inspect().contains("chat_template.json"), "{}", inspect());
    std::fs::remove_file(file("chat_template.jinja")).unwrap();
    let document = json!({ "chat_template": "{{ messages[0].content }}<|im_end|>" });
    std::fs::write(file("chat_template.json"), document.to_string()).unwrap();
    assert!(inspect().contains("chat_template.json"), "{}", inspect());
    assert_ne!(ask(), expected);
    config["tokenizer_class"] = json!("LlamaTokenizer");
    std::fs::write(file("tokenizer_config.json"), config.to_string()).unwrap();
    membrane(&["run", &path, "Hello"]).failed_saying(&["LlamaTokenizer", "save_pretrained"]);
    std::fs::remove_file(file("merges.txt")).unwrap();
    membrane(&["run", &path, "Hello"]).failed_saying(&["no `tokenizer.json`", "merges.txt"]);
}

#[test]
fn what_is_wrong_with_quantised_matrices_is_named() {
    const EXPERT: &str = "model.layers.2.mlp.experts.7.up_proj.";
    const QUERY: &str = "model.layers.1.self_attn.q_proj.";
    let gptq = Scheme::Gptq { v2: false, symmetric: true, act_order: false };
    let refused = |scheme: Scheme, change: &dyn Fn(&mut Published), parts: &[&str]| {
        let (_kept, path) = folder(|model| {
            *model = model.quantised(scheme).0;
            change(model);
        });
        membrane(&["run", &path, "Hello"]).failed_saying(parts);
    };
    for base in [EXPERT, QUERY] {
        for (scheme, part) in [
            (Scheme::Fp8Blocks, "weight_scale_inv"),
            (gptq, "qzeros"),
            (gptq, "scales"),
            (Scheme::Awq, "scales"),
            (Scheme::Nvfp4 { compressed: false }, "weight_scale_2"),
            (Scheme::Nvfp4 { compressed: true }, "weight_global_scale"),
        ] {
            let name = format!("{base}{part}");
            refused(scheme, &|model| drop(model.tensors.remove(&name)), &[&name, "missing"]);
            let cut = |model: &mut Published| {
                let tensor = model.tensors.get_mut(&name).unwrap();
                // A row, or an element, more than there should be.
                let shape = &mut tensor.shape;
                if shape.is_empty() {
                    shape.push(1)
                }
                let row = tensor.bytes.len() / shape[0];
                shape[0] += 1;
                let more = tensor.bytes[..row].to_vec();
                tensor.bytes.extend(more);
            };
            refused(scheme, &cut, &[base]);
        }
        let mixed = |model: &mut Published| {
            let parts = ["qweight", "qzeros", "scales", "g_idx"].map(|part| format!("{EXPERT}{part}"));
            assert!(parts.iter().all(|part| model.tensors.remove(part).is_some()));
            let name = format!("{EXPERT}weight");
            model.tensors.insert(name.clone(), published().tensors.remove(&name).unwrap());
        };
        refused(gptq, &mixed, &[EXPERT, "BF16", "experts.0.up_proj.qweight", "GPTQ", "alike"]);
        let spoil = |part: &str, byte: u8| {
            let name = format!("{base}{part}");
            move |model: &mut Published| model.tensors.get_mut(&name).unwrap().bytes[0] = byte
        };
        refused(gptq, &spoil("g_idx", 99), &["g_idx", base.trim_end_matches("7.up_proj.")]);
        refused(gptq, &spoil("qzeros", 0), &["zero point is not 8", base, ".safetensors"]);
        refused(Scheme::Nvfp4 { compressed: false }, &spoil("weight_scale", 0x7F), &["scale of a block"]);
    }
}

#[test]
fn small_blobs_are_compared_with_the_names_that_git_gives_them() {
    let (folder, _) = folder(|_| ());
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("models--org--name");
    let snapshot = repository.join("snapshots/abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(repository.join("blobs")).unwrap();
    let mut small = String::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let blob = match name.ends_with(".safetensors") {
            true => Digest::of(&bytes).hex(),
            false => {
                let id = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(&bytes);
                format!("{:x}", id.finalize())
            }
        };
        if name == "config.json" {
            small = blob.clone();
        }
        fs::write(repository.join("blobs").join(&blob), bytes).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    }
    // git hash-object of an empty file.
    let empty = Sha1::new().chain_update("blob 0\0").finalize();
    assert_eq!(empty[..4], [0xe6, 0x9d, 0xe2, 0x9b]);
    let verify = || membrane(&["model", "verify", repository.to_str().unwrap()]);
    let run = membrane(&["model", "verify", repository.to_str().unwrap(), "--json"]).good();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let files = report["files"].as_array().unwrap().len();
    let says = report["checks"][0]["says"].as_str().unwrap();
    assert!(files > 5 && says.starts_with(&format!("{files} of {files} files")), "{says}");

    let blob = repository.join("blobs").join(small);
    let config = fs::read(&blob).unwrap();
    fs::write(&blob, [&config[..], b" "].concat()).unwrap();
    let run = verify();
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("`config.json` has the git digest"), "{}", run.stdout);

    // A file in the place of a link to a blob.
    fs::remove_file(snapshot.join("config.json")).unwrap();
    fs::write(snapshot.join("config.json"), config).unwrap();
    let run = verify();
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("nothing says what `config.json` should be"), "{}", run.stdout);
}

/// All files below a folder, with `./` before their names as `find` writes them, and their digests.
fn digests(folder: &Path, below: &str) -> Vec<(String, Digest)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder.join(below)).unwrap() {
        let name = format!("{below}/{}", entry.unwrap().file_name().to_str().unwrap());
        match folder.join(&name).is_dir() {
            true => all.extend(digests(folder, &name)),
            false => all.push((name.clone(), Digest::of(&fs::read(folder.join(&name)).unwrap()))),
        }
    }
    all
}

#[test]
fn a_list_names_files_of_folders_within_the_folder() {
    let (kept, path) = folder(|_| {});
    let original = kept.path().join("original");
    fs::create_dir(&original).unwrap();
    fs::write(original.join("config.json"), "{}").unwrap();
    let lines = |all: &[(String, Digest)]| -> String {
        all.iter().map(|(name, digest)| format!("{}  {name}\n", digest.hex())).collect()
    };
    let all = digests(kept.path(), ".");
    assert!(all.iter().any(|(name, _)| name == "./original/config.json"));
    let sums = kept.path().join("SHA256SUMS");
    fs::write(&sums, lines(&all)).unwrap();
    let run = membrane(&["model", "verify", &path]).good();
    assert!(
        run.stdout.contains("SHA256SUMS") && run.stdout.contains("files have the digests"),
        "{}",
        run.stdout
    );
    let refused = |sums: &Path, words: &str| {
        let run = membrane(&["model", "verify", &path, "--sums", sums.to_str().unwrap()]);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    };

    // The other's digest is not the model's, and another file of the name is no file of the model.
    let swapped = |name: &str| {
        match name {
            "./config.json" => "./original/config.json",
            "./original/config.json" => "./config.json",
            name => name,
        }
        .to_owned()
    };
    fs::write(&sums, lines(&all.iter().map(|(name, digest)| (swapped(name), *digest)).collect::<Vec<_>>()))
        .unwrap();
    refused(&sums, "`config.json` has the digest");
    let without: Vec<_> = all.iter().filter(|(name, _)| name != "./config.json").cloned().collect();
    fs::write(&sums, lines(&without)).unwrap();
    refused(&sums, "does not name `config.json`");

    // Lists that were made elsewhere: of a folder around it, of the folder but in another place, of another disk.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = elsewhere.path().join("list.txt");
    let moved = |prefix: &str| -> Vec<(String, Digest)> {
        all.iter().map(|(name, digest)| (format!("{prefix}{}", &name[2..]), *digest)).collect()
    };
    let good = |sums: &Path| membrane(&["model", "verify", &path, "--sums", sums.to_str().unwrap()]).good();
    for prefix in ["./", &format!("{path}/")] {
        fs::write(&other, lines(&moved(prefix))).unwrap();
        good(&other);
    }
    let named = kept.path().file_name().unwrap().to_str().unwrap();
    let around = tempfile::NamedTempFile::new_in(kept.path().parent().unwrap()).unwrap();
    fs::write(around.path(), lines(&moved(&format!("{named}/")))).unwrap();
    good(around.path());
    fs::write(&other, lines(&moved("/nowhere/at/all/"))).unwrap();
    refused(&other, "does not say which is `config.json`: `/nowhere/at/all/config.json` or");
    let own: Vec<_> = moved("/nowhere/").into_iter().filter(|(name, _)| !name.contains("original")).collect();
    fs::write(&other, lines(&own)).unwrap();
    good(&other);
}

#[test]
fn a_signature_is_compared_where_downloads_put_files() {
    let (kept, path) = folder(|_| {});
    let (house, _) = SecretKey::generate(Algorithm::Ed25519).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let key = elsewhere.path().join("house.pub");
    fs::write(&key, house.public().to_pem()).unwrap();
    let resources = digests(kept.path(), ".")
        .into_iter()
        .map(|(name, digest)| Resource { name: name[2..].to_owned(), digest })
        .collect();
    let statement = Statement { resources, ..Statement::of_file("model", Digest::of(b"")) };
    let put = |path: &Path, statement: &Statement| fs::write(path, sign(statement, &house).unwrap()).unwrap();
    let verify =
        |path: &Path| membrane(&["model", "verify", path.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    let refused = |path: &Path, words: &str| {
        let run = verify(path);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    };
    let signature = kept.path().join("model.sig");
    put(&signature, &statement);

    // What a download into a folder leaves beside the files, and git.
    for name in
        [".cache/huggingface/download/config.json.metadata", ".git/HEAD", ".gitattributes", ".gitignore"]
    {
        fs::create_dir_all(kept.path().join(name).parent().unwrap()).unwrap();
        fs::write(kept.path().join(name), "x").unwrap();
    }
    verify(Path::new(&path)).good();
    fs::write(kept.path().join(".cache/other"), "x").unwrap();
    refused(Path::new(&path), "does not name `.cache/other`");
    fs::remove_file(kept.path().join(".cache/other")).unwrap();
    // It is compared where it was signed.
    let mut with_git = statement.clone();
    with_git.resources.push(Resource { name: ".gitattributes".into(), digest: Digest::of(b"x") });
    put(&signature, &with_git);
    verify(Path::new(&path)).good();
    fs::write(kept.path().join(".gitattributes"), "y").unwrap();
    refused(Path::new(&path), "`.gitattributes` has the digest");
    put(&signature, &statement);

    // Links of a cache into its own blobs.
    fs::remove_dir_all(kept.path().join(".git")).unwrap();
    fs::remove_dir_all(kept.path().join(".cache")).unwrap();
    let cached = publish::in_a_cache(kept.path(), elsewhere.path());
    verify(&cached).good();
    verify(cached.ancestors().nth(2).unwrap()).good();
    let blobs = cached.join("../../blobs").canonicalize().unwrap();
    let config = cached.join("config.json").canonicalize().unwrap();
    let before = fs::read(&config).unwrap();
    fs::write(&config, [&before[..], b" "].concat()).unwrap();
    refused(&cached, "`config.json` has the digest");
    fs::write(&config, &before).unwrap();
    let link = |target: &Path, name: &str| {
        fs::remove_file(cached.join(name)).unwrap_or_default();
        symlink(target, cached.join(name)).unwrap();
    };
    // Another name of the signature, which is JSON that a model may be said to have, and links to what is elsewhere.
    link(Path::new("model.sig"), "special_tokens_map.json");
    refused(&cached, "does not name `special_tokens_map.json`");
    link(&blobs, "special_tokens_map.json");
    refused(&cached, "`special_tokens_map.json` is no regular file");
    fs::remove_file(cached.join("special_tokens_map.json")).unwrap();
    let away = elsewhere.path().join("config.json");
    fs::write(&away, &before).unwrap();
    link(&away, "config.json");
    refused(&cached, "`config.json` is no regular file, but a link to");
    let signature = cached.join("model.sig");
    fs::remove_file(&signature).unwrap();
    put(&signature, &Statement { links: true, ..statement.clone() });
    verify(&cached).good();
    fs::write(&away, "{}").unwrap();
    let run = verify(&cached);
    assert_ne!(run.code, Some(0), "{}", run.stdout);

    // What the publisher left out is no part of what was signed.
    link(&config, "config.json");
    let mut silent = statement.clone();
    silent.resources.retain(|resource| resource.name != "config.json");
    silent.ignored.push("config.json".into());
    put(&signature, &silent);
    refused(&cached, "does not name `config.json`");
}
