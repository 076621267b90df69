//! The matrices of experts: where each stands in the files, however these put them together.

use membrane_formats::{DType, Quantised, Scheme, TensorInfo, keys};
use membrane_kernels::recode::{Parts, ScaleFormat, View};
use membrane_kernels::{RecodeError, Recoding};
use membrane_pager::ByteRange;

use super::factors::factors;
use super::finder::{Finder, check_shape, format_of, scale_name};
use super::stored::{ExpertForm, ExpertName, Stored, expect, float_format, fp8_block};
use super::{ExpertBiases, ExpertMatrix, Interleaving, RowLayout};
use crate::error::{EngineError, Result};
use crate::hyper::Moe;

/// The same matrix of all experts of a block.
pub(super) struct Experts {
    pub matrix: ExpertMatrix,
    pub form: ExpertForm,
    /// Bytes in a slot.
    pub bytes: u64,
    /// Where the parts of each expert's lie.
    pub parts: Vec<Vec<ByteRange>>,
}

impl Experts {
    /// The same with rows that are interleaved in slots, if that is to be: as they are read, or later.
    pub(super) fn interleaved(mut self, interleaving: Interleaving) -> Self {
        let ExpertMatrix { format, rows, cols, row_layout, rewritable, .. } = &mut self.matrix;
        let plain = self.form.recoding.is_none() && *row_layout == RowLayout::Plain;
        if plain && let Some(row) = interleaving.row_bytes(*format, [*rows, *cols], self.bytes) {
            if interleaving.experts {
                *row_layout = RowLayout::Interleaved;
                self.form.interleaved = Some((*format, row));
            } else {
                *rewritable = true;
            }
        }
        self
    }
}

