//! Text on its way into a model and out of it: tokenizer, chat template, tool calls.
//!
//! Knows nothing of model files: the caller fills a [`VocabularySpec`] and hands over the source of the chat template. Both
//! are untrusted, as is every text in a conversation; [`limits`] says what they may cost.

#![forbid(unsafe_code)]

mod added;
mod error;
pub mod limits;
mod pretokenize;
mod stream;
mod tokenizer;
mod vocabulary;

pub use error::{Result, TextError};
pub use stream::Utf8Stream;
pub use tokenizer::{Specials, Tokenizer};
pub use vocabulary::VocabularySpec;
