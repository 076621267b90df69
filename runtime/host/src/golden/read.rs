//! Reading golden cases. A plugin's folder may come from a stranger.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

use super::{Case, Expected, agents, policies, samplers, tools};
use crate::World;

/// Files of a folder of cases, and bytes of each, `file:` parameters included (a folder of everything, a model by its
/// name).
const MAX_FILES: usize = 256;
/// Bytes of a file of cases.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Golden cases that can't be read.
#[derive(Debug, Error)]
pub enum GoldenError {
    /// The folder or a file can't be read.
    #[error("{path}: can't be read: {cause}", path = path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// More files than are read.
    #[error("{path}: has more than {MAX_FILES} files of cases: join some", path = path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
    /// A file that is no list of cases.
    #[error("{path}: is no list of cases: {message}", path = path.display())]
    NotCases {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A malformed case.
    #[error("{path}, case {number}: {message}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The case's place in the file, from 1.
        number: usize,
        /// What is wrong, with the field.
        message: String,
    },
}

/// The cases of all files of a folder.
pub fn folder(folder: &Path, world: World) -> Result<Vec<Case>, GoldenError> {
    let unreadable = |cause| GoldenError::Unreadable { path: folder.to_owned(), cause };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(GoldenError::TooMany { path: folder.to_owned() });
        }
    }
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        cases.extend(read_file(folder, &file, world)?);
    }
    Ok(cases)
}

fn read_file(folder: &Path, path: &Path, world: World) -> Result<Vec<Case>, GoldenError> {
    let text = text(path).map_err(|cause| GoldenError::Unreadable { path: path.to_owned(), cause })?;
    let not_cases = |error: serde_json::Error| GoldenError::NotCases {
        path: path.to_owned(),
        message: error.to_string(),
    };
    let bodies: Vec<Map<String, Value>> = serde_json::from_str(&text).map_err(not_cases)?;
    let read = |(index, body)| {
        case(folder, path, index + 1, body, world).map_err(|message| GoldenError::Malformed {
            path: path.to_owned(),
            number: index + 1,
            message,
        })
    };
    bodies.into_iter().enumerate().map(read).collect()
}

fn case(
    folder: &Path,
    file: &Path,
    number: usize,
    mut body: Map<String, Value>,
    world: World,
) -> Result<Case, String> {
    let about: String = required(&mut body, "about")?;
    let mut parameters: Map<String, Value> = required(&mut body, "parameters")?;
    for (name, value) in &mut parameters {
        if let Some(path) = value.as_str().and_then(|text| text.strip_prefix("file:")) {
            let text = parameter(folder, path).map_err(|why| format!("parameters.{name}: {path}: {why}"))?;
            *value = Value::String(text);
        }
    }
    let expected = match body.remove("refused") {
        Some(part) if body.is_empty() => Expected::Refused(typed("refused", part)?),
        Some(_) => return Err("has `refused` and more: a plugin that does not start does nothing".to_owned()),
        None => match world {
            World::Sampler => Expected::Sampler(samplers::Case::read(body)?),
            World::Policy => Expected::Policy(policies::Case::read(body)?),
            World::Tool => Expected::Tool(tools::Case::read(body)?),
            World::Agent => Expected::Agent(agents::Case::read(body)?),
        },
    };
    Ok(Case { file: file.to_owned(), number, about, parameters, expected })
}

/// Takes a field that must be there.
fn required<T: DeserializeOwned>(body: &mut Map<String, Value>, field: &str) -> Result<T, String> {
    typed(field, body.remove(field).ok_or_else(|| format!("`{field}` is missing"))?)
}

/// A value as a type; the error names the field.
pub fn typed<T: DeserializeOwned>(field: &str, value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("{field}: {error}"))
}

/// The text of a file that a parameter names. It lies in the folder of the cases: those of a stranger must not
/// read what their plugin may not.
fn parameter(folder: &Path, path: &str) -> Result<String, String> {
    let below = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if !Path::new(path).components().all(below) {
        return Err("is not below the folder of the cases".to_owned());
    }
    let resolve = |path: &Path| path.canonicalize().map_err(|error| error.to_string());
    let (folder, file) = (resolve(folder)?, resolve(&folder.join(path))?);
    if !file.starts_with(&folder) {
        return Err("is a link out of the folder of the cases".to_owned());
    }
    text(&file).map_err(|error| error.to_string())
}

/// The text of a regular file.
fn text(path: &Path) -> io::Result<String> {
    // Before it is opened: opening a pipe waits for whoever writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    String::from_utf8(bytes)
        .map_err(|error| io::Error::other(format!("it is not UTF-8: {}", error.utf8_error())))
}
