//! Files of Rust that no crate compiles.

use crate::rules::Finding;
use crate::source::{Tree, code_only};
use std::collections::{BTreeMap, BTreeSet};

/// Rust files that no root of a package reaches through `mod` declarations.
pub fn dead_files(tree: &Tree) -> Vec<Finding> {
    let texts: BTreeMap<&str, &str> = tree.rust().map(|(file, text)| (file.path.as_str(), text)).collect();
    let packages = tree.packages();
    let mut reached = BTreeSet::new();
    for path in texts.keys() {
        if let Some(package) = owner(&packages, path)
            && is_root(&path[package.len()..])
        {
            visit(path, true, &texts, &mut reached);
        }
    }
    let dead = texts.keys().filter(|path| !reached.contains(**path));
    dead.map(|path| Finding::of_file(path, "no `mod` reaches this file: declare it or delete it")).collect()
}

/// The innermost package that a file lies in, as its folder with a `/` at the end.
fn owner<'p>(packages: &'p [String], path: &str) -> Option<&'p str> {
    let holding = packages.iter().filter(|folder| path.starts_with(folder.as_str()));
    holding.map(String::as_str).max_by_key(|folder| folder.len())
}

/// Whether cargo compiles the file (path from its package) by itself.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts.as_slice(),
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["tests" | "examples" | "benches" | "fuzz_targets", _]
            | ["tests" | "examples" | "benches", _, "main.rs"]
    )
}

/// Marks a file and the modules that it declares.
fn visit<'t>(path: &'t str, root: bool, texts: &BTreeMap<&'t str, &'t str>, reached: &mut BTreeSet<&'t str>) {
    if !reached.insert(path) {
        return;
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let below = if root || name == "mod.rs" {
        folder.to_owned()
    } else {
        format!("{folder}/{}", name.trim_end_matches(".rs"))
    };
    for (module, explicit) in declared(texts[path]) {
        let candidates = match explicit {
            Some(explicit) => vec![join(folder, &explicit)],
            None => vec![join(&below, &format!("{module}.rs")), join(&below, &format!("{module}/mod.rs"))],
        };
        for candidate in candidates {
            if let Some((child, _)) = texts.get_key_value(candidate.as_str()) {
                visit(child, false, texts, reached);
            }
        }
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The modules that a file declares in other files, each with its `#[path]` if it has one.
fn declared(text: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    let mut explicit = None;
    let code = code_only(text);
    for (line, code) in text.lines().zip(code.lines()) {
        let code = code.trim();
        if code.starts_with("#[path") {
            explicit = line.split('"').nth(1).map(str::to_owned);
            continue;
        }
        if code.starts_with("#[") || code.is_empty() {
            continue;
        }
        let words: Vec<&str> = code.split_whitespace().collect();
        let module = words.iter().position(|word| *word == "mod").and_then(|at| words.get(at + 1));
        let explicit = explicit.take();
        if let Some(module) = module.and_then(|module| module.strip_suffix(';')) {
            found.push((module.to_owned(), explicit));
        }
    }
    found
}

#[test]
fn a_forgotten_file_is_found() {
    let tree = Tree::of(&[
        ("a/Cargo.toml", ""),
        ("a/src/lib.rs", "pub mod one;\n#[path = \"odd.rs\"]\nmod two;\n// mod dead;\n"),
        ("a/src/one.rs", "pub(crate) mod inner;"),
        ("a/src/one/inner.rs", ""),
        ("a/src/odd.rs", ""),
        ("a/src/dead.rs", ""),
        ("a/src/inner.rs", ""),
        ("a/tests/t.rs", ""),
    ]);
    let dead: Vec<String> = dead_files(&tree).iter().map(ToString::to_string).collect();
    assert_eq!(dead.len(), 2, "{dead:?}");
    assert!(dead[0].starts_with("a/src/dead.rs") && dead[1].starts_with("a/src/inner.rs"));
}
