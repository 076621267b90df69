//! In which forms a checkpoint stores its numbers, as people count them: by matrices and the numbers that they stand for, where
//! files have words, scales and zero points.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, Container};
use crate::dtype::DType;
use crate::folder::is_exponents;
use crate::keys;
use crate::packed::{self, PackedLayer};
use crate::tensor::TensorInfo;
use crate::value::Value;

/// All tensors of one form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form {
    /// Matrices and vectors. What belongs to one, such as its scales, is not counted.
    pub tensors: u64,
    /// Numbers that they stand for.
    pub parameters: u64,
    /// Bytes of all, scales included.
    pub bytes: u64,
}

/// Endings of what belongs to another tensor, of each the endings that this one may have.
const COMPANIONS: [(&str, &[&str]); 23] = [
    (".qzeros", &[".qweight"]),
    (".scales", &[".qweight"]),
    (".g_idx", &[".qweight"]),
    (".weight_scale", &[".weight", ".weight_packed"]),
    (".weight_scale_2", &[".weight"]),
    ("_scale_inv", &[""]),
    (".weight_global_scale", &[".weight_packed"]),
    (".weight_zero_point", &[".weight_packed"]),
    (".weight_g_idx", &[".weight", ".weight_packed"]),
    (".weight_shape", &[".weight_packed"]),
    (".input_scale", &[".weight"]),
    (".input_scale_2", &[".weight"]),
    (".input_global_scale", &[".weight_packed"]),
    (".k_scale", &[".weight", ".weight_packed", ".qweight"]),
    (".v_scale", &[".weight", ".weight_packed", ".qweight"]),
    ("_scales", &["_blocks"]),
    ("_weight_scale", &[""]),
    ("_weight_scale_2", &[""]),
    ("_input_scale", &[""]),
    ("_scale", &["_packed"]),
    ("_global_scale", &["_packed"]),
    ("_input_global_scale", &["_packed"]),
    (".scale", &[".weight"]),
];

/// Adds a tensor of a packed layer. Of each expert three matrices are counted, and of their factors the bytes.
fn add_packed(forms: &mut BTreeMap<&'static str, Form>, packed: &PackedLayer<'_>, tensor: &TensorInfo) {
    let experts = packed.experts.shape.elements() / packed.experts.shape.columns();
    for (form, place) in packed.forms.iter().zip(&packed.places) {
        let Some(kind) = form.kind() else { continue };
        let entry = forms.entry(kind).or_default();
        if tensor.name != packed.experts.name {
            entry.bytes += tensor.bytes;
            return;
        }
        let elements = form.rows.saturating_mul(form.cols);
        entry.tensors += experts;
        entry.parameters = entry.parameters.saturating_add(experts.saturating_mul(elements));
        entry.bytes += experts * (place.end - place.start);
    }
}

