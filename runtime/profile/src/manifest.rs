//! Plugin manifests: what a plugin says about itself in `plugin.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::asks::Asks;
use crate::error::ManifestError;
use crate::plugin::Kind;
use crate::read;

/// The manifest of a plugin.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Lower-case letters, digits and `-`.
    pub name: String,
    /// Version of the plugin, MAJOR.MINOR.PATCH.
    pub version: String,
    /// The world that its component exports.
    pub world: Kind,
    /// One sentence for people.
    pub summary: String,
    /// Grants that it can't run without.
    #[serde(default)]
    pub grants: Vec<String>,
    /// What it wants behind grants that have values.
    #[serde(default)]
    pub asks: Asks,
    /// The parameters that it takes, by name.
    #[serde(default)]
    pub parameters: BTreeMap<String, Parameter>,
}

/// One parameter of a plugin.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// What values it takes.
    #[serde(rename = "type")]
    pub kind: ParameterType,
    /// What it means, with its unit.
    pub description: String,
    /// Its value where the profile gives none; without one, the plugin does without the parameter.
    pub default: Option<Value>,
    /// Whether the profile must give it.
    #[serde(default)]
    pub required: bool,
    /// The least value of an integer or number.
    pub minimum: Option<f64>,
    /// The greatest value of an integer or number.
    pub maximum: Option<f64>,
    /// The strings that are allowed, or that may be elements of a list; all if there are none.
    #[serde(default)]
    pub choices: Vec<String>,
}

/// Types of parameters, those of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParameterType {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// Any finite number.
    Number,
    /// A text.
    String,
    /// A list.
    List,
    /// An object.
    Table,
    /// Whatever the plugin makes of it, such as a text or a table.
    Any,
}

impl fmt::Display for ParameterType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ParameterType::Boolean => "true or false",
            ParameterType::Integer => "a whole number",
            ParameterType::Number => "a number",
            ParameterType::String => "a string",
            ParameterType::List => "a list",
            ParameterType::Table => "a table",
            ParameterType::Any => "a value",
        })
    }
}

impl Manifest {
    /// Reads a `plugin.toml`.
    ///
    /// # Errors
    /// The file can't be read, or as for [`Manifest::parse`].
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        Self::parse(&read::text(path)?, &path.display().to_string())
    }

    /// Parses the text of a manifest; `origin` names it in errors.
    ///
    /// # Errors
    /// Not TOML, an unknown field, a malformed name or version, or a default that the parameter itself
    /// forbids.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ManifestError> {
        let manifest: Manifest = read::toml(origin, text)?;
        let error = |field: &str, message: String| ManifestError::Field {
            origin: origin.to_owned(),
            field: field.to_owned(),
            message,
        };
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if manifest.name.is_empty() || !manifest.name.bytes().all(is_name) {
            return Err(error(
                "name",
                format!("`{}`: use lower-case letters, digits and `-`", manifest.name),
            ));
        }
        let numbers: Vec<&str> = manifest.version.split('.').collect();
        if numbers.len() != 3 || numbers.iter().any(|part| part.parse::<u32>().is_err()) {
            return Err(error("version", format!("`{}` is not MAJOR.MINOR.PATCH", manifest.version)));
        }
        manifest.asks.lines().map_err(|message| error("asks", message))?;
        for (name, parameter) in &manifest.parameters {
            let Some(default) = &parameter.default else { continue };
            let field = format!("parameters.{name}.default");
            if parameter.required {
                return Err(error(&field, "a required parameter has no default".to_owned()));
            }
            parameter.check(default).map_err(|message| error(&field, message))?;
        }
        Ok(manifest)
    }

    /// Checks parameters of a profile before the plugin sees them.
    ///
    /// # Errors
    /// A parameter that the plugin does not have (with those that it has), that is missing, or whose value is
    /// of another type or out of range.
    pub fn check(&self, parameters: &Map<String, Value>) -> Result<(), ManifestError> {
        let error = |parameter: &str, message: String| ManifestError::Parameter {
            plugin: self.name.clone(),
            parameter: parameter.to_owned(),
            message,
        };
        for (name, value) in parameters {
            let parameter = self.parameters.get(name).ok_or_else(|| {
                let known: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                error(name, format!("is not known: the plugin has {known}"))
            })?;
            parameter.check(value).map_err(|message| error(name, message))?;
        }
        match self.parameters.iter().find(|(name, p)| p.required && !parameters.contains_key(*name)) {
            Some((name, parameter)) => Err(error(name, format!("is missing: give {}", parameter.kind))),
            None => Ok(()),
        }
    }
}

