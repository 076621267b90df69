//! The activations of one prefill chunk, allocated once.

mod floats;
mod sparse;
mod streams;

use membrane_kernels::{Activations, AttentionScratch, kept_input_bytes};

pub(crate) use floats::Floats;
use sparse::SparseShape;
pub(crate) use sparse::{SparseScratch, part_positions};
use streams::StreamShape;
pub(crate) use streams::{STREAM_ROWS, StreamScratch};

use crate::hyper::{Attention, DeltaShape, Hyperparameters, LatentAttention, Moe, Projections};
use crate::stages::StageClock;

/// Most rows of logits that are computed at a time.
const LOGIT_ROWS: usize = 16;
/// Most rows that go through latent attention at a time: a query over latent vectors is several times as wide as a query.
pub(crate) const LATENT_ROWS: usize = 64;

/// How large the buffers of a chunk must be, in rows and columns: each as large as the layer asks for that needs most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScratchShape {
    chunk: usize,
    hidden: usize,
    /// Query heads.
    heads: usize,
    /// Widest head that attention goes over.
    head_dim: usize,
    joined: usize,
    query: usize,
    key: usize,
    value: usize,
    gate: usize,
    decays: usize,
    mixed: usize,
    /// Widest input of a matrix beside the hidden width and `mixed`.
    input: usize,
    inner: usize,
    /// Rows of a feed-forward: one a token, or one for each expert that a token uses.
    ffn_rows: usize,
    experts: usize,
    /// Widest bias of an expert.
    expert_bias: usize,
    vocabulary: usize,
    latent: LatentShape,
    streams: StreamShape,
    sparse: SparseShape,
    /// Width of what the head that drafts tokens keeps of the model; 0 without one.
    draft: usize,
    /// Matrices have orders of their columns, in which inputs need room once more.
    ordered: bool,
}

/// The same for latent attention, all 0 where there is none.
#[derive(Debug, Clone, Copy)]
struct LatentShape {
    rows: usize,
    heads: usize,
    queries: usize,
    /// Widest part of a head that goes through a matrix of its own.
    part: usize,
    mixed: usize,
}

impl LatentShape {
    fn new(hyper: &Hyperparameters, chunk: usize) -> Self {
        let most = |of: fn(&LatentAttention) -> usize| hyper.latents().map(of).max().unwrap_or(0);
        Self {
            rows: chunk.min(LATENT_ROWS),
            heads: most(|latent| latent.heads),
            queries: most(|latent| latent.heads * latent.key_width()),
            part: most(|latent| latent.kv_rank.max(latent.plain_dim).max(latent.value_dim)),
            mixed: most(|latent| latent.heads * latent.kv_rank),
        }
    }

    /// Elements of the buffers.
    fn floats(&self) -> usize {
        self.rows * (self.queries + self.heads * self.part + self.mixed + self.heads)
    }
}

