//! The mixture of experts: its metadata, its tensors in order, and their bytes as they are made.

use crate::arguments::{Arguments, Perturbation};
use crate::dense::Dense;
use crate::noise::{Noise, Stream};
use crate::padding::{Padding, widen};
use crate::quantisation::Quantisation;
use crate::router::Router;
use anyhow::{Context, Error, Result, bail};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{DType, Metadata, TensorSink};
use membrane_kernels::quant::quantise_row;
use rayon::prelude::*;
use std::path::Path;

/// The metadata key under which a file says how it was made.
pub const RECIPE_KEY: &str = "membrane.upcycle.recipe";
/// Rows of a large matrix that are held as f32 at a time.
const ROWS_AT_ONCE: usize = 4096;
/// The feed-forward's matrices; their order numbers the streams of noise.
const EXPERT_MATRICES: [&str; 3] = ["ffn_gate", "ffn_up", "ffn_down"];

/// Everything that decides the bytes of the file.
pub struct Output<'a> {
    /// The dense model.
    pub dense: &'a Dense,
    /// Its dimensions and those of the file.
    pub padding: Padding,
    /// Experts in each layer.
    pub experts: usize,
    /// Types, perturbation, seed.
    pub arguments: &'a Arguments,
    /// How the file is made, in words: see [`RECIPE_KEY`].
    pub recipe: String,
}

/// A tensor of the file.
struct Planned {
    name: String,
    dtype: DType,
    dims: Vec<u64>,
    content: Content,
}

/// Where a tensor's bytes come from.
enum Content {
    /// A norm of the dense model.
    Norm,
    /// A matrix of the dense model, to be padded and quantised.
    Matrix { columns: usize, padded_columns: usize, rows: usize, padded_rows: usize },
    /// A layer's router.
    Router { layer: usize },
    /// All experts of one matrix.
    Experts { layer: usize, matrix: usize },
}

