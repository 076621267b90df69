//! How often experts are used, from one run to the next.

use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;

/// How many tokens used each expert of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupUsage {
    /// Tokens for which experts of the group were asked for.
    pub tokens: u64,
    /// For each expert, how many of them used it.
    pub uses: Vec<u64>,
}

/// How many tokens used each expert of a catalog: what a pager has seen, and what one of an earlier run can tell the next. The
/// last group may be that of a head that drafts tokens, which some runs of a model load and others don't.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// One for each group of the catalog.
    pub groups: Vec<GroupUsage>,
}

impl GroupUsage {
    /// The share of tokens that used an expert, from 0 to 1.
    pub(crate) fn share(&self, index: usize) -> f64 {
        let uses = self.uses.get(index).copied().unwrap_or(0);
        (uses as f64 / self.tokens.max(1) as f64).min(1.0)
    }
}

impl Usage {
    /// No token yet.
    pub fn none(catalog: &Catalog) -> Self {
        let group = |records: &Vec<_>| GroupUsage { tokens: 0, uses: vec![0; records.len()] };
        Self { groups: catalog.groups().iter().map(group).collect() }
    }

    /// Whether it has the groups and experts of a catalog; one of both may have a last group more.
    pub fn fits(&self, catalog: &Catalog) -> bool {
        self.has_groups_of(catalog.groups().iter().map(Vec::len))
    }

    /// Whether it has groups of so many experts; one of both may have a last group more.
    fn has_groups_of(&self, sizes: impl ExactSizeIterator<Item = usize>) -> bool {
        self.groups.len().abs_diff(sizes.len()) <= 1
            && self.groups.iter().zip(sizes).all(|(group, size)| group.uses.len() == size)
    }

    /// What it says of a catalog that it fits.
    pub(crate) fn within(&self, catalog: &Catalog) -> Self {
        Self { groups: self.groups.iter().take(catalog.groups().len()).cloned().collect() }
    }

    /// Whether any expert was used.
    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.tokens == 0)
    }

    /// What an earlier run saw and then this one, of which the earlier counts for at most `most` tokens: routing follows the
    /// text, so that what is long ago says little. An earlier one of another shape counts for nothing; a last group that only one of
    /// them has stays.
    #[must_use]
    pub fn after(&self, earlier: &Self, most: u64) -> Self {
        let mut both = self.clone();
        if !self.has_groups_of(earlier.groups.iter().map(|group| group.uses.len())) {
            return both;
        }
        let missing = earlier.groups.iter().skip(self.groups.len());
        both.groups.extend(missing.map(|group| GroupUsage { tokens: 0, uses: vec![0; group.uses.len()] }));
        for (group, earlier) in both.groups.iter_mut().zip(&earlier.groups) {
            let tokens = earlier.tokens.min(most);
            // A token uses an expert once: what says otherwise is damaged.
            let faded = |uses: u64| {
                let uses = u128::from(uses.min(earlier.tokens));
                (uses * u128::from(tokens) / u128::from(earlier.tokens.max(1))) as u64
            };
            group.tokens = group.tokens.saturating_add(tokens);
            for (uses, earlier) in group.uses.iter_mut().zip(&earlier.uses) {
                *uses = uses.saturating_add(faded(*earlier));
            }
        }
        both
    }

    /// What was added to an earlier state of the same counts.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut added = self.clone();
        for (group, earlier) in added.groups.iter_mut().zip(&earlier.groups) {
            group.tokens = group.tokens.saturating_sub(earlier.tokens);
            for (uses, earlier) in group.uses.iter_mut().zip(&earlier.uses) {
                *uses = uses.saturating_sub(*earlier);
            }
        }
        added
    }

    /// The experts that any token used, by position in the catalog, those of the largest share first.
    pub(crate) fn likeliest(&self) -> Vec<usize> {
        let shares =
            self.groups.iter().flat_map(|group| (0..group.uses.len()).map(|index| group.share(index)));
        let mut used: Vec<(usize, f64)> = shares.enumerate().filter(|&(_, share)| share > 0.0).collect();
        used.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        used.into_iter().map(|(position, _)| position).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(tokens: u64, uses: &[u64]) -> Usage {
        Usage { groups: vec![GroupUsage { tokens, uses: uses.to_vec() }] }
    }

    #[test]
    fn what_is_long_ago_counts_for_a_bounded_number_of_tokens() {
        let now = usage(10, &[10, 0, 5]);
        assert_eq!(now.after(&usage(1000, &[0, 1000, 500]), 100), usage(110, &[10, 100, 55]));
        assert_eq!(now.after(&usage(50, &[1, 2, 3]), 100), usage(60, &[11, 2, 8]));
        assert_eq!(now.after(&usage(50, &[1, 2]), 100), now, "another shape");
        assert_eq!(now.after(&Usage::default(), 100), now);
        let damaged = usage(1, &[u64::MAX, 0, 0]);
        assert_eq!(now.after(&damaged, 100), usage(11, &[11, 0, 5]));
        let greatest = usage(u64::MAX, &[u64::MAX; 3]);
        assert_eq!(greatest.after(&greatest, u64::MAX), greatest);
    }

    #[test]
    fn a_last_group_that_only_one_run_has_stays() {
        let last = GroupUsage { tokens: 4, uses: vec![4, 0] };
        let and_last = |mut usage: Usage| {
            usage.groups.push(last.clone());
            usage
        };
        let (with, without) = (and_last(usage(10, &[10, 0, 5])), usage(20, &[1, 2, 3]));
        let both = and_last(usage(30, &[11, 2, 8]));
        assert_eq!(with.after(&without, 100), both);
        assert_eq!(without.after(&with, 100), both);
        assert_eq!(without.after(&and_last(with), 100), without, "another model");
    }

    #[test]
    fn what_was_added_is_added_once() {
        let (before, now) = (usage(10, &[10, 0, 5]), usage(13, &[12, 0, 8]));
        assert_eq!(now.since(&before), usage(3, &[2, 0, 3]));
        assert_eq!(now.since(&before).after(&before, 100), now);
        assert_eq!(now.since(&Usage::default()), now);
    }

    #[test]
    fn the_likeliest_come_first_and_those_without_use_not_at_all() {
        let mut both = usage(100, &[10, 0, 50]);
        both.groups.push(GroupUsage { tokens: 10, uses: vec![4, 0] });
        assert_eq!(both.likeliest(), [2, 3, 0]);
        assert!(usage(0, &[0, 0]).is_empty() && !both.is_empty());
    }
}
