//! What the configuration of a folder by AMD's Quark says of its matrices: floats have the parts that other programs write, and
//! their types alone do not tell them from what is not read.

use serde_json::{Map, Value};

use super::config;
use super::quantisation::block_size;
use crate::error::{FormatError, quoted};
use crate::source::SourceFile;

/// What weights are read.
const WEIGHTS: &str = "of Quark fp8_e4m3 is read per_tensor, per_channel of axis 0 and per_block; it and fp4 in groups of 32 columns with \
                       scales e8m0 (MXFP8, MXFP4); and fp4 in groups of 16 with scales fp8_e4m3 (NVFP4)";

/// Rows and columns that share a scale where the shapes of 8-bit floats leave it open. `source`: where the configuration is.
///
/// # Errors
/// The first thing that is not read.
pub(super) fn block(
    source: &SourceFile,
    group: &Map<String, Value>,
) -> Result<Option<[u32; 2]>, FormatError> {
    let refused = |key: &str, found: &str, rule: &str| {
        Err(config::refused(source, &format!("quantization_config.{key}"), found, rule))
    };
    let form = &group.get("export").unwrap_or(&Value::Null)["weight_format"];
    if !form.is_null() && form != "real_quantized" {
        return refused("export.weight_format", &form.to_string(), "real_quantized is read");
    }
    let algorithms = group.get("algo_config").unwrap_or(&Value::Null);
    let algorithms = algorithms.as_array().map_or(std::slice::from_ref(algorithms), Vec::as_slice);
    for algorithm in algorithms.iter().filter(|of| of["name"] == "rotation" || of["name"] == "quarot") {
        // Others are in the weights, or cancel out between queries and keys. What is not said of the fourth is that it is there.
        let online = &algorithm["online_r1_rotation"];
        for (key, rotates) in
            [("r4", algorithm["r4"] != false), ("online_r1_rotation", !online.is_null() && online != false)]
        {
            if rotates {
                let rule = "rotations of activations are not computed here";
                return refused(&format!("algo_config.{key}"), &algorithm[key].to_string(), rule);
            }
        }
    }
    let mut block = None;
    for (key, layer) in layers(group) {
        if !layer.is_object() && !layer.is_null() {
            return refused(&key, &layer.to_string(), "it must say what weights and inputs are");
        }
        let (weight, bias) = (&layer["weight"], &layer["bias"]);
        if !bias.is_null() {
            return refused(&format!("{key}.bias"), &brief(bias), "biases are read as floats only");
        }
        let rule = match form_of(weight) {
            Some(None) => continue,
            Some(own) if block.is_none() || block == own => {
                block = own;
                continue;
            }
            Some(_) => "blocks must be the same in all layers",
            None => WEIGHTS,
        };
        return refused(&format!("{key}.weight"), &brief(weight), rule);
    }
    Ok(block)
}

/// What is said of all layers, and of those of some names or types.
fn layers(group: &Map<String, Value>) -> impl Iterator<Item = (String, &Value)> {
    let all = group.get("global_quant_config").map(|layer| ("global_quant_config".to_owned(), layer));
    let some = ["layer_quant_config", "layer_type_quant_config"].into_iter().flat_map(|key| {
        let layers = group.get(key).and_then(Value::as_object);
        layers.into_iter().flatten().map(move |(name, layer)| (format!("{key}.{}", quoted(name)), layer))
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
    let by_floats = weight["scale_format"].is_null() || weight["scale_format"] == "float32";
    match (weight["dtype"].as_str()?, weight["qscheme"].as_str()?) {
        ("fp4" | "fp8_e4m3", "per_group") => {
            let is_mx = by_exponents && weight["group_size"] == 32 && is_along_columns(weight);
            is_mx.then_some(None)
        }
        ("fp8_e4m3", "per_tensor") if by_floats => Some(None),
        ("fp8_e4m3", "per_channel") if by_floats && *axis(weight) == 0 => Some(None),
        ("fp8_e4m3", "per_block") if by_floats => Some(Some(block_size(&weight["block_size"])?)),
        _ => None,
    }
}

/// The dimension that scales follow, by the name that it has had since 1.0 or before.
fn axis(weight: &Value) -> &Value {
    weight.get("ch_axis").unwrap_or(&weight["axis"])
}

fn is_along_columns(weight: &Value) -> bool {
    *axis(weight) == -1 || *axis(weight) == 1
}

/// What tells forms of weights apart.
fn brief(weight: &Value) -> String {
    const TELLING: [&str; 6] =
        ["dtype", "qscheme", "group_size", "block_size", "scale_format", "is_scale_quant"];
    if let Some(stages @ [_, ..]) = weight.as_array().map(Vec::as_slice) {
        return stages.iter().map(brief).collect::<Vec<_>>().join("; ");
    }
    let telling = TELLING.iter().map(|key| (*key, &weight[*key])).chain([("ch_axis", axis(weight))]);
    let telling = telling.filter(|(_, value)| !value.is_null());
    let said: Vec<String> = telling.map(|(key, value)| format!("{key} {value}").replace('"', "")).collect();
    if said.is_empty() { weight.to_string() } else { said.join(", ") }
}
