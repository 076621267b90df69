//! Tiny models with random weights of architectures that no fixture has, written by the rules of their converters.

use std::path::Path;

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, DType, FormatError, Metadata, Value};

/// Architectures that [`write`] knows, beside `glm4moe` and `mistral3`.
pub const ARCHITECTURES: [&str; 4] = ["gemma3", "deepseek2", "gpt-oss", "qwen4exp"];

/// Tokens of the vocabulary.
pub const VOCABULARY: usize = 1024;
/// Width of the residual stream.
pub const HIDDEN: usize = 64;
/// Elements of a block of Q8_0.
const BLOCK: usize = 32;

/// A tensor, the contiguous dimension first.
struct Tensor {
    name: String,
    dims: Vec<u64>,
    /// Vectors are f32, from the first number to the second; weights are Q8_0.
    vector: Option<(f32, f32)>,
}

/// What a model consists of.
#[derive(Default)]
struct Model {
    metadata: Metadata,
    prefix: &'static str,
    tensors: Vec<Tensor>,
}

impl Model {
    fn new(prefix: &'static str, numbers: &[(&str, u32)], floats: &[(&str, f32)]) -> Self {
        let mut model = Self { prefix, ..Self::default() };
        model.metadata.set("general.architecture", prefix);
        numbers.iter().for_each(|&(key, number)| model.set(key, number));
        floats.iter().for_each(|&(key, number)| model.set(key, number));
        model.set("embedding_length", HIDDEN as u32);
        model.set("attention.layer_norm_rms_epsilon", 1e-6_f32);
        model.weight("token_embd.weight", &[HIDDEN, VOCABULARY]);
        if prefix != "qwen4exp" {
            model.vector("output_norm.weight", &[HIDDEN], 0.5, 1.5);
        }
        model
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.set(&format!("{}.{key}", self.prefix), value);
    }

    fn weight(&mut self, name: &str, dims: &[usize]) {
        let dims = dims.iter().map(|&dim| dim as u64).collect();
        self.tensors.push(Tensor { name: name.into(), dims, vector: None });
    }

    fn vector(&mut self, name: &str, dims: &[usize], least: f32, most: f32) {
        let dims = dims.iter().map(|&dim| dim as u64).collect();
        self.tensors.push(Tensor { name: name.into(), dims, vector: Some((least, most)) });
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.vector(name, &[width], 0.5, 1.5);
    }

    fn write(self, path: &Path) -> Result<(), FormatError> {
        let mut writer = GgufWriter::new(path, self.metadata);
        for tensor in &self.tensors {
            let dtype = if tensor.vector.is_some() { DType::F32 } else { DType::Q8_0 };
            writer.declare(&tensor.name, dtype, &tensor.dims)?;
        }
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let mut tensors = self.tensors.iter();
        writer.write(|_, sink| match tensors.next() {
            Some(tensor) => sink.put(&tensor.bytes(&mut noise)),
            None => Ok(()),
        })
    }
}

impl Tensor {
    fn bytes(&self, noise: &mut Noise) -> Vec<u8> {
        let elements = self.dims.iter().product::<u64>() as usize;
        if let Some((least, most)) = self.vector {
            let float = |_| least + (most - least) * (noise.next() >> 40) as f32 / (1 << 24) as f32;
            return (0..elements).map(float).flat_map(f32::to_le_bytes).collect();
        }
        // Integers from -127 to 127 deviate by 73: with this power of two a row has a length of about 1.
        let exponent = (73.0 * (self.dims[0] as f64).sqrt()).log2().round() as u16;
        let scale = (15 - exponent) << 10;
        let block = |_| {
            let quants = (0..BLOCK).map(|_| ((noise.next() >> 33) % 255) as u8).collect::<Vec<u8>>();
            let quants = quants.into_iter().map(|q| q.wrapping_sub(127));
            scale.to_le_bytes().into_iter().chain(quants).collect::<Vec<u8>>()
        };
        (0..elements / BLOCK).flat_map(block).collect()
    }
}

