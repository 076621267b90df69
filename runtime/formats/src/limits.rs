//! Every cap on what a model file may claim, and the attack that it stops.
//!
//! A count is also held against the bytes that are left in the file before anything is allocated for it; the
//! caps bound what a file that really is large can cost.
//!
//! An open [`crate::Checkpoint`] of a GGUF file takes at most one byte of memory for each byte of metadata, so that
//! [`HEADER_BYTES`] bounds it, and beside that 4 MB for [`METADATA_ENTRIES`] and 16 MB for [`TENSORS`]: under
//! 60 MB whatever the file. Whoever copies arrays out of it pays for the copies, and checks lengths before. That of a folder
//! takes up to 64 MB for [`PUBLISHED_TENSORS`], and their names, which [`PUBLISHED_HEADER_BYTES`] bounds.

/// Bytes of header over all files of a checkpoint: metadata and tensor list. Stops a large or sparse file that
/// is all metadata from being read into memory. The largest public vocabularies, 262,144 tokens with scores,
/// types and 515,000 merge rules, take about 18 MB.
pub const HEADER_BYTES: u64 = 32 << 20;

/// Bytes of one string of metadata, alone or in an array. Stops a name or a template of many megabytes from
/// being copied into messages and past every later step. Public chat templates reach 17,000 bytes, licences
/// 50,000.
pub const STRING_BYTES: u64 = 1 << 20;

/// Elements of an array of metadata. Stops an array of bytes that takes eight times its size when it is read
/// as numbers. Public vocabularies have up to 515,000 merge rules.
pub const ARRAY_ELEMENTS: u64 = 1 << 21;

/// Metadata entries of one file. Stops millions of tiny entries, each of which costs ten times its bytes in
/// memory. Published files have under 100.
pub const METADATA_ENTRIES: u64 = 16_384;

/// Bytes of a metadata key; the GGUF specification's own figure. Stops a key from being used as a payload.
pub const KEY_BYTES: u64 = 65_535;

/// Tensors over all files of a checkpoint. Stops an allocation by `tensor_count`. Published models have under
/// 3,000.
pub const TENSORS: u64 = 65_536;

/// Bytes of all headers of a published folder's weight files, and of its index. Stops a file that is all header from being
/// read into memory. A mixture of 30,000 quantised experts takes about 60 MB.
pub const PUBLISHED_HEADER_BYTES: u64 = 96 << 20;

/// Tensors over all files of a published folder, where each expert may have a dozen. Stops an allocation by tiny entries.
pub const PUBLISHED_TENSORS: u64 = 1 << 19;

/// Bytes of a tensor name in a published folder. Stops a name from being used as a payload.
pub const PUBLISHED_NAME_BYTES: u64 = 255;

/// Bytes of a JSON document of a published folder, apart from its index and tokenizer. Stops a configuration of gigabytes.
/// The largest, which list each quantised matrix of a large mixture, take about 10 MB.
pub const JSON_BYTES: u64 = 16 << 20;

/// Elements of such a document. Stops millions of tiny values, each of which takes a hundred bytes in memory.
pub const JSON_ELEMENTS: u64 = 1 << 19;

/// Bytes of a `tokenizer.json`, `vocab.json`, `merges.txt` or `tiktoken.model`. Stops the same. Public ones reach 35 MB.
pub const TOKENIZER_BYTES: u64 = 64 << 20;

/// Tokens that end an answer. Stops a list of all tokens. Public models have up to five.
pub const END_TOKENS: usize = 64;

/// Bytes of a tensor name. Other readers keep names in arrays of 64 bytes with an end mark: a longer name is
/// an overflow there, and two names that agree in 63 bytes become one.
pub const TENSOR_NAME_BYTES: u64 = 63;

/// Dimensions of a tensor. Stops a write past a fixed array of dimensions.
pub const DIMS: usize = 4;

/// Most elements of a tensor. Sizes in elements then fit a signed 64-bit number for whoever computes with
/// them.
pub const ELEMENTS: u64 = i64::MAX as u64;

/// Smallest `general.alignment`; the specification asks for a multiple of 8. Stops a division or mask by 0.
pub const MIN_ALIGNMENT: u32 = 8;

/// Largest `general.alignment`. Stops 0x80000000, with which sums of padded sizes wrap in 32 bits and a file
/// of a few bytes claims gigabytes of padding.
pub const MAX_ALIGNMENT: u32 = 1 << 20;

/// Files of a split checkpoint. Stops `split.count` 65535 from using up the process's file descriptors.
pub const SHARDS: u64 = 512;
