//! The experts of a packed model.

use std::ops::Range;

use membrane_formats::TensorInfo;
use membrane_formats::packed::{PackedForm, PackedLayer, experts_name};
use membrane_kernels::Format;
use membrane_pager::ByteRange;

use super::experts::Experts;
use super::finder::{Finder, check_shape};
use super::stored::{ExpertForm, ExpertName, expect};
use super::{ExpertMatrix, RowLayout};
use crate::error::{EngineError, Result};
use crate::hyper::Moe;

/// The experts of a layer.
pub(super) struct PackedExperts {
    /// Gates, ups and downs. The parts of the first are whole records, the others have none.
    pub matrices: [Experts; 3],
    /// Where in a record they are; nothing if there are no records.
    pub places: Vec<Range<usize>>,
}

impl Finder<'_> {
    /// The experts of a layer; none if the model is not packed.
    pub(super) fn packed_experts(
        &self,
        index: usize,
        hidden: usize,
        moe: &Moe,
    ) -> Result<Option<PackedExperts>> {
        let Some(PackedLayer { experts: tensor, factors, forms, places }) = self.checkpoint.packed(index)?
        else {
            return Ok(None);
        };
        let record = tensor.shape.columns();
        check_shape(tensor, &[record as usize, moe.experts])?;
        self.mark_used(tensor);
        let factors = factors.map(|factors| self.packed_factors(factors, moe.experts)).transpose()?;
        let shapes = [[moe.inner, hidden], [moe.inner, hidden], [hidden, moe.inner]];
        let range = |expert: u64| {
            let offset = tensor.offset + expert * record;
            vec![ByteRange { file: tensor.file, offset, bytes: record }]
        };
        let mut matrices = Vec::with_capacity(3);
        for (number, ((form, place), shape)) in forms.iter().zip(&places).zip(shapes).enumerate() {
            let format = format_of(&tensor.name, form, shape)?;
            // One range is all of an expert.
            let parts: Vec<Vec<ByteRange>> = match number {
                0 => (0..moe.experts as u64).map(range).collect(),
                _ => vec![Vec::new(); moe.experts],
            };
            let name = ExpertName::fused(experts_name(index));
            let of_matrix = |factors: &Vec<f32>| factors.iter().skip(number).step_by(3).copied().collect();
            let factors = factors.as_ref().map_or(Vec::new(), of_matrix);
            let row_layout = RowLayout::of(form.ordered);
            matrices.push(Experts {
                matrix: ExpertMatrix::new(name.clone(), format, shape, factors, row_layout),
                form: ExpertForm {
                    place: Some(place.start as usize..place.end as usize),
                    ..ExpertForm::of(name, None, &parts)
                },
                bytes: place.end - place.start,
                parts,
            });
        }
        let matrices = matrices.try_into().ok();
        let places = places.iter().map(|place| place.start as usize..place.end as usize).collect();
        Ok(matrices.map(|matrices| PackedExperts { matrices, places }))
    }

    fn packed_factors(&self, tensor: &TensorInfo, experts: usize) -> Result<Vec<f32>> {
        check_shape(tensor, &[3, experts])?;
        expect(tensor, membrane_formats::DType::F32)?;
        self.mark_used(tensor);
        let mut bytes = vec![0; tensor.bytes as usize];
        self.checkpoint.read(tensor, 0, &mut bytes)?;
        let factors: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        match factors.iter().find(|factor| !factor.is_finite()) {
            None => Ok(factors),
            Some(&found) => Err(EngineError::Factor { tensor: tensor.name.clone(), found }),
        }
    }
}

/// The format of a matrix in the records of a tensor. Error: it is of another shape than the model has, or not one to compute with.
fn format_of(tensor: &str, form: &PackedForm, [rows, cols]: [usize; 2]) -> Result<Format> {
    // By its very name, by which its bytes were counted.
    let format = Format::from_name(&form.format).filter(|format| format.name() == form.format);
    let usable = format.filter(|format| !(form.ordered && format.is_float()));
    let shape = [form.rows, form.cols];
    match usable.filter(|_| shape == [rows as u64, cols as u64]) {
        Some(format) => Ok(format),
        None => {
            Err(EngineError::PackedForm { tensor: tensor.to_owned(), found: form.to_string(), rows, cols })
        }
    }
}
