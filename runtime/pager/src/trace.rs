//! Traces of routing: which experts a model asked for, in which order, as a text that people can read.
//!
//! ```text
//! membrane routing trace 1
//! model smollm2-moe-32x-top4-q4_k.gguf
//! slots 512 of 1990656 bytes
//! group 32 experts of 1990656 bytes
//! group 32 experts of 1990656 bytes
//! prompt
//! 0 7: 0*3 5*7 9 31*2
//! 1 7: 2*7 3*6 11
//! decode
//! 0 1: 0 5 9 31
//! ```
//!
//! The first line names the format and its version. `model` is a name for people. `slots` has how many experts the pager that
//! was recorded could hold, and the bytes of one slot. A `group` line for each layer, in order, has the number of its experts (0
//! for a dense layer) and the bytes of one record. Then come requests in order: the group, the tokens of the pass, and the
//! experts in the order in which they were asked for, each with the number of tokens that use it where it is not 1. A line
//! `prompt` or `decode` says what the requests behind it are for; before the first such line they are for a prompt.

use std::io::{self, BufRead, BufWriter, Read, Write};

use thiserror::Error;

use crate::catalog::{ByteRange, Catalog, ExpertKey, Record};
use crate::state::RequestLog;

const FIRST_LINE: &str = "membrane routing trace 1";

/// Longest line that is read, in bytes: a request for some ten thousand experts. Stops a file without ends of lines from filling the
/// memory.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Most layers, and most experts in all, that a trace may speak of: ten times those of the largest models. Stops a header from asking
/// for memory that its few bytes don't warrant.
const MAX_GROUPS: usize = 4096;
const MAX_EXPERTS: usize = 1 << 19;
/// Most experts of a layer.
const MAX_GROUP_EXPERTS: usize = 1 << 16;
/// Most experts that all requests name together; some 40,000 tokens of a large model. Stops a long file from filling the memory.
const MAX_USES: usize = 1 << 24;
/// Most tokens of a pass.
const MAX_ROWS: u32 = 1 << 24;
/// Longest name of a model that is kept, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// What a pass is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Reading a prompt.
    #[default]
    Prompt,
    /// Making an answer, token by token.
    Decode,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Decode => "decode",
        }
    }
}

/// What was recorded: the shape of a model's experts and of the pager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceHeader {
    /// A name for people; untrusted text in a trace that was read.
    pub model: String,
    /// Experts that the recorded pager could hold.
    pub slots: usize,
    /// Bytes of memory of a slot.
    pub slot_bytes: u64,
    /// For each layer the number of its experts, and the bytes of one as the files have it.
    pub groups: Vec<(usize, u64)>,
}

/// A request of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// What it was for.
    pub phase: Phase,
    /// Layer.
    pub group: u32,
    /// Tokens of the pass.
    pub rows: u32,
    /// The experts in order, each with how many of the tokens use it.
    pub experts: &'a [(u32, u32)],
}

/// Requests in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    header: TraceHeader,
    requests: Vec<Entry>,
    /// Experts of all requests, one after the other.
    experts: Vec<(u32, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    phase: Phase,
    group: u32,
    rows: u32,
    /// Where its experts end in [`Trace::experts`]; they begin where those of the request before end.
    end: usize,
}

/// A trace that can't be used.
#[derive(Debug, Error)]
pub enum TraceError {
    /// It can't be read.
    #[error("reading line {line}: {source}")]
    Read {
        /// Line, from 1.
        line: usize,
        /// Why.
        source: io::Error,
    },
    /// It breaks the format.
    #[error("line {line}: {rule}")]
    Line {
        /// Line, from 1.
        line: usize,
        /// The rule that it breaks.
        rule: String,
    },
}

impl TraceHeader {
    /// Of a pager's catalog and slots.
    pub(crate) fn of(model: &str, catalog: &Catalog, slots: usize) -> Self {
        let largest = |records: &Vec<Record>| records.iter().map(Record::bytes).max().unwrap_or(0);
        Self {
            model: one_line(model),
            slots,
            slot_bytes: catalog.slot_bytes(),
            groups: catalog.groups().iter().map(|records| (records.len(), largest(records))).collect(),
        }
    }

    /// Experts of all layers.
    pub fn experts(&self) -> usize {
        self.groups.iter().map(|&(experts, _)| experts).sum()
    }

    /// A catalog of this shape, of a file that does not exist.
    pub(crate) fn catalog(&self) -> Result<Catalog, crate::PagerError> {
        let record = |bytes| Record { parts: vec![ByteRange { file: 0, offset: 0, bytes }] };
        Catalog::new(self.groups.iter().map(|&(experts, bytes)| vec![record(bytes); experts]).collect())
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{FIRST_LINE}\nmodel {}", one_line(&self.model))?;
        writeln!(out, "slots {} of {} bytes", self.slots, self.slot_bytes)?;
        self.groups
            .iter()
            .try_for_each(|(experts, bytes)| writeln!(out, "group {experts} experts of {bytes} bytes"))
    }
}

