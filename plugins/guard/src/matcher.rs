//! What a clause looks for: literal texts or a pattern.

use std::ops::Range;
use std::rc::Rc;

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
}

/// Texts, any of which matches; where several match at a position, the longest does.
#[derive(Debug)]
pub struct Literals {
    /// Folded, in order, each once.
    texts: Vec<Rc<[char]>>,
    case_sensitive: bool,
    words: bool,
}

impl Literals {
    /// Texts to look for. `words` asks for no letter or digit directly before or behind.
    pub fn new(texts: &[String], case_sensitive: bool, words: bool) -> Result<Self, String> {
        if texts.is_empty() || texts.len() > MAX_LITERALS {
            return Err(format!("`match` has {} texts, not 1 to {MAX_LITERALS}", texts.len()));
        }
        for text in texts {
            if text.trim().is_empty() {
                return Err("`match` has a text that is blank".to_owned());
            }
            if text.len() > MAX_LITERAL_BYTES {
                return Err(format!("`match` has a text that is longer than {MAX_LITERAL_BYTES} bytes"));
            }
        }
        let folded = |text: &String| {
            let mut folded = Vec::new();
            text.chars().for_each(|character| fold(character, case_sensitive, |c| folded.push(c)));
            folded.into()
        };
        let mut texts: Vec<Rc<[char]>> = texts.iter().map(folded).collect();
        texts.sort_unstable();
        texts.dedup();
        Ok(Self { texts, case_sensitive, words })
    }

    /// The texts, folded.
    pub fn texts(&self) -> &[Rc<[char]>] {
        &self.texts
    }

    /// Whether `A` is not `a`.
    pub const fn case_sensitive(&self) -> bool {
        self.case_sensitive
    }

    /// Whether they are words.
    pub const fn words(&self) -> bool {
        self.words
    }

    fn at(&self, text: &str, at: usize, done: bool) -> At {
        if self.words && text[..at].chars().next_back().is_some_and(char::is_alphanumeric) {
            return At::Nothing;
        }
        // Those that begin with what has been read, of which `read` characters.
        let (mut left, mut read) = (self.texts.as_slice(), 0);
        let mut longest = At::Nothing;
        let mut rest = text[at..].chars();
        loop {
            let Some(character) = rest.next() else { return if done { longest } else { At::Open } };
            fold(character, self.case_sensitive, |folded| {
                left = narrow(left, read, folded, |text| text);
                read += 1;
            });
            // The shortest comes first.
            if let Some((_, longer)) = left.split_first().filter(|(shortest, _)| shortest.len() == read) {
                left = longer;
                match rest.clone().next() {
                    Some(next) if self.words && next.is_alphanumeric() => {}
                    None if self.words && !done => return At::Open,
                    _ => longest = At::Match(text.len() - rest.as_str().len()),
                }
            }
            if left.is_empty() {
                return longest;
            }
        }
    }
}

/// Of texts in order that have `read` characters in common, those that go on with `character`.
pub fn narrow<T>(texts: &[T], read: usize, character: char, text: impl Fn(&T) -> &[char]) -> &[T] {
    let start = texts.partition_point(|entry| text(entry).get(read) < Some(&character));
    let length = texts[start..].partition_point(|entry| text(entry).get(read) == Some(&character));
    &texts[start..start + length]
}

/// A character as it is compared: itself, or the lower case of its upper case, which can be several characters.
/// By way of the upper case, forms of a letter that differ in lower case alone (the two small sigmas) are one.
pub fn fold(character: char, case_sensitive: bool, mut each: impl FnMut(char)) {
    if case_sensitive {
        each(character);
    } else if character.is_ascii() {
        each(character.to_ascii_lowercase());
    } else {
        character.to_uppercase().flat_map(char::to_lowercase).for_each(each);
    }
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

    /// The first match in `text` that starts at byte `from` or later, where nothing follows the text.
    pub fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
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
