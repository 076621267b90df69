//! Logs that generators record their answers in.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use membrane_audit::text::Texts;
use membrane_audit::verify::{Trusted, verify};
use membrane_audit::{Digest, Keep, Log, LogOptions, Model, RecordedAnswer, Script, Transcript};
use membrane_generate::{Audit, Generator};

/// A log that a generator records its answers in, with their texts.
pub struct Recorder {
    _folder: tempfile::TempDir,
    /// The log.
    pub path: PathBuf,
    log: Arc<Mutex<Log>>,
}

/// What a log says.
pub struct Recorded {
    /// Models, behaviours, answers.
    pub transcript: Transcript,
    /// The texts, if they are kept.
    pub texts: Option<Texts>,
}

/// A log in a folder, and where it is.
pub fn open(folder: &Path, keep: Keep) -> (PathBuf, Arc<Mutex<Log>>) {
    let path = folder.join("log.jsonl");
    let log = Log::open(&path, LogOptions { program: "test 1.0.0".into(), keep, key: None });
    (path, Arc::new(Mutex::new(log.expect("the log opens"))))
}

/// What has answers of a test's model recorded in a log.
pub fn audit(log: &Arc<Mutex<Log>>) -> Audit {
    let model = Model {
        path: "model.gguf".into(),
        architecture: "test".into(),
        files: Vec::new(),
        tokenizer: Digest::of(b""),
        template: None,
    };
    Audit::new(log.clone(), model).expect("the log can be written")
}

impl Recorder {
    /// Has a generator record its answers from now on.
    pub fn new(generator: &mut Generator) -> Self {
        Self::keeping(generator, Keep::Text)
    }

    /// The same, with so much of texts and tokens.
    pub fn keeping(generator: &mut Generator, keep: Keep) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for files of tests");
        let (path, log) = open(folder.path(), keep);
        generator.record(audit(&log));
        Self { _folder: folder, path, log }
    }

    /// Ends the log, which must verify, and reads it.
    pub fn read(&self) -> Recorded {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.close().expect("the log can be written");
        let report = verify(&self.path, &Trusted::default()).expect("the log can be read");
        assert!(report.good(), "{:?}", report.findings);
        let transcript = Transcript::read(&self.path, None).expect("the log is in order");
        Recorded { transcript, texts: Texts::beside(&self.path).expect("the texts can be read") }
    }
}

impl Recorded {
    /// An answer by its place in the log, and its steps.
    pub fn answer(&self, index: usize) -> (&RecordedAnswer, Script) {
        let answer = &self.transcript.answers[index];
        (answer, Script::of(answer, self.texts.as_ref()).expect("the records do not contradict each other"))
    }
}
