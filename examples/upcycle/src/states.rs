//! Hidden states of the dense model: what each layer's feed-forward sees on real text.

use crate::noise::{Noise, Stream};
use crate::openings::OPENINGS;
use anyhow::{Context, Result, ensure};
use half::f16;
use membrane_engine::{LoadOptions, Model, Observer, Precision};
use membrane_text::{Specials, Tokenizer};
use std::path::Path;

/// Tokens that see each other; a text is cut into windows of this length.
const WINDOW: usize = 512;
/// Longest continuation that the model writes to one opening.
const CONTINUATION: usize = 128;
/// Sampling of the model's own text: enough variety to cover the states, not so much that it turns to noise.
const TEMPERATURE: f64 = 0.8;
const CANDIDATES: usize = 40;

/// Inputs of every layer's feed-forward, behind its norm.
pub struct States {
    width: usize,
    /// For each layer [tokens, width]. Half precision: they are only clustered.
    layers: Vec<Vec<f16>>,
}

impl States {
    /// Runs the model over `text`, or over text that it writes itself, until `count` tokens have been seen.
    ///
    /// # Errors
    /// When the model can't be loaded or run, or the text is too short.
    pub fn collect(model: &Path, text: Option<&Path>, count: usize, seed: u64) -> Result<Self> {
        // Fixed, so that an equal recipe goes on to give an equal file.
        let precision = Precision::Int16;
        let options = LoadOptions { context: Some(WINDOW as u32), precision, ..LoadOptions::default() };
        let model = Model::open(model, &options)?;
        let shape = model.hyperparameters();
        let mut states = Self { width: shape.hidden, layers: vec![Vec::new(); shape.blocks()] };
        match text {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
                states.read(&model, &text, count)?;
            }
            None => states.write(&model, count, &mut Noise::new(seed, Stream::Text))?,
        }
        let limit = count * states.width;
        states.layers.iter_mut().for_each(|layer| layer.truncate(limit));
        Ok(states)
    }

    /// Tokens seen.
    pub fn tokens(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len() / self.width)
    }

    /// A layer's states, [tokens, width].
    pub fn layer(&self, layer: usize) -> Vec<f32> {
        self.layers[layer].iter().map(|value| value.to_f32()).collect()
    }

    fn read(&mut self, model: &Model, text: &str, count: usize) -> Result<()> {
        let ids = model.tokenizer()?.encode(text, Specials::AsText)?;
        ensure!(ids.len() >= count, "the text has {} tokens, {count} are wanted: see --tokens", ids.len());
        for window in ids[..count].chunks(WINDOW) {
            model.session().append_observed(window, self)?;
        }
        Ok(())
    }

    /// The model continues openings in turn, half of them as answers in a chat if it knows the markup.
    fn write(&mut self, model: &Model, count: usize, noise: &mut Noise) -> Result<()> {
        let tokenizer = model.tokenizer()?;
        let chat = tokenizer.encode("<|im_start|>", Specials::Parse)?.len() == 1;
        for (turn, opening) in OPENINGS.iter().cycle().enumerate() {
            if self.tokens() >= count {
                break;
            }
            let asked = format!("<|im_start|>user\n{opening}<|im_end|>\n<|im_start|>assistant\n");
            // An odd number of openings: the second time around, each is used the other way.
            let prompt = if chat && turn % 2 == 1 { asked.as_str() } else { opening };
            self.continuation(model, tokenizer, prompt, noise)?;
        }
        Ok(())
    }

    fn continuation(
        &mut self,
        model: &Model,
        tokenizer: &Tokenizer,
        prompt: &str,
        noise: &mut Noise,
    ) -> Result<()> {
        let mut session = model.session();
        session.append_observed(&tokenizer.encode(prompt, Specials::Parse)?, self)?;
        for _ in 0..CONTINUATION {
            let token = sample(session.logits(), noise);
            if tokenizer.end_tokens().contains(&token) {
                break;
            }
            session.append_observed(&[token], self)?;
        }
        Ok(())
    }
}

impl Observer for States {
    fn ffn_input(&mut self, layer: usize, _rows: usize, x: &[f32]) {
        self.layers[layer].extend(x.iter().map(|value| f16::from_f32(*value)));
    }
}

/// A token among the best ones, by its probability.
fn sample(logits: &[f32], noise: &mut Noise) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let better = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    if order.len() > CANDIDATES {
        order.select_nth_unstable_by(CANDIDATES - 1, better);
        order.truncate(CANDIDATES);
    }
    order.sort_unstable_by(better);
    let best = f64::from(logits[order[0]]);
    let weights: Vec<f64> =
        order.iter().map(|token| ((f64::from(logits[*token]) - best) / TEMPERATURE).exp()).collect();
    let mut left = noise.unit() * weights.iter().sum::<f64>();
    for (token, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return *token as u32;
        }
    }
    order[0] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_by_probability_among_the_best() {
        let mut logits = vec![-1.0_f32; 100];
        logits[17] = 5.0;
        logits[71] = 5.0;
        let mut noise = Noise::new(1, Stream::Text);
        let drawn: Vec<u32> = (0..400).map(|_| sample(&logits, &mut noise)).collect();
        let often = drawn.iter().filter(|token| **token == 17).count();
        assert!((150..250).contains(&often), "{often}");
        assert!(drawn.iter().all(|token| *token == 17 || *token == 71 || *token < 40));
    }
}
