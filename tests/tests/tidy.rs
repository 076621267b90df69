//! The style of the tree, as a test. Each rule is a function from the files to the places where it is broken.

#![cfg(test)]
#![forbid(unsafe_code)]

#[path = "tidy/features.rs"]
mod features;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::Finding;
use source::Tree;

/// Fails with every finding on a line of its own.
fn expect_none(findings: Vec<Finding>) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn lines_and_files_are_short() {
    expect_none(rules::long_lines(&Tree::read()));
    expect_none(rules::long_files(&Tree::read()));
}

#[test]
fn no_unfinished_or_unchecked_code_outside_tests() {
    expect_none(rules::banned_calls(&Tree::read()));
}

#[test]
fn unsafe_code_stays_in_its_crates() {
    expect_none(rules::stray_unsafe(&Tree::read()));
    expect_none(rules::missing_forbid(&Tree::read()));
}

#[test]
fn modules_are_documented_named_and_reachable() {
    expect_none(rules::undocumented_modules(&Tree::read()));
    expect_none(rules::vague_names(&Tree::read()));
    expect_none(modules::dead_files(&Tree::read()));
}

#[test]
fn white_space_is_plain() {
    expect_none(rules::white_space(&Tree::read()));
}

#[test]
fn tracked_files_are_small() {
    expect_none(rules::large_files(&Tree::read()));
}

#[test]
fn wasmtime_is_compiled_once() {
    expect_none(features::compiled_twice());
}

#[test]
fn plugin_folders_are_complete() {
    expect_none(rules::incomplete_plugins(&Tree::read()));
}
