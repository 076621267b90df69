//! Folders made to break a reader: each ends in a typed error that names the file, in under a second and 60 MB.
//!
//! One test for a class of attack.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first thing that goes wrong")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Counting, peak_bytes};
use membrane_formats::{Checkpoint, Container, FormatError, limits};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONFIG: &str =
    r#"{"model_type":"qwen3","num_hidden_layers":1,"hidden_size":8,"tie_word_embeddings":true}"#;
const EMBEDDING: &str = r#""model.embed_tokens.weight":{"dtype":"BF16","shape":[2,8],"data_offsets":[0,32]}"#;

/// A folder in the making.
struct Made(TempDir);

impl Made {
    /// With a valid configuration and nothing else.
    fn new() -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        made.file("config.json", CONFIG);
        made
    }

    /// With a weight file of this header and so many bytes of data.
    fn with_header(header: &str, data: usize) -> Self {
        Self::new().weights("model.safetensors", header, data)
    }

    fn weights(self, name: &str, header: &str, data: usize) -> Self {
        fs::write(self.0.path().join(name), safetensors(header, data)).unwrap();
        self
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    /// Opens it within the bounds that hold for every folder.
    fn open(&self) -> Result<Checkpoint, FormatError> {
        let begun = Instant::now();
        let (result, peak) = peak_bytes(|| Checkpoint::open(self.0.path()));
        assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
        assert!(peak < 60_000_000, "took {peak} bytes");
        result
    }

    /// The text of the error, which names a file of the folder.
    fn refused(&self) -> String {
        let error = self.open().expect_err("the folder is refused").to_string();
        assert!(error.contains(self.0.path().to_str().unwrap()), "{error}");
        assert!(!error.contains(|c: char| c.is_control()), "{error:?}");
        error
    }
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

fn header(entries: &[&str]) -> String {
    format!("{{{}}}", [&[EMBEDDING], entries].concat().join(","))
}

#[test]
fn a_good_folder_is_opened() {
    let entries = [
        r#""__metadata__":{"format":"pt"}"#,
        r#""scalar":{"dtype":"F32","shape":[],"data_offsets":[32,36]}"#,
        r#""wide":{"dtype":"U8","shape":[2,1,2,1,2],"data_offsets":[36,44]}"#,
        r#""empty":{"dtype":"F16","shape":[0,7],"data_offsets":[44,44]}"#,
    ];
    let made = Made::with_header(&format!("{}   ", header(&entries)), 44);
    let checkpoint = made.open().unwrap();
    assert_eq!(checkpoint.container(), Container::Folder);
    let names: Vec<&str> = checkpoint.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["model.embed_tokens.weight", "scalar", "wide"]);
    assert_eq!(checkpoint.tensors()[2].shape.dims(), [2, 1, 2, 2]);
    let mut bytes = [0; 32];
    checkpoint.read(checkpoint.require("token_embd.weight").unwrap(), 0, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 32]);
    assert_eq!(checkpoint.metadata().require_u32("qwen3.block_count").unwrap(), 1);
    let missing = checkpoint.require("blk.0.attn_q.weight").unwrap_err().to_string();
    assert!(missing.contains("model.layers.0.self_attn.q_proj.weight"), "{missing}");
}

#[test]
fn lengths_of_headers_that_lie() {
    for length in [u64::MAX, u64::MAX - 7, 1 << 63, 41, limits::PUBLISHED_HEADER_BYTES + 1] {
        let made = Made::new();
        made.file("model.safetensors", [&length.to_le_bytes()[..], &[b' '; 32]].concat());
        assert!(made.refused().contains("header"));
    }
    for short in [0, 1, 7] {
        let made = Made::new();
        made.file("model.safetensors", vec![0; short]);
        assert!(matches!(made.open(), Err(FormatError::Truncated { .. })));
    }
    // A sparse file whose header is all of it.
    let made = Made::new();
    let file = fs::File::create(made.0.path().join("model.safetensors")).unwrap();
    let length = limits::PUBLISHED_HEADER_BYTES + 1;
    std::os::unix::fs::FileExt::write_all_at(&file, &length.to_le_bytes(), 0).unwrap();
    file.set_len(length + 8).unwrap();
    assert!(matches!(made.open(), Err(FormatError::Limit { .. })));
}

