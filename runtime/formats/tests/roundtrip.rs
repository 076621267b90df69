//! What the writer writes, the reader reads, and other programs' files read the same.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first thing that goes wrong")]

mod common;

use std::fs;
use std::path::Path;

use common::model_files;
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{
    Array, Checkpoint, Container, DType, FormatError, Metadata, StrArray, TensorInfo, TensorSink, Value,
    limits,
};

/// Version and alignment of a GGUF file.
fn form(checkpoint: &Checkpoint) -> (u32, u32) {
    match checkpoint.container() {
        Container::Gguf { version, alignment } => (version, alignment),
        Container::Folder => panic!("not a GGUF file"),
    }
}

/// One value of every type.
fn every_value() -> Metadata {
    let mut metadata = Metadata::default();
    let values: [(&str, Value); 25] = [
        ("u8", 255u8.into()),
        ("i8", (-128i8).into()),
        ("u16", u16::MAX.into()),
        ("i16", i16::MIN.into()),
        ("u32", u32::MAX.into()),
        ("i32", i32::MIN.into()),
        ("f32", 1.5e-6f32.into()),
        ("bool", true.into()),
        ("str", "zwölf\n\0".into()),
        ("empty", "".into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f64", std::f64::consts::PI.into()),
        ("u8s", Array::U8(vec![1, 2, 3]).into()),
        ("i8s", Array::I8(vec![-1, 2]).into()),
        ("u16s", Array::U16(vec![1, 65_535]).into()),
        ("i16s", Array::I16(vec![-5]).into()),
        ("u32s", Array::U32(vec![0, u32::MAX]).into()),
        ("i32s", Array::I32(vec![]).into()),
        ("f32s", Array::F32(vec![0.25, f32::INFINITY]).into()),
        ("bools", Array::Bool(vec![true, false, true]).into()),
        ("strs", ["a", "", "ein Wort", "語"].into_iter().collect::<StrArray>().into()),
        ("u64s", Array::U64(vec![u64::MAX]).into()),
        ("i64s", Array::I64(vec![i64::MIN, 0]).into()),
        ("f64s", Array::F64(vec![-0.5]).into()),
    ];
    for (key, value) in values {
        metadata.set(key, value);
    }
    metadata
}

/// Bytes that tell tensor and position.
fn content(tensor: &TensorInfo) -> Vec<u8> {
    let salt = tensor.name.bytes().map(u64::from).sum::<u64>();
    (0..tensor.bytes).map(|index| (index * 31 + salt) as u8).collect()
}

fn fill(tensor: &TensorInfo, sink: &mut TensorSink<'_>) -> Result<(), FormatError> {
    content(tensor).chunks(7).try_for_each(|chunk| sink.put(chunk))
}

fn sample(path: &Path, metadata: Metadata) -> GgufWriter {
    let mut writer = GgufWriter::new(path, metadata);
    writer.declare("blk.0.ffn_gate_exps.weight", DType::Q4_K, &[256, 3, 2]).unwrap();
    writer.declare("norm", DType::F32, &[5]).unwrap();
    writer.declare("odd", DType::I8, &[1, 1, 1, 3]).unwrap();
    writer.declare("last", DType::Q8_0, &[32]).unwrap();
    writer
}

fn check(checkpoint: &Checkpoint, metadata: &Metadata) {
    assert!(checkpoint.metadata().iter().eq(metadata.iter()));
    let names: Vec<_> = checkpoint.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["blk.0.ffn_gate_exps.weight", "norm", "odd", "last"]);
    let experts = checkpoint.require("blk.0.ffn_gate_exps.weight").unwrap();
    assert_eq!((experts.dtype, experts.shape.dims(), experts.bytes), (DType::Q4_K, &[256, 3, 2][..], 864));
    for tensor in checkpoint.tensors() {
        assert_eq!(tensor.offset % u64::from(form(checkpoint).1), 0);
        let mut bytes = vec![0; tensor.bytes as usize];
        checkpoint.read(tensor, 0, &mut bytes).unwrap();
        assert_eq!(bytes, content(tensor), "{}", tensor.name);
        let half = bytes.len() / 2;
        checkpoint.read(tensor, half as u64, &mut bytes[half..]).unwrap();
        assert_eq!(bytes, content(tensor), "{} in two", tensor.name);
    }
}

