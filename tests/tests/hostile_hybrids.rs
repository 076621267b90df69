//! Files of hybrid models that lie about their shapes: each lie is an error that names the key or the tensor, and nothing is
//! allocated for what a file only claims.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use membrane_engine::{LoadOptions, Prepared};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, FormatError, Metadata, Value};
use membrane_tests::workspace;

const HYBRIDS: [&str; 3] = ["qwen3next", "qwen35moe", "qwen35"];

fn fixture(architecture: &str) -> Checkpoint {
    let path = workspace().join(format!("tests/fixtures/gguf/tiny-{architecture}-Q8_0.gguf"));
    Checkpoint::open(&path).unwrap()
}

/// A copy of a fixture with other metadata, and tensors of other dimensions (as many elements) or none.
fn written(
    architecture: &str,
    folder: &Path,
    change: impl FnOnce(&mut Metadata),
    tensor: impl Fn(&str, &[u64]) -> Option<Vec<u64>>,
) -> PathBuf {
    let source = fixture(architecture);
    let mut metadata = source.metadata().clone();
    change(&mut metadata);
    let path = folder.join("changed.gguf");
    let mut writer = GgufWriter::new(&path, metadata);
    for info in source.tensors() {
        if let Some(dims) = tensor(&info.name, info.shape.dims()) {
            writer.declare(&info.name, info.dtype, &dims).unwrap();
        }
    }
    let written = writer.write::<FormatError>(|info, sink| {
        let mut bytes = vec![0; info.bytes as usize];
        source.read(source.require(&info.name)?, 0, &mut bytes)?;
        sink.put(&bytes)
    });
    written.unwrap();
    path
}

fn opened(path: &Path) -> Result<(), String> {
    let options = LoadOptions { context: Some(64), ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(path).map_err(|error| error.to_string())?;
    Prepared::without_text(checkpoint.into(), &options).map(drop).map_err(|error| error.to_string())
}

#[test]
fn numbers_that_lie_are_named() {
    let folder = tempfile::tempdir().unwrap();
    // A key, what it says, and what the error names: one of several where it depends on the other numbers.
    let mut lies: Vec<(&str, Value, &str)> = Vec::new();
    for key in
        ["ssm.group_count", "ssm.time_step_rank", "ssm.state_size", "ssm.inner_size", "ssm.conv_kernel"]
    {
        lies.extend([0, u32::MAX].map(|number| (key, Value::U32(number), key)));
        lies.push((key, Value::U32(1 << 16), "ssm|attn_qkv"));
        lies.push((key, Value::Str("many".into()), key));
    }
    lies.extend([
        ("ssm.conv_kernel", Value::U32(257), "ssm.conv_kernel"),
        ("ssm.conv_kernel", Value::U32(5), "ssm_conv1d"),
        ("ssm.group_count", Value::U32(4), "ssm.time_step_rank|attn_qkv"),
        ("ssm.group_count", Value::U32(5), "ssm.time_step_rank"),
        ("ssm.state_size", Value::U32(64), "attn_qkv"),
        ("ssm.inner_size", Value::U32(97), "ssm.inner_size"),
        ("ssm.inner_size", Value::U32(480), "attn_qkv"),
        ("full_attention_interval", Value::U32(0), "full_attention_interval"),
        ("attention.recurrent_layers", Array::Bool(vec![true; 3]).into(), "attention.recurrent_layers"),
        ("attention.recurrent_layers", Array::Bool(vec![]).into(), "attention.recurrent_layers"),
        ("attention.recurrent_layers", Array::U32(vec![1; 4]).into(), "attention.recurrent_layers"),
        ("attention.recurrent_layers", Value::U32(1), "attention.recurrent_layers"),
        ("attention.head_count", Value::U32(0), "attention.head_count"),
        ("attention.head_count_kv", Value::U32(0), "attention.head_count_kv"),
        ("attention.head_count_kv", Value::U32(3), "attention.head_count_kv"),
        ("attention.value_length", Value::U32(16), "attention.value_length"),
        ("attention.key_length", Value::U32(64), "attention.value_length"),
        ("rope.dimension_count", Value::U32(9), "rope.dimension_count"),
        ("rope.dimension_count", Value::U32(34), "rope.dimension_count"),
        ("block_count", Value::U32(0), "block_count"),
        ("block_count", Value::U32(1 << 31), "block_count"),
        ("nextn_predict_layers", Value::U32(64), "nextn_predict_layers"),
        ("nextn_predict_layers", Value::U32(u32::MAX), "nextn_predict_layers"),
    ]);
    for architecture in HYBRIDS {
        for (key, value, named) in &lies {
            let change = |metadata: &mut Metadata| {
                if *key == "full_attention_interval" {
                    metadata.remove(&format!("{architecture}.attention.recurrent_layers"));
                }
                metadata.set(&format!("{architecture}.{key}"), value.clone());
            };
            let path = written(architecture, folder.path(), change, |_, dims| Some(dims.to_vec()));
            match opened(&path) {
                Err(error) => {
                    let names = named.split('|').any(|named| error.contains(named));
                    assert!(names, "{architecture} {key} {value}: {error}");
                }
                Ok(()) => panic!("{architecture} opens with {key} {value}"),
            }
        }
    }
}

#[test]
fn axes_of_positions_that_do_not_share_all_pairs_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in ["qwen35", "qwen35moe"] {
        let key = format!("{architecture}.rope.dimension_sections");
        let with = |sections: Array| {
            let change = |metadata: &mut Metadata| metadata.set(&key, sections);
            opened(&written(architecture, folder.path(), change, |_, dims| Some(dims.to_vec())))
        };
        with(Array::I32(vec![1, 2, 1, 0])).unwrap();
        for wrong in [vec![2, 1, 1, 1], vec![], vec![i32::MAX; 4], vec![-1, 5, 0, 0]] {
            let error = with(Array::I32(wrong)).unwrap_err();
            assert!(error.contains("rope.dimension_sections"), "{error}");
        }
    }
}

