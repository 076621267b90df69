//! What ways of quantising take in memory, and what they are called.

use std::path::PathBuf;

use membrane_engine::{LoadOptions, Prepared};
use serde_json::json;

use crate::publish::{Published, Scheme};
use crate::source;

/// What is added to the name says how inputs are quantised, which are kept as they are here.
#[test]
fn modelopt_has_several_names_for_the_same_tensors() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    for (scheme, names) in [
        (Scheme::Nvfp4Of32, &["NVFP4", "W4A16_NVFP4", "W4A8_NVFP4_FP8"][..]),
        (Scheme::Mx { bits: 4, compressed: false }, &["mxfp4", "W4A8_MXFP4_FP8"]),
        (Scheme::Mx { bits: 8, compressed: false }, &["MXFP8"]),
        (Scheme::Fp8Tensor, &["FP8"]),
    ] {
        let mut model = published.quantised(scheme).0;
        for name in names {
            model.config["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": name});
            model.write(root.path());
            Prepared::open(root.path(), &LoadOptions::default()).unwrap();
        }
    }
}

/// Quantised matrices are as small in memory as they are in the files, whatever the order of their groups.
pub fn quantised_in_memory(scheme: Scheme, [quantised, twin]: &[PathBuf; 2]) {
    let slot = |path: &PathBuf| {
        let prepared = Prepared::open(path, &LoadOptions::default()).unwrap();
        prepared.plan().expert_slot.0 as f64
    };
    let share = slot(quantised) / slot(twin);
    let most = match scheme {
        // Narrow matrices of NVFP4 become BF16.
        Scheme::Fp8Blocks | Scheme::Fp8Tensor | Scheme::Fp8Modelopt { .. } => 0.35,
        Scheme::Nvfp4 { .. } | Scheme::Nvfp4Of32 => 0.35,
        Scheme::Gptq8 { .. } | Scheme::Int8 { .. } | Scheme::Mx { bits: 8, .. } => 0.35,
        Scheme::Gptq { .. }
        | Scheme::GptqFewBits { .. }
        | Scheme::Awq
        | Scheme::PackQuantized { .. }
        | Scheme::Mx { .. } => 0.25,
    };
    assert!(share < most, "{scheme:?}: an expert takes {share} of what it takes in F32");
}
