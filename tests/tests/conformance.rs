//! Logits against the references: transformers on the dequantised weights, and what llama.cpp reaches on
//! the same file.

#[path = "conformance/twin.rs"]
mod twin;

use std::path::{Path, PathBuf};

use membrane_engine::{Architecture, Isa, LoadOptions, Observer, Precision, Prepared};
use membrane_formats::Checkpoint;
use membrane_kernels::Format;
use membrane_tests::golden::{Distance, Golden, distance};
use membrane_tests::{references, with_metadata, workspace};

/// Largest difference of f32 computations.
const REFERENCE_MAX_ABS: f32 = 2e-3;
/// The same for DeepSeek-V3, whose latent attention is computed in another order than the reference's.
const REFERENCE_MAX_ABS_LATENT: f32 = 5e-3;
/// The fast path's normalised mean square error, as a multiple of llama.cpp's.
const FAST_RATIO: f64 = 1.25;
/// Router choices count where the last chosen expert is ahead of the first rejected one by more than this.
const ROUTER_MARGIN: f32 = 1e-3;

/// A GGUF file with its golden outputs.
struct Case {
    gguf: PathBuf,
    /// Model and quantisation, the two parts of the file's name.
    model: String,
    quantisation: String,
    golden: PathBuf,
}

/// Every reference file of an architecture that the engine runs.
fn cases() -> Vec<Case> {
    let mut found = Vec::new();
    for root in references() {
        let folder = std::fs::read_dir(root.join("gguf")).unwrap();
        for entry in folder.map(|entry| entry.unwrap().path()) {
            let stem = entry.file_stem().unwrap().to_str().unwrap().to_owned();
            let Some((model, quantisation)) = stem.rsplit_once('-') else { continue };
            let golden = root.join(format!("golden/{model}.gguf.safetensors"));
            let checkpoint = Checkpoint::open(&entry).unwrap();
            if Architecture::of(&checkpoint).is_ok() && golden.exists() {
                let (model, quantisation) = (model.to_owned(), quantisation.to_owned());
                found.push(Case { gguf: entry, model, quantisation, golden });
            }
        }
    }
    found.sort_by(|a, b| a.gguf.cmp(&b.gguf));
    found
}

/// Logits of all positions and router choices of all layers.
#[derive(Default)]
struct Record {
    logits: Vec<f32>,
    router: Vec<Vec<u32>>,
}

impl Observer for Record {
    fn router(&mut self, layer: usize, rows: usize, ids: &[u32], _weights: &[f32]) {
        self.router.resize(self.router.len().max(layer + 1), Vec::new());
        for row in ids.chunks(ids.len() / rows) {
            let mut row = row.to_vec();
            row.sort_unstable();
            self.router[layer].extend(row);
        }
    }

    fn logits(&mut self, _position: usize, logits: &[f32]) {
        self.logits.extend_from_slice(logits);
    }

    fn wants_logits(&self) -> bool {
        true
    }
}