#[test]
fn headers_that_are_no_headers() {
    let deep = format!(r#"{{"__metadata__":{}1{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let long = format!(r#"{{"{}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#, "x".repeat(256));
    for (content, told) in [
        ("", "EOF"),
        ("[]", "expected"),
        ("{", "EOF"),
        ("{}{}", "trailing"),
        (r#"{"a":1}"#, "expected"),
        (r#"{"a":{"dtype":"U8"}}"#, "shape"),
        (r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, "duplicate"),
        (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1}}"#, "more"),
        (r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#, "expected"),
        (r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#, "expected"),
        (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#, "length"),
        (r#"{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, "name"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, "twice"),
        (&deep, "behind the last"),
        (&long, "256 bytes"),
    ] {
        let error = Made::with_header(content, 1).refused();
        assert!(error.contains(told), "{content:.80}: {error}");
    }
    let made = Made::new();
    made.file("model.safetensors", [&6u64.to_le_bytes()[..], b"{\"\xFF\":1"].concat());
    made.refused();
}

#[test]
fn tensors_that_are_not_where_they_say() {
    let tensor = |dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#""t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    for (entry, data, told) in [
        (tensor("U8", "[4]", 32, 36), 35, "not in the file"),
        (tensor("U8", "[4]", 36, 32), 36, "not in the file"),
        (tensor("U8", "[4]", u64::MAX - 3, u64::MAX), 36, "not in the file"),
        (tensor("U8", "[4]", 30, 34), 34, "overlap"),
        (tensor("U8", "[32]", 0, 32), 32, "overlap"),
        (tensor("U8", "[4]", 33, 37), 37, "hole"),
        (tensor("U8", "[4]", 32, 36), 100, "behind the last"),
        (tensor("U8", "[3]", 32, 36), 36, "takes 3 bytes"),
        (tensor("F64", "[4]", 32, 36), 36, "takes 32 bytes"),
        (tensor("U8", "[9223372036854775808]", 32, 36), 36, "elements"),
        (tensor("U8", "[4294967296,4294967296]", 32, 36), 36, "elements"),
        (tensor("F64", "[9223372036854775807]", 32, 36), 36, "bytes"),
        (tensor("F4", "[8]", 32, 36), 36, "dtype"),
        (tensor("Q8_0", "[32]", 32, 66), 66, "dtype"),
        (tensor("\\u001b[2J", "[4]", 32, 36), 36, "dtype"),
    ] {
        let error = Made::with_header(&header(&[&entry]), data).refused();
        assert!(error.contains(told), "{entry}: {error}");
    }
    let twice = Made::with_header(&header(&[EMBEDDING]), 32).refused();
    assert!(twice.contains("overlap") || twice.contains("twice"), "{twice}");
    let many: Vec<String> = (0..=limits::PUBLISHED_TENSORS / 8)
        .map(|index| format!(r#""{index}":{{"dtype":"U8","shape":[0],"data_offsets":[32,32]}}"#))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    // As many as fit the limit are read, and cost no more than it allows.
    Made::with_header(&header(&many), 32).open().unwrap();
}

#[test]
fn indices_that_lie() {
    let index = |made: &Made, map: &str| {
        made.file("model.safetensors.index.json", format!(r#"{{"metadata":{{}},"weight_map":{{{map}}}}}"#));
    };
    let whole = || Made::with_header(&header(&[]), 32);
    const RIGHT: &str = r#""model.embed_tokens.weight":"model.safetensors""#;
    for name in [
        "/etc/passwd",
        "../x.safetensors",
        "a/b.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "x\\\\y.safetensors",
    ] {
        let made = whole();
        index(&made, &format!(r#"{RIGHT},"other":"{name}""#));
        assert!(made.refused().contains("not the name of a shard"), "{name}");
    }
    for (map, told) in [
        (String::new(), "empty"),
        (format!(r#"{RIGHT},"more":"model.safetensors""#), "more"),
        (format!(r#"{RIGHT},"more":"model-00002-of-00002.safetensors""#), "model-00002-of-00002"),
        (format!("{RIGHT},{RIGHT}"), "twice"),
    ] {
        let made = whole();
        index(&made, &map);
        let error = made.refused();
        assert!(error.contains(told), "{map}: {error}");
    }
    // A tensor in another shard than the index says.
    let made = Made::new().weights("a.safetensors", &header(&[]), 32).weights(
        "b.safetensors",
        r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        1,
    );
    index(&made, r#""model.embed_tokens.weight":"b.safetensors","x":"a.safetensors""#);
    assert!(made.refused().contains("not in"));
    // Tensors without elements are there, though nothing is kept of them; elsewhere than is said they are not.
    let empty = |name: &str| format!(r#""{name}":{{"dtype":"U8","shape":[0,4],"data_offsets":[32,32]}}"#);
    let made = Made::with_header(&header(&[&empty("more")]), 32);
    index(&made, &format!(r#"{RIGHT},"more":"model.safetensors""#));
    assert_eq!(made.open().unwrap().tensors().len(), 1);
    let made = Made::new().weights("a.safetensors", &header(&[&empty("more")]), 32);
    let made = made.weights("b.safetensors", "{}", 0);
    index(&made, r#""model.embed_tokens.weight":"a.safetensors","more":"b.safetensors""#);
    assert!(made.refused().contains(r#"is in "a.safetensors", not in "b.safetensors""#));
    let made = Made::with_header(&header(&[&empty("more"), &empty("more")]), 32);
    index(&made, &format!(r#"{RIGHT},"more":"model.safetensors""#));
    assert!(made.refused().contains(r#"tensor "more" is twice in"#));
    // What the index does not name is not loaded.
    let made = Made::with_header(&header(&[r#""x":{"dtype":"U8","shape":[1],"data_offsets":[32,33]}"#]), 33);
    index(&made, RIGHT);
    assert_eq!(made.open().unwrap().tensors().len(), 1);
    let made = whole();
    made.file("model.safetensors.index.json", r#"{"weight_map":{"a":1}}"#);
    made.refused();
    let shards: String = (0..=limits::SHARDS).map(|n| format!(r#","{n}":"{n}.safetensors""#)).collect();
    let made = whole();
    index(&made, &format!("{RIGHT}{shards}"));
    assert!(made.refused().contains("shards"));
}

#[test]
fn links_are_followed_to_files_and_to_nothing_else() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("weights");
    fs::write(&target, safetensors(&header(&[]), 32)).unwrap();
    let made = Made::new();
    symlink(&target, made.0.path().join("model.safetensors")).unwrap();
    // It is known by the name that it has in the folder.
    assert_eq!(made.open().unwrap().files()[0].path, made.0.path().join("model.safetensors"));
    for (name, target) in [
        ("config.json", "/dev/zero"),
        ("tokenizer.json", "/nowhere/at/all"),
        ("chat_template.jinja", "/tmp"),
        ("config.json", "/etc/passwd"),
    ] {
        let made = Made::with_header(&header(&[]), 32);
        let path = made.0.path().join(name);
        let _ = fs::remove_file(&path);
        symlink(target, &path).unwrap();
        let error = made.refused();
        assert!(error.contains(name) && !error.contains("root:"), "{name}: {error}");
    }
    // A link within the folder is fine, one to itself is not.
    let made = Made::new().weights("real", &header(&[]), 32);
    symlink("real", made.0.path().join("model.safetensors")).unwrap();
    made.open().unwrap();
    let made = Made::new();
    symlink("model.safetensors", made.0.path().join("model.safetensors")).unwrap();
    assert!(matches!(made.open(), Err(FormatError::SymlinkLoop { .. })));
}

#[test]
fn adapters_are_no_models() {
    let adapter = r#"{"peft_type":"LORA","base_model_name_or_path":"org/base"}"#;
    // As they are published, without a model; and beside one, where other libraries would load the base instead.
    let alone = tempfile::tempdir().unwrap();
    fs::write(alone.path().join("adapter_config.json"), adapter).unwrap();
    fs::write(alone.path().join("adapter_model.safetensors"), safetensors(&header(&[]), 32)).unwrap();
    let beside = Made::with_header(&header(&[]), 32);
    beside.open().unwrap();
    beside.file("adapter_config.json", adapter);
    // A link to nothing is one too: what is meant can't be told.
    let linked = Made::with_header(&header(&[]), 32);
    symlink("/nowhere/at/all", linked.0.path().join("adapter_config.json")).unwrap();
    let weights = alone.path().join("adapter_model.safetensors");
    for path in [alone.path(), &weights, beside.0.path(), linked.0.path()] {
        let error = Checkpoint::open(path).unwrap_err();
        assert!(matches!(error, FormatError::Folder { .. }), "{error:?}");
        for words in ["adapter_config.json", "adapter (LoRA)", "merge"] {
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
    }
}

#[test]
fn folders_that_are_not_complete() {
    let empty = tempfile::tempdir().unwrap();
    assert!(Checkpoint::open(empty.path()).unwrap_err().to_string().contains("config.json"));
    assert!(Made::new().refused().contains("model.safetensors"));
    let made = Made::new().weights("model-00001-of-00002.safetensors", &header(&[]), 32);
    assert!(made.refused().contains("model-00002-of-00002"));
    let made = Made::new().weights("model-00001-of-99999.safetensors", &header(&[]), 32);
    assert!(made.refused().contains("99999"));
    let made = Made::new().weights("a.safetensors", &header(&[]), 32).weights("b.safetensors", "{}", 0);
    assert!(made.refused().contains("series"));
    let made = Made::new();
    fs::create_dir(made.0.path().join("model.safetensors")).unwrap();
    assert!(matches!(made.open(), Err(FormatError::NotAFile { .. })));
    assert!(Checkpoint::open(Path::new("/nowhere/model.safetensors")).is_err());
}

#[test]
fn a_weight_file_that_is_named_is_the_one_that_is_read() {
    let rows = |rows: usize| {
        let data = rows * 16;
        header(&[]).replace("[2,8]", &format!("[{rows},8]")).replace("[0,32]", &format!("[0,{data}]"))
    };
    let made = Made::new().weights("a.safetensors", &rows(3), 48).weights("b.safetensors", &rows(4), 64);
    let bytes = |name: &str| Checkpoint::open(&made.0.path().join(name)).unwrap().tensors()[0].bytes;
    assert_eq!((bytes("a.safetensors"), bytes("b.safetensors")), (48, 64));
    // One that has the whole model goes before them, and before an index that does not name it.
    fs::write(made.0.path().join("model.safetensors"), safetensors(&rows(5), 80)).unwrap();
    let index = |tensor: &str, shard: &str| {
        made.file("model.safetensors.index.json", format!(r#"{{"weight_map":{{"{tensor}":"{shard}"}}}}"#));
    };
    index("model.embed_tokens.weight", "gone-00001-of-00002.safetensors");
    assert_eq!((bytes("a.safetensors"), bytes("model.safetensors"), bytes(".")), (48, 80, 80));
    // One that names it is believed as before.
    index("other", "model.safetensors");
    assert!(made.refused().contains("other"));
}

#[test]
fn folders_stand_for_the_model_in_them() {
    let made = Made::with_header(&header(&[]), 32);
    let hub = tempfile::tempdir().unwrap();
    let below = |path: &str| hub.path().join(path);
    let error = || Checkpoint::open(hub.path()).unwrap_err().to_string();
    fs::create_dir_all(below("snapshots")).unwrap();
    assert!(error().contains("config.json"), "a folder of that name is no repository: {}", error());
    fs::create_dir_all(below("refs")).unwrap();
    assert!(error().contains("no revision"), "{}", error());
    symlink(made.0.path(), below("snapshots/abc")).unwrap();
    assert_eq!(Checkpoint::open(hub.path()).unwrap().path(), below("snapshots/abc"), "the only one");
    for (main, words) in
        [("../snapshots/abc", "names no"), ("", "names no"), ("..", "names no"), ("gone", "not there")]
    {
        fs::write(below("refs/main"), main).unwrap();
        assert!(error().contains(words), "{main}: {}", error());
    }
    fs::remove_file(below("refs/main")).unwrap();
    fs::create_dir(below("snapshots/def")).unwrap();
    assert!(error().contains("2 revisions") && error().contains("abc"), "{}", error());
    fs::write(below("refs/main"), "abc\n").unwrap();
    assert_eq!(Checkpoint::open(hub.path()).unwrap().path(), below("snapshots/abc"));

    // As LM Studio and publishers of GGUF files arrange them.
    fs::write(below("refs/main"), "def").unwrap();
    let gguf = |name: &str| {
        let path = below("snapshots/def").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "GGUF").unwrap();
    };
    // Of what is in folders within it, one is the model as long as none is beside them.
    let split = ["Q4/z-00001-of-00002.gguf", "Q4/z-00002-of-00002.gguf"];
    ["config.json", "mmproj-f16.gguf", ".x.gguf"].into_iter().chain(split).for_each(gguf);
    assert!(error().contains("Q4/z-00001-of-00002.gguf"), "{}", error());
    gguf("Q8/z.gguf");
    assert!(error().contains("2 GGUF files") && error().contains("Q8/z.gguf"), "{}", error());
    ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"].into_iter().for_each(gguf);
    assert!(error().contains("x-00001-of-00002.gguf"), "{}", error());
    gguf("y.gguf");
    for words in ["2 GGUF files", "x-00001-of-00002.gguf", "y.gguf"] {
        assert!(error().contains(words), "{words}: {}", error());
    }
    // Without a configuration safetensors beside it are no model.
    let room = tempfile::tempdir().unwrap();
    ["m.gguf", "logits.safetensors"]
        .into_iter()
        .for_each(|name| fs::write(room.path().join(name), "GGUF").unwrap());
    let opened = Checkpoint::open(room.path()).unwrap_err().to_string();
    assert!(opened.contains("m.gguf"), "{opened}");
    // What has a model of its own is no repository.
    for name in ["snapshots/other", "refs"] {
        fs::create_dir_all(made.0.path().join(name)).unwrap();
    }
    assert_eq!(made.open().unwrap().path(), made.0.path());
    let pickled = Made::new();
    pickled.file("pytorch_model.bin", "");
    assert!(pickled.refused().contains("runs code"));
}

/// Tensors of these look like others that are read.
#[test]
fn what_quark_writes_besides() {
    let fp4 = r#""dtype":"fp4","qscheme":"per_group","ch_axis":-1"#;
    for (said, told) in [
        (
            format!(r#""global_quant_config":{{"weight":{{{fp4},"group_size":16,"scale_format":"e5m3"}}}}"#),
            "dtype fp4, qscheme per_group, group_size 16, scale_format e5m3",
        ),
        (format!(r#""global_quant_config":{{"weight":{{{fp4},"group_size":32}}}}"#), "group_size 32, ch_axis -1"),
        (
            format!(r#""global_quant_config":{{"weight":{{{fp4},"group_size":16,"scale_format":"e8m0"}}}}"#),
            "group_size 16, scale_format e8m0",
        ),
        (
            format!(r#""global_quant_config":{{"weight":[{{{fp4},"group_size":16}},{{"dtype":"fp8_e4m3"}}]}}"#),
            "group_size 16, ch_axis -1; dtype fp8_e4m3",
        ),
        (
            r#""global_quant_config":{"weight":{"dtype":"fp8_e4m3","qscheme":"per_group","group_size":32,
            "scale_format":"e5m3","axis":-1}}"#
                .to_owned(),
            "scale_format e5m3, ch_axis -1",
        ),
        (
            r#""global_quant_config":{"weight":{"dtype":"fp8_e4m3","qscheme":"per_tensor","scale_format":"e5m3"}}"#
                .to_owned(),
            "qscheme per_tensor, scale_format e5m3",
        ),
        (
            r#""global_quant_config":{"weight":{"dtype":"fp4","qscheme":"per_group","group_size":32,
            "scale_format":"e8m0","ch_axis":0}}"#
                .to_owned(),
            "scale_format e8m0, ch_axis 0",
        ),
        (
            r#""layer_quant_config":{"*up_proj":{"weight":{"dtype":"fp6_e3m2","qscheme":"per_group","group_size":32,
            "scale_format":"e8m0","ch_axis":-1}}}"#
                .to_owned(),
            "*up_proj",
        ),
        (r#""global_quant_config":{"weight":{"dtype":"int8","qscheme":"per_tensor"}}"#.to_owned(), "dtype int8"),
        (r#""global_quant_config":{"weight":[]}"#.to_owned(), "global_quant_config.weight is \"[]\""),
        (r#""global_quant_config":[]"#.to_owned(), "global_quant_config is \"[]\""),
        (r#""layer_quant_config":{"\u001b[2J":{"weight":{}}}"#.to_owned(), "layer_quant_config"),
        (
            r#""global_quant_config":{"weight":{"dtype":"fp8_e4m3","qscheme":"per_channel","ch_axis":1}}"#.to_owned(),
            "qscheme per_channel, ch_axis 1",
        ),
        (
            r#""global_quant_config":{"weight":{"dtype":"fp8_e4m3","qscheme":"per_block","block_size":[0,128]}}"#
                .to_owned(),
            "block_size [0,128]",
        ),
        (
            r#""global_quant_config":{"weight":{"dtype":"fp8_e4m3","qscheme":"per_block","block_size":[128,128]}},
            "layer_type_quant_config":{"Linear":{"weight":{"dtype":"fp8_e4m3","qscheme":"per_block","block_size":[64,128]}}}"#
                .to_owned(),
            "the same in all layers",
        ),
        (r#""global_quant_config":{"bias":{"dtype":"int8"}}"#.to_owned(), "global_quant_config.bias"),
        (r#""export":{"weight_format":"fake_quantized"}"#.to_owned(), "fake_quantized"),
        (r#""algo_config":[{"name":"awq"},{"name":"rotation","r4":true}]"#.to_owned(), "r4"),
        (r#""algo_config":[{"name":"quarot"}]"#.to_owned(), "r4"),
        (
            r#""algo_config":{"name":"rotation","r4":false,"online_r1_rotation":true}"#.to_owned(),
            "online_r1_rotation",
        ),
    ] {
        let made = Made::with_header(&header(&[]), 32);
        let said = format!(r#"{{"model_type":"qwen3","quantization_config":{{"quant_method":"quark",{said}}}}}"#);
        made.file("config.json", &said);
        let error = made.refused();
        assert!(error.contains(told), "{said}: {error}");
    }
}

#[test]
fn configurations_that_lie() {
    let deep = "[".repeat(200_000);
    let wide = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(limits::JSON_ELEMENTS as usize));
    for (config, told) in [
        ("", "EOF"),
        ("[]", "object"),
        ("{}", "model_type"),
        (r#"{"model_type":7}"#, "model_type"),
        (r#"{"model_type":"qwen3","model_type":"llama"}"#, "twice"),
        (r#"{"model_type":"qwen3","num_hidden_layers":-1}"#, "num_hidden_layers"),
        (r#"{"model_type":"qwen3","num_hidden_layers":4294967296}"#, "num_hidden_layers"),
        (r#"{"model_type":"qwen3","hidden_size":"8"}"#, "hidden_size"),
        (r#"{"model_type":"qwen3","rope_theta":"x"}"#, "rope_theta"),
        (r#"{"model_type":"qwen3","rope_scaling":"x"}"#, "rope_scaling"),
        (r#"{"model_type":"qwen3","rope_scaling":{"rope_type":5,"factor":2}}"#, "rope_type"),
        (r#"{"model_type":"qwen3","rope_scaling":{"factor":2}}"#, "factor"),
        (r#"{"model_type":"qwen3","rope_scaling":{"rope_type":"linear"}}"#, "factor"),
        (r#"{"model_type":"qwen3","rope_parameters":{"full_attention":{"rope_theta":5}}}"#, "full_attention"),
        (r#"{"model_type":"qwen3","quantization_config":{"quant_method":"hqq"}}"#, "hqq"),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"modelopt","quant_algo":"NVFP4_AWQ"}}"#,
            "quant_algo",
        ),
        (r#"{"model_type":"qwen3","quantization_config":{"quant_method":"gptq","bits":5}}"#, "bits"),
        (r#"{"model_type":"qwen3","quantization_config":{"quant_method":"awq","bits":8}}"#, "bits"),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"compressed-tensors","config_groups":{
            "a":{"weights":{"block_structure":[64,64]}},"b":{"weights":{"block_structure":"128x128"}}}}}"#,
            "block_structure",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"compressed-tensors","config_groups":{
            "a":{"weights":{"block_structure":"128"}}}}}"#,
            "block_structure",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"gptq","bits":4,"sym":"no"}}"#,
            "sym",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"gptq","checkpoint_format":"marlin"}}"#,
            "checkpoint_format",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"auto-round","packing_format":"auto_round"}}"#,
            "packing_format",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"auto-round","data_type":"mx_int"}}"#,
            "data_type",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"auto-round","data_type":"mx_fp",
            "extra_config":{"a":{"data_type":"nvfp4_v2"}}}}"#,
            "data_type",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"auto-round","data_type":"mx_fp",
            "rotation_config":{"backend":"hadamard"}}}"#,
            "rotation_config",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"intel/auto-round","backend":"auto_round:x"}}"#,
            "backend",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"auto-round","packing_format":"auto_round:auto_awq",
            "bits":3}}"#,
            "bits",
        ),
        (
            r#"{"model_type":"qwen3","quantization_config":{"quant_method":"fp8","weight_block_size":[0,128]}}"#,
            "weight_block_size",
        ),
        (r#"{"model_type":"qwen3","hidden_act":"gelu"}"#, "hidden_act"),
        (r#"{"model_type":"qwen3","use_sliding_window":true,"sliding_window":4}"#, "sliding_window"),
        (r#"{"model_type":"mixtral","sliding_window":4}"#, "sliding_window"),
        (r#"{"model_type":"qwen3_moe","decoder_sparse_step":2}"#, "decoder_sparse_step"),
        (r#"{"model_type":"qwen3_moe","num_experts":4,"mlp_only_layers":[1]}"#, "mlp_only_layers"),
        (r#"{"model_type":"qwen3_next","layer_types":["sliding_attention"]}"#, "layer_types"),
        (&deep, "recursion"),
        (&wide, "elements"),
    ] {
        let made = Made::with_header(&header(&[]), 32);
        made.file("config.json", config);
        let error = made.refused();
        assert!(error.contains(told), "{config:.80}: {error}");
    }
    let made = Made::with_header(&header(&[]), 32);
    made.file("config.json", b"{\"model_type\":\"\xFF\"}");
    made.refused();
    let file = fs::File::create(made.0.path().join("config.json")).unwrap();
    file.set_len(limits::JSON_BYTES + 1).unwrap();
    assert!(matches!(made.open(), Err(FormatError::Limit { .. })));
    // Code that a configuration names is never looked at; an unknown model is the engine's to refuse, by its name.
    let made = Made::with_header(&header(&[]), 32);
    made.file(
        "config.json",
        r#"{"model_type":"evil","auto_map":{"AutoModel":"evil.Model"},"tie_word_embeddings":true}"#,
    );
    let checkpoint = made.open().unwrap();
    assert_eq!(checkpoint.metadata().require_str("general.architecture").unwrap(), "evil");
}

#[test]
fn changed_bytes_never_panic() {
    let entries = [r#""x":{"dtype":"I32","shape":[2,3],"data_offsets":[32,56]}"#];
    let good = safetensors(&header(&entries), 56);
    for position in 0..good.len() - 56 {
        for byte in [0, b'"', b'}', b'9', 0xFF] {
            let mut bytes = good.clone();
            bytes[position] = byte;
            let made = Made::new();
            made.file("model.safetensors", &bytes);
            if let Err(error) = made.open() {
                assert!(!error.to_string().contains(|c: char| c.is_control()));
            }
        }
    }
}