impl Finder<'_> {
    /// Gates, ups and downs.
    pub(super) fn all_experts(&self, index: usize, hidden: usize, moe: &Moe) -> Result<[Experts; 3]> {
        if self.alternate()? {
            return self.fused(index, hidden, moe, true, [(0, 2), (1, 2)]);
        }
        let inputs_first = self.are_inputs_first(index, hidden, moe);
        let recoded = |part: &str| -> Result<bool> {
            let found = self.quantised(&format!("blk.{index}.{part}_exps.weight"))?;
            Ok(found.is_some_and(|found| matches!(found.scheme, Scheme::Fp8 | Scheme::Nvfp4 { .. })))
        };
        // Either may be floats beside the other.
        if inputs_first || recoded("ffn_gate_up")? || recoded("ffn_down")? {
            return self.fused(index, hidden, moe, inputs_first, [(0, 1), (moe.inner, 1)]);
        }
        let [gate, up] = self.gates_and_ups(index, hidden, moe)?;
        Ok([gate, up, self.experts(index, "ffn_down", hidden, moe.inner, moe.experts)?])
    }

    /// Whether rows of gates and ups take turns.
    fn alternate(&self) -> Result<bool> {
        Ok(self.checkpoint.metadata().bool(keys::ALTERNATING_EXPERTS)?.unwrap_or(false))
    }

    pub(super) fn expert_biases(&mut self, index: usize, hidden: usize, moe: &Moe) -> Result<ExpertBiases> {
        let name = |part: &str| format!("blk.{index}.ffn_{part}_exps.bias");
        let down = self.weight(&name("down"), moe.experts, hidden)?;
        if !self.alternate()? {
            let gate = self.weight(&name("gate"), moe.experts, moe.inner)?;
            return Ok(ExpertBiases { gate, up: self.weight(&name("up"), moe.experts, moe.inner)?, down });
        }
        let turn = |first: usize| View {
            stored: [moe.experts, 2 * moe.inner],
            first,
            group_rows: moe.experts,
            group_step: 0,
            row_step: 2 * moe.inner,
            col_step: 2,
        };
        let [gate, up] =
            [0, 1].map(|first| Stored::view(self, &name("gate_up"), turn(first), moe.experts, moe.inner));
        let (gate, up) = (gate?, up?);
        Ok(ExpertBiases {
            gate: self.resident(gate, moe.experts, moe.inner),
            up: self.resident(up, moe.experts, moe.inner),
            down,
        })
    }

    /// Whether what is fused has inputs before outputs, as Qwen3-VL is published. The shape of a tensor that is not square tells, and both
    /// cannot be; what is in 4 bits has a shape of its own and tells nothing.
    fn are_inputs_first(&self, index: usize, hidden: usize, moe: &Moe) -> bool {
        let is = |part: &str, outputs: usize, inputs: usize| {
            let tensor = self.checkpoint.tensor(&format!("blk.{index}.{part}_exps.weight"));
            let dims = [outputs, inputs, moe.experts].map(|n| n as u64);
            outputs != inputs && tensor.is_some_and(|tensor| tensor.shape.dims() == dims)
        };
        is("ffn_gate_up", 2 * moe.inner, hidden) || is("ffn_down", hidden, moe.inner)
    }

    /// All in two tensors. Gates and ups are made of the same bytes: `gate` and `up` are the first of their rows, and the steps to the
    /// next. `inputs_first`: of what is not in 4 bits, which never is.
    fn fused(
        &self,
        index: usize,
        hidden: usize,
        moe: &Moe,
        inputs_first: bool,
        [gate, up]: [(usize, usize); 2],
    ) -> Result<[Experts; 3]> {
        let name = |part: &str| format!("blk.{index}.{part}_exps.weight");
        let (both, down) = (name("ffn_gate_up"), name("ffn_down"));
        let both = Fused::find(self, &both, inputs_first, [2 * moe.inner, hidden], moe.experts)?;
        both.check_blocks(moe.inner)?;
        let down = Fused::find(self, &down, inputs_first, [hidden, moe.inner], moe.experts)?;
        let (gate, up) = (both.rows(moe.inner, gate)?, both.rows(moe.inner, up)?);
        let up =
            Experts { form: ExpertForm { parts: 0, ..up.form }, parts: vec![Vec::new(); moe.experts], ..up };
        Ok([gate, up, down.rows(hidden, (0, 1))?])
    }

    /// Gates and ups of all experts: in one tensor, the rows of a gate before those of its up, or in a tensor each.
    fn gates_and_ups(&self, index: usize, hidden: usize, moe: &Moe) -> Result<[Experts; 2]> {
        let fused = format!("blk.{index}.ffn_gate_up_exps.weight");
        if self.checkpoint.tensor(&fused).is_none() {
            let gates = self.experts(index, "ffn_gate", moe.inner, hidden, moe.experts)?;
            return Ok([gates, self.experts(index, "ffn_up", moe.inner, hidden, moe.experts)?]);
        }
        let both = self.experts(index, "ffn_gate_up", 2 * moe.inner, hidden, moe.experts)?;
        Ok([0, 1].map(|number| {
            let range = |range: &ByteRange| {
                let bytes = range.bytes / 2;
                ByteRange { offset: range.offset + number * bytes, bytes, ..*range }
            };
            Experts {
                matrix: ExpertMatrix { rows: moe.inner, ..both.matrix.clone() },
                form: both.form.clone(),
                bytes: both.bytes / 2,
                parts: both.parts.iter().map(|parts| parts.iter().map(range).collect()).collect(),
            }
        }))
    }

    /// The same matrix of every expert: one fused tensor [experts, rows, cols], or one an expert, as folders and early
    /// Mixtral files have it.
    fn experts(&self, index: usize, part: &str, rows: usize, cols: usize, count: usize) -> Result<Experts> {
        let fused = format!("blk.{index}.{part}_exps.weight");
        let of_one = |expert: usize| format!("blk.{index}.{part}.{expert}.weight");
        // In a folder, one that is missing is named as its files would.
        let one_by_one =
            self.checkpoint.holds(&of_one(0)) || self.checkpoint.published_name(&of_one(0)).is_some();
        if self.checkpoint.tensor(&fused).is_none() && one_by_one {
            return self.experts_one_by_one(of_one, rows, cols, count);
        }
        let (_, tensor) = self.tensor(&fused, &[cols, rows, count])?;
        let bytes = tensor.bytes / count as u64;
        let range = |e: u64| ByteRange { file: tensor.file, offset: tensor.offset + e * bytes, bytes };
        let parts: Vec<Vec<ByteRange>> = (0..count as u64).map(|expert| vec![range(expert)]).collect();
        let factors = self.optional_vector(&scale_name(&fused), count)?.unwrap_or_default();
        let (name, format) = (ExpertName::fused(tensor.name.clone()), format_of(tensor)?);
        Ok(Experts {
            matrix: ExpertMatrix::new(name.clone(), format, [rows, cols], factors, RowLayout::Plain),
            form: ExpertForm::of(name, None, &parts),
            bytes,
            parts,
        })
    }

    fn experts_one_by_one(
        &self,
        of_one: impl Fn(usize) -> String,
        rows: usize,
        cols: usize,
        count: usize,
    ) -> Result<Experts> {
        let first = Stored::find(self, &of_one(0), rows, cols)?;
        let (mut parts, mut factors) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for expert in 0..count {
            let stored = Stored::find(self, &of_one(expert), rows, cols)?;
            if !stored.same_form(&first) {
                return Err(EngineError::MixedExperts {
                    found: stored.form(),
                    tensor: stored.name,
                    first: first.name.clone(),
                    wanted: first.form(),
                });
            }
            parts.push(stored.parts);
            factors.push(stored.factor);
        }
        let row_layout = first.row_layout();
        let Stored { name, format, bytes, recoding, .. } = first;
        let name = ExpertName::one_by_one(name);
        Ok(Experts {
            matrix: ExpertMatrix::new(name.clone(), format, [rows, cols], factors, row_layout),
            form: ExpertForm::of(name, recoding, &parts),
            bytes,
            parts,
        })
    }
}

/// A matrix of every expert in one tensor, or in one of numbers and one of scales.
struct Fused<'a> {
    parts: Vec<&'a TensorInfo>,
    described: Parts,
    /// What each expert's is multiplied by; empty if that is nothing.
    factors: Vec<f32>, // [experts]
    experts: usize,
    /// Outputs and inputs of an expert's matrix.
    outputs: usize,
    inputs: usize,
    /// Its rows are those of inputs.
    inputs_first: bool,
}

