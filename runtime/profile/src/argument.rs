//! Plugins as they are written on the command line.

use std::str::FromStr;

use serde_json::{Map, Value};

use crate::authority::{self, Written};
use crate::error::ProfileError;
use crate::plugin::Isolation;

/// A `--sampler`, `--policy` or `--tool` argument: `PLUGIN[,KEY=VALUE]...`, such as
/// `standard-sampler,temperature=0.2,top_k=10` or `./guard.wasm,rules=file:rules.toml`.
///
/// PLUGIN is a first-party name or a path. A value that is JSON is taken as such, any other as a string; a
/// comma in a string, list or object of JSON does not end the value. The key `grant` adds a grant:
/// `clock,grant=clock`; one that has values is given with one of them, and may be repeated:
/// `files,grant=files:notes=./notes:rw`, `http-fetch,grant=http:example.org`,
/// `"http-fetch,grant=http:http://localhost:8080 private"`, `./x.wasm,grant=environment:LANG`. The key `isolation` says
/// where the plugin runs: `none`, `process` or `required`.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginArgument {
    /// A first-party name or a path, as in a profile.
    pub plugin: String,
    /// Parameters; `file:PATH` is not read yet.
    pub parameters: Map<String, Value>,
    /// Names of grants.
    pub grants: Vec<String>,
    /// Values of grants.
    pub(crate) authority: Written,
    /// Where its instances run, if it says.
    pub isolation: Option<Isolation>,
}

impl FromStr for PluginArgument {
    type Err = ProfileError;

    fn from_str(argument: &str) -> Result<Self, ProfileError> {
        let error = |message: String| ProfileError::Argument { argument: argument.to_owned(), message };
        let mut parts = split(argument).into_iter();
        let plugin = parts.next().unwrap_or_default().to_owned();
        if plugin.is_empty() {
            return Err(error("names no plugin: write PLUGIN[,KEY=VALUE]...".to_owned()));
        }
        let mut parsed = Self {
            plugin,
            parameters: Map::new(),
            grants: Vec::new(),
            authority: Written::default(),
            isolation: None,
        };
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| error(format!("`{part}` is not KEY=VALUE{}", hint(argument))))?;
            if key == "grant" {
                parsed.grant(value).map_err(error)?;
                continue;
            }
            if key == "isolation" {
                if parsed.isolation.replace(value.parse().map_err(error)?).is_some() {
                    return Err(error("`isolation` is given twice".to_owned()));
                }
                continue;
            }
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            if parsed.parameters.insert(key.to_owned(), value).is_some() {
                return Err(error(format!("`{key}` is given twice")));
            }
        }
        Ok(parsed)
    }
}

impl PluginArgument {
    /// Adds a grant: a name, or a name and a value with `:` between them, as a JSON string where it has a comma in it.
    fn grant(&mut self, grant: &str) -> Result<(), String> {
        let grant = serde_json::from_str(grant).unwrap_or_else(|_| grant.to_owned());
        let (name, value) = match grant.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (grant.as_str(), None),
        };
        if !self.grants.iter().any(|known| known == name) {
            self.grants.push(name.to_owned());
        }
        value.map_or(Ok(()), |value| authority::add_argument(&mut self.authority, name, value))
    }
}

/// Where a comma seems to stand in a value that is no JSON: how it could be one.
fn hint(argument: &str) -> &'static str {
    let values = split(argument).into_iter().filter_map(|part| part.split_once('='));
    match values.into_iter().any(|(_, value)| value.starts_with(['"', '[', '{']) && json_length(value) == 0) {
        true => {
            "; the comma before it ends a value, since what begins with a quote or a bracket there is no JSON"
        }
        false => "",
    }
}

/// Splits at the commas that are outside of JSON strings, lists and objects. Such a value starts right behind
/// the `=`, so that a quote or a bracket inside a plain value has no meaning.
fn split(argument: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = argument;
    loop {
        let value = rest.find('=').filter(|equals| rest.find(',').is_none_or(|comma| *equals < comma));
        let from = match value {
            Some(equals) => equals + 1 + json_length(&rest[equals + 1..]),
            None => 0,
        };
        match rest[from..].find(',') {
            Some(comma) => {
                parts.push(&rest[..from + comma]);
                rest = &rest[from + comma + 1..];
            }
            None => {
                parts.push(rest);
                return parts;
            }
        }
    }
}

/// Length in bytes of the JSON string, list or object that `text` starts with; 0 if it starts with none.
fn json_length(text: &str) -> usize {
    if !text.starts_with(['"', '[', '{']) {
        return 0;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(_)) => values.byte_offset(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_json_where_they_can_be() {
        let argument: PluginArgument =
            r#"./a.wasm,t=0.5,text=hello there,list=["a,b",2],o={"x":[1,2]},s="q,r",grant=clock,on=true"#
                .parse()
                .unwrap();
        assert_eq!(argument.plugin, "./a.wasm");
        assert_eq!(argument.grants, ["clock"]);
        let expected = json!({
            "t": 0.5, "text": "hello there", "list": ["a,b", 2], "o": {"x": [1, 2]}, "s": "q,r", "on": true,
        });
        assert_eq!(Value::Object(argument.parameters), expected);
    }

    #[test]
    fn grants_have_values_behind_their_names() {
        let argument: PluginArgument =
            r#"x,grant="files:a=/tmp/a,b:rw",grant=files:b=c,grant=http:http://localhost:1,grant=environment:LANG"#
                .parse()
                .unwrap();
        assert_eq!(argument.grants, ["files", "http", "environment"]);
        let folders = argument.authority.folders.iter().map(|f| (f.name.as_str(), f.path.as_str(), f.write));
        assert_eq!(folders.collect::<Vec<_>>(), [("a", "/tmp/a,b", true), ("b", "c", false)]);
        assert_eq!(
            (argument.authority.hosts.len(), &argument.authority.environment[..]),
            (1, &["LANG".to_owned()][..])
        );
    }

    #[test]
    fn a_plugin_alone_has_no_parameters() {
        let argument: PluginArgument = "greedy".parse().unwrap();
        assert!(argument.parameters.is_empty() && argument.grants.is_empty());
    }

    #[test]
    fn malformed_arguments_say_how_they_are_written() {
        for (text, expected) in [
            ("", "names no plugin"),
            (",a=1", "names no plugin"),
            ("x,a", "KEY=VALUE"),
            (r#"x,schema={"a": 1, b}"#, "` b}` is not KEY=VALUE; the comma before it"),
            ("x,=1", "KEY=VALUE"),
            ("x,a=1,a=2", "given twice"),
            ("x,grant=clock:1", "takes no value"),
            ("x,grant=files:/tmp", "files:NAME=PATH"),
            ("x,isolation=jail", "`none`, `process` or `required`"),
            ("x,isolation=none,isolation=process", "given twice"),
        ] {
            let error = text.parse::<PluginArgument>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
