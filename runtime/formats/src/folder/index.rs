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
    /// The names of all tensors, one behind the other: there may be half a million.
    names: String,
    /// In the order of the names.
    tensors: Vec<Place>,
}

/// Where the index says that a tensor is.
struct Place {
    /// The name in [`Index::names`].
    start: u32,
    bytes: u16,
    /// In [`Index::shards`].
    shard: u16,
    found: bool,
}

impl Index {
    pub fn read(source: &SourceFile) -> Result<Self, FormatError> {
        let bytes = json::document(source, limits::PUBLISHED_HEADER_BYTES)?;
        let File { weight_map, .. } = json::parse(source, &bytes, std::marker::PhantomData::<File>)?;
        drop(bytes);
        let mut index = weight_map;
        if index.shards.is_empty() {
            return Err(json::broken(source, "its weight_map is empty"));
        }
        let Self { names, tensors, .. } = &mut index;
        tensors.sort_unstable_by(|a, b| a.name(names).cmp(b.name(names)));
        match tensors.windows(2).find(|pair| pair[0].name(names) == pair[1].name(names)) {
            Some(pair) => {
                let name = quoted(pair[0].name(names));
                Err(json::broken(source, &format!("tensor {name} occurs twice")))
            }
            None => Ok(index),
        }
    }

    /// Keeps of a shard's tensors those that the index says it has. `empty`: names of others, which nothing is kept of. Error: the
    /// index says that another one has it.
    pub fn choose(
        &mut self,
        source: &SourceFile,
        shard: usize,
        tensors: &mut Vec<TensorInfo>,
        empty: &[String],
    ) -> Result<(), FormatError> {
        let mut refused = None;
        // transformers does not load what the index does not name, so neither is it loaded here.
        tensors.retain(|tensor| {
            let named = self.find(source, shard, &tensor.name);
            named.unwrap_or_else(|error| {
                refused.get_or_insert(error);
                true
            })
        });
        for name in empty {
            self.find(source, shard, name)?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Whether a tensor of a shard is named. Error: the index says that another one has it, or it was found before.
    fn find(&mut self, source: &SourceFile, shard: usize, tensor: &str) -> Result<bool, FormatError> {
        let Self { shards, names, tensors: places } = self;
        let Ok(at) = places.binary_search_by(|place| place.name(names).cmp(tensor)) else { return Ok(false) };
        let said = usize::from(places[at].shard);
        let twice = std::mem::replace(&mut places[at].found, true);
        if said == shard && !twice {
            return Ok(true);
        }
        let (name, found) = (quoted(tensor), quoted(&shards[shard]));
        let rule = match said == shard {
            true => format!("tensor {name} is twice in {found}"),
            false => format!("tensor {name} is in {found}, not in {}", quoted(&shards[said])),
        };
        Err(json::broken(source, &rule))
    }

    /// Error: the index names a tensor that its shard does not have.
    pub fn check_all_found(&self, source: &SourceFile) -> Result<(), FormatError> {
        self.tensors.iter().find(|place| !place.found).map_or(Ok(()), |place| {
            let (name, shard) = (place.name(&self.names), quoted(&self.shards[usize::from(place.shard)]));
            Err(json::broken(source, &format!("tensor {} is not in {shard}", quoted(name))))
        })
    }
}

impl Place {
    fn name<'n>(&self, names: &'n str) -> &'n str {
        let start = self.start as usize;
        &names[start..start + usize::from(self.bytes)]
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
        let mut index = Index { shards: Vec::new(), names: String::new(), tensors: Vec::new() };
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
            // All names together are shorter than the document, which is below 2^32 bytes.
            let start = index.names.len() as u32;
            let bytes = u16::try_from(tensor.len())
                .map_err(|_| A::Error::custom(format_args!("a tensor's name has {} bytes", tensor.len())))?;
            index.names.push_str(&tensor);
            index.tensors.push(Place { start, bytes, shard: number, found: false });
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
