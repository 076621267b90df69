//! The tokens of one step that are in the running.

use std::cmp::Ordering;

use thiserror::Error;

use super::exponential::{exp, keep_from, peak, peaks, scale, sum_exps};

/// Logits in a chunk, for which a bound is kept. At a vocabulary of 150,000 about 1,200 bounds, of which a
/// top 40 needs to look into about 40.
const CHUNK: usize = 128;

/// How many of the best are put in order first, where it is not known how many are needed.
const FIRST: usize = 64;

/// A token in the running.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Index into the vocabulary.
    pub token: u32,
    /// Above minus infinity, and finite.
    pub logit: f32,
}

/// Best first, ties by lower token.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

/// What an operation on candidates can object to. The texts go to plugins.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SamplingError {
    /// A token outside the vocabulary.
    #[error("token {token} is not in the vocabulary, which has {size} tokens")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        size: u32,
    },
    /// A parameter that is not a number, or out of range.
    #[error("{0}")]
    Parameter(String),
    /// All tokens were forbidden.
    #[error("no token is left in the running")]
    Empty,
    /// The model's logits can't be sampled from.
    #[error("the logits hold plus infinity")]
    Infinite,
}

/// The tokens in the running, with their logits.
///
/// Either all of the vocabulary counts (`dense`), or a list of the tokens that cuts have left.
#[derive(Debug, Default)]
pub struct Candidates {
    /// A logit for each token of the vocabulary; minus infinity and NaN are out of the running. Stale if not
    /// `dense`.
    logits: Vec<f32>,
    /// The largest logit of each chunk of `logits`.
    peaks: Vec<f32>,
    dense: bool,
    /// The mass of the dense form, if it was asked for since the last change.
    dense_mass: Option<f64>,
    /// The tokens in the running if not `dense`; otherwise some of the best, from the last look at them.
    list: Vec<Candidate>,
    /// How many at the front of `list` are in order and better than all others.
    ordered: usize,
    bounds: Vec<f32>,
}

impl Candidates {
    /// Starts a step with the logits of the whole vocabulary, taken out of `logits`; [`Candidates::finish`]
    /// puts the memory back. Errors: no logit is above minus infinity, or one is plus infinity.
    pub fn start(&mut self, logits: &mut Vec<f32>) -> Result<(), SamplingError> {
        std::mem::swap(&mut self.logits, logits);
        self.restart()
    }

    /// Ends a step: gives the memory for logits back, with whatever is in it.
    pub fn finish(&mut self, logits: &mut Vec<f32>) {
        std::mem::swap(&mut self.logits, logits);
    }

    fn restart(&mut self) -> Result<(), SamplingError> {
        self.dense = true;
        self.dense_mass = None;
        self.list.clear();
        self.ordered = 0;
        self.peaks.clear();
        peaks(&self.logits, CHUNK, &mut self.peaks);
        let largest = peak(&self.peaks);
        if largest == f32::INFINITY {
            return Err(SamplingError::Infinite);
        }
        if largest == f32::NEG_INFINITY { Err(SamplingError::Empty) } else { Ok(()) }
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> u32 {
        self.logits.len() as u32
    }

    /// How many logits an operation has to look at, as a measure of its cost.
    pub fn span(&self) -> usize {
        if self.dense { self.logits.len() } else { self.list.len() }
    }

    /// How many logits finding one token has to look at.
    pub fn get_cost(&self) -> usize {
        if self.dense { 1 } else { self.list.len() }
    }

    /// How many logits changing one token has to look at.
    pub fn change_cost(&self) -> usize {
        if self.dense { CHUNK } else { self.list.len() }
    }

    /// How many tokens are in the running.
    pub fn count(&self) -> usize {
        if !self.dense {
            return self.list.len();
        }
        self.logits.iter().filter(|&&logit| logit > f32::NEG_INFINITY).count()
    }

    /// The logit of a token; minus infinity if it is out of the running.
    pub fn get(&self, token: u32) -> Result<f32, SamplingError> {
        self.check(token)?;
        if self.dense {
            let logit = self.logits[token as usize];
            return Ok(if logit > f32::NEG_INFINITY { logit } else { f32::NEG_INFINITY });
        }
        let found = self.list.iter().find(|candidate| candidate.token == token);
        Ok(found.map_or(f32::NEG_INFINITY, |candidate| candidate.logit))
    }

    fn check(&self, token: u32) -> Result<(), SamplingError> {
        let size = self.vocabulary();
        if token < size { Ok(()) } else { Err(SamplingError::Token { token, size }) }
    }

    /// Adds to logits. Errors, before anything is changed: a token outside the vocabulary, a bias that is NaN
    /// or plus infinity.
    pub fn add(&mut self, biases: impl Iterator<Item = (u32, f32)> + Clone) -> Result<(), SamplingError> {
        for (token, bias) in biases.clone() {
            self.check(token)?;
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(SamplingError::Parameter(format!("the bias of token {token} is {bias}")));
            }
        }
        biases.for_each(|(token, bias)| self.change(token, |logit| logit + bias));
        self.drop_dead();
        Ok(())
    }

