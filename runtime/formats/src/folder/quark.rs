//! What the configuration of a folder by AMD's Quark says of its matrices: floats have the parts that other programs write, and
//! their types alone do not tell them from what is not read.

use serde_json::{Map, Value};

use super::quantisation::block_size;

/// Something that is not read.
pub(super) struct Refusal {
    /// Below `quantization_config`.
    pub key: String,
    /// What it is.
    pub found: String,
    /// What would be read.
    pub rule: &'static str,
}

impl Refusal {
    fn of(key: String, found: impl ToString, rule: &'static str) -> Self {
        Self { key, found: found.to_string(), rule }
    }
}

const WEIGHTS: &str = "of Quark fp8_e4m3 is read (per_tensor, per_channel of axis 0, per_block, and per_group along columns), fp4 in groups \
                       of 32 with scales e8m0 (MXFP4), and fp4 in groups of 16 with scales fp8_e4m3 (NVFP4)";

/// Rows and columns that share a scale where the shapes of 8-bit floats leave it open. Error: the first thing that is not read.
pub(super) fn block(group: &Map<String, Value>) -> Result<Option<[u32; 2]>, Refusal> {
    let form = &group.get("export").unwrap_or(&Value::Null)["weight_format"];
    if form.as_str().is_some_and(|form| form != "real_quantized") {
        return Err(Refusal::of("export.weight_format".into(), form, "real_quantized is read"));
    }
    let algorithms = group.get("algo_config").unwrap_or(&Value::Null);
    let algorithms = algorithms.as_array().map_or(std::slice::from_ref(algorithms), Vec::as_slice);
    for algorithm in algorithms.iter().filter(|algorithm| algorithm["name"] == "rotation") {
        // Others are in the weights, or cancel out between queries and keys.
        for rotation in ["r4", "online_r1_rotation"] {
            if !matches!(algorithm[rotation], Value::Null | Value::Bool(false)) {
                let rule = "rotations of activations are not computed here";
                return Err(Refusal::of(format!("algo_config.{rotation}"), &algorithm[rotation], rule));
            }
        }
    }
    let mut block = None;
    for (key, layer) in layers(group) {
        if !layer["bias"].is_null() {
            return Err(Refusal::of(format!("{key}.bias"), &layer["bias"], "biases are read as floats only"));
        }
        let weight = &layer["weight"];
        let refused = |rule| Err(Refusal::of(format!("{key}.weight"), brief(weight), rule));
        match form_of(weight) {
            Some(None) => {}
            Some(own) if block.is_none() || block == own => block = own,
            Some(_) => return refused("blocks must be the same in all layers"),
            None => return refused(WEIGHTS),
        }
    }
    Ok(block)
}

/// What is said of all layers, and of those of some names or types.
fn layers(group: &Map<String, Value>) -> impl Iterator<Item = (String, &Value)> {
    let all = group.get("global_quant_config").map(|layer| ("global_quant_config".to_owned(), layer));
    let some = ["layer_quant_config", "layer_type_quant_config"].into_iter().flat_map(|key| {
        let layers = group.get(key).and_then(Value::as_object);
        layers.into_iter().flatten().map(move |(name, layer)| (format!("{key}.{name}"), layer))
    });
    all.into_iter().chain(some)
}

/// The block that shapes leave open, if there is one, of weights that are read; `None` for others.
fn form_of(weight: &Value) -> Option<Option<[u32; 2]>> {
    if weight.is_null() {
        return Some(None);
    }
    if let Some([numbers, scales]) = weight.as_array().map(Vec::as_slice) {
        let is_nvfp4 = numbers["dtype"] == "fp4"
            && numbers["qscheme"] == "per_group"
            && numbers["group_size"] == 16
            && is_along_columns(numbers)
            && scales["dtype"] == "fp8_e4m3"
            && scales["qscheme"] == "per_tensor"
            && scales["is_scale_quant"] == true;
        return is_nvfp4.then_some(None);
    }
    let by_exponents = weight["scale_format"] == "e8m0";
    match (weight["dtype"].as_str()?, weight["qscheme"].as_str()?) {
        ("fp4", "per_group") => {
            let is_mxfp4 = by_exponents && weight["group_size"] == 32 && is_along_columns(weight);
            is_mxfp4.then_some(None)
        }
        ("fp8_e4m3", "per_group") if is_along_columns(weight) => {
            let columns =
                u32::try_from(weight["group_size"].as_u64()?).ok().filter(|&columns| columns > 0)?;
            match by_exponents {
                true => (columns == 32).then_some(None),
                false => Some(Some([1, columns])),
            }
        }
        ("fp8_e4m3", "per_tensor") if !by_exponents => Some(None),
        ("fp8_e4m3", "per_channel") if !by_exponents && weight["ch_axis"] == 0 => Some(None),
        ("fp8_e4m3", "per_block") if !by_exponents => Some(Some(block_size(&weight["block_size"])?)),
        _ => None,
    }
}

fn is_along_columns(weight: &Value) -> bool {
    weight["ch_axis"] == -1 || weight["ch_axis"] == 1
}

/// What tells forms of weights apart.
fn brief(weight: &Value) -> String {
    const TELLING: [&str; 7] =
        ["dtype", "qscheme", "group_size", "block_size", "scale_format", "ch_axis", "is_scale_quant"];
    if let Some(all) = weight.as_array() {
        return all.iter().map(brief).collect::<Vec<_>>().join("; ");
    }
    let telling = TELLING.iter().filter(|key| !weight[**key].is_null());
    telling.map(|key| format!("{key}={}", weight[*key]).replace('"', "")).collect::<Vec<_>>().join(" ")
}
