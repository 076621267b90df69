//! What can go wrong between an expert on disk and its bytes in memory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::catalog::ExpertKey;

/// An error of opening or using a pager. After any error of a request the pager stays usable.
///
/// It can be cloned because one failed read may be awaited by several requests.
#[derive(Debug, Clone, Error)]
pub enum PagerError {
    /// There is nothing to page.
    #[error("the catalog names no experts; a model without experts needs no pager")]
    EmptyCatalog,
    /// A record that no file can hold.
    #[error("expert {index} of group {group}: {rule}; the file is damaged or was read wrongly")]
    Record {
        /// Layer.
        group: usize,
        /// Expert in the layer.
        index: usize,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A record in a file that was not given.
    #[error("expert {index} of group {group} lies in file number {file}, but {files} files were given")]
    UnknownFile {
        /// Layer.
        group: usize,
        /// Expert in the layer.
        index: usize,
        /// File number in the record.
        file: usize,
        /// Files given.
        files: usize,
    },
    /// A record that ends after its file.
    #[error(
        "{path}: expert {index} of group {group} ends at byte {end}, but the file has {file_bytes} bytes; \
         download it again",
        path = path.display()
    )]
    PastEnd {
        /// The file.
        path: PathBuf,
        /// Layer.
        group: usize,
        /// Expert in the layer.
        index: usize,
        /// Where the record ends.
        end: u64,
        /// Length of the file.
        file_bytes: u64,
    },
    /// What was read of an expert contradicts what was said of it, or making another form of it panicked.
    #[error("expert {index} of group {group}: {rule}")]
    Recode {
        /// Layer.
        group: u32,
        /// Expert in the layer.
        index: u32,
        /// What is wrong and what to do.
        rule: String,
    },
    /// The arena can't hold one expert.
    #[error(
        "an expert arena of {arena_bytes} bytes can't hold one expert of {slot_bytes} bytes; \
         give the arena at least that"
    )]
    ArenaTooSmall {
        /// Size of the arena asked for.
        arena_bytes: u64,
        /// Size of one slot.
        slot_bytes: u64,
    },
    /// The operating system did not give the memory that is read into.
    #[error(
        "could not reserve {bytes} bytes to read experts and weights into: {source}; give a smaller budget"
    )]
    Reserve {
        /// Size asked for.
        bytes: u64,
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// The operating system did not give a thread.
    #[error("could not start an I/O thread: {source}; raise the limit on threads or ask for fewer")]
    Thread {
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// A file can't be opened or examined.
    #[error("{path}: {source}; check that the file is there and readable", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// A read failed.
    #[error(
        "{path}: reading {bytes} bytes at byte {offset} failed: {source}; check the disk and the file system",
        path = path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Where the read began.
        offset: u64,
        /// How much was to be read.
        bytes: u64,
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// The file is shorter than it was when it was opened.
    #[error(
        "{path}: the file ends at byte {end}, but bytes up to {wanted} are needed; it was truncated or \
         replaced while in use: restore it and load it again",
        path = path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where it ends now.
        end: u64,
        /// Where it should reach at least.
        wanted: u64,
    },
    /// A request names a group or an expert that the catalog does not have.
    #[error("there is no expert {index} in group {group} of the catalog")]
    NoSuchExpert {
        /// Layer asked for.
        group: u32,
        /// Expert asked for.
        index: u32,
    },
    /// A request names an expert twice.
    #[error("expert {index} of group {group} is named twice in one request; name each once")]
    Duplicate {
        /// Layer.
        group: u32,
        /// The expert named twice.
        index: u32,
    },
    /// The caller keeps so many experts that none can be read.
    #[error(
        "all {slots} slots of the arena are held and the caller waits for one more; \
         drop the leases of a batch before asking for the next"
    )]
    SlotsHeld {
        /// Slots in the arena.
        slots: usize,
    },
    /// A file too short to measure a disk with.
    #[error(
        "{path}: {bytes} bytes are too few to measure the disk; name a file of at least {least}",
        path = path.display()
    )]
    ProbeTooSmall {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The least that gives a figure.
        least: u64,
    },
    /// The pager's own bookkeeping and its arena disagree.
    #[error(
        "slot {slot} of the expert arena is in use where it should be free; this is a defect of the pager"
    )]
    SlotBusy {
        /// The slot.
        slot: usize,
    },
}

impl PagerError {
    /// What made another form of an expert panicked.
    pub(crate) fn panicked(ExpertKey { group, index }: ExpertKey) -> Self {
        let rule = "a mistake of the program: making another form of it panicked".to_owned();
        Self::Recode { group, index, rule }
    }
}
