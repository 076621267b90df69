//! The header of one GGUF file.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use super::cursor::Cursor;
use super::{ALIGNMENT_KEY, Budget, DEFAULT_ALIGNMENT, MAGIC, kind};
use crate::dtype::DType;
use crate::error::{FormatError, quoted};
use crate::limits;
use crate::metadata::Metadata;
use crate::shape::{Shape, ShapeError};
use crate::source::SourceFile;
use crate::tensor::{TensorInfo, Values};
use crate::value::{Array, StrArray, Value};

/// Bytes of the shortest entry: key length, one byte of key, type, one byte of value.
const SHORTEST_ENTRY: u64 = 8 + 1 + 4 + 1;
/// Bytes of the shortest tensor: name length, one byte of name, rank, one dimension, type, offset.
const SHORTEST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// A header, checked; its tensors lie inside the file and apart from each other.
pub(super) struct Header {
    pub version: u32,
    pub alignment: u32,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
}

/// Reads the header of `source`, file number `file` of its checkpoint, and takes what it uses from `budget`.
pub(super) fn read(source: &SourceFile, file: usize, budget: &mut Budget) -> Result<Header, FormatError> {
    let mut reader = Reader { cursor: Cursor::new(source, budget.header_bytes), source };
    let version = reader.version()?;
    let (tensor_count, entry_count) = reader.counts(budget)?;
    let path: Arc<Path> = source.path.as_path().into();
    let mut entries = Vec::with_capacity(entry_count as usize);
    for _ in 0..entry_count {
        entries.push(reader.entry()?);
    }
    let metadata = Metadata::from_entries(path, entries)?;
    let alignment = alignment(&source.path, &metadata)?;
    let mut tensors = Vec::with_capacity(tensor_count as usize);
    for index in 0..tensor_count {
        tensors.push(reader.tensor(index, file)?);
    }
    let header_bytes = reader.cursor.position();
    budget.header_bytes -= header_bytes;
    budget.tensors -= tensor_count;
    place(source, header_bytes.next_multiple_of(alignment.into()), alignment, &mut tensors)?;
    Ok(Header { version, alignment, metadata, tensors })
}

/// `general.alignment` of `metadata`, checked, or the default.
pub(super) fn alignment(path: &Path, metadata: &Metadata) -> Result<u32, FormatError> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment))
            if alignment.is_power_of_two()
                && (limits::MIN_ALIGNMENT..=limits::MAX_ALIGNMENT).contains(&alignment) =>
        {
            Ok(alignment)
        }
        Some(other) => Err(FormatError::Alignment { path: path.to_owned(), found: other.described() }),
    }
}

/// Turns the offsets of `tensors`, relative to `data_start`, into offsets in the file, and checks all places.
fn place(
    source: &SourceFile,
    data_start: u64,
    alignment: u32,
    tensors: &mut [TensorInfo],
) -> Result<(), FormatError> {
    for tensor in tensors.iter_mut() {
        if tensor.offset % u64::from(alignment) != 0 {
            return Err(FormatError::Tensor {
                path: source.path.clone(),
                tensor: quoted(&tensor.name),
                rule: format!("its offset {} is not a multiple of the alignment {alignment}", tensor.offset),
            });
        }
        let start = data_start.checked_add(tensor.offset);
        let left = source.bytes.saturating_sub(start.unwrap_or(u64::MAX));
        if tensor.bytes > left {
            return Err(FormatError::Truncated {
                path: source.path.clone(),
                offset: start.unwrap_or(u64::MAX),
                what: format!("tensor {}", quoted(&tensor.name)),
                wanted: tensor.bytes,
                left,
            });
        }
        tensor.offset = start.unwrap_or(u64::MAX);
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.offset);
    match order.windows(2).find(|pair| pair[1].offset - pair[0].offset < pair[0].bytes) {
        None => Ok(()),
        Some(pair) => Err(FormatError::Overlap {
            path: source.path.clone(),
            first: quoted(&pair[0].name),
            second: quoted(&pair[1].name),
        }),
    }
}

/// The metadata entry being read, for errors.
struct Entry<'a> {
    key: &'a str,
    /// Where it begins, bytes.
    offset: u64,
    what: String,
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    source: &'a SourceFile,
}

