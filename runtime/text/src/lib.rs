//! Text on its way into a model and out of it: tokenizer, chat template, tool calls, grammars.
//!
//! Knows nothing of model files: the caller fills a [`VocabularySpec`], or has it made from the bytes of a `tokenizer.json`,
//! and hands over the source of the chat template. Both are untrusted, as is every text in a conversation; [`limits`] says
//! what they may cost.

#![forbid(unsafe_code)]

mod added;
mod channels;
mod conversation;
mod error;
mod grammar;
pub mod limits;
mod pretokenize;
mod prompt;
mod published;
mod ranked;
mod reasoning;
mod sentencepiece;
mod stream;
mod template;
mod tokenizer;
mod tool_calls;
mod vocabulary;

pub use channels::{ChannelParser, Channels};
pub use conversation::{ChatMessage, Conversation, Role, ToolCall};
pub use error::{Result, TextError};
pub use grammar::{Constraint, Grammar, GrammarCompiler, GrammarError, UnknownKeyword};
pub use prompt::Prompt;
pub use reasoning::{end_reasoning, in_reasoning};
pub use stream::Utf8Stream;
pub use template::ChatTemplate;
pub use tokenizer::{Specials, Tokenizer};
pub use tool_calls::{ParserEvent, ToolCallParser};
pub use vocabulary::{SpacePrefix, VocabularySpec};
