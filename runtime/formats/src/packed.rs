//! Packed models: everything of an expert stands in one record, as memory holds it.
//!
//! A packed model is a GGUF file or a folder as it is published, with other names for its experts alone. For each layer that has
//! experts there are
//!
//! ```text
//! packed.experts.LAYER   a tensor of bytes [experts, bytes of a record], at a multiple of 4096 in its file
//!                        and a key: how the gate, the up and the down are stored, e.g. "Q4_K 768 2048"
//! packed.factors.LAYER   f32 [experts, 3], what the matrices are multiplied by; absent where nothing is
//! ```
//!
//! The keys, and `packed.version`, are metadata of a GGUF file, and in a folder the entries of `membrane.packed.json`. A record is gate, up
//! and down, each from a multiple of 64 on, padded to a multiple of 4096: one read, from block to block, and nothing to be made of it
//! (but that rows may be interleaved on their way into memory).
//! Numbers of a matrix are rows of blocks; behind those of one that is "ordered" stands the input of each column, u32.

use std::ops::Range;

use serde_json::{Map, Value as Json};

use crate::checkpoint::Checkpoint;
use crate::dtype::DType;
use crate::error::{FormatError, quoted};
use crate::metadata::Metadata;
use crate::tensor::TensorInfo;
use crate::value::{Array, Value};

/// The document of a folder with the keys.
pub const DOCUMENT: &str = "membrane.packed.json";
/// Records start at multiples of it in their file, and are so long, bytes.
pub const RECORD_ALIGNMENT: u64 = 4096;
/// Matrices start at multiples of it in their record, bytes.
const MATRIX_ALIGNMENT: u64 = 64;
const VERSION_KEY: &str = "packed.version";
const VERSION: u32 = 1;
const EXPERTS: &str = "packed.experts.";
const FACTORS: &str = "packed.factors.";
/// The word behind a form whose columns have an order of their own.
const ORDERED: &str = "ordered";
/// Floats of 8 bits in blocks of 32, each behind an f32: no type of a file, but one of memory.
const FLOATS8: (&str, u64, u64) = (DType::F8_E4M3.name(), 32, 36);

/// How one of an expert's three matrices is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedForm {
    /// The name of its blocks.
    pub format: String,
    /// Outputs.
    pub rows: u64,
    /// Inputs.
    pub cols: u64,
    /// Its columns are not in the order of the input; theirs stands behind the rows.
    pub ordered: bool,
}

/// The experts of a layer in a packed model.
#[derive(Debug, Clone)]
pub struct PackedLayer<'a> {
    /// Their records.
    pub experts: &'a TensorInfo,
    /// What each expert's gate, up and down are multiplied by, f32 [experts, 3].
    pub factors: Option<&'a TensorInfo>,
    /// Gate, up and down.
    pub forms: [PackedForm; 3],
    /// Where in a record each is.
    pub places: [Range<u64>; 3],
}

/// The name of the tensor with the experts of a layer, and of the key that describes it.
pub fn experts_name(layer: usize) -> String {
    format!("{EXPERTS}{layer}")
}

/// The name of the tensor with the factors of a layer's experts.
pub fn factors_name(layer: usize) -> String {
    format!("{FACTORS}{layer}")
}

/// The layer of such a tensor.
pub fn layer_of(tensor: &str) -> Option<usize> {
    let layer = tensor.strip_prefix(EXPERTS).or_else(|| tensor.strip_prefix(FACTORS))?.parse().ok()?;
    // Another spelling of the number is none of these names.
    (tensor == experts_name(layer) || tensor == factors_name(layer)).then_some(layer)
}

/// Where in a record gate, up and down are, and the bytes of the record. `None` for forms that no file can have.
pub fn places(forms: &[PackedForm; 3]) -> Option<([Range<u64>; 3], u64)> {
    let mut end = 0u64;
    let mut place = |form: &PackedForm| {
        let start = end.checked_next_multiple_of(MATRIX_ALIGNMENT)?;
        end = start.checked_add(form.bytes()?)?;
        Some(start..end)
    };
    let [gate, up, down] = forms;
    let places = [place(gate)?, place(up)?, place(down)?];
    Some((places, end.checked_next_multiple_of(RECORD_ALIGNMENT)?))
}

/// Describes the layers of a packed model, by their numbers.
pub fn describe(metadata: &mut Metadata, layers: &[(usize, &[PackedForm; 3])]) {
    metadata.set(VERSION_KEY, VERSION);
    for (layer, forms) in layers {
        metadata.set(&experts_name(*layer), Array::Str(forms.iter().map(PackedForm::to_string).collect()));
    }
}

