//! Heads for multi-token prediction: GGUF files count their blocks with the layers, published folders beside them.

use crate::metadata::Metadata;
use crate::tensor::TensorInfo;

/// How the names of a head's tensors begin where they have a place of their own.
pub(super) const OWN: &str = "mtp.";

/// Whose names a head has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Those of Qwen3-Next and later: `mtp.fc`, `mtp.layers.0`, and so on.
    Own,
    /// Those of DeepSeek-V3 and GLM: a further layer, and beside its parts `eh_proj`, `enorm`, and so on.
    FurtherLayer,
}

/// The first head of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    kind: Kind,
    /// The number of its block, behind those of all layers.
    block: u32,
}

impl Head {
    /// The head that a folder has the weights of, if any. `prefix`: what the names of layers begin with.
    pub fn of(metadata: &Metadata, tensors: &[TensorInfo], prefix: &str) -> Option<Self> {
        let architecture = metadata.str("general.architecture").ok()??;
        let block = metadata.u32(&format!("{architecture}.block_count")).ok()??;
        let has = |begin: &str| tensors.iter().any(|tensor| tensor.name.starts_with(begin));
        let (kind, begin) = match architecture {
            "qwen3next" | "qwen35" | "qwen35moe" => (Kind::Own, format!("{OWN}fc.")),
            "deepseek2" | "glm4moe" => (Kind::FurtherLayer, format!("{prefix}layers.{block}.eh_proj.")),
            _ => return None,
        };
        has(&begin).then_some(Self { kind, block })
    }

    /// Counts its block as a GGUF file does.
    pub fn describe(&self, metadata: &mut Metadata) {
        let Ok(Some(architecture)) = metadata.str("general.architecture").map(|name| name.map(str::to_owned))
        else {
            return;
        };
        if let Some(count) = self.block.checked_add(1) {
            metadata.set(&format!("{architecture}.block_count"), count);
            metadata.set(&format!("{architecture}.nextn_predict_layers"), 1_u32);
        }
    }

    /// The published name of a part of block `block`, if it is the head's. `layer`: that of a part that layers have, too.
    pub fn published(&self, block: &str, part: &str, prefix: &str, layer: Option<String>) -> Option<String> {
        if block.parse() != Ok(self.block) {
            return None;
        }
        let begin = match self.kind {
            Kind::Own => OWN.to_owned(),
            Kind::FurtherLayer => format!("{prefix}layers.{}.", self.block),
        };
        let own = match (self.kind, part) {
            (Kind::Own, "nextn.eh_proj.weight") => "fc.weight",
            (Kind::Own, "nextn.enorm.weight") => "pre_fc_norm_embedding.weight",
            (Kind::Own, "nextn.hnorm.weight") => "pre_fc_norm_hidden.weight",
            (Kind::Own, "nextn.shared_head_norm.weight") => "norm.weight",
            (Kind::FurtherLayer, "nextn.eh_proj.weight") => "eh_proj.weight",
            (Kind::FurtherLayer, "nextn.enorm.weight") => "enorm.weight",
            (Kind::FurtherLayer, "nextn.hnorm.weight") => "hnorm.weight",
            (Kind::FurtherLayer, "nextn.shared_head_norm.weight") => "shared_head.norm.weight",
            (Kind::Own, _) => return layer.map(|part| format!("{begin}layers.0.{part}")),
            (Kind::FurtherLayer, _) => return layer.map(|part| format!("{begin}{part}")),
        };
        Some(begin + own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(architecture: &str, blocks: u32) -> Metadata {
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", architecture);
        metadata.set(&format!("{architecture}.block_count"), blocks);
        metadata
    }

    #[test]
    fn parts_of_a_head_have_their_published_names() {
        let name = |kind, part: &str, layer: Option<&str>| {
            let head = Head { kind, block: 48 };
            assert_eq!(head.published("47", part, "model.", layer.map(str::to_owned)), None);
            head.published("48", part, "model.", layer.map(str::to_owned)).unwrap_or_default()
        };
        for (part, own, further) in [
            ("nextn.eh_proj.weight", "mtp.fc.weight", "model.layers.48.eh_proj.weight"),
            ("nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight", "model.layers.48.enorm.weight"),
            ("nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight", "model.layers.48.hnorm.weight"),
            ("nextn.shared_head_norm.weight", "mtp.norm.weight", "model.layers.48.shared_head.norm.weight"),
            ("nextn.unheard_of", "", ""),
        ] {
            assert_eq!(
                (&*name(Kind::Own, part, None), &*name(Kind::FurtherLayer, part, None)),
                (own, further)
            );
        }
        let layer = Some("self_attn.o_proj.weight");
        assert_eq!(name(Kind::Own, "attn_output.weight", layer), "mtp.layers.0.self_attn.o_proj.weight");
        assert_eq!(
            name(Kind::FurtherLayer, "attn_output.weight", layer),
            "model.layers.48.self_attn.o_proj.weight"
        );
    }

    #[test]
    fn a_head_is_counted_with_the_layers() {
        for architecture in ["qwen3next", "qwen35", "qwen35moe", "deepseek2"] {
            let mut described = metadata(architecture, 48);
            Head { kind: Kind::Own, block: 48 }.describe(&mut described);
            let count = |key: &str| described.u32(&format!("{architecture}.{key}")).unwrap();
            assert_eq!((count("block_count"), count("nextn_predict_layers")), (Some(49), Some(1)));
            assert_eq!(Head::of(&described, &[], "model."), None, "without its weights there is none");
        }
        let mut most = metadata("qwen35", u32::MAX);
        Head { kind: Kind::Own, block: u32::MAX }.describe(&mut most);
        assert_eq!(most.u32("qwen35.nextn_predict_layers").unwrap(), None);
    }
}
