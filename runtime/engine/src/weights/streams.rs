//! What a block reads: one residual stream through a norm, or several mixed. And the tensors of an indexer.

use super::Weight;
use super::finder::Finder;
use crate::error::Result;
use crate::hyper::{Hyperparameters, Indexer};

/// What makes a block's input of the residual streams.
#[derive(Debug)]
pub(crate) enum InputNorm {
    /// The RMS norm of the only one: [hidden].
    Rms(Vec<f32>),
    /// A gated mean of several.
    Streams(Box<StreamMixer>),
}

/// The mean of several streams that a block reads, and the shares by which it adds to each.
#[derive(Debug)]
pub(crate) struct StreamMixer {
    pub norm: Vec<f32>, // [streams, hidden]
    pub down: Weight,   // [rank, streams * hidden]
    pub up: Weight,     // [streams * hidden, rank]
    /// [streams, streams * hidden]; none where nothing is added, in front of the output head.
    pub inject: Option<Weight>,
}

/// The matrices of an indexer's queries [heads * dim, hidden] and keys [dim, hidden].
#[derive(Debug)]
pub(crate) enum IndexWeights {
    Apart { q: Weight, k: Weight },
    Joined(Weight), // [(heads + 1) * dim, hidden], the queries first
}

/// The indexer of a block's sparse attention.
#[derive(Debug)]
pub(crate) struct IndexBlock {
    pub weights: IndexWeights,
    pub q_norm: Vec<f32>, // [dim]
    pub k_norm: Vec<f32>, // [dim]
}

impl Finder<'_> {
    /// What makes a block's input: the norm `norm`, or the tensors of hyper-connections that begin with `mixer`. `adds`: whether
    /// the block adds to the streams.
    pub(super) fn input_norm(
        &mut self,
        hyper: &Hyperparameters,
        norm: &str,
        mixer: &str,
        adds: bool,
    ) -> Result<InputNorm> {
        let Some(connections) = hyper.connections else {
            return Ok(InputNorm::Rms(self.vector(&format!("{norm}.weight"), hyper.hidden)?));
        };
        let (width, rank) = (hyper.stream_width(), connections.rank);
        let name = |part: &str| format!("{mixer}_{part}.weight");
        Ok(InputNorm::Streams(Box::new(StreamMixer {
            norm: self.vector(&name("norm"), width)?,
            down: self.weight(&name("down"), rank, width)?,
            up: self.weight(&name("up"), width, rank)?,
            inject: match adds {
                true => Some(self.weight(&name("inject"), connections.streams, width)?),
                false => None,
            },
        })))
    }

    /// Folders have queries and key in one matrix, the queries first.
    pub(super) fn index_block(
        &mut self,
        index: usize,
        hidden: usize,
        indexer: &Indexer,
    ) -> Result<IndexBlock> {
        let name = |part: &str| format!("blk.{index}.indexer.{part}.weight");
        let (queries, dim) = (indexer.heads * indexer.dim, indexer.dim);
        let both = name("qk_proj");
        let weights = match self.checkpoint.published_name(&both) {
            Some(_) => IndexWeights::Joined(self.weight(&both, queries + dim, hidden)?),
            None => IndexWeights::Apart {
                q: self.weight(&name("q_proj"), queries, hidden)?,
                k: self.weight(&name("k_proj"), dim, hidden)?,
            },
        };
        let (q_norm, k_norm) = (self.vector(&name("q_norm"), dim)?, self.vector(&name("k_norm"), dim)?);
        Ok(IndexBlock { weights, q_norm, k_norm })
    }
}
