//! `model.safetensors.index.json`: which shard has which tensor.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::json;
use crate::error::{FormatError, quoted};
use crate::limits;
use crate::source::SourceFile;
use crate::tensor::TensorInfo;

/// The index of a sharded checkpoint. It is believed only as far as the shards say the same.
pub(super) struct Index {
    /// File names of the shards, in the order in which they are first named.
    pub shards: Vec<String>,
    /// A tensor's name to its place in `shards`.
    tensors: HashMap<String, u16>,
}

impl Index {
    pub fn read(source: &SourceFile) -> Result<Self, FormatError> {
        let bytes = json::document(source, limits::PUBLISHED_HEADER_BYTES)?;
        let File { weight_map, .. } = json::parse(source, &bytes, std::marker::PhantomData::<File>)?;
        if weight_map.shards.is_empty() {
            return Err(json::broken(source, "its weight_map is empty"));
        }
        Ok(weight_map)
    }

    /// Keeps of a shard's tensors those that the index says it has. Error: the index says that another one has it.
    pub fn choose(
        &mut self,
        source: &SourceFile,
        shard: usize,
        tensors: Vec<TensorInfo>,
    ) -> Result<Vec<TensorInfo>, FormatError> {
        let mut kept = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            match self.tensors.remove(&tensor.name) {
                Some(said) if usize::from(said) == shard => kept.push(tensor),
                Some(said) => {
                    let (name, said) = (quoted(&tensor.name), quoted(&self.shards[usize::from(said)]));
                    let found = quoted(&self.shards[shard]);
                    return Err(json::broken(source, &format!("tensor {name} is in {found}, not in {said}")));
                }
                // transformers does not load what the index does not name, so neither is it loaded here.
                None => {}
            }
        }
        Ok(kept)
    }

    /// Error: the index names a tensor that its shard does not have.
    pub fn check_all_found(&self, source: &SourceFile) -> Result<(), FormatError> {
        let missing = self.tensors.iter().min_by_key(|(name, _)| name.as_str());
        missing.map_or(Ok(()), |(name, &shard)| {
            let shard = quoted(&self.shards[usize::from(shard)]);
            Err(json::broken(source, &format!("tensor {} is not in {shard}", quoted(name))))
        })
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default, rename = "metadata")]
    _metadata: IgnoredAny,
    weight_map: Index,
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(WeightMap)
    }
}

struct WeightMap;

impl<'de> Visitor<'de> for WeightMap {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names of tensors, each with the name of its shard")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
        let mut index = Index { shards: Vec::new(), tensors: HashMap::new() };
        let mut numbers: HashMap<String, u16> = HashMap::new();
        while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
            if index.tensors.len() as u64 == limits::PUBLISHED_TENSORS {
                return Err(A::Error::custom(format_args!(
                    "more than {} tensors",
                    limits::PUBLISHED_TENSORS
                )));
            }
            let number = match numbers.get(&shard) {
                Some(&number) => number,
                None => {
                    check_file_name(&shard).map_err(A::Error::custom)?;
                    if index.shards.len() as u64 == limits::SHARDS {
                        return Err(A::Error::custom(format_args!("more than {} shards", limits::SHARDS)));
                    }
                    let number = index.shards.len() as u16;
                    index.shards.push(shard.clone());
                    numbers.insert(shard, number);
                    number
                }
            };
            if index.tensors.insert(tensor.clone(), number).is_some() {
                return Err(A::Error::custom(format_args!("tensor {} occurs twice", quoted(&tensor))));
            }
        }
        Ok(index)
    }
}

/// Refuses what is more than the name of a shard in the folder.
fn check_file_name(name: &str) -> Result<(), String> {
    let plain = name.ends_with(super::EXTENSION)
        && !name.starts_with('.')
        && name.len() <= 255
        && !name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control());
    if plain { Ok(()) } else { Err(format!("{} is not the name of a shard in this folder", quoted(name))) }
}