fn record(gguf: &Path, precision: Precision, tokens: &[u32]) -> Record {
    let options = LoadOptions { precision, context: Some(512), threads: Some(2), ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(gguf).unwrap().into();
    let model = Prepared::without_text(checkpoint, &options).unwrap().load(&mut |_, _| {}).unwrap();
    let mut record = Record::default();
    model.session().append_observed(tokens, &mut record).unwrap();
    record
}

/// The golden logits of a prompt, and how many of its last positions they cover.
fn golden_logits(golden: &Golden, prefix: &str) -> Option<Vec<f32>> {
    golden.f32(&format!("{prefix}.logits")).or_else(|| golden.f32(&format!("{prefix}.logits_last16")))
}

fn compare(case: &Case, golden: &Golden, precision: Precision, prompt: &str) -> Option<Distance> {
    let wanted = golden_logits(golden, &format!("{}.dequant.{prompt}", case.quantisation))?;
    let tokens = golden.ids(&format!("{prompt}.input_ids"))?;
    let logits = record(&case.gguf, precision, &tokens).logits;
    let vocabulary = logits.len() / tokens.len();
    Some(distance(&logits[logits.len() - wanted.len()..], &wanted, vocabulary))
}

#[test]
fn f32_activations_give_the_logits_of_the_dequantised_weights() {
    let cases = cases();
    assert!(!cases.is_empty(), "the fixtures of this tree are missing");
    let mut failures = Vec::new();
    for case in &cases {
        let golden = Golden::read(&case.golden);
        for prompt in ["p7", "p64", "p300"] {
            let Some(found) = compare(case, &golden, Precision::Reference, prompt) else { continue };
            println!("{} {} {prompt}: {found:?}", case.model, case.quantisation);
            let latent = case.model.contains("deepseek");
            let bar = if latent { REFERENCE_MAX_ABS_LATENT } else { REFERENCE_MAX_ABS };
            if found.max_abs.is_nan() || found.max_abs > bar {
                failures.push(format!("{} {} {prompt}: {}", case.model, case.quantisation, found.max_abs));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_fast_path_is_as_near_as_llama_cpp() {
    let mut failures = Vec::new();
    for case in &cases() {
        let golden = Golden::read(&case.golden);
        let json = case.golden.with_extension("json");
        let recorded: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
        for prompt in ["p7", "p64", "p300"] {
            let Some(found) = compare(case, &golden, Precision::Fast, prompt) else { continue };
            let peer = recorded[&case.quantisation]["llamacpp_vs_dequant"][prompt]["nmse"].as_f64().unwrap();
            let ratio = found.nmse / peer;
            println!("{} {} {prompt}: {found:?}, {ratio:.2} of llama.cpp's", case.model, case.quantisation);
            if found.nmse.is_nan() || ratio > FAST_RATIO {
                failures.push(format!("{} {} {prompt}: {ratio:.2}", case.model, case.quantisation));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// 8 bits for dense models and for mixtures of 8 experts a token, in groups where the CPU has AMX; 16 where a router's turn weighs more.
#[test]
fn the_fast_path_rounds_as_the_router_bears() {
    let fixture = |name: &str| workspace().join("tests/fixtures/gguf").join(name);
    let precision = |path: &Path| {
        let checkpoint = Checkpoint::open(path).unwrap().into();
        let prepared = Prepared::without_text(checkpoint, &LoadOptions::default()).unwrap();
        prepared.load(&mut |_, _| {}).unwrap().precision()
    };
    for (name, wanted) in [
        ("tiny-qwen3-IQ4_NL.gguf", Precision::Int8),
        (
            "kq-qwen3-Q4_K_M.gguf",
            if Isa::Amx.is_available() { Precision::Int8Groups } else { Precision::Int8 },
        ),
        ("tiny-qwen35-Q8_0.gguf", Precision::Int8),
        ("tiny-qwen3moe-Q8_0.gguf", Precision::Int16),
        ("tiny-qwen35moe-Q8_0.gguf", Precision::Int16),
    ] {
        assert_eq!(precision(&fixture(name)), wanted, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&fixture("tiny-qwen3moe-Q8_0.gguf")).unwrap();
    for (experts, wanted) in [(7_u32, Precision::Int16), (8, Precision::Int8)] {
        let mut metadata = source.metadata().clone();
        metadata.set("qwen3moe.expert_used_count", experts);
        let path = folder.path().join(format!("{experts}.gguf"));
        with_metadata(&source, metadata, &path).unwrap();
        assert_eq!(precision(&path), wanted, "{experts} experts");
    }
}

/// The normalised mean square error of the fast path at each position of some prompts.
fn errors(path: &Path, golden: &Golden) -> Vec<f64> {
    let of = |prompt: &&str| {
        let tokens = golden.ids(&format!("{prompt}.input_ids")).unwrap();
        let exact = record(path, Precision::Reference, &tokens).logits;
        let fast = record(path, Precision::Fast, &tokens).logits;
        let vocabulary = exact.len() / tokens.len();
        let rows = fast.chunks(vocabulary).zip(exact.chunks(vocabulary));
        rows.map(|(fast, exact)| distance(fast, exact, vocabulary).nmse).collect::<Vec<_>>()
    };
    let mut errors: Vec<f64> = ["p1", "p7", "p64", "p300"].iter().flat_map(of).collect();
    errors.sort_unstable_by(f64::total_cmp);
    errors
}

/// Formats for which nothing is recorded of llama.cpp, beside the same model in a format of as many bits. The median counts: where
/// two experts are so near that a router takes the other one, the error is a thousand times that of other positions, and chance
/// says in which of the two files that is.
#[test]
fn the_fast_path_of_folders_is_as_near_as_that_of_the_same_model_in_a_gguf_file() {
    const COMPARED: [(&str, Format); 2] =
        [("qwen3moe_fp8", Format::Q8_0), ("qwen3moe_nvfp4_modelopt", Format::Q4_0)];
    let scratch = tempfile::tempdir().unwrap();
    for root in references() {
        for (name, format) in COMPARED {
            let folder = root.join("models").join(name);
            if !folder.exists() {
                continue;
            }
            let golden = Golden::read(&root.join(format!("golden/{name}.safetensors")));
            let gguf = scratch.path().join(format!("{name}.gguf"));
            twin::write(&folder, format, &gguf);
            let shown = |errors: &[f64]| {
                let mean = errors.iter().sum::<f64>() / errors.len() as f64;
                let part = |of_ten: usize| errors[errors.len() * of_ten / 10];
                format!("median {:.2e}, nine of ten {:.2e}, mean {mean:.2e}", part(5), part(9))
            };
            let (own, other) = (errors(&folder, &golden), errors(&gguf, &golden));
            println!("{name}: nmse {}; in {}: {}", shown(&own), format.name(), shown(&other));
            let ratio = own[own.len() / 2] / other[other.len() / 2];
            assert!(ratio <= FAST_RATIO, "{name}: {ratio:.2} of {}'s", format.name());
        }
    }
}

#[test]
fn routers_choose_the_same_experts() {
    let mut compared = 0;
    for case in cases().iter().filter(|case| case.quantisation == "BF16") {
        let golden_file = case.golden.with_file_name(format!("{}.safetensors", case.model));
        if !golden_file.exists() {
            continue;
        }
        let golden = Golden::read(&golden_file);
        for prompt in ["p1", "p7", "p64", "p300"] {
            let tokens = golden.ids(&format!("{prompt}.input_ids")).unwrap();
            let record = record(&case.gguf, Precision::Reference, &tokens);
            for (layer, found) in record.router.iter().enumerate() {
                let Some(wanted) = golden.ids(&format!("{prompt}.router.{layer}.ids")) else { continue };
                let margins = golden.f32(&format!("{prompt}.router.{layer}.margin")).unwrap();
                let top_k = wanted.len() / margins.len();
                for (row, margin) in margins.iter().enumerate().filter(|(_, margin)| **margin > ROUTER_MARGIN)
                {
                    let range = row * top_k..(row + 1) * top_k;
                    assert_eq!(
                        found[range.clone()],
                        wanted[range],
                        "{} {prompt} layer {layer} row {row} margin {margin}",
                        case.model
                    );
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} choices compared");
}

#[test]
fn greedy_continuations_are_the_references() {
    let mut compared = 0;
    for case in cases().iter().filter(|case| case.quantisation == "BF16") {
        let golden_file = case.golden.with_file_name(format!("{}.safetensors", case.model));
        if !golden_file.exists() {
            continue;
        }
        let golden = Golden::read(&golden_file);
        let options =
            LoadOptions { precision: Precision::Reference, context: Some(128), ..LoadOptions::default() };
        let model = Prepared::open(&case.gguf, &options).unwrap().load(&mut |_, _| {}).unwrap();
        for prompt in ["p7", "p64"] {
            compared += golden.assert_greedy(&mut model.session(), prompt, &case.model);
        }
    }
    assert!(compared > 0, "the fixture in BF16 is missing");
}

#[test]
fn instruction_sets_give_the_same_bits() {
    for case in &cases() {
        let golden = Golden::read(&case.golden);
        let tokens = golden.ids("p64.input_ids").unwrap();
        let logits = |isa| {
            let options = LoadOptions { isa: Some(isa), context: Some(128), ..LoadOptions::default() };
            let model = Prepared::open(&case.gguf, &options).unwrap().load(&mut |_, _| {}).unwrap();
            let mut session = model.session();
            session.append(&tokens).unwrap();
            session.logits().iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
        };
        let scalar = logits(Isa::Scalar);
        for isa in Isa::available() {
            assert!(logits(isa) == scalar, "{} {} {isa:?}", case.model, case.quantisation);
        }
    }
}
