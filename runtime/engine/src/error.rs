//! What can go wrong between a model file and its logits.

use std::path::{Path, PathBuf};

use membrane_formats::{Checkpoint, FormatError};
use membrane_kernels::{RecodeError, ShapeError};
use membrane_pager::PagerError;
use membrane_text::{GrammarError, TextError};
use thiserror::Error;

/// An error of loading or running a model; the text names the file, tensor or field and says what to do.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The model file is damaged or not readable.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// An error about what is inside a model file, with the file's name.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The model file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<EngineError>,
    },
    /// The tokenizer or the chat template of the file can't be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A folder without the documents that tokenizers are read from.
    #[error(
        "{path}: has no `tokenizer.json`, from which the tokenizer of a folder is read, nor `tokenizer_config.json` with `vocab.json` and \
         `merges.txt` or with `tiktoken.model` (a `tokenizer.model` is not read): fetch it from the \
         model's publisher, or from that of the model that this one was made of",
        path = path.display()
    )]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
    },
    /// The model's vocabulary can't be held to a grammar.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// Expert weights could not be read while running.
    #[error(transparent)]
    Pager(#[from] PagerError),
    /// A weight's bytes do not fit its shape.
    #[error("tensor `{tensor}`: {source}")]
    Weight {
        /// Name of the tensor in the file.
        tensor: String,
        /// What does not fit.
        source: ShapeError,
    },
    /// The file's `general.architecture` is not one that this engine runs.
    #[error(
        "{path}: architecture `{found}` is not supported; supported are {supported}",
        path = path.display()
    )]
    UnknownArchitecture {
        /// The model file.
        path: PathBuf,
        /// What the file says.
        found: String,
        /// Comma-separated names.
        supported: String,
    },
    /// A hyper-parameter that no model of this architecture can have.
    #[error("{path}: `{key}` is {found}, but {rule}", path = path.display())]
    Hyperparameter {
        /// The model file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// The value found.
        found: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// A quantised matrix that can't be made rows of blocks.
    #[error("tensor `{tensor}`: {source}")]
    Recode {
        /// Name of its first part.
        tensor: String,
        /// Why.
        source: RecodeError,
    },
    /// Experts of one layer that are stored in different ways.
    #[error(
        "tensor `{tensor}` is stored as {found}, and `{first}` of the same layer as {wanted}: experts of a layer must be stored \
         alike here; take the model in a form that keeps them so"
    )]
    MixedExperts {
        /// The tensor that differs.
        tensor: String,
        /// How it is stored.
        found: String,
        /// That of the first expert.
        first: String,
        /// How that is stored.
        wanted: String,
    },
    /// A part of a quantised matrix whose size does not follow from the matrix.
    #[error(
        "tensor `{tensor}` is {dtype} {found:?}, which is not what a quantised matrix of {} x {} has; the file is damaged, or \
         quantised in a way that is not read here",
        matrix[0], matrix[1]
    )]
    PartShape {
        /// Name of the part.
        tensor: String,
        /// Its shape in the file, as the file lists it.
        found: Vec<u64>,
        /// Its type.
        dtype: &'static str,
        /// Rows and columns of the matrix.
        matrix: [usize; 2],
    },
    /// A factor of a whole matrix that makes nothing of it.
    #[error(
        "tensor `{tensor}` is {found}: a factor of a whole matrix must be a finite number other than 0; the file is damaged"
    )]
    Factor {
        /// Name of the factor.
        tensor: String,
        /// What it is.
        found: f32,
    },
    /// A matrix of packed experts that is none of the model's, or in no form to compute with.
    #[error(
        "tensor `{tensor}`: the key of that name says \"{}\" of a matrix of {rows} x {cols} (\"Q4_K {rows} {cols}\", for example); \
         pack the model again, from what it was made of",
        shown(found)
    )]
    PackedForm {
        /// The tensor with the records.
        tensor: String,
        /// What is said of the matrix.
        found: String,
        /// Its outputs.
        rows: usize,
        /// Its inputs.
        cols: usize,
    },
    /// A model that can't be packed.
    #[error("{path}: {rule}", path = path.display())]
    Unpackable {
        /// The model, or where the packed one was to be.
        path: PathBuf,
        /// Why, and what to do.
        rule: &'static str,
    },
    /// A weight, or a scale of weights, that is NaN or infinite.
    #[error(
        "{path}: {tensor} has a number that is not finite (NaN or infinite), so that nothing the model computes is one; the file is \
         damaged, or its quantisation failed: fetch it again, or compare its digest (`membrane model verify`)",
        path = path.display()
    )]
    NotFinite {
        /// The file that has it.
        path: PathBuf,
        /// The tensor, in words.
        tensor: String,
    },
    /// Numbers that are not finite although the weights that made them are.
    #[error(
        "{path}: {at} went beyond what 32-bit floats hold, although the weights are finite numbers; the configuration is that of \
         another model, or the numbers of a tensor are wrong: compare the digests (`membrane model verify`)",
        path = path.display()
    )]
    Overflow {
        /// The model.
        path: PathBuf,
        /// Where.
        at: String,
    },
    /// A tensor whose shape does not follow from the hyper-parameters.
    #[error(
        "tensor `{tensor}` has shape {found:?}, but the hyper-parameters ask for {wanted:?}; \
         the file is damaged or its conversion was wrong"
    )]
    TensorShape {
        /// Name of the tensor.
        tensor: String,
        /// Dimensions in the file, contiguous one first.
        found: Vec<u64>,
        /// Dimensions that the hyper-parameters ask for.
        wanted: Vec<u64>,
    },
    /// Tensors of the file that nothing computes with, although they would change the model's numbers.
    #[error(
        "{path}: {count} tensor{} ({names}) would be left out: {meaning}",
        if *count == 1 { "" } else { "s" },
        path = path.display()
    )]
    UnusedTensors {
        /// The file that has the first of them.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first few names, quoted.
        names: String,
        /// What it means most likely, and what to do.
        meaning: String,
    },
    /// A tensor is stored in a type that the kernels do not have.
    #[error(
        "tensor `{tensor}` is stored as {found}, which this build can't compute with; \
         supported are {supported}"
    )]
    TensorType {
        /// Name of the tensor.
        tensor: String,
        /// Type name as the file's format calls it.
        found: String,
        /// Comma-separated names.
        supported: String,
    },
    /// The budget can't hold what must be resident.
    #[error(
        "--memory {budget} can't hold this model: {needed} are needed at least, with no more experts than one token \
         uses ({parts}); give at least --memory {needed}{advice}"
    )]
    Budget {
        /// The budget given.
        budget: crate::plan::Bytes,
        /// The least that would do.
        needed: crate::plan::Bytes,
        /// What makes it up.
        parts: crate::plan::MemoryParts,
        /// What else would help.
        advice: String,
    },
    /// Nobody gave a budget, and what is free does not hold what can't be paged.
    #[error(
        "this model takes at least {needed} and {} has {} for it ({free}; {parts}); {advice}; --memory none tries it all the same",
        free.limited_by.name(),
        free.budget
    )]
    Free {
        /// What is free.
        free: Box<crate::process::FreeMemory>,
        /// The least that would do.
        needed: crate::plan::Bytes,
        /// What makes it up.
        parts: crate::plan::MemoryParts,
        /// What would help.
        advice: &'static str,
    },
    /// The plan takes more than the machine has.
    #[error("this model takes {needed} and {limited_by} has {machine} ({parts}); give {advice}")]
    Machine {
        /// What the machine has, or its control group allows.
        machine: crate::plan::Bytes,
        /// Which of the two.
        limited_by: &'static str,
        /// What the plan takes.
        needed: crate::plan::Bytes,
        /// What makes it up.
        parts: crate::plan::MemoryParts,
        /// What would help.
        advice: &'static str,
    },
    /// More tokens than the context holds.
    #[error(
        "the context holds {limit} tokens: {have} are in it and {more} more were given; nothing was changed. \
         Give a larger --ctx (the model was trained for {trained}) or a shorter text"
    )]
    ContextFull {
        /// Tokens in the session.
        have: usize,
        /// Tokens that were to be appended.
        more: usize,
        /// Capacity.
        limit: usize,
        /// The model's own context length.
        trained: u32,
    },
    /// All sessions together hold as many keys and values as the plan has room for.
    #[error(
        "the KV cache of {limit} (with recurrent states) is full: sessions and forks share it; drop one, \
         or give a larger --ctx or --memory"
    )]
    KvFull {
        /// Capacity over all sessions.
        limit: crate::plan::Bytes,
    },
    /// A token that is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {size} tokens")]
    Token {
        /// The token.
        token: u32,
        /// Vocabulary size.
        size: u32,
    },
    /// An option of the caller's that can't be used.
    #[error("{0}")]
    Option(String),
    /// The operating system did not give memory.
    #[error("could not reserve {bytes} for {what}: {source}")]
    Reserve {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: crate::plan::Bytes,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The answer was cancelled between two layers; the session is as it was before the call.
    #[error("cancelled")]
    Cancelled,
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, EngineError>;

impl EngineError {
    /// The error of a tensor, in words, in file number `file`.
    pub(crate) fn not_finite(checkpoint: &Checkpoint, file: Option<usize>, tensor: String) -> Self {
        let file = file.and_then(|file| checkpoint.files().get(file));
        Self::NotFinite { path: file.map_or(checkpoint.path(), |file| &file.path).to_owned(), tensor }
    }

    /// The error with the name of the file that it is about, if it does not say that itself.
    pub(crate) fn of_file(self, path: &Path) -> Self {
        match self {
            Self::Text(_)
            | Self::Weight { .. }
            | Self::Recode { .. }
            | Self::MixedExperts { .. }
            | Self::PartShape { .. }
            | Self::Factor { .. }
            | Self::PackedForm { .. }
            | Self::TensorShape { .. }
            | Self::TensorType { .. } => Self::File { path: path.to_owned(), source: Box::new(self) },
            named => named,
        }
    }
}

/// Text from a file, made fit for a message: without control characters and at most 64 characters.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut short: String = text.chars().take(LONGEST).filter(|c| !c.is_control()).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn text_from_files_is_short_and_plain() {
        assert_eq!(shown("a\x1b[2Jb"), "a[2Jb");
        assert_eq!(shown(&"é".repeat(65)), format!("{}...", "é".repeat(64)));
    }
}
