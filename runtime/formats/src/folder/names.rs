//! Names of tensors in published folders, and what the numbers in them leave to be done.

use serde_json::{Map, Value};

use super::config::levels;
use super::heads::{self, Head};
use crate::error::{FormatError, quoted};
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::tensor::{TensorInfo, Values};

/// What stands before `embed_tokens`, `layers` and `norm`: of text models, and of the text part of others.
const PREFIXES: [&str; 4] = ["model.", "model.language_model.", "language_model.model.", "thinker.model."];
/// Names of the output head.
const HEADS: [&str; 4] = ["lm_head", "language_model.lm_head", "model.lm_head", "thinker.lm_head"];
/// How matrices end, quantised or not.
pub(super) const MATRICES: [&str; 3] = ["weight", "qweight", "weight_packed"];

/// Parts of a block: our name, the published one.
const PARTS: [(&str, &str); 32] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("post_attention_norm.weight", "post_attention_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_output.bias", "self_attn.o_proj.bias"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("attn_qkv.weight", "linear_attn.in_proj_qkv.weight"),
    ("attn_gate.weight", "linear_attn.in_proj_z.weight"),
    ("ssm_in.weight", "linear_attn.in_proj_qkvz.weight"),
    ("ssm_ba.weight", "linear_attn.in_proj_ba.weight"),
    ("ssm_beta.weight", "linear_attn.in_proj_b.weight"),
    ("ssm_alpha.weight", "linear_attn.in_proj_a.weight"),
    ("ssm_conv1d.weight", "linear_attn.conv1d.weight"),
    ("ssm_dt.bias", "linear_attn.dt_bias"),
    ("ssm_a", "linear_attn.A_log"),
    ("ssm_norm.weight", "linear_attn.norm.weight"),
    ("ssm_out.weight", "linear_attn.out_proj.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"),
    ("ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"),
    ("ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"),
    ("ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"),
    ("ffn_gate_inp.weight", "mlp.gate.weight"),
];

/// The same where a family has other names than most.
const GPT_OSS_PARTS: [(&str, &str); 5] = [
    ("attn_sinks.weight", "self_attn.sinks"),
    ("ffn_gate_inp.weight", "mlp.router.weight"),
    ("ffn_gate_inp.bias", "mlp.router.bias"),
    ("ffn_gate_up_exps.bias", "mlp.experts.gate_up_proj_bias"),
    ("ffn_down_exps.bias", "mlp.experts.down_proj_bias"),
];
const DEEPSEEK_PARTS: [(&str, &str); 10] = [
    ("attn_q_a.weight", "self_attn.q_a_proj.weight"),
    ("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight"),
    ("attn_q_b.weight", "self_attn.q_b_proj.weight"),
    ("attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight"),
    ("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"),
    ("attn_kv_b.weight", "self_attn.kv_b_proj.weight"),
    ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    ("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight"),
    ("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"),
    ("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight"),
];
const GEMMA_PARTS: [(&str, &str); 2] = [
    ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
    ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
];
const QWEN4_PARTS: [(&str, &str); 21] = [
    ("hc_attn_norm.weight", "attn_hyper_connection.hc_norm.weight"),
    ("hc_attn_down.weight", "attn_hyper_connection.input_mix_weight_down.weight"),
    ("hc_attn_up.weight", "attn_hyper_connection.input_mix_weight_up.weight"),
    ("hc_attn_inject.weight", "attn_hyper_connection.block_inject_weight.weight"),
    ("hc_ffn_norm.weight", "mlp_hyper_connection.hc_norm.weight"),
    ("hc_ffn_down.weight", "mlp_hyper_connection.input_mix_weight_down.weight"),
    ("hc_ffn_up.weight", "mlp_hyper_connection.input_mix_weight_up.weight"),
    ("hc_ffn_inject.weight", "mlp_hyper_connection.block_inject_weight.weight"),
    ("indexer.qk_proj.weight", "self_attn.indexer.index_qk_proj.weight"),
    ("indexer.q_norm.weight", "self_attn.indexer.q_layernorm.weight"),
    ("indexer.k_norm.weight", "self_attn.indexer.k_layernorm.weight"),
    ("ple_key.weight", "ple.key_proj.weight"),
    ("ple_value.weight", "ple.value_proj.weight"),
    ("ple_norm_key.weight", "ple.norm_key.weight"),
    ("ple_norm_query.weight", "ple.norm_query.weight"),
    ("ple_norm_conv.weight", "ple.norm_conv.weight"),
    ("ple_conv1d.weight", "ple.conv1d.weight"),
    ("ple_table.weight", "ple.ple_embedding.ngram_embedding.weight"),
    ("ple_layer_multipliers", "ple.ple_embedding.layer_multipliers"),
    ("ple_head_offsets", "ple.ple_embedding.ngram_heads_offsets"),
    ("ple_head_vocab_sizes", "ple.ple_embedding.ngram_heads_vocab_sizes"),
];
const MIXTRAL_PARTS: [(&str, &str); 1] = [("ffn_gate_inp.weight", "block_sparse_moe.gate.weight")];

