//! The documents of a tokenizer, and what those beside say of the text: special tokens and the chat template.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{MERGES, RANKS, TOKENIZER, TOKENIZER_CONFIG, VOCAB, json};
use crate::error::FormatError;
use crate::keys;
use crate::limits;
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::value::Array;

/// What a folder's tokenizer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerDocuments {
    /// `tokenizer.json`.
    One(Vec<u8>),
    /// Where there is none, what it would be made of.
    Parts {
        /// `vocab.json`: an id for each token.
        vocab: Vec<u8>,
        /// `merges.txt`: a merge rule a line.
        merges: Vec<u8>,
        /// `tokenizer_config.json`: which tokenizer it is, and added tokens.
        config: Vec<u8>,
    },
    /// Where there are none of these, another form.
    Ranks {
        /// `tiktoken.model`: a token in base64 and its rank a line.
        ranks: Vec<u8>,
        /// `tokenizer_config.json`: which tokenizer it is, and added tokens.
        config: Vec<u8>,
    },
}

impl TokenizerDocuments {
    /// Those among the files of a folder; none if one is missing.
    pub(crate) fn read(files: &[SourceFile]) -> Result<Option<Self>, FormatError> {
        let read = |name: &str, limit: u64| {
            let found = files.iter().find(|file| file.path.file_name().is_some_and(|own| own == name));
            found.map(|file| json::document(file, limit)).transpose()
        };
        if let Some(json) = read(TOKENIZER, limits::TOKENIZER_BYTES)? {
            return Ok(Some(Self::One(json)));
        }
        let vocab = read(VOCAB, limits::TOKENIZER_BYTES)?;
        let merges = read(MERGES, limits::TOKENIZER_BYTES)?;
        let config = read(TOKENIZER_CONFIG, limits::JSON_BYTES)?;
        Ok(match (vocab, merges, config) {
            (Some(vocab), Some(merges), Some(config)) => Some(Self::Parts { vocab, merges, config }),
            (_, _, Some(config)) => {
                read(RANKS, limits::TOKENIZER_BYTES)?.map(|ranks| Self::Ranks { ranks, config })
            }
            _ => None,
        })
    }

    /// What a digest of the tokenizer is of: the document, or all of them, each behind its length.
    pub fn joined(&self) -> Cow<'_, [u8]> {
        let all = match self {
            Self::One(json) => return Cow::Borrowed(json),
            Self::Parts { vocab, merges, config } => vec![vocab, merges, config],
            Self::Ranks { ranks, config } => vec![ranks, config],
        };
        let mut joined = Vec::with_capacity(all.iter().map(|document| 8 + document.len()).sum());
        for document in all {
            joined.extend_from_slice(&(document.len() as u64).to_le_bytes());
            joined.extend_from_slice(document);
        }
        Cow::Owned(joined)
    }
}

/// The text of a chat template's own file.
pub(super) fn template(source: &SourceFile) -> Result<String, FormatError> {
    let bytes = json::document(source, limits::STRING_BYTES)?;
    String::from_utf8(bytes).map_err(|_| FormatError::Utf8 {
        path: source.path.clone(),
        offset: 0,
        what: "the chat template".into(),
    })
}

/// How GGUF files call what the makers of a model suggest for sampling, and `generation_config.json`.
const SAMPLING: [(&str, &str); 5] = [
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

/// Adds the tokens that end an answer, what is suggested for sampling, the special tokens by their texts, and the chat template. What
/// has another form than these have is as good as absent: nothing of it is needed to compute.
pub(super) fn describe(
    metadata: &mut Metadata,
    config: &Map<String, Value>,
    generation: Option<&Map<String, Value>>,
    tokenizer: Option<&Map<String, Value>>,
    template: Option<String>,
) {
    let levels = super::config::levels(config).into_iter().rev();
    let ends = generation.into_iter().chain(levels);
    let ends = ends.map(|object| ids(object.get("eos_token_id"))).find(|ids| !ids.is_empty());
    if let Some(ends) = ends {
        metadata.set(keys::END_TOKENS, Array::U32(ends));
    }
    for (ours, published) in SAMPLING {
        if let Some(number) = generation.and_then(|object| object.get(published)?.as_f64()) {
            metadata.set(ours, number as f32);
        }
    }
    let Some(tokenizer) = tokenizer else {
        if let Some(template) = template {
            metadata.set(keys::CHAT_TEMPLATE, template);
        }
        return;
    };
    for (ours, published) in [(keys::BOS_TOKEN, "bos_token"), (keys::EOS_TOKEN, "eos_token")] {
        let value = tokenizer.get(published);
        let content = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
        if let Some(content) = content {
            metadata.set(ours, content);
        }
    }
    for (ours, published) in [(keys::ADD_BOS, "add_bos_token"), (keys::ADD_EOS, "add_eos_token")] {
        if let Some(add) = tokenizer.get(published).and_then(Value::as_bool) {
            metadata.set(ours, add);
        }
    }
    describe_template(metadata, tokenizer);
    if let Some(template) = template {
        metadata.set(keys::CHAT_TEMPLATE, template);
    }
}

/// Adds the chat templates of a `chat_template.json` or `tokenizer_config.json`: a text, or a list of named ones.
pub(super) fn describe_template(metadata: &mut Metadata, document: &Map<String, Value>) {
    let Some(template) = document.get("chat_template") else { return };
    for (key, name) in [(keys::CHAT_TEMPLATE, "default"), (keys::TOOL_TEMPLATE, "tool_use")] {
        let text = match template {
            Value::Array(named) => named.iter().find(|named| named.get("name").is_some_and(|of| of == name)),
            one => (name == "default").then_some(one),
        };
        if let Some(text) = text.and_then(|text| text.get("template").unwrap_or(text).as_str()) {
            metadata.set(key, text);
        }
    }
}

/// One id or a list of ids.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(one).take(limits::END_TOKENS).collect(),
        Some(id) => one(id).into_iter().collect(),
        None => Vec::new(),
    }
}
