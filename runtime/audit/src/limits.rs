//! Limits on what is read from a log, each with the attack that it stops.

/// Bytes of a line, newline left out (a file without newlines). The ids of a prompt of a million tokens fit.
pub const MAX_LINE_BYTES: usize = 32 << 20;
/// Levels of lists and objects in a line or a content: the parser reads no more (a schema of nothing but brackets).
pub const MAX_LEVELS: usize = 127;
/// Findings that a report lists; more are counted (a file of nothing but newlines).
pub const MAX_FINDINGS: usize = 1000;
/// Gaps in the numbers that are kept while a log is verified (a file that counts in twos, backwards).
pub const MAX_GAPS: usize = 10_000;
/// Bytes of a head file (a device that never ends).
pub const MAX_HEAD_BYTES: u64 = 4096;
/// Bytes of a key file.
pub const MAX_KEY_BYTES: u64 = 64 << 10;
/// Bytes of a text from a file that an error repeats.
pub(crate) const MAX_SHOWN_CHARS: usize = 120;
