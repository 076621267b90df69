//! The header of a safetensors file: which tensors it has and where.
//!
//! ```text
//! length u64 (little-endian)   header: JSON, padded with spaces   data
//! {"name": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
//! ```
//!
//! Offsets count from the end of the header. The tensors must cover the data, each byte once: what lies in a hole, under two
//! tensors or behind the last is no model's and could be anything.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::json;
use crate::dtype::DType;
use crate::error::{FormatError, quoted};
use crate::limits;
use crate::shape::Shape;
use crate::source::SourceFile;
use crate::tensor::{TensorInfo, Values};

/// Bytes of the length before the header.
pub(super) const LENGTH_BYTES: u64 = 8;
/// The entry that is not a tensor.
pub(super) const METADATA: &str = "__metadata__";

/// What is left of the limits that hold over all files of a checkpoint.
pub(super) struct Budget {
    pub header_bytes: u64,
    pub tensors: u64,
}

/// What a file has.
pub(super) struct Header {
    /// In the order of their data. Empty ones are left out.
    pub tensors: Vec<TensorInfo>,
    /// Names of empty ones.
    pub empty: Vec<String>,
}

/// A tensor as the header describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    /// The contiguous dimension last.
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// What file number `file` has.
pub(super) fn read(source: &SourceFile, file: usize, budget: &mut Budget) -> Result<Header, FormatError> {
    let (bytes, data_start) = header(source, budget)?;
    let refused = RefCell::new(None);
    let reader = Entries { source, file, data_start, most: budget.tensors, refused: &refused };
    let read = json::parse(source, &bytes, reader);
    drop(bytes);
    if let Some(error) = refused.into_inner() {
        return Err(error);
    }
    let Found { mut tensors, mut empty } = read?;
    budget.tensors -= (tensors.len() + empty.len()) as u64;
    tensors.sort_unstable_by_key(|tensor| tensor.offset);
    empty.sort_unstable();
    check_cover(source, &tensors, &empty, data_start)?;
    Ok(Header { tensors, empty: empty.into_iter().map(|(_, name)| name).collect() })
}

/// The bytes of the header, and where the data begins.
fn header(source: &SourceFile, budget: &mut Budget) -> Result<(Vec<u8>, u64), FormatError> {
    let mut length = [0; LENGTH_BYTES as usize];
    source.read(0, &mut length, || "the length of the header".into())?;
    let length = u64::from_le_bytes(length);
    let left = source.bytes.saturating_sub(LENGTH_BYTES);
    if length > left {
        return Err(FormatError::Truncated {
            path: source.path.clone(),
            offset: LENGTH_BYTES,
            what: "the header".into(),
            wanted: length,
            left,
        });
    }
    if length > budget.header_bytes {
        return Err(FormatError::Limit {
            path: source.path.clone(),
            offset: 0,
            what: "the length of the headers".into(),
            found: length,
            limit: budget.header_bytes,
        });
    }
    budget.header_bytes -= length;
    let mut bytes = vec![0; length as usize];
    source.read(LENGTH_BYTES, &mut bytes, || "the header".into())?;
    Ok((bytes, LENGTH_BYTES + length))
}

/// Bytes of a tensor, or the rule that its shape breaks.
fn byte_count(dtype: DType, shape: &[u64]) -> Result<u64, &'static str> {
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let elements = elements.filter(|&elements| elements <= limits::ELEMENTS);
    let elements = elements.ok_or("has more than 2^63 - 1 elements")?;
    elements.checked_mul(dtype.block_bytes()).ok_or("takes more than 2^64 - 1 bytes")
}

/// The shape in our order. A scalar is one element; dimensions beyond four, of which no matrix has any, are taken together.
fn folded(shape: &[u64]) -> Result<Shape, crate::ShapeError> {
    let mut dims: Vec<u64> = shape.iter().rev().copied().collect();
    while dims.len() > limits::DIMS {
        // The product of all dimensions was computed before.
        let last = dims.pop().unwrap_or(1);
        if let Some(dim) = dims.last_mut() {
            *dim *= last;
        }
    }
    Shape::new(if dims.is_empty() { &[1] } else { &dims })
}