/// Whose names a folder's tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Those that most have.
    Usual,
    Mixtral,
    GptOss,
    DeepSeek,
    Gemma,
    Qwen4,
    /// Those that most have, but for single experts: the matrix before the number, as modelopt takes Qwen3-VL apart.
    MatrixFirst,
}

impl Family {
    fn of(architecture: Option<&str>, tensors: &[TensorInfo]) -> Self {
        match architecture {
            Some("gpt-oss") => Self::GptOss,
            Some("deepseek2" | "glm4moe") => Self::DeepSeek,
            Some("gemma3") => Self::Gemma,
            Some("qwen4exp") => Self::Qwen4,
            _ => {
                let any = |part: &str| tensors.iter().any(|tensor| tensor.name.contains(part));
                if any(".block_sparse_moe.") {
                    Self::Mixtral
                } else if any(".mlp.experts.gate_proj.0.") {
                    Self::MatrixFirst
                } else {
                    Self::Usual
                }
            }
        }
    }

    fn own_parts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Usual | Self::MatrixFirst => &[],
            Self::Mixtral => &MIXTRAL_PARTS,
            Self::GptOss => &GPT_OSS_PARTS,
            Self::DeepSeek => &DEEPSEEK_PARTS,
            Self::Gemma => &GEMMA_PARTS,
            Self::Qwen4 => &QWEN4_PARTS,
        }
    }
}

/// The names of one folder's tensors.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: &'static str,
    /// None where the embedding is the head.
    head: Option<&'static str>,
    family: Family,
    /// The head for multi-token prediction.
    draft_head: Option<Head>,
}

impl Names {
    /// Looks how this folder names its tensors. Error: it has no embedding, or no output head although it says so.
    pub fn new(
        config: &SourceFile,
        object: &Map<String, Value>,
        metadata: &Metadata,
        tensors: &[TensorInfo],
    ) -> Result<Self, FormatError> {
        let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
        let missing =
            |name: &str| FormatError::TensorMissing { path: config.path.clone(), tensor: quoted(name) };
        let prefix = PREFIXES.into_iter().find(|prefix| has(&format!("{prefix}embed_tokens.weight")));
        let prefix = prefix.ok_or_else(|| missing("model.embed_tokens.weight"))?;
        let has_head = |head: &&str| MATRICES.iter().any(|kind| has(&format!("{head}.{kind}")));
        let said = levels(object).map(|level| level.get("tie_word_embeddings")?.as_bool());
        let mut said = said.into_iter().flatten();
        let tied = said.next().filter(|first| said.all(|other| other == *first));
        let head = match tied {
            Some(true) => None,
            Some(false) => Some(HEADS.into_iter().find(has_head).ok_or_else(|| missing("lm_head.weight"))?),
            // Tools write what they have not read; the file tells.
            None => HEADS.into_iter().find(has_head),
        };
        let architecture = metadata.str("general.architecture").unwrap_or_default();
        let draft_head = Head::of(metadata, tensors, prefix);
        Ok(Self { prefix, head, family: Family::of(architecture, tensors), draft_head })
    }

    /// The head for multi-token prediction.
    pub(super) fn draft_head(&self) -> Option<Head> {
        self.draft_head
    }

    /// The published name of what a GGUF file calls `name`. Error: names that nothing is published under stay as they are,
    /// for messages.
    pub fn published(&self, name: &str) -> Option<String> {
        let prefix = self.prefix;
        Some(match name {
            "token_embd.weight" => format!("{prefix}embed_tokens.weight"),
            "output_norm.weight" => format!("{prefix}norm.weight"),
            "output.weight" => format!("{}.weight", self.head?),
            _ if self.family == Family::Qwen4 && name.starts_with("output_hc_") => {
                let part = match name.strip_prefix("output_hc_")? {
                    "norm.weight" => "hc_norm.weight",
                    "down.weight" => "input_mix_weight_down.weight",
                    "up.weight" => "input_mix_weight_up.weight",
                    _ => return None,
                };
                format!("{prefix}hyper_connection_mixer.{part}")
            }
            _ => {
                let (block, part) = name.strip_prefix("blk.")?.split_once('.')?;
                let of_head =
                    self.draft_head.and_then(|head| head.published(block, part, prefix, self.part(part)));
                match of_head {
                    Some(name) => name,
                    None => format!("{prefix}layers.{block}.{}", self.part(part)?),
                }
            }
        })
    }

