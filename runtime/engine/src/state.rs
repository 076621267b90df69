//! Recurrent states: what the delta-nets of a session, and the convolutions behind its n-grams, remember of its tokens.
//!
//! A state can't go back, as keys and values can by being dropped. So some are kept as checkpoints while a prompt is computed;
//! a truncated session goes on from the nearest one and computes the tokens behind it again, which gives the same bits.

use std::sync::Arc;

use membrane_kernels::{DeltaShape, DeltaState};

use crate::error::Result;
use crate::hyper::Hyperparameters;
use crate::pool::{Charge, Pool};

/// How far before the end of a prompt a checkpoint stands, in tokens: conversations are often rendered anew with other
/// markup where the answer begins.
const BEFORE_END: usize = 8;
/// Checkpoints within a prompt stand at multiples of a power of two of which about so many fit.
const WITHIN: usize = 4;
/// Least distance of checkpoints within a prompt, in tokens.
const LEAST_DISTANCE: usize = 256;
/// Distance of checkpoints among tokens that come one by one.
const DECODE_DISTANCE: usize = 512;

/// What a state consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shapes {
    /// Of each delta-net.
    delta_nets: Vec<DeltaShape>,
    /// Of each layer with n-grams: how many of the last inputs of its convolution, of all channels.
    histories: Vec<usize>,
}

impl Shapes {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.delta_nets.is_empty() && self.histories.is_empty()
    }

    /// Bytes of such a state.
    pub fn bytes(&self) -> u64 {
        let histories = self.histories.iter().map(|floats| (floats * size_of::<f32>()) as u64);
        self.delta_nets.iter().map(DeltaState::bytes).chain(histories).sum()
    }
}

/// The states of all recurrent layers behind one position.
#[derive(Debug)]
pub(crate) struct State {
    layers: Vec<DeltaState>,
    histories: Vec<Vec<f32>>,
    _charge: Charge,
}

impl State {
    /// The state before the first token. Errors: the pool is full.
    pub fn new(shapes: &Shapes, pool: &Pool) -> Result<Self> {
        let charge = pool.take(shapes.bytes())?;
        Ok(Self {
            layers: shapes.delta_nets.iter().copied().map(DeltaState::new).collect(),
            histories: shapes.histories.iter().map(|&floats| vec![0.0; floats]).collect(),
            _charge: charge,
        })
    }

    fn copy(&self, shapes: &Shapes, pool: &Pool) -> Result<Self> {
        let charge = pool.take(shapes.bytes())?;
        Ok(Self { layers: self.layers.clone(), histories: self.histories.clone(), _charge: charge })
    }

    fn copy_from(&mut self, other: &Self) {
        self.layers.iter_mut().zip(&other.layers).for_each(|(to, from)| to.copy_from(from));
        self.histories.iter_mut().zip(&other.histories).for_each(|(to, from)| to.copy_from_slice(from));
    }
}

/// The recurrent layers of a model.
pub(crate) fn shapes(hyper: &Hyperparameters) -> Shapes {
    Shapes {
        delta_nets: hyper.delta_nets().map(|delta_net| delta_net.shape).collect(),
        histories: hyper.ngrams.iter().map(|ngrams| ngrams.history() * hyper.stream_width()).collect(),
    }
}

/// The recurrent state of a session.
#[derive(Debug)]
pub(crate) struct Recurrent {
    shapes: Arc<Shapes>,
    pool: Arc<Pool>,
    /// None before the first token. Shared with forks and checkpoints until one side goes on.
    live: Option<Arc<State>>,
    /// Copies that are being made at positions of the tokens under way, in order.
    marks: Vec<(usize, State)>,
    /// The checkpoint to go back to if the tokens under way fail: it must not give way to the copies.
    fallback: Option<Arc<State>>,
    /// A copy of the state before a pass with drafts, with its position: what follows if they are not taken goes on from it.
    /// None if that is before the first token.
    held: Option<(usize, Option<Arc<State>>)>,
}

impl Recurrent {
    /// None for a model without recurrent layers.
    pub fn new(hyper: &Hyperparameters, pool: &Arc<Pool>) -> Option<Self> {
        let shapes = shapes(hyper);
        (!shapes.is_empty()).then(|| Self {
            shapes: shapes.into(),
            pool: pool.clone(),
            live: None,
            marks: Vec::new(),
            fallback: None,
            held: None,
        })
    }