impl Reader<'_> {
    fn version(&mut self) -> Result<u32, FormatError> {
        let path = || self.source.path.clone();
        let magic: [u8; 4] = self.cursor.array(&"the magic number")?;
        let version = self.cursor.u32(&"the version")?;
        let mut swapped = MAGIC;
        swapped.reverse();
        match (magic, version) {
            (MAGIC, 2 | 3) => Ok(version),
            (MAGIC, _) if (1..=0xffff).contains(&version.swap_bytes()) => {
                Err(FormatError::ByteSwapped { path: path(), version })
            }
            (MAGIC, _) => Err(FormatError::Version { path: path(), found: version }),
            (found, _) if found == swapped => Err(FormatError::ByteSwapped { path: path(), version }),
            (found, _) => Err(FormatError::Magic { path: path(), found }),
        }
    }

    /// Tensors and metadata entries, both possible in the bytes that are left.
    fn counts(&mut self, budget: &Budget) -> Result<(u64, u64), FormatError> {
        let tensors = self.limited(&"the number of tensors", budget.tensors)?;
        let entries = self.limited(&"the number of metadata entries", limits::METADATA_ENTRIES)?;
        let what = format!("a list of {entries} metadata entries and {tensors} tensors");
        self.cursor.need(entries * SHORTEST_ENTRY + tensors * SHORTEST_TENSOR, &what)?;
        Ok((tensors, entries))
    }

    /// A u64 of at most `limit`.
    fn limited(&mut self, what: &dyn Display, limit: u64) -> Result<u64, FormatError> {
        let offset = self.cursor.position();
        let found = self.cursor.u64(what)?;
        self.cap(offset, found, limit, what)?;
        Ok(found)
    }

    /// The length of a string in the value `what`, within its limit.
    fn string_length(&mut self, what: &dyn Display) -> Result<u64, FormatError> {
        let length = self.cursor.u64(what)?;
        if self.has(length) {
            let name = format_args!("the length of a string in {what}");
            self.cap(self.cursor.position() - 8, length, limits::STRING_BYTES, &name)?;
        }
        Ok(length)
    }

    /// Refuses an array, whose length was just read, of more elements of at least `each` bytes than the limit
    /// or the file has.
    fn check_elements(&self, count: u64, each: u64, what: &dyn Display) -> Result<(), FormatError> {
        if self.has(count.saturating_mul(each)) {
            let name = format_args!("the length of the array in {what}");
            self.cap(self.cursor.position() - 8, count, limits::ARRAY_ELEMENTS, &name)?;
        }
        self.cursor.need_elements(count, each, what)
    }

    /// Whether the file has so many bytes more. A length beyond its end is not a large value but damage, and
    /// said as such by whoever reads on.
    fn has(&self, bytes: u64) -> bool {
        bytes <= self.source.bytes.saturating_sub(self.cursor.position())
    }

    /// Refuses the number `found` at `offset` if it is above `limit`.
    fn cap(&self, offset: u64, found: u64, limit: u64, what: &dyn Display) -> Result<(), FormatError> {
        if found <= limit {
            return Ok(());
        }
        Err(FormatError::Limit {
            path: self.source.path.clone(),
            offset,
            what: what.to_string(),
            found,
            limit,
        })
    }

    fn entry(&mut self) -> Result<(Box<str>, Value), FormatError> {
        let offset = self.cursor.position();
        let length = self.limited(&"the length of a metadata key", limits::KEY_BYTES)?;
        let key = self.cursor.text(length, &"a metadata key")?;
        let entry = Entry { what: format!("the value of metadata key {}", quoted(&key)), key: &key, offset };
        if key.is_empty() {
            return Err(self.broken(&entry, "it is empty"));
        }
        let value = self.value(&entry)?;
        Ok((key.into(), value))
    }

    fn value(&mut self, entry: &Entry<'_>) -> Result<Value, FormatError> {
        let what = &entry.what;
        let id = self.cursor.u32(what)?;
        let cursor = &mut self.cursor;
        Ok(match id {
            kind::U8 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
            kind::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
            kind::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
            kind::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
            kind::U32 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
            kind::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
            kind::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
            kind::U64 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
            kind::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
            kind::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
            kind::BOOL => Value::Bool(self.truth(entry)?),
            kind::STR => {
                let length = self.string_length(what)?;
                Value::Str(self.cursor.text(length, what)?)
            }
            kind::ARRAY => Value::Array(self.array(entry)?),
            unknown => return Err(self.broken(entry, &format!("its type id {unknown} is not known"))),
        })
    }

    fn array(&mut self, entry: &Entry<'_>) -> Result<Array, FormatError> {
        let what = &entry.what;
        let id = self.cursor.u32(what)?;
        let count = self.cursor.u64(what)?;
        Ok(match id {
            kind::U8 => Array::U8(self.numbers(count, u8::from_le_bytes, what)?),
            kind::I8 => Array::I8(self.numbers(count, i8::from_le_bytes, what)?),
            kind::U16 => Array::U16(self.numbers(count, u16::from_le_bytes, what)?),
            kind::I16 => Array::I16(self.numbers(count, i16::from_le_bytes, what)?),
            kind::U32 => Array::U32(self.numbers(count, u32::from_le_bytes, what)?),
            kind::I32 => Array::I32(self.numbers(count, i32::from_le_bytes, what)?),
            kind::F32 => Array::F32(self.numbers(count, f32::from_le_bytes, what)?),
            kind::U64 => Array::U64(self.numbers(count, u64::from_le_bytes, what)?),
            kind::I64 => Array::I64(self.numbers(count, i64::from_le_bytes, what)?),
            kind::F64 => Array::F64(self.numbers(count, f64::from_le_bytes, what)?),
            kind::BOOL => Array::Bool(self.truths(count, entry)?),
            kind::STR => Array::Str(self.strings(count, what)?),
            kind::ARRAY => return Err(self.broken(entry, "it is an array of arrays, which is not supported")),
            unknown => {
                return Err(
                    self.broken(entry, &format!("the type id {unknown} of its elements is not known"))
                );
            }
        })
    }

    fn truth(&mut self, entry: &Entry<'_>) -> Result<bool, FormatError> {
        match self.cursor.array(&entry.what)? {
            [byte @ (0 | 1)] => Ok(byte == 1),
            [byte] => Err(self.not_bool(entry, byte)),
        }
    }

    fn truths(&mut self, count: u64, entry: &Entry<'_>) -> Result<Vec<bool>, FormatError> {
        let bytes: Vec<u8> = self.numbers(count, u8::from_le_bytes, &entry.what)?;
        match bytes.iter().find(|&&byte| byte > 1) {
            Some(&byte) => Err(self.not_bool(entry, byte)),
            // Reuses the allocation: both elements are one byte.
            None => Ok(bytes.into_iter().map(|byte| byte == 1).collect()),
        }
    }

    fn not_bool(&self, entry: &Entry<'_>, byte: u8) -> FormatError {
        self.broken(entry, &format!("a bool in it is {byte}, not 0 or 1"))
    }

    fn broken(&self, entry: &Entry<'_>, rule: &str) -> FormatError {
        FormatError::Entry {
            path: self.source.path.clone(),
            key: quoted(entry.key),
            offset: entry.offset,
            rule: rule.to_owned(),
        }
    }

    fn numbers<T, const N: usize>(
        &mut self,
        count: u64,
        from: impl Fn([u8; N]) -> T,
        what: &dyn Display,
    ) -> Result<Vec<T>, FormatError> {
        self.check_elements(count, N as u64, what)?;
        let mut numbers = Vec::with_capacity(count as usize);
        self.cursor.elements(count, N, what, |bytes| {
            numbers.extend(bytes.as_chunks().0.iter().map(|&number| from(number)));
            Ok(())
        })?;
        Ok(numbers)
    }

    /// Strings, in two passes: the first adds their lengths up, so that memory is reserved once and exactly.
    fn strings(&mut self, count: u64, what: &dyn Display) -> Result<StrArray, FormatError> {
        self.check_elements(count, 8, what)?;
        let start = self.cursor.position();
        for _ in 0..count {
            let length = self.string_length(what)?;
            self.cursor.skip(length, what)?;
        }
        let total = self.cursor.position() - start - 8 * count;
        self.cursor.rewind(start);
        let changed = || FormatError::Changed { path: self.source.path.clone() };
        let mut text = Vec::with_capacity(total as usize);
        let mut ends = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let length = self.cursor.u64(what)?;
            if length > total - text.len() as u64 {
                return Err(changed());
            }
            let (offset, start) = (self.cursor.position(), text.len());
            self.cursor.append(length, &mut text, what)?;
            if std::str::from_utf8(&text[start..]).is_err() {
                return Err(self.cursor.not_utf8(offset, what));
            }
            ends.push(text.len());
        }
        let text = String::from_utf8(text).map_err(|_| self.cursor.not_utf8(start, what))?;
        StrArray::from_parts(text, ends).ok_or_else(changed)
    }

    /// One item of the tensor list; its offset is still relative to the data.
    fn tensor(&mut self, index: u64, file: usize) -> Result<TensorInfo, FormatError> {
        let what = format!("item {index} of the tensor list");
        let length_name = format!("the length of the name in {what}");
        let length = self.limited(&length_name, limits::TENSOR_NAME_BYTES)?;
        let name = self.cursor.text(length, &format!("the name in {what}"))?;
        let path = || self.source.path.clone();
        if name.is_empty() {
            return Err(FormatError::Tensor { path: path(), tensor: what, rule: "its name is empty".into() });
        }
        let shape_error = |source| FormatError::TensorShape { path: path(), tensor: quoted(&name), source };
        let rank = self.cursor.u32(&what)?;
        let mut dims = [0; limits::DIMS];
        let used = usize::try_from(rank).ok().and_then(|rank| dims.get_mut(..rank));
        let used = used.ok_or_else(|| shape_error(ShapeError::Rank { found: rank.into() }))?;
        for dim in used.iter_mut() {
            *dim = self.cursor.u64(&what)?;
        }
        let shape = Shape::new(used).map_err(shape_error)?;
        let id = self.cursor.u32(&what)?;
        let dtype = DType::from_ggml_id(id).ok_or_else(|| FormatError::TensorType {
            path: path(),
            tensor: quoted(&name),
            id,
        })?;
        let bytes = dtype.tensor_bytes(&shape).map_err(shape_error)?;
        let offset = self.cursor.u64(&what)?;
        Ok(TensorInfo { name, dtype, shape, file, offset, bytes, values: Values::AsStored })
    }
}
