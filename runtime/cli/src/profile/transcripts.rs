//! `membrane profile diff --transcripts`: what two profiles' policies say to recorded answers.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use membrane_audit::Script;
use membrane_audit::text::Texts;
use membrane_generate::Behaviour;
use membrane_generate::contrast::{Clause, Contrast, Difference, Outcome, contrast};
use membrane_host::{Host, Plugin};
use membrane_profile::Kind;
use serde::Serialize;

use crate::report::printable;
use crate::resolution::Resolution;
use crate::{session, transcript};

/// Exit status where something is newly allowed.
const NEWLY_ALLOWED: u8 = 2;
/// Exit status where there is another difference, or one can't tell.
const DIFFERENT: u8 = 1;

/// What two profiles' policies say to the answers of a log.
#[derive(Serialize)]
pub struct Report {
    log: String,
    counts: Counts,
    answers: Vec<Answer>,
}

/// Answers by what came of them.
#[derive(Default, Serialize)]
struct Counts {
    newly_allowed: usize,
    newly_refused: usize,
    changed: usize,
    cant_tell: usize,
    unchanged: usize,
}

#[derive(Serialize)]
struct Answer {
    answer: u64,
    #[serde(flatten)]
    contrast: Contrast,
}

impl Report {
    /// Shows each answer of a log to the policies of both profiles. Errors: a log that does not verify, a plugin that does
    /// not load or start.
    pub fn of(log: &Path, (a, b): (&Resolution, &Resolution), host: &Host) -> Result<Self> {
        let transcript = transcript::verified(log, None, "Nothing is compared on it")?;
        let texts = Texts::beside(log)?;
        let (a, b) = (policies(host, a).context("A")?, policies(host, b).context("B")?);
        let (mut counts, mut answers) = (Counts::default(), Vec::new());
        for answer in &transcript.answers {
            let number = answer.number;
            let script = Script::of(answer, texts.as_ref());
            let script = script.map_err(anyhow::Error::msg).with_context(|| format!("answer {number}"))?;
            let recorded = transcript.behaviours.get(&answer.start.behaviour);
            let recorded =
                recorded.with_context(|| format!("answer {number}: the log does not have its behaviour"))?;
            let contrast = contrast(host, (&a, &b), recorded, answer, &script)?;
            counts.add(contrast.outcome);
            answers.push(Answer { answer: number, contrast });
        }
        Ok(Self { log: log.display().to_string(), counts, answers })
    }

    /// The exit status of the program.
    pub fn status(&self) -> u8 {
        let Counts { newly_allowed, newly_refused, changed, cant_tell, .. } = self.counts;
        match (newly_allowed, newly_refused + changed + cant_tell) {
            (0, 0) => 0,
            (0, _) => DIFFERENT,
            _ => NEWLY_ALLOWED,
        }
    }

    /// Writes it for people.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for Answer { answer, contrast } in &self.answers {
            writeln!(out, "answer {answer}: {}", words(contrast.outcome))?;
            for difference in &contrast.differences {
                writeln!(out, "  {}", printable(&line(difference)))?;
            }
            if let Some(why) = &contrast.unknown {
                writeln!(out, "  not known beyond this: {}", printable(why))?;
            }
        }
        let Counts { newly_allowed, newly_refused, changed, cant_tell, unchanged } = self.counts;
        writeln!(
            out,
            "{} answers: {newly_allowed} newly allowed, {newly_refused} newly refused, {changed} changed, {cant_tell} \
             can't tell, {unchanged} unchanged",
            self.answers.len()
        )
    }
}

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::NewlyAllowed => &mut self.newly_allowed,
            Outcome::NewlyRefused => &mut self.newly_refused,
            Outcome::Changed => &mut self.changed,
            Outcome::CantTell => &mut self.cant_tell,
            Outcome::Unchanged => &mut self.unchanged,
        } += 1;
    }
}

fn policies(host: &Host, resolution: &Resolution) -> Result<Vec<Plugin>> {
    let policies = resolution.plugins().filter(|(plugin, ..)| plugin.kind == Kind::Policy);
    let load = |(plugin, component, _)| session::load(host, plugin, component, None, &Behaviour::default());
    policies.map(load).collect()
}

fn words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NewlyAllowed => "newly allowed",
        Outcome::NewlyRefused => "newly refused",
        Outcome::Changed => "changed",
        Outcome::CantTell => "can't tell",
        Outcome::Unchanged => "unchanged",
    }
}

fn line(Difference { outcome, hook, bytes, a, b }: &Difference) -> String {
    let place = bytes.as_ref().map_or(String::new(), |bytes| {
        format!(", bytes {} to {} of what the model wrote", bytes.start, bytes.end)
    });
    format!("{}: {hook}{place}: A {}; B {}", words(*outcome), clauses(a), clauses(b))
}

fn clauses(clauses: &[Clause]) -> String {
    let shown =
        clauses.iter().map(|Clause { policy, verdict, clause }| format!("{policy}, {verdict} by {clause}"));
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "lets it pass".to_owned() } else { shown.join(" and ") }
}
