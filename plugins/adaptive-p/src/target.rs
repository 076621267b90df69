//! The target and what moves it.

/// The logit of a token that is right at the target.
const PEAK: f64 = 5.0;
/// How steeply logits fall beside it.
const SHARPNESS: f64 = 10.0;
/// Distances in probability are measured in this.
const WIDTH: f64 = 0.3;

/// A target, and the probabilities of what was chosen, the last counting most.
#[derive(Clone, Debug)]
pub struct Target {
    target: f64,
    decay: f64,
    /// Sum of the probabilities, each times `decay` for each token since.
    chosen: f64,
    /// Sum of these factors.
    weight: f64,
}

impl Target {
    /// As if tokens right at the target had been chosen for ever.
    pub fn new(target: f64, decay: f64) -> Self {
        Self { target, decay, chosen: target / (1.0 - decay), weight: 1.0 / (1.0 - decay) }
    }

    /// What to aim at now: as far on the other side of the target as the average has strayed from it.
    pub fn aim(&self) -> f64 {
        (2.0 * self.target - self.chosen / self.weight).clamp(0.0, 1.0)
    }

    /// A token of this probability was chosen.
    pub fn observe(&mut self, probability: f64) {
        self.chosen = probability + self.decay * self.chosen;
        self.weight = 1.0 + self.decay * self.weight;
    }

    /// The two sums of the memory.
    pub fn sums(&self) -> (f64, f64) {
        (self.chosen, self.weight)
    }

    /// The same target with another memory; none if there is no such memory.
    pub fn resume(&self, chosen: f64, weight: f64) -> Option<Self> {
        let possible = (1.0..=101.0).contains(&weight) && (0.0..=weight).contains(&chosen);
        possible.then_some(Self { chosen, weight, ..*self })
    }
}

/// The logit of a token of a probability: quadratic near the aim, linear far from it.
pub fn logit(probability: f64, aim: f64) -> f64 {
    let distance = (probability - aim).abs() / WIDTH;
    PEAK - SHARPNESS * distance * distance / (1.0 + distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aim_makes_up_for_what_was_chosen() {
        let mut target = Target::new(0.5, 0.9);
        assert!((target.aim() - 0.5).abs() < 1e-12);
        target.observe(1.0);
        // The average is 0.5 + 0.5 / 10 now.
        assert!((target.aim() - 0.45).abs() < 1e-12);
        (0..100).for_each(|_| target.observe(1.0));
        assert!(target.aim() < 1e-3);
        (0..100).for_each(|_| target.observe(0.5));
        assert!((target.aim() - 0.5).abs() < 1e-3);
    }

    #[test]
    fn logits_fall_with_the_distance() {
        assert_eq!(logit(0.4, 0.4), 5.0);
        assert!((logit(0.7, 0.4) - 0.0).abs() < 1e-9, "5 - 10 / 2 at one width");
        assert!(logit(0.1, 0.4) - logit(0.7, 0.4) < 1e-9);
        assert!(logit(1.0, 0.0) < logit(0.9, 0.0));
    }
}