/// A name without what would end its line.
fn one_line(name: &str) -> String {
    let end = (0..=MAX_NAME_BYTES.min(name.len())).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    name[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// Writes requests as they are made. What goes wrong is told at the end.
pub(crate) struct TraceWriter {
    out: BufWriter<Box<dyn Write + Send>>,
    /// Experts in all requests.
    uses: usize,
    failure: Option<io::Error>,
}

impl TraceWriter {
    pub fn begin(header: &TraceHeader, out: Box<dyn Write + Send>) -> Self {
        let mut writer = Self { out: BufWriter::new(out), uses: 0, failure: None };
        writer.keep(|out| header.write(out));
        writer
    }

    fn keep(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.failure.is_none() {
            self.failure = write(&mut self.out).err();
        }
    }
}

impl RequestLog for TraceWriter {
    fn asked(&mut self, group: u32, rows: u32, wanted: &mut dyn Iterator<Item = (u32, u32)>) {
        let mut count = 0;
        self.keep(|out| write_request(out, group, rows, &mut wanted.inspect(|_| count += 1)));
        self.uses += count;
        if self.uses > MAX_USES {
            let told = format!(
                "more than {MAX_USES} experts in all requests, which can't be read again; record less"
            );
            self.keep(|_| Err(io::Error::other(told)));
        }
    }

    fn phase(&mut self, phase: Phase) {
        self.keep(|out| writeln!(out, "{}", phase.name()));
    }

    fn end(&mut self) -> io::Result<()> {
        self.keep(|out| out.flush());
        self.failure.take().map_or(Ok(()), Err)
    }
}

fn write_request(
    out: &mut dyn Write,
    group: u32,
    rows: u32,
    wanted: &mut dyn Iterator<Item = (u32, u32)>,
) -> io::Result<()> {
    write!(out, "{group} {rows}:")?;
    for (expert, uses) in wanted {
        match uses {
            1 => write!(out, " {expert}")?,
            _ => write!(out, " {expert}*{uses}")?,
        }
    }
    writeln!(out)
}

impl Trace {
    /// A trace of no requests yet. Error: the rule that a shape breaks which no model has.
    pub fn new(header: TraceHeader) -> Result<Self, String> {
        if header.groups.len() > MAX_GROUPS || header.experts() > MAX_EXPERTS {
            return Err(format!("more than {MAX_GROUPS} groups or {MAX_EXPERTS} experts"));
        }
        if let Some((experts, _)) = header.groups.iter().find(|(experts, _)| *experts > MAX_GROUP_EXPERTS) {
            return Err(format!("a group of {experts} experts; {MAX_GROUP_EXPERTS} are possible"));
        }
        header.catalog().map_err(|error| error.to_string())?;
        Ok(Self { header, requests: Vec::new(), experts: Vec::new() })
    }

    /// What was recorded.
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// The requests in order.
    pub fn requests(&self) -> impl Iterator<Item = Asked<'_>> {
        self.requests.iter().scan(0, |start, entry| {
            let experts = &self.experts[std::mem::replace(start, entry.end)..entry.end];
            Some(Asked { phase: entry.phase, group: entry.group, rows: entry.rows, experts })
        })
    }

    /// Adds a request. Error: the rule that it breaks.
    pub fn push(&mut self, asked: Asked<'_>) -> Result<(), String> {
        let Asked { phase, group, rows, experts } = asked;
        let groups = self.header.groups.len();
        let Some(&(size, _)) = self.header.groups.get(group as usize) else {
            return Err(format!("group {group}, but there are {groups}"));
        };
        if rows == 0 || rows > MAX_ROWS {
            return Err(format!("a pass of {rows} tokens; from 1 to {MAX_ROWS} are possible"));
        }
        if experts.is_empty() {
            return Err("a request for no expert".into());
        }
        if self.experts.len() + experts.len() > MAX_USES {
            return Err(format!("more than {MAX_USES} experts in all requests; record less"));
        }
        let mut seen = vec![false; size];
        for &(expert, uses) in experts {
            let Some(seen) = seen.get_mut(expert as usize) else {
                return Err(format!("expert {expert}, but group {group} has {size}"));
            };
            if std::mem::replace(seen, true) {
                return Err(format!("expert {expert} is named twice"));
            }
            if uses == 0 || uses > rows {
                return Err(format!("expert {expert} is used by {uses} of {rows} tokens"));
            }
        }
        self.experts.extend_from_slice(experts);
        self.requests.push(Entry { phase, group, rows, end: self.experts.len() });
        Ok(())
    }

    /// Reads the whole of a trace, which need not be trusted. Errors: it can't be read or is not a trace; they name the line.
    pub fn read(mut input: impl BufRead) -> Result<Self, TraceError> {
        let mut lines = Lines { input: &mut input, number: 0, text: String::new() };
        let header = read_header(&mut lines)?;
        let mut trace = Self::new(header).map_err(|rule| lines.wrong(rule))?;
        let mut phase = Phase::default();
        let mut experts = Vec::new();
        loop {
            match lines.text.as_str() {
                "" => {}
                "prompt" => phase = Phase::Prompt,
                "decode" => phase = Phase::Decode,
                text => {
                    let (group, rows) = read_request(text, &mut experts).map_err(|rule| lines.wrong(rule))?;
                    let asked = Asked { phase, group, rows, experts: &experts };
                    trace.push(asked).map_err(|rule| lines.wrong(rule))?;
                }
            }
            if !lines.next()? {
                return Ok(trace);
            }
        }
    }

    /// Writes it as [`Trace::read`] reads it.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        self.header.write(out)?;
        let mut phase = None;
        for asked in self.requests() {
            if phase.replace(asked.phase) != Some(asked.phase) {
                writeln!(out, "{}", asked.phase.name())?;
            }
            write_request(out, asked.group, asked.rows, &mut asked.experts.iter().copied())?;
        }
        Ok(())
    }

    /// The experts of a request.
    pub(crate) fn keys<'a>(asked: &Asked<'a>) -> impl Iterator<Item = ExpertKey> + 'a {
        let group = asked.group;
        asked.experts.iter().map(move |&(index, _)| ExpertKey { group, index })
    }
}

