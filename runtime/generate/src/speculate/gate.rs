//! The gate: whether drafts gain time, by what passes took and which drafts came true.
//!
//! It knows what a pass of so many rows takes, and how often drafts behind a match of some length come true; from both follows
//! by how much a number of drafts is faster than none. What speculation gained or lost is on an account, to which a small
//! share of the time goes that passes without it take: at or below nothing there are no drafts. So an error of the estimates
//! costs no more than that share.

use membrane_engine::MOST_DRAFTS;

/// Rows of a pass that are told apart: a token, its drafts, and what drafts that were not taken left to be computed again.
const ROWS: usize = 2 * MOST_DRAFTS + 2;
/// Rows that kernels take at once.
const TILE: usize = 4;
/// Weight of the latest pass in what passes of so many rows take.
const PASS_WEIGHT: f64 = 0.25;
/// Weight of the latest draft in how often drafts come true.
const DRAFT_WEIGHT: f64 = 0.1;
/// Least expected speed with drafts, over that without.
const LEAST_GAIN: f64 = 1.04;
/// What a further row is expected to take before one was measured, as a part of a pass of one.
const ROW_GUESS: f64 = 0.2;
/// Share of the time of passes without drafts that may be lost to speculation.
const SHARE: f64 = 0.02;
/// What stands on the account at first, in passes of one row.
const FIRST_BALANCE: f64 = 2.0;
/// The most that stands on the account or is taken from it at a time, in passes of one row.
const MOST_BALANCE: f64 = 16.0;
const MOST_LOSS: f64 = 4.0;
/// Passes with drafts after which one without is measured.
const RENEW: u32 = 32;
/// Passes after which a measurement is no longer believed.
const STALE: u64 = 512;
/// How often drafts come true before any was seen, see [`place`]: by the length of the match that they stand behind, then
/// those of the model's head, the first, the second, and so on.
const EXPECTED: [f64; 9] = [0.15, 0.3, 0.45, 0.55, 0.7, 0.85, 0.7, 0.6, 0.5];
/// The first of the head's.
const OF_HEAD: usize = 6;
/// What a draft of the head is expected to take before one was measured, as a part of a pass of one row.
const HEAD_GUESS: f64 = 0.1;

/// Where drafts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// What followed a match of this length, in tokens.
    Match(usize),
    /// The model's own head.
    Head,
}

/// What there is to draft.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlook {
    /// Where they come from.
    pub source: Source,
    /// Drafts that there are.
    pub most: usize,
    /// Rows that go through the model in any case beside the token's.
    pub behind: usize,
    /// Whether tokens before a draft that is not taken go through the model once more.
    pub recurrent: bool,
}

/// What passes of some number of rows take.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    /// The pass that was measured last.
    at: u64,
}

/// What was measured so far.
#[derive(Debug)]
pub(super) struct Measured {
    costs: [Option<Cost>; ROWS + 1], // by rows
    comes_true: [f64; EXPECTED.len()],
    /// What a draft of the head takes.
    head: Option<Cost>,
    /// Seconds that speculation may still lose; none before the first pass without it.
    balance: Option<f64>,
    passes: u64,
    /// Passes with drafts since the last without.
    in_a_row: u32,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            costs: [None; ROWS + 1],
            comes_true: EXPECTED,
            head: None,
            balance: None,
            passes: 0,
            in_a_row: 0,
        }
    }
}

/// Which of the drafts that are told apart the one with this number is.
fn place(source: Source, number: usize) -> usize {
    match source {
        // Those before it made the match longer.
        Source::Match(matched) => match matched + number {
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4..6 => 3,
            6..10 => 4,
            _ => 5,
        },
        Source::Head => (OF_HEAD + number).min(EXPECTED.len() - 1),
    }
}

impl Measured {
    /// The drafts that gain most, and how many of them to compute ahead.
    pub fn choose(&self, outlooks: [Outlook; 2]) -> (Source, usize) {
        let [first, second] = outlooks.map(|outlook| (outlook.source, self.best(&outlook)));
        let (source, (drafts, _)) = if second.1.1 > first.1.1 { second } else { first };
        (source, drafts)
    }

