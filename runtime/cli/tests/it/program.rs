//! Starts the binary and reads what it says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, FormatError, Metadata};
use serde_json::Value;

/// A mixture of experts among the fixtures.
pub const MOE: &str = "tiny-qwen3moe-Q8_0.gguf";
/// A dense model among the fixtures.
pub const DENSE: &str = "tiny-qwen3-Q5_1.gguf";

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The path of a fixture model.
pub fn fixture(name: &str) -> String {
    let path = workspace().join("tests/fixtures/gguf").join(name);
    assert!(path.exists(), "the fixture {name} is missing");
    path.to_str().unwrap().to_owned()
}

/// A copy of a fixture with other metadata.
pub fn changed(name: &str, folder: &Path, change: impl FnOnce(&mut Metadata)) -> String {
    reshaped(name, folder, change, |_| ())
}

/// A copy of a fixture with other metadata, and with tensors of as many elements or more, which are zeros.
pub fn reshaped(
    name: &str,
    folder: &Path,
    change: impl FnOnce(&mut Metadata),
    shape: impl Fn(&mut Vec<u64>),
) -> String {
    let source = Checkpoint::open(Path::new(&fixture(name))).unwrap();
    let mut metadata = source.metadata().clone();
    change(&mut metadata);
    let path = folder.join("changed.gguf");
    let mut writer = GgufWriter::new(&path, metadata);
    for tensor in source.tensors() {
        let mut dims = tensor.shape.dims().to_vec();
        shape(&mut dims);
        writer.declare(&tensor.name, tensor.dtype, &dims).unwrap();
    }
    let written = writer.write::<FormatError>(|tensor, sink| {
        let mut bytes = vec![0; tensor.bytes as usize];
        let stored = source.require(&tensor.name)?;
        source.read(stored, 0, &mut bytes[..stored.bytes as usize])?;
        sink.put(&bytes)
    });
    written.unwrap();
    path.to_str().unwrap().to_owned()
}

/// What a run of the binary left behind.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        }
    }
}

/// The binary with arguments, and nothing on standard input.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_membrane"));
    // Compiled code of tests is not for the cache of whoever runs them.
    let own = Path::new(env!("CARGO_TARGET_TMPDIR"));
    command.env("XDG_CACHE_HOME", own.join("cache")).env("XDG_STATE_HOME", own.join("state"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub fn membrane(arguments: &[&str]) -> Ended {
    command(arguments).output().expect("the binary starts").into()
}

/// Runs it with text on standard input.
pub fn membrane_reading(arguments: &[&str], input: &str) -> Ended {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().expect("the binary starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

impl Ended {
    /// Fails the test unless it went well.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Fails the test unless a policy refused.
    #[track_caller]
    pub fn refused(self) -> Self {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        self
    }

    /// The events of `--json`.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The answer in the events of `--json`.
    pub fn answer(&self) -> String {
        let events = self.events();
        events
            .iter()
            .filter(|event| event["event"] == "text")
            .filter_map(|event| event["text"].as_str())
            .collect()
    }

    /// The last event of `--json`.
    #[track_caller]
    pub fn end(&self) -> Value {
        let end = self.events().pop().expect("there are events");
        assert_eq!(end["event"], "end", "{end}");
        end
    }

    /// Fails the test unless it failed with an error that says all of this.
    #[track_caller]
    pub fn failed_saying(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{}{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}
