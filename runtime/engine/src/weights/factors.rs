//! What whole matrices are multiplied by, beside the scales of their blocks.

use membrane_formats::{Checkpoint, TensorInfo};
use membrane_kernels::quant::dequantise_row;

use super::finder::format_of;
use super::stored::float_format;
use crate::error::{EngineError, Result};

/// What each of so many matrices is multiplied by: as many floats, or one for all, of any type; or one over each, if they divide.
pub(super) fn factors(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    count: usize,
    divide: bool,
) -> Result<Vec<f32>> {
    float_format(tensor)?;
    let stored = tensor.shape.elements();
    if stored != 1 && stored != count as u64 {
        return Err(EngineError::TensorShape {
            tensor: tensor.name.clone(),
            found: tensor.shape.dims().to_vec(),
            wanted: vec![count as u64],
        });
    }
    let (mut bytes, mut factors) = (vec![0; tensor.bytes as usize], vec![0.0; stored as usize]);
    checkpoint.read(tensor, 0, &mut bytes)?;
    dequantise_row(format_of(tensor)?, &bytes, &mut factors);
    for factor in &mut factors {
        let found = *factor;
        if divide {
            *factor = 1.0 / found;
        }
        if !factor.is_finite() || *factor == 0.0 {
            return Err(EngineError::Factor { tensor: tensor.name.clone(), found });
        }
    }
    let first = factors[0];
    factors.resize(count, first);
    Ok(factors)
}
