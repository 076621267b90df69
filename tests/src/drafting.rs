//! A hybrid model with a head for multi-token prediction, made of the fixture that has none.

use std::path::Path;

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, DType, FormatError, TensorInfo, Value};

use crate::workspace;

/// Matrices whose product is what a block adds.
const OUTPUTS: [&str; 4] =
    ["attn_output.weight", "ssm_out.weight", "ffn_down_exps.weight", "ffn_down_shexp.weight"];

/// A tensor of the model: one of the fixture's, or f32 numbers.
enum Source<'a> {
    Fixture(&'a TensorInfo),
    Numbers(Vec<f32>),
}

/// Writes the hybrid with a head whose block is a copy of the last one.
///
/// If `right`, no block adds anything, so that what follows a token depends on this token alone, and the head passes the
/// embedding of the next token through: it is right about what comes then. Otherwise the head passes on the sum of embedding
/// and hidden state, and is right by chance.
///
/// # Panics
/// If the fixture is missing, or the file can't be written.
pub fn hybrid_with_head(path: &Path, right: bool) {
    let fixture = workspace().join("tests/fixtures/gguf/tiny-qwen35moe-Q8_0.gguf");
    let source = Checkpoint::open(&fixture).expect("the fixture is there");
    write(&source, path, right).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn write(source: &Checkpoint, path: &Path, right: bool) -> Result<(), FormatError> {
    let key = |key: &str| format!("qwen35moe.{key}");
    let blocks = source.metadata().require_u32(&key("block_count"))?;
    let hidden = source.metadata().require_u32(&key("embedding_length"))? as usize;
    let mut metadata = source.metadata().clone();
    metadata.set(&key("block_count"), blocks + 1);
    metadata.set(&key("nextn_predict_layers"), 1_u32);
    if let Some(Value::Array(Array::Bool(listed))) = metadata.get(&key("attention.recurrent_layers")).cloned()
    {
        let listed = [&listed[..], &[false]].concat();
        metadata.set(&key("attention.recurrent_layers"), Value::Array(Array::Bool(listed)));
    }
    let mut writer = GgufWriter::new(path, metadata);
    let mut sources = Vec::new();
    for tensor in source.tensors() {
        writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims())?;
        sources.push(Source::Fixture(tensor));
    }
    let last = format!("blk.{}.", blocks - 1);
    for tensor in source.tensors().iter().filter(|tensor| tensor.name.starts_with(&last)) {
        let name = tensor.name.replacen(&last, &format!("blk.{blocks}."), 1);
        writer.declare(&name, tensor.dtype, tensor.shape.dims())?;
        sources.push(Source::Fixture(tensor));
    }
    let passed = |row: usize, column: usize| column == row || !right && column == row + hidden;
    let join = (0..hidden)
        .flat_map(|row| (0..2 * hidden).map(move |column| f32::from(u8::from(passed(row, column)))));
    let width = hidden as u64;
    let mut head = |part: &str, dims: &[u64], numbers: Vec<f32>| {
        sources.push(Source::Numbers(numbers));
        writer.declare(&format!("blk.{blocks}.nextn.{part}.weight"), DType::F32, dims)
    };
    head("eh_proj", &[2 * width, width], join.collect())?;
    head("enorm", &[width], vec![1.0; hidden])?;
    head("hnorm", &[width], vec![1.0; hidden])?;
    let mut sources = sources.iter();
    writer.write(|info, sink| match sources.next() {
        Some(Source::Numbers(numbers)) => {
            sink.put(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
        }
        Some(Source::Fixture(tensor)) => {
            let mut bytes = vec![0; tensor.bytes as usize];
            if !(right && OUTPUTS.iter().any(|output| info.name.ends_with(output))) {
                source.read(tensor, 0, &mut bytes)?;
            }
            sink.put(&bytes)
        }
        None => Ok(()),
    })
}
