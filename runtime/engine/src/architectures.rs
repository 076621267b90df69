//! The architectures, each a description that reads like its paper.
//!
//! A description makes of a file's metadata the layers of a pre-norm decoder, each a mixer and a feed-forward, from the
//! shared blocks in `blocks.rs`; `weights/` finds their tensors and `forward.rs` runs them. A new architecture of known
//! blocks is a file like `qwen3next.rs` and a line in [`ALL`].

mod blocks;
mod deepseek2;
mod gemma3;
mod glm4moe;
mod gpt_oss;
mod llama;
mod ngrams;
mod qwen2;
mod qwen3;
mod qwen35;
mod qwen3next;
mod qwen4exp;
mod rotary;
mod sparse;

use membrane_formats::Checkpoint;

use crate::error::{EngineError, Result, shown};
use crate::hyper::Hyperparameters;
use crate::keys::Keys;

/// A family of models with one structure.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// The name in `general.architecture`, which also prefixes its metadata keys.
    pub name: &'static str,
    /// Makes the shape of a model of its metadata.
    pub(crate) describe: fn(&Keys<'_>) -> Result<Hyperparameters>,
}

/// Every architecture that this engine runs.
pub const ALL: [Architecture; 20] = [
    Architecture { name: "deepseek2", describe: deepseek2::describe },
    Architecture { name: "gemma3", describe: gemma3::describe },
    Architecture { name: "glm4moe", describe: glm4moe::describe },
    // What Ollama calls GLM-4.7-Flash.
    Architecture { name: "glm4moelite", describe: deepseek2::describe },
    Architecture { name: "gpt-oss", describe: gpt_oss::describe },
    // What Ollama calls it.
    Architecture { name: "gptoss", describe: gpt_oss::describe },
    Architecture { name: "llama", describe: llama::describe },
    // Mistral Small 3 and later.
    Architecture { name: "mistral3", describe: llama::describe },
    Architecture { name: "qwen2", describe: qwen2::dense },
    // What Ollama calls Qwen2.5-VL.
    Architecture { name: "qwen25vl", describe: qwen2::dense },
    Architecture { name: "qwen2moe", describe: qwen2::moe },
    Architecture { name: "qwen2vl", describe: qwen2::dense },
    Architecture { name: "qwen3", describe: qwen3::dense },
    Architecture { name: "qwen3moe", describe: qwen3::moe },
    Architecture { name: "qwen3next", describe: qwen3next::describe },
    Architecture { name: "qwen3vl", describe: qwen3::dense },
    Architecture { name: "qwen3vlmoe", describe: qwen3::moe },
    Architecture { name: "qwen35", describe: qwen35::dense },
    Architecture { name: "qwen35moe", describe: qwen35::moe },
    Architecture { name: "qwen4exp", describe: qwen4exp::describe },
];

impl Architecture {
    /// The architecture that a checkpoint names. Errors name it and those that are supported.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let found = checkpoint.metadata().str("general.architecture")?.unwrap_or("(none)");
        ALL.into_iter().find(|a| a.name == found).ok_or_else(|| EngineError::UnknownArchitecture {
            path: checkpoint.path().to_owned(),
            found: shown(found),
            supported: ALL.map(|a| a.name).join(", "),
        })
    }
}
