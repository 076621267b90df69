//! Checkpoints of hybrid models, as published, to GGUF files in BF16, by the rules of the converter that users have: norms
//! with the 1 that is added to them, decays, value heads in another order, tensors cut and joined.

use std::path::Path;

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, DType, FormatError, Metadata};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The heads and widths of a checkpoint's delta-nets.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub key_heads: usize,
    pub value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    /// Whether the GGUF file has value heads tiled over key heads rather than grouped by them.
    pub tiled: bool,
}

impl Heads {
    /// Puts value heads of `unit` elements from the checkpoint's order into that of the GGUF file.
    pub fn reorder<T: Copy>(&self, heads: &[T], unit: usize) -> Vec<T> {
        assert_eq!(heads.len(), self.value_heads * unit);
        let shared = self.value_heads / self.key_heads;
        let place = |head: usize| match self.tiled {
            true => head % self.key_heads * shared + head / self.key_heads,
            false => head,
        };
        (0..self.value_heads).flat_map(|head| heads[place(head) * unit..][..unit].iter().copied()).collect()
    }

    /// The same for the values among rows [queries, keys, values] of `unit` elements.
    pub fn reorder_values<T: Copy>(&self, rows: &[T], unit: usize) -> Vec<T> {
        let (keys, values) = rows.split_at(2 * self.key_heads * self.key_dim * unit);
        [keys.to_vec(), self.reorder(values, self.value_dim * unit)].concat()
    }
}

struct Tensor {
    name: String,
    dtype: DType,
    dims: Vec<u64>, // the contiguous one first
    bytes: Vec<u8>,
}

/// A checkpoint on its way to a GGUF file.
struct Conversion<'a> {
    source: &'a SafeTensors<'a>,
    config: &'a Value,
    heads: Heads,
    /// Whether the inputs of a delta-net stay in one matrix, as the first converters of Qwen3-Next left them.
    fused: bool,
    /// What names of the text model begin with.
    prefix: &'a str,
    tensors: Vec<Tensor>,
}

/// Writes the GGUF file of a checkpoint folder and gives the heads of its delta-nets.
pub fn convert(folder: &Path, architecture: &str, fused: bool, out: &Path) -> Heads {
    let data = std::fs::read(folder.join("model.safetensors")).unwrap();
    let source = SafeTensors::deserialize(&data).unwrap();
    let whole: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let config = whole.get("text_config").unwrap_or(&whole);
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let heads = Heads {
        key_heads: number("linear_num_key_heads"),
        value_heads: number("linear_num_value_heads"),
        key_dim: number("linear_key_head_dim"),
        value_dim: number("linear_value_head_dim"),
        tiled: architecture != "qwen3next",
    };
    let prefix = if whole.get("text_config").is_some() { "model.language_model." } else { "model." };
    let mut conversion = Conversion { source: &source, config, heads, fused, prefix, tensors: Vec::new() };
    let mtp = config["mtp_num_hidden_layers"].as_u64().unwrap_or(0) as usize;
    conversion.all(mtp);
    let mut writer = GgufWriter::new(out, metadata(config, architecture, &heads, mtp));
    for tensor in &conversion.tensors {
        writer.declare(&tensor.name, tensor.dtype, &tensor.dims).unwrap();
    }
    let mut tensors = conversion.tensors.iter();
    writer.write(|_, sink| -> Result<(), FormatError> { sink.put(&tensors.next().unwrap().bytes) }).unwrap();
    heads
}

/// Whether each layer is a delta-net.
fn delta_nets(config: &Value) -> Vec<bool> {
    if let Some(kinds) = config["layer_types"].as_array() {
        return kinds.iter().map(|kind| kind == "linear_attention").collect();
    }
    let count = |key: &str| config[key].as_u64().unwrap() as usize;
    let interval = count("full_attention_interval");
    (1..=count("num_hidden_layers")).map(|layer| layer % interval != 0).collect()
}

