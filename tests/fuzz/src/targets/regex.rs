//! A regular expression, compiled to a constraint and followed for some tokens.

use membrane_text::Grammar;

use super::json_schema::follow;

/// What expressions are made of.
pub const WORDS: &[&str] = &[
    "(?i)",
    "(?:",
    "(?=",
    "(?!",
    "(?<=",
    "(?P<n>",
    "[^",
    "[[:alpha:]]",
    "\\p{L}",
    "\\d",
    "\\w",
    "\\b",
    "\\x{10ffff}",
    "{1,9}",
    "{1000}",
    "{0,}",
    "*?",
    "+",
    "|",
    ".*",
    "^",
    "$",
    "\\1",
    "&",
    "~",
];

/// Compiles and follows it.
pub fn target(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        follow(&Grammar::Regex(text.to_owned()), data);
    }
}

/// Expressions of each construct.
pub fn seeds() -> Vec<Vec<u8>> {
    let expressions = [
        "[a-z]+( [a-z]+){0,4}\\.",
        "(?i)yes|no|maybe",
        "\\d{4}-\\d{2}-\\d{2}T[0-2][0-9](:[0-5]\\d){2}(Z|[+-]\\d{2})",
        "(?:é|\\p{L}|[^\\x00-\\x7f])*?x",
        "(a|b)*a(a|b){3}",
        "",
    ];
    expressions.iter().map(|expression| expression.as_bytes().to_vec()).collect()
}
