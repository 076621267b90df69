//! The rules, each with the limit that it holds to.

use crate::source::{Tree, code_only, without_tests};
use std::fmt;

/// Characters in a line of Rust.
const LINE_LENGTH: usize = 140;
/// Lines in a file of Rust.
const FILE_LINES: usize = 600;
/// Bytes of a tracked file.
const FILE_BYTES: u64 = 2 << 20;
/// Bytes of a fixture.
const FIXTURE_BYTES: u64 = 4 << 20;
/// Bytes of all fixtures together.
const FIXTURES_BYTES: u64 = 25 << 20;
const FIXTURES: &str = "tests/fixtures/";

/// Generated tables, which may be longer than a file that is read.
const LONG_FILES: [&str; 0] = [];

/// Crates whose subject needs `unsafe`.
const UNSAFE_CRATES: [&str; 4] =
    ["runtime/codecache/", "runtime/formats/", "runtime/kernels/", "runtime/pager/"];

/// Calls that have no place outside tests.
const BANNED_CALLS: [&str; 4] = [".unwrap()", "todo!(", "unimplemented!(", "dbg!("];

/// Words that say nothing of what a module is about.
const VAGUE_WORDS: [&str; 6] = ["manager", "helper", "util", "misc", "handler", "processor"];

/// Endings of files that are written by hand.
const BY_HAND: [&str; 5] = [".rs", ".toml", ".md", ".wit", ".py"];

/// A place where a rule is broken.
pub struct Finding {
    path: String,
    line: Option<usize>,
    text: String,
}

impl Finding {
    /// A finding that concerns the whole file.
    pub fn of_file(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), line: None, text: text.to_owned() }
    }

    /// A finding at a line, counted from 0.
    fn at(path: &str, index: usize, text: String) -> Self {
        Self { path: path.to_owned(), line: Some(index + 1), text }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.text),
            None => write!(f, "{}: {}", self.path, self.text),
        }
    }
}

/// Lines of Rust that are too long; a line with a URL may be.
pub fn long_lines(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in tree.rust() {
        for (index, line) in text.lines().enumerate() {
            let length = line.chars().count();
            if length > LINE_LENGTH && !line.contains("https://") {
                findings.push(Finding::at(
                    &file.path,
                    index,
                    format!("{length} characters of {LINE_LENGTH}"),
                ));
            }
        }
    }
    findings
}

/// Files of Rust that are too long.
pub fn long_files(tree: &Tree) -> Vec<Finding> {
    let lines = tree.rust().map(|(file, text)| (file, text.lines().count()));
    let long = lines.filter(|(file, lines)| *lines > FILE_LINES && !LONG_FILES.contains(&file.path.as_str()));
    long.map(|(file, lines)| Finding::of_file(&file.path, &format!("{lines} lines of {FILE_LINES}")))
        .collect()
}

/// Calls that are left over from writing, or end the process, outside tests.
pub fn banned_calls(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in tree.rust().filter(|(file, _)| !file.is_test()) {
        let code = without_tests(&code_only(text));
        for (index, line) in code.lines().enumerate() {
            for call in BANNED_CALLS.iter().filter(|call| line.contains(**call)) {
                findings.push(Finding::at(&file.path, index, format!("`{call}` outside tests")));
            }
        }
    }
    findings
}

/// `unsafe` outside the crates that need it.
pub fn stray_unsafe(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in tree.rust() {
        if UNSAFE_CRATES.iter().any(|folder| file.path.starts_with(folder)) {
            continue;
        }
        for (index, line) in code_only(text).lines().enumerate() {
            if line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                findings.push(Finding::at(&file.path, index, "`unsafe` is not for this crate".to_owned()));
            }
        }
    }
    findings
}

/// Crates of the host that don't forbid `unsafe`. (Guests can't: their bindings are generated with it.)
pub fn missing_forbid(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let host = |folder: &String| {
        let guest = ["plugins/", "sdk/", "examples/plugins/"].iter().any(|guests| folder.starts_with(guests));
        !guest && !folder.contains("/guests/") && !UNSAFE_CRATES.contains(&folder.as_str())
    };
    for package in tree.packages().into_iter().filter(host) {
        for (file, text) in tree.rust() {
            let root = file.path.strip_prefix(&package).unwrap_or_default();
            if matches!(root, "src/lib.rs" | "src/main.rs") && !text.contains("#![forbid(unsafe_code)]") {
                findings.push(Finding::of_file(&file.path, "`#![forbid(unsafe_code)]` is missing"));
            }
        }
    }
    findings
}

/// Modules, and with them crates, that don't say at their top what they are about.
pub fn undocumented_modules(tree: &Tree) -> Vec<Finding> {
    let modules = tree.rust().filter(|(file, _)| file.path.contains("src/") && !file.is_test());
    let bare = modules.filter(|(_, text)| !text.starts_with("//!"));
    bare.map(|(file, _)| Finding::of_file(&file.path, "a file begins with `//!` and its subject")).collect()
}