impl Checkpoint {
    /// What there is of each form, by its name: that of the tensors' type, or of the way in which matrices are quantised.
    pub fn forms(&self) -> BTreeMap<&'static str, Form> {
        let mut forms: BTreeMap<&'static str, Form> = BTreeMap::new();
        for tensor in self.tensors() {
            if let Some(packed) = self.packed_layer(tensor) {
                add_packed(&mut forms, &packed, tensor);
                continue;
            }
            let owner = self.owner(tensor);
            let (name, packed) = self.form(owner.unwrap_or(tensor));
            let form = forms.entry(name).or_default();
            form.bytes += tensor.bytes;
            if owner.is_none() {
                form.tensors += 1;
                form.parameters = form.parameters.saturating_add(packed.of(tensor));
            }
        }
        forms
    }

    /// The experts whose records or factors a tensor has, where they are as they are described.
    fn packed_layer(&self, tensor: &TensorInfo) -> Option<PackedLayer<'_>> {
        self.packed(packed::layer_of(&tensor.name)?).ok()?
    }

    /// The tensor that this one belongs to.
    fn owner(&self, tensor: &TensorInfo) -> Option<&TensorInfo> {
        COMPANIONS.iter().find_map(|(ending, owners)| {
            let base = tensor.name.strip_suffix(ending)?;
            owners.iter().find_map(|owner| self.stored(&format!("{base}{owner}")))
        })
    }

    /// The form of a tensor, and how its elements hold numbers.
    fn form(&self, tensor: &TensorInfo) -> (&'static str, Packing) {
        let beside = |ending: &str, other: &str| {
            let base = tensor.name.strip_suffix(ending)?;
            self.stored(&format!("{base}{other}"))
        };
        if self.container() != Container::Folder {
            return (tensor.dtype.name(), Packing::PLAIN);
        }
        let scales = [(".weight", ".weight_scale"), ("_packed", "_scale"), ("", "_weight_scale")];
        let scale = scales.into_iter().find_map(|(of, scale)| beside(of, scale));
        match tensor.dtype {
            DType::I32 if beside(".qweight", ".scales").is_some() => {
                if matches!(self.metadata().str(keys::QUANTISATION), Ok(Some("awq"))) {
                    return ("AWQ", Packing::words(4));
                }
                let bits = beside(".qweight", ".qzeros").and_then(|zeros| gptq_bits(zeros, tensor));
                let name = match bits {
                    Some(2) => "GPTQ of 2 bits",
                    Some(3) => "GPTQ of 3 bits",
                    Some(8) => "GPTQ of 8 bits",
                    _ => "GPTQ",
                };
                (name, Packing::words(bits.unwrap_or(4)))
            }
            DType::I32 if scale.is_some() => match self.packed_bits(tensor) {
                8 => ("packed integers of 8 bits", Packing::words(8)),
                _ => ("packed integers of 4 bits", Packing::words(4)),
            },
            DType::I8 if scale.is_some() => ("integers of 8 bits", Packing::PLAIN),
            DType::U8 if scale.is_some_and(is_exponents) => ("MXFP4", Packing::TWO),
            DType::U8 if scale.is_some() => ("NVFP4", Packing::TWO),
            DType::U8 if beside("_blocks", "_scales").is_some() => ("MXFP4", Packing::TWO),
            DType::F8_E4M3 if scale.is_some_and(is_exponents) => ("MXFP8", Packing::PLAIN),
            DType::F8_E4M3 => ("FP8", Packing::PLAIN),
            dtype => (dtype.name(), Packing::PLAIN),
        }
    }
}

impl Checkpoint {
    /// Bits of packed integers: those of all, or where matrices have several widths those with which its words hold as many columns as
    /// `weight_shape` says.
    fn packed_bits(&self, packed: &TensorInfo) -> u64 {
        match self.metadata().get(keys::BITS) {
            Some(Value::U32(bits)) => u64::from(*bits),
            Some(_) => self.columns(packed).and_then(|columns| packed_bits(packed, columns)).unwrap_or(4),
            None => 4,
        }
    }

    /// The columns of a packed matrix, which lie in a tensor of their own: the last of its dimensions.
    fn columns(&self, packed: &TensorInfo) -> Option<u64> {
        let base = packed.name.strip_suffix(".weight_packed")?;
        let shape = self.stored(&format!("{base}.weight_shape"))?;
        let width = match shape.dtype {
            DType::I64 => 8,
            DType::I32 => 4,
            _ => return None,
        };
        let mut columns = [0; 8];
        self.read(shape, shape.bytes.checked_sub(width)?, &mut columns[..width as usize]).ok()?;
        Some(u64::from_le_bytes(columns))
    }
}

/// Bits with which the words of a row hold so many integers.
fn packed_bits(packed: &TensorInfo, columns: u64) -> Option<u64> {
    let words = packed.shape.columns();
    [4, 8].into_iter().find(|bits| columns.checked_mul(*bits).map(|bits| bits.div_ceil(32)) == Some(words))
}

/// How many numbers so many elements of a tensor are.
struct Packing {
    numbers: u64,
    elements: u64,
}

impl Packing {
    const PLAIN: Self = Self { numbers: 1, elements: 1 };
    const TWO: Self = Self { numbers: 2, elements: 1 };

    /// Integers of so many bits in words of 32.
    fn words(bits: u64) -> Self {
        Self { numbers: 32, elements: bits }
    }

    fn of(&self, tensor: &TensorInfo) -> u64 {
        tensor.shape.elements().saturating_mul(self.numbers) / self.elements
    }
}

/// Bits of GPTQ's integers: those of a row have a column of words, whatever their width, and its zero points share words with others'.
fn gptq_bits(zeros: &TensorInfo, integers: &TensorInfo) -> Option<u64> {
    let columns = |tensor: &TensorInfo| tensor.shape.dims().first().copied();
    let bits = columns(zeros)?.checked_mul(32)?.checked_div(columns(integers)?)?;
    matches!(bits, 2 | 3 | 4 | 8).then_some(bits)
}
