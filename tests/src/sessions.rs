//! Sessions that are compared with a fresh run of their tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use membrane_engine::{Model, Observer, Session};

/// So many tokens below 1,000, others for each seed.
pub fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i.wrapping_mul(7919) ^ seed.wrapping_mul(104_729)) % 1000).collect()
}

/// The bits of a session's logits.
///
/// # Panics
/// If it has none.
pub fn bits(session: &Session) -> Vec<u32> {
    assert!(!session.logits().is_empty());
    session.logits().iter().map(|logit| logit.to_bits()).collect()
}

/// The logits of a session that computes the tokens at once.
///
/// # Panics
/// If they can't be computed.
pub fn fresh(model: &Model, tokens: &[u32]) -> Vec<u32> {
    let mut session = model.session();
    session.append(tokens).unwrap_or_else(|error| panic!("{error}"));
    bits(&session)
}

/// Ends a pass in the middle of its layers.
pub struct Canceller {
    /// The model's.
    pub flag: Arc<AtomicBool>,
    /// Layers until then, at least one.
    pub layers_left: usize,
}

impl Observer for Canceller {
    fn ffn_input(&mut self, _layer: usize, _rows: usize, _x: &[f32]) {
        self.layers_left -= 1;
        if self.layers_left == 0 {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
}
