//! In which forms a checkpoint stores its numbers, as people count them: by matrices and the numbers that they stand for, where
//! files have words, scales and zero points.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, Container};
use crate::dtype::DType;
use crate::folder::is_exponents;
use crate::keys;
use crate::packed::{self, PackedLayer};
use crate::tensor::TensorInfo;

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
const COMPANIONS: [(&str, &[&str]); 16] = [
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
    (".input_global_scale", &[".weight_packed"]),
    (".k_scale", &[".weight", ".weight_packed", ".qweight"]),
    (".v_scale", &[".weight", ".weight_packed", ".qweight"]),
    ("_scales", &["_blocks"]),
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
                form.parameters += tensor.shape.elements() * packed;
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

    /// The form of a tensor, and how many numbers each of its elements is.
    fn form(&self, tensor: &TensorInfo) -> (&'static str, u64) {
        let beside = |ending: &str, other: &str| {
            let base = tensor.name.strip_suffix(ending)?;
            self.stored(&format!("{base}{other}"))
        };
        if self.container() != Container::Folder {
            return (tensor.dtype.name(), 1);
        }
        let scale = [".weight", ".weight_packed"].into_iter().find_map(|of| beside(of, ".weight_scale"));
        match tensor.dtype {
            // Eight integers in a word, or four.
            DType::I32 if beside(".qweight", ".scales").is_some() => {
                let awq = matches!(self.metadata().str(keys::QUANTISATION), Ok(Some("awq")));
                match beside(".qweight", ".qzeros") {
                    Some(zeros) if !awq && zeros_are_bytes(zeros, tensor) => ("GPTQ of 8 bits", 4),
                    _ => (if awq { "AWQ" } else { "GPTQ" }, 8),
                }
            }
            DType::I32 if scale.is_some() => match self.metadata().u32(keys::BITS) {
                Ok(Some(8)) => ("packed integers of 8 bits", 4),
                _ => ("packed integers of 4 bits", 8),
            },
            DType::I8 if scale.is_some() => ("integers of 8 bits", 1),
            // Two floats in a byte.
            DType::U8 if scale.is_some_and(is_exponents) => ("MXFP4", 2),
            DType::U8 if scale.is_some() => ("NVFP4", 2),
            DType::U8 if beside("_blocks", "_scales").is_some() => ("MXFP4", 2),
            DType::F8_E4M3 if scale.is_some_and(is_exponents) => ("MXFP8", 1),
            DType::F8_E4M3 => ("FP8", 1),
            dtype => (dtype.name(), 1),
        }
    }
}

/// Whether GPTQ's zero points are four in a word. The integers have a row's in a column of words, whatever their bits.
fn zeros_are_bytes(zeros: &TensorInfo, integers: &TensorInfo) -> bool {
    let columns = |tensor: &TensorInfo| tensor.shape.dims().first().copied();
    columns(zeros).zip(columns(integers)).is_some_and(|(zeros, rows)| zeros == rows / 4)
}
