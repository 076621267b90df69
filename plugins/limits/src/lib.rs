//! A policy that ends answers which are too long or go round in circles.
#![forbid(unsafe_code)]

mod circle;

use membrane_plugin::policy::{Ending, OutputVerdict, Policy, Reason};
use serde::Deserialize;

use circle::Circle;

/// Characters of an answer that any limit may allow.
const MOST_CHARACTERS: u32 = 10_000_000;

/// The parameters in the profile. See `plugin.toml` for their ranges.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Most characters of an answer; 0 is no limit.
    pub characters: u32,
    /// How often a stretch may stand in a row before the answer ends; 0 looks for no circles.
    pub repeats: u32,
    /// Longest stretch that is looked for, in characters.
    pub stretch: u32,
    /// A circle counts from this length in all, in characters.
    pub circle: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { characters: 100_000, repeats: 5, stretch: 400, circle: 160 }
    }
}

impl Parameters {
    fn check(&self) -> Result<(), String> {
        for (name, value, least, most) in [
            ("characters", self.characters, 0, MOST_CHARACTERS),
            ("repeats", self.repeats, 0, 1000),
            ("stretch", self.stretch, 1, 2000),
            ("circle", self.circle, 1, 100_000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("{name}: {value} is not between {least} and {most}"));
            }
        }
        if self.repeats == 1 {
            return Err(
                "repeats: with 1 no answer could be longer than `circle`; give 2 or more, or 0".to_owned()
            );
        }
        if self.characters == 0 && self.repeats == 0 {
            return Err("characters: it and `repeats` are 0: nothing would be limited".to_owned());
        }
        Ok(())
    }
}

/// The policy for one answer.
pub struct Limits {
    characters: Option<u32>,
    circle: Option<Circle>,
    /// Characters that have been let pass.
    passed: u32,
}

impl Policy for Limits {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        parameters.check()?;
        let Parameters { characters, repeats, stretch, circle } = parameters;
        Ok(Self {
            characters: (characters > 0).then_some(characters),
            circle: (repeats > 0).then(|| Circle::new(repeats as usize, stretch as usize, circle as usize)),
            passed: 0,
        })
    }

    fn output(&mut self, pending: &str, _: bool) -> Result<OutputVerdict, String> {
        for (at, character) in pending.char_indices() {
            if self.characters.is_some_and(|most| self.passed >= most) {
                let note = format!("The answer has {} characters.", self.passed);
                return Ok(stop(at, "limits:length", note));
            }
            self.passed = self.passed.saturating_add(1);
            if let Some(length) = self.circle.as_mut().and_then(|circle| circle.closes(character)) {
                let note = format!("The last {length} characters stand there again and again.");
                return Ok(stop(at + character.len_utf8(), "limits:circle", note));
            }
        }
        Ok(OutputVerdict::release_all(pending))
    }
}

fn stop(release: usize, clause: &str, note: String) -> OutputVerdict {
    OutputVerdict::Stop(Ending { release: release as u32, reason: Reason::new(clause, note) })
}

membrane_plugin::export_policy!(Limits);

#[cfg(test)]
mod tests;