#[test]
fn tensors_that_are_not_what_the_numbers_ask_for_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in HYBRIDS {
        let names: Vec<String> = fixture(architecture)
            .tensors()
            .iter()
            .map(|tensor| tensor.name.clone())
            .filter(|name| name.starts_with("blk.0.") || name.starts_with("blk.3."))
            .collect();
        for wrong in &names {
            let without = |name: &str, dims: &[u64]| (name != wrong).then(|| dims.to_vec());
            let error = opened(&written(architecture, folder.path(), |_| (), without)).unwrap_err();
            assert!(error.contains(wrong.as_str()), "without {wrong}: {error}");
            // As many elements in two rows more or half as many.
            let reshaped = |name: &str, dims: &[u64]| {
                let mut dims = dims.to_vec();
                if name == wrong {
                    let last = dims.len() - 1;
                    match dims[last] % 2 {
                        0 => {
                            dims[last] /= 2;
                            dims.push(2);
                        }
                        _ => dims.push(1),
                    }
                }
                Some(dims)
            };
            let opened = opened(&written(architecture, folder.path(), |_| (), reshaped));
            // Trailing dimensions of 1 do not count.
            let unchanged = wrong.ends_with("ffn_gate_inp_shexp.weight");
            match opened {
                Ok(()) => assert!(unchanged, "{wrong} may have any shape"),
                Err(error) => assert!(error.contains(wrong.as_str()), "{wrong}: {error}"),
            }
        }
    }
}

#[test]
fn layers_are_those_that_the_file_lists() {
    // All layers recurrent: the fourth one's tensors are missing, and the first of them is named.
    let folder = tempfile::tempdir().unwrap();
    for architecture in HYBRIDS {
        let blocks =
            fixture(architecture).metadata().require_u32(&format!("{architecture}.block_count")).unwrap();
        let all = |metadata: &mut Metadata| {
            metadata.set(
                &format!("{architecture}.attention.recurrent_layers"),
                Array::Bool(vec![true; blocks as usize]),
            );
        };
        let error =
            opened(&written(architecture, folder.path(), all, |_, dims| Some(dims.to_vec()))).unwrap_err();
        assert!(error.contains("blk.3."), "{error}");
        let by_interval = |metadata: &mut Metadata| {
            metadata.remove(&format!("{architecture}.attention.recurrent_layers"));
        };
        opened(&written(architecture, folder.path(), by_interval, |_, dims| Some(dims.to_vec()))).unwrap();
        let other_interval = |metadata: &mut Metadata| {
            metadata.remove(&format!("{architecture}.attention.recurrent_layers"));
            metadata.set(&format!("{architecture}.full_attention_interval"), 2_u32);
        };
        let error =
            opened(&written(architecture, folder.path(), other_interval, |_, dims| Some(dims.to_vec())))
                .unwrap_err();
        assert!(error.contains("blk.1."), "{error}");
    }
}
