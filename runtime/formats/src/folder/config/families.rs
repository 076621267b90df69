//! What single families of models have in their configurations, and what is not computed here.

use super::Config;
use crate::error::FormatError;
use crate::keys;

/// What Gemma 3 has where a configuration is silent: our key, the published one, the number.
const GEMMA_COUNTS: [(&str, &str, u32); 6] = [
    ("attention.head_count", "num_attention_heads", 8),
    ("attention.head_count_kv", "num_key_value_heads", 4),
    ("attention.key_length", "head_dim", 256),
    ("attention.value_length", "head_dim", 256),
    ("attention.sliding_window", "sliding_window", 4096),
    ("context_length", "max_position_embeddings", 131_072),
];
/// The same of Ministral 3, whose configuration stands within that of a model that sees.
const MINISTRAL_COUNTS: [(&str, &str, u32); 5] = [
    ("attention.head_count", "num_attention_heads", 32),
    ("attention.head_count_kv", "num_key_value_heads", 8),
    ("attention.key_length", "head_dim", 128),
    ("attention.value_length", "head_dim", 128),
    ("context_length", "max_position_embeddings", 262_144),
];
/// The same of layers in front with one feed-forward, experts, how many of these compute, groups of them, and how many of those are chosen
/// from. Configurations within others are written without what their class has of itself.
const fn router_counts(
    [leading, experts, used, groups, chosen]: [u32; 5],
) -> [(&'static str, &'static str, u32); 6] {
    [
        ("leading_dense_block_count", "first_k_dense_replace", leading),
        ("expert_count", "n_routed_experts", experts),
        ("expert_used_count", "num_experts_per_tok", used),
        ("expert_shared_count", "n_shared_experts", 1),
        ("expert_group_count", "n_group", groups),
        ("expert_group_used_count", "topk_group", chosen),
    ]
}
/// DeepSeek-V3 and Kimi K2, GLM-4.5 and later, and GLM-4.7-Flash.
const DEEPSEEK_V3_COUNTS: [(&str, &str, u32); 6] = router_counts([3, 256, 8, 8, 4]);
const GLM_COUNTS: [(&str, &str, u32); 6] = router_counts([1, 128, 8, 1, 1]);
const GLM_LITE_COUNTS: [(&str, &str, u32); 6] = router_counts([1, 64, 4, 1, 1]);
/// By what their experts' outputs are multiplied.
const DEEPSEEK_V3_SCALE: f32 = 2.5;
const GLM_SCALE: f32 = 1.0;
const GLM_LITE_SCALE: f32 = 1.8;
/// Gemma 3's scores are divided by its root, where a configuration is silent.
const GEMMA_QUERY_SCALAR: f64 = 256.0;
/// Positions that Mistral's attention goes over where a configuration is silent; null is all of them.
const MISTRAL_WINDOW: u64 = 4096;
/// Classes whose layers slide from `max_window_layers` on, and that number where a configuration is silent.
const WINDOWED_FROM: [(&str, u64); 4] = [("qwen2", 28), ("qwen3", 28), ("qwen2_vl", 80), ("qwen2_5_vl", 80)];
/// The limit of gpt-oss' gated units.
const SWIGLU_LIMIT: f64 = 7.0;

