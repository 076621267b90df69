//! The flags of recording, and the log that a run writes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use clap::{Args, ValueEnum};
use membrane_audit::{Head, Keep, Log, LogOptions, SigningKey};
use membrane_engine::Model;
use membrane_generate::{Audit, Generator};
use serde_json::json;

use crate::fingerprint::{self, Weights};
use crate::printer;
use crate::report::printable;

/// Where and how answers are recorded.
#[derive(Args, Clone)]
pub struct AuditOptions {
    /// Record each answer in this log; `membrane audit` and `membrane replay` read it
    #[arg(long, value_name = "LOG")]
    audit: Option<PathBuf>,
    /// What the log keeps of prompts and answers
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Kept::Tokens, requires = "audit")]
    audit_keep: Kept,
    /// Sign the log's checkpoints with this ed25519 key (PEM); `membrane audit keygen` makes one
    #[arg(long, value_name = "KEY.pem", requires = "audit")]
    audit_key: Option<PathBuf>,
    /// How much of the model's files the log has digests of
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Weights::Whole, requires = "audit")]
    audit_weights: Weights,
}

/// What the log keeps of prompts and answers.
#[derive(Clone, Copy, ValueEnum)]
enum Kept {
    /// Digests only: nothing can be replayed.
    Digests,
    /// Token ids, which whoever has the model can read: generation can be replayed.
    Tokens,
    /// Digests in the log, ids and texts in LOG.text, which may be erased: decisions can be replayed too.
    Text,
}

/// A log that answers are recorded in. One that is dropped before it is concluded, since something failed, ends in order
/// all the same.
pub struct Recording {
    log: Arc<Mutex<Log>>,
    path: PathBuf,
    concluded: AtomicBool,
}

impl AuditOptions {
    /// Opens the log, if there is to be one.
    pub fn open(&self) -> Result<Option<Recording>> {
        let Some(path) = &self.audit else { return Ok(None) };
        let key = self.audit_key.as_deref().map(SigningKey::read).transpose()?;
        let keep = match self.audit_keep {
            Kept::Digests => Keep::Digests,
            Kept::Tokens => Keep::Tokens,
            Kept::Text => Keep::Text,
        };
        let program = format!("membrane {}", env!("CARGO_PKG_VERSION"));
        let log = Log::open(path, LogOptions { program, keep, key })?;
        let (log, path) = (Arc::new(Mutex::new(log)), path.clone());
        Ok(Some(Recording { log, path, concluded: AtomicBool::new(false) }))
    }

    /// Records which model answers are made with.
    pub fn record(&self, recording: &Recording, model: &Model, quiet: bool) -> Result<Audit> {
        if !quiet {
            recording.warn();
        }
        let model = fingerprint::model(model, self.audit_weights, quiet)?;
        Ok(Audit::new(recording.log.clone(), model)?)
    }

    /// Has a generator record its answers.
    pub fn start(&self, recording: &Recording, generator: &mut Generator, quiet: bool) -> Result<()> {
        let audit = self.record(recording, generator.model(), quiet)?;
        generator.record(audit);
        Ok(())
    }
}

impl Recording {
    /// Ends the log in order, and says what its head is.
    pub fn conclude(&self, json: bool, quiet: bool) -> Result<()> {
        self.concluded.store(true, Ordering::Relaxed);
        let head: Head = self.log.lock().unwrap_or_else(PoisonError::into_inner).close()?;
        if json {
            printer::json(&json!({"event": "audit", "log": self.path, "head": head.to_string()}))?;
        } else if !quiet {
            eprintln!("audit: {}, head {head}", self.path.display());
        }
        Ok(())
    }

    /// Says which of its files others may read.
    fn warn(&self) {
        for path in self.log.lock().unwrap_or_else(PoisonError::into_inner).exposed() {
            let path = printable(&path.display().to_string());
            eprintln!(
                "note: others than its owner may read {path}, and the system does not let that be changed"
            );
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !*self.concluded.get_mut() && !std::thread::panicking() {
            // What failed before is told.
            let _ = self.log.lock().unwrap_or_else(PoisonError::into_inner).close();
        }
    }
}
