//! A text on which clauses act one after the other. Where the literals of all clauses are in it is searched for once, and after a
//! clause has changed it, only around what has changed.

use std::borrow::Cow;
use std::ops::Range;

use clauses::Stage;

use crate::index::Index;
use crate::matcher::Matcher;
use crate::rules::Clause;

/// A text at a stage.
pub struct Draft<'a> {
    clauses: &'a [Clause],
    index: &'a Index,
    stage: Stage,
    text: Cow<'a, str>,
    /// The matches of each clause with literals, by where they start.
    found: Vec<Vec<Range<usize>>>,
}

/// Bytes that were replaced, and where in the new text what takes their place ends.
struct Edit {
    old: Range<usize>,
    new_end: usize,
    /// The starts, in the text before and in the new one, whose matches depend on them.
    stale: Range<usize>,
    fresh: Range<usize>,
}

impl<'a> Draft<'a> {
    /// A text on which no clause has acted yet.
    pub fn new(clauses: &'a [Clause], index: &'a Index, stage: Stage, text: &'a str) -> Self {
        let found = vec![Vec::new(); clauses.len()];
        let mut draft = Self { clauses, index, stage, text: Cow::Borrowed(text), found };
        let literal = |clause: &Clause| matches!(clause.matcher, Matcher::Literals(_));
        if clauses.iter().any(|clause| literal(clause) && clause.label.applies(stage)) {
            draft.search(0..text.len(), 0);
        }
        draft
    }

    /// What the clauses have left.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The matches of a clause, from left to right; none begins before the one before has ended.
    pub fn matches(&self, number: usize) -> impl Iterator<Item = Range<usize>> {
        let mut from = 0;
        let mut literals = self.found[number].iter();
        std::iter::from_fn(move || {
            let found = match &self.clauses[number].matcher {
                Matcher::Literals(_) => literals.find(|found| found.start >= from).cloned(),
                Matcher::Pattern(pattern) => pattern.find(&self.text, from),
            }?;
            from = found.end;
            Some(found)
        })
    }

    /// Puts a text in place of some stretches, for the clauses from `first` on.
    pub fn replace(&mut self, stretches: &[Range<usize>], replacement: &str, first: usize) {
        let (mut text, mut edits, mut from) = (String::with_capacity(self.text.len()), Vec::new(), 0);
        for (number, old) in stretches.iter().enumerate() {
            let between = &self.text[from..old.start];
            let apart = between.char_indices().rev().nth(self.index.longest().saturating_sub(1));
            let apart = apart.map_or(0, |(apart, _)| apart);
            let fresh = text.len() + apart;
            text.push_str(between);
            text.push_str(replacement);
            let touches = stretches.get(number + 1).is_some_and(|next| next.start == old.end);
            let behind = self.text[old.end..].chars().next().filter(|_| !touches).map_or(0, char::len_utf8);
            edits.push(Edit {
                old: old.clone(),
                new_end: text.len(),
                stale: from + apart..old.end + behind,
                fresh: fresh..text.len() + behind,
            });
            from = old.end;
        }
        text.push_str(&self.text[from..]);
        self.text = Cow::Owned(text);
        for found in self.found[first..].iter_mut().filter(|found| !found.is_empty()) {
            follow(found, &edits);
        }
        let mut searched = 0;
        for edit in &edits {
            self.search(edit.fresh.start.max(searched)..edit.fresh.end, first);
            searched = edit.fresh.end;
        }
        for found in self.found[first..].iter_mut().filter(|found| found.len() > 1) {
            found.sort_unstable_by_key(|found| found.start);
        }
    }

    /// Adds what starts in `starts`, for the clauses from `first` on.
    fn search(&mut self, starts: Range<usize>, first: usize) {
        let Self { clauses, index, stage, text, found } = self;
        index.find(text, starts, |number, place| match found[number].last_mut() {
            Some(last) if last.start == place.start => *last = place,
            _ if number < first || !clauses[number].label.applies(*stage) => {}
            _ => found[number].push(place),
        });
    }
}

/// Drops the matches that depend on what was replaced, and moves the others to where they stand now.
fn follow(found: &mut Vec<Range<usize>>, edits: &[Edit]) {
    let mut before = edits.iter().peekable();
    let (mut old_end, mut new_end) = (0, 0);
    found.retain_mut(|place| {
        while let Some(edit) = before.next_if(|edit| edit.stale.end <= place.start) {
            (old_end, new_end) = (edit.old.end, edit.new_end);
        }
        if before.peek().is_some_and(|edit| edit.stale.contains(&place.start)) {
            return false;
        }
        *place = place.start - old_end + new_end..place.end - old_end + new_end;
        true
    });
}