/// A generator of SplitMix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// Writes the model of an architecture, always the same one.
///
/// # Panics
/// If it is not one of [`ARCHITECTURES`], or the file can't be written.
pub fn write(architecture: &str, path: &Path) {
    write_changed(architecture, path, &[], |_, dims| Some(dims.to_vec()));
}

/// Writes a small Mixtral, always the same one, with these values in its metadata too, such as a vocabulary.
///
/// # Panics
/// As [`write`].
pub fn write_mixtral(path: &Path, more: &Metadata) {
    let mut model = mixtral();
    more.iter().for_each(|(key, value)| model.metadata.set(key, value.clone()));
    model.write(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The same with other metadata, and of its tensors those to which `keep` gives dimensions.
///
/// # Panics
/// As [`write`].
pub fn write_changed(
    architecture: &str,
    path: &Path,
    change: &[(&str, Option<Value>)],
    keep: impl Fn(&str, &[u64]) -> Option<Vec<u64>>,
) {
    let mut model = match architecture {
        "gemma3" => gemma3(),
        "deepseek2" => deepseek2(0),
        "glm4moe" => glm4moe(),
        "gpt-oss" => gpt_oss(),
        "mistral3" => mistral3(),
        "qwen4exp" => qwen4exp(),
        other => panic!("there is no tiny model of {other}"),
    };
    for (key, value) in change {
        match value {
            Some(value) => model.set(key, value.clone()),
            None => drop(model.metadata.remove(&format!("{architecture}.{key}"))),
        }
    }
    model.tensors.retain_mut(|tensor| {
        let dims = keep(&tensor.name, &tensor.dims);
        tensor.dims = dims.clone().unwrap_or_default();
        dims.is_some()
    });
    model.write(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Two layers with four experts each.
fn mixtral() -> Model {
    const BLOCKS: usize = 2;
    let (heads, kv_heads, dim, experts, inner) = (4, 2, 16, 4, 96);
    let mut model = Model::new(
        "llama",
        &[
            ("block_count", BLOCKS as u32),
            ("context_length", 2048),
            ("feed_forward_length", inner as u32),
            ("attention.head_count", heads as u32),
            ("attention.head_count_kv", kv_heads as u32),
            ("rope.dimension_count", dim as u32),
            ("vocab_size", VOCABULARY as u32),
            ("expert_count", experts as u32),
            ("expert_used_count", 2),
        ],
        &[("rope.freq_base", 1e6)],
    );
    model.weight("output.weight", &[HIDDEN, VOCABULARY]);
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        model.norm(&name("attn_norm"), HIDDEN);
        model.norm(&name("ffn_norm"), HIDDEN);
        attention(&mut model, block, heads, kv_heads, dim);
        mixture(&mut model, &name, experts, inner);
    }
    model
}

/// Two layers whose rotary positions are stretched and whose queries grow after 32 positions.
fn mistral3() -> Model {
    const BLOCKS: usize = 2;
    let (heads, kv_heads, dim, inner) = (4, 2, 32, 96);
    let mut model = Model::new(
        "mistral3",
        &[
            ("block_count", BLOCKS as u32),
            ("context_length", 256),
            ("feed_forward_length", inner as u32),
            ("attention.head_count", heads as u32),
            ("attention.head_count_kv", kv_heads as u32),
            ("attention.key_length", dim as u32),
            ("attention.value_length", dim as u32),
            ("rope.dimension_count", dim as u32),
            ("rope.scaling.original_context_length", 32),
        ],
        &[
            ("rope.freq_base", 1e6),
            ("rope.scaling.factor", 8.0),
            ("rope.scaling.yarn_log_multiplier", 1.0),
            ("attention.temperature_scale", 0.1),
        ],
    );
    model.set("rope.scaling.type", "yarn");
    model.weight("output.weight", &[HIDDEN, VOCABULARY]);
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        model.norm(&name("attn_norm"), HIDDEN);
        model.norm(&name("ffn_norm"), HIDDEN);
        attention(&mut model, block, heads, kv_heads, dim);
        gated_unit(&mut model, &name, "", inner);
    }
    model
}

/// Seven layers, the sixth over all positions.
fn gemma3() -> Model {
    const BLOCKS: usize = 7;
    let (heads, kv_heads, dim, inner) = (4, 2, 32, 96);
    let mut model = Model::new(
        "gemma3",
        &[
            ("block_count", BLOCKS as u32),
            ("context_length", 4096),
            ("feed_forward_length", inner as u32),
            ("attention.head_count", heads as u32),
            ("attention.head_count_kv", kv_heads as u32),
            ("attention.key_length", dim as u32),
            ("attention.value_length", dim as u32),
            ("attention.sliding_window", 40),
        ],
        &[("rope.freq_base", 1e6), ("rope.scaling.factor", 8.0)],
    );
    model.set("rope.scaling.type", "linear");
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        for norm in ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"] {
            model.norm(&name(norm), HIDDEN);
        }
        attention(&mut model, block, heads, kv_heads, dim);
        model.norm(&name("attn_q_norm"), dim);
        model.norm(&name("attn_k_norm"), dim);
        gated_unit(&mut model, &name, "", inner);
    }
    model
}