fn metadata(config: &Value, architecture: &str, heads: &Heads, mtp: usize) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", architecture);
    let mut number = |key: &str, value: u64| metadata.set(&format!("{architecture}.{key}"), value as u32);
    let configured = |key: &str| config[key].as_u64();
    number("block_count", configured("num_hidden_layers").unwrap() + mtp as u64);
    if mtp > 0 {
        number("nextn_predict_layers", mtp as u64);
    }
    for (key, name) in [
        ("hidden_size", "embedding_length"),
        ("max_position_embeddings", "context_length"),
        ("num_attention_heads", "attention.head_count"),
        ("num_key_value_heads", "attention.head_count_kv"),
        ("head_dim", "attention.key_length"),
        ("head_dim", "attention.value_length"),
        ("full_attention_interval", "full_attention_interval"),
        ("intermediate_size", "feed_forward_length"),
        ("num_experts", "expert_count"),
        ("num_experts_per_tok", "expert_used_count"),
        ("moe_intermediate_size", "expert_feed_forward_length"),
        ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        ("linear_conv_kernel_dim", "ssm.conv_kernel"),
        ("linear_key_head_dim", "ssm.state_size"),
        ("linear_num_key_heads", "ssm.group_count"),
        ("linear_num_value_heads", "ssm.time_step_rank"),
    ] {
        if let Some(value) = configured(key) {
            number(name, value);
        }
    }
    number("ssm.inner_size", (heads.value_heads * heads.value_dim) as u64);
    let rope = config.get("rope_parameters").unwrap_or(config);
    let rotated = config["head_dim"].as_f64().unwrap() * rope["partial_rotary_factor"].as_f64().unwrap();
    number("rope.dimension_count", rotated as u64);
    if configured("full_attention_interval").is_none() {
        let key = format!("{architecture}.attention.recurrent_layers");
        metadata.set(&key, Array::Bool(delta_nets(config)));
    }
    let float = |value: &Value| value.as_f64().unwrap() as f32;
    metadata.set(&format!("{architecture}.rope.freq_base"), float(&rope["rope_theta"]));
    metadata.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), float(&config["rms_norm_eps"]));
    metadata
}

