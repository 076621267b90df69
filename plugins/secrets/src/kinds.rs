//! What credentials look like, kind by kind: the forms that their issuers document, long enough to be told from
//! other text.

/// Longest stretch that is looked at as one credential, in bytes; what is behind it counts as more of the same.
const MAX_RUN_BYTES: usize = 4096;

/// Longest line that begins or ends a private key, in bytes.
const MAX_MARKER_BYTES: usize = 64;

/// Longest user name and longest password in an address, in bytes.
const MAX_USER_BYTES: usize = 64;
const MAX_PASSWORD_BYTES: usize = 256;

/// How many characters before a credential count: an escape of JSON has as many.
pub const BEFORE: usize = 6;

/// A kind of credential.
#[derive(Debug)]
pub struct Kind {
    /// Its name in parameters; its clause is `secrets:` and this.
    pub name: &'static str,
    /// A sentence for people.
    pub note: &'static str,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// A beginning, and then characters of a set.
    Run(Run),
    /// Between the lines that begin and end a private key (RFC 7468).
    PrivateKey,
    /// The password in `scheme://user:password@host` (RFC 3986, 3.2.1).
    UrlPassword,
}

#[derive(Debug)]
struct Run {
    beginnings: &'static [&'static str],
    body: fn(u8) -> bool,
    /// How long the credential is in a run with a beginning of this many bytes; none if it is none.
    accept: fn(&str, usize) -> Option<usize>,
}

/// What is known about one position of a text that is still arriving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// Nothing starts here, whatever follows.
    Nothing,
    /// It depends on what follows.
    Open,
    /// What starts here goes up to byte `end`; of it, what is behind byte `from` is secret. `more`: what follows may
    /// belong to it.
    Match { from: usize, end: usize, more: bool },
}

/// All kinds, the more special ones first.
pub const ALL: &[Kind] = &[
    Kind { name: "private-key", note: "A private key.", form: Form::PrivateKey },
    run("aws", "An access key of AWS.", &["AKIA", "ASIA"], is_upper, |run, begin| exactly(run, begin, 16)),
    run(
        "github",
        "A token of GitHub.",
        &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"],
        is_word,
        |r, b| at_least(r, b, 36),
    ),
    run("gitlab", "A token of GitLab.", &["glpat-"], is_word_or_hyphen, |run, begin| {
        at_least(run, begin, 20)
    }),
    run(
        "slack",
        "A token of Slack.",
        &["xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xapp-"],
        is_word_or_hyphen,
        |r, b| mixed(r, b, 20),
    ),
    run("google", "An API key of Google.", &["AIza"], is_word_or_hyphen, |run, begin| {
        exactly(run, begin, 35)
    }),
    run(
        "stripe",
        "A key of Stripe.",
        &["sk_live_", "rk_live_", "sk_test_", "rk_test_"],
        is_word,
        |run, begin| at_least(run, begin, 20),
    ),
    run("sk", "An API key.", &["sk-"], is_word_or_hyphen, |run, begin| mixed(run, begin, 32)),
    run("hugging-face", "A token of Hugging Face.", &["hf_"], is_word, |run, begin| at_least(run, begin, 30)),
    run("npm", "A token of npm.", &["npm_"], is_word, |run, begin| at_least(run, begin, 36)),
    run("pypi", "A token of PyPI.", &["pypi-"], is_word_or_hyphen, |run, begin| at_least(run, begin, 50)),
    run("jwt", "A signed token (JWT).", &["eyJ"], is_word_hyphen_or_dot, |run, _| web_token(run)),
    Kind { name: "url-password", note: "A password in an address.", form: Form::UrlPassword },
];

const fn run(
    name: &'static str,
    note: &'static str,
    beginnings: &'static [&'static str],
    body: fn(u8) -> bool,
    accept: fn(&str, usize) -> Option<usize>,
) -> Kind {
    Kind { name, note, form: Form::Run(Run { beginnings, body, accept }) }
}

fn is_upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_word_or_hyphen(byte: u8) -> bool {
    is_word(byte) || byte == b'-'
}

