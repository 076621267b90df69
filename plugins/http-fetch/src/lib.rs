//! A tool that fetches pages of granted hosts as text. It needs the grant `http`.
#![forbid(unsafe_code)]

mod address;
mod entities;
mod html;
mod page;

use membrane_plugin::tool::{Description, Tool, arguments, http};
use serde::Deserialize;

/// Redirects that are followed, each of them a request that the host checks like the first.
const MAX_REDIRECTS: usize = 5;

const SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "url": {"type": "string", "description": "The whole URL, with https://"},
    "from_character": {"type": "integer", "minimum": 0, "description": "Where to go on in a long page; 0 if it is left out"}
  },
  "required": ["url"],
  "additionalProperties": false
}"#;

/// The parameters in the profile.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Characters of a page that are given at most.
    pub max_characters: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { max_characters: 20_000 }
    }
}

/// The tool.
pub struct Fetch {
    parameters: Parameters,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    url: String,
    #[serde(default)]
    from_character: usize,
}

impl Tool for Fetch {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        if !(100..=200_000).contains(&parameters.max_characters) {
            return Err("max_characters is 100 to 200000".to_owned());
        }
        Ok(Self { parameters })
    }

    fn describe(&self) -> Vec<Description> {
        let origins = http::origins();
        let known = if origins.is_empty() { "none".to_owned() } else { origins.join(", ") };
        vec![Description {
            name: "fetch_url".to_owned(),
            description: format!("Fetches a page and gives its text. Hosts that may be asked: {known}."),
            parameters: SCHEMA.to_owned(),
        }]
    }

    fn call(&mut self, name: &str, json: &str) -> Result<String, String> {
        if name != "fetch_url" {
            return Err(format!("there is no tool `{name}` here, only `fetch_url`"));
        }
        let Arguments { url, from_character } = arguments(json)?;
        let text = fetch(url)?;
        page::part(&text, from_character, self.parameters.max_characters)
    }
}

/// The text of a page, redirects followed.
fn fetch(mut url: String) -> Result<String, String> {
    for _ in 0..=MAX_REDIRECTS {
        let response = get(&url)?;
        let header = |name: &str| {
            let field = response.headers.iter().find(|field| field.name == name);
            field.map(|field| field.value.as_str())
        };
        match (response.status, header("location")) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => url = address::join(&url, location)?,
            (200..=299, _) => return page::text(header("content-type").unwrap_or_default(), &response.body),
            (status, _) => {
                let said = page::text(header("content-type").unwrap_or_default(), &response.body);
                let said = said.and_then(|text| page::part(&text, 0, 500)).unwrap_or_default();
                return Err(format!("{url} answers with the status {status}: {said}"));
            }
        }
    }
    Err(format!("more than {MAX_REDIRECTS} redirects; the last was to {url}"))
}

fn get(url: &str) -> Result<http::Response, String> {
    let accept = "text/html, text/plain, application/json;q=0.9, text/*;q=0.8";
    http::send(&http::Request {
        method: http::Method::Get,
        url: url.to_owned(),
        headers: vec![http::Field { name: "accept".to_owned(), value: accept.to_owned() }],
        body: None,
    })
}

membrane_plugin::export_tool!(Fetch);