/// Lines of a file, none longer than is read.
struct Lines<'a, R> {
    input: &'a mut R,
    number: usize,
    /// The line, without its end.
    text: String,
}

impl<R: BufRead> Lines<'_, R> {
    /// Whether there is a further line.
    fn next(&mut self) -> Result<bool, TraceError> {
        self.number += 1;
        self.text.clear();
        let line = self.number;
        let mut limited = self.input.by_ref().take(MAX_LINE_BYTES);
        limited.read_line(&mut self.text).map_err(|source| TraceError::Read { line, source })?;
        if self.text.len() as u64 == MAX_LINE_BYTES {
            return Err(self.wrong(format!("longer than {MAX_LINE_BYTES} bytes")));
        }
        let any = !self.text.is_empty();
        if any && !self.text.ends_with('\n') {
            return Err(self.wrong("it has no end, as if the rest of the file were missing".into()));
        }
        self.text.truncate(self.text.trim_end().len());
        Ok(any)
    }

    fn wrong(&self, rule: String) -> TraceError {
        TraceError::Line { line: self.number, rule }
    }
}

/// Reads up to the first line that is not of the header, which stays in `lines`.
fn read_header<R: BufRead>(lines: &mut Lines<'_, R>) -> Result<TraceHeader, TraceError> {
    lines.next()?;
    if lines.text != FIRST_LINE {
        return Err(lines.wrong(format!("a trace begins with \"{FIRST_LINE}\"")));
    }
    lines.next()?;
    let model = lines.text.strip_prefix("model").map(one_line);
    let model = model.ok_or_else(|| lines.wrong("\"model NAME\" belongs here".into()))?;
    lines.next()?;
    let slots = numbers(&lines.text, ["slots", "of", "bytes"]);
    let (slots, slot_bytes) =
        slots.ok_or_else(|| lines.wrong("\"slots N of N bytes\" belongs here".into()))?;
    let slots = usize::try_from(slots).unwrap_or(usize::MAX);
    let mut header = TraceHeader { model, slots, slot_bytes, groups: Vec::new() };
    let mut experts_in_all = 0usize;
    while lines.next()? && lines.text.starts_with("group ") {
        let group = numbers(&lines.text, ["group", "experts of", "bytes"]);
        let (experts, bytes) =
            group.ok_or_else(|| lines.wrong("\"group N experts of N bytes\" belongs here".into()))?;
        let experts = usize::try_from(experts).unwrap_or(usize::MAX);
        experts_in_all = experts_in_all.saturating_add(experts);
        if header.groups.len() == MAX_GROUPS || experts_in_all > MAX_EXPERTS {
            return Err(lines.wrong(format!("more than {MAX_GROUPS} groups or {MAX_EXPERTS} experts")));
        }
        header.groups.push((experts, bytes));
    }
    Ok(header)
}

/// The two numbers between three words.
fn numbers(text: &str, [before, between, behind]: [&str; 3]) -> Option<(u64, u64)> {
    let rest = text.strip_prefix(before)?.strip_suffix(behind)?;
    let (first, second) = rest.split_once(between)?;
    Some((first.trim().parse().ok()?, second.trim().parse().ok()?))
}

/// Reads `GROUP ROWS: EXPERT EXPERT*USES ...`. Error: the rule that it breaks.
fn read_request(text: &str, experts: &mut Vec<(u32, u32)>) -> Result<(u32, u32), String> {
    let form =
        || "\"prompt\", \"decode\" or \"GROUP TOKENS: EXPERT EXPERT*USES ...\" belongs here".to_owned();
    let number = |text: &str| text.parse::<u32>().map_err(|_| form());
    let (pass, wanted) = text.split_once(':').ok_or_else(form)?;
    let (group, rows) = pass.split_once(' ').ok_or_else(form)?;
    experts.clear();
    for each in wanted.split_ascii_whitespace() {
        let (expert, uses) = each.split_once('*').unwrap_or((each, "1"));
        experts.push((number(expert)?, number(uses)?));
    }
    Ok((number(group)?, number(rows)?))
}
