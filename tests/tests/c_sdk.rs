//! What of the SDK for C runs natively, compiled with the compiler's checks of memory where it has them.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

#[test]
fn objects_are_read_and_broken_ones_are_survived() {
    says_ok("json", &["json.c"], true);
}

#[test]
fn arguments_that_a_schema_does_not_name_are_refused_before_the_call() {
    says_ok("tool", &["tool.c", "json.c"], true);
}

/// What texts are made of lives to the end of the instance, so nothing of it is freed.
#[test]
fn texts_are_quoted_joined_and_cut_at_characters() {
    says_ok("text", &["text.c"], false);
}

/// Compiles the test `NAME.c` with sources of the SDK, and runs it.
fn says_ok(name: &str, sources: &[&str], leaks: bool) {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("sdk/c");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join(name);
    let test = sdk.join("tests").join(format!("{name}.c"));
    let compile = |checks: &[&str]| {
        let mut cc = Command::new("cc");
        cc.args(["-std=c17", "-O1", "-Wall", "-Wextra", "-Werror"]).args(checks);
        cc.arg("-I").arg(&sdk).arg("-I").arg(sdk.join("tests"));
        cc.arg(&test).args(sources.iter().map(|source| sdk.join(source))).arg("-o").arg(&program);
        cc.output().expect("a C compiler is installed")
    };
    // Not every compiler comes with the libraries of its checks.
    if !compile(&["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]).status.success() {
        let output = compile(&[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut run = Command::new(&program);
    run.env("ASAN_OPTIONS", if leaks { "detect_leaks=1" } else { "detect_leaks=0" });
    let output = run.output().unwrap();
    let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.0 == "ok\n", "{}{}", said.0, said.1);
}
