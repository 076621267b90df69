//! Operations that take tokens out of the running, and temperature.

use super::candidates::{Candidate, Candidates, SamplingError};
use super::exponential::exp;
use super::operation::{Temperature, Xtc};

/// Keeps the k largest logits; off at 0 or less.
pub fn top_k(candidates: &mut Candidates, k: i32) {
    if let Ok(k @ 1..) = usize::try_from(k) {
        candidates.keep_best(k);
    }
}

/// Keeps the best tokens up to and with the one whose cumulated probability reaches p; off at 1 or more.
pub fn top_p(candidates: &mut Candidates, p: f32) -> Result<(), SamplingError> {
    if p >= 1.0 {
        return Ok(());
    }
    let largest = candidates.largest()?;
    let target = f64::from(p) * candidates.mass(largest);
    if let Some(kept) = candidates.walk(largest, |_, sum| sum >= target) {
        candidates.keep_best(kept);
    }
    Ok(())
}

/// Keeps tokens of at least the fraction p of the largest probability; off at 0 or less.
pub fn min_p(candidates: &mut Candidates, p: f32) -> Result<(), SamplingError> {
    if p <= 0.0 {
        return Ok(());
    }
    let least = f64::from(candidates.largest()?) + f64::from(p).ln();
    candidates.keep_from(least)
}

/// Keeps logits within n standard deviations of the largest; off at 0 or less.
pub fn top_n_sigma(candidates: &mut Candidates, n: f32) -> Result<(), SamplingError> {
    if n <= 0.0 {
        return Ok(());
    }
    let largest = f64::from(candidates.largest()?);
    let (mut count, mut sum, mut squares) = (0u64, 0f64, 0f64);
    // Measured from the largest, so that the squares don't cancel.
    candidates.each_logit(|logit| {
        let distance = largest - f64::from(logit);
        count += 1;
        sum += distance;
        squares += distance * distance;
    });
    let mean = sum / count as f64;
    let deviation = (squares / count as f64 - mean * mean).max(0.0).sqrt();
    candidates.keep_from(largest - f64::from(n) * deviation)
}

/// Keeps tokens whose surprise, -log2 of the probability, is at most `bits`.
pub fn surprise_limit(candidates: &mut Candidates, bits: f32) -> Result<(), SamplingError> {
    let largest = candidates.largest()?;
    let normaliser = f64::from(largest) + candidates.mass(largest).ln();
    candidates.keep_from(normaliser - f64::from(bits) * std::f64::consts::LN_2)
}

/// Keeps the tokens whose surprise is nearest to the expected one, up to a mass of more than p; off at 1 or
/// more.
pub fn typical(candidates: &mut Candidates, p: f32) -> Result<(), SamplingError> {
    if p >= 1.0 {
        return Ok(());
    }
    let largest = candidates.largest()?;
    let mass = candidates.mass(largest);
    let entropy = entropy(candidates, largest, mass);
    let count = candidates.span();
    let mut unusual: Vec<(f64, Candidate)> = candidates
        .best(count)
        .iter()
        .map(|&candidate| {
            let surprise = mass.ln() - f64::from(candidate.logit - largest);
            ((surprise - entropy).abs(), candidate)
        })
        .collect();
    // Stable: the better of two equally typical tokens comes first.
    unusual.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, target) = (0.0, f64::from(p) * mass);
    let reached = unusual.iter().position(|(_, candidate)| {
        sum += f64::from(exp(candidate.logit - largest));
        sum > target
    });
    unusual.truncate(reached.map_or(unusual.len(), |index| index + 1));
    candidates.keep_these(unusual.into_iter().map(|(_, candidate)| candidate).collect());
    Ok(())
}

/// Entropy of the tokens in the running, in nats.
fn entropy(candidates: &Candidates, largest: f32, mass: f64) -> f64 {
    let mut weighted = 0f64;
    candidates.each_logit(|logit| {
        let distance = logit - largest;
        weighted += f64::from(exp(distance)) * f64::from(distance);
    });
    mass.ln() - weighted / mass
}

/// With the given probability drops all tokens above the threshold but the least likely of them. One number
/// of the random source is used wherever it is on.
pub fn xtc(
    candidates: &mut Candidates,
    xtc: &Xtc,
    random: &mut dyn FnMut() -> u64,
) -> Result<(), SamplingError> {
    if xtc.probability <= 0.0 || xtc.threshold > 0.5 {
        return Ok(());
    }
    if crate::random::uniform(random()) >= f64::from(xtc.probability) {
        return Ok(());
    }
    let largest = candidates.largest()?;
    let least = f64::from(xtc.threshold) * candidates.mass(largest);
    let below = candidates.walk(largest, |c, _| f64::from(exp(c.logit - largest)) < least);
    let top_choices = below.map_or_else(|| candidates.count(), |walked| walked - 1);
    if top_choices > 1 {
        candidates.drop_best(top_choices - 1);
    }
    Ok(())
}

/// Divides logits by the temperature. In a dynamic range it is lower the surer the model is.
pub fn temperature(candidates: &mut Candidates, parameters: &Temperature) -> Result<(), SamplingError> {
    let Temperature { temperature, range, exponent } = *parameters;
    if range <= 0.0 {
        return divide(candidates, temperature);
    }
    let count = candidates.count();
    if count <= 1 {
        return Ok(());
    }
    let largest = candidates.largest()?;
    let mass = candidates.mass(largest);
    let normalised = entropy(candidates, largest, mass) / (count as f64).ln();
    let (least, most) = ((temperature - range).max(0.0), temperature + range);
    let at = normalised.clamp(0.0, 1.0).powf(f64::from(exponent));
    divide(candidates, (f64::from(least) + f64::from(most - least) * at) as f32)
}

fn divide(candidates: &mut Candidates, temperature: f32) -> Result<(), SamplingError> {
    let factor = 1.0 / temperature;
    // A temperature so small that its inverse overflows leaves nothing but the likeliest token either.
    if temperature <= 0.0 || !factor.is_finite() {
        candidates.largest()?;
        candidates.keep_best(1);
        return Ok(());
    }
    if temperature == 1.0 { Ok(()) } else { candidates.scale(factor) }
}
