//! Packed models give the bits of what they were made of, and what is wrong with one is named.

#![cfg(test)]
#![forbid(unsafe_code)]

#[path = "folders/hybrid.rs"]
#[allow(dead_code, reason = "the tests of folders use more of it")]
mod hybrid;
#[path = "folders/publish.rs"]
#[allow(dead_code, reason = "the tests of folders use more of it")]
mod publish;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use membrane_engine::{LoadOptions, Model, Packing, Precision, Prepared, Result, Speculate};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, DType, FormatError, Metadata, Step, StrArray, Value};
use membrane_tests::drafting::hybrid_with_head;
use membrane_tests::sessions::{bits, fresh, tokens};
use membrane_tests::{published, references, tiny, with_metadata, workspace};
use publish::{Published, SCHEMES, Scheme};
use safetensors::SafeTensors;
use serde_json::json;

/// What folders are made of.
const SOURCE: &str = "tiny-qwen3moe-BF16";

fn fixture(name: &str) -> PathBuf {
    workspace().join(format!("tests/fixtures/gguf/{name}.gguf"))
}

fn pack(model: &Path, out: &Path) -> Result<()> {
    Packing::of(Checkpoint::open(model)?)?.write(out, &mut |_, _| {})
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
    assert_same_of(model, folder, 1000);
}

/// The same of a model with so many tokens.
fn assert_same_of(model: &Path, folder: &Path, vocabulary: u32) {
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
        let prompt: Vec<u32> = tokens(40, 3).iter().map(|token| token % vocabulary).collect();
        let compared = format!("{} {precision:?}, paged: {paged}", model.display());
        assert!(fresh(&was, &prompt) == fresh(&is, &prompt), "{compared}");
        let [mut before, mut after] = [&was, &is].map(|model| model.session());
        for token in [1, 77, 900 % vocabulary] {
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
        documents.insert(
            documents.partition_point(|name| name.as_str() < "membrane.packed.json"),
            "membrane.packed.json".into(),
        );
        assert_eq!(names(&room.path().join("packed")), documents);
    }
}

/// Writes the tensors of a model with others beside them, in two files of a series.
fn write_split(source: &Checkpoint, more: &[(String, Vec<u64>, Vec<f32>)], path: &dyn Fn(usize) -> PathBuf) {
    for file in 0..2 {
        let mut metadata = source.metadata().clone();
        metadata.set("split.no", file as u32);
        metadata.set("split.count", 2_u32);
        metadata.set("split.tensors.count", (source.tensors().len() + more.len()) as u32);
        let mut writer = GgufWriter::new(&path(file), metadata);
        for tensor in source.tensors().iter().skip(file).step_by(2) {
            writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims()).unwrap();
        }
        for (name, dims, _) in more.iter().filter(|_| file == 1) {
            writer.declare(name, DType::F32, dims).unwrap();
        }
        let write = writer.write(|tensor, sink| -> std::result::Result<(), FormatError> {
            if let Some((_, _, floats)) = more.iter().find(|(name, ..)| *name == tensor.name) {
                return sink.put(&floats.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<u8>>());
            }
            let mut bytes = vec![0; tensor.bytes as usize];
            source.read(source.require(&tensor.name)?, 0, &mut bytes)?;
            sink.put(&bytes)
        });
        write.unwrap();
    }
}

#[test]
fn split_files_factors_and_experts_one_by_one_give_the_same_bits() {
    let room = tempfile::tempdir().unwrap();
    let below = |name: &str| room.path().join(name);
    let source = Checkpoint::open(&fixture("tiny-qwen3moe-Q8_0")).unwrap();
    let fused = source.tensors().iter().filter(|tensor| tensor.name.ends_with("_exps.weight"));
    let factors = fused.enumerate().map(|(number, tensor)| {
        let experts = tensor.shape.dims()[2];
        let factors = (0..experts).map(|expert| [1.5, 0.5, -1.25][(number + expert as usize) % 3]);
        (tensor.name.replace(".weight", ".scale"), vec![experts], factors.collect())
    });
    let part = |file: usize| below(&format!("split-{:05}-of-00002.gguf", file + 1));
    write_split(&source, &factors.collect::<Vec<_>>(), &part);
    tiny::write_mixtral(&below("mixtral"), &Metadata::default());
    for model in [part(0), below("mixtral")] {
        let room = tempfile::tempdir().unwrap();
        assert_same(&model, room.path());
    }
}

