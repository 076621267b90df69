//! Reading text files and TOML with errors that name the place.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::ProfileError;

/// The largest profile, manifest or parameter file, in bytes. A file that a profile names by mistake (a
/// model, a device) must not fill the memory.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;

/// The text of a file of at most [`MAX_FILE_BYTES`].
pub(crate) fn text(path: &Path) -> Result<String, ProfileError> {
    let unreadable = |cause| ProfileError::Unreadable { path: path.to_owned(), cause };
    // Before it is opened: opening a pipe waits for whoever writes to it.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(std::io::Error::other("it is no regular file")));
    }
    let file = File::open(path).map_err(unreadable)?;
    let bytes = metadata.len();
    let too_large = |bytes| ProfileError::TooLarge { path: path.to_owned(), bytes, limit: MAX_FILE_BYTES };
    if bytes > MAX_FILE_BYTES {
        return Err(too_large(bytes));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(content.len() as u64));
    }
    String::from_utf8(content).map_err(|_| ProfileError::NotText { path: path.to_owned() })
}

/// The text of a file that a profile refers to: in the profile's folder or below, also through symbolic links, so that
/// a profile from somebody else can't hand the files of whoever uses it to a plugin.
pub(crate) fn text_inside(folder: &Path, path: &str) -> Result<String, ProfileError> {
    let joined = folder.join(path);
    let resolve = |path: &Path| {
        let place = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        place.canonicalize().map_err(|cause| ProfileError::Unreadable { path: joined.clone(), cause })
    };
    let target = resolve(&joined)?;
    if !target.starts_with(resolve(folder)?) {
        return Err(ProfileError::Outside { path: joined, folder: folder.to_owned() });
    }
    text(&target)
}

/// Parses TOML; `origin` names the text in errors.
pub(crate) fn toml<T: DeserializeOwned>(origin: &str, text: &str) -> Result<T, ProfileError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        let message = error.message().trim_end().replace('\n', "; ");
        ProfileError::Syntax { origin: origin.to_owned(), line, message }
    })
}
