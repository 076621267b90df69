//! Events of an answer on the terminal or in a pipe: data to standard output, text for people to standard error.

use std::io::{IsTerminal, Write, stderr, stdout};

use anyhow::Result;
use membrane_generate::{EndReason, Event, Intervention, Reload};
use serde::Serialize;

use crate::report::{self, Pieces, printable};

/// Prints the events of one answer.
pub struct Printer {
    json: bool,
    quiet: bool,
    /// Both outputs come together on a terminal.
    together: bool,
    /// A line of standard output has begun and not ended.
    open: bool,
    pieces: Pieces,
}

/// Prints a text, without what would drive a terminal.
pub fn text(text: &str) -> Result<()> {
    print(&printable(text))
}

fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

impl Printer {
    /// `json`: one object a line. `quiet`: the answer alone.
    pub fn new(json: bool, quiet: bool) -> Self {
        let together = stdout().is_terminal() && stderr().is_terminal();
        Self { json, quiet, together, open: false, pieces: Pieces::default() }
    }

    /// Prints an event. Errors: standard output can't be written.
    pub fn show(&mut self, event: &Event) -> Result<()> {
        if self.json {
            return json(event);
        }
        match event {
            Event::Text { text } => self.text(text)?,
            // A new round of the answer begins a new line.
            Event::Prefill { .. } => self.end_line()?,
            Event::End { message, reason, .. } => {
                self.end_line()?;
                if let Some(message) = message.as_ref().filter(|_| *reason == EndReason::Refused) {
                    self.text(message)?;
                    self.end_line()?;
                }
            }
            Event::Intervention(it) if self.quiet && !it.is_failure_after_answer() => {}
            Event::ToolCall { .. } | Event::ToolResult { .. } | Event::Reloaded(_) if self.quiet => {}
            Event::Reloaded(reload) => self.aside(&reloaded(reload)),
            Event::ToolCall { name, arguments } => self.aside(&format!("calls {name} {arguments}")),
            Event::ToolResult { name, output, .. } => self.aside(&format!("{name}: {output}")),
            Event::Intervention(Intervention { policy, hook, verdict, clause, note, .. }) => {
                let note = if note.is_empty() { String::new() } else { format!(": {note}") };
                self.aside(&format!("policy {policy}, {hook}: {verdict} by {clause}{note}"));
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let text = self.pieces.next(text);
        self.print(&text)
    }

    fn print(&mut self, text: &str) -> Result<()> {
        if !text.is_empty() {
            print(text)?;
            self.open = !text.ends_with('\n');
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        let rest = self.pieces.end();
        self.print(&rest)?;
        if std::mem::take(&mut self.open) { print("\n") } else { Ok(()) }
    }

    /// Something beside the answer, for people.
    fn aside(&self, text: &str) {
        let start = if self.together && self.open { "\n" } else { "" };
        eprintln!("{start}[{}]", printable(text));
    }
}

/// A change of a plugin in one line.
fn reloaded(Reload { kind, plugin, to, effect, state, token, note, .. }: &Reload) -> String {
    let version = to.map_or("removed".into(), |digest| digest.hex()[..12].to_owned());
    let when = match *effect {
        "live" if *state => format!("live from token {token}, with its state"),
        "live" => format!("live from token {token}"),
        "beside" => format!("in force from token {token}, beside the version before"),
        "next-answer" => format!("live from the next answer: {note}"),
        _ => format!("back from token {token}: {note}"),
    };
    format!("{kind} {plugin} {version} {when}")
}

/// An error as the event that ends an answer.
pub fn error(error: &anyhow::Error) -> Result<()> {
    json(&serde_json::json!({"event": "error", "message": crate::judged::error(error)}))
}

/// One object on one line.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{}", report::json_line(value)?)?;
    Ok(out.flush()?)
}
