//! Folders as models are published, made of the fixture in BF16, so that there is something to compare with wherever the tests
//! run: as they are, or with their matrices quantised beside a twin that has the same numbers as floats.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, FormatError, StrArray, Value as Stored};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::published::{Tensor, fp8, nearest_float8, write_weights};

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
    /// 4-bit integers; `v2`: zero points as they are; `symmetric`; `act_order`: groups in any order.
    Gptq { v2: bool, symmetric: bool, act_order: bool },
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
    /// Floats with scales that are powers of two, of 4 bits by the names of compressed-tensors or of modelopt, or of 8 bits.
    Mx { bits: u32, compressed: bool },
}

pub const SCHEMES: [Scheme; 20] = [
    Scheme::Fp8Blocks,
    Scheme::Fp8Tensor,
    Scheme::Gptq { v2: false, symmetric: true, act_order: false },
    Scheme::Gptq { v2: true, symmetric: true, act_order: false },
    Scheme::Gptq { v2: false, symmetric: false, act_order: false },
    Scheme::Gptq { v2: true, symmetric: false, act_order: true },
    Scheme::Gptq8 { act_order: false },
    Scheme::Gptq8 { act_order: true },
    Scheme::Awq,
    Scheme::PackQuantized { zeros: false, act_order: false },
    Scheme::PackQuantized { zeros: true, act_order: false },
    Scheme::PackQuantized { zeros: true, act_order: true },
    Scheme::Int8 { packed: true, act_order: false },
    Scheme::Int8 { packed: true, act_order: true },
    Scheme::Int8 { packed: false, act_order: false },
    Scheme::Nvfp4 { compressed: false },
    Scheme::Nvfp4 { compressed: true },
    Scheme::Mx { bits: 4, compressed: true },
    Scheme::Mx { bits: 4, compressed: false },
    Scheme::Mx { bits: 8, compressed: true },
];