impl Output<'_> {
    /// Bytes of tensor data that the file will hold, without padding between tensors.
    pub fn bytes(&self) -> u64 {
        let bytes = |planned: &Planned| {
            let elements: u64 = planned.dims.iter().product();
            elements / planned.dtype.block_elems() * planned.dtype.block_bytes()
        };
        self.plan().iter().map(bytes).sum()
    }

    /// Writes the file. `progress` is told the layers whose experts are done.
    ///
    /// # Errors
    /// When the dense model can't be read or the file can't be written.
    pub fn write(&self, path: &Path, routers: &[Router], mut progress: impl FnMut(usize)) -> Result<()> {
        let plan = self.plan();
        let mut writer = GgufWriter::new(path, self.metadata()?);
        for planned in &plan {
            writer.declare(&planned.name, planned.dtype, &planned.dims)?;
        }
        let mut next = plan.iter();
        writer.write(|_, sink| {
            let planned = next.next().context("more tensors than were planned")?;
            self.fill(planned, routers, sink)?;
            if let Content::Experts { layer, matrix: 2 } = planned.content {
                progress(layer + 1);
            }
            Ok::<(), Error>(())
        })
    }

    fn metadata(&self) -> Result<Metadata> {
        let mut metadata = self.dense.metadata().clone();
        let (to, arguments) = (&self.padding.to, self.arguments);
        let name = metadata.str("general.name")?.unwrap_or("dense model").to_owned();
        metadata.remove("general.size_label");
        metadata.set("general.name", format!("{name}, upcycled to {} experts", self.experts));
        metadata.set("general.file_type", arguments.expert_type.file_type);
        metadata.set("llama.embedding_length", number(to.width)?);
        metadata.set("llama.feed_forward_length", number(to.inner)?);
        metadata.set("llama.attention.head_count", number(to.heads)?);
        metadata.set("llama.attention.head_count_kv", number(to.kv_heads)?);
        metadata.set("llama.attention.key_length", number(to.head_width)?);
        metadata.set("llama.attention.value_length", number(to.head_width)?);
        metadata.set("llama.attention.layer_norm_rms_epsilon", to.epsilon);
        metadata.set("llama.expert_count", number(self.experts)?);
        metadata.set("llama.expert_used_count", arguments.top_k);
        metadata.set(RECIPE_KEY, self.recipe.clone());
        Ok(metadata)
    }

    fn plan(&self) -> Vec<Planned> {
        let (from, to) = (&self.padding.from, &self.padding.to);
        let (from_keys, to_keys) = (from.kv_heads * from.head_width, to.kv_heads * to.head_width);
        let mut plan = Vec::new();
        let vocabulary = (from.vocabulary, from.vocabulary);
        plan.push(self.matrix("token_embd", (from.width, to.width), vocabulary));
        plan.push(self.norm("output_norm"));
        if self.dense.has("output.weight") {
            plan.push(self.matrix("output", (from.width, to.width), vocabulary));
        }
        for layer in 0..to.layers {
            let blk = |name: &str| format!("blk.{layer}.{name}");
            let width = (from.width, to.width);
            plan.push(self.norm(&blk("attn_norm")));
            // Query heads fill the width, before and after.
            plan.push(self.matrix(&blk("attn_q"), width, width));
            plan.push(self.matrix(&blk("attn_k"), width, (from_keys, to_keys)));
            plan.push(self.matrix(&blk("attn_v"), width, (from_keys, to_keys)));
            plan.push(self.matrix(&blk("attn_output"), width, width));
            plan.push(self.norm(&blk("ffn_norm")));
            plan.push(Planned {
                name: blk("ffn_gate_inp.weight"),
                dtype: DType::F32,
                dims: vec![to.width as u64, self.experts as u64],
                content: Content::Router { layer },
            });
            for (matrix, name) in EXPERT_MATRICES.iter().enumerate() {
                let (columns, rows) = self.expert_shape(matrix, to.width, to.inner);
                plan.push(Planned {
                    name: blk(&format!("{name}_exps.weight")),
                    dtype: self.arguments.expert_type.dtype,
                    dims: vec![columns as u64, rows as u64, self.experts as u64],
                    content: Content::Experts { layer, matrix },
                });
            }
        }
        plan
    }

    fn norm(&self, name: &str) -> Planned {
        let dims = vec![self.padding.to.width as u64];
        Planned { name: format!("{name}.weight"), dtype: DType::F32, dims, content: Content::Norm }
    }

    /// `columns` and `rows` before and after padding.
    fn matrix(&self, name: &str, columns: (usize, usize), rows: (usize, usize)) -> Planned {
        Planned {
            name: format!("{name}.weight"),
            dtype: self.arguments.dense_type.dtype,
            dims: vec![columns.1 as u64, rows.1 as u64],
            content: Content::Matrix {
                columns: columns.0,
                padded_columns: columns.1,
                rows: rows.0,
                padded_rows: rows.1,
            },
        }
    }

    /// Columns and rows of a feed-forward matrix.
    fn expert_shape(&self, matrix: usize, width: usize, inner: usize) -> (usize, usize) {
        if matrix == 2 { (inner, width) } else { (width, inner) }
    }

    fn fill(&self, planned: &Planned, routers: &[Router], sink: &mut TensorSink<'_>) -> Result<()> {
        match planned.content {
            Content::Norm => sink.put(&bytes_of(&self.padding.norm(&self.dense.all(&planned.name)?)))?,
            Content::Matrix { columns, padded_columns, rows, padded_rows } => {
                let kind = &self.arguments.dense_type;
                for first in (0..rows).step_by(ROWS_AT_ONCE) {
                    let values = self.dense.rows(&planned.name, first, ROWS_AT_ONCE.min(rows - first))?;
                    sink.put(&quantised(kind, &widen(&values, columns, padded_columns), padded_columns)?)?;
                }
                let below = vec![0.0; (padded_rows - rows) * padded_columns];
                sink.put(&quantised(kind, &below, padded_columns)?)?;
            }
            Content::Router { layer } => {
                let Some(router) = routers.get(layer) else { bail!("layer {layer} has no router") };
                let wide = widen(&router.weights, self.padding.from.width, self.padding.to.width);
                sink.put(&bytes_of(&wide))?;
            }
            Content::Experts { layer, matrix } => self.fill_experts(layer, matrix, sink)?,
        }
        Ok(())
    }

    /// The experts of one matrix, as many at a time as there are threads.
    fn fill_experts(&self, layer: usize, matrix: usize, sink: &mut TensorSink<'_>) -> Result<()> {
        let (from, to) = (&self.padding.from, &self.padding.to);
        let (columns, _) = self.expert_shape(matrix, from.width, from.inner);
        let (padded_columns, padded_rows) = self.expert_shape(matrix, to.width, to.inner);
        let dense = self.dense.all(&format!("blk.{layer}.{}.weight", EXPERT_MATRICES[matrix]))?;
        let squares: f64 = dense.iter().map(|weight| f64::from(*weight).powi(2)).sum();
        let mean_square = squares / dense.len() as f64;
        let mut base = widen(&dense, columns, padded_columns);
        base.resize(padded_columns * padded_rows, 0.0);
        let kind = &self.arguments.expert_type;
        let unchanged = match self.arguments.perturb {
            Perturbation::Gauss(_) => Vec::new(),
            Perturbation::None | Perturbation::Bits(_) => quantised(kind, &base, padded_columns)?,
        };
        let make = |expert: usize| -> Result<Vec<u8>> {
            let mut noise = Noise::new(self.arguments.seed, Stream::Expert { layer, matrix, expert });
            match self.arguments.perturb {
                Perturbation::Gauss(scale) => {
                    let mut values = base.clone();
                    noise.disturb(&mut values, scale * mean_square.sqrt() as f32);
                    quantised(kind, &values, padded_columns)
                }
                Perturbation::Bits(halvings) if expert > 0 => {
                    let mut bytes = unchanged.clone();
                    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                        noise.flip(
                            &mut block[kind.codes.first..kind.codes.end],
                            kind.codes.low_bits,
                            halvings,
                        );
                    }
                    Ok(bytes)
                }
                Perturbation::None | Perturbation::Bits(_) => Ok(unchanged.clone()),
            }
        };
        let experts: Vec<usize> = (0..self.experts).collect();
        for batch in experts.chunks(rayon::current_num_threads()) {
            let made: Result<Vec<Vec<u8>>> = batch.par_iter().map(|expert| make(*expert)).collect();
            for bytes in made? {
                sink.put(&bytes)?;
            }
        }
        Ok(())
    }
}

/// Rows of f32 as rows of a tensor type.
fn quantised(kind: &Quantisation, values: &[f32], columns: usize) -> Result<Vec<u8>> {
    let row = |values: &[f32]| -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(kind.bytes(columns));
        quantise_row(kind.format, values, &mut bytes)?;
        Ok(bytes)
    };
    let rows: Result<Vec<Vec<u8>>> = values.par_chunks_exact(columns).map(row).collect();
    Ok(rows?.concat())
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn number(value: usize) -> Result<u32> {
    u32::try_from(value).with_context(|| format!("{value} is too large for the file"))
}
