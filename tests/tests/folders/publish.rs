//! Folders as models are published, made of the fixture in BF16, so that there is something to compare with wherever the tests
//! run: as they are, or with their matrices quantised beside a twin that has the same numbers as floats.

#[path = "quantise.rs"]
mod quantise;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, FormatError, StrArray, Value as Stored};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::published::{Tensor, write_weights};
use quantise::{GROUP, quantise};

/// The pre-tokenizer of the fixture's family, as `tokenizer.json` writes it.
const QWEN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// How matrices are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// e4m3 with scales of blocks, in BF16.
    Fp8Blocks,
    /// e4m3 with one scale in F32.
    Fp8Tensor,
    /// e4m3 as modelopt has it: a scale in F32 for each row, `[rows]`, or block, `[rows / 16, 1, cols / 32, 1]`.
    Fp8Modelopt { by_rows: bool },
    /// 4-bit integers; `v2`: zero points as they are; `symmetric`; `act_order`: groups in any order.
    Gptq { v2: bool, symmetric: bool, act_order: bool },
    /// The same of 2 or 3 bits, of which 32 fill whole words.
    GptqFewBits { bits: u32, symmetric: bool },
    /// 8-bit integers around 128; `act_order` as above.
    Gptq8 { act_order: bool },
    /// 4-bit integers in AWQ's order.
    Awq,
    /// 4-bit integers packed along rows, as compressed-tensors has them: scales in BF16 and no zero points, or in F16 with them;
    /// `act_order` as above.
    PackQuantized { zeros: bool, act_order: bool },
    /// 8-bit integers of compressed-tensors, with scales in BF16: packed, of groups, or as they are, of rows; `act_order` as above,
    /// of groups.
    Int8 { packed: bool, act_order: bool },
    /// 4-bit floats; modelopt's names, or those of compressed-tensors.
    Nvfp4 { compressed: bool },
    /// The same by modelopt's names, 32 columns a scale.
    Nvfp4Of32,
    /// Floats of 4 or 8 bits with scales that are powers of two: by the names of compressed-tensors, in bytes, or by modelopt's, as e8m0.
    Mx { bits: u32, compressed: bool },
}

pub const SCHEMES: [Scheme; 27] = [
    Scheme::Fp8Blocks,
    Scheme::Fp8Tensor,
    Scheme::Fp8Modelopt { by_rows: true },
    Scheme::Fp8Modelopt { by_rows: false },
    Scheme::Gptq { v2: false, symmetric: true, act_order: false },
    Scheme::Gptq { v2: true, symmetric: true, act_order: false },
    Scheme::Gptq { v2: false, symmetric: false, act_order: false },
    Scheme::Gptq { v2: true, symmetric: false, act_order: true },
    Scheme::GptqFewBits { bits: 2, symmetric: true },
    Scheme::GptqFewBits { bits: 3, symmetric: false },
    Scheme::Gptq8 { act_order: false },
    Scheme::Gptq8 { act_order: true },
    Scheme::Awq,
    Scheme::PackQuantized { zeros: false, act_order: false },
    Scheme::PackQuantized { zeros: true, act_order: false },
    Scheme::PackQuantized { zeros: true, act_order: true },
    Scheme::Int8 { packed: true, act_order: false },
    Scheme::Int8 { packed: true, act_order: true },
    Scheme::Int8 { packed: false, act_order: false },
    Scheme::Int8 { packed: false, act_order: true },
    Scheme::Nvfp4 { compressed: false },
    Scheme::Nvfp4 { compressed: true },
    Scheme::Nvfp4Of32,
    Scheme::Mx { bits: 4, compressed: true },
    Scheme::Mx { bits: 4, compressed: false },
    Scheme::Mx { bits: 8, compressed: true },
    Scheme::Mx { bits: 8, compressed: false },
];

/// A model on its way into a folder.
#[derive(Clone)]
pub struct Published {
    pub config: Value,
    pub tokenizer: Value,
    pub tensors: BTreeMap<String, Tensor>,
}

