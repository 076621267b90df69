//! Golden outputs in safetensors files, and how far something is from them.

use std::path::Path;

use membrane_engine::Session;
use safetensors::{Dtype, SafeTensors};

/// Where the runner-up of a golden continuation is nearer than this, the choice is not compared.
const GREEDY_MARGIN: f32 = 1e-2;

/// A golden file, read wholly.
pub struct Golden(Vec<u8>);

/// The distance of logits from golden ones.
#[derive(Debug, Clone, Copy)]
pub struct Distance {
    /// Largest absolute difference.
    pub max_abs: f32,
    /// Sum of squared differences over the sum of the golden's squared deviations from nothing.
    pub nmse: f64,
    /// Positions with the same largest logit, 0 to 1.
    pub argmax: f64,
}

impl Golden {
    /// Reads a file. Panics with its name if that fails: a test can't go on without it.
    pub fn read(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("a golden file is a safetensors file")
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// The elements of an f32 tensor, none if it is not there.
    pub fn f32(&self, name: &str) -> Option<Vec<f32>> {
        self.four_bytes(name, Dtype::F32).map(|b| b.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The bytes of a u8 tensor, none if it is not there.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).ok()?;
        assert_eq!(tensor.dtype(), Dtype::U8, "{name}");
        Some(tensor.data().to_vec())
    }

    /// The elements of an i32 tensor that holds ids, none if it is not there.
    pub fn ids(&self, name: &str) -> Option<Vec<u32>> {
        self.four_bytes(name, Dtype::I32).map(|b| b.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }

    /// Walks a new session along the golden greedy continuation of a prompt. Gives how many of its choices were compared; panics
    /// at one that is another. `model`: its name, for that.
    pub fn assert_greedy(&self, session: &mut Session, prompt: &str, model: &str) -> usize {
        let ids = |what: &str| self.ids(&format!("{prompt}.{what}")).expect("golden ids");
        session.append(&ids("input_ids")).expect("the prompt is computed");
        let margins = self.f32(&format!("{prompt}.greedy_margin")).expect("golden margins");
        let mut compared = 0;
        for (step, (token, margin)) in ids("greedy_ids").into_iter().zip(margins).enumerate() {
            if margin > GREEDY_MARGIN {
                assert_eq!(argmax(session.logits()), token as usize, "{model} {prompt} step {step}");
                compared += 1;
            }
            // Where two tokens are too close, it goes on with the reference's.
            session.append(&[token]).expect("a token is computed");
        }
        compared
    }

    fn four_bytes(&self, name: &str, dtype: Dtype) -> Option<Vec<[u8; 4]>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).ok()?;
        assert_eq!(tensor.dtype(), dtype, "{name}");
        Some(tensor.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect())
    }
}

/// How far logits [positions, vocabulary] are from golden ones of the same shape.
pub fn distance(found: &[f32], golden: &[f32], vocabulary: usize) -> Distance {
    assert_eq!(found.len(), golden.len());
    let pairs = || found.iter().zip(golden);
    let max_abs =
        pairs().map(|(a, b)| (a - b).abs()).fold(0.0, |m: f32, d| if d > m || d.is_nan() { d } else { m });
    let error: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let power: f64 = golden.iter().map(|b| f64::from(*b).powi(2)).sum();
    let rows = found.chunks_exact(vocabulary).zip(golden.chunks_exact(vocabulary));
    let same = rows.filter(|(a, b)| argmax(a) == argmax(b)).count();
    Distance { max_abs, nmse: error / power, argmax: same as f64 / (found.len() / vocabulary) as f64 }
}

/// Index of the largest element.
pub fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or_default()
}
