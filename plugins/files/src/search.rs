//! Finding lines in files.

use membrane_plugin::tool::files::{self, Kind};

use crate::text::short;
use crate::whole;

/// Files that are looked into, folders that are walked, and how deep (a folder of everything).
const MAX_FILES: usize = 2000;
const MAX_FOLDERS: usize = 500;
const MAX_DEPTH: usize = 16;
/// Bytes of a file that is looked into.
const MAX_BYTES: u64 = 1 << 20;
/// Characters of a line that are shown.
const SHOWN: usize = 200;

/// A search for a text.
pub struct Search {
    folder: String,
    text: String,
    ignore_case: bool,
    most: usize,
    found: Vec<String>,
    more: bool,
    files: usize,
    folders: usize,
    /// Files that are too large or no text.
    skipped: usize,
    /// Whether there was more to look into.
    cut: bool,
}

impl Search {
    /// A search that gives at most `most` lines. Errors: no text.
    pub fn new(folder: String, text: &str, ignore_case: bool, most: usize) -> Result<Self, String> {
        if text.is_empty() {
            return Err("give the text to look for".to_owned());
        }
        let text = if ignore_case { text.to_lowercase() } else { text.to_owned() };
        let (found, more, files, folders, skipped, cut) = (Vec::new(), false, 0, 0, 0, false);
        Ok(Self { folder, text, ignore_case, most, found, more, files, folders, skipped, cut })
    }

    /// Looks into the files below a path; gives `path:line: text` and what was left out.
    pub fn run(mut self, path: &str) -> Result<String, String> {
        self.walk(path, 0)?;
        let mut lines = std::mem::take(&mut self.found);
        if lines.is_empty() {
            lines.push(format!("[not found in {} files]", self.files - self.skipped));
        }
        if self.more {
            lines.push(format!("[more than {} matches]", self.most));
        }
        if self.skipped > 0 {
            lines.push(format!("[{} files that are large or no text were left out]", self.skipped));
        }
        if self.cut {
            lines.push(format!("[stopped after {} files: name a folder further down]", self.files));
        }
        Ok(lines.join("\n"))
    }

    fn walk(&mut self, path: &str, depth: usize) -> Result<(), String> {
        self.folders += 1;
        for entry in files::entries(&self.folder, path)? {
            if self.more || self.cut {
                return Ok(());
            }
            let below = if path.is_empty() { entry.name } else { format!("{path}/{}", entry.name) };
            match entry.kind {
                Kind::Folder if depth < MAX_DEPTH && self.folders < MAX_FOLDERS => {
                    self.walk(&below, depth + 1)?
                }
                Kind::File if self.files < MAX_FILES => self.look(&below, entry.size)?,
                Kind::Folder | Kind::File => self.cut = true,
                Kind::Other => {}
            }
        }
        Ok(())
    }

    fn look(&mut self, path: &str, size: u64) -> Result<(), String> {
        self.files += 1;
        let text = if size > MAX_BYTES { None } else { whole(&self.folder, path, MAX_BYTES)? };
        let Some(text) = text else {
            self.skipped += 1;
            return Ok(());
        };
        for (number, line) in text.lines().enumerate() {
            if !self.matches(line) {
                continue;
            }
            if self.found.len() == self.most {
                self.more = true;
                return Ok(());
            }
            self.found.push(format!("{path}:{}: {}", number + 1, short(line.trim(), SHOWN)));
        }
        Ok(())
    }

    fn matches(&self, line: &str) -> bool {
        if self.ignore_case { line.to_lowercase().contains(&self.text) } else { line.contains(&self.text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_counts_unless_it_is_told_not_to() {
        let search = |ignore| Search::new("x".to_owned(), "Straße", ignore, 5).unwrap();
        assert!(search(false).matches("die Straße") && !search(false).matches("die STRAßE"));
        assert!(search(true).matches("die STRAßE"));
        assert!(Search::new("x".to_owned(), "", false, 5).is_err());
    }
}
