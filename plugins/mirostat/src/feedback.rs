//! The arithmetic of mirostat: the running limit, and version 1's fit of a Zipf distribution.

/// The running limit on surprise, in bits ("mu" in the paper).
#[derive(Clone, Debug)]
pub struct Feedback {
    target: f64,
    rate: f64,
    limit: f64,
}

impl Feedback {
    /// Starts at twice the target, as the paper does.
    pub fn new(target: f64, rate: f64) -> Self {
        Self { target, rate, limit: 2.0 * target }
    }

    /// Goes on from the limit, in bits, of another version. None if it is no number.
    pub fn resume(&self, limit: f64) -> Option<Self> {
        limit.is_finite().then(|| Self { limit, ..self.clone() })
    }

    /// The most surprise that the next token may have, in bits.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// Moves the limit against the surprise of the token that was drawn with this probability.
    pub fn observe(&mut self, probability: f64) {
        let surprise = -probability.max(f64::MIN_POSITIVE).log2();
        self.limit -= self.rate * (surprise - self.target);
    }
}

/// How many tokens version 1 keeps: `likeliest` are the largest probabilities in falling order, `limit` is in
/// bits. At least 1.
pub fn cut(likeliest: &[f64], limit: f64, vocabulary: u32) -> i32 {
    let most = vocabulary.min(i32::MAX as u32) as i32;
    let Some(exponent) = zipf_exponent(likeliest) else { return 1 };
    let epsilon = exponent - 1.0;
    let mass = if epsilon.abs() < 1e-9 {
        // The limit of epsilon / (1 - N^-epsilon) for a small epsilon.
        1.0 / f64::from(vocabulary).ln()
    } else {
        epsilon / (1.0 - f64::from(vocabulary).powf(-epsilon))
    };
    let kept = (mass * limit.exp2()).powf(1.0 / exponent);
    // A flat distribution has an exponent near 0 and then no finite cut.
    if kept.is_nan() || kept >= f64::from(most) { most.max(1) } else { (kept as i32).max(1) }
}

/// The least-squares exponent of a Zipf distribution with these probabilities; none for fewer than two.
fn zipf_exponent(likeliest: &[f64]) -> Option<f64> {
    let mut numerator = 0.0;
    let mut denominator = 0.0;
    for (index, pair) in likeliest.windows(2).enumerate().filter(|(_, pair)| pair[1] > 0.0) {
        let step = ((index + 2) as f64 / (index + 1) as f64).ln();
        numerator += step * (pair[0] / pair[1]).ln();
        denominator += step * step;
    }
    (denominator > 0.0).then(|| numerator / denominator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zipf(exponent: f64, count: u32) -> Vec<f64> {
        let weights: Vec<f64> = (1..=count).map(|rank| f64::from(rank).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    #[test]
    fn the_fit_finds_the_exponent_of_a_zipf_distribution() {
        for exponent in [0.3, 1.0, 1.5, 3.0] {
            let found = zipf_exponent(&zipf(exponent, 100)).unwrap();
            assert!((found - exponent).abs() < 1e-9, "{exponent}: {found}");
        }
    }

    #[test]
    fn the_cut_is_that_of_the_papers_formula() {
        // k = (e * 2^mu / (1 - N^-e))^(1/s) by hand for s = 1.5, N = 1000, mu = 10.
        let expected = (0.5 * 1024.0 / (1.0 - 1000f64.powf(-0.5))).powf(1.0 / 1.5) as i32;
        assert_eq!(cut(&zipf(1.5, 100), 10.0, 1000), expected);
        assert_eq!(expected, 65);
    }

    #[test]
    fn extreme_distributions_keep_between_one_token_and_all() {
        assert_eq!(cut(&[], 10.0, 1000), 1);
        assert_eq!(cut(&[1.0], 10.0, 1000), 1);
        assert_eq!(cut(&[1.0, 0.0], 10.0, 1000), 1);
        assert_eq!(cut(&[0.001; 100], 10.0, 1000), 1000);
        assert_eq!(cut(&zipf(2.0, 100), -50.0, 1000), 1);
        assert!((1..=1000).contains(&cut(&zipf(1.0, 100), 10.0, 1000)));
    }

    #[test]
    fn the_limit_moves_against_the_error() {
        let mut feedback = Feedback::new(5.0, 0.1);
        assert_eq!(feedback.limit(), 10.0);
        feedback.observe(0.5);
        assert!((feedback.limit() - 10.4).abs() < 1e-12);
        feedback.observe(2f64.powi(-9));
        assert!((feedback.limit() - 10.0).abs() < 1e-12);
        feedback.observe(0.0);
        assert!(feedback.limit().is_finite());
    }
}
