//! The files of the tree, and Rust source with everything blanked that is no code.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of the tree.
pub struct File {
    /// Path from the root, with `/`.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Its text, if it is a text file that the rules know.
    pub text: Option<String>,
}

/// All files that are tracked or could be.
pub struct Tree {
    /// In the order of their paths.
    pub files: Vec<File>,
}

/// Endings of the files whose text is read.
const TEXT: [&str; 9] = [".rs", ".toml", ".md", ".wit", ".py", ".sh", ".yml", ".js", ".c"];

impl Tree {
    /// Reads the repository that this test belongs to.
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let output = Command::new("git").args(arguments).current_dir(root).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed = String::from_utf8(output.stdout).unwrap();
        let mut paths: Vec<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
        paths.sort_unstable();
        paths.dedup();
        Self { files: paths.into_iter().filter_map(|path| File::read(root, path)).collect() }
    }

    /// A tree made of texts, for the tests of the rules.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File {
            path: (*path).to_owned(),
            bytes: text.len() as u64,
            text: Some((*text).to_owned()),
        };
        Self { files: files.iter().map(file).collect() }
    }

    /// Rust files with their text.
    pub fn rust(&self) -> impl Iterator<Item = (&File, &str)> {
        let rust = self.files.iter().filter(|file| file.path.ends_with(".rs"));
        rust.filter_map(|file| file.text.as_deref().map(|text| (file, text)))
    }

    /// Whether a file of this path exists.
    pub fn has(&self, path: &str) -> bool {
        self.files.binary_search_by(|file| file.path.as_str().cmp(path)).is_ok()
    }

    /// The folders that hold a `Cargo.toml`, from the root; the root itself is "".
    pub fn packages(&self) -> Vec<String> {
        let manifests = self.files.iter().filter_map(|file| file.path.strip_suffix("Cargo.toml"));
        manifests.filter(|folder| folder.is_empty() || folder.ends_with('/')).map(str::to_owned).collect()
    }
}

impl File {
    /// Nothing for a file that is deleted and not yet committed so.
    fn read(root: &Path, path: &str) -> Option<Self> {
        let full: PathBuf = root.join(path);
        let bytes = std::fs::symlink_metadata(&full).ok()?.len();
        let known = TEXT.iter().any(|ending| path.ends_with(ending));
        let text = known.then(|| std::fs::read_to_string(&full).unwrap_or_else(|e| panic!("{path}: {e}")));
        Some(Self { path: path.to_owned(), bytes, text })
    }

    /// Whether the whole file is test code.
    pub fn is_test(&self) -> bool {
        let in_folder = self.path.starts_with("tests/tests/") || self.path.contains("/tests/");
        // xtask lives in tests/ and is no test.
        (in_folder && !self.path.contains("/src/")) || self.path.ends_with("/tests.rs")
    }
}

/// The source with comments, strings and characters turned into blanks; lines stay where they were.
pub fn code_only(text: &str) -> String {
    let mut rest = text;
    let mut code = String::with_capacity(text.len());
    let mut word_before = false;
    while let Some(first) = rest.chars().next() {
        let opaque = if word_before { None } else { raw_string(rest) };
        let length = opaque.or_else(|| comment(rest)).or_else(|| literal(rest));
        let (taken, blank) = (length.unwrap_or(first.len_utf8()), length.is_some());
        let (part, after) = rest.split_at(taken);
        code.extend(part.chars().map(|c| if blank && c != '\n' { ' ' } else { c }));
        word_before = !blank && (first.is_alphanumeric() || first == '_');
        rest = after;
    }
    code
}

/// Length of the comment at the beginning of `rest`, if there is one.
fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut at, mut depth) = (0, 0_usize);
    while at < rest.len() {
        let here = &rest[at..];
        let step = if here.starts_with("/*") {
            depth += 1;
            2
        } else if here.starts_with("*/") {
            depth -= 1;
            2
        } else {
            here.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    Some(at)
}

/// Length of the raw string (also of bytes) at the beginning of `rest`, if there is one.
fn raw_string(rest: &str) -> Option<usize> {
    let marked = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = marked.len() - marked.trim_start_matches('#').len();
    let body = marked[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end)? + end.len();
    Some(rest.len() - body.len() + length)
}

/// Length of the string or character at the beginning of `rest`, if there is one; a lifetime is none.
fn literal(rest: &str) -> Option<usize> {
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return Some(at + 1);
        } else if quote == '\'' && !rest[at + c.len_utf8()..].starts_with('\'') {
            return None;
        }
    }
    None
}

/// The code (see [`code_only`]) without its items under `#[cfg(test)]`; lines stay where they were.
pub fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut until: Option<String> = None;
    for line in code.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        match &until {
            Some(end) => {
                let one_line = line.trim_end().ends_with(';') && format!("{indent}}}") == *end;
                if line.trim_end() == end || one_line {
                    until = None;
                }
            }
            None if line.trim().starts_with("#[cfg(test)]") || line.trim().starts_with("#[cfg(all(test") => {
                until = Some(format!("{indent}}}"));
            }
            None => kept.push_str(line),
        }
        kept.push('\n');
    }
    kept
}

#[test]
fn code_is_told_from_text() {
    let source = "let a = \"unsafe \\\" // x\"; // unsafe\nlet c = '\"';\n\
                  let l: &'static str = r#\"un\"safe\"#;\n\
                  /* unsafe /* nested */ unsafe */ unsafe { b'\\'' }\n";
    let code = code_only(source);
    assert_eq!(code.matches("unsafe").count(), 1);
    assert!(code.contains("&'static str"));
    assert_eq!(code.lines().count(), source.lines().count());
}

#[test]
fn test_modules_are_left_out() {
    let code = "fn a() { x.unwrap() }\n\
                #[cfg(test)]\nmod tests {\n    fn b() {\n        y.unwrap()\n    }\n}\n\
                #[cfg(test)]\nmod far;\nfn c() { z.unwrap() }\n";
    let kept = without_tests(code);
    assert_eq!(kept.matches("unwrap").count(), 2);
    assert_eq!(kept.lines().nth(9), Some("fn c() { z.unwrap() }"));
}