#[test]
fn folders_of_hybrids_with_draft_heads_give_the_same_bits() {
    for (kind, prefix) in [("qwen3_next", "model."), ("qwen3_5_moe", "model.language_model.")] {
        let room = tempfile::tempdir().unwrap();
        let folder = room.path().join("folder");
        fs::create_dir(&folder).unwrap();
        hybrid::write(kind, 3, &folder);
        let weights = folder.join("model.safetensors");
        let file = fs::read(&weights).unwrap();
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(&file).unwrap().iter() {
            let (dtype, shape, bytes) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            let tensor = published::Tensor { dtype, shape, bytes };
            // The last layer has softmax attention, as heads do.
            if let Some(part) = name.strip_prefix(&format!("{prefix}layers.3.")) {
                tensors.insert(format!("mtp.layers.0.{part}"), tensor.clone());
            }
            tensors.insert(name.to_owned(), tensor);
        }
        for (part, shape) in [
            ("pre_fc_norm_embedding", &[64][..]),
            ("pre_fc_norm_hidden", &[64]),
            ("norm", &[64]),
            ("fc", &[64, 128]),
        ] {
            let numbers: Vec<f32> =
                (0..shape.iter().product()).map(|i| (i % 7) as f32 / 16.0 - 0.2).collect();
            tensors.insert(format!("mtp.{part}.weight"), published::Tensor::bf16(shape, &numbers));
        }
        published::write_weights(&weights, &tensors, |_| true);
        let loaded = load(&folder, &options(Precision::Fast, None)).unwrap();
        assert!(loaded.hyperparameters().draft_layer.is_some(), "{kind}");
        assert_same_of(&folder, room.path(), 90);
        let packed = Checkpoint::open(&room.path().join("packed")).unwrap();
        assert!(packed.packed(4).unwrap().is_some(), "the head's experts");
        let off = LoadOptions { speculate: Speculate::Off, ..options(Precision::Fast, None) };
        load(&room.path().join("packed"), &off).unwrap();
    }
}

#[test]
fn layers_may_differ_and_what_belongs_to_experts_alone_goes() {
    let room = tempfile::tempdir().unwrap();
    let folder = room.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let published = Published::of(&fixture(SOURCE));
    let mut model = published.quantised(Scheme::Nvfp4 { compressed: false }).0;
    // Two layers as they were, and with the embedding as output head.
    model.tensors.retain(|name, _| !(name.contains("layers.1.") || name.contains("layers.2.")));
    model.tensors.remove("lm_head.weight");
    model.config["tie_word_embeddings"] = json!(true);
    for (name, tensor) in &published.tensors {
        if name.contains("layers.1.") || name.contains("layers.2.") {
            model.tensors.insert(name.clone(), tensor.clone());
        }
    }
    let scale = published::Tensor::f32(&[1], &[0.5]);
    for name in
        ["mlp.experts.3.up_proj.input_scale", "self_attn.q_proj.input_scale", "self_attn.k_proj.k_scale"]
    {
        model.tensors.insert(format!("model.layers.0.{name}"), scale.clone());
    }
    model.write(&folder);
    assert_same(&folder, room.path());
    let packed = Checkpoint::open(&room.path().join("packed")).unwrap();
    let scales: Vec<&str> = packed
        .tensors()
        .iter()
        .map(|tensor| tensor.name.as_str())
        .filter(|name| name.ends_with("input_scale") || name.ends_with("k_scale"))
        .collect();
    assert_eq!(
        scales,
        ["model.layers.0.self_attn.k_proj.k_scale", "model.layers.0.self_attn.q_proj.input_scale"]
    );
    let (was, is) = (Checkpoint::open(&folder).unwrap().forms(), packed.forms());
    let numbers = |forms: &BTreeMap<&str, membrane_formats::Form>| -> BTreeMap<String, u64> {
        forms.iter().map(|(name, form)| ((*name).to_owned(), form.parameters)).collect()
    };
    assert_eq!(numbers(&was), numbers(&is));
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
    assert_eq!(left(room.path()), ["out"]);
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
    let secret = room.path().join("secret");
    fs::write(&secret, "a secret").unwrap();
    symlink(&secret, model.join("notes.txt")).unwrap();
    let template = Path::new("additional_chat_templates/tool_use.jinja");
    fs::create_dir(model.join(template).parent().unwrap()).unwrap();
    fs::write(model.join(template), "of tools").unwrap();
    // A slash behind the name is not part of it.
    pack(&model, &out.join("")).unwrap();
    let templates =
        |model: &Path| membrane_engine::chat_templates(&Checkpoint::open(model).unwrap()).unwrap();
    assert_eq!(templates(&out), templates(&model));
    assert_eq!(fs::read_to_string(out.join(template)).unwrap(), "of tools");
    let has = |name: &str| out.join(name).exists();
    assert!(has("LICENSE") && has("README.md") && has("chat_template.jinja") && has("tokenizer.json"));
    let others =
        ["notes.txt", "SHA256SUMS.txt", "model.sig", "pytorch_model.bin", "model.safetensors.index.json"];
    assert!(others.iter().all(|name| !has(name)) && !room.path().join("out.unfinished").exists());
}