impl Parameter {
    /// Checks one value; the error says what is allowed.
    fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match self.kind {
            ParameterType::Boolean => value.is_boolean(),
            ParameterType::Integer => value.is_i64() || value.is_u64(),
            ParameterType::Number => value.is_number(),
            ParameterType::String => value.is_string(),
            ParameterType::List => value.is_array(),
            ParameterType::Table => value.is_object(),
            ParameterType::Any => true,
        };
        if !fits {
            return Err(format!("{value} is not {}", self.kind));
        }
        if let Some(number) = value.as_f64() {
            if self.minimum.is_some_and(|minimum| number < minimum) {
                return Err(format!("{value} is less than {}", self.minimum.unwrap_or_default()));
            }
            if self.maximum.is_some_and(|maximum| number > maximum) {
                return Err(format!("{value} is more than {}", self.maximum.unwrap_or_default()));
            }
        }
        let elements = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let stranger =
            elements.iter().find(|v| v.as_str().is_some_and(|v| !self.choices.iter().any(|c| c == v)));
        match stranger {
            Some(stranger) if !self.choices.is_empty() => {
                Err(format!("{stranger} is not one of {}", self.choices.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MANIFEST: &str = r#"
name = "example"
version = "0.1.0"
world = "sampler"
summary = "An example."
grants = ["all-logits"]
[asks]
hosts = ["api.example.org"]
folders = [{ name = "notes", write = true }]
environment = ["LANG"]
secrets = [{ name = "key", host = "api.example.org" }]
[parameters.strength]
type = "number"
default = 0.5
minimum = 0
maximum = 1
description = "How strong, 0 to 1."
[parameters.steps]
type = "list"
choices = ["one", "two"]
description = "Which steps."
[parameters.rules]
type = "string"
required = true
description = "The rules."
"#;

    fn check(parameters: Value) -> Result<(), String> {
        let manifest = Manifest::parse(MANIFEST, "plugin.toml").unwrap();
        manifest.check(parameters.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_manifest_is_read_with_its_parameters() {
        let manifest = Manifest::parse(MANIFEST, "plugin.toml").unwrap();
        assert_eq!((manifest.world, manifest.grants.len()), (Kind::Sampler, 1));
        assert_eq!(
            manifest.asks.lines().unwrap(),
            [
                "read and write a folder that it calls notes",
                "reach https://api.example.org:443",
                "read the environment variable LANG",
                "have a secret key sent to https://api.example.org:443, unseen",
            ]
        );
        assert_eq!(manifest.parameters["strength"].default, Some(json!(0.5)));
    }

    #[test]
    fn parameters_are_checked_by_name_type_and_range() {
        assert_eq!(check(json!({"rules": "x", "strength": 1, "steps": ["two"]})), Ok(()));
        for (parameters, expected) in [
            (json!({"rules": "x", "force": 1}), "is not known: the plugin has rules, steps, strength"),
            (json!({"rules": 5}), "5 is not a string"),
            (json!({"rules": "x", "strength": 1.5}), "1.5 is more than 1"),
            (json!({"rules": "x", "strength": -1}), "-1 is less than 0"),
            (json!({"rules": "x", "strength": "high"}), "\"high\" is not a number"),
            (json!({"rules": "x", "steps": ["one", "three"]}), "\"three\" is not one of one, two"),
            (json!({}), "parameter `rules`: is missing: give a string"),
        ] {
            let error = check(parameters).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_malformed_manifest_names_its_field() {
        for (from, to, expected) in [
            ("\"example\"", "\"My Plugin\"", "name: `My Plugin`"),
            ("0.1.0", "one", "version: `one` is not"),
            ("default = 0.5", "default = 2", "parameters.strength.default: 2 is more than 1"),
            ("\"sampler\"", "\"server\"", "plugin.toml:4: unknown variant `server`"),
            ("[\"api.example.org\"]", "[\"*\"]", "asks: hosts: `*` is no host"),
            ("[\"LANG\"]", "[\"L=\"]", "asks: environment: `L=`"),
            ("name = \"notes\"", "name = \"..\"", "asks: folders: `..`"),
            ("name = \"key\", host", "name = \"key\", value = \"x\", host", "unknown field `value`"),
            ("summary", "sumary", "unknown field `sumary`"),
            ("required = true", "required = true\ndefault = \"\"", "a required parameter has no default"),
        ] {
            let text = MANIFEST.replace(from, to);
            let error = Manifest::parse(&text, "plugin.toml").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