/// Refuses tensors that don't cover the data, each byte once; they are in the order of their places. `empty`: places of those
/// without data, in order, which must lie between two others.
fn check_cover(
    source: &SourceFile,
    tensors: &[TensorInfo],
    empty: &[(u64, String)],
    data_start: u64,
) -> Result<(), FormatError> {
    let mut covered = data_start;
    let mut empty = empty.iter().map(|(place, _)| *place).peekable();
    let broken = |place: u64, covered: u64| {
        let what = if place < covered { "overlap" } else { "leave a hole" };
        let at = place - data_start;
        Err(json::broken(source, &format!("tensors {what} at byte {at} of the data")))
    };
    for tensor in tensors {
        while empty.next_if(|&place| place == covered).is_some() {}
        if let Some(place) = empty.next_if(|&place| place < tensor.offset) {
            return broken(place, covered);
        }
        if tensor.offset != covered {
            return broken(tensor.offset, covered);
        }
        covered += tensor.bytes;
    }
    while empty.next_if(|&place| place == covered).is_some() {}
    if let Some(place) = empty.next() {
        return broken(place, covered);
    }
    if covered != source.bytes {
        let behind = source.bytes - covered;
        return Err(json::broken(source, &format!("{behind} bytes behind the last tensor belong to none")));
    }
    Ok(())
}

/// What a header has.
#[derive(Default)]
struct Found {
    tensors: Vec<TensorInfo>,
    /// Tensors without elements: their places in the file, and their names.
    empty: Vec<(u64, String)>,
}

/// Reads the entries of a header, at most so many, each into the form in which it is kept: a header may be of a hundred
/// megabytes, so that there is no other form of all of it between.
struct Entries<'a> {
    source: &'a SourceFile,
    file: usize,
    data_start: u64,
    most: u64,
    /// The error of an entry, which the parser has no room for.
    refused: &'a RefCell<Option<FormatError>>,
}

impl Entries<'_> {
    /// Checks an entry and adds its tensor.
    fn add(&self, name: String, entry: &Entry, found: &mut Found) -> Result<(), FormatError> {
        let Entry { dtype, shape, data_offsets: [begin, end] } = entry;
        let path = || self.source.path.clone();
        let refused = |rule: String| FormatError::Tensor { path: path(), tensor: quoted(&name), rule };
        let dtype = DType::of_safetensors(dtype)
            .ok_or_else(|| refused(format!("its dtype {} is not one that is read here", quoted(dtype))))?;
        let bytes = end
            .checked_sub(*begin)
            .filter(|_| *end <= self.source.bytes - self.data_start)
            .ok_or_else(|| refused(format!("its data_offsets [{begin}, {end}] are not in the file")))?;
        let wanted =
            byte_count(dtype, shape).map_err(|rule| refused(format!("its shape {shape:?} {rule}")))?;
        if bytes != wanted {
            return Err(refused(format!("its shape {shape:?} of {dtype} takes {wanted} bytes, not {bytes}")));
        }
        let offset = self.data_start + begin;
        if bytes == 0 {
            found.empty.push((offset, name));
            return Ok(());
        }
        let broken = |source| FormatError::TensorShape { path: path(), tensor: quoted(&name), source };
        let shape = folded(shape).map_err(broken)?;
        let (file, values) = (self.file, Values::AsStored);
        found.tensors.push(TensorInfo { name, dtype, shape, file, offset, bytes, values });
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tensors of a safetensors header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Found::default();
        let mut described = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if described {
                    return Err(A::Error::custom("\"__metadata__\" occurs twice"));
                }
                described = true;
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if name.is_empty() || name.len() as u64 > limits::PUBLISHED_NAME_BYTES {
                let most = limits::PUBLISHED_NAME_BYTES;
                return Err(A::Error::custom(format_args!(
                    "a tensor's name has {} bytes, and 1 to {most} are possible",
                    name.len()
                )));
            }
            if (found.tensors.len() + found.empty.len()) as u64 == self.most {
                let most = limits::PUBLISHED_TENSORS;
                return Err(A::Error::custom(format_args!("more than {most} tensors")));
            }
            if let Err(error) = self.add(name, &map.next_value()?, &mut found) {
                *self.refused.borrow_mut() = Some(error);
                return Err(A::Error::custom("an entry is refused"));
            }
        }
        Ok(found)
    }
}
