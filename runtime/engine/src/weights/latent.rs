//! The tensors of latent attention.

use membrane_kernels::recode::View;

use super::finder::Finder;
use super::stored::Stored;
use super::{LatentBlock, QueryWeights, Weight};
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
        let kv_rank = shape.kv_rank;
        let q = match shape.query_rank {
            Some(rank) => QueryWeights::Latent {
                down: self.weight(&name("attn_q_a"), rank, hidden)?,
                norm: self.vector(&name("attn_q_a_norm"), rank)?,
                up: self.weight(&name("attn_q_b"), shape.query_width(), rank)?,
            },
            None => QueryWeights::Whole(self.weight(&name("attn_q"), shape.query_width(), hidden)?),
        };
        let [absorb, values] = self.keys_and_values(index, shape)?;
        Ok(LatentBlock {
            shape: *shape,
            slot,
            rope,
            q,
            kv: self.weight(&name("attn_kv_a_mqa"), shape.key_width(), hidden)?,
            kv_norm: self.vector(&name("attn_kv_a_norm"), kv_rank)?,
            absorb,
            values,
            output: self.weight(&name("attn_output"), hidden, shape.mixed_width())?,
        })
    }

    /// What makes keys and values of latent vectors, the former transposed. Folders have both in one matrix, of each head the
    /// rows of its keys before those of its values, and so have GGUF files of before April 2025 and of Ollama's converter.
    fn keys_and_values(&mut self, index: usize, shape: &LatentAttention) -> Result<[Weight; 2]> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let LatentAttention { heads, kv_rank, plain_dim, value_dim, .. } = *shape;
        let (keys, both) = (name("attn_k_b"), name("attn_kv_b"));
        let in_one = self.checkpoint.holds(&both) && !self.checkpoint.holds(&keys);
        if self.checkpoint.published_name(&both).is_none() && !in_one {
            return Ok([
                self.stacked_weight(&keys, heads, kv_rank, plain_dim)?,
                self.stacked_weight(&name("attn_v_b"), heads, value_dim, kv_rank)?,
            ]);
        }
        let head_rows = plain_dim + value_dim;
        let absorb = View {
            stored: [heads * head_rows, kv_rank],
            first: 0,
            group_rows: kv_rank,
            group_step: head_rows * kv_rank,
            row_step: 1,
            col_step: kv_rank,
        };
        let values = View {
            first: plain_dim * kv_rank,
            group_rows: value_dim,
            row_step: kv_rank,
            col_step: 1,
            ..absorb
        };
        let absorb = Stored::view(self, &both, absorb, heads * kv_rank, plain_dim)?;
        let values = Stored::view(self, &both, values, heads * value_dim, kv_rank)?;
        Ok([
            self.resident(absorb, heads * kv_rank, plain_dim),
            self.resident(values, heads * value_dim, kv_rank),
        ])
    }
}
