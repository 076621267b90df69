//! Every cap on what a model file may claim, and the attack that it stops.
//!
//! A count is also held against the bytes that are left in the file before anything is allocated for it; the
//! caps bound what a file that really is large can cost. Together they keep an open under 100 MB whatever the
//! file.

/// Bytes of header over all files of a checkpoint: metadata and tensor list. Stops a sparse file of many
/// gigabytes that is one string or one array from being read into memory. The largest vocabularies take about
/// 20 MB.
pub const HEADER_BYTES: u64 = 64 << 20;

/// Metadata entries of one file. Stops millions of tiny entries, each of which costs ten times its bytes in
/// memory. Published files have under 100.
pub const METADATA_ENTRIES: u64 = 16_384;

/// Bytes of a metadata key; the GGUF specification's own figure. Stops a key from being used as a payload.
pub const KEY_BYTES: u64 = 65_535;

/// Tensors over all files of a checkpoint. Stops an allocation by `tensor_count`. Published models have under
/// 3,000.
pub const TENSORS: u64 = 65_536;

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
