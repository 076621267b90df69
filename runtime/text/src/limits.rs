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

/// Most added tokens that the embedding may have no rows for; they are left out. Models made of others have 1 to 20. Stops
/// nothing, but more of them are of another model.
pub const MAX_WITHOUT_ROW: usize = 64;

/// Longest token of a `tiktoken.model`, bytes. Public ones reach 128. Stops 200,000 long ones, all ways to cut which are looked up.
pub const MAX_RANKED_BYTES: usize = 256;

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

/// Longest JSON schema, bytes, as it is written without blanks. Stops one that takes seconds to compile.
pub const MAX_SCHEMA_BYTES: usize = 128 << 10;

/// Longest JSON schema, bytes, of which an error tells the place: its parts are compiled one by one to find it.
pub const MAX_PLACED_SCHEMA_BYTES: usize = 8 << 10;

/// Longest Lark grammar, bytes. Stops the same: chains of terminals take time with the square of their length.
pub const MAX_LARK_BYTES: usize = 64 << 10;

/// Longest regular expression, bytes. Stops the same: 10,000 times `a?`.
pub const MAX_REGEX_BYTES: usize = 16 << 10;

/// Regular expressions of a schema: `pattern`, `format` and the names in `patternProperties`, of which each is compared
/// with each.
pub const SCHEMA_PATTERNS: usize = 128;

/// Regular expressions that a text may have to match at the same time: `&` in a Lark grammar, patterns of a schema that
/// combines schemas. The work doubles with each, within one step, where fuel isn't looked at: 16 take a tenth of a
/// second, 24 minutes.
pub const GRAMMAR_INTERSECTIONS: usize = 12;

/// The product of the digits of all values of `multipleOf`, trailing zeros left out. Stops automata of as many states.
pub const SCHEMA_MULTIPLES: u64 = 10_000;

/// Depth of brackets, lists and objects in a grammar. Stops 30,000 opening brackets, which overflow the stack.
pub const GRAMMAR_NESTING: usize = 128;

/// Stack of the thread that compiles a grammar, bytes. It is touched only as far as it is used.
pub const GRAMMAR_STACK_BYTES: usize = 64 << 20;

/// Symbols of a compiled grammar. Public schemas have up to 200,000. Stops `(a | b){1,1000}` in itself.
pub const GRAMMAR_SYMBOLS: usize = 200_000;

/// Units of work on the regular expressions of a grammar while it is compiled, about 50,000 a millisecond. Stops
/// counts in counts.
pub const GRAMMAR_COMPILE_FUEL: u64 = 1_000_000;

/// Units of work on the regular expressions for one mask, about 14,000 a millisecond. Stops an expression whose
/// automaton doubles with each character.
pub const GRAMMAR_STEP_FUEL: u64 = 200_000;

/// Items of the parser for one mask, about 20,000 a millisecond. Stops an ambiguous grammar.
pub const GRAMMAR_STEP_ITEMS: usize = 50_000;

/// Items of the parser at one place of the text. Stops the same.
pub const GRAMMAR_ROW_ITEMS: usize = 2_000;

/// States of the automaton of one constraint's expressions, about a kilobyte each. Stops an answer during which the
/// automaton grows without end.
pub const GRAMMAR_LEXER_STATES: usize = 50_000;

/// What grammars take beside a model: the vocabulary sorted for them, and a constraint at its limits, bytes.
pub const GRAMMAR_MEMORY_BYTES: u64 = 160 << 20;

/// Most characters of what the grammar library says that an error message repeats.
pub const MAX_GRAMMAR_MESSAGE_CHARS: usize = 400;

/// Longest token that grammars see, bytes. The library's trie goes as deep as it can represent.
pub const MAX_TRIE_TOKEN_BYTES: usize = 1000;

/// Bytes of all tokens that grammars see. Public vocabularies have 2 million. The library's trie holds no more.
pub const MAX_TRIE_BYTES: usize = 4_000_000;