    /// The same state for another session; the state before drafts if there are any.
    pub fn fork(&self) -> Self {
        let live = self.held.as_ref().map_or(&self.live, |(_, held)| held);
        Self {
            shapes: self.shapes.clone(),
            pool: self.pool.clone(),
            live: live.clone(),
            marks: Vec::new(),
            fallback: None,
            held: None,
        }
    }

    /// Holds a copy of the state, which is behind `position` tokens, for drafts that may not be taken. Errors: there is no
    /// room in `pool`.
    pub fn hold(&mut self, position: usize, pool: &Pool) -> Result<()> {
        let copy = self.live.as_ref().map(|live| live.copy(&self.shapes, pool).map(Arc::new)).transpose()?;
        self.held = Some((position, copy));
        Ok(())
    }

    /// The position of the state that is held.
    pub fn held(&self) -> Option<usize> {
        self.held.as_ref().map(|(position, _)| *position)
    }

    /// Holds no state any more.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// Goes back to the state that is held, if one is. Gives the position behind which the state is now.
    pub fn back_to_held(&mut self) -> Option<usize> {
        let (position, held) = self.held.take()?;
        match (self.live.as_mut().and_then(Arc::get_mut), held) {
            (Some(live), Some(held)) => {
                live.copy_from(&held);
            }
            (_, held) => self.live = held,
        }
        self.fallback = None;
        self.marks.clear();
        Some(position)
    }

    /// Makes the state behind `before` writable for `tokens`, of which the last `new` were not computed before, and chooses
    /// where checkpoints are made of it. Errors: the pool is full.
    pub fn reserve(&mut self, before: &[u32], tokens: &[u32], new: usize) -> Result<()> {
        let own = match &mut self.live {
            None => Some(State::new(&self.shapes, &self.pool)?),
            Some(live) => match Arc::get_mut(live) {
                Some(_) => None,
                None => Some(live.copy(&self.shapes, &self.pool)?),
            },
        };
        if let Some(own) = own {
            self.live = Some(Arc::new(own));
        }
        let wanted = positions(before.len(), before.len() + tokens.len(), new > 1);
        if wanted.is_empty() {
            return Ok(());
        }
        let all = [before, tokens].concat();
        let missing = wanted.into_iter().filter(|&position| !self.pool.has(&all[..position]));
        let missing: Vec<usize> = missing.take(self.pool.most_checkpoints()).collect();
        self.fallback = self.pool.nearest(before).map(|(_, state)| state);
        // A checkpoint for which there is no room is not made: it only saves time.
        let marks = missing
            .into_iter()
            .map_while(|position| State::new(&self.shapes, &self.pool).ok().map(|state| (position, state)));
        self.marks = marks.collect();
        self.marks.sort_by_key(|(position, _)| *position);
        Ok(())
    }

    /// Ends of the pieces into which `rows` tokens from position `first` on are cut by marks; the last is `rows`.
    pub fn pieces(&self, first: usize, rows: usize) -> Vec<usize> {
        let within = self.marks.iter().filter_map(|(position, _)| position.checked_sub(first));
        within.filter(|&end| end > 0 && end < rows).chain([rows]).collect()
    }

    /// The state of a layer; `reserve` has made it writable.
    pub fn layer(&mut self, slot: usize) -> Option<&mut DeltaState> {
        Arc::get_mut(self.live.as_mut()?)?.layers.get_mut(slot)
    }

    /// The last inputs of the convolution of a layer with n-grams; `reserve` has made them writable.
    pub fn history(&mut self, slot: usize) -> Option<&mut [f32]> {
        Arc::get_mut(self.live.as_mut()?)?.histories.get_mut(slot).map(Vec::as_mut_slice)
    }

    /// [`Recurrent::mark`] for [`Recurrent::history`].
    pub fn mark_history(&mut self, slot: usize, position: usize) {
        let mark = self.marks.iter_mut().find(|(marked, _)| *marked == position);
        if let (Some((_, state)), Some(live)) = (mark, &self.live) {
            state.histories[slot].copy_from_slice(&live.histories[slot]);
        }
    }

    /// Copies the state of a layer, which is behind `position` now, if a mark stands there.
    pub fn mark(&mut self, slot: usize, position: usize) {
        let mark = self.marks.iter_mut().find(|(marked, _)| *marked == position);
        if let (Some((_, state)), Some(live)) = (mark, &self.live) {
            state.layers[slot].copy_from(&live.layers[slot]);
        }
    }

