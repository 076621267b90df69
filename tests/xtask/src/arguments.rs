//! The command line, read from the left: what a command does not take is an error.

use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::fmt::Display;
use std::str::FromStr;

/// What is left of the command line, and what stands after `--`.
pub struct Arguments {
    left: VecDeque<String>,
    after: Vec<String>,
}

impl Arguments {
    /// The arguments of this process, without the program's name.
    pub fn from_environment() -> Self {
        Self::new(std::env::args().skip(1))
    }

    fn new(arguments: impl IntoIterator<Item = String>) -> Self {
        let mut left: VecDeque<String> = arguments.into_iter().collect();
        let mut after = Vec::new();
        if let Some(at) = left.iter().position(|a| a == "--") {
            after = left.drain(at..).skip(1).collect();
        }
        Self { left, after }
    }

    /// Takes the first argument that is no option. Take options with values before this.
    pub fn positional(&mut self) -> Option<String> {
        let at = self.left.iter().position(|a| !a.starts_with("--"))?;
        self.left.remove(at)
    }

    /// Takes `--name`; says whether it was there.
    pub fn flag(&mut self, name: &str) -> bool {
        let at = self.left.iter().position(|a| a == name);
        at.and_then(|at| self.left.remove(at)).is_some()
    }

    /// Takes `--name VALUE` or `--name=VALUE`.
    ///
    /// # Errors
    /// When the value is missing or does not parse.
    pub fn option<T>(&mut self, name: &str) -> Result<Option<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let joined = format!("{name}=");
        let Some(at) = self.left.iter().position(|a| a == name || a.starts_with(&joined)) else {
            return Ok(None);
        };
        let first = self.left.remove(at).unwrap_or_default();
        let value = match first.strip_prefix(&joined) {
            Some(value) => value.to_owned(),
            None => self.left.remove(at).with_context(|| format!("{name} needs a value"))?,
        };
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error) => bail!("{name} {value}: {error}"),
        }
    }

    /// What stands after `--`.
    pub fn after(&mut self) -> Vec<String> {
        std::mem::take(&mut self.after)
    }

    /// Fails when something is left that no one took.
    ///
    /// # Errors
    /// Names the first argument that is left.
    pub fn finish(mut self) -> Result<()> {
        if let Some(unknown) = self.left.pop_front() {
            bail!("`{unknown}` is not understood here: see `cargo xtask help`");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::new(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn takes_options_in_both_spellings() {
        let mut given = arguments("demo --experts 8 --memory=1GiB hello -- run --experts 9");
        assert_eq!(given.option::<u32>("--experts").unwrap(), Some(8));
        assert_eq!(given.option::<String>("--memory").unwrap().as_deref(), Some("1GiB"));
        assert_eq!(given.positional().as_deref(), Some("demo"));
        assert_eq!(given.positional().as_deref(), Some("hello"));
        assert_eq!(given.after(), ["run", "--experts", "9"]);
        given.finish().unwrap();
    }

    #[test]
    fn refuses_what_no_one_took() {
        assert!(arguments("--sideways").finish().unwrap_err().to_string().contains("--sideways"));
        assert!(arguments("--experts").option::<u32>("--experts").is_err());
        assert!(arguments("--experts many").option::<u32>("--experts").is_err());
    }
}
