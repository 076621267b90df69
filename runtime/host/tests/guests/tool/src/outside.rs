//! What the tool does with files, hosts and variables when it is told to.

use membrane_plugin::tool::{arguments, environment, files, http};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(default)]
struct Arguments {
    folder: String,
    path: String,
    offset: u64,
    length: u32,
    text: String,
    times: u32,
    name: String,
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            folder: "notes".to_owned(),
            path: String::new(),
            offset: 0,
            length: 65_536,
            text: String::new(),
            times: 1,
            name: String::new(),
            method: "get".to_owned(),
            url: String::new(),
            headers: Vec::new(),
            body: None,
        }
    }
}

/// Does what is asked for, if it is something here; the result is text.
pub fn act(act: &str, json: &str) -> Result<Option<String>, String> {
    let call: Arguments = arguments(json)?;
    let (folder, path, bytes) = (&call.folder, &call.path, call.text.as_bytes());
    let done = |()| "done".to_owned();
    let result = match act {
        "folders" => files::folders().iter().map(|f| format!("{} {}\n", f.name, f.writable)).collect(),
        "entries" => {
            let line = |e: &files::Entry| format!("{} {:?} {}\n", e.name, e.kind, e.size);
            files::entries(folder, path)?.iter().map(line).collect()
        }
        "metadata" => format!("{:?}", files::metadata(folder, path)?),
        "read" => {
            let bytes = files::read(folder, path, call.offset, call.length)?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        "write" => files::write(folder, path, bytes).map(done)?,
        "append" => files::append(folder, path, bytes).map(done)?,
        "make-folder" => files::make_folder(folder, path).map(done)?,
        "delete" => files::delete(folder, path).map(done)?,
        "fill" => {
            let many = call.text.repeat(call.length as usize);
            for number in 0..call.times {
                files::write(folder, &format!("{path}{number}"), many.as_bytes())?;
            }
            "filled".to_owned()
        }
        "grow" => {
            let many = call.text.repeat(call.length as usize);
            for _ in 0..call.times {
                files::append(folder, path, many.as_bytes())?;
            }
            "grown".to_owned()
        }
        "variable" => format!("{:?}", environment::get(&call.name)?),
        "origins" => http::origins().join(" "),
        "send" => {
            let mut last = String::new();
            for _ in 0..call.times {
                last = shown(&http::send(&request(&call)?)?);
            }
            last
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn request(call: &Arguments) -> Result<http::Request, String> {
    let method = match call.method.as_str() {
        "get" => http::Method::Get,
        "head" => http::Method::Head,
        "post" => http::Method::Post,
        other => return Err(format!("the test knows no method {other}")),
    };
    let field = |(name, value): &(String, String)| http::Field { name: name.clone(), value: value.clone() };
    Ok(http::Request {
        method,
        url: call.url.clone(),
        headers: call.headers.iter().map(field).collect(),
        body: call.body.as_ref().map(|body| body.clone().into_bytes()),
    })
}

fn shown(response: &http::Response) -> String {
    let headers: String = response.headers.iter().map(|f| format!("{}: {}\n", f.name, f.value)).collect();
    format!("{}\n{headers}\n{}", response.status, String::from_utf8_lossy(&response.body))
}
