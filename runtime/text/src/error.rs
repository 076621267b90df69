//! What can go wrong with a vocabulary, a text or a chat template.

use crate::limits::MAX_SHOWN_CHARS;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, TextError>;

/// An error of this crate. Keys are those of the GGUF metadata that the vocabulary came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A kind of tokenizer that is neither byte-level BPE nor SentencePiece's.
    #[error(
        "tokenizer.ggml.model is {found:?}: byte-level BPE (\"gpt2\") and SentencePiece (\"llama\") are supported; \
         use a model of the Qwen, Llama, Mistral, Gemma, SmolLM or GPT-2 families"
    )]
    Model {
        /// The value found.
        found: String,
    },
    /// A pre-tokenizer whose rules aren't known here.
    #[error("tokenizer.ggml.pre is {found:?}, whose rules are unknown; supported are {supported}")]
    PreTokenizer {
        /// The value found.
        found: String,
        /// The supported values.
        supported: String,
    },
    /// A document of a tokenizer that is broken, or is none of those that are read here.
    #[error("{file}: {rule}")]
    Document {
        /// `tokenizer.json`, or those that it would be made of.
        file: &'static str,
        /// What is wrong.
        rule: String,
    },
    /// Tokens and merge rules without a `tokenizer.json`, of a class of which it is not known how it cuts text.
    #[error(
        "tokenizer_config.json: the class of the tokenizer is {found}, and without a `tokenizer.json` only {supported} can be \
         read (without `add_prefix_space`): have transformers write the `tokenizer.json` (`AutoTokenizer`, `save_pretrained`)"
    )]
    TokenizerClass {
        /// The class.
        found: String,
        /// Those that are known.
        supported: String,
    },
    /// The vocabulary has no token.
    #[error("tokenizer.ggml.tokens is empty: the file holds no vocabulary")]
    Empty,
    /// An array that is longer than any honest one.
    #[error("{key} has {found} entries, more than the limit of {max}")]
    TooMany {
        /// The metadata key.
        key: &'static str,
        /// Entries found.
        found: usize,
        /// Entries allowed.
        max: usize,
    },
    /// Two arrays that must be equally long aren't.
    #[error("tokenizer.ggml.token_type has {found} entries for {tokens} tokens; both must be equally long")]
    TypeCount {
        /// Types found.
        found: usize,
        /// Tokens found.
        tokens: usize,
    },
    /// As many scores as tokens are needed.
    #[error("tokenizer.ggml.scores has {found} entries for {tokens} tokens; both must be equally long")]
    ScoreCount {
        /// Scores found.
        found: usize,
        /// Tokens found.
        tokens: usize,
    },
    /// A score that isn't a number.
    #[error("tokenizer.ggml.scores[{token}] is not a number")]
    Score {
        /// Index of the token.
        token: u32,
    },
    /// A vocabulary of SentencePiece that lacks what it is used with.
    #[error("a SentencePiece vocabulary needs {what}, which this file doesn't have")]
    SentencePiece {
        /// What is missing.
        what: String,
    },
    /// A token type outside the specification.
    #[error("tokenizer.ggml.token_type[{token}] is {found}; types are 1 to 6")]
    TokenType {
        /// Index of the token.
        token: u32,
        /// The value found.
        found: i32,
    },
    /// A token that is too long.
    #[error("tokenizer.ggml.tokens[{token}] has {bytes} bytes, more than the limit of {max}")]
    TokenTooLong {
        /// Index of the token.
        token: u32,
        /// Its length, bytes.
        bytes: usize,
        /// The limit, bytes.
        max: usize,
    },
    /// Two tokens with the same text.
    #[error("tokenizer.ggml.tokens[{first}] and [{second}] are both {text}; texts of tokens must differ")]
    DuplicateToken {
        /// Index of one.
        first: u32,
        /// Index of the other.
        second: u32,
        /// Their text, shortened.
        text: String,
    },
    /// A byte token that names no byte.
    #[error(
        "tokenizer.ggml.tokens[{token}] is {text}, of type byte; such a token is written <0x00> to <0xFF>"
    )]
    ByteToken {
        /// Index of the token.
        token: u32,
        /// Its text, shortened.
        text: String,
    },
    /// A special id that names no token.
    #[error("tokenizer.ggml.{name}_token_id is {id}, but there are only {tokens} tokens")]
    SpecialId {
        /// Which special token.
        name: &'static str,
        /// The id found.
        id: u32,
        /// Size of the vocabulary.
        tokens: usize,
    },
    /// A merge rule that can't be used.
    #[error("tokenizer.ggml.merges[{index}] is {text}: {reason}")]
    Merge {
        /// Index of the rule.
        index: usize,
        /// Its text, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A token id outside the vocabulary.
    #[error("token {id} is outside the vocabulary of {tokens} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        tokens: usize,
    },
    /// The tokenizer library failed.
    #[error("the text can't be encoded: {0}")]
    Encode(String),
    /// A chat template that is too long.
    #[error("tokenizer.chat_template has {bytes} bytes, more than the limit of {max}")]
    TemplateTooLong {
        /// Its length, bytes.
        bytes: usize,
        /// The limit, bytes.
        max: usize,
    },
    /// A chat template that can't be parsed or fails.
    #[error("chat template, line {line}: {message}")]
    Template {
        /// Line in the template, from 1; 0 where unknown.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The chat template refuses the conversation by `raise_exception`.
    #[error("the chat template refuses this conversation: {message}")]
    Raised {
        /// The template's words.
        message: String,
    },
    /// The chat template went beyond a limit.
    #[error(
        "chat template, line {line}: more than the limit of {max} {what}; the template is broken or hostile"
    )]
    TemplateLimit {
        /// Line in the template, from 1; 0 where unknown.
        line: usize,
        /// What was exceeded, with its unit.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// The prompt can't be encoded without giving a user's text the power of a control token.
    #[error(
        "a message holds the text of a control token, and the chat template treats it so that it can't be \
         told from the template's own; remove {text} from the messages"
    )]
    Forged {
        /// The control token's text.
        text: String,
    },
}

/// Foreign text as an error message may show it: quoted, escaped and short.
pub(crate) fn shown(text: &str) -> String {
    let short: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{dots}")
}