/// The same as the document of a folder.
pub fn document(layers: &[(usize, &[PackedForm; 3])]) -> String {
    let version = (VERSION_KEY.to_owned(), Json::from(VERSION));
    let layer = |(layer, forms): &(usize, &[PackedForm; 3])| {
        (experts_name(*layer), forms.iter().map(PackedForm::to_string).collect())
    };
    let keys: Map<String, Json> = std::iter::once(version).chain(layers.iter().map(layer)).collect();
    format!("{:#}\n", Json::Object(keys))
}

/// Takes over the keys of such a document. Error: the rule that one of them breaks.
pub(crate) fn read(metadata: &mut Metadata, keys: &Map<String, Json>) -> Result<(), String> {
    for (key, value) in keys {
        let version = value.as_u64().and_then(|number| u32::try_from(number).ok()).map(Value::from);
        let forms = || {
            let forms = value.as_array()?.iter().map(Json::as_str).collect::<Option<_>>()?;
            Some(Array::Str(forms).into())
        };
        let layer = layer_of(key).filter(|&layer| *key == experts_name(layer));
        let value = if key == VERSION_KEY { version } else { layer.and_then(|_| forms()) };
        let value =
            value.ok_or_else(|| format!("{} is no key, or has no value, of a packed model", quoted(key)))?;
        metadata.set(key, value);
    }
    Ok(())
}

impl std::fmt::Display for PackedForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.format, self.rows, self.cols)?;
        if self.ordered { write!(f, " {ORDERED}") } else { Ok(()) }
    }
}

impl PackedForm {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (format, rows, cols) = (words.next()?.to_owned(), words.next()?, words.next()?);
        let ordered = match words.next() {
            None => false,
            Some(word) if word == ORDERED => true,
            Some(_) => return None,
        };
        let form = Self { format, rows: rows.parse().ok()?, cols: cols.parse().ok()?, ordered };
        // Another spelling of the same numbers is none that was written here.
        (words.next().is_none() && form.to_string() == text).then_some(form)
    }

    /// The name of its blocks as people count them.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        match self.format == FLOATS8.0 {
            true => Some("FP8"),
            false => Some(DType::from_name(&self.format)?.name()),
        }
    }

    /// Bytes in a record, if a matrix can be stored so.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let (elems, bytes) = match self.format == FLOATS8.0 {
            true => (FLOATS8.1, FLOATS8.2),
            false => {
                DType::from_name(&self.format).map(|dtype| (dtype.block_elems(), dtype.block_bytes()))?
            }
        };
        if self.rows == 0 || self.cols == 0 || !self.cols.is_multiple_of(elems) {
            return None;
        }
        let rows = (self.cols / elems).checked_mul(bytes)?.checked_mul(self.rows)?;
        let order = if self.ordered { self.cols.checked_mul(size_of::<u32>() as u64)? } else { 0 };
        rows.checked_add(order)
    }
}

impl Checkpoint {
    /// Whether the experts are packed. Error: in a way that is not read here.
    pub fn is_packed(&self) -> Result<bool, FormatError> {
        match self.metadata().u32(VERSION_KEY)? {
            None => Ok(false),
            Some(VERSION) => Ok(true),
            Some(other) => Err(self.broken(format!("`{VERSION_KEY}` is {other}, and {VERSION} is read"))),
        }
    }

    /// The experts of a layer, if they are packed. Errors: they are not whole, or not as they are described.
    pub fn packed(&self, layer: usize) -> Result<Option<PackedLayer<'_>>, FormatError> {
        if !self.is_packed()? {
            return Ok(None);
        }
        let name = experts_name(layer);
        let experts = self.require_stored(&name)?;
        let forms = self.packed_forms(&name)?;
        let (places, record) =
            places(&forms).ok_or_else(|| self.broken(format!("no matrix can be stored as `{name}` says")))?;
        let whole = experts.dtype.block_bytes() == 1 && experts.shape.columns() == record;
        if !whole || experts.shape.dims().len() > 2 {
            return Err(self.broken(format!(
                "the rows of tensor `{name}` are not the {record} bytes of an expert that the key of that name describes"
            )));
        }
        Ok(Some(PackedLayer { experts, factors: self.stored(&factors_name(layer)), forms, places }))
    }

    fn packed_forms(&self, key: &str) -> Result<[PackedForm; 3], FormatError> {
        let array = self.metadata().require_str_array(key)?;
        let forms: Option<Vec<PackedForm>> = array.iter().take(4).map(PackedForm::parse).collect();
        forms
            .and_then(|forms| forms.try_into().ok())
            .ok_or_else(|| self.broken(format!("`{key}` must have three texts such as \"Q4_K 768 2048\"")))
    }

    fn broken(&self, rule: String) -> FormatError {
        FormatError::Packed { path: self.path().to_owned(), rule }
    }
}