    /// How many drafts gain most, and the speed with them over that without.
    fn best(&self, outlook: &Outlook) -> (usize, f64) {
        let affordable = self.balance.is_some_and(|balance| balance > 0.0);
        let Some(one) = self.cost(1).filter(|_| affordable && self.in_a_row < RENEW) else { return (0, 1.0) };
        let fresh = self.head.filter(|head| self.passes - head.at < STALE);
        let each = match outlook.source {
            Source::Match(_) => 0.0,
            Source::Head => fresh.map_or(HEAD_GUESS * one, |head| head.seconds),
        };
        let rows = 1 + outlook.behind;
        let (mut best, mut most_gain) = (0, LEAST_GAIN);
        let (mut expected, mut all) = (1.0, 1.0);
        for drafts in 1..=outlook.most {
            // The rows behind the last whole tile of a kernel are dear.
            let whole = (rows + drafts) <= TILE || (rows + drafts).is_multiple_of(TILE);
            let place = place(outlook.source, drafts - 1);
            // What was seen of the head long ago may be otherwise now; matches are seen all the time.
            let known = place < OF_HEAD || fresh.is_some();
            all *= if known { self.comes_true[place] } else { EXPECTED[place] };
            expected += all;
            let again = self.estimate(one, 1 + expected.round() as usize) - one;
            let again = if outlook.recurrent { (1.0 - all) * again } else { 0.0 };
            let seconds = one + self.estimate(one, rows + drafts) - self.estimate(one, rows)
                + again
                + drafts as f64 * each;
            let gain = expected * one / seconds;
            if gain > most_gain && (whole || drafts == outlook.most) {
                (best, most_gain) = (drafts, gain);
            }
        }
        (best, most_gain)
    }

    /// The head made so many drafts in this time.
    pub fn made(&mut self, drafts: usize, seconds: f64) {
        if drafts > 0 {
            let each = seconds / drafts as f64;
            let before = self.head.map_or(each, |head| head.seconds);
            self.head = Some(Cost { seconds: before + PASS_WEIGHT * (each - before), at: self.passes });
        }
    }

    /// A pass of so many rows took so long.
    pub fn passed(&mut self, rows: usize, seconds: f64) {
        self.passes += 1;
        let rows = rows.min(ROWS);
        let before = self.cost(rows).unwrap_or(seconds);
        let seconds_now = before + PASS_WEIGHT * (seconds - before);
        self.costs[rows] = Some(Cost { seconds: seconds_now, at: self.passes });
        self.in_a_row = if rows > 1 { self.in_a_row + 1 } else { 0 };
        if rows == 1 {
            let balance = self.balance.map_or(FIRST_BALANCE * seconds, |balance| balance + SHARE * seconds);
            self.balance = Some(balance.min(MOST_BALANCE * seconds_now));
        }
    }

    /// A pass of more than one row gave so many tokens in the end.
    pub fn gained(&mut self, tokens: usize, seconds: f64) {
        let (Some(one), Some(balance)) = (self.costs[1].map(|cost| cost.seconds), self.balance) else {
            return;
        };
        let gain = (tokens as f64 * one - seconds).max(-MOST_LOSS * one);
        self.balance = Some((balance + gain).min(MOST_BALANCE * one));
    }

    /// The draft with this number came true or not.
    pub fn seen(&mut self, source: Source, number: usize, came_true: bool) {
        let chance = &mut self.comes_true[place(source, number)];
        *chance += DRAFT_WEIGHT * (f64::from(u8::from(came_true)) - *chance);
    }

    /// What a pass of so many rows takes, if that was measured of late. Passes of one row are measured all the time.
    fn cost(&self, rows: usize) -> Option<f64> {
        let fresh = |cost: &Cost| rows == 1 || self.passes - cost.at < STALE;
        self.costs[rows].filter(fresh).map(|cost| cost.seconds)
    }

