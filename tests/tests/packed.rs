//! Packed models give the bits of what they were made of, and what is wrong with one is named.

#![cfg(test)]
#![forbid(unsafe_code)]

#[path = "folders/publish.rs"]
#[allow(dead_code, reason = "the tests of folders use more of it")]
mod publish;

use std::fs;
use std::path::{Path, PathBuf};

use membrane_engine::{LoadOptions, Model, Packing, Precision, Prepared, Result, Speculate};
use membrane_formats::{Array, Checkpoint, StrArray, Value};
use membrane_tests::drafting::hybrid_with_head;
use membrane_tests::sessions::{bits, fresh, tokens};
use membrane_tests::{published, references, tiny, with_metadata, workspace};
use publish::{Published, SCHEMES, Scheme};
use serde_json::json;

/// What folders are made of.
const SOURCE: &str = "tiny-qwen3moe-BF16";

fn fixture(name: &str) -> PathBuf {
    workspace().join(format!("tests/fixtures/gguf/{name}.gguf"))
}

fn pack(model: &Path, out: &Path) -> Result<()> {
    Packing::of(Checkpoint::open(model)?)?.write(out, &mut |_| {})
}

fn options(precision: Precision, experts: Option<u64>) -> LoadOptions {
    let (context, threads) = (Some(128), Some(2));
    LoadOptions {
        precision,
        experts,
        context,
        threads,
        speculate: Speculate::Always,
        ..LoadOptions::default()
    }
}

fn load(path: &Path, options: &LoadOptions) -> Result<Model> {
    Prepared::without_text(Checkpoint::open(path)?.into(), options)?.load(&mut |_, _| {})
}

/// Fails unless a model and what becomes of it give the same bits: of a prompt and of single tokens, wholly in memory and paged.
fn assert_same(model: &Path, folder: &Path) {
    let packed = folder.join("packed");
    pack(model, &packed).unwrap_or_else(|error| panic!("{}: {error}", model.display()));
    assert!(Checkpoint::open(&packed).unwrap().is_packed().unwrap());
    for (precision, paged) in [
        (Precision::Fast, false),
        (Precision::Fast, true),
        (Precision::Int8, false),
        (Precision::Reference, true),
    ] {
        let [was, is] = [model, &packed].map(|path| {
            let all = load(path, &options(precision, None)).unwrap();
            if !paged {
                return all;
            }
            let moe = all.hyperparameters().moes().next().unwrap();
            let few = moe.experts as u64 + 1;
            drop(all);
            load(path, &options(precision, Some(few))).unwrap()
        });
        assert_eq!(was.plan().drafts, is.plan().drafts, "{}", model.display());
        let prompt = tokens(40, 3);
        let compared = format!("{} {precision:?}, paged: {paged}", model.display());
        assert!(fresh(&was, &prompt) == fresh(&is, &prompt), "{compared}");
        let [mut before, mut after] = [&was, &is].map(|model| model.session());
        for token in [1, 77, 900] {
            before.append(&[token]).unwrap();
            after.append(&[token]).unwrap();
            assert!(bits(&before) == bits(&after), "{compared}, token {token}");
        }
    }
}

#[test]
fn files_of_each_architecture_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let below = |name: &str| folder.path().join(name);
    let mut models: Vec<PathBuf> =
        ["tiny-qwen3next-Q8_0", "tiny-qwen35moe-Q8_0", "tiny-qwen3moe-Q8_0", "tiny-qwen2moe-Q8_0", SOURCE]
            .map(fixture)
            .into();
    for architecture in ["deepseek2", "gpt-oss", "qwen4exp"] {
        models.push(below(architecture));
        tiny::write(architecture, &below(architecture));
    }
    models.extend(["head", "latent-head"].map(below));
    hybrid_with_head(&below("head"), false);
    tiny::write_with_head(&below("latent-head"));
    for model in models {
        let room = tempfile::tempdir().unwrap();
        assert_same(&model, room.path());
    }
}

#[test]
fn folders_of_each_kind_of_quantisation_give_the_same_bits() {
    let published = Published::of(&fixture(SOURCE));
    let quantised = SCHEMES.iter().map(|&scheme| published.quantised(scheme).0);
    for (number, model) in std::iter::once(published.clone()).chain(quantised).enumerate() {
        let room = tempfile::tempdir().unwrap();
        let folder = room.path().join(number.to_string());
        fs::create_dir(&folder).unwrap();
        model.write_sharded(&folder, 2);
        assert_same(&folder, room.path());
        let names = |folder: &Path| -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !name.contains("model"))
                .collect();
            names.sort();
            names
        };
        let mut documents = names(&folder);
        documents
            .insert(documents.partition_point(|name| name.as_str() < "packed.json"), "packed.json".into());
        assert_eq!(names(&room.path().join("packed")), documents);
    }
}