/// Modules whose names say nothing.
pub fn vague_names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, _) in tree.rust() {
        let words = file.path.trim_end_matches(".rs").split(['/', '_', '-']);
        for word in words.filter(|word| VAGUE_WORDS.contains(&word.trim_end_matches('s'))) {
            findings.push(Finding::of_file(&file.path, &format!("`{word}` in a name says nothing")));
        }
    }
    findings
}

/// Tabs, blanks at the end of a line, a missing end of the last line.
pub fn white_space(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let Some(text) = file.text.as_deref().filter(|_| BY_HAND.iter().any(|end| file.path.ends_with(end)))
        else {
            continue;
        };
        for (index, line) in text.split('\n').enumerate() {
            if line.contains('\t') {
                findings.push(Finding::at(&file.path, index, "a tab".to_owned()));
            }
            if line.ends_with([' ', '\r']) {
                findings.push(Finding::at(&file.path, index, "white space at the end".to_owned()));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            findings.push(Finding::of_file(&file.path, "the last line does not end"));
        }
    }
    findings
}

/// Files that are too large to track.
pub fn large_files(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fixtures = 0;
    for file in &tree.files {
        let is_fixture = file.path.starts_with(FIXTURES);
        fixtures += if is_fixture { file.bytes } else { 0 };
        let limit = if is_fixture { FIXTURE_BYTES } else { FILE_BYTES };
        if file.bytes > limit {
            findings.push(Finding::of_file(&file.path, &format!("{} bytes of {limit}", file.bytes)));
        }
    }
    if fixtures > FIXTURES_BYTES {
        findings.push(Finding::of_file(FIXTURES, &format!("{fixtures} bytes of {FIXTURES_BYTES} in all")));
    }
    findings
}

/// Plugins without a manifest or a README.
pub fn incomplete_plugins(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for folder in tree.packages().iter().filter(|folder| folder.matches('/').count() == 2) {
        if !folder.starts_with("plugins/") {
            continue;
        }
        for needed in ["plugin.toml", "README.md"] {
            if !tree.has(&format!("{folder}{needed}")) {
                findings.push(Finding::of_file(folder, &format!("a plugin needs a {needed}")));
            }
        }
    }
    findings
}

/// Each rule with a tree that breaks it once and one that does not.
#[test]
fn rules_find_what_they_are_for() {
    let long = format!("// {}\n", "x".repeat(LINE_LENGTH));
    let many = "//\n".repeat(FILE_LINES + 1);
    let cases: [(Rule, &str, &str, &str); 10] = [
        (long_lines, "a/src/x.rs", &long, "// https://a.example/\n"),
        (long_files, "a/src/x.rs", &many, "//\n"),
        (banned_calls, "a/src/x.rs", "fn f() { a.unwrap() }\n", "// .unwrap()\nfn f() { \"dbg!()\" }\n"),
        (stray_unsafe, "a/src/x.rs", "unsafe { f() }\n", "#![forbid(unsafe_code)]\n// unsafe\n"),
        (undocumented_modules, "a/src/x.rs", "fn f() {}\n", "//! Of f.\n"),
        (white_space, "a/x.toml", "a = 1 \n", "a = 1\n"),
        (white_space, "a/x.toml", "a = 1", "a = 1\n"),
        (white_space, "a/x.toml", "a\t= 1\n", "a = 1\n"),
        (
            banned_calls,
            "a/src/x.rs",
            "fn f() { todo!() }\n",
            "#[cfg(test)]\nmod t {\n    fn f() { a.unwrap() }\n}\n",
        ),
        (vague_names, "a/src/file_utils.rs", "", ""),
    ];
    for (index, (rule, path, bad, good)) in cases.into_iter().enumerate() {
        assert_eq!(rule(&Tree::of(&[(path, bad)])).len(), 1, "case {index}");
        let path = path.replace("file_utils", "file_lines");
        assert_eq!(rule(&Tree::of(&[(&path, good)])).len(), 0, "case {index}");
    }
}

#[test]
fn package_rules_find_what_they_are_for() {
    let crates = [("a/Cargo.toml", ""), ("a/src/lib.rs", "//! A.\n")];
    assert_eq!(missing_forbid(&Tree::of(&crates)).len(), 1);
    let plugins = [("plugins/p/Cargo.toml", ""), ("plugins/p/README.md", "")];
    assert_eq!(incomplete_plugins(&Tree::of(&plugins)).len(), 1);
    let mut large = Tree::of(&[("a/big.bin", "")]);
    large.files[0].bytes = FILE_BYTES + 1;
    assert_eq!(large_files(&large).len(), 1);
}

/// A rule as the tests of the rules call it.
type Rule = fn(&Tree) -> Vec<Finding>;
