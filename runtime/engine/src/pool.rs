//! What all sessions of a model share: the ceiling over their keys, values and recurrent states, and the checkpoints of
//! recurrent states.
//!
//! Checkpoints fill what is left below the ceiling and give way to whatever needs the room.

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
    /// When it was made or used last, in such events.
    used: u64,
}

/// Those that are kept, and how many events there have been.
#[derive(Debug, Default)]
struct Checkpoints {
    kept: Vec<Checkpoint>,
    events: u64,
}

impl Checkpoints {
    /// Makes a checkpoint the one used last.
    fn touch(&mut self, index: Option<usize>) -> Option<&Checkpoint> {
        self.events += 1;
        let checkpoint = self.kept.get_mut(index?)?;
        checkpoint.used = self.events;
        Some(checkpoint)
    }

    /// Drops the checkpoint that is worth least of those that `may` go. Whether there was one.
    fn drop_least(&mut self, may: impl Fn(&Checkpoint) -> bool) -> bool {
        let worths = self.kept.iter().enumerate().filter(|(_, checkpoint)| may(checkpoint));
        let worths = worths.map(|(index, checkpoint)| (index, self.worth(checkpoint)));
        let least = worths.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index);
        least.map(|least| self.kept.remove(least)).is_some()
    }

    /// Tokens that would have to be computed again without it, over its age. So the checkpoints of a conversation thin out
    /// towards its beginning, and those of conversations that are over go.
    fn worth(&self, checkpoint: &Checkpoint) -> f64 {
        let length = checkpoint.tokens.len();
        let before =
            |other: &&Checkpoint| other.tokens.len() < length && checkpoint.tokens.starts_with(&other.tokens);
        let nearest = self.kept.iter().filter(before).map(|other| other.tokens.len()).max().unwrap_or(0);
        (length - nearest) as f64 / (self.events - checkpoint.used + 1) as f64
    }
}

/// Room for the keys, values and recurrent states of all sessions of a model.
#[derive(Debug)]
pub(crate) struct Pool {
    account: Arc<Account>,
    checkpoints: Mutex<Checkpoints>,
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
            // One that a session goes on from would give nothing back.
            if !self.checkpoints().drop_least(|checkpoint| Arc::strong_count(&checkpoint.state) == 1) {
                return Err(EngineError::KvFull { limit: Bytes(*limit) });
            }
        }
        Ok(Charge { bytes, account: self.account.clone() })
    }

    /// Bytes that are taken.
    pub fn used(&self) -> u64 {
        self.account.used.load(Ordering::Relaxed)
    }

    /// Most checkpoints at a time.
    pub fn most_checkpoints(&self) -> usize {
        self.most
    }

    /// Keeps the state behind these tokens. Where there are as many already, the one that is worth least goes.
    pub fn keep(&self, tokens: &[u32], state: State) {
        let mut checkpoints = self.checkpoints();
        while checkpoints.kept.len() >= self.most {
            if !checkpoints.drop_least(|_| true) {
                return;
            }
        }
        checkpoints.events += 1;
        let used = checkpoints.events;
        checkpoints.kept.push(Checkpoint { tokens: tokens.into(), state: Arc::new(state), used });
    }

    /// Whether the state behind exactly these tokens is kept; if so, it is used.
    pub fn has(&self, tokens: &[u32]) -> bool {
        let mut checkpoints = self.checkpoints();
        let found = checkpoints.kept.iter().position(|checkpoint| *checkpoint.tokens == *tokens);
        checkpoints.touch(found).is_some()
    }

    /// The longest beginning of these tokens behind which a state is kept, and that state.
    pub fn nearest(&self, tokens: &[u32]) -> Option<(usize, Arc<State>)> {
        let mut checkpoints = self.checkpoints();
        let kept = checkpoints.kept.iter().enumerate();
        let fitting = kept.filter(|(_, checkpoint)| tokens.starts_with(&checkpoint.tokens));
        let longest = fitting.max_by_key(|(_, checkpoint)| checkpoint.tokens.len()).map(|(index, _)| index);
        checkpoints.touch(longest).map(|checkpoint| (checkpoint.tokens.len(), checkpoint.state.clone()))
    }

    fn checkpoints(&self) -> MutexGuard<'_, Checkpoints> {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(states: u64, most: usize) -> Arc<Pool> {
        Pool::new(states * crate::state::tests::small().bytes(), most)
    }

    fn state(pool: &Pool) -> Result<State> {
        State::new(&crate::state::tests::small(), pool)
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
    fn a_long_conversation_keeps_some_of_its_beginning_and_one_that_is_over_goes() {
        let pool = pool(9, 8);
        let over = vec![1; 900];
        pool.keep(&over, state(&pool).unwrap());
        let conversation = vec![7; 40_000];
        for turn in 1..=80 {
            for end in [turn * 500 - 8, turn * 500] {
                pool.keep(&conversation[..end], state(&pool).unwrap());
            }
        }
        let kept: Vec<usize> =
            pool.checkpoints().kept.iter().map(|checkpoint| checkpoint.tokens.len()).collect();
        assert_eq!(kept.len(), 8);
        assert!(!pool.has(&over), "{kept:?}");
        // Wherever in its last two thirds the conversation is taken up anew, at most half of it is computed again.
        for anew in (16_000..=40_000).step_by(250) {
            let nearest = kept.iter().copied().filter(|&end| end <= anew).max().unwrap_or(0);
            assert!(anew - nearest <= anew / 2, "{anew}: {kept:?}");
        }
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