impl<'a> Fused<'a> {
    /// `inputs_first`: of what is not in 4 bits, which never is. Error: it is absent, or has another shape or type.
    fn find(
        finder: &Finder<'a>,
        name: &str,
        inputs_first: bool,
        [outputs, inputs]: [usize; 2],
        experts: usize,
    ) -> Result<Self> {
        let [rows, cols] = if inputs_first { [inputs, outputs] } else { [outputs, inputs] };
        let (parts, described) = match finder.quantised(name)? {
            Some(Quantised { scheme: Scheme::Mxfp4, parts }) => {
                expect(parts[0], DType::U8)?;
                if parts[1].dtype != DType::F8_E8M0 {
                    expect(parts[1], DType::U8)?;
                }
                for (part, block) in parts.iter().zip([&[16][..], &[]]) {
                    check_shape(part, &[block, &[inputs / 32, outputs, experts]].concat())?;
                }
                let (described, factors, inputs_first) = (Parts::Mxfp4, Vec::new(), false);
                return Ok(Self { parts, described, factors, experts, outputs, inputs, inputs_first });
            }
            Some(Quantised { scheme: Scheme::Nvfp4 { divides }, mut parts }) => {
                expect(parts[1], DType::F8_E4M3)?;
                check_shape(parts[0], &[inputs / 2, outputs, experts])?;
                let scales = |group: usize| check_shape(parts[1], &[inputs / group, outputs, experts]);
                let group = if scales(32).is_ok() { 32 } else { 16 };
                scales(group)?;
                let factors = factors(finder.checkpoint, parts[2], experts, divides)?;
                parts.truncate(2);
                let (described, inputs_first) = (Parts::Nvfp4 { group }, false);
                return Ok(Self { parts, described, factors, experts, outputs, inputs, inputs_first });
            }
            Some(Quantised { scheme: Scheme::Fp8, parts }) => {
                let one_for_all = parts[1].shape.elements() == experts as u64;
                let block = if one_for_all { [rows, cols] } else { fp8_block(finder.checkpoint)? };
                check_shape(parts[0], &[cols, rows, experts])?;
                check_shape(parts[1], &[cols.div_ceil(block[1]), rows.div_ceil(block[0]), experts])?;
                let scales = ScaleFormat::Float(float_format(parts[1])?);
                (parts, Parts::Fp8 { scales, block })
            }
            _ => {
                let (_, tensor) = finder.tensor(name, &[cols, rows, experts])?;
                (vec![tensor], Parts::Floats(float_format(tensor)?))
            }
        };
        Ok(Self { parts, described, factors: Vec::new(), experts, outputs, inputs, inputs_first })
    }

    /// Error: a block with one scale reaches from gates to ups, of which there are so many each. What the tool that wrote it took for a
    /// block is then open.
    fn check_blocks(&self, inner: usize) -> Result<()> {
        let Parts::Fp8 { block, .. } = self.described else { return Ok(()) };
        let side = block[usize::from(self.inputs_first)];
        if side >= self.outputs || inner.is_multiple_of(side) {
            return Ok(());
        }
        let rule = "a block with one scale must not reach from gates to ups";
        let source = RecodeError::Shape { rows: self.outputs, cols: self.inputs, rule };
        Err(EngineError::Recode { tensor: self.parts[0].name.clone(), source })
    }

    /// Of each expert so many rows: every `step`-th from `first` on.
    fn rows(&self, rows: usize, (first, step): (usize, usize)) -> Result<Experts> {
        let cols = self.inputs;
        let (outputs, inputs) = (self.outputs, self.inputs);
        let rows_of = |stored: [usize; 2], row: usize, col_step: usize| View {
            stored,
            first: first * row,
            group_rows: rows,
            group_step: 0,
            row_step: step * row,
            col_step,
        };
        let view = match self.inputs_first {
            true => rows_of([inputs, outputs], 1, outputs),
            false => rows_of([outputs, inputs], inputs, 1),
        };
        let tensor = self.parts[0].name.clone();
        let recoding = Recoding::of_view(self.described, view, rows, cols)
            .map_err(|source| EngineError::Recode { tensor: tensor.clone(), source })?;
        let name = ExpertName::fused(tensor);
        let range = |tensor: &TensorInfo, expert: u64| {
            let bytes = tensor.bytes / self.experts as u64;
            ByteRange { file: tensor.file, offset: tensor.offset + expert * bytes, bytes }
        };
        let parts = |expert: u64| self.parts.iter().map(|tensor| range(tensor, expert)).collect();
        let (format, row_layout) = (recoding.format(), RowLayout::of(recoding.is_ordered()));
        let parts: Vec<Vec<ByteRange>> = (0..self.experts as u64).map(parts).collect();
        Ok(Experts {
            matrix: ExpertMatrix::new(name.clone(), format, [rows, cols], self.factors.clone(), row_layout),
            bytes: recoding.bytes() as u64,
            form: ExpertForm::of(name, Some(recoding), &parts),
            parts,
        })
    }
}
