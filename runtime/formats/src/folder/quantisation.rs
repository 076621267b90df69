//! Quantised matrices of published folders: several tensors that make one.

use serde_json::{Map, Value};

use crate::checkpoint::Checkpoint;
use crate::dtype::DType;
use crate::error::{FormatError, quoted};
use crate::keys;
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::tensor::TensorInfo;
use crate::value::Array;

/// How a matrix of `rows` outputs and `columns` inputs is quantised, and what its parts are, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `weight` e4m3 [rows, columns]; scales that multiply: one, one a row, or one a block; of MXFP8 `weight_scale` e8m0 [rows,
    /// columns / 32]. Where all experts of a layer are in one, both have the experts before these dimensions, and the second is
    /// `_scale_inv`.
    Fp8,
    /// `weight` of two 4-bit floats a byte [rows, columns / 2], the first in the low nibble; `weight_scale` e4m3 [rows,
    /// columns / 16], or for 32 columns each; a factor for all, a float. Where all experts of a layer are in one, the first two have the
    /// experts before these dimensions, and there is a factor for each, or one for all.
    Nvfp4 {
        /// The factor divides; otherwise it multiplies.
        divides: bool,
    },
    /// `qweight` [columns / 8, rows], eight nibbles a word along the inputs; `qzeros` [groups, rows / 8], eight along the
    /// outputs; `scales` f16 or bf16 [groups, rows]; if it is there, `g_idx` [columns], the group of each input. Of other
    /// `bits`, 2, 3 or 8, `qweight` is [columns * bits / 32, rows] and `qzeros` [groups, rows * bits / 32], streams of bits.
    Gptq,
    /// `qweight` [columns, rows / 8], eight nibbles a word along the outputs in AWQ's order; `qzeros` and `scales` as in GPTQ,
    /// in that order.
    Awq,
    /// `weight_packed` [rows, columns / 8], eight nibbles a word along the inputs; `weight_scale` [rows, groups]; if it is there,
    /// `weight_zero_point` [rows / 8, groups], eight along the outputs; if it is there, `weight_g_idx` [columns], the group of each
    /// input. The form `pack-quantized` of compressed-tensors. Of 8 bits, without zero points, `weight_packed` is [rows, columns /
    /// 4], four bytes a word.
    PackQuantized,
    /// `weight` i8 [rows, columns]; `weight_scale` [rows, groups]; if it is there, `weight_g_idx` as above. The form `int-quantized`
    /// of compressed-tensors.
    IntQuantized,
    /// `weight_packed` or `weight` of two 4-bit floats a byte [rows, columns / 2], the first in the low nibble; `weight_scale` e8m0
    /// [rows, columns / 32]. Where all experts of a layer are in one, `_blocks` [experts, rows, columns / 32, 16] and `_scales`
    /// [experts, rows, columns / 32].
    Mxfp4,
}

/// A quantised matrix: its parts in the order of its [`Scheme`].
#[derive(Debug, Clone)]
pub struct Quantised<'a> {
    /// How.
    pub scheme: Scheme,
    /// What it is made of.
    pub parts: Vec<&'a TensorInfo>,
}

