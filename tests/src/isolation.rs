//! Tests whose plugins run in the test's own process, and again in processes of their own.
//!
//! Such a process is the test's program, with arguments that lead to [`serve`]. A file of tests has `mod isolated;` for that.

use std::process::Command;

use membrane_host::isolation::{ProcessOptions, Program};
use membrane_host::{HostOptions, Isolation};

use crate::guests::code_cache;

/// Says that plugins run in processes of their own.
const ISOLATED: &str = "MEMBRANE_TEST_ISOLATED";

/// Where plugins run.
pub fn of_tests() -> Isolation {
    if std::env::var_os(ISOLATED).is_some() { Isolation::Process } else { Isolation::None }
}

/// Options of a host whose plugins may have processes of their own.
pub fn options() -> HostOptions {
    let arguments = ["--exact", "isolated::plugin_process", "--ignored", "--test-threads=1", "--nocapture"];
    let path = std::env::current_exe().expect("a program has a path");
    let program = Program { path, arguments: arguments.map(str::to_owned).to_vec() };
    let processes = Some(ProcessOptions::new(program));
    HostOptions { processes, cache: Some(code_cache()), ..HostOptions::default() }
}

/// Serves a plugin, to the end of the process.
pub fn serve() -> ! {
    membrane_host::isolation::serve()
}

/// Runs the tests of a file again, with the same results.
pub fn again() {
    let mut again = Command::new(std::env::current_exe().expect("a program has a path"));
    again.args(["--skip", "isolated::", "--test-threads=2"]).env(ISOLATED, "yes");
    let output = again.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("running 0 tests"), "{text}");
}
