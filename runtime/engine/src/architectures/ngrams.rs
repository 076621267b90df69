//! What layers add for n-grams: how tokens are hashed, and which rows of a table the hashes lead to.

use membrane_formats::keys::NGRAM_PARTS;
use membrane_formats::{Container, DType};

use crate::error::{EngineError, Result};
use crate::hyper::{NgramHead, Ngrams};
use crate::keys::{Keys, MAX_BLOCKS, MAX_WIDTH};

const LAYERS: &str = "ple.layers";
const HEADS: &str = "ple.heads_per_ngram";
const MULTIPLIERS: &str = "ple.layer_multipliers";
const FIRST_ROWS: &str = "ple.head_offsets";
const ROWS: &str = "ple.head_vocab_sizes";
const SEPARATOR: &str = "ple.eos_token_id";
/// Longest n-gram; published models have triples.
const MAX_LONGEST: u32 = 16;
/// Most hashes of n-grams of one length, each of which reads a row from disk for a token; published models have 8.
const MAX_HEADS: u32 = 256;
/// Most taps of a convolution; published models have 4. A state keeps their inputs for all streams.
const MAX_TAPS: u32 = 64;
/// Most tensors that a table may be cut into; published ones have 512.
const MAX_PARTS: u32 = 1 << 16;
/// Most rows of a table: row numbers and their sums stay far from the end of 64 bits.
const MAX_ROWS: i64 = 1 << 48;

/// What each layer that `ple.layers` names adds.
pub(super) fn layers(keys: &Keys<'_>, layers: usize, vocabulary: usize) -> Result<Vec<Ngrams>> {
    let listed = keys.numbers(LAYERS)?.unwrap_or_default();
    if listed.is_empty() {
        return Ok(Vec::new());
    }
    keys.rule(
        LAYERS,
        format!("{} layers", listed.len()),
        listed.len() <= layers.min(MAX_BLOCKS as usize),
        || format!("there are {layers} layers"),
    )?;
    if let Some(layer) = listed.iter().find(|&&layer| layer as usize >= layers) {
        // A `config.json` counts layers from 1, and what is told is what stands there.
        let first = u64::from(keys.checkpoint.container() == Container::Folder);
        let layer = u64::from(*layer) + first;
        return Err(keys.broken(
            LAYERS,
            layer,
            format!("there are {layers} layers, the first of them is {first}"),
        ));
    }
    keys.rule(LAYERS, format!("{listed:?}"), listed.is_sorted_by(|a, b| a < b), || {
        "the layers must be listed in order, each once".into()
    })?;
    let folder = keys.checkpoint.published_name(&format!("blk.{}.ple_table.weight", listed[0])).is_some();
    keys.rule(LAYERS, format!("{listed:?}"), folder || listed.len() == 1, || {
        "a GGUF file has one table of n-grams, for one layer".into()
    })?;
    let separator = match keys.number(SEPARATOR)? {
        Some(token) => token,
        None => return Err(keys.broken(SEPARATOR, "absent", "no n-gram reaches beyond this token")),
    };
    keys.rule(SEPARATOR, separator, (separator as usize) < vocabulary, || {
        format!("the vocabulary has {vocabulary} tokens")
    })?;
    let longest = keys.count("ple.ngram_size", MAX_LONGEST)?;
    keys.rule("ple.ngram_size", longest, longest > 1, || "an n-gram has at least two tokens".into())?;
    let heads = (longest - 1) * keys.count(HEADS, MAX_HEADS)?;
    let head_dim = keys.count("embedding_length_per_layer_input", MAX_WIDTH)?;
    let width = heads * head_dim;
    keys.rule("embedding_length_per_layer_input", head_dim, width <= MAX_WIDTH as usize, || {
        format!("{heads} of them together may have at most {MAX_WIDTH} numbers")
    })?;
    let kernel = keys.count("ple.conv_kernel", MAX_TAPS)?;
    let table_parts = keys.optional_count(NGRAM_PARTS, MAX_PARTS)?.unwrap_or(1);
    let of_layer = |index: usize, layer: usize| {
        let hash = |key: &str, part: &str, count: usize| {
            hash_numbers(keys, key, &format!("blk.{layer}.{part}"), index..listed.len(), count)
        };
        let multipliers = hash(MULTIPLIERS, "ple_layer_multipliers", longest)?;
        let firsts = hash(FIRST_ROWS, "ple_head_offsets", heads)?;
        let rows = hash(ROWS, "ple_head_vocab_sizes", heads)?;
        for (key, numbers, least) in [(FIRST_ROWS, &firsts, 0), (ROWS, &rows, 1)] {
            if let Some(number) = numbers.iter().find(|&&number| !(least..=MAX_ROWS).contains(&number)) {
                return Err(keys.broken(key, number, format!("it must lie between {least} and {MAX_ROWS}")));
            }
        }
        let head = |(&first, &rows): (&i64, &i64)| NgramHead { first: first as u64, rows: rows as u64 };
        let heads = firsts.iter().zip(&rows).map(head).collect();
        Ok(Ngrams { layer, heads, head_dim, multipliers, separator, table_parts, kernel })
    };
    listed.iter().enumerate().map(|(index, &layer)| of_layer(index, layer as usize)).collect()
}

/// `count` numbers of a hash: for the layer that is `layers.start` of `layers.end` in a list for all layers, or in a tensor of the
/// layer's own, as folders have them.
fn hash_numbers(
    keys: &Keys<'_>,
    key: &str,
    tensor: &str,
    layers: std::ops::Range<usize>,
    count: usize,
) -> Result<Vec<i64>> {
    if let Some(listed) = keys.wide_numbers(key)? {
        keys.rule(key, format!("{} values", listed.len()), listed.len() == count * layers.end, || {
            format!("{} layers need {count} each", layers.end)
        })?;
        return Ok(listed[layers.start * count..(layers.start + 1) * count].to_vec());
    }
    if keys.checkpoint.published_name(tensor).is_none() {
        return Err(keys.broken(key, "absent", "the architecture needs it"));
    }
    let info = keys.checkpoint.require(tensor)?;
    if info.dtype != DType::I64 {
        return Err(EngineError::TensorType {
            tensor: info.name.clone(),
            found: info.dtype.name().into(),
            supported: DType::I64.name().into(),
        });
    }
    if info.shape.dims() != [count as u64] {
        let (tensor, found) = (info.name.clone(), info.shape.dims().to_vec());
        return Err(EngineError::TensorShape { tensor, found, wanted: vec![count as u64] });
    }
    let mut bytes = vec![0; 8 * count];
    keys.checkpoint.read(info, 0, &mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
}
