//! Qwen3.8-Flash-Next, the text part (Qwen team, 2026).
//!
//! The mixture of Qwen3.5 with three things more. Hyper-connections: a token has several residual streams, which every part of a
//! layer reads and writes by weights of its own; their norms stand in the place of all others outside of heads. Embeddings of
//! n-grams: a layer near the input adds rows of a table so large that it stays on disk. An indexer: attention goes over the blocks
//! of positions that it chooses. The output of a delta-net is gated by a sigmoid.

use membrane_formats::keys::SILU_OUTPUT_GATE;

use super::{ngrams, qwen35, sparse};
use crate::error::Result;
use crate::hyper::{DeltaNet, Gate, HyperConnections, Hyperparameters, Mixer};
use crate::keys::{Keys, MAX_WIDTH};

/// Most residual streams; published models have 4. With it no width of them overflows.
const MAX_STREAMS: u32 = 256;

/// The decoder of Qwen3.5, changed where this one differs.
pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    let decoder = qwen35::moe(keys)?;
    let connections = connections(keys)?;
    let mut layers = decoder.layers;
    let indexers = sparse::indexers(keys, &layers)?;
    for (layer, indexer) in layers.iter_mut().zip(indexers) {
        layer.mixer = match layer.mixer {
            Mixer::DeltaNet(delta_net) => {
                Mixer::DeltaNet(DeltaNet { output_gate: output_gate(keys)?, ..delta_net })
            }
            Mixer::Attention(mut attention) => {
                attention.indexer = indexer;
                Mixer::Attention(attention)
            }
            other => other,
        };
    }
    let ngrams = ngrams::layers(keys, layers.len(), decoder.vocabulary)?;
    // A head for multi-token prediction would need all residual streams.
    Ok(Hyperparameters { layers, connections: Some(connections), ngrams, draft_layer: None, ..decoder })
}

fn connections(keys: &Keys<'_>) -> Result<HyperConnections> {
    let streams = keys.count("hyper_connection.count", MAX_STREAMS)?;
    keys.rule("hyper_connection.count", streams, streams > 1, || "one stream has nothing to mix".into())?;
    Ok(HyperConnections { streams, rank: keys.count("hyper_connection.low_rank", MAX_WIDTH)? })
}

/// A folder may ask for another function than converted files have.
fn output_gate(keys: &Keys<'_>) -> Result<Gate> {
    Ok(if keys.flag(SILU_OUTPUT_GATE)?.unwrap_or(false) { Gate::Silu } else { Gate::Sigmoid })
}
