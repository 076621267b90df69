//! What can be wrong with a model file.

use std::io;
use std::path::PathBuf;

use crate::limits;
use crate::shape::ShapeError;

/// Why a model file was refused or could not be read or written.
///
/// Each message names the file and, where they exist, the offset, key or tensor, and says what to do. Names
/// that come from a file are quoted and escaped, so that a message can't carry control characters to a
/// terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused to open or create the file.
    #[error("{}: can't be opened: {source}; check the path and its permissions", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder, pipe, device or socket stands where a file should.
    #[error("{}: is {found}, not a file; name a .gguf file or a model's folder", path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The path leads through symbolic links back to itself.
    #[error("{}: its symbolic links lead in a circle; name the file itself", path.display())]
    SymlinkLoop {
        /// The path as given.
        path: PathBuf,
    },
    /// Reading failed below us.
    #[error("{}: reading {bytes} bytes at {offset} failed: {source}; check the disk", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Offset in the file, bytes.
        offset: u64,
        /// Bytes asked for.
        bytes: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// Writing failed below us.
    #[error("{}: can't be written: {source}; check free space and permissions", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file ends before what it announces.
    #[error(
        "{}: {what} at {offset} needs {wanted} bytes and {left} are left; the file is cut short or damaged: \
         fetch it again", path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where it begins, bytes.
        offset: u64,
        /// What was being read.
        what: String,
        /// Bytes that it needs; `u64::MAX` if the number does not fit.
        wanted: u64,
        /// Bytes between `offset` and the end of the file.
        left: u64,
    },
    /// The file has other content than a moment ago.
    #[error("{}: changed while it was being read; open it again when nothing writes to it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A claim is above one of [`limits`].
    #[error(
        "{}: {what} at {offset} is {found} and at most {limit} is accepted; the file is damaged or hostile: \
         get it from its publisher", path.display()
    )]
    Limit {
        /// The file.
        path: PathBuf,
        /// Where the claim stands, bytes.
        offset: u64,
        /// What is limited.
        what: String,
        /// The claim.
        found: u64,
        /// The cap.
        limit: u64,
    },
    /// Not a GGUF file at all.
    #[error(
        "{}: begins with {:?}, not \"GGUF\"; name a GGUF file, or a folder with config.json and safetensors files",
        path.display(), found.escape_ascii().to_string()
    )]
    Magic {
        /// The file.
        path: PathBuf,
        /// Its first four bytes.
        found: [u8; 4],
    },
    /// Written on a big-endian machine, or with its bytes swapped.
    #[error("{}: is big-endian (version field {version:#010x}); convert it to little-endian", path.display())]
    ByteSwapped {
        /// The file.
        path: PathBuf,
        /// The version field read as little-endian.
        version: u32,
    },
    /// A version that is not read here.
    #[error("{}: is GGUF version {found}, and 2 and 3 are read; convert the model again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Text that is not UTF-8.
    #[error("{}: {what} at {offset} is not UTF-8; the file is damaged: fetch it again", path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Where the text begins, bytes.
        offset: u64,
        /// Which text.
        what: String,
    },
    /// A metadata entry whose key or value breaks the format.
    #[error("{}: metadata key {key} at {offset}: {rule}; convert the model again", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The key, quoted.
        key: String,
        /// Where the entry begins, bytes.
        offset: u64,
        /// What is wrong.
        rule: String,
    },
    /// Two metadata entries or two tensors have one name; which of them counts would be a guess.
    #[error(
        "{}: {what} {name} occurs twice; the file is damaged or hostile: fetch it again",
        path.display()
    )]
    Duplicate {
        /// The file that has the second one.
        path: PathBuf,
        /// "metadata key" or "tensor".
        what: &'static str,
        /// The name, quoted.
        name: String,
    },
    /// `general.alignment` is not a power of two within the limits, or not a u32.
    #[error(
        "{}: general.alignment is {found}, and it must be a power of two from {} to {} stored as u32; \
         convert the model again", path.display(), limits::MIN_ALIGNMENT, limits::MAX_ALIGNMENT
    )]
    Alignment {
        /// The file.
        path: PathBuf,
        /// Value and type found.
        found: String,
    },
    /// A tensor's name, dimensions or place break the format.
    #[error("{}: tensor {tensor}: {rule}; the file is damaged or hostile: fetch it again", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor, quoted.
        tensor: String,
        /// What is wrong.
        rule: String,
    },
    /// A tensor's dimensions are impossible.
    #[error("{}: tensor {tensor}: {source}; the file is damaged or hostile: fetch it again", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor, quoted.
        tensor: String,
        /// The rule that they break.
        source: ShapeError,
    },
    /// A tensor's type id is unknown or was removed from the format.
    #[error("{}: tensor {tensor} has type id {}, {}", path.display(), *id as i32, type_advice(*id))]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor, quoted.
        tensor: String,
        /// The id as stored.
        id: u32,
    },
    /// Two tensors claim the same bytes.
    #[error(
        "{}: tensors {first} and {second} overlap; the file is damaged or hostile: fetch it again",
        path.display()
    )]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The tensor that begins first, quoted.
        first: String,
        /// The one that begins inside it, quoted.
        second: String,
    },
    /// A metadata value has another type than the reader needs, or does not fit it.
    #[error(
        "{}: metadata key {key} is {found}, and {wanted} is needed; convert the model again",
        path.display()
    )]
    KeyType {
        /// The file.
        path: PathBuf,
        /// The key, quoted.
        key: String,
        /// Type found, with the value where it is a number out of range.
        found: String,
        /// Type needed.
        wanted: &'static str,
    },
    /// A metadata key that the reader can't do without is absent.
    #[error("{}: metadata key {key} is missing; the model was not converted completely", path.display())]
    KeyMissing {
        /// The file.
        path: PathBuf,
        /// The key, quoted.
        key: String,
    },
    /// A tensor that the reader can't do without is absent.
    #[error("{}: tensor {tensor} is missing; the model was not converted completely", path.display())]
    TensorMissing {
        /// The file.
        path: PathBuf,
        /// The tensor, quoted.
        tensor: String,
    },
    /// A caller asked for bytes outside a tensor.
    #[error(
        "{}: tensor {tensor} has {size} bytes, and {bytes} at {offset} were asked for; read inside it",
        path.display()
    )]
    Range {
        /// The file.
        path: PathBuf,
        /// The tensor, quoted.
        tensor: String,
        /// Offset in the tensor, bytes.
        offset: u64,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes of the tensor.
        size: u64,
    },
    /// The files of a split checkpoint do not belong together, or one was named that is not the first.
    #[error("{}: {rule}", path.display())]
    Split {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        rule: String,
    },
    /// A JSON document, or the header of a safetensors file, breaks a rule.
    #[error("{}: {rule}; the file is damaged or hostile: fetch it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place where there is one.
        rule: String,
    },
    /// A value of `config.json` is one that the model can't be run with.
    #[error("{}: {key} is {found}, and {rule}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, quoted.
        found: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// A folder is not one with a model, or not complete.
    #[error("{}: {rule}", path.display())]
    Folder {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What is wrong and what to do.
        rule: String,
    },
    /// The keys or records of a packed model that are not as they must be.
    #[error("{}: {rule}; pack the model again, from what it was made of", path.display())]
    Packed {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        rule: String,
    },
    /// Something is where a model was to be written.
    #[error("{}: exists already; name another path, or take it away first", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// Something came to be where a model was to be, while that was made.
    #[error(
        "{}: is there by now, and stays; the finished model is {}: move it where you want it, and take its folder away",
        path.display(), model.display()
    )]
    Occupied {
        /// Where it was to be.
        path: PathBuf,
        /// Where it is.
        model: PathBuf,
    },
    /// A path that can't be written to, or an unfinished model that can't be gone on with.
    #[error("{}: {rule}", path.display())]
    Unwritable {
        /// The path.
        path: PathBuf,
        /// Why, and what to do.
        rule: &'static str,
    },
    /// What was written is read back otherwise.
    #[error("{}: bytes before {end} were read back otherwise than they were written; the disk is faulty", path.display())]
    ReadBack {
        /// The file.
        path: PathBuf,
        /// Where the first piece ends that is not what it was.
        end: u64,
    },
    /// A writer was given data that differs from what it declared.
    #[error("{}: tensor {tensor} was declared with {declared} bytes and {given} were given", path.display())]
    WriteLength {
        /// The file.
        path: PathBuf,
        /// The tensor, quoted.
        tensor: String,
        /// Bytes declared.
        declared: u64,
        /// Bytes given so far.
        given: u64,
    },
}

fn type_advice(id: u32) -> String {
    match crate::DType::removed(id) {
        Some(name) => format!("{name}, which was removed from the format; quantise the model again"),
        None => "which is not a known type; update this program or get the model in another type".into(),
    }
}

/// A name from a file, made fit for a message: in quotes, control characters escaped, at most 80 characters.
pub(crate) fn quoted(name: &str) -> String {
    const LONGEST: usize = 80;
    if name.chars().nth(LONGEST).is_none() {
        return format!("{name:?}");
    }
    let start: String = name.chars().take(LONGEST).collect();
    format!("{start:?}...")
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_what_a_terminal_would_obey() {
        assert_eq!(quoted("a\x1b[2Jb\n"), r#""a\u{1b}[2Jb\n""#);
        assert_eq!(quoted(&"é".repeat(81)), format!("\"{}\"...", "é".repeat(80)));
    }
}