impl Checkpoint {
    /// The parts of a quantised matrix that a GGUF file would call `name`, if it is one. Error: a part is missing.
    pub fn quantised(&self, name: &str) -> Result<Option<Quantised<'_>>, FormatError> {
        let Some(published) = self.published_name(name) else { return Ok(None) };
        let Some(base) = published.strip_suffix(".weight") else {
            return self.quantised_experts(&published);
        };
        let find = |part: &str| self.stored(&format!("{base}.{part}"));
        let need = |part: &str| self.require_stored(&format!("{base}.{part}"));
        if let Some(weight) = find("qweight") {
            let mut parts = vec![weight, need("qzeros")?, need("scales")?];
            let awq = matches!(self.metadata().str(keys::QUANTISATION), Ok(Some("awq")));
            parts.extend(find("g_idx").filter(|_| !awq));
            let scheme = if awq { Scheme::Awq } else { Scheme::Gptq };
            return Ok(Some(Quantised { scheme, parts }));
        }
        if let Some(weight) = find("weight_packed") {
            if weight.dtype == DType::I32 {
                let mut parts = vec![weight, need("weight_scale")?];
                parts.extend(find("weight_zero_point"));
                parts.extend(find("weight_g_idx"));
                return Ok(Some(Quantised { scheme: Scheme::PackQuantized, parts }));
            }
            if weight.dtype != DType::U8 {
                return Err(FormatError::Tensor {
                    path: self.path().to_owned(),
                    tensor: quoted(&weight.name),
                    rule: format!(
                        "is {}, and what is read is integers packed in I32 and 4-bit floats in U8",
                        weight.dtype
                    ),
                });
            }
            let scale = need("weight_scale")?;
            if is_exponents(scale) {
                return Ok(Some(Quantised { scheme: Scheme::Mxfp4, parts: vec![weight, scale] }));
            }
            let parts = vec![weight, scale, need("weight_global_scale")?];
            return Ok(Some(Quantised { scheme: Scheme::Nvfp4 { divides: true }, parts }));
        }
        let Some(weight) = find("weight") else { return Ok(None) };
        let (scheme, parts) = match weight.dtype {
            DType::F8_E4M3 => {
                let scale = find("weight_scale_inv").or_else(|| find("weight_scale"));
                let scale = scale.map_or_else(|| need("weight_scale_inv"), Ok)?;
                (Scheme::Fp8, vec![weight, scale])
            }
            DType::U8 => {
                let scale = need("weight_scale")?;
                if is_exponents(scale) {
                    (Scheme::Mxfp4, vec![weight, scale])
                } else {
                    (Scheme::Nvfp4 { divides: false }, vec![weight, scale, need("weight_scale_2")?])
                }
            }
            DType::I8 => {
                let mut parts = vec![weight, need("weight_scale")?];
                parts.extend(find("weight_g_idx"));
                (Scheme::IntQuantized, parts)
            }
            _ => return Ok(None),
        };
        Ok(Some(Quantised { scheme, parts }))
    }

    /// The fused matrices of all experts have no such ending.
    fn quantised_experts(&self, published: &str) -> Result<Option<Quantised<'_>>, FormatError> {
        let find = |part: &str| self.stored(&format!("{published}{part}"));
        let need = |part: &str| self.require_stored(&format!("{published}{part}"));
        if let Some(blocks) = find("_blocks") {
            return Ok(Some(Quantised { scheme: Scheme::Mxfp4, parts: vec![blocks, need("_scales")?] }));
        }
        for ([weight, scale, factor], divides) in FUSED_NVFP4 {
            if let Some(weight) = find(weight).filter(|weight| weight.dtype == DType::U8) {
                let parts = vec![weight, need(scale)?, need(factor)?];
                return Ok(Some(Quantised { scheme: Scheme::Nvfp4 { divides }, parts }));
            }
        }
        let Some(weight) = find("").filter(|weight| weight.dtype == DType::F8_E4M3) else { return Ok(None) };
        Ok(Some(Quantised { scheme: Scheme::Fp8, parts: vec![weight, need("_scale_inv")?] }))
    }
}

/// Endings of what fused matrices in NVFP4 are made of, and whether the factors divide: modelopt's, and two of compressed-tensors.
const FUSED_NVFP4: [([&str; 3], bool); 3] = [
    (["", "_weight_scale", "_weight_scale_2"], false),
    (["_packed", "_scale", "_global_scale"], true),
    ([".weight_packed", ".weight_scale", ".weight_global_scale"], true),
];

/// Whether scales are exponents of two (e8m0), which folders have as bytes or as floats without a fraction.
pub(crate) fn is_exponents(scale: &TensorInfo) -> bool {
    matches!(scale.dtype, DType::U8 | DType::F8_E8M0)
}