    /// Changes the logit of a token in the vocabulary, if it is in the running. What overflows becomes the
    /// largest number. [`Candidates::drop_dead`] must follow where the change can give minus infinity.
    pub(super) fn change(&mut self, token: u32, change: impl FnOnce(f32) -> f32) {
        if self.dense {
            let old = self.logits[token as usize];
            if old > f32::NEG_INFINITY {
                self.set(token as usize, bounded(change(old)));
            }
        } else if let Some(candidate) = self.list.iter_mut().find(|candidate| candidate.token == token) {
            candidate.logit = bounded(change(candidate.logit));
            self.ordered = 0;
        }
    }

    /// Sets a logit of the dense form.
    fn set(&mut self, index: usize, logit: f32) {
        self.dense_mass = None;
        let old = std::mem::replace(&mut self.logits[index], logit);
        let chunk = index / CHUNK;
        if logit >= self.peaks[chunk] {
            self.peaks[chunk] = logit;
        } else if old >= self.peaks[chunk] {
            let end = self.logits.len().min((chunk + 1) * CHUNK);
            self.peaks[chunk] = peak(&self.logits[chunk * CHUNK..end]);
        }
    }

    /// Takes tokens with a logit of minus infinity off the list.
    pub(super) fn drop_dead(&mut self) {
        if !self.dense {
            self.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
        }
    }

    /// Leaves only the named tokens in the running. Errors: one is not in the vocabulary, or none would be
    /// left.
    pub fn allow(&mut self, tokens: &[u32]) -> Result<(), SamplingError> {
        tokens.iter().try_for_each(|&token| self.check(token))?;
        let mut named = tokens.to_vec();
        named.sort_unstable();
        named.dedup();
        if self.dense {
            let logits = &self.logits;
            let alive = |&token: &u32| logits[token as usize] > f32::NEG_INFINITY;
            if !named.iter().any(alive) {
                return Err(SamplingError::Empty);
            }
            self.list.clear();
            let running = named.iter().filter(|token| alive(token));
            self.list.extend(running.map(|&token| Candidate { token, logit: logits[token as usize] }));
            self.ordered = 0;
            self.dense = false;
            return Ok(());
        }
        let is_named = |candidate: &Candidate| named.binary_search(&candidate.token).is_ok();
        if !self.list.iter().any(is_named) {
            return Err(SamplingError::Empty);
        }
        self.retain(is_named);
        Ok(())
    }

    /// Takes the named tokens out of the running. Errors: one is not in the vocabulary, or none would be
    /// left.
    pub fn forbid(&mut self, tokens: &[u32]) -> Result<(), SamplingError> {
        tokens.iter().try_for_each(|&token| self.check(token))?;
        let mut named = tokens.to_vec();
        named.sort_unstable();
        named.dedup();
        if !self.dense {
            let is_named = |candidate: &Candidate| named.binary_search(&candidate.token).is_ok();
            if self.list.iter().all(is_named) {
                return Err(SamplingError::Empty);
            }
            self.retain(|candidate| !is_named(candidate));
            return Ok(());
        }
        let old: Vec<f32> = named.iter().map(|&token| self.logits[token as usize]).collect();
        named.iter().for_each(|&token| self.set(token as usize, f32::NEG_INFINITY));
        if peak(&self.peaks) == f32::NEG_INFINITY {
            named.iter().zip(old).for_each(|(&token, logit)| self.set(token as usize, logit));
            return Err(SamplingError::Empty);
        }
        Ok(())
    }

    /// All logits of the vocabulary, minus infinity for tokens that are out of the running.
    pub fn read(&self) -> Vec<f32> {
        if self.dense {
            let canonical = |&logit: &f32| if logit > f32::NEG_INFINITY { logit } else { f32::NEG_INFINITY };
            return self.logits.iter().map(canonical).collect();
        }
        let mut all = vec![f32::NEG_INFINITY; self.logits.len()];
        for candidate in &self.list {
            all[candidate.token as usize] = candidate.logit;
        }
        all
    }