impl ScratchShape {
    /// `ordered`: some matrix has an order of its columns.
    pub fn new(hyper: &Hyperparameters, chunk: usize, ordered: bool) -> Self {
        let most_dense = hyper.dense().max().unwrap_or(0);
        let attention = |of: fn(&Attention) -> usize| hyper.attentions().map(of).max().unwrap_or(0);
        let gated = |of: fn(&Attention) -> usize| {
            hyper.attentions().filter(|attention| attention.gated).map(of).max().unwrap_or(0)
        };
        let delta = |of: fn(&DeltaShape) -> usize| {
            hyper.delta_nets().map(|delta_net| of(&delta_net.shape)).max().unwrap_or(0)
        };
        let by_key_head = hyper.delta_nets().filter(|net| net.inputs == Projections::ByKeyHead);
        let fused = by_key_head.map(|net| net.shape.channels() + net.shape.value_width()).max().unwrap_or(0);
        let moe = |of: fn(&Moe) -> usize| hyper.moes().map(of).max().unwrap_or(0);
        let latent = |of: fn(&LatentAttention) -> usize| hyper.latents().map(of).max().unwrap_or(0);
        let query_rank = latent(|latent| latent.query_rank.unwrap_or(0));
        Self {
            chunk,
            hidden: hyper.hidden,
            heads: attention(|a| a.heads).max(latent(|l| l.heads)),
            head_dim: attention(|a| a.head_dim.max(a.value_dim)).max(latent(LatentAttention::key_width)),
            joined: gated(|a| 2 * a.query_width())
                .max(delta(DeltaShape::channels))
                .max(hyper.indexers().map(|indexer| 2 * (indexer.heads + 1) * indexer.dim).max().unwrap_or(0))
                .max(latent(LatentAttention::query_width)),
            query: attention(Attention::query_width)
                .max(delta(DeltaShape::channels))
                .max(fused)
                .max(query_rank),
            key: attention(Attention::key_width).max(latent(LatentAttention::key_width)),
            value: attention(Attention::value_width).max(latent(|l| l.kv_rank)),
            gate: gated(Attention::query_width).max(delta(DeltaShape::value_width)),
            decays: delta(|shape| shape.value_heads),
            mixed: attention(Attention::mixed_width)
                .max(delta(DeltaShape::value_width))
                .max(latent(LatentAttention::mixed_width)),
            input: query_rank,
            inner: moe(|moe| moe.inner.max(moe.shared.map_or(0, |shared| shared.inner))).max(most_dense),
            ffn_rows: chunk * moe(|moe| moe.top_k).max(1),
            experts: moe(|moe| moe.experts),
            expert_bias: moe(|moe| if moe.biased { moe.inner } else { 0 })
                .max(if hyper.moes().any(|moe| moe.biased) { hyper.hidden } else { 0 }),
            vocabulary: hyper.vocabulary,
            latent: LatentShape::new(hyper, chunk),
            streams: StreamShape::new(hyper, chunk),
            sparse: SparseShape::new(hyper, chunk),
            draft: if hyper.draft_layer.is_some() { hyper.hidden } else { 0 },
            ordered,
        }
    }

    fn floats(&self) -> usize {
        let mixer =
            self.joined + self.query + self.key + self.value + self.gate + 4 * self.decays + self.mixed;
        let width = self.streams.width + 2 * self.hidden + mixer + self.experts;
        let expert_out = if self.experts > 0 { self.ffn_rows * self.hidden } else { 0 };
        self.chunk * width
            + self.ffn_rows * 2 * self.inner
            + expert_out
            + self.expert_bias
            + self.latent.floats()
            + self.streams.floats()
            + 3 * self.chunk * self.draft
            + self.foreseen_rows() * (self.hidden + self.experts)
            + self.vocabulary * (LOGIT_ROWS.min(self.chunk) + 1)
    }

    /// Bytes of all buffers, attention scores for `context` positions included.
    pub fn bytes(&self, context: usize, threads: usize) -> u64 {
        let activations = Activations::bytes(self.chunk, self.input_width())
            + Activations::bytes(self.ffn_rows, self.inner)
            + Activations::bytes(self.latent.rows * self.latent.heads, self.latent.part)
            + self.streams.activation_bytes()
            + Activations::bytes(self.foreseen_rows(), self.hidden)
            + Activations::bytes(1, self.room(self.input_width()))
            + Activations::bytes(1, self.room(self.inner));
        let kept =
            kept_input_bytes(self.chunk.max(self.ffn_rows), self.input_width().max(self.inner), threads);
        (4 * self.floats() + activations + kept + self.sparse.bytes(context)) as u64
            + AttentionScratch::bytes(self.heads, self.head_dim, context, threads) as u64
    }

    /// Elements of the room for other orders of columns: an expert has at most all rows of the chunk.
    fn room(&self, width: usize) -> usize {
        if self.ordered { self.chunk * width } else { 0 }
    }