/// Writes the model of deepseek2 with a head for multi-token prediction behind its layers.
///
/// # Panics
/// If the file can't be written.
pub fn write_with_head(path: &Path) {
    deepseek2(1).write(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A dense layer and two mixtures of eight experts in four groups, and so many heads behind them.
fn deepseek2(heads_behind: usize) -> Model {
    const BLOCKS: usize = 3;
    let (heads, query_rank, kv_rank, plain, rotated, value) = (4, 32, 64, 32, 16, 32);
    let (experts, inner) = (8, 32);
    let mut model = Model::new(
        "deepseek2",
        &[
            ("block_count", (BLOCKS + heads_behind) as u32),
            ("nextn_predict_layers", heads_behind as u32),
            ("context_length", 2560),
            ("feed_forward_length", 96),
            ("attention.head_count", heads as u32),
            ("attention.head_count_kv", 1),
            ("attention.q_lora_rank", query_rank as u32),
            ("attention.kv_lora_rank", kv_rank as u32),
            ("attention.key_length", (kv_rank + rotated) as u32),
            ("attention.value_length", kv_rank as u32),
            ("attention.key_length_mla", (plain + rotated) as u32),
            ("attention.value_length_mla", value as u32),
            ("rope.dimension_count", rotated as u32),
            ("rope.scaling.original_context_length", 64),
            ("leading_dense_block_count", 1),
            ("expert_count", experts as u32),
            ("expert_used_count", 3),
            ("expert_group_count", 4),
            ("expert_group_used_count", 2),
            ("expert_gating_func", 2),
            ("expert_feed_forward_length", inner as u32),
            ("expert_shared_count", 2),
        ],
        &[
            ("rope.scaling.factor", 40.0),
            ("rope.scaling.yarn_log_multiplier", 0.1),
            ("expert_weights_scale", 2.5),
        ],
    );
    model.set("rope.scaling.type", "yarn");
    model.set("expert_weights_norm", true);
    model.weight("output.weight", &[HIDDEN, VOCABULARY]);
    for block in 0..BLOCKS + heads_behind {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        model.norm(&name("attn_norm"), HIDDEN);
        model.norm(&name("ffn_norm"), HIDDEN);
        model.weight(&name("attn_q_a"), &[HIDDEN, query_rank]);
        model.norm(&name("attn_q_a_norm"), query_rank);
        model.weight(&name("attn_q_b"), &[query_rank, heads * (plain + rotated)]);
        model.weight(&name("attn_kv_a_mqa"), &[HIDDEN, kv_rank + rotated]);
        model.norm(&name("attn_kv_a_norm"), kv_rank);
        model.weight(&name("attn_k_b"), &[plain, kv_rank, heads]);
        model.weight(&name("attn_v_b"), &[kv_rank, value, heads]);
        model.weight(&name("attn_output"), &[heads * value, HIDDEN]);
        if block == 0 {
            gated_unit(&mut model, &name, "", 96);
            continue;
        }
        gated_unit(&mut model, &name, "_shexp", 2 * inner);
        mixture(&mut model, &name, experts, inner);
        model.vector(&format!("blk.{block}.exp_probs_b.bias"), &[experts], -0.3, 0.3);
        if block >= BLOCKS {
            model.weight(&name("nextn.eh_proj"), &[2 * HIDDEN, HIDDEN]);
            for norm in ["enorm", "hnorm", "shared_head_norm"] {
                model.norm(&name(&format!("nextn.{norm}")), HIDDEN);
            }
        }
    }
    model
}

/// A dense layer and two mixtures of eight experts, with norms and biases of heads of which half is rotated.
fn glm4moe() -> Model {
    const BLOCKS: usize = 3;
    let (heads, kv_heads, dim, experts, inner) = (4, 2, 32, 8, 32);
    let mut model = Model::new(
        "glm4moe",
        &[
            ("block_count", BLOCKS as u32),
            ("context_length", 2048),
            ("feed_forward_length", 96),
            ("attention.head_count", heads as u32),
            ("attention.head_count_kv", kv_heads as u32),
            ("attention.key_length", dim as u32),
            ("attention.value_length", dim as u32),
            ("rope.dimension_count", dim as u32 / 2),
            ("leading_dense_block_count", 1),
            ("expert_count", experts as u32),
            ("expert_used_count", 3),
            ("expert_group_count", 1),
            ("expert_group_used_count", 1),
            ("expert_feed_forward_length", inner as u32),
            ("expert_shared_count", 1),
        ],
        &[("rope.freq_base", 1e6), ("expert_weights_scale", 2.5)],
    );
    model.set("expert_weights_norm", true);
    model.weight("output.weight", &[HIDDEN, VOCABULARY]);
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        model.norm(&name("attn_norm"), HIDDEN);
        model.norm(&name("post_attention_norm"), HIDDEN);
        attention(&mut model, block, heads, kv_heads, dim);
        for (part, width) in [("q", heads * dim), ("k", kv_heads * dim), ("v", kv_heads * dim)] {
            model.vector(&format!("blk.{block}.attn_{part}.bias"), &[width], -0.3, 0.3);
        }
        model.norm(&name("attn_q_norm"), dim);
        model.norm(&name("attn_k_norm"), dim);
        if block == 0 {
            gated_unit(&mut model, &name, "", 96);
            continue;
        }
        gated_unit(&mut model, &name, "_shexp", inner);
        mixture(&mut model, &name, experts, inner);
        model.vector(&format!("blk.{block}.exp_probs_b.bias"), &[experts], -0.3, 0.3);
    }
    model
}

/// Three layers, the second over all positions, with eight experts each.
fn gpt_oss() -> Model {
    const BLOCKS: usize = 3;
    let (heads, kv_heads, dim, experts, inner) = (4, 2, 32, 8, 32);
    let mut model = Model::new(
        "gpt-oss",
        &[
            ("block_count", BLOCKS as u32),
            ("context_length", 2048),
            ("attention.head_count", heads as u32),
            ("attention.head_count_kv", kv_heads as u32),
            ("attention.key_length", dim as u32),
            ("attention.value_length", dim as u32),
            ("attention.sliding_window", 24),
            ("rope.scaling.original_context_length", 64),
            ("expert_count", experts as u32),
            ("expert_used_count", 2),
            ("expert_feed_forward_length", inner as u32),
        ],
        &[("rope.freq_base", 150_000.0), ("rope.scaling.factor", 32.0)],
    );
    model.set("rope.scaling.type", "yarn");
    model.weight("output.weight", &[HIDDEN, VOCABULARY]);
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let bias = |part: &str| format!("blk.{block}.{part}.bias");
        model.norm(&name("attn_norm"), HIDDEN);
        model.norm(&name("post_attention_norm"), HIDDEN);
        attention(&mut model, block, heads, kv_heads, dim);
        let widths = [("q", heads * dim), ("k", kv_heads * dim), ("v", kv_heads * dim), ("output", HIDDEN)];
        for (part, width) in widths {
            model.vector(&bias(&format!("attn_{part}")), &[width], -0.3, 0.3);
        }
        model.vector(&name("attn_sinks"), &[heads], -2.0, 2.0);
        mixture(&mut model, &name, experts, inner);
        model.vector(&bias("ffn_gate_inp"), &[experts], -0.3, 0.3);
        // Gates beyond the limit of 7 occur.
        model.vector(&bias("ffn_gate_exps"), &[inner, experts], -9.0, 9.0);
        model.vector(&bias("ffn_up_exps"), &[inner, experts], -9.0, 9.0);
        model.vector(&bias("ffn_down_exps"), &[HIDDEN, experts], -0.3, 0.3);
    }
    model
}

