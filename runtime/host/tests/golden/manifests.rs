//! What a manifest says is what the plugin does.

use std::fs;

use membrane_host::first_party::{self, FirstParty};
use membrane_host::{
    Grant, Host, HostError, HostOptions, PluginSource, PolicyChain, SamplerChain, ToolSet, World,
};
use membrane_profile::{Parameter, ParameterType};
use serde_json::{Map, Value, json};

use crate::{common, folder, load, manifest};

/// Starts a plugin with parameters.
fn start(plugin: &FirstParty, parameters: Map<String, Value>) -> Result<(), HostError> {
    let (host, loaded) = load(plugin, parameters);
    match plugin.world {
        World::Sampler => SamplerChain::start(&host, &[loaded], common::context(1, 0)).map(drop),
        World::Policy => PolicyChain::start(&host, &[loaded]).map(drop),
        World::Tool => ToolSet::start(&host, &[loaded]).map(drop),
        World::Agent => unreachable!("agents need a model; their golden cases start them"),
    }
}

/// The plugins that start without a model.
fn started_here() -> impl Iterator<Item = &'static FirstParty> {
    first_party::list().filter(|plugin| plugin.world != World::Agent)
}

/// Values for the parameters that a plugin can't do without.
fn required(plugin: &FirstParty) -> Map<String, Value> {
    let value = |name: &str| match name {
        "rules" => fs::read_to_string(folder(plugin).join("rules.toml")).unwrap(),
        _ => "A text of some length.".to_owned(),
    };
    let parameters = manifest(plugin).parameters;
    let needed = parameters.into_iter().filter(|(_, parameter)| parameter.required);
    needed.map(|(name, _)| (name.clone(), json!(value(&name)))).collect()
}

/// Values at and just beyond the limits of a parameter, and whether they are within.
fn borders(parameter: &Parameter) -> Vec<(Value, bool)> {
    let number = |value: f64| match parameter.kind {
        ParameterType::Integer => json!(value as i64),
        _ => json!(value),
    };
    let mut borders = Vec::new();
    for (limit, beyond) in [(parameter.minimum, -1.0), (parameter.maximum, 1.0)] {
        if let Some(limit) = limit {
            borders.push((number(limit), true));
            borders.push((number(limit + beyond), false));
        }
    }
    if parameter.kind == ParameterType::String {
        borders.extend(parameter.choices.iter().map(|choice| (json!(choice), true)));
    }
    if !parameter.choices.is_empty() {
        let stranger =
            if parameter.kind == ParameterType::List { json!(["none-such"]) } else { json!("none-such") };
        borders.push((stranger, false));
    }
    borders
}

#[test]
fn names_worlds_and_versions_agree() {
    for plugin in first_party::list() {
        let manifest = manifest(plugin);
        assert_eq!((manifest.name.as_str(), manifest.world), (plugin.name, plugin.world));
        assert_eq!(Host::world_of(plugin.name, plugin.bytes), Ok(plugin.world));
    }
}

#[test]
fn defaults_are_taken_and_what_is_required_is_missed() {
    for plugin in started_here() {
        let mut parameters = required(plugin);
        start(plugin, parameters.clone()).unwrap_or_else(|error| panic!("{error}"));
        for name in parameters.keys() {
            let mut without = parameters.clone();
            without.remove(name);
            assert!(start(plugin, without).is_err(), "{} starts without {name}", plugin.name);
        }
        for (name, parameter) in manifest(plugin).parameters {
            parameters.extend(parameter.default.map(|default| (name, default)));
        }
        start(plugin, parameters).unwrap_or_else(|error| panic!("with its defaults, {error}"));
    }
}

#[test]
fn ranges_and_choices_are_those_of_the_plugin() {
    for plugin in started_here() {
        for (name, parameter) in manifest(plugin).parameters {
            for (value, within) in borders(&parameter) {
                let mut parameters = required(plugin);
                parameters.insert(name.clone(), value.clone());
                assert_eq!(manifest(plugin).check(&parameters).is_ok(), within, "{name} = {value}");
                let started = start(plugin, parameters);
                assert_eq!(started.is_ok(), within, "{} {name} = {value}: {started:?}", plugin.name);
            }
        }
        let mut parameters = required(plugin);
        parameters.insert("none_such".to_owned(), json!(1));
        let error = start(plugin, parameters).unwrap_err().to_string();
        assert!(error.contains("`none_such`"), "{error}");
    }
}

#[test]
fn each_grant_is_needed_and_no_other() {
    let host = Host::new(HostOptions::default()).unwrap();
    for plugin in first_party::list() {
        let source = |grants: &[String]| {
            let source = PluginSource::new(plugin.name, plugin.bytes, plugin.world);
            PluginSource { grants: Grant::parse_all(grants).unwrap(), ..source }
        };
        let grants = manifest(plugin).grants;
        host.load(source(&grants), plugin.world).unwrap_or_else(|error| panic!("{error}"));
        // The others are missed when the plugin does what they are for.
        let imported = |name: &&String| name.parse::<Grant>().unwrap().interface().is_some();
        for missing in grants.iter().filter(imported) {
            let others: Vec<String> = grants.iter().filter(|grant| *grant != missing).cloned().collect();
            let error = host.load(source(&others), plugin.world).unwrap_err();
            assert!(matches!(error, HostError::NotGranted { .. }), "{error}");
        }
    }
}
