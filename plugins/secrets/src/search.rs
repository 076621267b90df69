//! Looking for secrets in a text that arrives piece by piece.
//!
//! The text is searched from left to right. What holds at a position depends on a bounded stretch behind it, so
//! the search waits there, and releases what is before, until that stretch has arrived. Hence the pieces in which a
//! text arrives never change what is released.

use std::ops::Range;

use membrane_plugin::policy::Reason;

use crate::kinds::{self, At, BEFORE, Kind};

/// The clause of a text that the profile names.
const OWN_TEXT: &str = "secrets:text";

/// What to look for.
pub struct Secrets {
    /// In order.
    texts: Vec<String>,
    /// By the byte that stands at a place.
    by_first: Vec<Candidates>,
}

/// What can begin with a byte.
struct Candidates {
    kinds: Vec<&'static Kind>,
    texts: Range<usize>,
}

/// Which secret was found.
#[derive(Clone, Copy)]
enum Which {
    Kind(&'static Kind),
    Text,
}

/// A secret in a text.
#[derive(Clone, Copy)]
pub struct Secret {
    which: Which,
    /// Where the search found it.
    pub at: usize,
    /// The stretch that is secret.
    pub from: usize,
    /// Its end.
    pub end: usize,
    /// Whether it goes on with the secret before, whose replacement stands there already.
    pub goes_on: bool,
    more: bool,
}

impl Secret {
    /// The reason of the verdict.
    pub fn reason(&self) -> Reason {
        match self.which {
            Which::Kind(kind) => Reason::new(format!("secrets:{}", kind.name), kind.note),
            Which::Text => Reason::new(OWN_TEXT, "A text that the profile keeps secret."),
        }
    }

    /// Of two secrets at a place the one that goes further, with what is secret of both.
    fn and(self, other: Self) -> Self {
        let (from, goes_on) = (self.from.min(other.from), self.goes_on || other.goes_on);
        let further = if other.end > self.end { other } else { self };
        Self { from, goes_on, ..further }
    }

    /// The kind of which what follows may be more.
    fn inside(&self) -> Option<&'static Kind> {
        match self.which {
            Which::Kind(kind) if self.more => Some(kind),
            _ => None,
        }
    }
}

/// What a search has found first.
pub enum Found {
    /// Nothing before this byte; what starts here is not known yet.
    Nothing(usize),
    /// A secret.
    Secret(Secret),
}

/// How far the search of one text has come.
#[derive(Default)]
pub struct Place {
    /// The last characters before what is still to be searched, as they stood in the text.
    before: String,
    /// A secret that may go on.
    inside: Option<&'static Kind>,
}

impl Place {
    /// Goes on behind `text`, in which nothing is secret.
    pub fn pass(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let last = |text: &str| text.char_indices().rev().nth(BEFORE - 1).map_or(0, |(at, _)| at);
        self.before.push_str(&text[last(text)..]);
        self.before.drain(..last(&self.before));
        self.inside = None;
    }

    /// Goes on behind a secret, which ended `text`.
    pub fn pass_secret(&mut self, text: &str, secret: &Secret) {
        self.pass(text);
        self.inside = secret.inside();
    }
}

impl Secrets {
    /// Kinds by name, and texts of one's own.
    pub fn new(kinds: &[String], mut texts: Vec<String>) -> Result<Self, String> {
        let find = |name: &String| {
            let known = kinds::ALL.iter().find(|kind| kind.name == name);
            known.ok_or_else(|| {
                let names: Vec<&str> = kinds::ALL.iter().map(|kind| kind.name).collect();
                format!("kinds: there is no `{name}`; there are: {}", names.join(", "))
            })
        };
        let kinds = kinds.iter().map(find).collect::<Result<Vec<_>, String>>()?;
        texts.sort_unstable();
        texts.dedup();
        let candidates = |byte| {
            let before = texts.partition_point(|text| text.as_bytes().first() < Some(&byte));
            let end = texts.partition_point(|text| text.as_bytes().first() <= Some(&byte));
            let kinds = kinds.iter().copied().filter(|kind| kind.begins(byte)).collect();
            Candidates { kinds, texts: before..end }
        };
        let by_first = (0..=u8::MAX).map(candidates).collect();
        Ok(Self { texts, by_first })
    }