    /// Keeps the marks as checkpoints, all tokens having been computed.
    pub fn keep(&mut self, tokens: &[u32]) {
        self.fallback = None;
        for (position, state) in self.marks.drain(..) {
            self.pool.keep(&tokens[..position], state);
        }
    }

    /// Drops the marks, the tokens under way having failed.
    pub fn forget(&mut self) {
        (self.fallback, self.held) = (None, None);
        self.marks.clear();
    }

    /// Goes back to the nearest checkpoint within these tokens. Gives the position behind which the state is now.
    pub fn go_back(&mut self, tokens: &[u32]) -> usize {
        self.marks.clear();
        let nearest = self.pool.nearest(tokens);
        let position = nearest.as_ref().map_or(0, |(position, _)| *position);
        self.live = nearest.map(|(_, state)| state);
        (self.fallback, self.held) = (None, None);
        position
    }
}

/// How many tokens can follow `position` before one is a checkpoint's: drafts must not stand in the place of one, since no
/// checkpoint is made of them.
pub(crate) fn to_next_checkpoint(position: usize) -> usize {
    DECODE_DISTANCE - 1 - position % DECODE_DISTANCE
}

/// Where checkpoints are made of tokens from position `first` to `end`, the most useful first.
fn positions(first: usize, end: usize, prompt: bool) -> Vec<usize> {
    let multiples =
        |distance: usize| (first / distance + 1..).map(move |i| i * distance).take_while(|&at| at <= end);
    if !prompt {
        return multiples(DECODE_DISTANCE).collect();
    }
    let distance = ((end - first) / WITHIN).next_power_of_two().max(LEAST_DISTANCE);
    let before = end.checked_sub(BEFORE_END).filter(|&before| before > first);
    let mut positions: Vec<usize> = before.into_iter().chain([end]).collect();
    positions.extend(multiples(distance).filter(|&at| at != end && Some(at) != before));
    positions
}

#[cfg(test)]
pub(crate) mod tests {
    use membrane_kernels::HeadOrder;

    use super::*;

    pub(crate) fn small() -> Shapes {
        let delta_net = DeltaShape {
            key_heads: 1,
            value_heads: 2,
            key_dim: 4,
            value_dim: 16,
            kernel: 2,
            order: HeadOrder::Tiled,
        };
        Shapes { delta_nets: vec![delta_net; 2], histories: vec![6] }
    }

    #[test]
    fn checkpoints_stand_near_the_end_and_at_few_places_within() {
        assert_eq!(positions(0, 2000, true), [1992, 2000, 512, 1024, 1536]);
        assert_eq!(positions(2000, 2040, true), [2032, 2040]);
        assert_eq!(positions(0, 5, true), [5]);
        assert!(positions(0, 1_000_000, true).len() <= 2 + WITHIN + 4);
        assert_eq!(positions(511, 512, false), [512]);
        assert!(positions(512, 513, false).is_empty());
    }

    #[test]
    fn pieces_end_at_marks() {
        let pool = Pool::new(1 << 20, 8);
        let mut recurrent = Recurrent {
            shapes: small().into(),
            pool: pool.clone(),
            live: None,
            marks: Vec::new(),
            fallback: None,
            held: None,
        };
        let tokens: Vec<u32> = (0..600).collect();
        recurrent.reserve(&[], &tokens, 600).unwrap();
        assert_eq!(recurrent.pieces(0, 300), [256, 300]);
        assert_eq!(recurrent.pieces(256, 344), [256, 336, 344]);
        recurrent.mark(0, 256);
        recurrent.keep(&tokens);
        assert!(pool.has(&tokens[..256]) && pool.has(&tokens[..592]) && pool.has(&tokens));
        assert_eq!(recurrent.go_back(&tokens[..500]), 256);
        assert_eq!(recurrent.go_back(&[0, 2]), 0);
    }

    #[test]
    fn a_fork_goes_on_without_changing_the_other() {
        let pool = Pool::new(2 * small().bytes(), 0);
        let (shapes, marks) = (small().into(), Vec::new());
        let mut a = Recurrent { shapes, pool, live: None, marks, fallback: None, held: None };
        a.reserve(&[], &[1], 1).unwrap();
        let mut b = a.fork();
        assert!(b.layer(0).is_none(), "a shared state is not writable");
        b.reserve(&[1], &[2], 1).unwrap();
        assert!(a.layer(0).is_some() && b.layer(0).is_some());
        assert!(b.fork().reserve(&[1, 2], &[3], 1).is_err(), "the pool has room for two");
    }
}