fn is_word_hyphen_or_dot(byte: u8) -> bool {
    is_word_or_hyphen(byte) || byte == b'.'
}

fn at_least(run: &str, begin: usize, least: usize) -> Option<usize> {
    (run.len() >= begin + least).then_some(run.len())
}

fn exactly(run: &str, begin: usize, length: usize) -> Option<usize> {
    (run.len() == begin + length).then_some(run.len())
}

/// Letters and digits, as words with hyphens between them are not.
fn mixed(run: &str, begin: usize, least: usize) -> Option<usize> {
    let body = run.get(begin..)?;
    let (letters, digits) =
        (body.bytes().any(|b| b.is_ascii_alphabetic()), body.bytes().any(|b| b.is_ascii_digit()));
    at_least(run, begin, least).filter(|_| letters && digits)
}

/// Three parts of base64url with points between them (RFC 7519), of which the first two are JSON objects.
fn web_token(run: &str) -> Option<usize> {
    let mut parts = run.splitn(4, '.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let long = [header, payload, signature].iter().all(|part| part.len() >= 10);
    (long && payload.starts_with("eyJ")).then_some(header.len() + payload.len() + signature.len() + 2)
}

impl Kind {
    /// Whether one can begin with a byte.
    pub fn begins(&self, byte: u8) -> bool {
        let with = |beginning: &str| beginning.as_bytes().first() == Some(&byte);
        match &self.form {
            Form::Run(run) => run.beginnings.iter().any(|beginning| with(beginning)),
            Form::PrivateKey => with(KEY_BEGIN),
            Form::UrlPassword => with(SEPARATOR),
        }
    }

    /// What starts at byte `at` of `text`, whether [in a word](in_word) or not. `done` says that nothing follows the text.
    pub fn at(&self, text: &str, at: usize, in_word: bool, done: bool) -> At {
        match &self.form {
            Form::Run(_) if in_word => At::Nothing,
            Form::Run(run) => run.at(text, at, done),
            Form::PrivateKey => private_key(text, at, done),
            Form::UrlPassword => url_password(text, at, done),
        }
    }

    /// What belongs to a credential whose beginning is past: a stretch from the start of `text` on.
    pub fn more(&self, text: &str, done: bool) -> At {
        match &self.form {
            Form::Run(run) => match body_end(text, 0, run.body, done) {
                None => At::Open,
                Some(0) => At::Nothing,
                Some(end) => At::Match { from: 0, end, more: end == MAX_RUN_BYTES },
            },
            Form::PrivateKey => key_end(text, 0, done),
            Form::UrlPassword => At::Nothing,
        }
    }
}

impl Run {
    fn at(&self, text: &str, at: usize, done: bool) -> At {
        let rest = &text[at..];
        let Some(beginning) = self.beginnings.iter().find(|beginning| rest.starts_with(**beginning)) else {
            let partial = !done && self.beginnings.iter().any(|beginning| beginning.starts_with(rest));
            return if partial { At::Open } else { At::Nothing };
        };
        let Some(end) = body_end(text, at + beginning.len(), self.body, done) else { return At::Open };
        match (self.accept)(&text[at..end], beginning.len()) {
            Some(length) => {
                let more = end - at - beginning.len() == MAX_RUN_BYTES && length == end - at;
                At::Match { from: at, end: at + length, more }
            }
            None => At::Nothing,
        }
    }
}

/// Whether a word goes on behind `before`. What ends an escape, as `\n` and `\u000a` in JSON, is no part of one. The last
/// [`BEFORE`] characters say it.
pub fn in_word(before: &str) -> bool {
    if !before.chars().next_back().is_some_and(|last| last.is_alphanumeric() || last == '_') {
        return false;
    }
    let escaped = match before.as_bytes() {
        [.., b'\\', last] => last.is_ascii_alphabetic(),
        [.., b'\\', b'u', a, b, c, d] => [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()),
        _ => false,
    };
    !escaped
}

/// Where the characters of a set that stand from byte `from` on end; none if more may follow.
fn body_end(text: &str, from: usize, body: fn(u8) -> bool, done: bool) -> Option<usize> {
    let bytes = &text.as_bytes()[from..];
    let length = bytes.iter().take(MAX_RUN_BYTES).take_while(|byte| body(**byte)).count();
    let ended = length < bytes.len() || length == MAX_RUN_BYTES || done;
    ended.then_some(from + length)
}

const KEY_BEGIN: &str = "-----BEGIN ";
const KEY_END: &str = "-----END ";
const KEY_LABEL: &str = "PRIVATE KEY";
const DASHES: &str = "-----";

fn private_key(text: &str, at: usize, done: bool) -> At {
    let rest = &text[at..];
    if !rest.starts_with(KEY_BEGIN) {
        return if !done && KEY_BEGIN.starts_with(rest) { At::Open } else { At::Nothing };
    }
    let label = &rest[KEY_BEGIN.len()..];
    let in_label = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    let length = label.bytes().take(MAX_MARKER_BYTES).take_while(|byte| in_label(byte)).count();
    let behind = &label[length..];
    if length == label.len() || (behind.len() < DASHES.len() && DASHES.starts_with(behind)) {
        return if done { At::Nothing } else { At::Open };
    }
    // "PRIVATE KEY BLOCK" is how OpenPGP calls it.
    if !label[..length].contains(KEY_LABEL) || !behind.starts_with(DASHES) {
        return At::Nothing;
    }
    match key_end(text, at + KEY_BEGIN.len() + length + DASHES.len(), done) {
        At::Match { end, more, .. } => At::Match { from: at, end, more },
        open => open,
    }
}

/// The rest of a private key, from byte `from` on: up to the line that ends it, or to the end where none comes.
fn key_end(text: &str, from: usize, done: bool) -> At {
    let whole = &text[from..];
    let window = &whole[..whole.floor_char_boundary(MAX_RUN_BYTES)];
    if let Some(marker) = window.find(KEY_END) {
        let label = &window[marker + KEY_END.len()..];
        if let Some(dashes) = label.find(DASHES) {
            let end = from + marker + KEY_END.len() + dashes + DASHES.len();
            return At::Match { from, end, more: false };
        }
        if window.len() == whole.len() && !done && label.len() <= MAX_MARKER_BYTES {
            return At::Open;
        }
        if window.len() < whole.len() && marker > 0 {
            // The marker may go on behind the window: it is looked at again from its start.
            return At::Match { from, end: from + marker, more: true };
        }
    }
    match (window.len() < whole.len(), done) {
        // What could be the start of the marker stays for the next look.
        (true, _) => {
            let kept = (1..KEY_END.len()).rev().find(|length| window.ends_with(&KEY_END[..*length]));
            At::Match { from, end: from + window.len() - kept.unwrap_or(0), more: true }
        }
        (false, true) => At::Match { from, end: text.len(), more: false },
        (false, false) => At::Open,
    }
}

const SEPARATOR: &str = "://";

fn url_password(text: &str, at: usize, done: bool) -> At {
    let open = if done { At::Nothing } else { At::Open };
    let rest = &text[at..];
    if !rest.starts_with(SEPARATOR) {
        return if SEPARATOR.starts_with(rest) { open } else { At::Nothing };
    }
    let ends = |byte: &u8| byte.is_ascii_whitespace() || b"/@\"'<>`\\".contains(byte);
    let user = &rest.as_bytes()[SEPARATOR.len()..];
    let length =
        user.iter().take(MAX_USER_BYTES + 1).take_while(|byte| !ends(byte) && **byte != b':').count();
    match user.get(length) {
        None if length <= MAX_USER_BYTES => return open,
        Some(b':') => {}
        _ => return At::Nothing,
    }
    let password = &user[length + 1..];
    let from = at + SEPARATOR.len() + length + 1;
    let length = password.iter().take(MAX_PASSWORD_BYTES + 1).take_while(|byte| !ends(byte)).count();
    match password.get(length) {
        None if length <= MAX_PASSWORD_BYTES => open,
        Some(b'@') if length > 0 => At::Match { from, end: from + length, more: false },
        _ => At::Nothing,
    }
}
