//! Finding lines in files.

use membrane_plugin::tool::files::{self, Entry, Kind};

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

/// What is searched.
pub trait Tree {
    /// What is in a folder.
    fn entries(&self, path: &str) -> Result<Vec<Entry>, String>;
    /// The text of a file of at most `most` bytes; none if it is no text.
    fn text(&self, path: &str, most: u64) -> Result<Option<String>, String>;
}

/// A granted folder, by its name.
pub struct Granted(pub String);

impl Tree for Granted {
    fn entries(&self, path: &str) -> Result<Vec<Entry>, String> {
        files::entries(&self.0, path)
    }

    fn text(&self, path: &str, most: u64) -> Result<Option<String>, String> {
        whole(&self.0, path, most)
    }
}

/// A search for a text.
pub struct Search<T> {
    tree: T,
    text: String,
    ignore_case: bool,
    most: usize,
    found: Vec<String>,
    more: bool,
    files: usize,
    folders: usize,
    /// Files that are too large, no text or can't be read.
    skipped: usize,
    /// Folders that can't be listed.
    closed: usize,
    /// Whether there was more to look into.
    cut: bool,
}

impl<T: Tree> Search<T> {
    /// A search that gives at most `most` lines. Errors: no text.
    pub fn new(tree: T, text: &str, ignore_case: bool, most: usize) -> Result<Self, String> {
        if text.is_empty() {
            return Err("give the text to look for".to_owned());
        }
        let text = if ignore_case { text.to_lowercase() } else { text.to_owned() };
        let (found, more, files, folders, cut) = (Vec::new(), false, 0, 1, false);
        let (skipped, closed) = (0, 0);
        Ok(Self { tree, text, ignore_case, most, found, more, files, folders, skipped, closed, cut })
    }

    /// Looks into the files below a path; gives `path:line: text` and what was left out. Errors: the path can't be listed.
    pub fn run(mut self, path: &str) -> Result<String, String> {
        let entries = self.tree.entries(path)?;
        self.walk(path, entries, 0);
        let mut lines = std::mem::take(&mut self.found);
        if lines.is_empty() {
            lines.push(format!("[not found in {} files]", self.files - self.skipped));
        }
        if self.more {
            lines.push(format!("[more than {} matches]", self.most));
        }
        if self.skipped > 0 {
            let skipped = self.skipped;
            lines.push(format!("[{skipped} files that are large, no text or can't be read were left out]"));
        }
        if self.closed > 0 {
            lines.push(format!("[{} folders that can't be listed were left out]", self.closed));
        }
        if self.cut {
            lines.push(format!("[stopped after {} files: name a folder further down]", self.files));
        }
        Ok(lines.join("\n"))
    }

    fn walk(&mut self, path: &str, entries: Vec<Entry>, depth: usize) {
        for entry in entries {
            if self.more || self.cut {
                return;
            }
            let below = if path.is_empty() { entry.name } else { format!("{path}/{}", entry.name) };
            match entry.kind {
                Kind::Folder if depth < MAX_DEPTH && self.folders < MAX_FOLDERS => {
                    self.folders += 1;
                    match self.tree.entries(&below) {
                        Ok(entries) => self.walk(&below, entries, depth + 1),
                        Err(_) => self.closed += 1,
                    }
                }
                Kind::File if self.files < MAX_FILES => self.look(&below, entry.size),
                Kind::Folder | Kind::File => self.cut = true,
                Kind::Other => {}
            }
        }
    }

    fn look(&mut self, path: &str, size: u64) {
        self.files += 1;
        let text = if size > MAX_BYTES { None } else { self.tree.text(path, MAX_BYTES).ok().flatten() };
        let Some(text) = text else {
            self.skipped += 1;
            return;
        };
        for (number, line) in text.lines().enumerate() {
            if !self.matches(line) {
                continue;
            }
            if self.found.len() == self.most {
                self.more = true;
                return;
            }
            self.found.push(format!("{path}:{}: {}", number + 1, short(line.trim(), SHOWN)));
        }
    }

    fn matches(&self, line: &str) -> bool {
        if self.ignore_case { line.to_lowercase().contains(&self.text) } else { line.contains(&self.text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folders by path, with what can't be listed or read left out.
    struct Made;

    impl Tree for Made {
        fn entries(&self, path: &str) -> Result<Vec<Entry>, String> {
            let file = |name: &str| (name.to_owned(), Kind::File);
            let folder = |name: &str| (name.to_owned(), Kind::Folder);
            let entries = match path {
                "" => vec![folder("crowded"), file("deleted"), folder("sub"), file("text")],
                "sub" => vec![folder("crowded"), file("secret"), file("text")],
                _ => return Err("it has more than 10000 entries".to_owned()),
            };
            Ok(entries.into_iter().map(|(name, kind)| Entry { name, kind, size: 5 }).collect())
        }

        fn text(&self, path: &str, _: u64) -> Result<Option<String>, String> {
            if path.ends_with("text") {
                Ok(Some("a\nbee\n".to_owned()))
            } else {
                Err("can't be read".to_owned())
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out_but_for_the_path_itself() {
        let search = |text, path| Search::new(Made, text, false, 5).unwrap().run(path);
        let left = "[2 files that are large, no text or can't be read were left out]\n\
            [2 folders that can't be listed were left out]";
        assert_eq!(search("bee", "").unwrap(), format!("sub/text:2: bee\ntext:2: bee\n{left}"));
        assert_eq!(search("wasp", "").unwrap(), format!("[not found in 2 files]\n{left}"));
        assert_eq!(search("bee", "crowded").unwrap_err(), "it has more than 10000 entries");
    }

    #[test]
    fn case_counts_unless_it_is_told_not_to() {
        let search = |ignore| Search::new(Made, "Straße", ignore, 5).unwrap();
        assert!(search(false).matches("die Straße") && !search(false).matches("die STRAßE"));
        assert!(search(true).matches("die STRAßE"));
        assert!(Search::new(Made, "", false, 5).is_err());
    }
}
