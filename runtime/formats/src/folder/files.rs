//! The files of a folder. Names come from the folder or are checked; links are followed wherever their maker has put the file, as
//! a Hugging Face cache does with all of its own, and are only read.

use std::io;
use std::path::{Path, PathBuf};

use super::EXTENSION;
use crate::error::{FormatError, quoted};
use crate::limits;
use crate::source::SourceFile;

/// The weight file of a model that has one.
const WHOLE: &str = "model.safetensors";
/// How the names of weights begin and end that Python pickled.
const PICKLED: [(&str, &str); 2] = [("pytorch_model", ".bin"), ("consolidated", ".pth")];

/// A model's folder.
pub(super) struct Folder {
    /// As it was given.
    path: PathBuf,
    /// The weight file by which it was given.
    named: Option<String>,
}

impl Folder {
    /// The folder at `path`, or the one of the weight file at `path`.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        if path.is_dir() {
            return Ok(Self { path: path.to_owned(), named: None });
        }
        // A weight file that is not there, or no file, is told before its folder is looked at.
        SourceFile::open(path)?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let no_text = || FormatError::Folder {
            path: path.to_owned(),
            rule: "has a name that is no UTF-8: call it otherwise".into(),
        };
        let named = path.file_name().and_then(|name| name.to_str()).ok_or_else(no_text)?;
        Ok(Self { path: folder.to_owned(), named: Some(named.to_owned()) })
    }

    /// The names in it that are `wanted`, in order.
    pub fn names(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, FormatError> {
        let mut names = Vec::new();
        for entry in self.path.read_dir().map_err(|source| failed(&self.path, source))? {
            let entry = entry.map_err(|source| failed(&self.path, source))?;
            names.extend(entry.file_name().into_string().ok().filter(|name| wanted(name)));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The weight file that goes before an index which does not name it: the one that was asked for, or one that has the whole model,
    /// as other libraries have it.
    pub fn preferred(&self) -> Option<&str> {
        match &self.named {
            Some(named) => Some(named),
            None => self.path.join(WHOLE).is_file().then_some(WHOLE),
        }
    }

    /// The file of this name, if there is one. Errors: it is no regular file, or a link to none.
    pub fn file(&self, name: &str) -> Result<Option<SourceFile>, FormatError> {
        let path = self.path.join(name);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed(&path, source)),
            // A link to what is not there is an error, not an absent file.
            Ok(_) => SourceFile::open(&path).map(Some),
        }
    }

    /// Whether there is anything of this name; a link to nothing is.
    pub fn has(&self, name: &str) -> Result<bool, FormatError> {
        let path = self.path.join(name);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(failed(&path, source)),
            Ok(_) => Ok(true),
        }
    }

    /// The names of the weight files where no index names them: one file, or a complete series. Where the folder was given by one of
    /// them, that one or its series.
    pub fn shards(&self) -> Result<Vec<String>, FormatError> {
        let mut names = self.names(|name| name.ends_with(EXTENSION) && !name.starts_with('.'))?;
        match &self.named {
            Some(named) => names = vec![named.clone()],
            None if names.iter().any(|name| name == WHOLE) => return Ok(vec![WHOLE.to_owned()]),
            None => {}
        }
        match names.iter().find_map(|name| series(name)) {
            Some((_, _, count)) if count > limits::SHARDS => Err(self.broken(format!(
                "its weights are {count} files, and {} are accepted at most",
                limits::SHARDS
            ))),
            Some((stem, _, count)) => {
                Ok((1..=count).map(|number| format!("{stem}-{number:05}-of-{count:05}{EXTENSION}")).collect())
            }
            None if names.len() == 1 => Ok(names),
            None if names.is_empty() => Err(self.has_no_weights()?),
            None => Err(self.broken(format!(
                "has {} weight files that are neither `{WHOLE}` nor a series, and no {}",
                names.len(),
                super::INDEX
            ))),
        }
    }

    /// The error of a folder in which there are other files only.
    fn has_no_weights(&self) -> Result<FormatError, FormatError> {
        let is_pickled =
            |name: &str| PICKLED.iter().any(|(start, end)| name.starts_with(start) && name.ends_with(end));
        Ok(match self.names(is_pickled)?.first() {
            Some(name) => self.broken(format!(
                "has its weights in {} and the like, which are not read: to load such files runs code that is in them; take or make \
                 one with {EXTENSION} files",
                quoted(name)
            )),
            None => self.lacks(WHOLE),
        })
    }

    /// The error of a file that is not there.
    pub fn lacks(&self, name: &str) -> FormatError {
        self.broken(format!(
            "has no {}; a model folder needs it: fetch it from the model's publisher",
            quoted(name)
        ))
    }

    /// The error of a folder that changes another model, as the file of this name says.
    pub fn adapts(&self, name: &str) -> FormatError {
        self.broken(format!(
            "has {}: it is an adapter (LoRA), which changes the weights of another model and is not read here; merge the two \
             and name the folder of the result, or take the file away if the weights beside it are whole",
            quoted(name)
        ))
    }

    fn broken(&self, rule: String) -> FormatError {
        FormatError::Folder { path: self.path.clone(), rule }
    }
}

/// Stem, number and count of `model-00001-of-00003.safetensors`.
fn series(name: &str) -> Option<(&str, u64, u64)> {
    let name = name.strip_suffix(EXTENSION)?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|digit| digit.is_ascii_digit());
    if !digits(number) || !digits(count) {
        return None;
    }
    Some((stem, number.parse().ok()?, count.parse().ok().filter(|&count| count > 0)?))
}

fn failed(path: &Path, source: io::Error) -> FormatError {
    match source.raw_os_error() {
        Some(libc::ELOOP) => FormatError::SymlinkLoop { path: path.to_owned() },
        _ => FormatError::Open { path: path.to_owned(), source },
    }
}
