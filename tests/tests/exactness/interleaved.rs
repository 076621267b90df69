//! Rows that are interleaved in memory give the bits of rows as they lie in files, and what is wrong in them is named.

use std::path::{Path, PathBuf};

use membrane_engine::{Isa, LoadOptions, Model, Packing, Precision, Prepared, Result};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, DType, FormatError, Metadata};
use membrane_kernels::Format;
use membrane_kernels::interleaved::is_used;
use membrane_kernels::quant::{dequantise_row, quantise_row};
use membrane_tests::sessions::{bits, fresh, tokens};
use membrane_tests::workspace;

/// Dense models with rows of 256 and 512 elements; together of Q2_K, Q3_K, Q4_K, Q5_K, Q6_K and IQ4_XS.
const SOURCES: [&str; 3] = ["kq-qwen3-Q2_K", "kq-qwen3-Q4_K_M", "kq-qwen3-IQ4_XS"];
const EXPERTS: usize = 8;
/// The slowest instruction set that has a use for them.
const ISA: Isa = Isa::Avx2;

fn fixture(name: &str) -> PathBuf {
    workspace().join(format!("tests/fixtures/gguf/{name}.gguf"))
}

/// The matrix of a feed-forward that a matrix of experts is made of.
fn dense_name(name: &str) -> Option<String> {
    name.strip_suffix("_exps.weight").map(|name| format!("{name}.weight"))
}

fn mixture_metadata(source: &Checkpoint, inner: u32) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in source.metadata().iter() {
        let key = key.strip_prefix("qwen3.").map_or(key.to_owned(), |key| format!("qwen3moe.{key}"));
        metadata.set(&key, value.clone());
    }
    metadata.set("general.architecture", "qwen3moe");
    metadata.set("qwen3moe.expert_count", EXPERTS as u32);
    metadata.set("qwen3moe.expert_used_count", 3_u32);
    metadata.set("qwen3moe.expert_feed_forward_length", inner);
    metadata
}

/// Writes a mixture: each expert has the rows of the dense feed-forward, begun elsewhere. `damage` is shown the bytes of each tensor.
fn write_mixture(source: &Checkpoint, path: &Path, damage: &dyn Fn(&str, &mut [u8])) {
    write_mixture_with(source, path, false, damage);
}

/// The same; where `others`, every other layer has its downs in Q8_0, whose rows are not interleaved.
fn write_mixture_with(source: &Checkpoint, path: &Path, others: bool, damage: &dyn Fn(&str, &mut [u8])) {
    let is_other =
        |name: &str| others && (name.starts_with("blk.1.ffn_down") || name.starts_with("blk.3.ffn_down"));
    let mut writer = GgufWriter::new(path, mixture_metadata(source, 512));
    for tensor in source.tensors() {
        let mut dims = tensor.shape.dims().to_vec();
        let matrix = ["ffn_gate", "ffn_up", "ffn_down"]
            .into_iter()
            .find(|part| tensor.name.ends_with(&format!("{part}.weight")));
        let Some(part) = matrix else {
            writer.declare(&tensor.name, tensor.dtype, &dims).unwrap();
            continue;
        };
        dims.push(EXPERTS as u64);
        let name = tensor.name.replace(".weight", "_exps.weight");
        writer.declare(&name, if is_other(&name) { DType::Q8_0 } else { tensor.dtype }, &dims).unwrap();
        if part == "ffn_gate" {
            let router = tensor.name.replace("ffn_gate", "ffn_gate_inp");
            writer.declare(&router, DType::F32, &[dims[0], EXPERTS as u64]).unwrap();
        }
    }
    let written = writer.write(|tensor, sink| -> std::result::Result<(), FormatError> {
        let mut bytes = Vec::new();
        if tensor.name.contains("ffn_gate_inp") {
            let number = |i: u64| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 0.3;
            bytes.extend((0..tensor.shape.elements()).flat_map(|i| number(i).to_le_bytes()));
        } else {
            let dense = dense_name(&tensor.name).unwrap_or_else(|| tensor.name.clone());
            let stored = source.require(&dense)?;
            let mut one = vec![0; stored.bytes as usize];
            source.read(stored, 0, &mut one)?;
            if is_other(&tensor.name) {
                let mut floats = vec![0.0; stored.shape.elements() as usize];
                dequantise_row(Format::from_name(stored.dtype.name()).unwrap(), &one, &mut floats);
                one.clear();
                quantise_row(Format::Q8_0, &floats, &mut one).unwrap();
            }
            let rows = stored.shape.dims().get(1).map_or(1, |&rows| rows as usize);
            let copies = tensor.bytes / one.len() as u64;
            for copy in 0..copies as usize {
                let mut expert = one.clone();
                expert.rotate_left(copy * 37 % rows * (one.len() / rows));
                bytes.append(&mut expert);
            }
        }
        damage(&tensor.name, &mut bytes);
        sink.put(&bytes)
    });
    written.unwrap();
}