#[test]
fn writer_to_reader() {
    let folder = tempfile::tempdir().unwrap();
    for alignment in [None, Some(8u32), Some(4096)] {
        let path = folder.path().join("sample.gguf");
        let mut metadata = every_value();
        alignment.inspect(|&alignment| metadata.set("general.alignment", alignment));
        sample(&path, metadata.clone()).write(fill).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(form(&checkpoint), (3, alignment.unwrap_or(32)));
        assert_eq!(checkpoint.path(), path);
        check(&checkpoint, &metadata);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the file");
        let memory = sample(&path, metadata).write_to(Vec::new(), fill).unwrap();
        assert_eq!(memory, fs::read(&path).unwrap());
    }
}

#[test]
fn version_2_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v2.gguf");
    let mut bytes = sample(&path, every_value()).write_to(Vec::new(), fill).unwrap();
    bytes[4] = 2;
    fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(form(&checkpoint).0, 2);
    check(&checkpoint, &every_value());
}

#[test]
fn split_files_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: u16| folder.path().join(format!("big-{:05}-of-00003.gguf", number + 1));
    // The first has metadata only, as some tools write it.
    let shards: [&[&str]; 3] = [&[], &["t0", "t1"], &["t2", "t3"]];
    for (number, names) in (0u16..).zip(shards) {
        let mut metadata = Metadata::default();
        if number == 0 {
            metadata.set("general.architecture", "qwen3moe");
        }
        metadata.set("split.no", number);
        metadata.set("split.tensors.count", 4i32);
        metadata.set("split.count", 3u16);
        let mut writer = GgufWriter::new(&path(number), metadata);
        names.iter().for_each(|name| writer.declare(name, DType::F32, &[16]).unwrap());
        writer.write(fill).unwrap();
    }
    let checkpoint = Checkpoint::open(&path(0)).unwrap();
    let places: Vec<_> = checkpoint.tensors().iter().map(|t| (t.name.as_str(), t.file)).collect();
    assert_eq!(places, [("t0", 1), ("t1", 1), ("t2", 2), ("t3", 2)]);
    assert_eq!(checkpoint.files()[2].path, path(2));
    for tensor in checkpoint.tensors() {
        let mut bytes = vec![0; tensor.bytes as usize];
        checkpoint.read(tensor, 0, &mut bytes).unwrap();
        assert_eq!(bytes, content(tensor));
    }
    assert_eq!(checkpoint.metadata().str("general.architecture").unwrap(), Some("qwen3moe"));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let path = Path::new("unwritten.gguf");
    let refused = |metadata: Metadata, declare: &dyn Fn(&mut GgufWriter) -> Result<(), FormatError>| {
        let mut writer = GgufWriter::new(path, metadata);
        let result = declare(&mut writer).and_then(|()| writer.write_to(Vec::new(), fill));
        let error = result.expect_err("written");
        assert!(error.to_string().contains("unwritten.gguf"), "{error}");
        error
    };
    let with = |key: &str, value: Value| {
        let mut metadata = Metadata::default();
        metadata.set(key, value);
        metadata
    };
    let none = Metadata::default;
    let nothing = |_: &mut GgufWriter| Ok(());
    assert!(matches!(refused(with("", 1u8.into()), &nothing), FormatError::Entry { .. }));
    assert!(matches!(
        refused(with("general.alignment", 24u32.into()), &nothing),
        FormatError::Alignment { .. }
    ));
    let text = "x".repeat(limits::STRING_BYTES as usize + 1);
    let words: StrArray = ["a", &text].into_iter().collect();
    let long = Array::Bool(vec![true; limits::ARRAY_ELEMENTS as usize + 1]);
    for large in [text.into(), words.into(), long.into()] {
        assert!(matches!(refused(with("k", large), &nothing), FormatError::Limit { .. }));
    }
    let mut full = none();
    (0..32).for_each(|key| full.set(&format!("{key}"), "x".repeat(limits::STRING_BYTES as usize)));
    assert!(matches!(refused(full, &nothing), FormatError::Limit { .. }));
    let long = "n".repeat(64);
    assert!(matches!(refused(none(), &|w| w.declare(&long, DType::F32, &[1])), FormatError::Tensor { .. }));
    assert!(matches!(refused(none(), &|w| w.declare("", DType::F32, &[1])), FormatError::Tensor { .. }));
    assert!(matches!(
        refused(none(), &|w| w.declare("w", DType::Q4_K, &[32])),
        FormatError::TensorShape { .. }
    ));
    assert!(matches!(
        refused(none(), &|w| w.declare("w", DType::F32, &[1]).and_then(|()| w.declare(
            "w",
            DType::F32,
            &[1]
        ))),
        FormatError::Duplicate { .. }
    ));
    let huge = 1 << 62;
    assert!(matches!(
        refused(none(), &|w| w.declare("a", DType::I8, &[huge]).and_then(|()| w.declare(
            "b",
            DType::I8,
            &[huge]
        ))),
        FormatError::Tensor { .. }
    ));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("failed.gguf");
    fs::write(&path, "old").unwrap();
    let attempt = |bytes: usize| {
        let writer = sample(&path, Metadata::default());
        writer.write(|tensor, sink| match tensor.name.as_str() {
            "norm" => sink.put(&vec![0; bytes]),
            _ => fill(tensor, sink),
        })
    };
    for wrong in [0, 19, 21] {
        let error = attempt(wrong).unwrap_err();
        assert!(matches!(error, FormatError::WriteLength { declared: 20, .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    attempt(20).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().tensors().len(), 4);
    let absent = folder.path().join("absent/m.gguf");
    let error = sample(&absent, Metadata::default()).write(fill).unwrap_err();
    assert!(matches!(error, FormatError::Open { .. }), "{error:?}");
}

#[test]
fn the_callback_can_fail_in_its_own_way() {
    #[derive(Debug)]
    enum Mine {
        Format,
        Own,
    }
    impl From<FormatError> for Mine {
        fn from(_: FormatError) -> Self {
            Mine::Format
        }
    }
    let path = Path::new("unwritten.gguf");
    let result = sample(path, Metadata::default()).write_to(Vec::new(), |_, _| Err(Mine::Own));
    assert!(matches!(result, Err(Mine::Own)));
    let result = sample(path, Metadata::default()).write_to(Vec::new(), |_, _| Ok::<_, Mine>(()));
    assert!(matches!(result, Err(Mine::Format)));
}

#[test]
fn other_programs_files_rewrite_byte_for_byte() {
    let files = model_files();
    assert!(!files.is_empty(), "the repository's own fixtures are gone");
    for path in files {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert!(checkpoint.tensors().len() > 10, "{}", path.display());
        let architecture = checkpoint.metadata().require_str("general.architecture").unwrap();
        assert!(checkpoint.metadata().require_u32(&format!("{architecture}.block_count")).unwrap() > 0);
        let tokens = checkpoint.metadata().require_str_array("tokenizer.ggml.tokens").unwrap();
        let kinds = checkpoint.metadata().require_i32_array("tokenizer.ggml.token_type").unwrap();
        assert_eq!(tokens.len(), kinds.len());
        let rows = checkpoint.require("token_embd.weight").unwrap().shape.dims()[1];
        assert_eq!(rows, tokens.len() as u64, "{}", path.display());

        let mut writer = GgufWriter::new(&path, checkpoint.metadata().clone());
        for tensor in checkpoint.tensors() {
            writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims()).unwrap();
        }
        let copy = writer.write_to(Vec::new(), |tensor, sink| {
            let mut bytes = vec![0; tensor.bytes as usize];
            checkpoint.read(checkpoint.require(&tensor.name)?, 0, &mut bytes)?;
            sink.put(&bytes)
        });
        let copy: Result<_, FormatError> = copy;
        assert!(copy.unwrap() == fs::read(&path).unwrap(), "{} differs", path.display());
    }
}
