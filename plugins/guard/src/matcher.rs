//! What a clause looks for: literal texts or a pattern.

use std::collections::HashMap;
use std::ops::Range;

use regex_lite::{Regex, RegexBuilder};

/// Longest literal and pattern, in bytes, and the most literals of a clause.
const MAX_LITERAL_BYTES: usize = 1024;
const MAX_PATTERN_BYTES: usize = 4096;
const MAX_LITERALS: usize = 10_000;

/// Largest compiled pattern, in bytes; each character of a text may visit all of it.
const MAX_COMPILED_BYTES: usize = 256 << 10;

/// What a clause looks for.
#[derive(Debug)]
pub enum Matcher {
    /// Any of several texts.
    Literals(Literals),
    /// A regular expression.
    Pattern(Pattern),
}

/// What is known about one position of a text that is still arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Nothing starts here, whatever follows.
    Nothing,
    /// A match starts here and ends before this byte of the text.
    Match(usize),
    /// It depends on what follows.
    Open,
}

impl Matcher {
    /// What starts at byte `at` of `text`. `done` says that nothing follows the text. What is found depends
    /// only on the character before `at` and on what stands behind it.
    pub fn at(&self, text: &str, at: usize, done: bool) -> At {
        match self {
            Matcher::Literals(literals) => literals.at(text, at, done),
            Matcher::Pattern(pattern) => pattern.at(text, at, done),
        }
    }

    /// The first match in `text` that starts at byte `from` or later, where nothing follows the text.
    pub fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
        match self {
            Matcher::Literals(literals) => text[from..].char_indices().find_map(|(index, _)| match literals
                .at(text, from + index, true)
            {
                At::Match(end) => Some(from + index..end),
                At::Nothing | At::Open => None,
            }),
            Matcher::Pattern(pattern) => pattern.find(text, from),
        }
    }
}

/// Texts, any of which matches; where several match at a position, the longest does.
#[derive(Debug)]
pub struct Literals {
    /// By the first character, folded.
    by_start: HashMap<char, Vec<Vec<char>>>,
    case_sensitive: bool,
    words: bool,
}

impl Literals {
    /// Texts to look for. `words` asks for no letter or digit directly before or behind.
    pub fn new(texts: &[String], case_sensitive: bool, words: bool) -> Result<Self, String> {
        if texts.is_empty() || texts.len() > MAX_LITERALS {
            return Err(format!("`match` has {} texts, not 1 to {MAX_LITERALS}", texts.len()));
        }
        let mut literals = Self { by_start: HashMap::new(), case_sensitive, words };
        for text in texts {
            if text.trim().is_empty() {
                return Err("`match` has a text that is blank".to_owned());
            }
            if text.len() > MAX_LITERAL_BYTES {
                return Err(format!("`match` has a text that is longer than {MAX_LITERAL_BYTES} bytes"));
            }
            let folded: Vec<char> = text.chars().flat_map(|c| fold(c, case_sensitive)).collect();
            if let Some(start) = folded.first() {
                literals.by_start.entry(*start).or_default().push(folded);
            }
        }
        Ok(literals)
    }

    fn at(&self, text: &str, at: usize, done: bool) -> At {
        let first = text[at..].chars().next().and_then(|c| fold(c, self.case_sensitive).next());
        let Some(candidates) = first.and_then(|first| self.by_start.get(&first)) else { return At::Nothing };
        if self.words && text[..at].chars().next_back().is_some_and(char::is_alphanumeric) {
            return At::Nothing;
        }
        let mut longest = None;
        for literal in candidates {
            match self.literal_at(literal, text, at, done) {
                At::Open => return At::Open,
                At::Match(end) => longest = longest.max(Some(end)),
                At::Nothing => {}
            }
        }
        longest.map_or(At::Nothing, At::Match)
    }

    fn literal_at(&self, literal: &[char], text: &str, at: usize, done: bool) -> At {
        let open = if done { At::Nothing } else { At::Open };
        let mut left = literal;
        let mut rest = text[at..].chars();
        while !left.is_empty() {
            let Some(character) = rest.next() else { return open };
            for folded in fold(character, self.case_sensitive) {
                match left.split_first() {
                    Some((expected, others)) if *expected == folded => left = others,
                    _ => return At::Nothing,
                }
            }
        }
        let end = text.len() - rest.as_str().len();
        match rest.next() {
            Some(next) if self.words && next.is_alphanumeric() => At::Nothing,
            None if self.words && !done => At::Open,
            _ => At::Match(end),
        }
    }
}

/// A character as it is compared: itself, or the lower case of its upper case, which can be several characters.
/// By way of the upper case, forms of a letter that differ in lower case alone (the two small sigmas) are one.
fn fold(character: char, case_sensitive: bool) -> impl Iterator<Item = char> {
    let folded = (!case_sensitive).then(|| character.to_uppercase().flat_map(char::to_lowercase));
    let same = case_sensitive.then_some(character);
    same.into_iter().chain(folded.into_iter().flatten())
}

/// A regular expression. In a text that is still arriving it sees at most `window` bytes from where a match
/// starts, so that what it finds there does not depend on how much has arrived.
#[derive(Debug)]
pub struct Pattern {
    /// For texts that are there at once.
    anywhere: Regex,
    /// For the very start of a text.
    at_start: Regex,
    /// For any other position: it starts one character before it, so that `^` and `\b` know what stands
    /// there.
    behind_one: Regex,
    window: usize,
}

impl Pattern {
    /// Compiles a pattern. Errors: its syntax, its size, or that it matches the empty text.
    pub fn new(pattern: &str, case_sensitive: bool, window: usize) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(format!("`pattern` is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        let compile = |pattern: &str| {
            let mut builder = RegexBuilder::new(pattern);
            builder.case_insensitive(!case_sensitive).size_limit(MAX_COMPILED_BYTES);
            builder.build().map_err(|error| format!("`pattern`: {error}"))
        };
        let anywhere = compile(pattern)?;
        if anywhere.is_match("") {
            return Err("`pattern` matches the empty text, and so everywhere".to_owned());
        }
        let at_start = compile(&format!(r"\A(?:{pattern})"))?;
        let behind_one = compile(&format!(r"\A(?s:.)(?:{pattern})"))?;
        Ok(Self { anywhere, at_start, behind_one, window })
    }

    fn at(&self, text: &str, at: usize, done: bool) -> At {
        if text.len() - at < self.window && !done {
            return At::Open;
        }
        let window = &text[..text.floor_char_boundary((at + self.window).min(text.len()))];
        let found = match window[..at].char_indices().next_back() {
            Some((before, _)) => self.behind_one.find(&window[before..]).map(|found| before + found.end()),
            None => self.at_start.find(window).map(|found| found.end()),
        };
        found.filter(|end| *end > at).map_or(At::Nothing, At::Match)
    }

    fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let mut from = from;
        while from <= text.len() {
            let found = self.anywhere.find_at(text, from)?;
            if !found.is_empty() {
                return Some(found.range());
            }
            from = found.end() + text[found.end()..].chars().next().map_or(1, char::len_utf8);
        }
        None
    }
}