fn load(path: &Path, isa: Isa, precision: Precision, experts: Option<u64>) -> Result<Model> {
    let (context, threads) = (Some(128), Some(2));
    let options =
        LoadOptions { isa: Some(isa), precision, experts, context, threads, ..LoadOptions::default() };
    Prepared::without_text(Checkpoint::open(path)?.into(), &options)?.load(&mut |_, _| {})
}

#[test]
fn every_way_to_lie_in_memory_gives_the_same_bits() {
    for source in SOURCES {
        let room = tempfile::tempdir().unwrap();
        let (dense, mixture) = (fixture(source), room.path().join("mixture.gguf"));
        write_mixture(&Checkpoint::open(&dense).unwrap(), &mixture, &|_, _| {});
        let packed = room.path().join("packed.gguf");
        Packing::of(Checkpoint::open(&mixture).unwrap()).unwrap().write(&packed, &mut |_, _| {}).unwrap();
        for precision in [Precision::Int8, Precision::Int8Groups, Precision::Int16, Precision::Reference] {
            for model in [&dense, &mixture] {
                let prompts = [tokens(40, 3), tokens(1, 9)];
                let run = |model: Model| prompts.each_ref().map(|prompt| fresh(&model, prompt));
                let wanted = run(load(model, Isa::Scalar, precision, None).unwrap());
                for isa in Isa::available() {
                    let whole = load(model, isa, precision, None).unwrap();
                    let recoded = whole.counters().recode_time_ns > 0;
                    assert_eq!(recoded, is_used(isa) && model == &mixture, "{source} {isa}");
                    assert!(run(whole) == wanted, "{source} {isa} {precision:?} {model:?}");
                    if model == &dense {
                        continue;
                    }
                    let paged = load(model, isa, precision, Some(6)).unwrap();
                    assert!(paged.plan().paged() && paged.counters().recode_time_ns == 0);
                    assert!(run(paged) == wanted, "{source} {isa} {precision:?} paged");
                    let whole = load(&packed, isa, precision, None).unwrap();
                    assert_eq!(whole.counters().recode_time_ns > 0, is_used(isa), "{source} {isa} packed");
                    assert!(run(whole) == wanted, "{source} {isa} {precision:?} packed");
                }
            }
        }
    }
}

/// 300 rows of 512 gates and ups are more than experts compute together on one thread, 60 are not.
#[test]
fn experts_in_waves_give_the_same_bits() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("mixture.gguf");
    write_mixture(&Checkpoint::open(&fixture("kq-qwen3-Q4_K_M")).unwrap(), &path, &|_, _| {});
    let run = |prefill_chunk| {
        let (context, threads) = (Some(128), Some(1));
        let options = LoadOptions { context, threads, prefill_chunk, ..LoadOptions::default() };
        let checkpoint = Checkpoint::open(&path).unwrap().into();
        let model = Prepared::without_text(checkpoint, &options).unwrap().load(&mut |_, _| {}).unwrap();
        fresh(&model, &tokens(100, 3))
    };
    assert!(run(Some(100)) == run(Some(20)));
}

