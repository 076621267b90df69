//! What Qwen3.8-Flash-Next has in its configuration beside what Qwen3.5 has.

use super::Config;
use crate::error::FormatError;
use crate::keys;
use crate::value::Array;

/// Integers that only have another name: our key, the published one, and the number where a configuration is silent.
pub(super) const COUNTS: [(&str, &str, Option<u32>); 9] = [
    ("hyper_connection.count", "hc_count", Some(4)),
    ("hyper_connection.low_rank", "hc_lowrank", Some(320)),
    ("attention.indexer.head_count", "indexer_n_heads", None),
    ("attention.indexer.key_length", "indexer_head_dim", None),
    ("attention.indexer.top_k", "indexer_budget", None),
    ("attention.compress_ratios", "indexer_compress_ratio", None),
    ("ple.ngram_size", "ngram_size", Some(3)),
    ("ple.heads_per_ngram", "heads_per_ngram", Some(8)),
    ("ple.conv_kernel", "ple_conv_kernel_size", Some(4)),
];
/// Published names of other keys.
pub(super) const OTHERS: [(&str, &str); 4] = [
    ("ple.layers", "ple_layer_ids"),
    ("ple.eos_token_id", "eos_token_id"),
    ("embedding_length_per_layer_input", "ple_embed_dim"),
    (keys::NGRAM_PARTS, PARTS),
];
const PARTS: &str = "split_ngram_parts";
/// Tensors of a table of n-grams where a configuration is silent.
const USUAL_PARTS: u32 = 512;

impl Config<'_> {
    pub(super) fn qwen4(&mut self, kind: &str) -> Result<(), FormatError> {
        self.usual(kind)?;
        for (ours, published, silent) in COUNTS {
            match self.count(published)?.map(|number| number as u32).or(silent) {
                Some(number) => self.set(ours, number),
                None => return Err(self.refused(published, "the architecture needs it")),
            }
        }
        if self.count("indexer_kv_heads")?.is_some_and(|heads| heads != 1) {
            return Err(self.refused("indexer_kv_heads", "only 1 is computed here"));
        }
        let gate = self.get("output_gate_type").map_or(Some("silu"), |name| name.as_str());
        match gate {
            Some("sigmoid") => {}
            Some("silu") => self.set(keys::SILU_OUTPUT_GATE, true),
            _ => {
                return Err(
                    self.refused("output_gate_type", "only \"sigmoid\" and \"silu\" are computed here")
                );
            }
        }
        self.ngrams()
    }

    /// Which layers add something for n-grams, and how.
    fn ngrams(&mut self) -> Result<(), FormatError> {
        const LAYERS: &str = "ple_layer_ids";
        let Some(listed) = self.get(LAYERS) else { return Ok(()) };
        // The first layer is 1.
        let index = |id: &serde_json::Value| u32::try_from(id.as_u64()?.checked_sub(1)?).ok();
        let layers: Option<Vec<u32>> = listed.as_array().and_then(|list| list.iter().map(index).collect());
        let mut layers =
            layers.ok_or_else(|| self.refused(LAYERS, "it must list layers, the first of them 1"))?;
        layers.sort_unstable();
        layers.dedup();
        if layers.is_empty() {
            return Ok(());
        }
        self.set("ple.layers", Array::U32(layers));
        self.set(keys::NGRAM_PARTS, self.count(PARTS)?.map_or(USUAL_PARTS, |parts| parts as u32));
        const SEPARATOR: &str = "eos_token_id";
        let token = self.get(SEPARATOR).map(|value| value.get(0).unwrap_or(value));
        let token = token.and_then(serde_json::Value::as_u64).and_then(|token| u32::try_from(token).ok());
        let token =
            token.ok_or_else(|| self.refused(SEPARATOR, "it must be a token, or a list of tokens"))?;
        self.set("ple.eos_token_id", token);
        const WIDTH: &str = "ple_embed_dim";
        let width = self.count(WIDTH)?.or(self.count("hidden_size")?).unwrap_or(0);
        // Of three numbers below 2^32, of which the last two are refused by the engine where they are large.
        let lengths = self.count("ngram_size")?.unwrap_or(3).saturating_sub(1);
        let heads = lengths.saturating_mul(self.count("heads_per_ngram")?.unwrap_or(8));
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(
                self.refused(WIDTH, &format!("it must be a multiple of the {heads} hashes of n-grams"))
            );
        }
        self.set("embedding_length_per_layer_input", (width / heads) as u32);
        Ok(())
    }
}