#[test]
fn reference_folders_give_the_same_bits() {
    for root in references().into_iter().filter(|root| root.join("models").is_dir()) {
        for entry in fs::read_dir(root.join("models")).unwrap() {
            let model = entry.unwrap().path();
            let room = tempfile::tempdir().unwrap();
            match Packing::of(Checkpoint::open(&model).unwrap()) {
                Ok(_) => assert_same(&model, room.path()),
                Err(error) => assert!(error.to_string().contains("has no experts"), "{error}"),
            }
        }
    }
}

#[test]
fn a_draft_head_stays_and_can_be_left_out() {
    let room = tempfile::tempdir().unwrap();
    let (model, packed) = (room.path().join("model"), room.path().join("packed"));
    hybrid_with_head(&model, false);
    pack(&model, &packed).unwrap();
    let drafts = |speculate| {
        let options = LoadOptions { speculate, ..options(Precision::Fast, None) };
        load(&packed, &options).unwrap().hyperparameters().draft_layer.is_some()
    };
    assert_eq!((drafts(Speculate::Always), drafts(Speculate::Off)), (true, false));
}

#[test]
fn what_can_not_be_packed_is_told() {
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("out");
    let dense = pack(&fixture("tiny-qwen3-IQ4_NL"), &out).unwrap_err().to_string();
    assert!(dense.contains("tiny-qwen3-IQ4_NL.gguf: has no experts"), "{dense}");
    assert!(!out.exists());
    pack(&fixture(SOURCE), &out).unwrap();
    let whole = fs::read(&out).unwrap();
    let twice = pack(&fixture(SOURCE), &out).unwrap_err().to_string();
    assert!(twice.contains("out: exists already"), "{twice}");
    assert!(fs::read(&out).unwrap() == whole);
    let again = pack(&out, &room.path().join("again")).unwrap_err().to_string();
    assert!(again.contains("is packed already"), "{again}");
    let mut left: Vec<_> =
        fs::read_dir(room.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["out"]);
}

#[test]
fn what_is_not_of_the_folder_is_not_taken_along() {
    let room = tempfile::tempdir().unwrap();
    let (model, out) = (room.path().join("model"), room.path().join("out"));
    fs::create_dir(&model).unwrap();
    Published::of(&fixture(SOURCE)).write_sharded(&model, 2);
    for name in ["LICENSE", "README.md", "SHA256SUMS.txt", "model.sig", "pytorch_model.bin"] {
        fs::write(model.join(name), name).unwrap();
    }
    let part = room.path().join("out.part");
    fs::create_dir(&part).unwrap();
    fs::write(part.join("mine"), "mine").unwrap();
    let error = pack(&model, &out).unwrap_err().to_string();
    assert!(error.contains("out.part") && error.contains("`mine`"), "{error}");
    fs::remove_file(part.join("mine")).unwrap();
    pack(&model, &out).unwrap();
    let has = |name: &str| out.join(name).exists();
    assert!(has("LICENSE") && has("README.md") && has("chat_template.jinja") && has("tokenizer.json"));
    let others = ["SHA256SUMS.txt", "model.sig", "pytorch_model.bin", "model.safetensors.index.json"];
    assert!(others.iter().all(|name| !has(name)) && !part.exists());
}

/// The error of a packed file whose keys were changed, of loading it.
fn error_of(packed: &Path, changes: &[(&str, Value)]) -> String {
    let source = Checkpoint::open(packed).unwrap();
    let mut metadata = source.metadata().clone();
    for (key, value) in changes {
        metadata.set(key, value.clone());
    }
    let path = packed.with_extension("changed");
    with_metadata(&source, metadata, &path).unwrap();
    load(&path, &options(Precision::Fast, None)).err().unwrap_or_else(|| panic!("{changes:?}")).to_string()
}