    fn foreseen_rows(&self) -> usize {
        if self.experts > 0 { self.chunk.min(FORESEEN_ROWS) } else { 0 }
    }

    fn input_width(&self) -> usize {
        self.hidden.max(self.mixed).max(self.input).max(2 * self.draft)
    }
}

/// The buffers; shapes are [rows, columns], row-major, of which a chunk of n tokens uses the first n rows.
pub(crate) struct Scratch {
    pub hidden: Floats,        // [chunk, streams, hidden], the residual streams
    pub normed: Floats,        // [chunk, hidden]
    pub branch: Floats,        // [chunk, hidden], what a block adds to the residual stream
    pub joined: Floats, // [chunk, queries and gates of attention, or channels of a delta-net, or plain queries]
    pub q: Floats, // [chunk, heads * head_dim, or channels of a delta-net, before they are taken apart and convolved]
    pub k: Floats, // [chunk, kv_heads * head_dim]
    pub v: Floats, // [chunk, kv_heads * value_dim]
    pub mixer_gate: Floats, // [chunk, width of what a mixer's output is gated by]
    pub decays: Floats, // [4, chunk, value_heads], a delta-net's gates and what they are made of
    pub mixed: Floats, // [chunk, heads * value_dim], a mixer's output before its matrix
    pub gate: Floats, // [chunk * top_k, inner]
    pub up: Floats, // [chunk * top_k, inner]
    pub expert_out: Floats, // [chunk * top_k, hidden]
    pub router: Vec<f32>, // [chunk, experts]
    pub expert_bias: Vec<f32>, // [widest bias of an expert]
    pub latent: LatentScratch,
    pub streams: StreamScratch,
    pub sparse: SparseScratch,
    pub draft: DraftScratch,
    pub foresight: ForesightScratch,
    pub logits: Vec<f32>,   // [logit_rows, vocabulary]
    pub input: Activations, // of normed or mixed
    pub inner: Activations, // of gate
    pub attention: AttentionScratch,
    /// Rows of logits that are computed at a time.
    pub logit_rows: usize,
    pub clock: StageClock,
}

/// Most tokens of a pass for which the experts of the next layers are foreseen: more need most of them.
pub(crate) const FORESEEN_ROWS: usize = 4;

/// What the routers of the next layers work in, ahead of their turn; empty without mixtures.
pub(crate) struct ForesightScratch {
    pub normed: Vec<f32>,   // [FORESEEN_ROWS at most, hidden]
    pub input: Activations, // of normed
    pub scores: Vec<f32>,   // [FORESEEN_ROWS at most, experts]
}

/// What the head that drafts tokens works in; empty without one.
pub(crate) struct DraftScratch {
    pub finals: Vec<f32>, // [chunk, hidden], the model's hidden states after its norm
    pub pairs: Vec<f32>,  // [chunk, 2, hidden], embedding of the next token and hidden state
}

/// What latent attention works in, a piece of a chunk at a time.
pub(crate) struct LatentScratch {
    pub queries: Vec<f32>,   // [rows, heads, kv_rank + rotated dimensions]
    pub parts: Vec<f32>,     // [rows, heads, part], or head by head [heads, rows, part]
    pub mixed: Vec<f32>,     // [rows, heads, kv_rank], or head by head
    pub index: Vec<u32>,     // [heads, rows], the row of a head's part among those of all heads
    pub inputs: Activations, // [rows * heads, part]
}

impl LatentScratch {
    fn new(shape: &LatentShape) -> Self {
        let LatentShape { rows, heads, queries, part, mixed } = *shape;
        Self {
            queries: vec![0.0; rows * queries],
            parts: vec![0.0; rows * heads * part],
            mixed: vec![0.0; rows * mixed],
            index: vec![0; rows * heads],
            inputs: Activations::new(rows * heads, part),
        }
    }
}

