//! The tokenizer of a model: the metadata of a GGUF file, or the documents of a folder, put into the form that the text crate
//! takes.
//!
//! Keys as the GGUF specification names them, `tokenizer.ggml.*`, and those of [`membrane_formats::keys`].

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use membrane_formats::limits::END_TOKENS;
use membrane_formats::{Checkpoint, Container, Metadata, StrArray, TokenizerDocuments, Value, keys};
use membrane_text::limits::MAX_WITHOUT_ROW;
use membrane_text::{GrammarCompiler, SpacePrefix, Tokenizer, VocabularySpec};

use crate::error::{EngineError, Result};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const ENDS: &str = "tokenizer.ggml.eos_token_ids";
/// Tokens of Llama 3's vocabulary.
const LLAMA3_TOKENS: usize = 128_256;
/// Types of tokens that no merge makes: control and user-defined ones.
const ADDED: [i32; 2] = [3, 4];

/// Builds the tokenizer of a checkpoint.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    let build = || -> Result<Tokenizer> {
        match published(checkpoint)? {
            Some(documents) => Ok(Tokenizer::new(published_spec(checkpoint, &documents)?)?),
            None => Ok(Tokenizer::new(spec(checkpoint)?)?),
        }
    };
    build().map_err(|error| error.of_file(checkpoint.path()))
}

/// What the tokenizer of a folder is made of; none of a GGUF file. Error: the folder does not have that.
fn published(checkpoint: &Checkpoint) -> Result<Option<TokenizerDocuments>> {
    let documents = checkpoint.tokenizer_documents()?;
    if documents.is_none() && checkpoint.container() == Container::Folder {
        return Err(EngineError::NoTokenizer { path: checkpoint.path().to_owned() });
    }
    Ok(documents)
}

/// What a tokenizer is, without building it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerKind {
    /// How it makes tokens: `gpt2` is byte-level BPE, `llama` SentencePiece.
    pub model: String,
    /// How it cuts a text first, by the name that GGUF files have for it.
    pub pre: String,
    /// Tokens.
    pub tokens: usize,
    /// The token that it is told to put before a plain text, if it is.
    pub begins: Option<String>,
}

/// What the tokenizer of a checkpoint is. Errors: there is none, or it can't be read.
pub fn tokenizer_kind(checkpoint: &Checkpoint) -> Result<TokenizerKind> {
    let kind = || -> Result<TokenizerKind> {
        let documents = published(checkpoint)?;
        let spec = match &documents {
            Some(documents) => published_spec(checkpoint, documents)?,
            None => spec(checkpoint)?,
        };
        let bos = spec.bos.filter(|_| spec.add_bos == Some(true));
        let begins = bos.and_then(|bos| spec.tokens.get(bos as usize)).map(|token| token.to_string());
        Ok(TokenizerKind { model: spec.model, pre: spec.pre, tokens: spec.tokens.len(), begins })
    };
    kind().map_err(|error| error.of_file(checkpoint.path()))
}

/// Refuses a GGUF file with more tokens than its embedding has rows; [`check_tokens`] does so of a folder. It costs nothing:
/// a tokenizer of a million tokens that no row belongs to would take seconds.
pub(crate) fn check_rows(checkpoint: &Checkpoint, rows: usize) -> Result<()> {
    check_tokens(checkpoint, kept(checkpoint)?, rows)
}

/// Tokens of a GGUF file, but for a few added ones at the end that the embedding has no rows for: nothing may make these of a text.
/// Files in which Ollama has models that see have such tokens.
fn kept(checkpoint: &Checkpoint) -> Result<usize> {
    let tokens = length(checkpoint.metadata(), TOKENS);
    let embedding = checkpoint.tensor("token_embd.weight").and_then(|rows| rows.shape.dims().get(1));
    let rows = embedding.map_or(tokens, |&rows| rows as usize);
    if tokens <= rows || tokens - rows > MAX_WITHOUT_ROW {
        return Ok(tokens);
    }
    let types = checkpoint.metadata().i32_array(TYPES)?.unwrap_or_default();
    let added = types.len() == tokens && types[rows..].iter().all(|kind| ADDED.contains(kind));
    Ok(if added { rows } else { tokens })
}

