//! Tensors that no part of an architecture has asked for.
//!
//! What a file has and nothing computes with would change the model's numbers, unless it is known to be of no consequence here.
//! So each such tensor is one of [`IGNORABLE`] or an error.

use std::collections::{BTreeMap, BTreeSet};

use half::{bf16, f16};
use membrane_formats::{Checkpoint, DType, TensorInfo, packed};

use crate::error::{EngineError, Result, shown};
use crate::hyper::Hyperparameters;

/// Tensors of a file that are left out, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Why their absence changes nothing that is computed here.
    pub reason: &'static str,
    /// How many.
    pub tensors: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// The name of the first.
    pub example: String,
}

/// Where in a name a text stands.
enum At {
    Start,
    End,
    Anywhere,
}

const INPUT_SCALE: &str =
    "scales of a matrix's inputs, for machines that quantise these; here they keep their own";
const CACHE_SCALE: &str = "scales of a cache of keys and values in 8 bits; the cache here has its own form";
const FREQUENCIES: &str = "frequencies of rotary positions, which follow from the configuration";
const PACKED_SHAPE: &str = "shapes of packed matrices, which follow from the configuration";
const IMAGES: &str = "the part for images; only text is run here";
const SPEECH: &str = "the part for speech; only text is run here";
const DRAFTS: &str = "multi-token prediction, which proposes tokens and changes none";
const TIED: &str = "the output head, which is the embedding once more";
const ZEROS: &str = "biases of zeros";
const JOINED: &str = "keys and values in one matrix, which are there a second time apart";

/// Parts of names that published files have and whose tensors change nothing here.
const IGNORABLE: [(At, &str, &str); 46] = [
    // Static scales of activations: modelopt, Quark, FP8 of transformers and vLLM, compressed-tensors; GGUF has the first.
    (At::End, ".input_scale", INPUT_SCALE),
    (At::End, ".input_scale_2", INPUT_SCALE),
    (At::End, ".input_global_scale", INPUT_SCALE),
    (At::End, ".input_zero_point", INPUT_SCALE),
    (At::End, ".activation_scale", INPUT_SCALE),
    (At::End, "_proj_activation_scale", INPUT_SCALE),
    (At::End, "_proj_input_scale", INPUT_SCALE),
    (At::End, "_proj_input_global_scale", INPUT_SCALE),
    (At::End, ".act_scale", INPUT_SCALE),
    // vLLM reads them where its cache is in FP8.
    (At::End, ".k_scale", CACHE_SCALE),
    (At::End, ".v_scale", CACHE_SCALE),
    (At::End, ".q_scale", CACHE_SCALE),
    (At::End, ".kv_scale", CACHE_SCALE),
    (At::End, ".k_proj.output_scale", CACHE_SCALE),
    (At::End, ".v_proj.output_scale", CACHE_SCALE),
    (At::End, ".q_proj.output_scale", CACHE_SCALE),
    (At::End, ".q_a_proj.output_scale", CACHE_SCALE),
    (At::End, ".q_b_proj.output_scale", CACHE_SCALE),
    (At::End, ".kv_a_proj_with_mqa.output_scale", CACHE_SCALE),
    (At::End, ".kv_b_proj.output_scale", CACHE_SCALE),
    (At::End, ".prob_output_scale", CACHE_SCALE),
    (At::End, ".k_zero_point", CACHE_SCALE),
    (At::End, ".v_zero_point", CACHE_SCALE),
    (At::End, ".q_zero_point", CACHE_SCALE),
    (At::End, ".kv_cache_scaling_factor", CACHE_SCALE),
    // Buffers that early versions of transformers, and GGUF files of their time, kept with the weights.
    (At::End, "rotary_emb.inv_freq", FREQUENCIES),
    (At::End, ".attn_rot_embd.weight", FREQUENCIES),
    (At::End, ".weight_shape", PACKED_SHAPE),
    (At::Start, "visual.", IMAGES),
    (At::Start, "model.visual.", IMAGES),
    (At::Start, "vision_tower.", IMAGES),
    (At::Start, "model.vision_tower.", IMAGES),
    (At::Start, "multi_modal_projector.", IMAGES),
    (At::Start, "model.multi_modal_projector.", IMAGES),
    (At::Start, "mm_projector.", IMAGES),
    // Qwen2.5-Omni and Qwen3-Omni, whole or without what speaks.
    (At::Start, "audio_tower.", SPEECH),
    (At::Start, "thinker.visual.", IMAGES),
    (At::Start, "thinker.audio_tower.", SPEECH),
    (At::Start, "talker.", SPEECH),
    (At::Start, "code2wav.", SPEECH),
    (At::Start, "token2wav.", SPEECH),
    // Ollama's files have both parts in one.
    (At::Start, "v.", IMAGES),
    (At::Start, "mm.", IMAGES),
    (At::Start, "mtp.", DRAFTS),
    (At::Start, "model.mtp.", DRAFTS),
    (At::Anywhere, ".nextn.", DRAFTS),
];