    fn part(&self, part: &str) -> Option<String> {
        let parts = self.family.own_parts().iter().chain(&PARTS);
        if let Some((_, published)) = parts.into_iter().find(|(ours, _)| *ours == part) {
            return Some((*published).to_owned());
        }
        match part {
            "ffn_gate_up_exps.weight" => return Some("mlp.experts.gate_up_proj".into()),
            "ffn_down_exps.weight" => return Some("mlp.experts.down_proj".into()),
            _ => {}
        }
        // ple_table.7.weight: rows of a table that is cut into parts.
        if let Some(number) = part.strip_prefix("ple_table.").filter(|_| self.family == Family::Qwen4) {
            let number: u32 = number.strip_suffix(".weight")?.parse().ok()?;
            return Some(format!("ple.ple_embedding.ngram_embedding.shard_{number}.weight"));
        }
        // ffn_gate.7.weight: one matrix of expert 7.
        let (matrix, expert) = part.strip_prefix("ffn_")?.strip_suffix(".weight")?.split_once('.')?;
        let expert: u32 = expert.parse().ok()?;
        let (dense, sparse) = match matrix {
            "gate" => ("gate_proj", "w1"),
            "up" => ("up_proj", "w3"),
            "down" => ("down_proj", "w2"),
            _ => return None,
        };
        Some(match self.family {
            Family::Mixtral => format!("block_sparse_moe.experts.{expert}.{sparse}.weight"),
            Family::MatrixFirst => format!("mlp.experts.{dense}.{expert}.weight"),
            _ => format!("mlp.experts.{expert}.{dense}.weight"),
        })
    }

    /// Says of each tensor what its numbers stand for.
    pub fn mark_values(&self, metadata: &Metadata, tensors: &mut [TensorInfo]) {
        let zero_centred = matches!(
            metadata.str("general.architecture"),
            Ok(Some("qwen3next" | "qwen35" | "qwen35moe" | "qwen4exp"))
        );
        for tensor in tensors {
            let own = tensor.name.strip_prefix(self.prefix).or_else(|| tensor.name.strip_prefix(heads::OWN));
            let Some(name) = own else { continue };
            if name.ends_with("linear_attn.A_log") {
                tensor.values = Values::MinusExp;
            } else if zero_centred && is_zero_centred(name)
                || self.family == Family::Gemma && name.ends_with("norm.weight")
            {
                tensor.values = Values::OnePlus;
            }
        }
    }
}

/// Whether the hybrids keep w of a norm by 1 + w: all but the norm behind a delta-net.
fn is_zero_centred(name: &str) -> bool {
    const NORMS: [&str; 12] = [
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "q_norm.weight",
        "k_norm.weight",
        "hc_norm.weight",
        "q_layernorm.weight",
        "k_layernorm.weight",
        "norm_key.weight",
        "norm_query.weight",
        "norm_conv.weight",
        "pre_fc_norm_embedding.weight",
        "pre_fc_norm_hidden.weight",
    ];
    name == "norm.weight" || NORMS.iter().any(|norm| name.ends_with(norm))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(family: Family) -> Names {
        Names { prefix: "model.language_model.", head: Some("lm_head"), family, draft_head: None }
    }

    #[test]
    fn our_names_lead_to_published_ones() {
        let found = |name: &str| names(Family::Usual).published(name).unwrap_or_default();
        assert_eq!(found("output.weight"), "lm_head.weight");
        assert_eq!(found("blk.3.attn_q.weight"), "model.language_model.layers.3.self_attn.q_proj.weight");
        assert_eq!(
            found("blk.12.ffn_down.511.weight"),
            "model.language_model.layers.12.mlp.experts.511.down_proj.weight"
        );
        assert_eq!(
            found("blk.0.ffn_gate_up_exps.weight"),
            "model.language_model.layers.0.mlp.experts.gate_up_proj"
        );
        for unknown in ["rope_freqs.weight", "blk.0.ffn_gate.x.weight", "blk.0.unheard_of", "blk."] {
            assert_eq!(found(unknown), "");
        }
        let mixtral = names(Family::Mixtral).published("blk.1.ffn_up.2.weight").unwrap();
        assert!(mixtral.ends_with("layers.1.block_sparse_moe.experts.2.w3.weight"));
        for (family, ours, published) in [
            (Family::GptOss, "attn_sinks.weight", "self_attn.sinks"),
            (Family::GptOss, "ffn_norm.weight", "post_attention_layernorm.weight"),
            (Family::DeepSeek, "attn_kv_b.weight", "self_attn.kv_b_proj.weight"),
            (Family::DeepSeek, "ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"),
            (Family::Qwen4, "hc_ffn_up.weight", "mlp_hyper_connection.input_mix_weight_up.weight"),
            (Family::Qwen4, "ple_table.511.weight", "ple.ple_embedding.ngram_embedding.shard_511.weight"),
            (Family::Gemma, "ffn_norm.weight", "pre_feedforward_layernorm.weight"),
            (Family::Gemma, "post_attention_norm.weight", "post_attention_layernorm.weight"),
            (Family::MatrixFirst, "ffn_down.17.weight", "mlp.experts.down_proj.17.weight"),
            (Family::MatrixFirst, "ffn_gate_inp.weight", "mlp.gate.weight"),
        ] {
            let found = names(family).published(&format!("blk.2.{ours}")).unwrap();
            assert_eq!(found, format!("model.language_model.layers.2.{published}"));
        }
    }

    #[test]
    fn a_delta_nets_own_norm_is_plain() {
        assert!(is_zero_centred("norm.weight") && is_zero_centred("layers.0.self_attn.q_norm.weight"));
        assert!(!is_zero_centred("layers.0.linear_attn.norm.weight"));
        assert!(is_zero_centred("hyper_connection_mixer.hc_norm.weight"));
    }
}