/// Ways of quantising whose tensors are read, as configurations name them, in small letters.
const METHODS: [&str; 7] = ["gptq", "awq", AUTO_ROUND, "modelopt", "compressed-tensors", FBGEMM, QUARK];
/// AutoRound, which writes the tensors of others and says whose.
const AUTO_ROUND: &str = "auto-round";
const QUARK: &str = "quark";
/// FP8 with a scale for each row.
const FBGEMM: &str = "fbgemm_fp8";
/// Those of modelopt, which has others that put more tensors beside a matrix (a scale of its inputs). Some are methods elsewhere, and
/// all where modelopt wrote a document of its own only.
const ALGORITHMS: [&str; 10] = [
    "fp8",
    "fp8_pb_wo",
    "fp8_per_channel_per_token",
    "nvfp4",
    "w4a16_nvfp4",
    "w4a8_nvfp4_fp8",
    "mxfp4",
    "w4a8_mxfp4_fp8",
    "mxfp8",
    "mixed_precision",
];

/// How AWQ packs integers, where it is not the usual way.
const OTHER_AWQ: [&str; 4] = ["gemv", "gemv_fast", "gemvfast", "marlin"];

/// The bits of a group that is MLX': it names no method, and nothing that others say.
fn bits_of_mlx(group: &Map<String, Value>) -> Option<&Value> {
    let others = ["quant_method", "quant_algo", "desc_act", "sym", "zero_point"];
    let is_mlx = group.contains_key("group_size") && others.iter().all(|key| !group.contains_key(*key));
    group.get("bits").filter(|_| is_mlx)
}