/// Elements of an integer group.
const GROUP: usize = 32;

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
            if cols % width(scheme) != 0 || rows % 8 != 0 || (name.contains("mlp.gate.") && !routers) {
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
            Scheme::Gptq { v2, symmetric, act_order } => json!({
                "quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": symmetric, "desc_act": act_order,
                "checkpoint_format": if v2 { "gptq_v2" } else { "gptq" },
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
                json!({"quant_method": "modelopt", "quant_algo": "MXFP4"})
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
    if matches!(scheme, Scheme::Nvfp4 { .. }) { 64 } else { GROUP }
}

type Parts = Vec<(&'static str, Tensor)>;

/// The parts of a matrix, and the floats that they stand for.
fn quantise(scheme: Scheme, x: &[f32], rows: usize, cols: usize) -> (Parts, Vec<f32>) {
    match scheme {
        Scheme::Fp8Blocks => fp8(x, rows, cols, [16, 32]),
        Scheme::Fp8Tensor => fp8(x, rows, cols, [rows, cols]),
        Scheme::Gptq { v2, symmetric, act_order } => {
            let order = |column: usize| if act_order { column * 5 % (cols / GROUP) } else { column / GROUP };
            let integers = Integers::new(x, [rows, cols], symmetric, &order);
            (integers.gptq(if v2 { 0 } else { 1 }, &order), integers.meaning(&order))
        }
        Scheme::Gptq8 { act_order } => {
            let order = |column: usize| if act_order { column * 5 % (cols / GROUP) } else { column / GROUP };
            gptq8(x, [rows, cols], &order)
        }
        Scheme::Awq => {
            let order = |column: usize| column / GROUP;
            let integers = Integers::new(x, [rows, cols], false, &order);
            (integers.awq(), integers.meaning(&order))
        }
        Scheme::PackQuantized { zeros, act_order } => {
            let order = |column: usize| if act_order { column * 5 % (cols / GROUP) } else { column / GROUP };
            let rounded = |scale: f32| f16::from_f32(bf16::from_f32(scale).to_f32());
            let integers = if zeros {
                Integers::new(x, [rows, cols], false, &order)
            } else {
                Integers::with_scales(x, [rows, cols], true, &order, &rounded)
            };
            let mut parts = integers.packed(zeros);
            parts.extend(act_order.then(|| ("weight_g_idx", indices(cols, &order))));
            (parts, integers.meaning(&order))
        }
        Scheme::Int8 { packed, act_order } => {
            let groups = if packed { cols / GROUP } else { 1 };
            let order = |column: usize| if act_order { column * 3 % groups } else { column * groups / cols };
            let (mut parts, meaning) = int8(x, [rows, cols], packed, groups, &order);
            parts.extend(act_order.then(|| ("weight_g_idx", indices(cols, &order))));
            (parts, meaning)
        }
        Scheme::Nvfp4 { compressed } => nvfp4(x, rows, cols, compressed),
        Scheme::Mx { bits, compressed } => microscaled(x, [rows, cols], bits, compressed),
    }
}

/// The group of each column.
fn indices(cols: usize, order: &dyn Fn(usize) -> usize) -> Tensor {
    let bytes = (0..cols).flat_map(|col| (order(col) as i32).to_le_bytes()).collect();
    Tensor { dtype: Dtype::I32, shape: vec![cols], bytes }
}

/// A matrix of 4-bit integers.
struct Integers {
    rows: usize,
    cols: usize,
    groups: usize,
    q: Vec<u8>,      // [rows, cols]
    zero: Vec<u8>,   // [groups, rows], 1 to 15
    scale: Vec<f16>, // [groups, rows]
}

impl Integers {
    fn new(x: &[f32], shape: [usize; 2], symmetric: bool, order: &dyn Fn(usize) -> usize) -> Self {
        Self::with_scales(x, shape, symmetric, order, &f16::from_f32)
    }

    fn with_scales(
        x: &[f32],
        [rows, cols]: [usize; 2],
        symmetric: bool,
        order: &dyn Fn(usize) -> usize,
        rounded: &dyn Fn(f32) -> f16,
    ) -> Self {
        let groups = cols / GROUP;
        let mut all = Self {
            rows,
            cols,
            groups,
            q: vec![0; rows * cols],
            zero: vec![8; groups * rows],
            scale: vec![f16::ZERO; groups * rows],
        };
        for row in 0..rows {
            for group in 0..groups {
                let own = || (0..cols).filter(|&col| order(col) == group).map(|col| x[row * cols + col]);
                let (low, high) = own().fold((0f32, 0f32), |(low, high), x| (low.min(x), high.max(x)));
                let place = group * rows + row;
                let range = if symmetric { 2.0 * low.abs().max(high) } else { high - low };
                all.scale[place] = rounded(range.max(1e-4) / 15.0);
                if !symmetric {
                    all.zero[place] = (-low / all.scale[place].to_f32()).round().clamp(1.0, 15.0) as u8;
                }
            }
            for col in 0..cols {
                let place = order(col) * rows + row;
                let steps = x[row * cols + col] / all.scale[place].to_f32() + f32::from(all.zero[place]);
                all.q[row * cols + col] = steps.round().clamp(0.0, 15.0) as u8;
            }
        }
        all
    }

    fn meaning(&self, order: &dyn Fn(usize) -> usize) -> Vec<f32> {
        let value = |(index, q): (usize, &u8)| {
            let place = order(index % self.cols) * self.rows + index / self.cols;
            self.scale[place].to_f32() * (f32::from(*q) - f32::from(self.zero[place]))
        };
        self.q.iter().enumerate().map(value).collect()
    }

    /// Words [outer, inner / 8] or, with `columns`, [inner / 8, outer], of eight nibbles each.
    fn words(count: usize, word: impl Fn(usize) -> u32) -> Vec<u8> {
        (0..count).flat_map(|index| word(index).to_le_bytes()).collect()
    }

    fn scales(&self) -> Tensor {
        let bytes = self.scale.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        Tensor { dtype: Dtype::F16, shape: vec![self.groups, self.rows], bytes }
    }

    fn gptq(&self, offset: u8, order: &dyn Fn(usize) -> usize) -> Parts {
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        let pack = |of: &dyn Fn(usize) -> u8| (0..8).fold(0, |all, i| all | u32::from(of(i)) << (4 * i));
        let q = Self::words(cols / 8 * rows, |index| {
            let (eight, row) = (index / rows, index % rows);
            pack(&|i| self.q[row * cols + 8 * eight + i])
        });
        let zeros = Self::words(groups * rows / 8, |index| pack(&|i| self.zero[8 * index + i] - offset));
        vec![
            ("qweight", Tensor { dtype: Dtype::I32, shape: vec![cols / 8, rows], bytes: q }),
            ("qzeros", Tensor { dtype: Dtype::I32, shape: vec![groups, rows / 8], bytes: zeros }),
            ("scales", self.scales()),
            ("g_idx", indices(cols, order)),
        ]
    }

    fn packed(&self, zeros: bool) -> Parts {
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        let pack = |of: &dyn Fn(usize) -> u8| (0..8).fold(0, |all, i| all | u32::from(of(i)) << (4 * i));
        let q = Self::words(rows * cols / 8, |index| pack(&|i| self.q[8 * index + i]));
        let scale = |index: usize| self.scale[index % groups * rows + index / groups];
        let bytes = |index: usize| match zeros {
            true => scale(index).to_le_bytes(),
            false => bf16::from_f32(scale(index).to_f32()).to_le_bytes(),
        };
        let dtype = if zeros { Dtype::F16 } else { Dtype::BF16 };
        let scales = (0..rows * groups).flat_map(bytes).collect();
        let shape = [rows as i64, cols as i64].iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let mut parts = vec![
            ("weight_packed", Tensor { dtype: Dtype::I32, shape: vec![rows, cols / 8], bytes: q }),
            ("weight_scale", Tensor { dtype, shape: vec![rows, groups], bytes: scales }),
            ("weight_shape", Tensor { dtype: Dtype::I64, shape: vec![2], bytes: shape }),
        ];
        if zeros {
            let words = Self::words(rows / 8 * groups, |index| {
                let (eight, group) = (index / groups, index % groups);
                pack(&|i| self.zero[group * rows + 8 * eight + i])
            });
            let tensor = Tensor { dtype: Dtype::I32, shape: vec![rows / 8, groups], bytes: words };
            parts.push(("weight_zero_point", tensor));
        }
        parts
    }

    fn awq(&self) -> Parts {
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        let pack =
            |of: &dyn Fn(usize) -> u8| (0..8).fold(0, |all, i| all | u32::from(of(ORDER[i])) << (4 * i));
        let q = Self::words(cols * rows / 8, |index| {
            let (col, eight) = (index / (rows / 8), index % (rows / 8));
            pack(&|i| self.q[(8 * eight + i) * cols + col])
        });
        let zeros = Self::words(groups * rows / 8, |index| pack(&|i| self.zero[8 * index + i]));
        vec![
            ("qweight", Tensor { dtype: Dtype::I32, shape: vec![cols, rows / 8], bytes: q }),
            ("qzeros", Tensor { dtype: Dtype::I32, shape: vec![groups, rows / 8], bytes: zeros }),
            ("scales", self.scales()),
        ]
    }
}

/// Bytes, zero points less 1, scales and groups; and what they stand for.
fn gptq8(x: &[f32], [rows, cols]: [usize; 2], order: &dyn Fn(usize) -> usize) -> (Parts, Vec<f32>) {
    let groups = cols / GROUP;
    let scale = |row: usize, group: usize| {
        let own = (0..cols).filter(|&col| order(col) == group).map(|col| x[row * cols + col].abs());
        f16::from_f32(own.fold(1e-4, f32::max) / 127.0)
    };
    let scales: Vec<f16> = (0..groups * rows).map(|place| scale(place % rows, place / rows)).collect();
    let of = |row: usize, col: usize| scales[order(col) * rows + row].to_f32();
    let steps = |row: usize, col: usize| (x[row * cols + col] / of(row, col)).round().clamp(-128.0, 127.0);
    let meaning = (0..rows * cols).map(|i| steps(i / cols, i % cols) * of(i / cols, i % cols)).collect();
    let words = (0..rows * cols).map(|byte| {
        let (word, place) = (byte / 4, byte % 4);
        (steps(word % rows, word / rows * 4 + place) + 128.0) as u8
    });
    let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let parts = vec![
        ("qweight", Tensor { dtype: Dtype::I32, shape: vec![cols / 4, rows], bytes: words.collect() }),
        (
            "qzeros",
            Tensor { dtype: Dtype::I32, shape: vec![groups, rows / 4], bytes: vec![127; groups * rows] },
        ),
        ("scales", Tensor { dtype: Dtype::F16, shape: vec![groups, rows], bytes }),
        ("g_idx", indices(cols, order)),
    ];
    (parts, meaning)
}

fn int8(
    x: &[f32],
    [rows, cols]: [usize; 2],
    packed: bool,
    groups: usize,
    order: &dyn Fn(usize) -> usize,
) -> (Parts, Vec<f32>) {
    let place = |i: usize| i / cols * groups + order(i % cols);
    let mut largest = vec![1e-4_f32; rows * groups];
    for (i, x) in x.iter().enumerate() {
        largest[place(i)] = largest[place(i)].max(x.abs());
    }
    let scales: Vec<bf16> = largest.iter().map(|largest| bf16::from_f32(largest / 127.0)).collect();
    let scale = |i: usize| scales[place(i)].to_f32();
    let steps: Vec<f32> =
        x.iter().enumerate().map(|(i, x)| (x / scale(i)).round().clamp(-128.0, 127.0)).collect();
    let meaning = steps.iter().enumerate().map(|(i, step)| step * scale(i)).collect();
    let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let scales = Tensor { dtype: Dtype::BF16, shape: vec![rows, groups], bytes };
    let weights = if packed {
        let bytes = steps.iter().map(|step| (step + 128.0) as u8).collect();
        ("weight_packed", Tensor { dtype: Dtype::I32, shape: vec![rows, cols / 4], bytes })
    } else {
        let bytes = steps.iter().map(|&step| step as i8 as u8).collect();
        ("weight", Tensor { dtype: Dtype::I8, shape: vec![rows, cols], bytes })
    };
    (vec![weights, ("weight_scale", scales)], meaning)
}

/// The float of 4 bits that a code stands for.
fn float4(code: u8) -> f32 {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    MAGNITUDES[usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 }
}

/// The nearest float of 4 bits.
fn nearest_float4(x: f32) -> u8 {
    let near = |&a: &u8, &b: &u8| (float4(a) - x).abs().total_cmp(&(float4(b) - x).abs());
    if x.is_finite() { (0..16).min_by(near).unwrap() } else { 0 }
}

fn packed_float4(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|two| two[0] | two[1] << 4).collect()
}

/// Blocks of 32 with a power of two as their scale.
fn microscaled(x: &[f32], [rows, cols]: [usize; 2], bits: u32, compressed: bool) -> (Parts, Vec<f32>) {
    let (mut exponents, mut codes, mut meaning) = (Vec::new(), Vec::new(), Vec::new());
    for block in x.chunks(32) {
        let largest = block.iter().fold(1e-6f32, |largest, x| largest.max(x.abs()));
        let exponent = (largest / if bits == 4 { 6.0 } else { 448.0 }).log2().ceil();
        let scale = exponent.exp2();
        exponents.push((exponent + 127.0) as u8);
        for x in block {
            let (float, code) = match bits {
                4 => (float4(nearest_float4(x / scale)), nearest_float4(x / scale)),
                _ => nearest_float8(x / scale),
            };
            codes.push(code);
            meaning.push(float * scale);
        }
    }
    let weight = match bits {
        4 => Tensor::u8(&[rows, cols / 2], packed_float4(&codes)),
        _ => Tensor { dtype: Dtype::F8_E4M3, shape: vec![rows, cols], bytes: codes },
    };
    let name = if bits == 4 && compressed { "weight_packed" } else { "weight" };
    (vec![(name, weight), ("weight_scale", Tensor::u8(&[rows, cols / 32], exponents))], meaning)
}

fn nvfp4(x: &[f32], rows: usize, cols: usize, compressed: bool) -> (Parts, Vec<f32>) {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    // A power of two, so that one over it is exact.
    let factor = 2f32.powi((largest / 6.0 / 448.0).log2().ceil() as i32);
    let (mut scales, mut meant) = (Vec::new(), Vec::new());
    let mut codes = Vec::new();
    for sixteen in x.chunks(16) {
        let largest = sixteen.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let (scale, code) = nearest_float8(largest / 6.0 / factor);
        scales.push(code);
        meant.push(scale);
        codes.extend(sixteen.iter().map(|x| nearest_float4(x / (scale * factor))));
    }
    let meaning = codes.iter().enumerate().map(|(i, code)| float4(*code) * meant[i / 16] * factor).collect();
    let names = match compressed {
        true => ["weight_packed", "weight_scale", "weight_global_scale"],
        false => ["weight", "weight_scale", "weight_scale_2"],
    };
    let factor = if compressed { 1.0 / factor } else { factor };
    let parts = vec![
        (names[0], Tensor { dtype: Dtype::U8, shape: vec![rows, cols / 2], bytes: packed_float4(&codes) }),
        (names[1], Tensor { dtype: Dtype::F8_E4M3, shape: vec![rows, cols / 16], bytes: scales }),
        (names[2], Tensor { dtype: Dtype::F32, shape: vec![1], bytes: factor.to_le_bytes().to_vec() }),
    ];
    (parts, meaning)
}