    /// The first secret in `pending`, which stands behind `place`.
    pub fn search(&self, place: &Place, pending: &str, done: bool) -> Found {
        let before = place.before.len();
        match self.first(&[place.before.as_str(), pending].concat(), before, place.inside, done) {
            Found::Nothing(at) => Found::Nothing(at - before),
            Found::Secret(secret) => {
                let Secret { at, from, end, .. } = secret;
                Found::Secret(Secret { at: at - before, from: from - before, end: end - before, ..secret })
            }
        }
    }

    /// The first secret from byte `start` of a text on, which may go on there with one of the kind `inside`.
    fn first(&self, text: &str, start: usize, inside: Option<&'static Kind>, done: bool) -> Found {
        if let Some(kind) = inside {
            match kind.more(&text[start..], done) {
                At::Open => return Found::Nothing(start),
                At::Match { from, end, more } => {
                    let (which, from, end) = (Which::Kind(kind), start + from, start + end);
                    return Found::Secret(Secret {
                        which,
                        at: start,
                        from,
                        end,
                        goes_on: from == start,
                        more,
                    });
                }
                At::Nothing => {}
            }
        }
        for (at, _) in text[start..].char_indices() {
            let at = start + at;
            let Candidates { kinds, texts } = &self.by_first[usize::from(text.as_bytes()[at])];
            if kinds.is_empty() && texts.is_empty() {
                continue;
            }
            let in_word = kinds::in_word(&text[..at]);
            let kinds = kinds.iter().map(|kind| (Which::Kind(kind), kind.at(text, at, in_word, done)));
            let own = (Which::Text, longest(&self.texts[texts.clone()], text, at, done));
            let mut found: Option<Secret> = None;
            for (which, seen) in kinds.chain([own]) {
                match seen {
                    At::Open => return Found::Nothing(at),
                    At::Match { from, end, more } => {
                        let goes_on = inside.is_some() && at == start && from == start;
                        let one = Secret { which, at, from, end, goes_on, more };
                        found = Some(found.map_or(one, |other| other.and(one)));
                    }
                    At::Nothing => {}
                }
            }
            if let Some(found) = found {
                return Found::Secret(found);
            }
        }
        Found::Nothing(text.len())
    }

    /// A whole text without its secrets, and the reason of the first; none if there are none.
    pub fn redact(&self, text: &str, replacement: &str) -> Option<(String, Reason)> {
        let (mut redacted, mut first) = (String::new(), None);
        let (mut start, mut inside) = (0, None);
        while let Found::Secret(secret) = self.first(text, start, inside, true) {
            redacted.push_str(&text[start..secret.from]);
            redacted.push_str(if secret.goes_on { "" } else { replacement });
            (start, inside) = (secret.end, secret.inside());
            first.get_or_insert_with(|| secret.reason());
        }
        redacted.push_str(&text[start..]);
        first.map(|reason| (redacted, reason))
    }

    /// The reason of the first secret in a whole text.
    pub fn find(&self, text: &str) -> Option<Reason> {
        match self.first(text, 0, None, true) {
            Found::Secret(secret) => Some(secret.reason()),
            Found::Nothing(_) => None,
        }
    }
}

/// What is known about byte `at` of `text` where one of `texts`, which are in order, may start.
fn longest(texts: &[String], text: &str, at: usize, done: bool) -> At {
    let rest = &text.as_bytes()[at..];
    // Those that begin with the `read` bytes from there on.
    let (mut left, mut longest) = (texts, At::Nothing);
    for read in 0.. {
        if let Some((_, longer)) = left.split_first().filter(|(shortest, _)| shortest.len() == read) {
            longest = At::Match { from: at, end: at + read, more: false };
            left = longer;
        }
        if left.is_empty() {
            break;
        }
        let Some(byte) = rest.get(read) else { return if done { longest } else { At::Open } };
        let start = left.partition_point(|own| own.as_bytes().get(read) < Some(byte));
        let length = left[start..].partition_point(|own| own.as_bytes().get(read) == Some(byte));
        left = &left[start..start + length];
    }
    longest
}
