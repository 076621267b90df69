//! The flags of recording, and the log that a run writes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use clap::{Args, ValueEnum};
use membrane_audit::{Head, Keep, Log, LogOptions, SigningKey};
use membrane_engine::Model;
use membrane_generate::{Audit, Generator};
use serde_json::json;

use crate::fingerprint::{self, Weights};
use crate::printer;

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

/// A log that answers are recorded in.
pub struct Recording {
    log: Arc<Mutex<Log>>,
    path: PathBuf,
}

impl AuditOptions {
    /// Opens the log, if there is to be one.
    pub fn open(&self) -> Result<Option<Log>> {
        let Some(path) = &self.audit else { return Ok(None) };
        let key = self.audit_key.as_deref().map(SigningKey::read).transpose()?;
        let keep = match self.audit_keep {
            Kept::Digests => Keep::Digests,
            Kept::Tokens => Keep::Tokens,
            Kept::Text => Keep::Text,
        };
        let program = format!("membrane {}", env!("CARGO_PKG_VERSION"));
        Ok(Some(Log::open(path, LogOptions { program, keep, key })?))
    }

    /// Records which model answers are made with.
    pub fn record(&self, log: Log, model: &Model, quiet: bool) -> Result<(Recording, Audit)> {
        let path = log.path().to_owned();
        let log = Arc::new(Mutex::new(log));
        let model = fingerprint::model(model, self.audit_weights, quiet)?;
        let audit = Audit::new(log.clone(), model)?;
        Ok((Recording { log, path }, audit))
    }

    /// Has a generator record its answers.
    pub fn start(&self, log: Log, generator: &mut Generator, quiet: bool) -> Result<Recording> {
        let (recording, audit) = self.record(log, generator.model(), quiet)?;
        generator.record(audit);
        Ok(recording)
    }
}

impl Recording {
    /// Ends the log in order, and says what its head is.
    pub fn conclude(&self, json: bool, quiet: bool) -> Result<()> {
        let head: Head = self.log.lock().unwrap_or_else(PoisonError::into_inner).close()?;
        if json {
            printer::json(&json!({"event": "audit", "log": self.path, "head": head.to_string()}))?;
        } else if !quiet {
            eprintln!("audit: {}, head {head}", self.path.display());
        }
        Ok(())
    }
}
