//! The answers of a log, put together from its records.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Serialize;

use crate::error::{AuditError, Result};
use crate::judgement::Judgement;
use crate::line;
use crate::lines::Lines;
use crate::record::{
    Answer, Behaviour, End, Model, Record, Rewind, Round, Sealed, Swap, Tokens, Tool, Verdict,
};

/// Something that happened in an answer; each is the record of that name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A round began.
    Round(Round),
    /// Tokens were chosen.
    Tokens(Tokens),
    /// A policy did something other than to let pass.
    Verdict(Verdict),
    /// The model judged something for a policy.
    Judgement(Judgement),
    /// The model asked for a tool.
    Tool(Tool),
    /// A policy forced a text.
    Rewind(Rewind),
    /// Plugins were exchanged.
    Swap(Swap),
    /// The answer was over.
    End(End),
}

impl Event {
    /// The content that it has the digest of.
    pub fn sealed(&self) -> Option<&Sealed> {
        match self {
            Self::Round(round) => Some(&round.prompt),
            Self::Tokens(tokens) => Some(&tokens.text),
            Self::Judgement(judgement) => Some(&judgement.text),
            Self::Tool(tool) => Some(&tool.call),
            Self::Rewind(rewind) => Some(&rewind.prompt),
            Self::End(end) => Some(&end.text),
            Self::Verdict(_) | Self::Swap(_) => None,
        }
    }
}

/// An answer as it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedAnswer {
    /// Number of its first record, which names it.
    pub number: u64,
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
    /// How it was to be made.
    pub start: Answer,
    /// What happened, in order. The last is [`Event::End`] unless the program was killed.
    pub events: Vec<Event>,
}

/// The models, behaviours and answers of a log.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    /// By the number of the record.
    pub models: BTreeMap<u64, Model>,
    /// By the number of the record.
    pub behaviours: BTreeMap<u64, Behaviour>,
    /// In their order.
    pub answers: Vec<RecordedAnswer>,
    /// The last line, from 1, if it is not whole: whoever wrote it was killed, or is writing it. It is left out.
    pub torn: Option<u64>,
}

impl RecordedAnswer {
    /// How it ended; none if the program was killed.
    pub fn end(&self) -> Option<&End> {
        match self.events.last() {
            Some(Event::End(end)) => Some(end),
            _ => None,
        }
    }

    /// Tokens that samplers chose.
    pub fn tokens(&self) -> u64 {
        let count = |event: &Event| match event {
            Event::Tokens(tokens) => tokens.count,
            _ => 0,
        };
        self.events.iter().map(count).fold(0, u64::saturating_add)
    }

    /// The reloads in the middle of the answer, in their order.
    pub fn swaps(&self) -> impl Iterator<Item = &Swap> {
        self.events.iter().filter_map(|event| match event {
            Event::Swap(swap) => Some(swap),
            _ => None,
        })
    }

    /// The verdicts, in their order.
    pub fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.events.iter().filter_map(|event| match event {
            Event::Verdict(verdict) => Some(verdict),
            _ => None,
        })
    }
}

impl Transcript {
    /// Reads a log, or of its answers the one of a number, up to a last line that is not whole. Verify the log first: what
    /// is out of place here is an error with its line, not a finding.
    pub fn read(path: &Path, answer: Option<u64>) -> Result<Self> {
        let failed = |cause| AuditError::File { path: path.to_owned(), doing: "reading the log", cause };
        // Before it is opened: opening a pipe waits for whoever writes to it.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(AuditError::NotAFile { path: path.to_owned() });
        }
        let mut lines = Lines::new(BufReader::new(File::open(path).map_err(failed)?));
        let mut transcript = Self::default();
        let mut numbers = Vec::new();
        while let Some(raw) = lines.next().map_err(failed)? {
            let line = line::decode(raw.bytes);
            let cut = line.is_err() && !raw.ended && !raw.too_long;
            let begins = line::begins_log(raw.bytes);
            let at = lines.number;
            if cut && (at > 1 || begins) {
                transcript.torn = Some(at);
                break;
            }
            let wrong = |what: String| AuditError::Line { path: path.to_owned(), line: at, what };
            let line = line.map_err(|error| wrong(error.to_string()))?;
            if matches!(line.record, Record::Answer(_)) {
                numbers.push(line.number);
            }
            let number = if matches!(line.record, Record::Answer(_)) {
                Some(line.number)
            } else {
                line.record.answer()
            };
            if number.is_some() && answer.is_some() && number != answer {
                continue;
            }
            transcript.add(line).map_err(wrong)?;
        }
        match answer {
            Some(number) if transcript.answers.is_empty() => {
                let known: Vec<String> = numbers.iter().take(20).map(u64::to_string).collect();
                let more = if numbers.len() > 20 { ", ..." } else { "" };
                let known = if known.is_empty() { "none".into() } else { known.join(", ") + more };
                Err(AuditError::NoAnswer { path: path.to_owned(), number, known })
            }
            _ => Ok(transcript),
        }
    }

    fn add(&mut self, line: line::Line) -> Result<(), String> {
        let answer = line.record.answer();
        let event = match line.record {
            Record::Model(model) => {
                self.models.insert(line.number, model);
                return Ok(());
            }
            Record::Behaviour(behaviour) => {
                self.behaviours.insert(line.number, behaviour);
                return Ok(());
            }
            Record::Answer(start) => {
                let (number, at_ms) = (line.number, line.at_ms);
                self.answers.push(RecordedAnswer { number, at_ms, start, events: Vec::new() });
                return Ok(());
            }
            Record::Open(_) | Record::Checkpoint(_) | Record::Close => return Ok(()),
            Record::Round(round) => Event::Round(round),
            Record::Tokens(tokens) => Event::Tokens(tokens),
            Record::Verdict(verdict) => Event::Verdict(verdict),
            Record::Judgement(judgement) => Event::Judgement(judgement),
            Record::Tool(tool) => Event::Tool(tool),
            Record::Rewind(rewind) => Event::Rewind(rewind),
            Record::Swap(swap) => {
                if !self.behaviours.contains_key(&swap.behaviour) {
                    return Err(format!(
                        "it names behaviour {}, which is not on record before it",
                        swap.behaviour
                    ));
                }
                Event::Swap(swap)
            }
            Record::End(end) => Event::End(end),
        };
        let of = self.answers.iter_mut().rev().find(|known| Some(known.number) == answer);
        let of =
            of.ok_or_else(|| format!("it belongs to answer {}, which did not begin", answer.unwrap_or(0)))?;
        if of.end().is_some() {
            return Err(format!("it belongs to answer {}, which is over", of.number));
        }
        of.events.push(event);
        Ok(())
    }
}