/// Experts of a paged model that are used time and again are interleaved where they are in memory; a pass then has such beside others.
#[test]
fn experts_that_are_interleaved_later_give_the_same_bits() {
    const TOKENS: usize = 40;
    for (source, others) in SOURCES.into_iter().zip([false, true, false]) {
        let room = tempfile::tempdir().unwrap();
        let [mixture, packed] = ["mixture.gguf", "packed.gguf"].map(|name| room.path().join(name));
        write_mixture_with(&Checkpoint::open(&fixture(source)).unwrap(), &mixture, others, &|_, _| {});
        Packing::of(Checkpoint::open(&mixture).unwrap()).unwrap().write(&packed, &mut |_, _| {}).unwrap();
        let run = |model: &Model| {
            let mut session = model.session();
            let mut seen = Vec::new();
            for token in tokens(TOKENS, 5) {
                session.append(&[token]).unwrap();
                seen.push(bits(&session));
            }
            session.append(&tokens(TOKENS, 6)).unwrap();
            seen.push(bits(&session));
            seen
        };
        let wanted = run(&load(&mixture, Isa::Scalar, Precision::Int8, None).unwrap());
        for model in [&mixture, &packed] {
            for isa in Isa::available() {
                let paged = load(model, isa, Precision::Int8, Some(EXPERTS as u64 + 2)).unwrap();
                assert!(run(&paged) == wanted, "{source} {isa} {model:?}");
                let counters = paged.counters();
                assert_eq!(counters.rewritten > 0, is_used(isa), "{source} {isa}: {counters:?}");
                assert!(counters.evictions > 0 && counters.failures == 0, "{source} {isa}: {counters:?}");
            }
        }
    }
}

/// The numbers of a row that is interleaved are looked for where they lie.
#[test]
fn numbers_that_are_not_finite_are_found_in_interleaved_rows() {
    /// Bytes of a block of Q4_K, which begins with its scale.
    const BLOCK: usize = 144;
    for (wanted, expert) in [("blk.1.attn_output.weight", None), ("blk.2.ffn_gate_exps.weight", Some(5))] {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("damaged.gguf");
        write_mixture(&Checkpoint::open(&fixture("kq-qwen3-Q4_K_M")).unwrap(), &path, &|name, bytes| {
            if name == wanted {
                let first = expert.map_or(0, |expert| bytes.len() / EXPERTS * expert);
                let infinite = half::f16::INFINITY.to_le_bytes();
                bytes[first + 11 * BLOCK..][..2].copy_from_slice(&infinite);
            }
        });
        for isa in [Isa::Scalar, Isa::detect(), ISA.or_slower(), Isa::Amx.or_slower()] {
            for experts in [None, Some(6)] {
                let model = load(&path, isa, Precision::Int8, experts).unwrap();
                let error = model.session().append(&tokens(60, 4)).unwrap_err().to_string();
                assert!(error.contains(wanted), "{isa}: {error}");
                let number = expert.map(|expert| format!("expert {expert}"));
                assert!(number.is_none_or(|number| error.contains(&number)), "{isa}: {error}");
            }
        }
    }
}

/// Dimensions of 1 are not looked at, so that a row of blocks passes for a column, which is no whole block.
#[test]
fn a_column_of_blocks_is_an_error() {
    let source = Checkpoint::open(&fixture("kq-qwen3-Q4_K_M")).unwrap();
    for mixture in [false, true] {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("narrow.gguf");
        let metadata = match mixture {
            true => mixture_metadata(&source, 1),
            false => {
                let mut metadata = source.metadata().clone();
                metadata.set("qwen3.feed_forward_length", 1_u32);
                metadata
            }
        };
        let mut writer = GgufWriter::new(&path, metadata);
        for tensor in source.tensors() {
            let dims = tensor.shape.dims();
            match ["gate", "up", "down"]
                .into_iter()
                .find(|part| tensor.name.ends_with(&format!("ffn_{part}.weight")))
            {
                None => writer.declare(&tensor.name, tensor.dtype, dims).unwrap(),
                Some(_) if !mixture => writer.declare(&tensor.name, DType::Q4_K, &[256]).unwrap(),
                Some(part) => {
                    let name = tensor.name.replace(".weight", "_exps.weight");
                    writer.declare(&name, DType::Q4_K, &[256, EXPERTS as u64]).unwrap();
                    if part == "gate" {
                        let router = tensor.name.replace("gate", "gate_inp");
                        writer.declare(&router, DType::F32, &[256, EXPERTS as u64]).unwrap();
                    }
                }
            }
        }
        let written = writer.write(|tensor, sink| -> std::result::Result<(), FormatError> {
            sink.put(&vec![0; tensor.bytes as usize])
        });
        written.unwrap();
        for isa in Isa::available() {
            let run = |model: Model| model.session().append(&tokens(5, 4));
            let error = load(&path, isa, Precision::Int8, None).and_then(run).unwrap_err().to_string();
            assert!(error.contains("ffn_down") && error.contains("whole Q4_K blocks"), "{isa}: {error}");
        }
    }
}
