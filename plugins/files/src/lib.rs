//! A tool for text files in granted folders. It needs the grant `files`.
#![forbid(unsafe_code)]

mod search;
mod text;

use membrane_plugin::tool::{Description, Tool, arguments, files};
use serde::Deserialize;

use search::{Granted, Search};

/// Bytes of a file that is read whole: what is larger is no text that a model reads.
const MAX_BYTES: u64 = 8 << 20;
/// Bytes of one reading of the host.
const PIECE: u32 = 1 << 20;

const LIST: &str = r#"{
  "type": "object",
  "properties": {
    "folder": {"type": "string", "description": "Name of the folder; may be left out if there is one only"},
    "path": {"type": "string", "description": "A folder below it; the folder itself if it is left out"}
  },
  "additionalProperties": false
}"#;
const READ: &str = r#"{
  "type": "object",
  "properties": {
    "folder": {"type": "string", "description": "Name of the folder; may be left out if there is one only"},
    "path": {"type": "string", "description": "Path of the file in the folder, such as notes/today.md"},
    "first_line": {"type": "integer", "minimum": 1, "description": "Line to begin with; 1 if it is left out"},
    "lines": {"type": "integer", "minimum": 1, "description": "How many lines"}
  },
  "required": ["path"],
  "additionalProperties": false
}"#;
const SEARCH: &str = r#"{
  "type": "object",
  "properties": {
    "folder": {"type": "string", "description": "Name of the folder; may be left out if there is one only"},
    "path": {"type": "string", "description": "A folder below it; the folder itself if it is left out"},
    "text": {"type": "string", "minLength": 1, "description": "What a line must have in it, as it stands"},
    "ignore_case": {"type": "boolean", "description": "Whether A is a"}
  },
  "required": ["text"],
  "additionalProperties": false
}"#;
const WRITE: &str = r#"{
  "type": "object",
  "properties": {
    "folder": {"type": "string", "description": "Name of the folder; may be left out if there is one only"},
    "path": {"type": "string", "description": "Path of the file in the folder; folders on the way are made"},
    "text": {"type": "string", "description": "The whole text of the file, or what is added"},
    "append": {"type": "boolean", "description": "Add to the end of the file instead of replacing it"}
  },
  "required": ["path", "text"],
  "additionalProperties": false
}"#;

/// The parameters in the profile.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Lines that one reading gives at most.
    pub max_lines: usize,
    /// Matches that one search gives at most.
    pub max_matches: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { max_lines: 400, max_matches: 50 }
    }
}

/// The tool.
pub struct Files {
    parameters: Parameters,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    folder: Option<String>,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    folder: Option<String>,
    path: String,
    first_line: Option<usize>,
    lines: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Find {
    folder: Option<String>,
    #[serde(default)]
    path: String,
    text: String,
    #[serde(default)]
    ignore_case: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    folder: Option<String>,
    path: String,
    text: String,
    #[serde(default)]
    append: bool,
}

impl Tool for Files {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        let Parameters { max_lines, max_matches } = parameters;
        if !(1..=10_000).contains(&max_lines) || !(1..=1000).contains(&max_matches) {
            return Err("max_lines is 1 to 10000 and max_matches 1 to 1000".to_owned());
        }
        Ok(Self { parameters })
    }

    fn describe(&self) -> Vec<Description> {
        let folders = files::folders();
        let shown = |folder: &files::Folder| {
            format!("{} ({})", folder.name, if folder.writable { "read and write" } else { "read only" })
        };
        let known: Vec<String> = folders.iter().map(shown).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let tool = |name: &str, what: &str, schema: &str| Description {
            name: name.to_owned(),
            description: format!("{what} Folders: {known}."),
            parameters: schema.to_owned(),
        };
        let mut tools = vec![
            tool("list_files", "Lists the files in a folder.", LIST),
            tool("read_file", "Reads a text file, or some of its lines.", READ),
            tool(
                "search_files",
                "Finds the lines with a text in the files of a folder and those below it.",
                SEARCH,
            ),
        ];
        if folders.iter().any(|folder| folder.writable) {
            tools.push(tool("write_file", "Writes a text file.", WRITE));
        }
        tools
    }

    fn call(&mut self, name: &str, json: &str) -> Result<String, String> {
        match name {
            "list_files" => list(&arguments(json)?),
            "read_file" => self.read(&arguments(json)?),
            "search_files" => self.search(arguments(json)?),
            "write_file" => write(&arguments(json)?),
            other => Err(format!("there is no tool `{other}` here")),
        }
    }
}

impl Files {
    fn read(&self, call: &Read) -> Result<String, String> {
        let folder = folder(call.folder.as_deref())?;
        let text = whole(&folder, &call.path, MAX_BYTES)?
            .ok_or_else(|| format!("`{}` is no text in UTF-8", call.path))?;
        let most = self.parameters.max_lines;
        text::lines(&text, call.first_line.unwrap_or(1), call.lines.unwrap_or(most).min(most))
    }

    fn search(&self, call: Find) -> Result<String, String> {
        let folder = folder(call.folder.as_deref())?;
        Search::new(Granted(folder), &call.text, call.ignore_case, self.parameters.max_matches)?
            .run(&call.path)
    }
}

/// The folder that a call means.
fn folder(named: Option<&str>) -> Result<String, String> {
    match named {
        Some(name) => Ok(name.to_owned()),
        None => match &files::folders()[..] {
            [only] => Ok(only.name.clone()),
            [] => Err("no folder is granted: the profile entry of this tool needs `folders`".to_owned()),
            many => {
                let names: Vec<&str> = many.iter().map(|folder| folder.name.as_str()).collect();
                Err(format!("name one of the folders: {}", names.join(", ")))
            }
        },
    }
}

fn list(call: &List) -> Result<String, String> {
    let entries = files::entries(&folder(call.folder.as_deref())?, &call.path)?;
    let line = |entry: &files::Entry| match entry.kind {
        files::Kind::Folder => format!("{}/", entry.name),
        files::Kind::File => format!("{} ({} bytes)", entry.name, entry.size),
        files::Kind::Other => format!("{} (no file)", entry.name),
    };
    let lines: Vec<String> = entries.iter().map(line).collect();
    Ok(if lines.is_empty() { "[empty]".to_owned() } else { lines.join("\n") })
}

/// The text of a file of at most `most` bytes; none if it is no text. Errors: it is larger, or can't be read.
fn whole(folder: &str, path: &str, most: u64) -> Result<Option<String>, String> {
    let size = files::metadata(folder, path)?.size;
    if size > most {
        return Err(format!("`{path}` has {size} bytes; at most {most} are read"));
    }
    let mut bytes = Vec::new();
    loop {
        let piece = files::read(folder, path, bytes.len() as u64, PIECE)?;
        if piece.is_empty() {
            return Ok(String::from_utf8(bytes).ok());
        }
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > most {
            return Err(format!("`{path}` grows while it is read"));
        }
    }
}

fn write(call: &Write) -> Result<String, String> {
    let folder = folder(call.folder.as_deref())?;
    for (at, _) in call.path.match_indices('/') {
        let above = &call.path[..at];
        if files::metadata(&folder, above).is_err() {
            files::make_folder(&folder, above)?;
        }
    }
    let bytes = call.text.as_bytes();
    if call.append {
        files::append(&folder, &call.path, bytes)?;
        return Ok(format!("added {} bytes to {}", bytes.len(), call.path));
    }
    files::write(&folder, &call.path, bytes)?;
    Ok(format!("wrote {} bytes to {}", bytes.len(), call.path))
}

membrane_plugin::export_tool!(Files);