/// Four layers, the second and the fourth with sparse attention over a few positions, the third with n-grams; three streams. The
/// separator of n-grams is a token that the tests' prompts hold.
fn qwen4exp() -> Model {
    const BLOCKS: usize = 4;
    const STREAMS: usize = 3;
    let (heads, kv_heads, dim, index_heads, experts, inner) = (4, 2, 32, 3, 8, 32);
    let (key_heads, value_heads, kernel, rank) = (2, 4, 4, 32);
    let (longest, per_length, head_dim) = (3, 2, 32);
    let mut model = Model::new(
        "qwen4exp",
        &[
            ("block_count", BLOCKS as u32),
            ("context_length", 4096),
            ("attention.head_count", heads as u32),
            ("attention.head_count_kv", kv_heads as u32),
            ("attention.key_length", dim as u32),
            ("attention.value_length", dim as u32),
            ("rope.dimension_count", 16),
            ("full_attention_interval", 2),
            ("ssm.conv_kernel", kernel as u32),
            ("ssm.state_size", dim as u32),
            ("ssm.group_count", key_heads as u32),
            ("ssm.time_step_rank", value_heads as u32),
            ("ssm.inner_size", (value_heads * dim) as u32),
            ("expert_count", experts as u32),
            ("expert_used_count", 3),
            ("expert_feed_forward_length", inner as u32),
            ("expert_shared_feed_forward_length", inner as u32),
            ("hyper_connection.count", STREAMS as u32),
            ("hyper_connection.low_rank", rank as u32),
            ("attention.indexer.head_count", index_heads as u32),
            ("attention.indexer.key_length", dim as u32),
            ("attention.indexer.top_k", 12),
            ("ple.ngram_size", longest as u32),
            ("ple.heads_per_ngram", per_length as u32),
            ("ple.conv_kernel", kernel as u32),
            ("ple.eos_token_id", 773),
            ("embedding_length_per_layer_input", head_dim as u32),
        ],
        &[("rope.freq_base", 1e7)],
    );
    model.set("attention.compress_ratios", Array::I32(vec![0, 3, 0, 3]));
    model.set("ple.layers", Array::I32(vec![2]));
    model.set(
        "ple.layer_multipliers",
        Array::U64(vec![4_295_158_889_766_209, 8_433_018_892_997_163, 1_270_917]),
    );
    model.set("ple.head_offsets", Array::U64(vec![0, 101, 204, 311]));
    model.set("ple.head_vocab_sizes", Array::U64(vec![101, 103, 107, 109]));
    model.weight("output.weight", &[HIDDEN, VOCABULARY]);
    model.weight("per_layer_token_embd.weight", &[head_dim, 448]);
    let connections = |model: &mut Model, name: &dyn Fn(&str) -> String, adds: bool| {
        model.norm(&name("norm"), STREAMS * HIDDEN);
        model.weight(&name("down"), &[STREAMS * HIDDEN, rank]);
        model.weight(&name("up"), &[rank, STREAMS * HIDDEN]);
        if adds {
            model.weight(&name("inject"), &[STREAMS * HIDDEN, STREAMS]);
        }
    };
    connections(&mut model, &|part| format!("output_hc_{part}.weight"), false);
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        connections(&mut model, &|part| name(&format!("hc_attn_{part}")), true);
        connections(&mut model, &|part| name(&format!("hc_ffn_{part}")), true);
        if block % 2 == 1 {
            model.weight(&name("attn_q"), &[HIDDEN, 2 * heads * dim]);
            model.weight(&name("attn_k"), &[HIDDEN, kv_heads * dim]);
            model.weight(&name("attn_v"), &[HIDDEN, kv_heads * dim]);
            model.weight(&name("attn_output"), &[heads * dim, HIDDEN]);
            model.weight(&name("indexer.q_proj"), &[HIDDEN, index_heads * dim]);
            model.weight(&name("indexer.k_proj"), &[HIDDEN, dim]);
            for norm in ["attn_q_norm", "attn_k_norm", "indexer.q_norm", "indexer.k_norm"] {
                model.norm(&name(norm), dim);
            }
        } else {
            delta_net(&mut model, block, key_heads, value_heads, dim, kernel);
        }
        if block == 2 {
            let width = (longest - 1) * per_length * head_dim;
            model.weight(&name("ple_key"), &[width, STREAMS * HIDDEN]);
            model.weight(&name("ple_value"), &[width, HIDDEN]);
            for norm in ["key", "query", "conv"] {
                model.norm(&name(&format!("ple_norm_{norm}")), STREAMS * HIDDEN);
            }
            model.vector(&name("ple_conv1d"), &[kernel, STREAMS * HIDDEN], -0.5, 0.5);
        }
        mixture(&mut model, &name, experts, inner);
        gated_unit(&mut model, &name, "_shexp", inner);
        model.weight(&name("ffn_gate_inp_shexp"), &[HIDDEN, 1]);
    }
    model
}

