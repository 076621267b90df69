//! The reader of JSON in the SDK for C, compiled natively with the compiler's checks of memory where it has them.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

#[test]
fn objects_are_read_and_broken_ones_are_survived() {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("sdk/c");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("json");
    let compile = |checks: &[&str]| {
        let mut cc = Command::new("cc");
        cc.args(["-std=c17", "-O1", "-Wall", "-Wextra", "-Werror"]).args(checks).arg("-I").arg(&sdk);
        let output =
            cc.arg(sdk.join("tests/json.c")).arg(sdk.join("json.c")).arg("-o").arg(&program).output();
        output.expect("a C compiler is installed")
    };
    // Not every compiler comes with the libraries of its checks.
    if !compile(&["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]).status.success() {
        let output = compile(&[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let output = Command::new(&program).output().unwrap();
    let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.0 == "ok\n", "{}{}", said.0, said.1);
}
