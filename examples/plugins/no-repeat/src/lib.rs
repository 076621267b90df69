//! Never writes the same run of tokens twice: forbids each token that would complete a run that the text has already.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use membrane_plugin::sampler::{Choice, Sampler, Token, history, logits};
use serde::Deserialize;

/// What the profile sets. See `plugin.toml` for the ranges.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    size: u32,
    last: u32,
    choose: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { size: 3, last: 1024, choose: true }
    }
}

/// The sampler.
pub struct NoRepeat(Parameters);

impl Sampler for NoRepeat {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        for (name, value, least, most) in
            [("size", parameters.size, 2, 16), ("last", parameters.last, 1, 65_536)]
        {
            if !(least..=most).contains(&value) {
                return Err(format!("{name}: {value} is not between {least} and {most}"));
            }
        }
        Ok(Self(parameters))
    }

    fn sample(&mut self) -> Result<Choice, String> {
        let banned = completing(&history::tail(self.0.last), self.0.size as usize);
        // Something has to be left.
        if !banned.is_empty() && banned.len() < logits::count() as usize {
            logits::mask(logits::MaskKind::Forbid, &banned)?;
        }
        Ok(if self.0.choose { Choice::Token(logits::draw()?.token) } else { Choice::Pass })
    }
}

/// The tokens that would complete a run of `size` tokens that is in `tokens` already, in their order.
fn completing(tokens: &[Token], size: usize) -> Vec<Token> {
    let Some(begun) = tokens.len().checked_sub(size - 1).map(|start| &tokens[start..]) else {
        return Vec::new();
    };
    let runs = tokens.windows(size).filter(|run| run.starts_with(begun));
    let last: BTreeSet<Token> = runs.filter_map(|run| run.last().copied()).collect();
    last.into_iter().collect()
}

membrane_plugin::export_sampler!(NoRepeat);

#[cfg(test)]
mod tests {
    use super::completing;

    #[test]
    fn a_token_that_completes_a_run_is_found() {
        assert_eq!(completing(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(completing(&[1, 2, 3, 1, 2, 4, 1, 2], 3), [3, 4]);
        assert_eq!(completing(&[1, 1], 2), [1]);
        for short in [&[][..], &[1], &[1, 2], &[1, 2, 3]] {
            assert!(completing(short, 3).is_empty());
        }
    }
}