/// What a packing in a room has left, by name.
fn left(room: &Path) -> Vec<String> {
    let names = fs::read_dir(room).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn an_interrupted_packing_goes_on_with_the_same_model_alone() {
    for folder in [false, true] {
        let room = tempfile::tempdir().unwrap();
        let [model, other, out] = ["model", "other", "out"].map(|name| room.path().join(name));
        if folder {
            fs::create_dir(&model).unwrap();
            Published::of(&fixture(SOURCE)).write(&model);
            let mut read_only = fs::metadata(model.join("config.json")).unwrap().permissions();
            read_only.set_readonly(true);
            fs::set_permissions(model.join("config.json"), read_only).unwrap();
        } else {
            fs::copy(fixture(SOURCE), &model).unwrap();
        }
        fs::copy(fixture("tiny-qwen3moe-Q8_0"), &other).unwrap();
        // Whoever waits goes away at the first news.
        let packing = Packing::of(Checkpoint::open(&model).unwrap()).unwrap();
        let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            packing.write(&out, &mut |_, at| assert!(at < 100_000, "interrupted"))
        }));
        assert!(interrupted.is_err());
        assert_eq!(left(room.path()), ["model", "other", "out.unfinished"]);
        let error = pack(&other, &out).unwrap_err().to_string();
        assert!(error.contains("out.unfinished: is of another model"), "{error}");
        let copied = room.path().join("out.unfinished/model/config.json");
        if folder {
            fs::remove_file(&copied).unwrap();
            symlink(&other, &copied).unwrap();
        }
        let before = fs::read(&other).unwrap();
        pack(&model, &out).unwrap();
        assert!(fs::read(&other).unwrap() == before, "a link leads to what is somebody else's");
        assert_eq!(left(room.path()), ["model", "other", "out"]);
        let run = |path: &Path| fresh(&load(path, &options(Precision::Fast, None)).unwrap(), &[1, 2, 3]);
        assert!(run(&model) == run(&out));
    }
}

#[test]
fn a_model_that_changes_while_it_is_packed_is_not_published() {
    let room = tempfile::tempdir().unwrap();
    let [model, out] = ["model", "out"].map(|name| room.path().join(name));
    fs::copy(fixture(SOURCE), &model).unwrap();
    let packing = Packing::of(Checkpoint::open(&model).unwrap()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&model).unwrap();
    let error = packing.write(&out, &mut |step, _| {
        if step == Step::Comparing {
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("changed while it was being read"), "{error}");
    assert_eq!(left(room.path()), ["model", "out.unfinished"]);
}

#[test]
fn what_people_have_beside_it_stays() {
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("out");
    let folder = room.path().join("out.unfinished");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), "mine").unwrap();
    let error = pack(&fixture(SOURCE), &out).unwrap_err().to_string();
    assert!(error.contains("out.unfinished: is there, and is no unfinished model"), "{error}");
    assert_eq!(fs::read_to_string(folder.join("config.json")).unwrap(), "mine");
    let named = pack(&fixture(SOURCE), &room.path().join("x.safetensors")).unwrap_err().to_string();
    assert!(named.contains("x.safetensors: would be a GGUF file"), "{named}");
    assert_eq!(left(room.path()), ["out.unfinished"]);
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
        ("packed.version", Value::U32(2), "`packed.version` is 2, and 1 is read"),
        (key, texts(&[gate, up]), "three texts"),
        (key, texts(&[gate, up, down, down]), "three texts"),
        (key, texts(&[gate, up, "BF16 64"]), "three texts"),
        (key, texts(&[gate, up, "BF16 64 64 ordered ordered"]), "three texts"),
        (key, texts(&[gate, up, "BF16 +64 64"]), "three texts"),
        (key, texts(&[gate, up, "BF17 64 64"]), "no matrix can be stored as `packed.experts.0` says"),
        (key, texts(&[gate, up, "BF16 0 64"]), "no matrix can be stored as `packed.experts.0` says"),
        (key, texts(&[gate, up, "Q4_K 64 64"]), "no matrix can be stored as `packed.experts.0` says"),
        (
            key,
            texts(&[gate, up, "F32 9223372036854775807 9223372036854775807"]),
            "no matrix can be stored as `packed.experts.0` says",
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
    let document = packed.join("membrane.packed.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&document).unwrap()).unwrap();
    for (key, value) in [
        ("general.architecture", json!("llama")),
        ("packed.version", json!("1")),
        ("packed.version", json!(1e30)),
        ("packed.experts.0", json!([1, 2, 3])),
        ("packed.experts.x", json!(["BF16 1 1"])),
        ("packed.experts.07", json!(["BF16 1 1", "BF16 1 1", "BF16 1 1"])),
        ("packed.factors.0", json!(["BF16 1 1", "BF16 1 1", "BF16 1 1"])),
    ] {
        let mut changed = good.clone();
        changed[key] = value;
        fs::write(&document, changed.to_string()).unwrap();
        let error = Checkpoint::open(&packed).unwrap_err().to_string();
        assert!(error.contains("membrane.packed.json") && error.contains(key), "{error}");
    }
}