/// What blocks for multi-token prediction have beside those of any other block, in GGUF files and in folders.
const DRAFT_MARKS: [&str; 2] = [".nextn.eh_proj.", ".eh_proj."];
/// Names of output heads in folders.
const HEADS: [&str; 4] =
    ["lm_head.weight", "model.lm_head.weight", "language_model.lm_head.weight", "thinker.lm_head.weight"];
/// Bytes of the longest bias that is looked at: one of the widest hidden states in F32.
const BIAS_BYTES: u64 = 1 << 20;
/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;
/// Names in a message.
const NAMED: usize = 3;

/// What may be left out of the tensors that are not `used`, by reason. Error: one that may not.
pub(super) fn check(checkpoint: &Checkpoint, hyper: &Hyperparameters, used: &[bool]) -> Result<Vec<Ignored>> {
    let unused =
        || checkpoint.tensors().iter().zip(used).filter(|(_, used)| !**used).map(|(tensor, _)| tensor);
    // Whatever the metadata say: a layer without such a tensor is one of the model's own.
    let marked = |tensor: &&TensorInfo| DRAFT_MARKS.iter().any(|mark| tensor.name.contains(mark));
    let drafts: BTreeSet<usize> =
        checkpoint.tensors().iter().filter(marked).filter_map(|tensor| layer_of(&tensor.name)).collect();
    let is_packed = checkpoint.is_packed()?;
    let mut ignored: BTreeMap<&str, Ignored> = BTreeMap::new();
    let mut refused: Vec<&TensorInfo> = Vec::new();
    for tensor in unused() {
        let behind = |layer: &usize| *layer >= hyper.blocks();
        let packed =
            is_packed && packed::layer_of(&tensor.name).filter(behind).is_some_and(|_| hyper.mtp_blocks > 0);
        let draft =
            packed || layer_of(&tensor.name).filter(behind).is_some_and(|layer| drafts.contains(&layer));
        let reason = if draft { Some(DRAFTS) } else { reason(checkpoint, tensor)? };
        let Some(reason) = reason else {
            refused.push(tensor);
            continue;
        };
        let (tensors, bytes, example) = (0, 0, tensor.name.clone());
        let entry = ignored.entry(reason).or_insert(Ignored { reason, tensors, bytes, example });
        entry.tensors += 1;
        entry.bytes += tensor.bytes;
    }
    if refused.is_empty() {
        Ok(ignored.into_values().collect())
    } else {
        Err(error(checkpoint, hyper, &refused))
    }
}

/// Why a tensor that is not used can be left out, if it can.
fn reason(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<Option<&'static str>> {
    let name = tensor.name.as_str();
    let known = IGNORABLE.iter().find(|(at, text, _)| match at {
        At::Start => name.starts_with(text),
        At::End => name.ends_with(text),
        At::Anywhere => name.contains(text),
    });
    if let Some((_, _, reason)) = known {
        return Ok(Some(reason));
    }
    if HEADS.contains(&name) && is_embedding(checkpoint, tensor)? {
        return Ok(Some(TIED));
    }
    if name.ends_with("bias") && is_zero(checkpoint, tensor)? {
        return Ok(Some(ZEROS));
    }
    let apart = |joined: &str| ["attn_k_b", "attn_v_b"].map(|part| joined.replace("attn_kv_b", part));
    let joined = name.ends_with(".attn_kv_b.weight")
        && apart(name).iter().all(|part| checkpoint.tensor(part).is_some());
    Ok(joined.then_some(JOINED))
}