impl Config<'_> {
    /// Reads what only this family has. Errors: what it is not computed with here. `kind`: its `model_type`.
    pub(super) fn family(&mut self, kind: &str) -> Result<(), FormatError> {
        match self.architecture.as_str() {
            "deepseek2" => self.deepseek(kind),
            "gemma3" => self.gemma3(),
            "glm4moe" => {
                self.expect_text("hidden_act", "silu")?;
                self.sigmoid_router(&GLM_COUNTS, GLM_SCALE)
            }
            "gpt-oss" => self.gpt_oss(),
            "mistral3" => {
                self.untold(&MINISTRAL_COUNTS);
                self.usual(kind)
            }
            "qwen4exp" => self.qwen4(kind),
            _ => self.usual(kind),
        }
    }

    pub(super) fn usual(&mut self, kind: &str) -> Result<(), FormatError> {
        self.expect_text("hidden_act", "silu")?;
        self.window(kind)?;
        if self.count("decoder_sparse_step")?.is_some_and(|step| step != 1) {
            return Err(self.refused("decoder_sparse_step", "only a mixture in every layer is computed here"));
        }
        let dense = match self.get("mlp_only_layers").map(|list| list.as_array()) {
            None => false,
            Some(Some(list)) => !list.is_empty(),
            Some(None) => return Err(self.refused("mlp_only_layers", "it must be a list of layers")),
        };
        if dense && self.get("num_experts").is_some() {
            return Err(self.refused("mlp_only_layers", "only a mixture in every layer is computed here"));
        }
        if self.flag("attn_output_gate")? == Some(false) {
            return Err(self.refused("attn_output_gate", "only gated attention is computed here"));
        }
        if let Some(biased) = self.flag("qkv_bias")? {
            self.set("attention.qkv_bias", biased);
        }
        // Where the configuration is silent, transformers does not normalise for these; for this one it always does.
        let silent = matches!(kind, "qwen2_moe" | "qwen3_moe").then_some(false);
        if kind == "qwen3_vl_moe" {
            self.expect_flag("norm_topk_prob", true)?;
        }
        if let Some(normalise) = self.flag("norm_topk_prob")?.or(silent) {
            self.set("expert_weights_norm", normalise);
        }
        Ok(())
    }

    /// Refuses a window that positions of the context may lie before.
    fn window(&self, kind: &str) -> Result<(), FormatError> {
        const KEY: &str = "sliding_window";
        let usual = matches!(kind, "ministral3" | "mistral" | "mixtral");
        let slides = self.flag("use_sliding_window")?.unwrap_or(usual);
        let silent = (kind == "mistral" && !self.text.contains_key(KEY)).then_some(MISTRAL_WINDOW);
        let Some(window) = self.count(KEY)?.or(silent).filter(|_| slides) else { return Ok(()) };
        // Of positions that are stretched there are more.
        let stretched = self.metadata.get(&format!("{}.rope.scaling.type", self.architecture)).is_some();
        let context = self.count("max_position_embeddings")?.filter(|_| !stretched);
        if context.is_some_and(|context| context <= window) || self.all_attend_fully(kind)? {
            return Ok(());
        }
        Err(self.refused(KEY, "attention over a window is not computed here"))
    }

    /// Whether no layer's attention goes over the window that is used: where kinds of layers are listed, those are full ones here, and
    /// otherwise layers slide from one on. Of the other classes every layer may, or others do.
    fn all_attend_fully(&self, kind: &str) -> Result<bool, FormatError> {
        let Some((_, usual)) = WINDOWED_FROM.iter().find(|(of, _)| *of == kind) else { return Ok(false) };
        if self.get("layer_types").is_some() {
            return Ok(true);
        }
        let first = self.count("max_window_layers")?.unwrap_or(*usual);
        Ok(self.count("num_hidden_layers")?.is_some_and(|layers| first >= layers))
    }

    /// DeepSeek-V2 and V3. A converter would say that all heads share one key.
    fn deepseek(&mut self, kind: &str) -> Result<(), FormatError> {
        self.expect_text("hidden_act", "silu")?;
        self.expect_flag("attention_bias", false)?;
        if self.count("moe_layer_freq")?.is_some_and(|step| step != 1) {
            let rule = "only a mixture in every layer behind first_k_dense_replace is computed here";
            return Err(self.refused("moe_layer_freq", rule));
        }
        let width = |key: &str| match self.count(key)? {
            Some(width) => Ok(width),
            None => Err(self.refused(key, "the architecture needs it")),
        };
        let (plain, rotated) = (width("qk_nope_head_dim")?, width("qk_rope_head_dim")?);
        let rank = width("kv_lora_rank")?;
        // Of two numbers below 2^32 each; the engine refuses what is too wide.
        let sum = |a: u64, b: u64| u32::try_from(a + b).unwrap_or(u32::MAX);
        self.set("attention.key_length_mla", sum(plain, rotated));
        self.set("attention.key_length", sum(rank, rotated));
        self.set("attention.value_length", sum(rank, 0));
        self.set("attention.head_count_kv", 1_u32);
        self.set(keys::ROPE_HALVES, self.flag("rope_interleave")? == Some(false));
        match kind {
            "deepseek_v2" => self.softmax_router(),
            "glm4_moe_lite" => {
                self.sigmoid_router(&GLM_LITE_COUNTS, GLM_LITE_SCALE)?;
                self.leading_dense()
            }
            _ => self.sigmoid_router(&DEEPSEEK_V3_COUNTS, DEEPSEEK_V3_SCALE),
        }
    }

    /// Layers in front with one feed-forward, where a configuration lists what each has.
    fn leading_dense(&mut self) -> Result<(), FormatError> {
        const KEY: &str = "mlp_layer_types";
        let Some(value) = self.get(KEY) else { return Ok(()) };
        let listed = value.as_array().map_or(&[][..], Vec::as_slice);
        let kinds: Vec<&str> = listed.iter().map(|kind| kind.as_str().unwrap_or_default()).collect();
        let dense = kinds.iter().take_while(|kind| **kind == "dense").count();
        let layers = self.count("num_hidden_layers")?.unwrap_or(0);
        if kinds.len() as u64 != layers || !kinds[dense..].iter().all(|kind| *kind == "sparse") {
            let rule = format!("of {layers} layers the first must be \"dense\" and the others \"sparse\"");
            return Err(self.refused(KEY, &rule));
        }
        self.set("leading_dense_block_count", dense as u32);
        Ok(())
    }

    /// By what the outputs of experts are multiplied. `silent`: where a configuration is.
    fn expert_scale(&mut self, silent: Option<f32>) -> Result<(), FormatError> {
        const KEY: &str = "routed_scaling_factor";
        let told = self.number(self.text, KEY)?.map(|scale| scale as f32);
        if let Some(scale) = told.or(silent.filter(|_| !self.text.contains_key(KEY))) {
            self.set("expert_weights_scale", scale);
        }
        Ok(())
    }

    /// The router of DeepSeek-V3. `counts`, `scale`: what a configuration may be silent about.
    fn sigmoid_router(&mut self, counts: &[(&str, &str, u32)], scale: f32) -> Result<(), FormatError> {
        self.expert_scale(Some(scale))?;
        self.expect_text("topk_method", "noaux_tc")?;
        self.expect_text("scoring_func", "sigmoid")?;
        for &(ours, published, number) in counts {
            let told = self.metadata.get(&format!("{}.{ours}", self.architecture)).is_some();
            if !told && !self.text.contains_key(published) {
                self.set(ours, number);
            }
        }
        self.set("expert_gating_func", 2_u32);
        self.set("expert_weights_norm", self.flag("norm_topk_prob")?.unwrap_or(true));
        Ok(())
    }

    /// The router of DeepSeek-V2, which chooses from the best groups only where `topk_method` says so.
    fn softmax_router(&mut self) -> Result<(), FormatError> {
        const METHOD: &str = "topk_method";
        self.expert_scale(None)?;
        self.expect_text("scoring_func", "softmax")?;
        self.expect_flag("norm_topk_prob", false)?;
        self.set("expert_gating_func", 1_u32);
        match self.get(METHOD).map_or(Some("greedy"), |name| name.as_str()) {
            Some("greedy") => self.set("expert_group_count", 1_u32),
            Some("group_limited_greedy") if self.count("n_group")?.is_some() => {}
            Some("group_limited_greedy") => return Err(self.refused("n_group", "topk_method needs it")),
            _ => {
                let rule = "only \"greedy\" and \"group_limited_greedy\" are computed here";
                return Err(self.refused(METHOD, rule));
            }
        }
        Ok(())
    }

    fn gpt_oss(&mut self) -> Result<(), FormatError> {
        self.expect_text("hidden_act", "silu")?;
        self.expect_flag("attention_bias", true)?;
        if self.number(self.text, "swiglu_limit")?.is_some_and(|limit| limit != SWIGLU_LIMIT) {
            return Err(self.refused("swiglu_limit", "only 7 is computed here"));
        }
        self.metadata.set(keys::ALTERNATING_EXPERTS, true);
        Ok(())
    }

    fn gemma3(&mut self) -> Result<(), FormatError> {
        for key in ["hidden_activation", "hidden_act"] {
            self.expect_text(key, "gelu_pytorch_tanh")?;
        }
        for key in ["attention_bias", "use_bidirectional_attention"] {
            self.expect_flag(key, false)?;
        }
        if self.number(self.text, "attn_logit_softcapping")?.is_some_and(|cap| cap != 0.0) {
            return Err(self.refused("attn_logit_softcapping", "this build does not cap scores"));
        }
        if let Some(cap) = self.number(self.text, "final_logit_softcapping")? {
            self.set("final_logit_softcapping", cap as f32);
        }
        self.untold(&GEMMA_COUNTS);
        let scalar = self.number(self.text, "query_pre_attn_scalar")?.unwrap_or(GEMMA_QUERY_SCALAR);
        if scalar <= 0.0 {
            return Err(self.refused("query_pre_attn_scalar", "it must be positive"));
        }
        self.set("attention.scale", scalar.sqrt().recip() as f32);
        Ok(())
    }

    /// Sets what a configuration is silent about: our key, the published one, the number.
    fn untold(&mut self, counts: &[(&str, &str, u32)]) {
        for &(ours, published, number) in counts {
            if self.get(published).is_none() {
                self.set(ours, number);
            }
        }
    }

    /// Refuses another text than the one that is computed with.
    fn expect_text(&self, key: &str, wanted: &str) -> Result<(), FormatError> {
        match self.get(key) {
            Some(name) if name.as_str() != Some(wanted) => {
                Err(self.refused(key, &format!("only \"{wanted}\" is computed here")))
            }
            _ => Ok(()),
        }
    }

    fn expect_flag(&self, key: &str, wanted: bool) -> Result<(), FormatError> {
        match self.flag(key)? {
            Some(flag) if flag != wanted => {
                Err(self.refused(key, &format!("only {wanted} is computed here")))
            }
            _ => Ok(()),
        }
    }
}
