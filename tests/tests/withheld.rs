//! What a policy forbids gets out on no path: however it is cut into tokens, and wherever it would come out. Each path is an
//! entry of a table.
#![cfg(test)]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

#[path = "withheld/paths.rs"]
mod paths;
#[path = "withheld/scene.rs"]
mod scene;

use proptest::prelude::*;

use paths::PATHS;
use scene::{FORBIDDEN, SETTINGS, Scene, Setting, encode, props, splits};

/// Each path with a text in each of its splits; the settings take turns.
fn walk_all(forbidden: &str) {
    walk(forbidden, |_| true);
}

/// Each path with a text in those of its splits whose numbers are chosen.
fn walk(forbidden: &str, chosen: impl Fn(usize) -> bool) {
    let splits = splits(forbidden.as_bytes());
    let bytes = forbidden.len();
    assert!(splits.iter().any(|split| split.len() == bytes), "one is a token for each byte");
    // Digits are tokens of their own in many vocabularies, so that there is one way only.
    let digits = forbidden.bytes().all(|byte| byte.is_ascii_digit());
    assert!(digits || splits.iter().any(|split| split.len() < bytes), "one is with longer ones");
    let mut turn = 0;
    for (number, split) in splits.iter().enumerate() {
        // A path of many rounds is walked with some of the splits, from one text to the next with others.
        for path in PATHS.iter().filter(|path| !path.long || number % 5 == bytes % 5) {
            let setting = SETTINGS[turn % SETTINGS.len()];
            turn += 1;
            if !chosen(number) {
                continue;
            }
            let scene = Scene { tokens: split.clone(), setting };
            let seen = (path.walk)(&scene);
            assert_eq!(seen.leak(), None, "{}, {setting:?}, {forbidden} as {split:?}", path.name);
        }
        // So that a path meets another setting with the next split.
        turn += 1;
    }
}

// The splits of the longest text are shared out, so that two tests walk them at the same time.
#[test]
fn words_in_even_splits_get_out_on_no_path() {
    walk(FORBIDDEN[0], |number| number % 2 == 0);
}

#[test]
fn words_in_odd_splits_get_out_on_no_path() {
    walk(FORBIDDEN[0], |number| number % 2 == 1);
}

#[test]
fn digits_get_out_on_no_path() {
    walk_all(FORBIDDEN[1]);
}

#[test]
fn characters_of_several_bytes_get_out_on_no_path() {
    walk_all(FORBIDDEN[2]);
}

#[test]
fn what_begins_with_itself_gets_out_on_no_path() {
    walk_all(FORBIDDEN[3]);
}

/// The paths are what they say: where nothing is forbidden, the text is seen.
#[test]
fn each_path_leads_out_where_nothing_is_forbidden() {
    for path in PATHS.iter().filter(|path| path.leads_out) {
        for forbidden in FORBIDDEN {
            let scene = Scene { tokens: encode(forbidden), setting: Setting::Free };
            assert!((path.walk)(&scene).leak().is_some(), "{}: {forbidden}", path.name);
        }
    }
}

/// Each setting on each path, with the text in the tokens of the tokenizer.
#[test]
fn each_setting_holds_on_each_path() {
    for path in PATHS {
        for setting in SETTINGS {
            let scene = Scene { tokens: encode(FORBIDDEN[0]), setting };
            assert_eq!((path.walk)(&scene).leak(), None, "{}, {setting:?}", path.name);
        }
    }
}

/// Texts that forbidden ones are made of, and others.
const PIECES: [&str; 12] =
    ["se", "cret", "SECRET", "77", "731", "caf\u{e9}", " ", "\u{2615}", "a", "ab", "s", "secretsecret"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Any texts of parts of what is forbidden, in any tokens.
    #[test]
    fn no_mixture_of_parts_gets_out(
        parts in proptest::collection::vec(
            proptest::sample::select(PIECES.to_vec()),
            1..14,
        ),
        lengths in proptest::collection::vec(1usize..4, 40),
        path in 0..PATHS.len(),
        setting in 0..SETTINGS.len(),
    ) {
        let text = parts.concat();
        let (mut tokens, mut at, mut lengths) = (Vec::new(), 0, lengths.iter().cycle());
        while at < text.len() {
            let most = lengths.next().unwrap().min(&(text.len() - at)).to_owned();
            let length = (1..=most).rev().find(|length| props().words.contains_key(&text.as_bytes()[at..at + length]));
            let length = length.unwrap();
            tokens.push(props().words[&text.as_bytes()[at..at + length]]);
            at += length;
        }
        let scene = Scene { tokens, setting: SETTINGS[setting] };
        let seen = (PATHS[path].walk)(&scene);
        prop_assert_eq!(seen.leak(), None, "{}", PATHS[path].name);
    }
}
