//! Looking for secrets in a text that arrives piece by piece.
//!
//! The text is searched from left to right. What holds at a position depends on a bounded stretch behind it, so
//! the search waits there, and releases what is before, until that stretch has arrived. Hence the pieces in which a
//! text arrives never change what is released.

use membrane_plugin::policy::Reason;

use crate::kinds::{self, At, Kind};

/// The clause of a text that the profile names.
const OWN_TEXT: &str = "secrets:text";

/// What to look for.
pub struct Secrets {
    kinds: Vec<&'static Kind>,
    texts: Vec<String>,
}

/// Which secret was found.
#[derive(Clone, Copy)]
enum Which {
    Kind(&'static Kind),
    Text,
}

/// A secret in a text.
pub struct Secret {
    which: Which,
    /// Where the search found it.
    pub at: usize,
    /// The stretch that is secret.
    pub from: usize,
    /// Its end.
    pub end: usize,
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

    /// Whether it goes on with the secret before `place`, whose replacement stands there already.
    pub fn goes_on(&self, place: Place) -> bool {
        place.inside.is_some() && self.at == 0 && self.from == 0
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
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// The last character before what is still to be searched, as it stood in the text.
    previous: Option<char>,
    /// A secret that may go on.
    inside: Option<&'static Kind>,
}

impl Place {
    /// Goes on behind `text`, in which nothing is secret.
    pub fn pass(&mut self, text: &str) {
        if let Some(last) = text.chars().next_back() {
            *self = Self { previous: Some(last), inside: None };
        }
    }

    /// Goes on behind a secret, which ended `text`.
    pub fn pass_secret(&mut self, text: &str, secret: &Secret) {
        self.pass(text);
        self.inside = match secret.which {
            Which::Kind(kind) if secret.more => Some(kind),
            _ => None,
        };
    }
}

impl Secrets {
    /// Kinds by name, and texts of one's own.
    pub fn new(kinds: &[String], texts: Vec<String>) -> Result<Self, String> {
        let find = |name: &String| {
            let known = kinds::ALL.iter().find(|kind| kind.name == name);
            known.ok_or_else(|| {
                let names: Vec<&str> = kinds::ALL.iter().map(|kind| kind.name).collect();
                format!("kinds: there is no `{name}`; there are: {}", names.join(", "))
            })
        };
        let kinds = kinds.iter().map(find).collect::<Result<_, String>>()?;
        Ok(Self { kinds, texts })
    }

    /// The first secret in `pending`, which stands behind `place`.
    pub fn search(&self, place: Place, pending: &str, done: bool) -> Found {
        if let Some(kind) = place.inside {
            match kind.more(pending, done) {
                At::Open => return Found::Nothing(0),
                At::Match { from, end, more } => {
                    return Found::Secret(Secret { which: Which::Kind(kind), at: 0, from, end, more });
                }
                At::Nothing => {}
            }
        }
        let before = place.previous.map_or(0, char::len_utf8);
        let text: String = place.previous.into_iter().chain(pending.chars()).collect();
        for (start, _) in pending.char_indices() {
            let mut found = None;
            let kinds =
                self.kinds.iter().map(|kind| (Which::Kind(kind), kind.at(&text, before + start, done)));
            let texts = self.texts.iter().map(|own| (Which::Text, literal(own, &text, before + start, done)));
            for (which, at) in kinds.chain(texts) {
                match at {
                    At::Open => return Found::Nothing(start),
                    At::Match { from, end, more } if found.is_none() => {
                        let (from, end) = (from - before, end - before);
                        found = Some(Secret { which, at: start, from, end, more });
                    }
                    At::Match { .. } | At::Nothing => {}
                }
            }
            if let Some(found) = found {
                return Found::Secret(found);
            }
        }
        Found::Nothing(pending.len())
    }

    /// A whole text without its secrets, and the reason of the first; none if there are none.
    pub fn redact(&self, text: &str, replacement: &str) -> Option<(String, Reason)> {
        let (mut redacted, mut first) = (String::new(), None);
        let (mut place, mut rest) = (Place::default(), text);
        while let Found::Secret(secret) = self.search(place, rest, true) {
            redacted.push_str(&rest[..secret.from]);
            redacted.push_str(if secret.goes_on(place) { "" } else { replacement });
            place.pass_secret(&rest[..secret.end], &secret);
            rest = &rest[secret.end..];
            first.get_or_insert_with(|| secret.reason());
        }
        redacted.push_str(rest);
        first.map(|reason| (redacted, reason))
    }

    /// The reason of the first secret in a whole text.
    pub fn find(&self, text: &str) -> Option<Reason> {
        match self.search(Place::default(), text, true) {
            Found::Secret(secret) => Some(secret.reason()),
            Found::Nothing(_) => None,
        }
    }
}

fn literal(own: &str, text: &str, at: usize, done: bool) -> At {
    let rest = &text[at..];
    if rest.starts_with(own) {
        At::Match { from: at, end: at + own.len(), more: false }
    } else if !done && own.starts_with(rest) {
        At::Open
    } else {
        At::Nothing
    }
}