/// Refuses more tokens than the embedding has rows.
pub(crate) fn check_tokens(checkpoint: &Checkpoint, tokens: usize, rows: usize) -> Result<()> {
    if tokens <= rows {
        return Ok(());
    }
    Err(EngineError::Hyperparameter {
        path: checkpoint.path().to_owned(),
        key: match checkpoint.tokenizer_documents() {
            Ok(Some(TokenizerDocuments::One(_))) => "tokenizer.json".into(),
            Ok(Some(TokenizerDocuments::Parts { .. })) => "vocab.json".into(),
            Ok(Some(TokenizerDocuments::Ranks { .. })) => "tiktoken.model".into(),
            _ => TOKENS.into(),
        },
        found: format!("{tokens} tokens"),
        rule: format!("the embedding has {rows} rows"),
    })
}

/// The sources of a model's chat templates (Jinja).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplates {
    /// That of conversations.
    pub default: String,
    /// That of conversations with tools, where it is another.
    pub tool_use: Option<String>,
}

impl ChatTemplates {
    /// What a digest of them is of: the template, or both behind the length of the first.
    pub fn joined(&self) -> Cow<'_, str> {
        match &self.tool_use {
            Some(tool_use) => Cow::Owned(format!("{}:{}{tool_use}", self.default.len(), self.default)),
            None => Cow::Borrowed(&self.default),
        }
    }

    /// Whether one of them knows of tools.
    pub fn shows_tools(&self) -> bool {
        self.joined().contains("tools")
    }
}

/// The chat templates of a checkpoint, if it has one.
pub fn chat_templates(checkpoint: &Checkpoint) -> Result<Option<ChatTemplates>> {
    let of = |key| Ok::<_, EngineError>(checkpoint.metadata().str(key)?.map(str::to_owned));
    let tool_use = of(keys::TOOL_TEMPLATE)?;
    Ok(of(keys::CHAT_TEMPLATE)?.map(|default| ChatTemplates { default, tool_use }))
}

/// The tokenizer of a model, and what makes constraints for it.
pub(crate) struct Text {
    tokenizer: Option<Arc<Tokenizer>>,
    grammars: OnceLock<GrammarCompiler>,
}

impl Text {
    pub fn of(tokenizer: Option<Tokenizer>) -> Self {
        Self { tokenizer: tokenizer.map(Arc::new), grammars: OnceLock::new() }
    }

    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        let missing = || EngineError::Option("the model was opened without its tokenizer".into());
        self.tokenizer.as_ref().ok_or_else(missing)
    }

    pub fn grammars(&self) -> Result<&GrammarCompiler> {
        if let Some(made) = self.grammars.get() {
            return Ok(made);
        }
        let made = GrammarCompiler::new(self.tokenizer()?.clone())?;
        Ok(self.grammars.get_or_init(|| made))
    }
}

/// Elements of an array; 0 if there is none.
fn length(metadata: &Metadata, key: &str) -> usize {
    match metadata.get(key) {
        Some(Value::Array(array)) => array.len(),
        _ => 0,
    }
}

fn borrowed(array: Option<&StrArray>) -> Vec<Cow<'_, str>> {
    array.map(|array| array.iter().map(Cow::Borrowed).collect()).unwrap_or_default()
}