    /// The same where it was not measured: from the nearest numbers of rows that were, `one` being that of one.
    fn estimate(&self, one: f64, rows: usize) -> f64 {
        let rows = rows.min(ROWS);
        if let Some(cost) = self.cost(rows) {
            return cost;
        }
        let known = |rows: usize| self.cost(rows).map(|cost| (rows as f64, cost));
        let (below, cost) = (1..rows).rev().find_map(known).unwrap_or((1.0, one));
        let further = rows as f64 - below;
        match (rows + 1..=ROWS).find_map(known) {
            Some((above, more)) => cost + (more - cost) * further / (above - below),
            None if below > 1.0 => cost + (cost - one).max(0.0) / (below - 1.0) * further,
            None => cost + ROW_GUESS * one * further,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source::Match(8);
    const OUTLOOK: Outlook = Outlook { source: SOURCE, most: MOST_DRAFTS, behind: 0, recurrent: false };

    /// Decodes with drafts of which `comes_true` says whether one comes true, on a machine where a pass of `rows` rows takes
    /// `cost(rows)`. Gives the time over that without drafts, and how many passes had some.
    fn run(
        tokens: usize,
        mut comes_true: impl FnMut(usize) -> bool,
        cost: impl Fn(usize) -> f64,
    ) -> (f64, usize) {
        let mut measured = Measured::default();
        let (mut done, mut seconds, mut speculated) = (0, 0.0, 0);
        while done < tokens {
            let drafts = measured.best(&OUTLOOK).0;
            let took = cost(1 + drafts);
            measured.passed(1 + drafts, took);
            seconds += took;
            if drafts == 0 {
                measured.seen(SOURCE, 0, comes_true(done));
                done += 1;
                continue;
            }
            speculated += 1;
            let taken = (0..drafts).take_while(|place| comes_true(done + place)).count();
            (0..taken).for_each(|place| measured.seen(SOURCE, place, true));
            if taken < drafts {
                measured.seen(SOURCE, taken, false);
            }
            measured.gained(1 + taken, took);
            done += 1 + taken;
        }
        (seconds / (done as f64 * cost(1)), speculated)
    }

    #[test]
    fn drafts_that_come_true_gain() {
        let (time, _) = run(400, |_| true, |rows| 1.0 + 0.2 * (rows - 1) as f64);
        assert!(time < 0.45, "{time}");
        let (time, _) = run(400, |token| token % 4 != 0, |rows| 1.0 + 0.2 * (rows - 1) as f64);
        assert!(time < 0.85, "{time}");
    }

    #[test]
    fn where_they_cannot_gain_nearly_nothing_is_lost() {
        let never = run(1000, |_| false, |rows| 1.0 + 0.2 * (rows - 1) as f64);
        // Each further row as dear as the first.
        let dear = run(1000, |token| token % 3 != 0, |rows| rows as f64);
        // Rows that seem cheap by what they are expected to take and are not.
        let cliff = run(1000, |_| true, |rows| if rows == 1 { 1.0 } else { 12.0 });
        for (time, speculated) in [never, dear, cliff] {
            assert!(time < 1.025, "{time} {speculated}");
        }
    }

    #[test]
    fn it_comes_back_when_the_text_begins_to_repeat_and_stops_when_it_ends() {
        let cost = |rows: usize| 1.0 + 0.2 * (rows - 1) as f64;
        let (time, speculated) = run(1200, |token| (400..800).contains(&token), cost);
        assert!(time < 0.9 && speculated > 20, "{time} {speculated}");
    }

    #[test]
    fn a_pass_without_drafts_is_measured_now_and_then() {
        let mut measured = Measured::default();
        measured.passed(1, 1.0);
        let mut passes = 0;
        while measured.best(&OUTLOOK).0 > 0 {
            measured.passed(8, 1.5);
            measured.gained(8, 1.5);
            passes += 1;
        }
        assert_eq!(passes, RENEW);
    }

    #[test]
    fn the_head_drafts_where_it_gains_more_than_a_match() {
        let mut measured = Measured::default();
        measured.passed(1, 1.0);
        let outlooks = |matched| {
            let outlook = |source, most| Outlook { source, most, ..OUTLOOK };
            [outlook(Source::Match(matched), MOST_DRAFTS), outlook(Source::Head, 3)]
        };
        assert_eq!(measured.choose(outlooks(12)), (Source::Match(12), MOST_DRAFTS));
        assert_eq!(measured.choose(outlooks(1)).0, Source::Head);
        // A head that is dear or wrong is left alone.
        let mut dear = Measured::default();
        dear.passed(1, 1.0);
        dear.made(1, 0.9);
        assert_eq!(dear.choose(outlooks(1)).1, 0);
        measured.made(1, 0.1);
        (0..30).for_each(|_| measured.seen(Source::Head, 0, false));
        assert_eq!(measured.choose(outlooks(1)).1, 0);
        // After a while it is tried again.
        (0..STALE).for_each(|_| measured.passed(1, 1.0));
        assert_eq!(measured.choose(outlooks(1)).0, Source::Head);
    }

    #[test]
    fn what_was_not_measured_lies_between_what_was() {
        let mut measured = Measured::default();
        measured.passed(1, 1.0);
        assert_eq!(measured.estimate(1.0, 3), 1.0 + 2.0 * ROW_GUESS);
        measured.passed(5, 2.0);
        assert_eq!(measured.estimate(1.0, 3), 1.5);
        assert_eq!(measured.estimate(1.0, 9), 3.0);
        assert_eq!(measured.estimate(1.0, 10_000), measured.estimate(1.0, ROWS));
    }
}
