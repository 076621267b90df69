//! Logs that generators record their answers in.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use membrane_audit::text::Texts;
use membrane_audit::verify::{Trusted, verify};
use membrane_audit::{self as audit, Keep, Log, LogOptions, RecordedAnswer, Script, Transcript};
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

impl Recorder {
    /// Has a generator record its answers from now on.
    pub fn new(generator: &mut Generator) -> Self {
        Self::keeping(generator, Keep::Text)
    }

    /// The same, with so much of texts and tokens.
    pub fn keeping(generator: &mut Generator, keep: Keep) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for files of tests");
        let path = folder.path().join("log.jsonl");
        let options = LogOptions { program: "test 1.0.0".into(), keep, key: None };
        let log = Log::open(&path, options).expect("the log opens");
        let log = Arc::new(Mutex::new(log));
        let model = audit::Model {
            path: "model.gguf".into(),
            architecture: "test".into(),
            files: Vec::new(),
            tokenizer: audit::Digest::of(b""),
            template: None,
        };
        generator.record(Audit::new(log.clone(), model).expect("the log can be written"));
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
