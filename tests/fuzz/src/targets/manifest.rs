//! A plugin's manifest, and parameters checked against it.

use membrane_profile::Manifest;
use serde_json::{Map, Value, json};

use super::shown;

/// Keys and values.
pub const WORDS: &[&str] = &[
    "name = ",
    "version = ",
    "world = \"policy\"",
    "summary = ",
    "grants = [",
    "[parameters.x]",
    "type = \"integer\"",
    "type = \"number\"",
    "type = \"string\"",
    "type = \"boolean\"",
    "default = ",
    "minimum = ",
    "maximum = ",
    "required = true",
    "description = ",
    "choices = [",
    "[asks]",
    "nan",
    "inf",
    "-inf",
    "9223372036854775807",
];

/// Parses it and checks parameters of its names with values of each type.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let manifest = match Manifest::parse(text, "plugin.toml") {
        Ok(manifest) => manifest,
        Err(error) => return shown(&error),
    };
    for value in [
        json!(1),
        json!(-0.5),
        json!(1e300),
        json!("x\u{1b}"),
        json!(true),
        json!([1]),
        json!(null),
        json!({"a": 1}),
    ] {
        let parameters: Map<String, Value> =
            manifest.parameters.keys().map(|name| (name.clone(), value.clone())).collect();
        let _ = manifest.check(&parameters).inspect_err(|error| shown(error));
    }
    let unknown = [("\u{1b}[2J".to_owned(), json!(1))].into_iter().collect();
    let _ = manifest.check(&unknown).inspect_err(|error| shown(error));
}

/// Those of first-party plugins.
pub fn seeds() -> Vec<Vec<u8>> {
    let manifests = [
        include_str!("../../../../plugins/guard/plugin.toml"),
        include_str!("../../../../plugins/standard-sampler/plugin.toml"),
        include_str!("../../../../plugins/files/plugin.toml"),
        include_str!("../../../../plugins/secrets/plugin.toml"),
        include_str!("../../../../plugins/system-prompt/plugin.toml"),
    ];
    manifests.iter().map(|manifest| manifest.as_bytes().to_vec()).collect()
}
