//! What people see on standard error: progress, the memory plan, the summary line.

use std::io::{self, BufWriter, IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use membrane_engine::{Bytes, IoChoice, IoReason, MemoryPlan, Model, Prepared};
use membrane_generate::Stats;
use serde::Serialize;

/// Time between two updates of a progress line.
const INTERVAL: Duration = Duration::from_millis(200);
/// Time between two plain lines where standard error is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Writes to standard error. That it can't be written is no error: there is no one to tell.
pub fn tell(text: std::fmt::Arguments<'_>) {
    stderr().write_fmt(text).unwrap_or_default();
}

/// One phase of work on one line: rewritten on a terminal, now and then a plain line elsewhere.
pub struct Progress {
    phase: &'static str,
    terminal: bool,
    quiet: bool,
    shown: Instant,
    lines: bool,
}

impl Progress {
    /// A phase that starts now.
    pub fn new(phase: &'static str, quiet: bool) -> Self {
        Self { phase, terminal: stderr().is_terminal(), quiet, shown: Instant::now(), lines: false }
    }

    /// Shows bytes done, at most every now and then.
    pub fn bytes(&mut self, done: u64, total: u64) {
        let interval = if self.terminal { INTERVAL } else { PLAIN_INTERVAL };
        if self.quiet || self.shown.elapsed() < interval {
            return;
        }
        self.shown = Instant::now();
        self.lines = true;
        let end = if self.terminal { "\r" } else { "\n" };
        eprint!("{}: {} of {}{end}", self.phase, Bytes(done), Bytes(total));
    }

    /// Ends the line.
    pub fn done(self) {
        if self.lines && self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Prints the plan, then loads.
pub fn load(prepared: Prepared, quiet: bool) -> anyhow::Result<Model> {
    if !quiet {
        if let Some(free) = &prepared.plan().automatic {
            eprintln!("memory: auto, {}", printable(&free.to_string()));
        }
        eprintln!("memory plan:\n{}", prepared.plan());
    }
    let (context, trained) = (prepared.plan().context, prepared.hyperparameters().trained_context);
    if context > trained && !quiet {
        eprintln!(
            "note: a context of {context} tokens is longer than the {trained} that the model was trained for"
        );
    }
    let mut progress = Progress::new("load", quiet);
    let start = Instant::now();
    let recalls = if prepared.recall().is_some() { ", experts of earlier runs follow" } else { "" };
    let model = prepared.load(&mut |done, total| progress.bytes(done, total))?;
    progress.done();
    if !quiet {
        let plan: &MemoryPlan = model.plan();
        let io = model.io().map(|io| format!(", {}", reading(&io))).unwrap_or_default();
        eprintln!(
            "load: {} resident, {} expert slots in {:.1} s{io}{recalls}",
            plan.weights,
            plan.expert_slots,
            start.elapsed().as_secs_f64()
        );
    }
    Ok(model)
}

/// How experts are read, and why.
fn reading(io: &IoChoice) -> String {
    let way = if io.direct { "direct reads" } else { "buffered reads" };
    match &io.reason {
        IoReason::Configured => format!("{way} as asked for"),
        IoReason::EverythingFits => "all experts in memory".into(),
        IoReason::NoDirectReads => format!("{way}, the file system has no direct ones"),
        IoReason::Measured { direct, buffered } => {
            format!("{way}: direct {:.2}, buffered {:.2} GB/s measured", direct.gb_s(), buffered.gb_s())
        }
        IoReason::ProbeFailed(why) => format!("{way}, the measurement failed: {why}"),
    }
}

/// The summary line of an answer.
pub fn summary(stats: &Stats, profile: &str) -> String {
    let speed = |speed: Option<f64>| speed.map_or("-".into(), |speed| format!("{speed:.1} tok/s"));
    let mut parts = vec![
        format!("prefill {} tokens {}", stats.prefill_tokens, speed(stats.prefill_speed())),
        format!("decode {} tokens {}", stats.decode_tokens, speed(stats.decode_speed())),
    ];
    if stats.drafted_tokens > 0 {
        parts.push(format!("drafted {}, {} of them right", stats.drafted_tokens, stats.accepted_tokens));
    }
    if let Some(rate) = stats.expert_hit_rate {
        parts.push(format!("expert hits {:.1} %", 100.0 * rate));
        parts.push(format!("read {}", Bytes(stats.bytes_read)));
    }
    parts.push(format!("peak memory {}", Bytes(stats.peak_memory_bytes)));
    parts.push(format!("profile {profile}"));
    parts.push(format!("interventions {}", stats.interventions));
    parts.join(" | ")
}

/// Text with a sign in place of each control character other than newline and tab: models, files and plugins must not
/// drive the terminal, nor turn the order of what stands there. A line end of two stays one. They are not left out: what
/// stands on both sides of one would become a word that no policy has seen.
pub fn printable(text: &str) -> String {
    let drives = |c: char| c.is_control() && !matches!(c, '\n' | '\t') || turns(c);
    let shown = |c: char| if drives(c) { char::REPLACEMENT_CHARACTER } else { c };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

/// The same on one line, where what stands on a line of its own would be taken for something else of a list or a document.
pub fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Makes a text [printable] that comes in pieces, between which a line end may be cut.
#[derive(Default)]
pub struct Pieces {
    /// The last one ended with a carriage return, which waits for the next.
    carriage_return: bool,
}

impl Pieces {
    /// What can be printed with this piece.
    pub fn next(&mut self, piece: &str) -> String {
        let waiting = if std::mem::take(&mut self.carriage_return) { "\r" } else { "" };
        let text = format!("{waiting}{piece}");
        let whole = text.strip_suffix('\r');
        self.carriage_return = whole.is_some();
        printable(whole.unwrap_or(&text))
    }

    /// What is left to print when no piece follows.
    pub fn end(&mut self) -> String {
        if std::mem::take(&mut self.carriage_return) { printable("\r") } else { String::new() }
    }
}

/// Whether a character says in which order others are shown (a name that looks like another one).
fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

/// An error with its causes. One that its cause repeats word for word is said once.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    printable(&text)
}

/// JSON on one line. All control characters in it are escaped, those beyond ASCII too, which terminals obey
/// as well.
pub fn json_line(value: &impl Serialize) -> io::Result<String> {
    let mut line = Vec::new();
    serde_json::to_writer(Escaped::new(&mut line), value)?;
    String::from_utf8(line).map_err(io::Error::other)
}

/// The same on several lines, for people, and written as it is made: a report may be as large as a model's
/// metadata.
pub fn json(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    let mut out = Escaped::new(BufWriter::new(out));
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

/// Escapes the control characters that JSON leaves as they are: U+007F to U+009F.
struct Escaped<W: Write> {
    out: W,
    /// The last byte was the first of U+0080 to U+00BF, and is not written yet.
    lead: bool,
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";
/// First byte of U+0080 to U+00BF.
const LEAD: u8 = 0xc2;

impl<W: Write> Escaped<W> {
    fn new(out: W) -> Self {
        Self { out, lead: false }
    }
}

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut plain = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            let lead = std::mem::take(&mut self.lead);
            if lead && !(0x80..=0x9f).contains(&byte) {
                self.out.write_all(&[LEAD])?;
            }
            match byte {
                LEAD => self.lead = true,
                0x7f => {}
                0x80..=0x9f if lead => {}
                _ => continue,
            }
            self.out.write_all(&bytes[plain..at])?;
            plain = at + 1;
            if byte != LEAD {
                let digit = |half: u8| DIGITS[usize::from(half)];
                self.out.write_all(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)])?;
            }
        }
        self.out.write_all(&bytes[plain..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_character_does_not_vanish_from_within_a_word() {
        assert_eq!(printable("he\u{1}lio\u{9b}trope\n\t"), "he\u{fffd}lio\u{fffd}trope\n\t");
    }

    #[test]
    fn a_text_in_pieces_is_printed_as_the_whole() {
        for text in ["a\r\nb", "a\rb\r", "\r\r\n\n\r", "\r\n\r\n", ""] {
            for cut in 0..=text.len() {
                let mut pieces = Pieces::default();
                let (begun, rest) = text.split_at(cut);
                let shown = pieces.next(begun) + &pieces.next("") + &pieces.next(rest) + &pieces.end();
                assert_eq!(shown, printable(text), "{text:?} at {cut}");
            }
        }
        let mut pieces = Pieces::default();
        assert_eq!((pieces.next("a\r"), pieces.next("\nb\r")), ("a".to_owned(), "\nb".to_owned()));
        assert_eq!((pieces.end(), pieces.next("\n")), ("\u{fffd}".to_owned(), "\n".to_owned()));
    }

    #[test]
    fn nothing_turns_the_order_of_what_is_shown() {
        for turning in
            "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{200e}\u{200f}\u{61c}"
                .chars()
        {
            assert_eq!(printable(&format!("a{turning}b")), "a\u{fffd}b", "{turning:?}");
        }
        let plain =
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd}, \u{645}\u{631}\u{62d}\u{628}\u{627}, \u{1f469}\u{200d}\u{1f4bb}";
        assert_eq!(printable(plain), plain);
    }

    #[test]
    fn no_control_character_is_printed() {
        assert_eq!(printable("a\x1b[2Jb\r\n\tc\u{9b}31m\u{7f}"), "a\u{fffd}[2Jb\n\tc\u{fffd}31m\u{fffd}");
        let json = json_line(&"\x1b[2J\u{9b}31m\u{7f}").unwrap();
        assert!(!json.chars().any(char::is_control), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "\x1b[2J\u{9b}31m\u{7f}");
        let plain = "\u{a0}é\u{2014}\u{80}\u{c2}\u{9f}\u{a9}ß\u{1f600}";
        let json = json_line(&plain).unwrap();
        assert!(!json.chars().any(char::is_control), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), plain);
        // Characters reach the writer in pieces.
        let mut bytes = Vec::new();
        let mut out = Escaped::new(&mut bytes);
        plain.as_bytes().iter().for_each(|byte| out.write_all(&[*byte]).unwrap());
        assert_eq!(String::from_utf8(bytes).unwrap(), json.trim_matches('"'));
    }
}