    /// Replaces all logits. Errors, before anything is changed: the wrong number of them, NaN, plus infinity,
    /// or none above minus infinity.
    pub fn write(&mut self, logits: &[f32]) -> Result<(), SamplingError> {
        let parameter = |text: String| Err(SamplingError::Parameter(text));
        if logits.len() != self.logits.len() {
            return parameter(format!("{} logits for {} tokens", logits.len(), self.logits.len()));
        }
        if let Some(token) = logits.iter().position(|logit| logit.is_nan()) {
            return parameter(format!("the logit of token {token} is not a number"));
        }
        match peak(logits) {
            f32::INFINITY => return Err(SamplingError::Infinite),
            f32::NEG_INFINITY => return Err(SamplingError::Empty),
            _ => self.logits.copy_from_slice(logits),
        }
        self.restart()
    }

    /// The largest logit. Errors: no token is in the running.
    pub(super) fn largest(&self) -> Result<f32, SamplingError> {
        let largest = if self.dense {
            peak(&self.peaks)
        } else if self.ordered > 0 {
            self.list[0].logit
        } else {
            self.list.iter().fold(f32::NEG_INFINITY, |most, c| if c.logit > most { c.logit } else { most })
        };
        if largest == f32::NEG_INFINITY { Err(SamplingError::Empty) } else { Ok(largest) }
    }

    /// Sum of e^(logit - `largest`) over the tokens in the running, of which `largest` is the largest.
    pub(super) fn mass(&mut self, largest: f32) -> f64 {
        if !self.dense {
            return self.list.iter().map(|candidate| f64::from(exp(candidate.logit - largest))).sum();
        }
        let sum = || sum_exps(&self.logits, CHUNK, &self.peaks, largest);
        *self.dense_mass.get_or_insert_with(sum)
    }

    /// The best `n` tokens in order, or all if there are fewer.
    pub(super) fn best(&mut self, n: usize) -> &[Candidate] {
        if self.dense {
            // A bound for each chunk helps as long as there are many more chunks than tokens wanted.
            if n.saturating_mul(2) <= self.peaks.len() {
                self.collect_best(n);
            } else {
                self.make_list();
            }
        }
        self.order(n);
        &self.list[..n.min(self.list.len())]
    }

    /// Puts the best `n` of the dense form on the list, and perhaps some that are not.
    fn collect_best(&mut self, n: usize) {
        self.bounds.clear();
        self.bounds.extend(self.peaks.iter().filter(|&&peak| peak > f32::NEG_INFINITY));
        // n chunks have a token that is at least the n-th best of the bounds.
        let least = if n == 0 || n > self.bounds.len() {
            f32::NEG_INFINITY
        } else {
            let descending = |a: &f32, b: &f32| b.partial_cmp(a).unwrap_or(Ordering::Equal);
            *self.bounds.select_nth_unstable_by(n - 1, descending).1
        };
        self.list_from(f64::from(least));
    }

    /// Puts the tokens of the dense form with logits of at least `least` on the list.
    fn list_from(&mut self, least: f64) {
        self.list.clear();
        self.ordered = 0;
        for (index, (chunk, &peak)) in self.logits.chunks(CHUNK).zip(&self.peaks).enumerate() {
            if f64::from(peak) < least || peak == f32::NEG_INFINITY {
                continue;
            }
            for (offset, &logit) in chunk.iter().enumerate() {
                if f64::from(logit) >= least && logit > f32::NEG_INFINITY {
                    self.list.push(Candidate { token: (index * CHUNK + offset) as u32, logit });
                }
            }
        }
    }

    /// Goes over to the list form.
    pub(super) fn make_list(&mut self) {
        if self.dense {
            self.list_from(f64::NEG_INFINITY);
            self.dense = false;
        }
    }

    /// Puts the best `n` of the list in order, at its front.
    fn order(&mut self, n: usize) {
        let n = n.min(self.list.len());
        if n <= self.ordered {
            return;
        }
        let rest = &mut self.list[self.ordered..];
        let wanted = n - self.ordered;
        if wanted < rest.len() {
            rest.select_nth_unstable_by(wanted - 1, best_first);
        }
        rest[..wanted].sort_unstable_by(best_first);
        self.ordered = n;
    }

    /// Keeps the best `n`, which must be at least 1.
    pub(super) fn keep_best(&mut self, n: usize) {
        let kept = self.best(n).len();
        self.list.truncate(kept);
        self.ordered = self.ordered.min(kept);
        self.dense = false;
    }

    /// Drops the best `n`.
    pub(super) fn drop_best(&mut self, n: usize) {
        self.make_list();
        self.order(n);
        self.list.drain(..n.min(self.list.len()));
        self.ordered -= n.min(self.ordered);
    }

