//! What answers must follow, from the command line.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use membrane_text::Grammar;
use membrane_text::limits::MAX_SCHEMA_BYTES;

use crate::report::printable;

/// Bytes of a file that are read; blanks and comments are not counted where the limit of a grammar is.
const MAX_FILE_BYTES: u64 = 8 * MAX_SCHEMA_BYTES as u64;
/// Unknown keywords that are told one by one (a schema of 10^5 of them).
const MAX_TOLD: usize = 10;

/// What answers must follow; one of these.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct ConstraintOptions {
    /// Answers are JSON that is valid under this schema: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON")]
    json_schema: Option<String>,
    /// Answers are texts that this regular expression matches as a whole
    #[arg(long, value_name = "PATTERN")]
    regex: Option<String>,
    /// Answers are texts of the language of this grammar, in llguidance's dialect of Lark
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl ConstraintOptions {
    /// The grammar, if one is given. Errors: a file that can't be read, a schema that is no JSON.
    pub fn read(&self) -> Result<Option<Grammar>> {
        if let Some(given) = &self.json_schema {
            let start = given.trim_start();
            // No file has such a name by chance; one that has is `./{`.
            let inline = start.starts_with('{') || matches!(start.trim_end(), "true" | "false");
            let text = if inline { given.clone() } else { read("--json-schema", Path::new(given))? };
            let grammar = Grammar::json_schema(&text).context("--json-schema")?;
            warnings(&grammar).iter().for_each(|warning| eprintln!("membrane: --json-schema: {warning}"));
            return Ok(Some(grammar));
        }
        if let Some(path) = &self.grammar {
            return Ok(Some(Grammar::Lark(read("--grammar", path)?)));
        }
        Ok(self.regex.clone().map(Grammar::Regex))
    }
}

/// What is ignored of a schema, a line each.
fn warnings(grammar: &Grammar) -> Vec<String> {
    let unknown = grammar.unknown_keywords();
    let mut lines: Vec<String> =
        unknown.iter().take(MAX_TOLD).map(|unknown| printable(&unknown.to_string())).collect();
    if unknown.len() > MAX_TOLD {
        lines.push(format!("and {} more keywords that are ignored", unknown.len() - MAX_TOLD));
    }
    lines
}

fn read(flag: &str, path: &Path) -> Result<String> {
    let failed = || format!("{flag}: reading {}", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(failed)?;
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).with_context(failed)? as u64;
    ensure!(read <= MAX_FILE_BYTES, "{flag}: {} is longer than {MAX_FILE_BYTES} bytes", path.display());
    // Some editors begin texts with a byte order mark.
    match text.strip_prefix('\u{FEFF}') {
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_none_of_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("schema.json");
        for (written, read_back) in [("\u{FEFF}{}", "{}"), ("{}", "{}"), ("\u{FEFF}\u{FEFF}", "\u{FEFF}")] {
            std::fs::write(&path, written).unwrap();
            assert_eq!(read("--json-schema", &path).unwrap(), read_back);
        }
    }

    #[test]
    fn many_unknown_keywords_are_few_lines() {
        let told = |count: usize| {
            let fields: Vec<String> = (0..count).map(|number| format!("\"zq{number}\": 1")).collect();
            warnings(&Grammar::json_schema(&format!("{{{}}}", fields.join(", "))).unwrap())
        };
        assert_eq!((told(0).len(), told(10).len()), (0, 10));
        let many = told(500);
        assert_eq!(many.len(), 11);
        assert_eq!(many[10], "and 490 more keywords that are ignored");
    }
}
