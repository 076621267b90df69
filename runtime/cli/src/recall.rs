//! Which experts earlier runs of a model used: a file for each model in the user's cache, so that the next run has the likeliest
//! in memory before they are asked for.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use membrane_engine::{GroupUsage, Model, Usage};
use serde::{Deserialize, Serialize};

use crate::cache;

/// Tokens for which all earlier runs count beside this one: a conversation or two, since routing follows the text.
const EARLIER_TOKENS: u64 = 2048;
/// Largest file that is read: some hundred layers of a thousand experts.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Whether earlier runs are of use.
#[derive(Args, Clone)]
pub struct RecallOptions {
    /// Whether experts that earlier runs of a model used most are read while the disk is idle, and how often this run uses each is
    /// kept for later ones; changes speed, never the result
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

/// What earlier runs of a model used, and where that is kept.
pub struct Recall {
    path: PathBuf,
    earlier: Usage,
}

/// Adds what a model used to what earlier runs did, when it is dropped.
pub struct Remembering {
    model: Model,
    recall: Recall,
}

/// The file.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// The model's path, for people.
    model: String,
    groups: Vec<Group>,
}

/// See [`GroupUsage`].
#[derive(Serialize, Deserialize)]
struct Group {
    tokens: u64,
    uses: Vec<u64>,
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
        let kept: Kept = cache::read(&path, MAX_FILE_BYTES);
        let groups = kept.groups.into_iter().map(|Group { tokens, uses }| GroupUsage { tokens, uses });
        Some(Self { path, earlier: Usage { groups: groups.collect() } })
    }

    /// What earlier runs used; none if there were none.
    pub fn usage(&self) -> Option<Usage> {
        (!self.earlier.is_empty()).then(|| self.earlier.clone())
    }

    /// Keeps what a loaded model uses until this is dropped, for the runs that follow.
    pub fn remember(self, model: &Model) -> Remembering {
        Remembering { model: model.clone(), recall: self }
    }
}

impl Drop for Remembering {
    fn drop(&mut self) {
        let Some(usage) = self.model.usage().filter(|usage| !usage.is_empty()) else { return };
        let all = usage.after(&self.recall.earlier, EARLIER_TOKENS);
        let groups = all.groups.into_iter().map(|GroupUsage { tokens, uses }| Group { tokens, uses });
        let model = self.model.checkpoint().path().display().to_string();
        let kept = Kept { model, groups: groups.collect() };
        cache::write(&self.recall.path, &kept);
    }
}