impl Published {
    /// A Qwen3-MoE in a GGUF file in BF16 as it would have been published.
    pub fn of(gguf: &Path) -> Self {
        let checkpoint = Checkpoint::open(gguf).unwrap();
        let mut tensors = BTreeMap::new();
        for info in checkpoint.tensors() {
            let mut bytes = vec![0; info.bytes as usize];
            checkpoint.read(info, 0, &mut bytes).unwrap();
            let dtype = if info.dtype.name() == "F32" { Dtype::F32 } else { Dtype::BF16 };
            let shape: Vec<usize> = info.shape.dims().iter().rev().map(|&dim| dim as usize).collect();
            add(&mut tensors, &info.name, Tensor { dtype, shape, bytes });
        }
        Self { config: config(&checkpoint), tokenizer: tokenizer(&checkpoint), tensors }
    }

    /// Quantises the matrices of attention, router and experts as far as their widths allow. Gives the model with the numbers
    /// that they stand for, in F32, beside it.
    pub fn quantised(&self, scheme: Scheme) -> (Self, Self) {
        let (mut quantised, mut twin) = (self.clone(), self.clone());
        for (name, tensor) in &self.tensors {
            let Some(base) = name.strip_suffix(".weight").filter(|_| name.contains("layers.")) else {
                continue;
            };
            let &[rows, cols] = &tensor.shape[..] else { continue };
            let routers = matches!(scheme, Scheme::Gptq { .. } | Scheme::Gptq8 { .. });
            let eights = if matches!(scheme, Scheme::GptqFewBits { .. }) { 32 } else { 8 };
            if cols % width(scheme) != 0 || rows % eights != 0 || (name.contains("mlp.gate.") && !routers) {
                continue;
            }
            let floats = tensor.floats();
            quantised.tensors.remove(name);
            let (parts, meaning) = quantise(scheme, &floats, rows, cols);
            for (part, tensor) in parts {
                quantised.tensors.insert(format!("{base}.{part}"), tensor);
            }
            let bytes = meaning.iter().flat_map(|x| x.to_le_bytes()).collect();
            twin.tensors.insert(name.clone(), Tensor { dtype: Dtype::F32, shape: vec![rows, cols], bytes });
        }
        quantised.config["quantization_config"] = match scheme {
            Scheme::Fp8Blocks => json!({"quant_method": "fp8", "weight_block_size": [16, 32]}),
            Scheme::Fp8Tensor => json!({"quant_method": "fp8"}),
            Scheme::Fp8Modelopt { by_rows: true } => {
                json!({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"})
            }
            Scheme::Fp8Modelopt { by_rows: false } => {
                json!({"quant_method": "modelopt", "quant_algo": "fp8_pb_wo", "weight_block_size": [16, 32]})
            }
            Scheme::Nvfp4Of32 => json!({"quant_method": "modelopt", "quant_algo": "W4A8_NVFP4_FP8"}),
            Scheme::Gptq { v2, symmetric, act_order } => json!({
                "quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": symmetric, "desc_act": act_order,
                "checkpoint_format": if v2 { "gptq_v2" } else { "gptq" },
            }),
            Scheme::GptqFewBits { bits, symmetric } => json!({
                "quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": symmetric, "desc_act": false,
            }),
            Scheme::Gptq8 { act_order } => json!({
                "quant_method": "gptq", "bits": 8, "group_size": GROUP, "sym": true, "desc_act": act_order,
            }),
            Scheme::Awq => json!({"quant_method": "awq", "bits": 4, "group_size": GROUP}),
            Scheme::PackQuantized { zeros, .. } => json!({
                "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"weights": {
                    "type": "int", "num_bits": 4, "group_size": GROUP, "strategy": "group", "symmetric": !zeros,
                }}},
            }),
            Scheme::Int8 { packed, .. } => json!({
                "quant_method": "compressed-tensors", "format": if packed { "pack-quantized" } else { "int-quantized" },
                "config_groups": {"group_0": {"weights": {
                    "type": "int", "num_bits": 8, "strategy": if packed { "group" } else { "channel" }, "symmetric": true,
                }}},
            }),
            Scheme::Nvfp4 { compressed: true } | Scheme::Mx { compressed: true, .. } => {
                json!({"quant_method": "compressed-tensors"})
            }
            Scheme::Mx { compressed: false, .. } => {
                json!({"quant_method": "modelopt"})
            }
            Scheme::Nvfp4 { compressed: false } => Value::Null,
        };
        (quantised, twin)
    }

    /// Writes the documents, and the weights in one file.
    pub fn write(&self, folder: &Path) {
        self.write_documents(folder);
        write_weights(&folder.join("model.safetensors"), &self.tensors, |_| true);
    }

    /// Writes the documents, and the weights in several files with an index.
    pub fn write_sharded(&self, folder: &Path, shards: usize) {
        self.write_documents(folder);
        let name = |shard: usize| format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let place = |tensor: &str| tensor.bytes().map(usize::from).sum::<usize>() % shards;
        for shard in 0..shards {
            write_weights(&folder.join(name(shard)), &self.tensors, |tensor| place(tensor) == shard);
        }
        let map: serde_json::Map<String, Value> =
            self.tensors.keys().map(|tensor| (tensor.clone(), name(place(tensor)).into())).collect();
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    pub fn write_documents(&self, folder: &Path) {
        let write = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
        write("config.json", &self.config);
        write("tokenizer.json", &self.tokenizer);
        write("generation_config.json", &json!({"eos_token_id": [1010, 1008]}));
        write("tokenizer_config.json", &json!({"eos_token": "<|im_end|>", "add_bos_token": false}));
        std::fs::write(folder.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    }
}

/// Puts a folder where a Hugging Face cache would: files by digest, links to them. Gives the folder with the links.
pub fn in_a_cache(folder: &Path, cache: &Path) -> PathBuf {
    let root = cache.join("models--someone--tiny");
    let (blobs, snapshot) = (root.join("blobs"), root.join("snapshots/0123abcd"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for (number, entry) in std::fs::read_dir(folder).unwrap().enumerate() {
        let entry = entry.unwrap();
        let blob = format!("blob{number}");
        std::fs::copy(entry.path(), blobs.join(&blob)).unwrap();
        symlink(Path::new("../../blobs").join(&blob), snapshot.join(entry.file_name())).unwrap();
    }
    snapshot
}

/// Writes a GGUF file with further entries of metadata.
pub fn with_metadata(gguf: &Path, entries: &[(&str, Stored)], out: &Path) {
    let checkpoint = Checkpoint::open(gguf).unwrap();
    let mut metadata = checkpoint.metadata().clone();
    for (key, value) in entries {
        metadata.set(key, value.clone());
    }
    let mut writer = GgufWriter::new(out, metadata);
    for tensor in checkpoint.tensors() {
        writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims()).unwrap();
    }
    let mut tensors = checkpoint.tensors().iter();
    let written = writer.write(|_, sink| -> Result<(), FormatError> {
        let tensor = tensors.next().unwrap();
        let mut bytes = vec![0; tensor.bytes as usize];
        checkpoint.read(tensor, 0, &mut bytes)?;
        sink.put(&bytes)
    });
    written.unwrap();
}

fn config(checkpoint: &Checkpoint) -> Value {
    let number = |key: &str| checkpoint.metadata().require_u32(&format!("qwen3moe.{key}")).unwrap();
    let float = |key: &str| f64::from(checkpoint.metadata().require_f32(&format!("qwen3moe.{key}")).unwrap());
    json!({
        "model_type": "qwen3_moe", "hidden_act": "silu", "norm_topk_prob": true, "tie_word_embeddings": false,
        "num_hidden_layers": number("block_count"), "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"), "num_experts": number("expert_count"),
        "num_attention_heads": number("attention.head_count"), "head_dim": number("attention.key_length"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "num_experts_per_tok": number("expert_used_count"),
        "moe_intermediate_size": number("expert_feed_forward_length"),
        "max_position_embeddings": number("context_length"), "vocab_size": 1024,
        "rms_norm_eps": float("attention.layer_norm_rms_epsilon"), "rope_theta": float("rope.freq_base"),
        "rope_scaling": null, "eos_token_id": 1010, "auto_map": {"AutoModel": "evil.Model"},
    })
}

fn tokenizer(checkpoint: &Checkpoint) -> Value {
    let metadata = checkpoint.metadata();
    let tokens: Vec<&str> = metadata.require_str_array("tokenizer.ggml.tokens").unwrap().iter().collect();
    let types = metadata.require_i32_array("tokenizer.ggml.token_type").unwrap();
    let merges: Vec<Vec<&str>> = strings(metadata.get("tokenizer.ggml.merges").unwrap())
        .iter()
        .map(|merge| merge.split(' ').collect())
        .collect();
    let of = |kinds: &'static [i32]| {
        let all = tokens.iter().zip(types.iter()).enumerate();
        all.filter(|(_, (_, kind))| kinds.contains(kind)).map(|(id, (text, kind))| (id, *text, *kind))
    };
    let vocab: serde_json::Map<String, Value> =
        of(&[1]).map(|(id, text, _)| (text.to_owned(), id.into())).collect();
    let added: Vec<Value> = of(&[3, 4])
        .map(|(id, text, kind)| json!({"id": id, "content": text, "special": kind == 3}))
        .collect();
    json!({
        "added_tokens": added, "normalizer": {"type": "NFC"}, "post_processor": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

fn strings(value: &Stored) -> &StrArray {
    match value {
        Stored::Array(Array::Str(strings)) => strings,
        other => panic!("{other} are no strings"),
    }
}

/// Adds a tensor under its published name, or those of all experts.
fn add(tensors: &mut BTreeMap<String, Tensor>, name: &str, tensor: Tensor) {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => Some("model.norm.weight".to_owned()),
        "output.weight" => Some("lm_head.weight".to_owned()),
        _ => None,
    };
    if let Some(name) = whole {
        tensors.insert(name, tensor);
        return;
    }
    let (block, part) = name.strip_prefix("blk.").unwrap().split_once('.').unwrap();
    let prefix = format!("model.layers.{block}.");
    let part = match part {
        "attn_norm.weight" => "input_layernorm.weight",
        "ffn_norm.weight" => "post_attention_layernorm.weight",
        "attn_q.weight" => "self_attn.q_proj.weight",
        "attn_k.weight" => "self_attn.k_proj.weight",
        "attn_v.weight" => "self_attn.v_proj.weight",
        "attn_output.weight" => "self_attn.o_proj.weight",
        "attn_q_norm.weight" => "self_attn.q_norm.weight",
        "attn_k_norm.weight" => "self_attn.k_norm.weight",
        "ffn_gate_inp.weight" => "mlp.gate.weight",
        experts => {
            let matrix = experts.strip_prefix("ffn_").unwrap().strip_suffix("_exps.weight").unwrap();
            let bytes = tensor.bytes.len() / tensor.shape[0];
            for (expert, bytes) in tensor.bytes.chunks(bytes).enumerate() {
                let tensor =
                    Tensor { dtype: tensor.dtype, shape: tensor.shape[1..].to_vec(), bytes: bytes.to_vec() };
                tensors.insert(format!("{prefix}mlp.experts.{expert}.{matrix}_proj.weight"), tensor);
            }
            return;
        }
    };
    tensors.insert(format!("{prefix}{part}"), tensor);
}

/// What the columns of a matrix must be a multiple of.
fn width(scheme: Scheme) -> usize {
    if matches!(scheme, Scheme::Nvfp4 { .. } | Scheme::Nvfp4Of32) { 64 } else { GROUP }
}