impl Conversion<'_> {
    fn all(&mut self, mtp: usize) {
        let layers = self.config["num_hidden_layers"].as_u64().unwrap() as usize;
        self.copied("token_embd.weight", &format!("{}embed_tokens.weight", self.prefix));
        self.copied("output.weight", "lm_head.weight");
        self.norm("output_norm.weight", &format!("{}norm.weight", self.prefix));
        for (layer, delta_net) in delta_nets(self.config).into_iter().enumerate() {
            let from = format!("{}layers.{layer}.", self.prefix);
            self.layer(layer, &from, !delta_net);
        }
        for block in 0..mtp {
            let to = format!("blk.{}.", layers + block);
            self.layer(layers + block, &format!("mtp.layers.{block}."), true);
            self.copied(&format!("{to}nextn.eh_proj.weight"), "mtp.fc.weight");
            self.norm(&format!("{to}nextn.enorm.weight"), "mtp.pre_fc_norm_embedding.weight");
            self.norm(&format!("{to}nextn.hnorm.weight"), "mtp.pre_fc_norm_hidden.weight");
            self.norm(&format!("{to}nextn.shared_head_norm.weight"), "mtp.norm.weight");
        }
    }

    fn layer(&mut self, layer: usize, from: &str, attention: bool) {
        let to = format!("blk.{layer}.");
        self.norm(&format!("{to}attn_norm.weight"), &format!("{from}input_layernorm.weight"));
        self.norm(
            &format!("{to}post_attention_norm.weight"),
            &format!("{from}post_attention_layernorm.weight"),
        );
        if attention {
            for (to_part, part) in [("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o")] {
                self.copied(&format!("{to}{to_part}.weight"), &format!("{from}self_attn.{part}_proj.weight"));
            }
            self.norm(&format!("{to}attn_q_norm.weight"), &format!("{from}self_attn.q_norm.weight"));
            self.norm(&format!("{to}attn_k_norm.weight"), &format!("{from}self_attn.k_norm.weight"));
        } else {
            self.delta_net(&to, &format!("{from}linear_attn."));
        }
        self.feed_forward(&to, &format!("{from}mlp."));
    }

    fn delta_net(&mut self, to: &str, from: &str) {
        let heads = self.heads;
        let hidden = self.config["hidden_size"].as_u64().unwrap() as usize;
        let row = 2 * hidden;
        if self.fused {
            self.copied(&format!("{to}ssm_in.weight"), &format!("{from}in_proj_qkvz.weight"));
        } else {
            let (qkv, z) = if heads.tiled {
                let qkv = heads.reorder_values(&self.bytes(&format!("{from}in_proj_qkv.weight")), row);
                (qkv, heads.reorder(&self.bytes(&format!("{from}in_proj_z.weight")), heads.value_dim * row))
            } else {
                split_by_key_head(&heads, &self.bytes(&format!("{from}in_proj_qkvz.weight")), row)
            };
            self.weight(&format!("{to}attn_qkv.weight"), &[hidden, qkv.len() / row], qkv);
            self.weight(&format!("{to}attn_gate.weight"), &[hidden, z.len() / row], z);
        }
        if heads.tiled {
            for (name, part) in [("ssm_alpha", "a"), ("ssm_beta", "b")] {
                let rows = heads.reorder(&self.bytes(&format!("{from}in_proj_{part}.weight")), row);
                self.weight(&format!("{to}{name}.weight"), &[hidden, heads.value_heads], rows);
            }
        } else {
            self.copied(&format!("{to}ssm_ba.weight"), &format!("{from}in_proj_ba.weight"));
        }
        let decays =
            heads.reorder(&self.floats(&format!("{from}A_log")), 1).iter().map(|x| -x.exp()).collect();
        self.vector(&format!("{to}ssm_a"), &[heads.value_heads], decays);
        let bias = heads.reorder(&self.floats(&format!("{from}dt_bias")), 1);
        self.vector(&format!("{to}ssm_dt.bias"), &[heads.value_heads], bias);
        let kernel = self.config["linear_conv_kernel_dim"].as_u64().unwrap() as usize;
        let taps = heads.reorder_values(&self.floats(&format!("{from}conv1d.weight")), kernel);
        self.vector(&format!("{to}ssm_conv1d.weight"), &[kernel, taps.len() / kernel], taps);
        let norm = self.floats(&format!("{from}norm.weight"));
        self.vector(&format!("{to}ssm_norm.weight"), &[heads.value_dim], norm);
        let width = heads.value_heads * heads.value_dim;
        let out = self.bytes(&format!("{from}out_proj.weight"));
        let out =
            out.chunks_exact(2 * width).flat_map(|row| heads.reorder(row, 2 * heads.value_dim)).collect();
        self.weight(&format!("{to}ssm_out.weight"), &[width, hidden], out);
    }

    fn feed_forward(&mut self, to: &str, from: &str) {
        if self.config.get("num_experts").is_none() {
            for part in ["gate", "up", "down"] {
                self.copied(&format!("{to}ffn_{part}.weight"), &format!("{from}{part}_proj.weight"));
            }
            return;
        }
        self.copied(&format!("{to}ffn_gate_inp.weight"), &format!("{from}gate.weight"));
        self.copied(&format!("{to}ffn_gate_inp_shexp.weight"), &format!("{from}shared_expert_gate.weight"));
        for part in ["gate", "up", "down"] {
            let shared = format!("{from}shared_expert.{part}_proj.weight");
            self.copied(&format!("{to}ffn_{part}_shexp.weight"), &shared);
        }
        if self.source.tensor(&format!("{from}experts.gate_up_proj")).is_ok() {
            self.copied(&format!("{to}ffn_gate_up_exps.weight"), &format!("{from}experts.gate_up_proj"));
            self.copied(&format!("{to}ffn_down_exps.weight"), &format!("{from}experts.down_proj"));
            return;
        }
        let experts = self.config["num_experts"].as_u64().unwrap() as usize;
        for part in ["gate", "up", "down"] {
            let name = |expert: usize| format!("{from}experts.{expert}.{part}_proj.weight");
            let shape = self.source.tensor(&name(0)).unwrap().shape().to_vec();
            let all = (0..experts).flat_map(|expert| self.bytes(&name(expert))).collect();
            self.weight(&format!("{to}ffn_{part}_exps.weight"), &[shape[1], shape[0], experts], all);
        }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let tensor = self.source.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        tensor.data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensor = self.source.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        match tensor.dtype() {
            Dtype::F32 => {
                tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            Dtype::BF16 => {
                let wide = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                tensor.data().as_chunks().0.iter().map(wide).collect()
            }
            other => panic!("{name} is {other:?}"),
        }
    }

    fn weight(&mut self, name: &str, dims: &[usize], bytes: Vec<u8>) {
        let dims = dims.iter().map(|&dim| dim as u64).collect();
        self.tensors.push(Tensor { name: name.into(), dtype: DType::BF16, dims, bytes });
    }

    fn vector(&mut self, name: &str, dims: &[usize], values: Vec<f32>) {
        let dims = dims.iter().map(|&dim| dim as u64).collect();
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.push(Tensor { name: name.into(), dtype: DType::F32, dims, bytes });
    }

    fn copied(&mut self, name: &str, from: &str) {
        let mut dims =
            self.source.tensor(from).unwrap_or_else(|error| panic!("{from}: {error}")).shape().to_vec();
        dims.reverse();
        let bytes = self.bytes(from);
        self.weight(name, &dims, bytes);
    }

    /// A norm that the model adds 1 to.
    fn norm(&mut self, name: &str, from: &str) {
        let values: Vec<f32> = self.floats(from).iter().map(|value| value + 1.0).collect();
        self.vector(name, &[values.len()], values);
    }
}

/// Rows [queries, keys, values] and [z] of rows that are [query, key, values, z] for each key head.
fn split_by_key_head(heads: &Heads, rows: &[u8], row: usize) -> (Vec<u8>, Vec<u8>) {
    let key = heads.key_dim * row;
    let value = heads.value_heads / heads.key_heads * heads.value_dim * row;
    let of_all = |from: usize, len: usize| -> Vec<u8> {
        rows.chunks_exact(2 * key + 2 * value)
            .flat_map(|head| head[from..from + len].iter().copied())
            .collect()
    };
    let qkv = [of_all(0, key), of_all(key, key), of_all(2 * key, value)].concat();
    (qkv, of_all(2 * key + value, value))
}
