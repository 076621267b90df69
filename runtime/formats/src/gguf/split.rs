//! A model split over several files: `NAME-00001-of-00003.gguf` and its sisters.
//!
//! The first file has the metadata; each has `split.no` (from 0), `split.count` and mostly
//! `split.tensors.count`. Names come from the path that the user gave and these numbers, never from text in a
//! file, so that a file can't lead to another folder.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Budget, Parts, header};
use crate::error::{FormatError, quoted};
use crate::limits;
use crate::metadata::Metadata;
use crate::source::SourceFile;

const NUMBER_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";
/// The keys that make a file one of a series.
pub const SPLIT_KEYS: [&str; 3] = [NUMBER_KEY, COUNT_KEY, TENSORS_KEY];

/// Opens the other files of the series whose first file is in `parts`; does nothing if it is not split.
pub(super) fn open_others(parts: &mut Parts, budget: &mut Budget) -> Result<(), FormatError> {
    let first = parts.files[0].path.clone();
    let count = parts.metadata.u64(COUNT_KEY)?.unwrap_or(1);
    if count <= 1 {
        return Ok(());
    }
    if count > limits::SHARDS {
        let what = format!("the number of files ({COUNT_KEY}, in the header)");
        return Err(FormatError::Limit { path: first, offset: 0, what, found: count, limit: limits::SHARDS });
    }
    let number = parts.metadata.require_u64(NUMBER_KEY)?;
    if number != 0 {
        let rule = format!(
            "is file {} of {count} of a split model; name the first, which ends in {}",
            number.saturating_add(1),
            suffix(0, count)
        );
        return Err(FormatError::Split { path: first, rule });
    }
    for number in 1..count {
        let path = sister(&first, number, count)?;
        let source = SourceFile::open(&path).map_err(|error| missing(error, &first, &path))?;
        let header = header::read(&source, number as usize, budget)?;
        agree(&path, &parts.metadata, &header.metadata, number)?;
        parts.tensors.extend(header.tensors);
        parts.files.push(source);
    }
    match parts.metadata.u64(TENSORS_KEY)? {
        Some(stated) if stated != parts.tensors.len() as u64 => {
            let rule = format!(
                "its series should have {stated} tensors ({TENSORS_KEY}) and has {}; a file of another model \
                 is among them: fetch them all again",
                parts.tensors.len()
            );
            Err(FormatError::Split { path: first, rule })
        }
        _ => Ok(()),
    }
}

/// End of the name of file `number` (from 0).
fn suffix(number: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", number + 1)
}

/// Whether a file has the name of a part of a split model that is not the first.
pub fn is_later_part(name: &std::ffi::OsStr) -> bool {
    part_of(name).is_some_and(|(number, _)| number > 1)
}

/// The number (from 1) and the count of files that the name of a part of a split model has: `NAME-00002-of-00003.gguf`.
fn part_of(name: &std::ffi::OsStr) -> Option<(u64, u64)> {
    let name = name.as_bytes().strip_suffix(b".gguf")?;
    let digits = |from_end: usize| {
        let start = name.len().checked_sub(from_end)?;
        let digits = name.get(start..start + 5).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        Some(digits.iter().fold(0, |number, digit| 10 * number + u64::from(digit - b'0')))
    };
    // `-00002-of-00003`
    let (number, count) = (digits(14)?, digits(5)?);
    let whole = format!("-{number:05}-of-{count:05}");
    (name.ends_with(whole.as_bytes()) && (1..=count).contains(&number)).then_some((number, count))
}

/// Path of file `number` in the series of `first`.
fn sister(first: &Path, number: u64, count: u64) -> Result<PathBuf, FormatError> {
    let expected = suffix(0, count);
    let named = first.file_name().filter(|name| part_of(name) == Some((1, count)));
    let stem = named.and_then(|name| name.as_bytes().strip_suffix(expected.as_bytes()));
    let Some(stem) = stem else {
        let rule = format!(
            "is the first of {count} files of a split model, and its name does not end in {expected}; give \
             all of them their original names"
        );
        return Err(FormatError::Split { path: first.to_owned(), rule });
    };
    let mut name = stem.to_vec();
    name.extend_from_slice(suffix(number, count).as_bytes());
    Ok(first.with_file_name(OsString::from_vec(name)))
}

fn missing(error: FormatError, first: &Path, path: &Path) -> FormatError {
    match error {
        FormatError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => FormatError::Split {
            path: first.to_owned(),
            rule: format!("belongs with {}, which is missing; put it into the same folder", path.display()),
        },
        other => other,
    }
}

/// Refuses a file that is not number `number` of the series with the metadata `first`: every key that both
/// have, but for the number, must agree.
fn agree(path: &Path, first: &Metadata, other: &Metadata, number: u64) -> Result<(), FormatError> {
    let broken = |rule| Err(FormatError::Split { path: path.to_owned(), rule });
    let found = other.require_u64(NUMBER_KEY)?;
    if found != number {
        let (named, inside) = (number + 1, found.saturating_add(1));
        return broken(format!(
            "is number {named} by its name and {inside} inside; restore the original names"
        ));
    }
    if other.require_u64(COUNT_KEY)? != first.require_u64(COUNT_KEY)? {
        return broken(format!("belongs to another series ({COUNT_KEY} differs); fetch it again"));
    }
    let same = |key: &str, value| key == NUMBER_KEY || first.get(key).is_none_or(|known| known == value);
    match other.iter().find(|&(key, value)| !same(key, value)) {
        Some((key, _)) => {
            broken(format!("belongs to another model ({} differs); fetch it again", quoted(key)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn later_parts_are_no_models() {
        for (name, later) in [
            ("a-00002-of-00003.gguf", true),
            ("a-00001-of-00003.gguf", false),
            ("a-of-b.gguf", false),
            ("a-2-of-3.gguf", false),
            ("a-0000x-of-00003.gguf", false),
            ("a.gguf", false),
        ] {
            assert_eq!(is_later_part(OsStr::new(name)), later, "{name}");
        }
    }
}