/// Adds what the parts of a matrix do not say of themselves. `source`: where the configuration is. `separate`: a document of
/// modelopt's own and where it is, which counts where the configuration is silent.
///
/// # Errors
/// A way of quantising, a width or a form that is not read.
pub(super) fn describe(
    metadata: &mut Metadata,
    source: &SourceFile,
    config: &Map<String, Value>,
    separate: Option<(&SourceFile, &Map<String, Value>)>,
) -> Result<(), FormatError> {
    let named = |key: &str| {
        let [whole, thinker, text] = super::config::levels(config);
        [whole, thinker, text].into_iter().find_map(|object| object.get(key).and_then(Value::as_object))
    };
    let group = named("quantization_config");
    if let Some(bits) = group.or_else(|| named("quantization")).and_then(bits_of_mlx) {
        let rule =
            "integers as MLX packs them are not read; take the model's own folder, or a GGUF file of it";
        return Err(super::config::refused(source, "quantization.bits", &bits.to_string(), rule));
    }
    let own = group.map(|group| (source, "quantization_config", group));
    let apart = || {
        let (source, object) = separate?;
        Some((source, "quantization", object.get("quantization")?.as_object()?))
    };
    let Some((source, place, group)) = own.or_else(apart) else { return Ok(()) };
    let mut method = ["quant_method", "quant_algo"].into_iter().find_map(|key| group.get(key)?.as_str());
    let refuse = |key: &str, rule: &str| {
        let found = group.get(key).map_or("absent".into(), Value::to_string);
        Err(super::config::refused(source, &format!("{place}.{key}"), &found, rule))
    };
    let is_one = |text: &str, known: &[&str]| known.contains(&text.to_ascii_lowercase().as_str());
    let name = method.map(str::to_ascii_lowercase);
    if name.as_deref().is_some_and(|name| name.strip_prefix("intel/").unwrap_or(name) == AUTO_ROUND) {
        match written_by_auto_round(group) {
            Ok((whose, form)) => {
                method = Some(whose);
                form.into_iter().for_each(|form| metadata.set(keys::GPTQ_FORM, form));
            }
            Err(key) => {
                let rule =
                    "of AutoRound integers are read as GPTQ and AWQ pack them, and mx_fp, nv_fp and fp8";
                return refuse(key, rule);
            }
        }
    }
    if let Some(method) = method {
        let key = if group.contains_key("quant_method") { "quant_method" } else { "quant_algo" };
        if !is_one(method, &METHODS) && !is_one(method, &ALGORITHMS) {
            let known = [&METHODS[..], &ALGORITHMS].concat().join(", ");
            return refuse(key, &format!("this build reads {known}"));
        }
        metadata.set(keys::QUANTISATION, method.to_ascii_lowercase());
    }
    for rotation in ["transform_config", "rotation_config", "spinquant_config", "hadamard_config"] {
        if group.get(rotation).is_some_and(|transforms| !is_nothing(transforms)) {
            return refuse(rotation, "rotations of activations are not computed here");
        }
    }
    if let Some(algorithm) = group.get("quant_algo").and_then(Value::as_str)
        && !is_one(algorithm, &ALGORITHMS)
    {
        return refuse("quant_algo", &format!("this build reads {}", ALGORITHMS.join(", ")));
    }
    if method.is_some_and(|method| is_one(method, &["gptq", "awq"])) {
        let bits = group.get("bits").map_or(Some(4), Value::as_u64);
        match bits {
            Some(4) => {}
            Some(2 | 3 | 8) if method.is_some_and(|method| is_one(method, &["gptq"])) => {}
            _ => return refuse("bits", "integers of 4 bits are read, and by GPTQ of 2, 3 and 8"),
        }
        let version = group.get("version").and_then(Value::as_str).unwrap_or_default();
        if is_one(version, &OTHER_AWQ) {
            return refuse("version", "integers of AWQ are read as \"gemm\" packs them");
        }
        if group.get("is_marlin_format").and_then(Value::as_bool) == Some(true) {
            return refuse("is_marlin_format", "integers are read as GPTQ packs them");
        }
        if group.get("sym").is_some_and(|flag| !flag.is_boolean()) {
            return refuse("sym", "it must be true or false");
        }
    }
    match group.get("checkpoint_format").filter(|form| !form.is_null()) {
        None => {}
        Some(Value::String(form)) if ["gptq", "gptq_v2", "gemm"].contains(&form.as_str()) => {
            metadata.set(keys::GPTQ_FORM, form.as_str());
        }
        Some(_) if method.is_some_and(|method| is_one(method, &["gptq", "awq"])) => {
            return refuse("checkpoint_format", "the forms gptq and gptq_v2 are read");
        }
        Some(_) => {}
    }
    let said = |of: &Map<String, Value>, key: &str| of.get(key).and_then(Value::as_bool);
    if let Some(symmetric) = said(group, "sym") {
        let all = exceptions(group).all(|own| said(own, "sym") != Some(false));
        metadata.set(keys::SYMMETRIC, symmetric && all);
    }
    if let Some(act_order) = said(group, "desc_act") {
        let any = exceptions(group).any(|own| said(own, "desc_act") == Some(true));
        metadata.set(keys::ACT_ORDER, act_order || any);
    }
    let (mut symmetries, mut widths, mut orders) = (Vec::new(), Vec::new(), Vec::new());
    for weights in group_weights(group).filter(|weights| weights["type"] == "int") {
        let (bits, symmetric) = (&weights["num_bits"], weights["symmetric"].as_bool());
        let refused = |key: &str, rule: &str| {
            let found = weights[key].to_string();
            let key = format!("{place}.config_groups.*.weights.{key}");
            Err(super::config::refused(source, &key, &found, rule))
        };
        match bits.as_u64() {
            Some(4) => {}
            Some(8) if symmetric == Some(false) => {
                return refused("symmetric", "integers of 8 bits are read without zero points only");
            }
            Some(8) => {}
            _ => return refused("num_bits", "integers of 4 bits are read, and symmetric ones of 8"),
        }
        widths.push(bits.as_u64());
        orders.push(has_act_order(&weights["actorder"]));
        symmetries.extend(symmetric);
    }
    if !orders.is_empty() && orders.iter().all(|&has_order| has_order) {
        metadata.set(keys::ACT_ORDER, true);
    }
    match [4, 8].map(|bits| widths.contains(&Some(bits))) {
        [false, true] => metadata.set(keys::BITS, 8_u32),
        [true, true] => metadata.set(keys::BITS, Array::U32(vec![4, 8])),
        [_, false] => {}
    }
    if let [first, ..] = symmetries[..]
        && symmetries.iter().all(|&symmetric| symmetric == first)
    {
        metadata.set(keys::SYMMETRIC, first);
    }
    let mut block = None;
    if let Some(sizes) = group.get("weight_block_size").filter(|sizes| !sizes.is_null()) {
        block = block_size(sizes);
        if block.is_none() {
            return refuse("weight_block_size", "it must be rows and columns of a block");
        }
    }
    for sizes in block_structures(group) {
        let found = block_size(sizes);
        if found.is_none() || block.is_some_and(|block| Some(block) != found) {
            let rule = "it must be rows and columns of a block, the same in all groups";
            let key = format!("{place}.config_groups.*.weights.block_structure");
            return Err(super::config::refused(source, &key, &sizes.to_string(), rule));
        }
        block = found;
    }
    if method.is_some_and(|method| is_one(method, &[QUARK])) {
        block = super::quark::block(source, group)?;
    }
    if let Some(block) = block {
        metadata.set(keys::BLOCK, Array::U32(block.to_vec()));
    }
    Ok(())
}

