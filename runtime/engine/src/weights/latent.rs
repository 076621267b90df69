//! The tensors of latent attention.

use super::finder::Finder;
use super::{LatentBlock, QueryWeights};
use crate::error::Result;
use crate::hyper::LatentAttention;

impl Finder<'_> {
    pub(super) fn latent(
        &mut self,
        index: usize,
        slot: usize,
        rope: usize,
        hidden: usize,
        shape: &LatentAttention,
    ) -> Result<LatentBlock> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let LatentAttention { heads, kv_rank, plain_dim, value_dim, .. } = *shape;
        let q = match shape.query_rank {
            Some(rank) => QueryWeights::Latent {
                down: self.weight(&name("attn_q_a"), rank, hidden)?,
                norm: self.vector(&name("attn_q_a_norm"), rank)?,
                up: self.weight(&name("attn_q_b"), shape.query_width(), rank)?,
            },
            None => QueryWeights::Whole(self.weight(&name("attn_q"), shape.query_width(), hidden)?),
        };
        Ok(LatentBlock {
            shape: *shape,
            slot,
            rope,
            q,
            kv: self.weight(&name("attn_kv_a_mqa"), shape.key_width(), hidden)?,
            kv_norm: self.vector(&name("attn_kv_a_norm"), kv_rank)?,
            absorb: self.stacked_weight(&name("attn_k_b"), heads, kv_rank, plain_dim)?,
            values: self.stacked_weight(&name("attn_v_b"), heads, value_dim, kv_rank)?,
            output: self.weight(&name("attn_output"), hidden, shape.mixed_width())?,
        })
    }
}