#[test]
fn descriptions_that_are_not_those_of_the_records_are_refused() {
    let room = tempfile::tempdir().unwrap();
    let packed = room.path().join("packed");
    pack(&fixture(SOURCE), &packed).unwrap();
    let checkpoint = Checkpoint::open(&packed).unwrap();
    let [gate, up, down] = &checkpoint.packed(0).unwrap().unwrap().forms.map(|form| form.to_string());
    let key = "packed.experts.0";
    let texts = |texts: &[&str]| Value::Array(Array::Str(texts.iter().copied().collect::<StrArray>()));
    let words: Vec<&str> = gate.split(' ').collect();
    let swapped = format!("{} {} {}", words[0], words[2], words[1]);
    // The order of the columns takes as many bytes as two rows.
    let ordered = format!("BF16 {} {} ordered", words[1].parse::<u64>().unwrap() - 2, words[2]);
    for (changed, value, told) in [
        ("packed.version", Value::U32(2), "it is 2, and 1 is read"),
        (key, texts(&[gate, up]), "three texts"),
        (key, texts(&[gate, up, down, down]), "three texts"),
        (key, texts(&[gate, up, "BF16 64"]), "three texts"),
        (key, texts(&[gate, up, "BF16 64 64 ordered ordered"]), "three texts"),
        (key, texts(&[gate, up, "BF16 +64 64"]), "three texts"),
        (key, texts(&[gate, up, "BF17 64 64"]), "no matrix can be stored so"),
        (key, texts(&[gate, up, "BF16 0 64"]), "no matrix can be stored so"),
        (key, texts(&[gate, up, "Q4_K 64 64"]), "no matrix can be stored so"),
        (
            key,
            texts(&[gate, up, "F32 9223372036854775807 9223372036854775807"]),
            "no matrix can be stored so",
        ),
        (key, texts(&[gate, up, "BF16 6400 64"]), "are not the"),
        (key, texts(&[&ordered, up, down]), &format!("says \"{ordered}\"")),
        (key, texts(&[&swapped, up, down]), &format!("says \"{swapped}\"")),
        (key, texts(&[&gate.replace("BF16", "F16"), up, "I16 1 1"]), "are not the"),
        (key, texts(&[&gate.replace("BF16", "I16"), up, down]), "says \"I16"),
        (key, texts(&[&gate.replace("BF16", "bf16"), up, down]), "says \"bf16"),
        (key, Value::U32(3), "an array of strings is needed"),
    ] {
        let error = error_of(&packed, &[(changed, value)]);
        assert!(error.contains(told) && error.contains("changed"), "{told} is not in: {error}");
    }
    let unpacked = error_of(&fixture_copy(room.path()), &[("packed.version", Value::U32(1))]);
    assert!(unpacked.contains("packed.experts.0"), "{unpacked}");
}

/// A copy of the fixture, beside which something can be written.
fn fixture_copy(room: &Path) -> PathBuf {
    let copy = room.join("plain.gguf");
    fs::copy(fixture(SOURCE), &copy).unwrap();
    copy
}

#[test]
fn an_order_of_columns_that_leads_out_of_the_input_is_an_error() {
    let room = tempfile::tempdir().unwrap();
    let (model, packed) = (room.path().join("model"), room.path().join("packed"));
    fs::create_dir(&model).unwrap();
    let scheme = Scheme::Gptq { v2: true, symmetric: false, act_order: true };
    Published::of(&fixture(SOURCE)).quantised(scheme).0.write(&model);
    pack(&model, &packed).unwrap();
    let (file, places, records) = {
        let checkpoint = Checkpoint::open(&packed).unwrap();
        let layer = checkpoint.packed(1).unwrap().unwrap();
        assert!(layer.forms[0].ordered && layer.places[0].start == 0);
        let tensor = layer.experts;
        let experts = tensor.shape.elements() / tensor.shape.columns();
        let records: Vec<u64> =
            (0..experts).map(|expert| tensor.offset + expert * tensor.shape.columns()).collect();
        (checkpoint.files()[tensor.file].path.clone(), layer.places, records)
    };
    let mut bytes = fs::read(&file).unwrap();
    for record in records {
        let last = (record + places[0].end) as usize - 4;
        bytes[last..last + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    }
    fs::write(&file, bytes).unwrap();
    for precision in [Precision::Fast, Precision::Reference] {
        let model = load(&packed, &options(precision, None)).unwrap();
        let error = model.session().append(&tokens(20, 1)).unwrap_err().to_string();
        assert!(error.contains("packed.experts.1") && error.contains("the order of the"), "{error}");
    }
}

#[test]
fn the_document_of_a_packed_folder_says_nothing_else() {
    let room = tempfile::tempdir().unwrap();
    let (model, packed) = (room.path().join("model"), room.path().join("packed"));
    fs::create_dir(&model).unwrap();
    Published::of(&fixture(SOURCE)).write(&model);
    pack(&model, &packed).unwrap();
    let document = packed.join("packed.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&document).unwrap()).unwrap();
    for (key, value) in [
        ("general.architecture", json!("llama")),
        ("packed.version", json!("1")),
        ("packed.version", json!(1e30)),
        ("packed.experts.0", json!([1, 2, 3])),
        ("packed.experts.x", json!(["BF16 1 1"])),
    ] {
        let mut changed = good.clone();
        changed[key] = value;
        fs::write(&document, changed.to_string()).unwrap();
        let error = Checkpoint::open(&packed).unwrap_err().to_string();
        assert!(error.contains("packed.json") && error.contains(key), "{error}");
    }
}
