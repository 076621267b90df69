//! Weights and scales that are no numbers: an error names the tensor and its file, at the latest when a pass has met them.

use half::{bf16, f16};
use membrane_engine::{LoadOptions, Precision, Prepared};

use crate::publish::{Published, Scheme};
use crate::source;

/// A change of a tensor's bytes.
type Change<'a> = &'a dyn Fn(&mut [u8]);

/// The error of a model whose tensor with this ending was changed, of loading it or of the first pass; in both precisions.
fn error_of(scheme: Option<Scheme>, ending: &str, change: &dyn Fn(&mut [u8])) -> [String; 2] {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    let mut model = scheme.map_or(published.clone(), |scheme| published.quantised(scheme).0);
    let (_, tensor) = model.tensors.iter_mut().find(|(name, _)| name.ends_with(ending)).unwrap();
    change(&mut tensor.bytes);
    model.write(root.path());
    [Precision::Fast, Precision::Reference].map(|precision| {
        let options =
            LoadOptions { precision, experts: Some(40), context: Some(64), ..LoadOptions::default() };
        let loaded = Prepared::open(root.path(), &options).and_then(|prepared| prepared.load(&mut |_, _| {}));
        let tokens: Vec<u32> = (0..48).map(|i| (i * 7919 + 13) % 1000).collect();
        let ran = loaded.and_then(|model| model.session().append(&tokens));
        ran.expect_err(ending).to_string()
    })
}

fn set(place: usize, bytes: [u8; 2]) -> impl Fn(&mut [u8]) {
    move |tensor| tensor[2 * place..2 * place + 2].copy_from_slice(&bytes)
}

#[test]
fn the_tensor_that_is_no_number_is_named() {
    let nan = set(5, bf16::NAN.to_le_bytes());
    let infinite = set(7, bf16::NEG_INFINITY.to_le_bytes());
    let all = |tensor: &mut [u8]| {
        tensor.chunks_mut(2).for_each(|two| two.copy_from_slice(&bf16::INFINITY.to_le_bytes()));
    };
    let single = |tensor: &mut [u8]| tensor[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let scale = set(3, f16::NAN.to_le_bytes());
    let float8 = |tensor: &mut [u8]| tensor[9] = 0x7F;
    let gptq = Scheme::Gptq { v2: false, symmetric: true, act_order: false };
    let cases: [(Option<Scheme>, &str, Change<'_>); 12] = [
        (None, "layers.0.input_layernorm.weight", &single),
        (None, "model.norm.weight", &single),
        (None, "layers.0.self_attn.q_proj.weight", &nan),
        (None, "layers.2.self_attn.o_proj.weight", &infinite),
        (None, "layers.1.mlp.gate.weight", &nan),
        (None, "layers.3.mlp.experts.7.down_proj.weight", &all),
        (None, "lm_head.weight", &nan),
        (None, "model.embed_tokens.weight", &all),
        (Some(gptq), "layers.0.self_attn.v_proj.scales", &scale),
        (Some(gptq), "layers.1.mlp.experts.3.up_proj.scales", &scale),
        (Some(Scheme::Fp8Blocks), "layers.0.self_attn.k_proj.weight", &float8),
        (Some(Scheme::Fp8Blocks), "layers.2.mlp.experts.5.gate_proj.weight", &float8),
    ];
    for (scheme, ending, change) in cases {
        // Of a matrix of several parts the first is named.
        let named = ending.replace(".scales", ".qweight");
        for error in error_of(scheme, ending, change) {
            for words in [&format!("{named}`")[..], "not finite", "model.safetensors", "model verify"] {
                assert!(error.contains(words), "{scheme:?} {ending}: {error}");
            }
        }
    }
}

#[test]
fn numbers_that_grow_beyond_all_bounds_are_told_by_their_layer() {
    let large = |tensor: &mut [u8]| {
        tensor.chunks_mut(2).for_each(|two| two.copy_from_slice(&bf16::from_f32(3e38).to_le_bytes()));
    };
    for error in error_of(None, "layers.2.self_attn.o_proj.weight", &large) {
        assert!(error.contains("layer 2") && error.contains("beyond"), "{error}");
    }
}

#[test]
fn an_expert_that_can_not_be_recoded_is_named_with_its_file() {
    let scheme = Scheme::Nvfp4 { compressed: false };
    let negative = |tensor: &mut [u8]| tensor[4] = 0xFF;
    for error in error_of(Some(scheme), "layers.1.mlp.experts.5.up_proj.weight_scale", &negative) {
        for words in ["layers.1.mlp.experts.5.up_proj.weight`", "model.safetensors", "negative or no number"]
        {
            assert!(error.contains(words), "{error}");
        }
    }
    for error in error_of(Some(scheme), "layers.1.self_attn.q_proj.weight_scale", &negative) {
        for words in ["layers.1.self_attn.q_proj.weight`", "model.safetensors", "negative or no number"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
