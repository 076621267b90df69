//! `--memory` is a ceiling on the process, and changes no token.

use std::path::{Path, PathBuf};

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, DType, FormatError, Metadata, StrArray, TensorInfo, Value};

use crate::program::{Ended, MOE, fixture, membrane, reshaped};

pub const MIB: u64 = 1 << 20;
/// Width of the experts: wide enough that a budget of some MiB less leaves many of them on disk.
const INNER: u64 = 1024;
/// Scale of all weights of the experts, 2^-9 as the bits of an f16.
const SCALE: u16 = 0x1800;
/// More than a chunk of 64 tokens, in the vocabulary of the fixtures.
pub const PROMPT: &str = "A reader asks: which of the books on the lower shelf are about rivers, who wrote them, \
                      and when? Please give the years too, and say where in the hall the shelf stands.";

/// The fixture with wider experts of random weights, about 40 MiB of them.
pub fn model(folder: &Path) -> PathBuf {
    let source = Checkpoint::open(Path::new(&fixture(MOE))).unwrap();
    let mut metadata = source.metadata().clone();
    metadata.set("qwen3moe.expert_feed_forward_length", Value::U32(INNER as u32));
    let path = folder.join("wide.gguf");
    let mut writer = GgufWriter::new(&path, metadata);
    for tensor in source.tensors() {
        let mut dims = tensor.shape.dims().to_vec();
        if let Some(inner) = inner_dimension(&tensor.name) {
            assert_eq!(tensor.dtype, DType::Q8_0);
            dims[inner] = INNER;
        }
        writer.declare(&tensor.name, tensor.dtype, &dims).unwrap();
    }
    let mut state = 1_u64;
    let written = writer.write::<FormatError>(|tensor: &TensorInfo, sink| {
        let mut bytes = vec![0; tensor.bytes as usize];
        if inner_dimension(&tensor.name).is_none() {
            source.read(source.require(&tensor.name)?, 0, &mut bytes)?;
            return sink.put(&bytes);
        }
        for block in bytes.chunks_exact_mut(34) {
            block[..2].copy_from_slice(&SCALE.to_le_bytes());
            for weight in &mut block[2..] {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *weight = (state >> 33) as u8;
            }
        }
        sink.put(&bytes)
    });
    written.unwrap();
    path
}

/// Which dimension of an expert tensor is the experts' width.
fn inner_dimension(name: &str) -> Option<usize> {
    match name.split('.').nth(2)? {
        "ffn_down_exps" => Some(0),
        "ffn_gate_exps" | "ffn_up_exps" => Some(1),
        _ => None,
    }
}

fn run(model: &Path, arguments: &[&str]) -> Ended {
    let model = model.to_str().unwrap();
    let common = ["run", model, PROMPT, "-n", "24", "--ctx", "256", "--sampler", "greedy", "--json"];
    membrane(&[&common[..], arguments].concat())
}

/// The least budget, which the error of one that is too small names: with the budget grows what is kept for
/// plugins, so that the figure of one much too small is refused once more.
pub fn least(model: &Path) -> u64 {
    let mut budget = MIB;
    for _ in 0..4 {
        let refused = run(model, &["--memory", &budget.to_string(), "--prefill-chunk", "512"]);
        if refused.code == Some(0) {
            return budget;
        }
        refused.failed_saying(&["can't hold this model"]);
        let rest = refused.stderr.split("give at least --memory ").nth(1).expect("the error names the least");
        budget = rest.split("MiB").next().unwrap().parse::<u64>().unwrap() * MIB;
    }
    panic!("what the error names as enough is refused again and again: {budget}");
}

#[test]
fn every_budget_holds_and_gives_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let unlimited = run(&model, &[]).good();
    let wanted = unlimited.answer();
    assert!(unlimited.events()[1]["prompt_tokens"].as_u64().unwrap() > 64);
    assert_eq!(unlimited.end()["stats"]["expert_hit_rate"], 1.0);
    let least = least(&model);
    for more in [1, 5, 10] {
        let budget = least + more * MIB;
        for threads in ["1", "2"] {
            for chunk in ["1", "7", "64", "512"] {
                let memory = budget.to_string();
                let run = run(&model, &["--memory", &memory, "--threads", threads, "--prefill-chunk", chunk])
                    .good();
                let case = format!("{} MiB, {threads} threads, chunks of {chunk}", budget / MIB);
                assert_eq!(run.answer(), wanted, "{case}");
                let stats = &run.end()["stats"];
                let peak = stats["peak_memory_bytes"].as_u64().unwrap();
                assert!(peak <= budget, "{case}: a peak of {peak} bytes of {budget}");
                assert!(stats["bytes_read"].as_u64().unwrap() > 0, "{case}: nothing was paged");
                assert!(stats["expert_hit_rate"].as_f64().unwrap() < 1.0, "{case}");
            }
        }
    }
}

/// The fixture with a vocabulary of so many tokens, as large models have.
fn with_vocabulary(folder: &Path, count: usize) -> PathBuf {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const TYPES: &str = "tokenizer.ggml.token_type";
    let have = Checkpoint::open(Path::new(&fixture(MOE)))
        .unwrap()
        .metadata()
        .require_str_array(TOKENS)
        .unwrap()
        .len();
    let change = |metadata: &mut Metadata| {
        let tokens = metadata.require_str_array(TOKENS).unwrap();
        let more = (have..count).map(|id| format!("word{id:07}"));
        let all: StrArray = tokens.iter().map(str::to_owned).chain(more).collect();
        metadata.set(TOKENS, all);
        let Some(Value::Array(Array::I32(mut types))) = metadata.get(TYPES).cloned() else {
            panic!("no {TYPES}")
        };
        types.resize(count, 1);
        metadata.set(TYPES, Array::I32(types));
    };
    let rows = |dims: &mut Vec<u64>| {
        dims.iter_mut().skip(1).filter(|dim| **dim == have as u64).for_each(|dim| *dim = count as u64)
    };
    reshaped(MOE, folder, change, rows).into()
}

/// The tokenizer of a large vocabulary takes more than what is kept free beside the plan.
#[test]
fn a_large_vocabulary_is_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let model = with_vocabulary(folder.path(), 200_000);
    let budget = least(&model) + MIB;
    let ended = run(&model, &["--memory", &budget.to_string()]).good();
    let peak = ended.end()["stats"]["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak <= budget, "a peak of {peak} bytes of {budget}");
}

#[test]
fn a_chunk_that_was_asked_for_gives_way_to_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    // What a process holds before it plans varies by some pages from run to run.
    let least = least(&model) + MIB;
    let chunk = |budget: u64, asked: &str| {
        let run = run(&model, &["--memory", &budget.to_string(), "--prefill-chunk", asked]).good();
        run.events()[0]["plan"]["prefill_chunk"].as_u64().unwrap()
    };
    let tight = chunk(least, "256");
    assert!(tight < 256, "{tight}");
    assert_eq!((chunk(least + 300 * MIB, "256"), chunk(least, "3")), (256, 3));
}

#[test]
fn a_budget_below_the_least_is_refused_with_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let memory = (least(&model) / 2).to_string();
    run(&model, &["--memory", &memory]).failed_saying(&[
        "are needed at least",
        "resident weights",
        "for a context of 256",
    ]);
}
