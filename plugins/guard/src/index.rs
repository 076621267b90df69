//! Where texts of any clause start: one look for all of them, whatever their number.

use std::ops::Range;
use std::rc::Rc;

use crate::matcher::{Matcher, fold, narrow};
use crate::rules::Clause;

/// The literals of all clauses.
#[derive(Debug)]
pub struct Index {
    exact: Literals,
    folded: Literals,
    /// How many characters the longest literal can span.
    longest: usize,
}

impl Index {
    /// The literals of clauses; a clause is known by its place.
    pub fn new(clauses: &[Clause]) -> Self {
        let (mut exact, mut folded, mut longest) = (Vec::new(), Vec::new(), 0);
        for (number, clause) in clauses.iter().enumerate() {
            let Matcher::Literals(literals) = &clause.matcher else { continue };
            let all = if literals.case_sensitive() { &mut exact } else { &mut folded };
            for text in literals.texts() {
                all.push((text.clone(), Owner { number, words: literals.words() }));
                longest = longest.max(text.len());
            }
        }
        Self { exact: Literals::new(exact, true), folded: Literals::new(folded, false), longest }
    }

    /// How many characters of a text, from where a literal starts, say whether it is one; the one behind them counts too.
    pub const fn longest(&self) -> usize {
        self.longest
    }

    /// Whether any of them may start here; what follows decides.
    pub fn may_start(&self, text: &[u8]) -> bool {
        [&self.exact, &self.folded]
            .iter()
            .any(|literals| !literals.texts.is_empty() && literals.may_start(text))
    }

    /// Gives each match that starts in `starts`, with the place of its clause; of a clause, from left to right, and of one position,
    /// the longest last. Nothing follows `text`.
    pub fn find(&self, text: &str, starts: Range<usize>, mut found: impl FnMut(usize, Range<usize>)) {
        for literals in [&self.exact, &self.folded].into_iter().filter(|literals| !literals.texts.is_empty())
        {
            for (start, _) in text[starts.clone()].char_indices() {
                let start = starts.start + start;
                if literals.may_start(&text.as_bytes()[start..]) {
                    literals.at(text, start, &mut found);
                }
            }
        }
    }
}

/// Which clause a literal is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    number: usize,
    words: bool,
}

#[derive(Debug)]
struct Literals {
    /// In order.
    texts: Vec<(Rc<[char]>, Owner)>,
    /// Their first characters, in order, with where those that begin so stand.
    firsts: Vec<(char, Range<usize>)>,
    case_sensitive: bool,
    /// What three ASCII characters they begin with, by [`triple`].
    triples: Vec<bool>,
}

impl Literals {
    fn new(mut texts: Vec<(Rc<[char]>, Owner)>, case_sensitive: bool) -> Self {
        texts.sort_unstable();
        let mut triples = vec![false; if texts.is_empty() { 0 } else { TRIPLES }];
        let mut before = &[][..];
        for (text, _) in &texts {
            let beginning = &text[..text.len().min(3)];
            if beginning != before {
                mark(&mut triples, beginning);
                before = beginning;
            }
        }
        let chunks = texts.chunk_by(|(one, _), (other, _)| one.first() == other.first());
        let mut end = 0;
        let first = |chunk: &[(Rc<[char]>, Owner)]| {
            end += chunk.len();
            Some((*chunk.first()?.0.first()?, end - chunk.len()..end))
        };
        let firsts = chunks.filter_map(first).collect();
        Self { firsts, triples, texts, case_sensitive }
    }

    fn beginning_with(&self, character: char) -> &[(Rc<[char]>, Owner)] {
        match self.firsts.binary_search_by_key(&character, |(first, _)| *first) {
            Ok(found) => &self.texts[self.firsts[found].1.clone()],
            Err(_) => &[],
        }
    }

    /// Whether one may start here, by the next three characters where they are ASCII.
    fn may_start(&self, text: &[u8]) -> bool {
        let Some(bytes) = text.first_chunk::<3>().filter(|bytes| bytes.is_ascii()) else { return true };
        let bytes = if self.case_sensitive { *bytes } else { bytes.map(|byte| byte.to_ascii_lowercase()) };
        self.triples[triple(bytes)]
    }

    fn at(&self, text: &str, start: usize, mut found: impl FnMut(usize, Range<usize>)) {
        let alphanumeric = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
        // Those that begin with what has been read, of which `read` characters.
        let (mut left, mut read) = (self.texts.as_slice(), 0);
        let mut rest = text[start..].chars();
        while let Some(character) = rest.next() {
            fold(character, self.case_sensitive, |folded| {
                left = match read {
                    0 => self.beginning_with(folded),
                    _ => narrow(left, read, folded, |(text, _)| text),
                };
                read += 1;
            });
            let longer = left.iter().take_while(|(text, _)| text.len() == read).count();
            if longer > 0 {
                let end = text.len() - rest.as_str().len();
                let inside =
                    alphanumeric(text[..start].chars().next_back()) || alphanumeric(rest.clone().next());
                for (_, owner) in left[..longer].iter().filter(|(_, owner)| !(owner.words && inside)) {
                    found(owner.number, start..end);
                }
            }
            left = &left[longer..];
            if left.is_empty() {
                break;
            }
        }
    }
}

const TRIPLES: usize = 1 << 15;

/// A number for three characters, another one for any three letters of one case.
fn triple(bytes: [u8; 3]) -> usize {
    bytes.iter().fold(0, |mixed, byte| mixed << 5 ^ usize::from(*byte)) % TRIPLES
}

/// Marks the three characters with which a literal begins, if they are ASCII; where it has fewer, any others behind them.
fn mark(triples: &mut [bool], beginning: &[char]) {
    if !beginning.iter().all(char::is_ascii) {
        return;
    }
    let bytes = |at: usize| match beginning.get(at) {
        Some(character) => *character as u8..=*character as u8,
        None => 0..=127,
    };
    for first in bytes(0) {
        for second in bytes(1) {
            bytes(2).for_each(|third| triples[triple([first, second, third])] = true);
        }
    }
}