impl Scratch {
    pub fn new(shape: &ScratchShape, context: usize, threads: usize) -> Self {
        let zeros = |length: usize| vec![0.0; length];
        let s = shape;
        Self {
            hidden: Floats::zeros(s.chunk * s.streams.width),
            normed: Floats::zeros(s.chunk * s.hidden),
            branch: Floats::zeros(s.chunk * s.hidden),
            joined: Floats::zeros(s.chunk * s.joined),
            q: Floats::zeros(s.chunk * s.query),
            k: Floats::zeros(s.chunk * s.key),
            v: Floats::zeros(s.chunk * s.value),
            mixer_gate: Floats::zeros(s.chunk * s.gate),
            decays: Floats::zeros(4 * s.chunk * s.decays),
            mixed: Floats::zeros(s.chunk * s.mixed),
            gate: Floats::zeros(s.ffn_rows * s.inner),
            up: Floats::zeros(s.ffn_rows * s.inner),
            expert_out: Floats::zeros(if s.experts > 0 { s.ffn_rows * s.hidden } else { 0 }),
            router: zeros(s.chunk * s.experts),
            logits: zeros(s.vocabulary * LOGIT_ROWS.min(s.chunk)),
            expert_bias: zeros(s.expert_bias),
            latent: LatentScratch::new(&s.latent),
            streams: StreamScratch::new(&s.streams),
            sparse: SparseScratch::new(&s.sparse, context),
            draft: DraftScratch { finals: zeros(s.chunk * s.draft), pairs: zeros(2 * s.chunk * s.draft) },
            foresight: ForesightScratch {
                normed: zeros(s.foreseen_rows() * s.hidden),
                input: Activations::new(s.foreseen_rows(), s.hidden),
                scores: zeros(s.foreseen_rows() * s.experts),
            },
            input: Activations::new(s.chunk, s.input_width()).with_room(s.room(s.input_width())),
            inner: Activations::new(s.ffn_rows, s.inner).with_room(s.room(s.inner)),
            attention: AttentionScratch::new(s.heads, s.head_dim, context, threads),
            logit_rows: LOGIT_ROWS.min(s.chunk),
            clock: StageClock::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use membrane_kernels::{ChoiceScratch, KvSlice};

    use super::*;
    use crate::hyper::{
        Biases, FeedForward, Glu, HyperConnections, Indexer, Layer, Mixer, NgramHead, Ngrams, Norms, Rope,
        RopeScaling, Router, Scores, SharedExpert,
    };

    /// A model of two layers with all that needs room: one with plain or gated attention, one with latent attention.
    /// The first may be sparse, beside several streams and n-grams.
    fn hyper(gated: bool, query_rank: Option<usize>, biased: bool, sparse: bool) -> Hyperparameters {
        let rope = Rope { dims: 16, base: 1e4, scaling: RopeScaling::None, neox: true };
        let attention = Attention {
            heads: 6,
            kv_heads: 2,
            head_dim: 48,
            value_dim: 48,
            head_norm: true,
            gated,
            biases: if biased { Biases::All } else { Biases::Optional },
            sinks: true,
            window: Some(3),
            scale: 1.0,
            temperature: None,
            rope,
            indexer: sparse.then_some(Indexer { heads: 7, dim: 24, ratio: 4, blocks: 3 }),
        };
        let latent = LatentAttention {
            heads: 5,
            query_rank,
            kv_rank: 96,
            plain_dim: 32,
            value_dim: 40,
            scale: 1.0,
            temperature: None,
            rope,
            norm_eps: None,
        };
        let router =
            Router { scores: Scores::Sigmoid, choice_bias: true, groups: None, normalise: true, scale: 1.0 };
        let shared = Some(SharedExpert { inner: 128, gated: false });
        let moe = Moe { experts: 10, top_k: 3, inner: 64, shared, router, biased, glu: Glu::SwiGlu };
        let dense = FeedForward::Dense { inner: 96, glu: Glu::GeGlu };
        let ngrams = Ngrams {
            layer: 0,
            heads: vec![NgramHead { first: 0, rows: 9 }; 6],
            head_dim: 40,
            multipliers: vec![1, 2, 3],
            separator: 0,
            table_parts: 1,
            kernel: 4,
        };
        Hyperparameters {
            layers: vec![
                Layer { mixer: Mixer::Attention(attention), feed_forward: dense },
                Layer { mixer: Mixer::Latent(latent), feed_forward: FeedForward::Moe(moe) },
            ],
            mtp_blocks: usize::from(gated),
            draft_layer: gated.then_some(Layer { mixer: Mixer::Attention(attention), feed_forward: dense }),
            hidden: 64,
            norm_eps: 1e-6,
            embedding_scale: 1.0,
            norms: Norms { ffn: "ffn_norm", after_mixer: None, after_ffn: None },
            connections: sparse.then_some(HyperConnections { streams: 3, rank: 20 }),
            ngrams: sparse.then_some(ngrams).into_iter().collect(),
            vocabulary: 500,
            trained_context: 128,
        }
    }

    #[test]
    fn the_plan_counts_every_buffer() {
        for (gated, query_rank, biased, sparse) in [
            (false, None, false, false),
            (true, Some(24), false, true),
            (false, Some(300), true, false),
            (true, None, true, true),
        ] {
            for (chunk, ordered) in [(1, false), (40, true), (200, false)] {
                let shape = ScratchShape::new(&hyper(gated, query_rank, biased, sparse), chunk, ordered);
                let s = Scratch::new(&shape, 128, 2);
                let l = &s.latent;
                let aligned = [
                    &s.hidden,
                    &s.normed,
                    &s.branch,
                    &s.joined,
                    &s.q,
                    &s.k,
                    &s.v,
                    &s.mixer_gate,
                    &s.decays,
                    &s.mixed,
                    &s.gate,
                    &s.up,
                    &s.expert_out,
                ];
                assert!(aligned.iter().all(|buffer| buffer.is_empty() || buffer.as_ptr().addr() % 64 == 0));
                let others = [
                    &s.router,
                    &s.expert_bias,
                    &s.logits,
                    &l.queries,
                    &l.parts,
                    &l.mixed,
                    &s.draft.finals,
                    &s.draft.pairs,
                    &s.foresight.normed,
                    &s.foresight.scores,
                ];
                let others = others.into_iter().chain(s.streams.buffers()).map(|buffer| buffer.len());
                let aligned = aligned.into_iter().map(|buffer| buffer.len());
                let floats = aligned.chain(others).sum::<usize>() + l.index.len();
                // The plan has the logits of a session beside them.
                assert_eq!(
                    floats + shape.vocabulary,
                    shape.floats(),
                    "{gated} {query_rank:?} {biased} {sparse} {chunk}"
                );
                let beside = shape.bytes(128, 2) - 4 * shape.floats() as u64;
                let inputs = Activations::bytes(chunk, shape.input_width())
                    + Activations::bytes(3 * chunk, 128)
                    + Activations::bytes(chunk.min(LATENT_ROWS) * 5, 96)
                    + Activations::bytes(chunk.min(FORESEEN_ROWS), 64)
                    + if sparse { Activations::bytes(chunk.min(STREAM_ROWS), 6 * 40) } else { 0 };
                // 32 blocks of an index in the context, and keys and values of 3 blocks and a tail.
                let choice = ChoiceScratch::bytes(chunk.min(64), 32) + 2 * 4 * size_of::<KvSlice<'_>>();
                let inputs = inputs + if sparse { choice } else { 0 };
                let room = |width: usize| if ordered { Activations::bytes(1, chunk * width) } else { 0 };
                let inputs = inputs + room(shape.input_width()) + room(128);
                let inputs = inputs + kept_input_bytes(3 * chunk, shape.input_width().max(128), 2);
                assert_eq!(beside, (inputs + AttentionScratch::bytes(6, 112, 128, 2)) as u64);
            }
        }
    }
}
