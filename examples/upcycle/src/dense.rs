//! The dense model that experts are copied from.

use crate::quantisation::format_of;
use anyhow::{Context, Result, bail, ensure};
use membrane_formats::{Checkpoint, Metadata};
use membrane_kernels::quant::dequantise_row;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::path::Path;

/// Tensors outside the layers.
const OUTSIDE: [&str; 3] = ["token_embd.weight", "output_norm.weight", "output.weight"];
/// Tensors of a layer, behind `blk.N.`.
const IN_LAYER: [&str; 9] = [
    "attn_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
];

/// An opened dense model.
pub struct Dense {
    checkpoint: Checkpoint,
    /// Its dimensions.
    pub shape: Shape,
}

/// Dimensions of a llama model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Hidden width.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Layers.
    pub layers: usize,
    /// Width inside the feed-forward.
    pub inner: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Epsilon of the norms.
    pub epsilon: f32,
}

impl Dense {
    /// Opens a model and checks that it is one that can be upcycled.
    ///
    /// # Errors
    /// When it is no dense llama model, or has tensors that this program does not know.
    pub fn open(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let shape = shape(&checkpoint).with_context(|| format!("{} can't be upcycled", path.display()))?;
        Ok(Self { checkpoint, shape })
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        self.checkpoint.metadata()
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some()
    }

    /// Rows `first..first + count` of a tensor as f32, [count, columns].
    ///
    /// # Errors
    /// When the tensor is missing, of a type that can't be read, or can't be read.
    pub fn rows(&self, name: &str, first: usize, count: usize) -> Result<Vec<f32>> {
        let tensor = self.checkpoint.require(name)?;
        let format = format_of(tensor.dtype).with_context(|| {
            format!("{name} has the type {}, which this program can't read", tensor.dtype.name())
        })?;
        let columns = tensor.shape.columns() as usize;
        let row_bytes = columns / tensor.dtype.block_elems() as usize * tensor.dtype.block_bytes() as usize;
        let mut bytes = vec![0; count * row_bytes];
        self.checkpoint.read(tensor, (first * row_bytes) as u64, &mut bytes)?;
        let mut values = vec![0.0; count * columns];
        for (bytes, values) in bytes.chunks_exact(row_bytes).zip(values.chunks_exact_mut(columns)) {
            dequantise_row(format, bytes, values);
        }
        Ok(values)
    }

    /// A whole tensor as f32.
    ///
    /// # Errors
    /// As [`Dense::rows`].
    pub fn all(&self, name: &str) -> Result<Vec<f32>> {
        let rows = self.checkpoint.require(name)?.shape.rows() as usize;
        self.rows(name, 0, rows)
    }
}

fn shape(checkpoint: &Checkpoint) -> Result<Shape> {
    let metadata = checkpoint.metadata();
    let architecture = metadata.require_str("general.architecture")?;
    ensure!(architecture == "llama", "its architecture is `{architecture}`, not `llama`");
    let number = |key: &str| -> Result<usize> { Ok(metadata.require_u32(&format!("llama.{key}"))? as usize) };
    ensure!(metadata.u32("llama.expert_count")?.unwrap_or(0) == 0, "it is a mixture of experts already");
    let (width, heads) = (number("embedding_length")?, number("attention.head_count")?);
    ensure!(heads > 0 && width.is_multiple_of(heads), "{heads} heads don't divide the width {width}");
    let head_width =
        metadata.u32("llama.attention.key_length")?.map_or(width / heads, |length| length as usize);
    ensure!(head_width * heads == width, "heads of {head_width} times {heads} are not the width {width}");
    let shape = Shape {
        width,
        heads,
        kv_heads: metadata.u32("llama.attention.head_count_kv")?.map_or(heads, |count| count as usize),
        head_width,
        layers: number("block_count")?,
        inner: number("feed_forward_length")?,
        vocabulary: checkpoint.require("token_embd.weight")?.shape.rows() as usize,
        epsilon: metadata.require_f32("llama.attention.layer_norm_rms_epsilon")?,
    };
    ensure!(
        shape.kv_heads > 0 && heads.is_multiple_of(shape.kv_heads),
        "{} key and value heads don't divide {heads} heads",
        shape.kv_heads
    );
    check_tensors(checkpoint, &shape)?;
    Ok(shape)
}

/// Every tensor is known and of the shape that the metadata gives.
fn check_tensors(checkpoint: &Checkpoint, shape: &Shape) -> Result<()> {
    let queries = shape.heads * shape.head_width;
    let keys = shape.kv_heads * shape.head_width;
    for tensor in checkpoint.tensors() {
        let name = tensor.name.as_str();
        let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let kind = in_layer.map_or(name, |(_, kind)| kind);
        if !(OUTSIDE.contains(&name) || in_layer.is_some() && IN_LAYER.contains(&kind)) {
            bail!("its tensor `{name}` is not known to this program");
        }
        let (columns, rows) = match kind {
            "token_embd.weight" | "output.weight" => (shape.width, shape.vocabulary),
            "attn_q.weight" => (shape.width, queries),
            "attn_k.weight" | "attn_v.weight" => (shape.width, keys),
            "attn_output.weight" => (queries, shape.width),
            "ffn_gate.weight" | "ffn_up.weight" => (shape.width, shape.inner),
            "ffn_down.weight" => (shape.inner, shape.width),
            _ => (shape.width, 1),
        };
        let found = (tensor.shape.columns() as usize, tensor.shape.rows() as usize);
        ensure!(
            found == (columns, rows),
            "its tensor `{name}` has the shape {found:?}, not {:?}",
            (columns, rows)
        );
    }
    for layer in 0..shape.layers {
        for kind in IN_LAYER {
            checkpoint.require(&format!("blk.{layer}.{kind}"))?;
        }
    }
    Ok(())
}

/// SHA-256 of a file, in hexadecimal digits.
///
/// # Errors
/// When it can't be read.
pub fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher).with_context(|| format!("can't read {}", path.display()))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
