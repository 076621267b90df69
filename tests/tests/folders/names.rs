//! Names that quantisers give to tensors of the same kind.

use membrane_engine::{LoadOptions, Prepared};
use serde_json::json;

use super::publish::{Published, Scheme};
use super::source;

/// What is added to the name says how inputs are quantised, which are kept as they are here.
#[test]
fn modelopt_has_several_names_for_the_same_tensors() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("model");
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
            model.write(&path);
            Prepared::open(&path, &LoadOptions::default()).unwrap();
        }
    }
}
