//! What all sessions of a model share: the ceiling over their keys, values and recurrent states, and the checkpoints of
//! recurrent states.
//!
//! Checkpoints fill what is left below the ceiling and give way to whatever needs the room.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{EngineError, Result};
use crate::plan::Bytes;
use crate::state::State;

/// Counts bytes against a ceiling.
#[derive(Debug)]
struct Account {
    limit: u64,
    used: AtomicU64,
}

/// Bytes that are counted as long as it lives.
#[derive(Debug)]
pub(crate) struct Charge {
    bytes: u64,
    account: Arc<Account>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The recurrent state behind some tokens.
#[derive(Debug)]
struct Checkpoint {
    tokens: Box<[u32]>,
    state: Arc<State>,
}

/// Room for the keys, values and recurrent states of all sessions of a model.
#[derive(Debug)]
pub(crate) struct Pool {
    account: Arc<Account>,
    /// Those used least recently come first.
    checkpoints: Mutex<VecDeque<Checkpoint>>,
    /// Most checkpoints at a time.
    most: usize,
}

impl Pool {
    /// A pool of `limit` bytes that keeps at most so many checkpoints.
    pub fn new(limit: u64, most_checkpoints: usize) -> Arc<Self> {
        let account = Arc::new(Account { limit, used: AtomicU64::new(0) });
        Arc::new(Self { account, checkpoints: Mutex::default(), most: most_checkpoints })
    }

    /// Takes room, that of checkpoints if there is no other. Errors: the pool is full.
    pub fn take(&self, bytes: u64) -> Result<Charge> {
        let Account { limit, used } = &*self.account;
        let free = |used: u64| used.checked_add(bytes).filter(|used| used <= limit);
        while used.try_update(Ordering::Relaxed, Ordering::Relaxed, free).is_err() {
            if !self.give_up() {
                return Err(EngineError::KvFull { limit: Bytes(*limit) });
            }
        }
        Ok(Charge { bytes, account: self.account.clone() })
    }

    /// Drops the checkpoint used least recently of those that no session goes on from. Whether there was one.
    fn give_up(&self) -> bool {
        let mut kept = self.checkpoints();
        let unused = kept.iter().position(|checkpoint| Arc::strong_count(&checkpoint.state) == 1);
        unused.and_then(|unused| kept.remove(unused)).is_some()
    }

    /// Most checkpoints at a time.
    pub fn most_checkpoints(&self) -> usize {
        self.most
    }

    /// Drops checkpoints until `more` can come, those used least recently first.
    pub fn make_room(&self, more: usize) {
        let mut kept = self.checkpoints();
        let left = self.most.saturating_sub(more);
        while kept.len() > left {
            kept.pop_front();
        }
    }

    /// Keeps the state behind these tokens.
    pub fn keep(&self, tokens: &[u32], state: State) {
        self.make_room(1);
        self.checkpoints().push_back(Checkpoint { tokens: tokens.into(), state: Arc::new(state) });
    }

    /// Whether the state behind exactly these tokens is kept; if so, it is used.
    pub fn has(&self, tokens: &[u32]) -> bool {
        let mut kept = self.checkpoints();
        let found = kept.iter().position(|checkpoint| *checkpoint.tokens == *tokens);
        touch(&mut kept, found).is_some()
    }

    /// The longest beginning of these tokens behind which a state is kept, and that state.
    pub fn nearest(&self, tokens: &[u32]) -> Option<(usize, Arc<State>)> {
        let mut kept = self.checkpoints();
        let fitting =
            kept.iter().enumerate().filter(|(_, checkpoint)| tokens.starts_with(&checkpoint.tokens));
        let longest = fitting.max_by_key(|(_, checkpoint)| checkpoint.tokens.len()).map(|(index, _)| index);
        touch(&mut kept, longest).map(|checkpoint| (checkpoint.tokens.len(), checkpoint.state.clone()))
    }

    fn checkpoints(&self) -> MutexGuard<'_, VecDeque<Checkpoint>> {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a checkpoint the one used last.
fn touch(kept: &mut VecDeque<Checkpoint>, index: Option<usize>) -> Option<&Checkpoint> {
    let checkpoint = kept.remove(index?)?;
    kept.push_back(checkpoint);
    kept.back()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(states: u64, most: usize) -> Arc<Pool> {
        Pool::new(states * State::bytes(&crate::state::tests::SHAPES), most)
    }

    fn state(pool: &Pool) -> Result<State> {
        State::new(&crate::state::tests::SHAPES, pool)
    }

    #[test]
    fn the_nearest_checkpoint_is_the_longest_beginning() {
        let pool = pool(8, 8);
        for length in [2, 5, 3] {
            pool.keep(&[7; 5][..length], state(&pool).unwrap());
        }
        pool.keep(&[7, 7, 7, 8], state(&pool).unwrap());
        let at = |tokens: &[u32]| pool.nearest(tokens).map(|(at, _)| at);
        assert_eq!(at(&[7; 4]), Some(3));
        assert_eq!(at(&[7; 9]), Some(5));
        assert_eq!(at(&[7, 7, 7, 8, 1]), Some(4));
        assert_eq!(at(&[7, 1]), None);
        assert!(pool.has(&[7, 7]) && !pool.has(&[7, 7, 1]));
    }

    #[test]
    fn the_least_used_goes_first_and_the_number_is_bounded() {
        let pool = pool(8, 2);
        for token in 0..2 {
            pool.keep(&[token], state(&pool).unwrap());
        }
        assert!(pool.has(&[0]));
        pool.keep(&[2], state(&pool).unwrap());
        assert!(pool.has(&[0]) && pool.has(&[2]) && !pool.has(&[1]));
    }

    #[test]
    fn checkpoints_give_way_unless_a_session_goes_on_from_them() {
        let pool = pool(2, 8);
        pool.keep(&[1], state(&pool).unwrap());
        pool.keep(&[2], state(&pool).unwrap());
        let live = pool.nearest(&[1]).unwrap().1;
        let other = state(&pool).unwrap();
        assert!(pool.has(&[1]) && !pool.has(&[2]));
        assert!(matches!(state(&pool), Err(EngineError::KvFull { .. })));
        drop(other);
        state(&pool).unwrap();
        drop(live);
    }
}
