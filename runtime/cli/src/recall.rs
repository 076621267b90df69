//! Which experts earlier runs of a model used: a file for each model in the user's cache, so that the next run has the likeliest
//! in memory before they are asked for.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use membrane_engine::{Model, Usage};
use serde::{Deserialize, Serialize};

use crate::cache;

/// Tokens for which all that was before counts beside an answer: a conversation or two, since routing follows the text.
const EARLIER_TOKENS: u64 = 2048;
/// Largest file that is read: some hundred layers of a thousand experts.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Whether earlier runs are of use.
#[derive(Args, Clone)]
pub struct RecallOptions {
    /// Whether experts that earlier runs of a model used most are read while nobody waits for the disk, and how often this run uses
    /// each is kept for later ones; changes speed, never the result
    #[arg(long = "recall", value_enum, default_value_t = Recalls::Auto)]
    recalls: Recalls,
}

/// When earlier runs are of use.
#[derive(Clone, Copy, ValueEnum)]
enum Recalls {
    /// Where not all experts fit.
    Auto,
    /// Never; nothing is kept either.
    Off,
}

/// Where it is kept how often runs of a model used its experts.
pub struct Recall {
    path: PathBuf,
}

/// Keeps how often a model uses its experts; the last time when it is dropped.
pub struct Remembering {
    model: Model,
    path: PathBuf,
    /// What is kept already.
    kept: Usage,
}

/// The file.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// The model's path, for people.
    model: String,
    #[serde(flatten)]
    usage: Usage,
}

impl RecallOptions {
    /// What is kept of the model at a path; none where nothing is to be, or can be, kept.
    pub fn of(&self, model: &Path) -> Option<Recall> {
        match self.recalls {
            Recalls::Auto => Recall::of(model),
            Recalls::Off => None,
        }
    }
}

impl Recall {
    fn of(model: &Path) -> Option<Self> {
        let place = std::fs::canonicalize(model).ok()?;
        let digest = membrane_audit::Digest::of(place.as_os_str().as_encoded_bytes()).hex();
        let path = cache::path(&format!("usage/{}.json", &digest[..16]))?;
        Some(Self { path })
    }

    /// What earlier runs used; none if there were none.
    pub fn usage(&self) -> Option<Usage> {
        Some(read(&self.path)).filter(|usage| !usage.is_empty())
    }

    /// Keeps what a loaded model uses, for the runs that follow.
    pub fn remember(self, model: &Model) -> Remembering {
        Remembering { model: model.clone(), path: self.path, kept: Usage::default() }
    }
}

fn read(path: &Path) -> Usage {
    cache::read::<Kept>(path, MAX_FILE_BYTES).usage
}

impl Remembering {
    /// Adds what the model used since the last time to what the file has now: other runs may have written to it.
    pub fn keep(&mut self) {
        let Some(usage) = self.model.usage() else { return };
        let new = usage.since(&self.kept);
        if new.is_empty() {
            return;
        }
        let all = new.after(&read(&self.path), EARLIER_TOKENS);
        let model = self.model.checkpoint().path().display().to_string();
        cache::write(&self.path, &Kept { model, usage: all });
        self.kept = usage;
    }
}

impl Drop for Remembering {
    fn drop(&mut self) {
        self.keep();
    }
}
