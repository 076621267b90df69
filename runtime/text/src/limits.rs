//! Limits on what a model file or a conversation may ask of this crate, each with the attack that it stops.
//!
//! A model file is untrusted input: its vocabulary and its chat template are written by strangers.

/// Most tokens of a vocabulary. Public ones reach 262,144. Stops a file whose vocabulary alone breaks the
/// memory budget.
pub const MAX_TOKENS: usize = 1 << 20;

/// Most merge rules. Stops the same through `tokenizer.ggml.merges`.
pub const MAX_MERGES: usize = 1 << 21;

/// Most merge rules for each token. Public vocabularies have up to 2.3. Stops a small model with millions of
/// rules, most of which must be the same.
pub const MAX_MERGES_PER_TOKEN: usize = 8;

/// Most control and user-defined tokens together. Public vocabularies have about 1,200. Stops a search
/// automaton built from a million patterns.
pub const MAX_ADDED_TOKENS: usize = 1 << 14;

/// Longest text of one token, bytes. The longest known are runs of 128 spaces. Stops a vocabulary with one
/// 100 MB token.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// Text is encoded in pieces of about this many bytes, cut where no pre-tokenizer can join. Keeps the
/// encoder's scratch memory, about 100 bytes for a byte of text, small.
pub const ENCODE_CHUNK_BYTES: usize = 32 << 10;

/// Longest text that is encoded in one piece when it holds no such place; it is then cut anyway. Stops a
/// megabyte of spaces from running the regular expressions into their backtracking limit, after which they
/// would split no more.
pub const MAX_ENCODE_CHUNK_BYTES: usize = 192 << 10;

/// Words whose tokens are remembered, for each thread that encodes.
pub const ENCODE_CACHE_WORDS: usize = 4096;

/// Longest chat template, bytes. Public ones reach 17,000. Stops a 50 MB template.
pub const MAX_TEMPLATE_BYTES: usize = 128 << 10;

/// Depth of a template's syntax tree, in blocks, branches, brackets and chained operators. Public ones reach
/// 20. Stops 30,000 times `not`, which overflows the stack; this many levels take less than 512 KiB of it.
pub const TEMPLATE_NESTING: usize = 256;

/// Instructions that one rendering may execute. A long conversation with many tools takes about 100,000.
/// Stops loops in loops over `range`.
pub const TEMPLATE_FUEL: u64 = 2_000_000;

/// Depth of macro calls and loops. Stops a macro that calls itself from overflowing the stack.
pub const TEMPLATE_RECURSION: usize = 300;

/// Depth of lists and dictionaries that a template may build. Stops `x = [x]` in a loop, which overflows the
/// stack when the value is printed or freed.
pub const TEMPLATE_VALUE_DEPTH: usize = 64;

/// Bytes that one rendering may read, copy, build and write, apart from the allowance for its input.
/// Instructions don't bound this: forty times `s = s ~ s` is a terabyte.
pub const TEMPLATE_WORK_BYTES: u64 = 16 << 20;

/// The allowance, for each byte of the conversation: templates look at a message several times.
pub const TEMPLATE_WORK_PER_INPUT_BYTE: u64 = 64;

/// Longest prompt that a template may write, bytes, beyond eight times its input.
pub const MAX_PROMPT_BYTES: u64 = 4 << 20;

/// Longest text of a tool call that is collected before it is given up as malformed, bytes. Stops a model
/// that opens a call and never closes it from holding back its answer for ever.
pub const MAX_TOOL_CALL_BYTES: usize = 64 << 10;

/// Most characters of a token or other foreign text that an error message repeats.
pub const MAX_SHOWN_CHARS: usize = 64;
