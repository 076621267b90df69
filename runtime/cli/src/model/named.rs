//! Models by the names that `membrane model ls` shows.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use membrane_formats::lies_beside_a_model;

use super::places::{Found, Search, usual};
use crate::report::printable;

/// Takes a path, or where nothing is there the name of a model in the usual places; of a repository with one file its name will do. What
/// is neither is left to whoever opens it. Error: several models have that name.
pub fn model() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|given: OsString| {
        let path = PathBuf::from(&given);
        let name = given.to_str().filter(|name| !name.is_empty() && path.symlink_metadata().is_err());
        name.map_or(Ok(None), named).map(|found| found.unwrap_or(path))
    })
}

fn named(name: &str) -> Result<Option<PathBuf>, String> {
    let mut search = Search::new();
    let all: Vec<Found> = usual().iter().flat_map(|place| place.models(&mut search)).collect();
    let of_repository =
        |found: &&Found| found.name.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
    let is_beside =
        |found: &&Found| found.path.file_name().and_then(OsStr::to_str).is_some_and(lies_beside_a_model);
    let mut found: Vec<&Found> = all.iter().filter(|found| found.name == name).collect();
    if found.is_empty() {
        let (beside, models): (Vec<_>, Vec<_>) = all.iter().filter(of_repository).partition(is_beside);
        // A model may be called so, too.
        found = if models.is_empty() { beside } else { models };
    }
    match found[..] {
        [] => Ok(None),
        [one] => {
            if let Some(note) = one.note {
                eprintln!("note: {}: {note}", printable(&one.name));
            }
            Ok(Some(one.path.clone()))
        }
        _ => {
            let paths: Vec<String> = found.iter().map(|found| found.path.display().to_string()).collect();
            Err(format!("several models have this name; give the path of one: {}", paths.join(", ")))
        }
    }
}