    /// Keeps the tokens with logits of at least `least`, and at least the best one.
    pub(super) fn keep_from(&mut self, least: f64) -> Result<(), SamplingError> {
        if f64::from(self.largest()?) < least {
            self.keep_best(1);
        } else if self.dense
            && self.peaks.iter().filter(|&&peak| f64::from(peak) >= least).count() < self.few()
        {
            self.list_from(least);
            self.dense = false;
        } else if self.dense {
            // To look for the best of a long list takes longer than with the peaks.
            keep_from(&mut self.peaks, least);
            if keep_from(&mut self.logits, least) {
                self.dense_mass = None;
            }
        } else {
            self.retain(|candidate| f64::from(candidate.logit) >= least);
        }
        Ok(())
    }

    /// So many chunks have so few tokens that a list of them is better than the dense form.
    fn few(&self) -> usize {
        self.peaks.len() / 8
    }

    fn retain(&mut self, keep: impl Fn(&Candidate) -> bool) {
        let ordered = self.list[..self.ordered].iter().filter(|candidate| keep(candidate)).count();
        self.list.retain(keep);
        self.ordered = ordered;
    }

    /// Replaces the list by tokens of it.
    pub(super) fn keep_these(&mut self, kept: Vec<Candidate>) {
        self.list = kept;
        self.ordered = 0;
        self.dense = false;
    }

    /// Multiplies all logits with a positive `factor`.
    pub(super) fn scale(&mut self, factor: f32) -> Result<(), SamplingError> {
        let largest = self.largest()?;
        // What would overflow is moved to 0 first, which changes no probability.
        let origin = if (largest * factor).is_finite() { 0.0 } else { largest };
        if self.dense {
            self.dense_mass = None;
            scale(&mut self.logits, origin, factor);
            scale(&mut self.peaks, origin, factor);
        } else {
            self.list.iter_mut().for_each(|candidate| candidate.logit = (candidate.logit - origin) * factor);
            self.drop_dead();
        }
        Ok(())
    }

    /// Walks the tokens from the best on, with the sum of e^(logit - `largest`) up to and with each, until
    /// `stop`. Gives how many were walked, and none if it was never told to stop.
    pub(super) fn walk(
        &mut self,
        largest: f32,
        mut stop: impl FnMut(&Candidate, f64) -> bool,
    ) -> Option<usize> {
        let (mut walked, mut sum, mut n) = (0, 0.0, FIRST);
        loop {
            let best = self.best(n);
            for candidate in &best[walked..] {
                sum += f64::from(exp(candidate.logit - largest));
                walked += 1;
                if stop(candidate, sum) {
                    return Some(walked);
                }
            }
            if best.len() < n {
                return None;
            }
            n *= 8;
        }
    }

    /// Calls `each` for every logit in the running, in no particular order.
    pub(super) fn each_logit(&self, mut each: impl FnMut(f32)) {
        if self.dense {
            self.logits.iter().filter(|&&logit| logit > f32::NEG_INFINITY).for_each(|&logit| each(logit));
        } else {
            self.list.iter().for_each(|candidate| each(candidate.logit));
        }
    }

    /// The best `n` tokens with their probabilities among those in the running, best first.
    pub fn top(&mut self, n: usize) -> Result<Vec<(Candidate, f32)>, SamplingError> {
        let largest = self.largest()?;
        let mass = self.mass(largest);
        let probability = |logit: f32| (f64::from(exp(logit - largest)) / mass) as f32;
        Ok(self.best(n).iter().map(|&candidate| (candidate, probability(candidate.logit))).collect())
    }

    /// The best token, and its probability among those in the running.
    pub fn greedy(&mut self) -> Result<(u32, f32), SamplingError> {
        let largest = self.largest()?;
        let mass = self.mass(largest);
        let best = self.best(1).first().ok_or(SamplingError::Empty)?;
        Ok((best.token, (1.0 / mass) as f32))
    }

    /// Draws from the softmax of the tokens in the running: the first token, best first, whose cumulated
    /// probability is above `uniform`, a number in [0, 1). Gives its probability too.
    pub fn draw(&mut self, uniform: f64) -> Result<(u32, f32), SamplingError> {
        let largest = self.largest()?;
        let mass = self.mass(largest);
        let mut drawn = None;
        self.walk(largest, |candidate, sum| {
            drawn = Some(*candidate);
            sum > uniform * mass
        });
        // Where rounding leaves the sum below the target, the last token is it.
        let drawn = drawn.ok_or(SamplingError::Empty)?;
        Ok((drawn.token, (f64::from(exp(drawn.logit - largest)) / mass) as f32))
    }

    /// Whether a token is in the running.
    pub fn is_running(&self, token: u32) -> bool {
        self.get(token).is_ok_and(|logit| logit > f32::NEG_INFINITY)
    }
}

/// A logit that may have overflowed, as one that can be sampled from.
fn bounded(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }
}
