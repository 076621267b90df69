//! What hyper-connections and n-grams work in.

use membrane_kernels::Activations;

use crate::hyper::{Hyperparameters, Ngrams};

/// Most rows of a chunk that are mixed at a time: the streams of a token are several times as wide as what a block reads.
pub(crate) const STREAM_ROWS: usize = 128;

/// How large the buffers must be; all but `width` are 0 where there is one stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamShape {
    chunk: usize,
    rows: usize,
    streams: usize,
    /// Of all streams of a token.
    pub width: usize,
    rank: usize,
    /// Widest rows of n-grams of a token; 0 where there are none.
    ngrams: usize,
}

impl StreamShape {
    pub fn new(hyper: &Hyperparameters, chunk: usize) -> Self {
        let connections = hyper.connections;
        Self {
            chunk,
            rows: if connections.is_some() { chunk.min(STREAM_ROWS) } else { 0 },
            streams: connections.map_or(0, |connections| connections.streams),
            width: hyper.stream_width(),
            rank: connections.map_or(0, |connections| connections.rank),
            ngrams: hyper.ngrams.iter().map(Ngrams::width).max().unwrap_or(0),
        }
    }

    /// Elements of the buffers.
    pub fn floats(&self) -> usize {
        let wide = if self.ngrams > 0 { 3 } else { 2 };
        self.chunk * self.streams + self.rows * (wide * self.width + self.rank + self.ngrams)
    }

    /// Bytes of the inputs of products.
    pub fn activation_bytes(&self) -> usize {
        Activations::bytes(self.rows, self.input_width())
    }

    fn input_width(&self) -> usize {
        self.width.max(self.rank).max(self.ngrams)
    }
}

/// The buffers; of a piece of a chunk but for the shares.
pub(crate) struct StreamScratch {
    pub shares: Vec<f32>,   // [chunk, streams], what the last reading block adds by
    pub normed: Vec<f32>,   // [rows, streams, hidden]
    pub gate: Vec<f32>,     // [rows, streams, hidden]
    pub low: Vec<f32>,      // [rows, rank]
    pub ngrams: Vec<f32>,   // [rows, rows of n-grams of a token]
    pub third: Vec<f32>,    // [rows, streams, hidden], where there are n-grams
    pub input: Activations, // [rows, widest of these]
}

impl StreamScratch {
    pub(super) fn new(shape: &StreamShape) -> Self {
        let zeros = |width: usize| vec![0.0; shape.rows * width];
        Self {
            shares: vec![0.0; shape.chunk * shape.streams],
            normed: zeros(shape.width),
            gate: zeros(shape.width),
            low: zeros(shape.rank),
            ngrams: zeros(shape.ngrams),
            third: zeros(if shape.ngrams > 0 { shape.width } else { 0 }),
            input: Activations::new(shape.rows, shape.input_width()),
        }
    }

    /// All buffers of floats.
    #[cfg(test)]
    pub fn buffers(&self) -> [&Vec<f32>; 6] {
        [&self.shares, &self.normed, &self.gate, &self.low, &self.ngrams, &self.third]
    }
}
