//! The SDKs, the templates of new plugins and the contract, as the program carries them.

use clap::ValueEnum;
use membrane_profile::Kind;

/// Files below `sdk/` and `wit/` of the source tree, by their path there; the build script writes the table.
const CARRIED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/carried.rs"));

/// A language that plugins can be written in with an SDK of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Rust, with cargo.
    Rust,
    /// C, with clang or zig.
    C,
    /// JavaScript, with componentize-qjs.
    #[value(name = "js", alias = "javascript")]
    JavaScript,
    /// Python, with componentize-py.
    #[value(alias = "py")]
    Python,
}

impl Language {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Rust, Self::C, Self::JavaScript, Self::Python];

    /// Name of its folder in `sdk/`.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }

    /// The files in a plugin's folder, any of which says that it is of this language. Templates have the first. Zig is built over
    /// the SDK for C.
    pub const fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Rust => &["Cargo.toml"],
            Self::C => &["plugin.c", "plugin.zig"],
            Self::JavaScript => &["plugin.js"],
            Self::Python => &["plugin.py"],
        }
    }
}

/// The files of a new plugin: path in its folder, and text.
pub fn files(language: Language, world: Kind, name: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let sdk = format!("sdk/{}/", language.folder());
    let template = format!("template/{world}/");
    for (path, text) in CARRIED {
        if let Some(path) = path.strip_prefix("wit/") {
            // The crate of the SDK has the contract in itself.
            let folder = if language == Language::Rust { "sdk/wit" } else { "wit" };
            files.push((format!("{folder}/{path}"), (*text).to_owned()));
            continue;
        }
        let Some(path) = path.strip_prefix(&sdk) else { continue };
        if let Some(path) = path.strip_prefix(&template) {
            files.push((path.to_owned(), named(text, world, name)));
        } else if is_part_of_sdk(language, path, world) {
            let text = text.replace("path: \"../../wit\"", "path: \"wit\"");
            files.push((format!("sdk/{path}"), text));
        }
    }
    // In the source tree it would hold there, too.
    files
        .push((".gitignore".to_owned(), "build/\ntarget/\nnode_modules/\n.venv/\n__pycache__/\n".to_owned()));
    files
}

/// Whether a new plugin of a world needs this file of the SDK (path from the SDK's folder).
fn is_part_of_sdk(language: Language, path: &str, world: Kind) -> bool {
    let elsewhere = ["template/", "tests/"].iter().any(|folder| path.starts_with(folder));
    if elsewhere || path == "README.md" || path.ends_with(".lock") {
        return false;
    }
    // The crate is one piece; the other SDKs have files for each world.
    let stem = path.rsplit('/').next().and_then(|file| file.split('.').next());
    let worlds = [Kind::Sampler, Kind::Policy, Kind::Tool, Kind::Agent];
    let of = match stem {
        // An interface of policies alone.
        Some("judge") => Some(Kind::Policy),
        stem => worlds.into_iter().find(|kind| stem == Some(kind.as_str())),
    };
    language == Language::Rust || of.is_none_or(|of| of == world)
}

/// A text of a template with the name of the new plugin in it. The templates are called after their worlds, since packages of
/// one name that are built into one folder take each other for themselves.
fn named(text: &str, world: Kind, name: &str) -> String {
    text.replace("path = \"../..\"", "path = \"sdk\"")
        .replace(&format!("my-{world}"), name)
        .replace(&format!("my_{world}"), &name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use membrane_profile::Manifest;

    use super::*;

    #[test]
    fn every_template_is_whole_and_has_the_plugins_name() {
        for language in Language::ALL {
            for world in [Kind::Sampler, Kind::Policy, Kind::Tool, Kind::Agent] {
                let files = files(language, world, "two-words");
                let text = |path: &str| {
                    let found = files.iter().find(|(name, _)| name == path);
                    found.map_or_else(
                        || panic!("{language:?} {world} has no {path}"),
                        |(_, text)| text.as_str(),
                    )
                };
                let manifest = Manifest::parse(text("plugin.toml"), "plugin.toml").unwrap();
                assert_eq!((manifest.name.as_str(), manifest.world), ("two-words", world));
                for needed in [language.markers()[0], "README.md", "golden/first.json", ".gitignore"] {
                    assert!(!text(needed).is_empty(), "{language:?} {world}: {needed}");
                }
                for (path, text) in &files {
                    assert!(!text.contains(&format!("my-{world}")) && !text.contains("my-plugin"), "{path}");
                    assert!(!path.contains(".."), "{path}");
                }
                let mut paths: Vec<&String> = files.iter().map(|(path, _)| path).collect();
                paths.sort();
                paths.dedup();
                assert_eq!(paths.len(), files.len());
            }
        }
    }

    #[test]
    fn a_plugin_gets_the_sdk_of_its_own_world() {
        let has =
            |language, world, path: &str| files(language, world, "a").iter().any(|(name, _)| name == path);
        assert!(
            has(Language::C, Kind::Policy, "sdk/policy.c") && has(Language::C, Kind::Policy, "sdk/json.c")
        );
        assert!(!has(Language::C, Kind::Policy, "sdk/sampler.c"));
        assert!(has(Language::Python, Kind::Tool, "sdk/membrane/tool.py"));
        assert!(!has(Language::Python, Kind::Tool, "sdk/membrane/policy.py"));
        assert!(has(Language::Rust, Kind::Sampler, "sdk/src/policy.rs"));
        assert!(has(Language::Rust, Kind::Sampler, "sdk/wit/world.wit"));
        assert!(!has(Language::Rust, Kind::Sampler, "wit/world.wit"));
    }

    #[test]
    fn the_sdk_in_a_new_folder_finds_the_contract_there() {
        let files = files(Language::Rust, Kind::Sampler, "a");
        let of = |path: &str| &files.iter().find(|(name, _)| name == path).unwrap().1;
        assert!(of("Cargo.toml").contains("path = \"sdk\""));
        assert!(of("sdk/src/bindings.rs").contains("path: \"wit\""));
        assert!(!of("sdk/src/bindings.rs").contains("../"));
    }
}