fn delta_net(
    model: &mut Model,
    block: usize,
    key_heads: usize,
    value_heads: usize,
    dim: usize,
    kernel: usize,
) {
    let name = |part: &str| format!("blk.{block}.{part}.weight");
    let channels = (2 * key_heads + value_heads) * dim;
    model.weight(&name("attn_qkv"), &[HIDDEN, channels]);
    model.weight(&name("attn_gate"), &[HIDDEN, value_heads * dim]);
    model.weight(&name("ssm_alpha"), &[HIDDEN, value_heads]);
    model.weight(&name("ssm_beta"), &[HIDDEN, value_heads]);
    model.vector(&name("ssm_conv1d"), &[kernel, channels], -0.5, 0.5);
    // Its logarithm is exact, and heads differ by their biases.
    model.vector(&format!("blk.{block}.ssm_a"), &[value_heads], -1.0, -1.0);
    model.vector(&format!("blk.{block}.ssm_dt.bias"), &[value_heads], -2.0, 1.0);
    model.norm(&name("ssm_norm"), dim);
    model.weight(&name("ssm_out"), &[value_heads * dim, HIDDEN]);
}

fn attention(model: &mut Model, block: usize, heads: usize, kv_heads: usize, dim: usize) {
    let name = |part: &str| format!("blk.{block}.attn_{part}.weight");
    model.weight(&name("q"), &[HIDDEN, heads * dim]);
    model.weight(&name("k"), &[HIDDEN, kv_heads * dim]);
    model.weight(&name("v"), &[HIDDEN, kv_heads * dim]);
    model.weight(&name("output"), &[heads * dim, HIDDEN]);
}

fn gated_unit(model: &mut Model, name: &dyn Fn(&str) -> String, suffix: &str, inner: usize) {
    model.weight(&name(&format!("ffn_gate{suffix}")), &[HIDDEN, inner]);
    model.weight(&name(&format!("ffn_up{suffix}")), &[HIDDEN, inner]);
    model.weight(&name(&format!("ffn_down{suffix}")), &[inner, HIDDEN]);
}

fn mixture(model: &mut Model, name: &dyn Fn(&str) -> String, experts: usize, inner: usize) {
    model.weight(&name("ffn_gate_inp"), &[HIDDEN, experts]);
    model.weight(&name("ffn_gate_exps"), &[HIDDEN, inner, experts]);
    model.weight(&name("ffn_up_exps"), &[HIDDEN, inner, experts]);
    model.weight(&name("ffn_down_exps"), &[inner, HIDDEN, experts]);
}
