//! The activations of one prefill chunk, allocated once.

use membrane_kernels::{Activations, AttentionScratch};

use crate::hyper::Hyperparameters;

/// Most rows of logits that are computed at a time.
const LOGIT_ROWS: usize = 16;

/// How large the buffers of a chunk must be, in rows and columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScratchShape {
    chunk: usize,
    hidden: usize,
    query: usize,
    key: usize,
    value: usize,
    mixed: usize,
    inner: usize,
    /// Rows of a feed-forward: one a token, or one for each expert that a token uses.
    ffn_rows: usize,
    experts: usize,
    vocabulary: usize,
}

impl ScratchShape {
    pub fn new(hyper: &Hyperparameters, chunk: usize) -> Self {
        let (inner, top_k, experts) = match &hyper.moe {
            Some(moe) => (moe.inner.max(moe.shared_inner), moe.top_k, moe.experts),
            None => (hyper.inner, 1, 0),
        };
        Self {
            chunk,
            hidden: hyper.hidden,
            query: hyper.heads * hyper.head_dim,
            key: hyper.key_width(),
            value: hyper.value_width(),
            mixed: hyper.heads * hyper.value_dim,
            inner,
            ffn_rows: chunk * top_k,
            experts,
            vocabulary: hyper.vocabulary,
        }
    }

    fn floats(&self) -> usize {
        let width = 3 * self.hidden + self.query + self.key + self.value + self.mixed + self.experts;
        let expert_out = if self.experts > 0 { self.ffn_rows * self.hidden } else { 0 };
        self.chunk * width
            + self.ffn_rows * 2 * self.inner
            + expert_out
            + self.vocabulary * (LOGIT_ROWS.min(self.chunk) + 1)
    }

    /// Bytes of all buffers, attention scores for `context` positions included.
    pub fn bytes(&self, heads: usize, context: usize, threads: usize) -> u64 {
        let activations = Activations::bytes(self.chunk, self.hidden.max(self.mixed))
            + Activations::bytes(self.ffn_rows, self.inner);
        (4 * self.floats() + activations) as u64 + AttentionScratch::bytes(heads, context, threads) as u64
    }
}

/// The buffers; shapes are [rows, columns], row-major, of which a chunk of n tokens uses the first n rows.
pub(crate) struct Scratch {
    pub hidden: Vec<f32>,     // [chunk, hidden], the residual stream
    pub normed: Vec<f32>,     // [chunk, hidden]
    pub branch: Vec<f32>,     // [chunk, hidden], what a block adds to the residual stream
    pub q: Vec<f32>,          // [chunk, heads * head_dim]
    pub k: Vec<f32>,          // [chunk, kv_heads * head_dim]
    pub v: Vec<f32>,          // [chunk, kv_heads * value_dim]
    pub mixed: Vec<f32>,      // [chunk, heads * value_dim], attention before the output matrix
    pub gate: Vec<f32>,       // [chunk * top_k, inner]
    pub up: Vec<f32>,         // [chunk * top_k, inner]
    pub expert_out: Vec<f32>, // [chunk * top_k, hidden]
    pub router: Vec<f32>,     // [chunk, experts]
    pub logits: Vec<f32>,     // [logit_rows, vocabulary]
    pub input: Activations,   // of normed or mixed
    pub inner: Activations,   // of gate
    pub attention: AttentionScratch,
    /// Rows of logits that are computed at a time.
    pub logit_rows: usize,
}

impl Scratch {
    pub fn new(shape: &ScratchShape, heads: usize, context: usize, threads: usize) -> Self {
        let zeros = |length: usize| vec![0.0; length];
        let s = shape;
        Self {
            hidden: zeros(s.chunk * s.hidden),
            normed: zeros(s.chunk * s.hidden),
            branch: zeros(s.chunk * s.hidden),
            q: zeros(s.chunk * s.query),
            k: zeros(s.chunk * s.key),
            v: zeros(s.chunk * s.value),
            mixed: zeros(s.chunk * s.mixed),
            gate: zeros(s.ffn_rows * s.inner),
            up: zeros(s.ffn_rows * s.inner),
            expert_out: zeros(if s.experts > 0 { s.ffn_rows * s.hidden } else { 0 }),
            router: zeros(s.chunk * s.experts),
            logits: zeros(s.vocabulary * LOGIT_ROWS.min(s.chunk)),
            input: Activations::new(s.chunk, s.hidden.max(s.mixed)),
            inner: Activations::new(s.ffn_rows, s.inner),
            attention: AttentionScratch::new(heads, context, threads),
            logit_rows: LOGIT_ROWS.min(s.chunk),
        }
    }
}