/// Whose tensors AutoRound wrote, and GPTQ's form if it is not the first: those of integers by their packing, those of floats say
/// themselves what they are. Error: the key of what is not read.
fn written_by_auto_round(
    group: &Map<String, Value>,
) -> Result<(&'static str, Option<&'static str>), &'static str> {
    fn text<'a>(of: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
        of.get(key).and_then(Value::as_str)
    }
    let all = text(group, "data_type").unwrap_or("int");
    let mut kinds = exceptions(group).filter_map(|own| text(own, "data_type")).chain([all]);
    // `mx_int` has the shapes of `mx_fp`. What stays as it was is `fp` or `float`.
    let floats = |kind: &str| {
        matches!(kind, "fp" | "float")
            || ["mx_fp", "nv_fp", "fp8"].iter().any(|known| kind.starts_with(known))
    };
    if kinds.clone().any(|kind| kind != "int" && !floats(kind)) {
        return Err("data_type");
    }
    if kinds.all(floats) {
        return Ok((AUTO_ROUND, None));
    }
    let key = if text(group, "packing_format").is_some() { "packing_format" } else { "backend" };
    match text(group, key) {
        // Its zero points are stored as they are.
        Some(packing) if packing.contains("gptqmodel") => Ok(("gptq", Some("gptq_v2"))),
        Some(packing) if packing.contains("awq") => Ok(("awq", None)),
        Some(packing) if !packing.contains("gptq") => Err(key),
        _ => Ok(("gptq", None)),
    }
}

/// What GPTQModel and AutoRound say of single matrices.
fn exceptions(group: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> + Clone {
    let of = ["dynamic", "extra_config"].into_iter().filter_map(|key| group.get(key)?.as_object());
    of.flat_map(Map::values).filter_map(Value::as_object)
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// What is said of the weights in the groups of a configuration of compressed-tensors.
fn group_weights(group: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let groups = group.get("config_groups").and_then(Value::as_object);
    groups.into_iter().flat_map(Map::values).filter_map(|group| group.get("weights"))
}

/// Whether compressed-tensors says by `actorder` that groups are not runs of columns. Its other order is one of calibration alone.
fn has_act_order(order: &Value) -> bool {
    let is = |text: &str, known: &str| text.eq_ignore_ascii_case(known);
    order == true || order.as_str().is_some_and(|text| is(text, "group") || is(text, "dynamic"))
}

/// The blocks of weights in these groups.
fn block_structures(group: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let weights = group_weights(group);
    weights.filter_map(|weights| weights.get("block_structure")).filter(|sizes| !sizes.is_null())
}

/// Rows and columns of a block: a list, or as early versions of compressed-tensors write it, `128x128`.
pub(super) fn block_size(value: &Value) -> Option<[u32; 2]> {
    let size = |value: &Value| value.as_u64().and_then(|size| u32::try_from(size).ok());
    let sizes: Option<Vec<u32>> = match value {
        Value::Array(sizes) => sizes.iter().map(size).collect(),
        Value::String(text) => text.split('x').map(|size| size.parse().ok()).collect(),
        _ => None,
    };
    let sizes: [u32; 2] = sizes?.try_into().ok()?;
    sizes.iter().all(|&size| size > 0).then_some(sizes)
}
