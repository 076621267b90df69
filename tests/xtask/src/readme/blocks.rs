//! The code blocks of a Markdown file that a reader types.

use anyhow::{Result, bail};

/// A code block that is run or written.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Line of the opening fence, from 1.
    pub line: usize,
    pub kind: Kind,
    /// What stands between the fences.
    pub text: String,
}

/// What a block is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// `sh`.
    Commands,
    /// `sh no-ci`: commands that are not run.
    Skipped,
    /// `LANGUAGE PATH`: what a file is to hold, by its path from where the commands before have led.
    File(String),
}

/// Blocks of commands and of files, in their order.
///
/// # Errors
/// When a block does not end or its info string is not understood.
pub fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let line = number + 1;
        let mut text = String::new();
        loop {
            let Some((_, line_of_block)) = lines.next() else {
                bail!("the code block at line {line} does not end");
            };
            if line_of_block.starts_with("```") {
                break;
            }
            text.push_str(line_of_block);
            text.push('\n');
        }
        let kind = match info.split_whitespace().collect::<Vec<_>>()[..] {
            ["sh"] => Kind::Commands,
            ["sh", "no-ci"] => Kind::Skipped,
            [] | [_] => continue,
            [language, path] if language != "sh" && is_plain(path) => Kind::File(path.to_owned()),
            _ => bail!(
                "line {line}: `{info}`: only `sh`, `sh no-ci`, `LANGUAGE` and `LANGUAGE FILE` are known"
            ),
        };
        found.push(Block { line, kind, text });
    }
    Ok(found)
}

/// Whether a path stays below where it starts and is one word for a shell.
fn is_plain(path: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    path.chars().all(plain) && path.contains('.') && !path.starts_with('/') && !path.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_commands_and_files() {
        let text = "# x\n```sh\ncargo xtask demo   # two\n```\n```toml\na = 1\n```\n```sh no-ci\nsudo reboot\n```\n\
                    ```rust src/lib.rs\nfn main() {}\n```\n";
        let block = |line, kind, text: &str| Block { line, kind, text: text.to_owned() };
        let expected = [
            block(2, Kind::Commands, "cargo xtask demo   # two\n"),
            block(8, Kind::Skipped, "sudo reboot\n"),
            block(11, Kind::File("src/lib.rs".to_owned()), "fn main() {}\n"),
        ];
        assert_eq!(blocks(text).unwrap(), expected);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in ["```sh maybe\nls\n```\n", "```sh\nls\n", "```c ../plugin.c\n```\n", "```c a'b.c\n```\n"]
        {
            assert!(blocks(text).is_err(), "{text}");
        }
    }
}
