//! Canonical JSON: keys sorted by code point, no white space, numbers as serde_json prints them.

use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::plugin::ResolvedPlugin;
use crate::profile::Profile;

/// The form of this text; it changes when what counts for the digest changes.
const FORM: &str = "membrane-profile-1";

/// The text over which the digest of a profile is taken.
pub(crate) fn profile(profile: &Profile, components: &[Digest]) -> String {
    let plugins: Vec<Value> =
        profile.plugins().zip(components).map(|(p, digest)| plugin(p, digest)).collect();
    let generation = &profile.generation;
    let value = json!({
        "form": FORM,
        "generation": {
            "max_tokens": generation.max_tokens, "seed": generation.seed, "context": generation.context,
        },
        "plugins": plugins,
    });
    sorted(value).to_string()
}

/// The canonical text of a value.
pub(crate) fn text(value: &Value) -> String {
    sorted(value.clone()).to_string()
}

fn plugin(plugin: &ResolvedPlugin, digest: &Digest) -> Value {
    let mut grants = plugin.grants.clone();
    grants.sort_unstable();
    let mut value = json!({
        "kind": plugin.kind.as_str(),
        "name": plugin.name,
        "digest": digest.to_string(),
        "parameters": plugin.parameters,
        "grants": grants,
        "limits": {
            "fuel_per_call": plugin.limits.fuel_per_call,
            "memory": plugin.limits.memory.map(|size| size.bytes()),
        },
    });
    // What most plugins don't have stands only where it is, so that their digests are those of earlier versions.
    if !plugin.authority.is_empty() {
        value["authority"] = json!(plugin.authority.lines());
    }
    if let Some(wall) = plugin.limits.wall_ms {
        value["limits"]["wall_ms"] = json!(wall);
    }
    value
}

/// The same value with the keys of every object sorted.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> =
                map.into_iter().map(|(key, v)| (key, sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({"b": [{"z": 1, "a": 2}], "a": {"d": null, "c": "x"}});
        assert_eq!(sorted(value).to_string(), r#"{"a":{"c":"x","d":null},"b":[{"a":2,"z":1}]}"#);
    }
}
