//! What came of golden cases.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::policies::Cut;
use crate::error::HostError;
use crate::limits::MAX_NOTE_BYTES;
use crate::text::clean;

/// What came of the cases of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenReport {
    /// In the order of files and cases.
    pub outcomes: Vec<Outcome>,
}

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The file that the case stands in.
    pub file: PathBuf,
    /// Its place in the file, from 1.
    pub number: usize,
    /// What it shows, a sentence.
    pub about: String,
    /// Where the plugin did something else, for the first time.
    pub result: Result<(), Mismatch>,
}

/// Something that a plugin did, and that its case does not say.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Mismatch {
    /// It started with parameters that it should refuse.
    #[error("it started; expected an error with {expected:?}")]
    Started {
        /// A part of the error that should have come.
        expected: String,
    },
    /// It failed.
    #[error("{place}: {error}")]
    Failed {
        /// Where in the case.
        place: Place,
        /// How.
        error: Box<HostError>,
    },
    /// It gave something else. The texts are cut, and without control characters.
    #[error("{place}: {what} is {found}, expected {expected}")]
    Differs {
        /// Where in the case.
        place: Place,
        /// What was compared.
        what: &'static str,
        /// What it gave.
        found: String,
        /// What the case says.
        expected: String,
    },
}

/// A place in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before anything was asked.
    Start,
    /// A step of a sampler, from 1.
    Step(usize),
    /// A hook of a policy.
    Hook {
        /// Its place in the list, from 1.
        number: usize,
        /// Its name in the case.
        name: &'static str,
        /// How the answer was cut in this pass over the hooks.
        cut: Cut,
    },
    /// The tools that a tool plugin offers.
    Offers,
    /// A call of a tool, from 1.
    Call(usize),
    /// The run of an agent.
    Run,
    /// The folders behind the calls of a tool.
    Leaves,
}

impl GoldenReport {
    /// Whether every case came out as it says.
    pub fn is_good(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The cases in which the plugin did something else.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.result.is_err())
    }
}

impl Mismatch {
    /// Something that is not what the case says.
    pub(super) fn differs(
        place: Place,
        what: &'static str,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        let (found, expected) = (found.to_string(), expected.to_string());
        let same = found.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
        // What is cut shows where they differ.
        let begin = if same > MAX_NOTE_BYTES / 2 { same - MAX_NOTE_BYTES / 4 } else { 0 };
        let shown = |text: String| {
            let begin = text.floor_char_boundary(begin);
            clean(&(if begin > 0 { "..." } else { "" }.to_owned() + &text[begin..]), MAX_NOTE_BYTES)
        };
        let (found, expected) = (shown(found), shown(expected));
        Self::Differs { place, what, found, expected }
    }

    /// Holds a text, or none, to what the case says of it.
    pub(super) fn unless_same(
        place: Place,
        what: &'static str,
        found: Option<&str>,
        expected: Option<&str>,
    ) -> Result<(), Self> {
        let shown = |text: Option<&str>| text.map_or("absent".to_owned(), |text| format!("{text:?}"));
        if found == expected {
            return Ok(());
        }
        Err(Self::differs(place, what, shown(found), shown(expected)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Start => f.write_str("start"),
            Place::Step(number) => write!(f, "step {number}"),
            Place::Hook { number, name, cut } => write!(f, "hook {number}, {name}, {cut}"),
            Place::Offers => f.write_str("offers"),
            Place::Leaves => f.write_str("leaves"),
            Place::Call(number) => write!(f, "call {number}"),
            Place::Run => f.write_str("run"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, number, about, .. } = self;
        write!(f, "{}, case {number}, {}", clean(&file.display().to_string(), 500), clean(about, 200))?;
        match &self.result {
            Ok(()) => f.write_str(": as it says"),
            Err(mismatch) => write!(f, ": {mismatch}"),
        }
    }
}