/// The vocabulary of a folder, and what the documents beside it say of special tokens.
fn published_spec(
    checkpoint: &Checkpoint,
    documents: &TokenizerDocuments,
) -> Result<VocabularySpec<'static>> {
    let metadata = checkpoint.metadata();
    let mut spec = match documents {
        TokenizerDocuments::One(json) => VocabularySpec::from_tokenizer_json(json)?,
        TokenizerDocuments::Parts { vocab, merges, config } => {
            VocabularySpec::from_parts(vocab, merges, config)?
        }
        TokenizerDocuments::Ranks { ranks, config } => VocabularySpec::from_ranks(ranks, config)?,
    };
    if let Some(rows) = checkpoint.tensor("token_embd.weight").and_then(|rows| rows.shape.dims().get(1)) {
        spec.leave_out_added(*rows as usize);
    }
    let named = |key: &str| -> Result<Option<u32>> {
        let Some(text) = metadata.str(key)? else { return Ok(None) };
        let place = spec.tokens.iter().position(|token| token == text);
        Ok(place.map(|place| place as u32))
    };
    let (bos, eos) = (named(keys::BOS_TOKEN)?, named(keys::EOS_TOKEN)?);
    let ends = metadata.u32_array(keys::END_TOKENS)?.map(Cow::into_owned).unwrap_or_default();
    spec.bos = bos;
    spec.eos = ends.first().copied().or(eos);
    spec.ends = ends.into_iter().chain(eos).collect();
    spec.add_bos = metadata.bool(keys::ADD_BOS)?.or(spec.add_bos);
    spec.add_eos = metadata.bool(keys::ADD_EOS)?;
    Ok(spec)
}

fn spec(checkpoint: &Checkpoint) -> Result<VocabularySpec<'_>> {
    let metadata = checkpoint.metadata();
    let (tokens, merges) = (metadata.str_array(TOKENS)?, metadata.str_array(MERGES)?);
    VocabularySpec::check_lengths(
        tokens.map_or(0, StrArray::len),
        length(metadata, TYPES),
        merges.map_or(0, StrArray::len),
    )?;
    let named = metadata.str("tokenizer.ggml.pre")?;
    let pre = match (metadata.str("general.architecture")?, named) {
        // Ollama's files of gpt-oss do not name its pre-tokenizer.
        (Some("gptoss"), None | Some("default")) => "gpt-4o",
        // Nor do those of converters before May 2024.
        (Some("qwen2" | "qwen2moe"), None) => "qwen2",
        // Ollama does not know the name of Mistral's.
        (Some("mistral3"), None | Some("default")) => "tekken",
        // Its files may call Llama 3's the usual one.
        (Some("llama"), None | Some("default"))
            if tokens.is_some_and(|tokens| tokens.len() == LLAMA3_TOKENS) =>
        {
            "llama-bpe"
        }
        _ => named.unwrap_or("default"),
    };
    let kept = kept(checkpoint)?;
    let special = |name: &str| metadata.u32(&format!("tokenizer.ggml.{name}_token_id"));
    // Of a message to a tool, and those that Ollama lists.
    let listed = metadata.i64_array(ENDS).ok().flatten().unwrap_or_default();
    let listed = listed.iter().filter_map(|&id| u32::try_from(id).ok());
    let further = special("eom")?.into_iter().chain(listed.take(END_TOKENS));
    let mut spec = VocabularySpec {
        model: metadata.str("tokenizer.ggml.model")?.unwrap_or("").to_owned(),
        nfc: None,
        ignore_merges: None,
        ends: further.filter(|&id| (id as usize) < kept).collect(),
        pre: pre.to_owned(),
        tokens: borrowed(tokens),
        token_types: metadata.i32_array(TYPES)?.map(Cow::into_owned).unwrap_or_default(),
        scores: metadata.f32_array(SCORES)?.map(Cow::into_owned).unwrap_or_default(),
        merges: borrowed(merges),
        bos: special("bos")?,
        eos: special("eos")?,
        eot: special("eot")?,
        unk: special("unknown")?,
        pad: special("padding")?,
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
        space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?.map(SpacePrefix::told),
    };
    spec.tokens.truncate(kept);
    spec.token_types.truncate(kept);
    spec.scores.truncate(kept);
    Ok(spec)
}