/// Whether a tensor has the numbers of the embedding, as they are or rounded to its own type.
fn is_embedding(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<bool> {
    let Some(embedding) = checkpoint.tensor("token_embd.weight") else { return Ok(false) };
    if embedding.shape != tensor.shape {
        return Ok(false);
    }
    // Numbers of a block have no bytes of their own, so that bytes are compared where the types are the same.
    let (parts, widths) = match tensor.dtype == embedding.dtype {
        true => (tensor.bytes, [1, 1]),
        false => {
            let elements = tensor.shape.elements();
            (elements, [tensor.bytes / elements, embedding.bytes / elements])
        }
    };
    let same: fn(&[u8], &[u8]) -> bool = match (tensor.dtype, embedding.dtype) {
        (one, other) if one == other => |one, other| one == other,
        (DType::BF16, DType::F32) => |short, long| matches::<2, 4>(short, long, is_bf16),
        (DType::F32, DType::BF16) => |long, short| matches::<2, 4>(short, long, is_bf16),
        (DType::F16, DType::F32) => |short, long| matches::<2, 4>(short, long, is_f16),
        (DType::F32, DType::F16) => |long, short| matches::<2, 4>(short, long, is_f16),
        _ => return Ok(false),
    };
    // The same numbers of both at a time.
    let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
    let step = PIECE as u64 / widths[0].max(widths[1]).max(1);
    for first in (0..parts).step_by(step as usize) {
        let count = step.min(parts - first);
        let [one, other] = [(&mut one, widths[0]), (&mut other, widths[1])]
            .map(|(bytes, width)| &mut bytes[..(count * width) as usize]);
        checkpoint.read(tensor, first * widths[0], one)?;
        checkpoint.read(embedding, first * widths[1], other)?;
        if !same(one, other) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether each number of `short` is that of `long` in fewer bits.
fn matches<const SHORT: usize, const LONG: usize>(
    short: &[u8],
    long: &[u8],
    same: fn([u8; SHORT], [u8; LONG]) -> bool,
) -> bool {
    let (short, long) = (short.as_chunks().0, long.as_chunks().0);
    short.len() == long.len() && short.iter().zip(long).all(|(&short, &long)| same(short, long))
}

fn is_bf16(short: [u8; 2], long: [u8; 4]) -> bool {
    bf16::from_f32(f32::from_le_bytes(long)).to_le_bytes() == short
}

fn is_f16(short: [u8; 2], long: [u8; 4]) -> bool {
    f16::from_f32(f32::from_le_bytes(long)).to_le_bytes() == short
}

/// Whether a tensor of floats is all zeros, of either sign.
fn is_zero(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<bool> {
    if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16) || tensor.bytes > BIAS_BYTES {
        return Ok(false);
    }
    let mut bytes = vec![0; tensor.bytes as usize];
    checkpoint.read(tensor, 0, &mut bytes)?;
    let width = if tensor.dtype == DType::F32 { 4 } else { 2 };
    let is_zero = |float: &[u8]| {
        float.split_last().is_some_and(|(top, rest)| top & 0x7F == 0 && rest.iter().all(|&x| x == 0))
    };
    Ok(bytes.chunks(width).all(is_zero))
}

/// The number of the layer that a tensor belongs to; heads for multi-token prediction with layers of their own have none.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    if name.starts_with("mtp.") || name.contains(".mtp.") {
        return None;
    }
    let behind =
        name.strip_prefix("blk.").or_else(|| name.split_once("layers.").map(|(_, behind)| behind))?;
    behind.split('.').next()?.parse().ok()
}

fn error(checkpoint: &Checkpoint, hyper: &Hyperparameters, refused: &[&TensorInfo]) -> EngineError {
    let named: Vec<String> =
        refused.iter().take(NAMED).map(|tensor| format!("`{}`", shown(&tensor.name))).collect();
    let more = if refused.len() > NAMED { ", ..." } else { "" };
    let file = refused.first().and_then(|tensor| checkpoint.files().get(tensor.file));
    EngineError::UnusedTensors {
        path: file.map_or(checkpoint.path(), |file| &file.path).to_owned(),
        count: refused.len(),
        names: named.join(", ") + more,
        meaning: meaning(checkpoint, hyper, refused),
    }
}

/// What tensors that are left over mean most likely.
fn meaning(checkpoint: &Checkpoint, hyper: &Hyperparameters, refused: &[&TensorInfo]) -> String {
    let any = |found: &dyn Fn(&str) -> bool| refused.iter().any(|tensor| found(&tensor.name));
    let architecture = checkpoint.metadata().str("general.architecture").ok().flatten().unwrap_or_default();
    let last = refused.iter().filter_map(|tensor| layer_of(&tensor.name)).max();
    if let Some(last) = last.filter(|&last| last >= hyper.blocks()) {
        let key = checkpoint.shown_key(&format!("{architecture}.block_count"));
        let layers = hyper.blocks();
        let drafting = match hyper.mtp_blocks {
            0 => String::new(),
            blocks => format!(", {blocks} of them for multi-token prediction (`nextn_predict_layers`),"),
        };
        return format!(
            "there is a layer {last}, and by `{key}`{drafting} the layers are 0 to {}; the configuration is that of another model, \
             or was changed",
            layers.saturating_sub(1)
        );
    }
    if any(&|name| name.contains("lora_")) {
        return "they are an adapter (LoRA); merge it into the weights first".into();
    }
    if any(&|name| HEADS.contains(&name)) {
        return "the configuration says that the output head is the embedding, and this one is another; one of the two is wrong \
                (`tie_word_embeddings`)"
            .into();
    }
    if any(&|name| name.ends_with("scale") || name.ends_with("scales") || name.ends_with("zero_point")) {
        return "they belong to a way of quantising that is not read here; take the model in another form"
            .into();
    }
    if any(&|name| name.contains(".experts.")) {
        let experts = hyper.moes().map(|moe| moe.experts).max().unwrap_or(0);
        return format!(
            "the configuration says that there are {experts} experts in a layer; it is that of another model, or was changed"
        );
    }
    if any(&|name| name.ends_with("bias")) {
        return "this architecture is computed without these biases here".into();
    }
    "the model is a variant of the architecture that this build does not know, or its configuration is that of another".into()
}

#[cfg(test)]
mod tests {
    use super::layer_of;

    #[test]
    fn layers_are_found_in_both_kinds_of_names() {
        for (name, layer) in [
            ("blk.12.attn_q.weight", Some(12)),
            ("model.layers.3.mlp.gate.weight", Some(3)),
            ("model.language_model.layers.40.eh_proj.weight", Some(40)),
            ("output.weight", None),
            ("mtp.layers.0.mlp.gate.weight", None),
            ("blk.x.attn_q.weight", None),
        ] {
            assert_eq!(layer_of(name), layer, "{name}");
        }
    }
}
