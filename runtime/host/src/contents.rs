//! What a component imports and exports, read from its bytes before anything is compiled.

use std::ops::Range;

use wasmparser::{Encoding, Parser, Payload};

use crate::error::{HostError, Result};
use crate::grants::Grant;
use crate::interfaces;
use crate::limits::{MAX_COMPONENT_BYTES, MAX_FUNCTION_BYTES, MAX_FUNCTIONS, MAX_MODULES, MAX_NAMES};
use crate::{CONTRACT_PACKAGE, CONTRACT_VERSION, World};

const WORLDS: [World; 4] = [World::Sampler, World::Policy, World::Tool, World::Agent];

/// Names of a component's imports and exports.
#[derive(Debug, Default)]
pub struct Contents {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
}

impl Contents {
    /// Reads the outermost sections of a component. Errors: not a component, malformed, or beyond a limit.
    pub fn read(plugin: &str, bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_COMPONENT_BYTES {
            return Err(HostError::TooLarge { plugin: plugin.into(), bytes: bytes.len() });
        }
        let not_a_component = |cause: String| HostError::NotAComponent { plugin: plugin.into(), cause };
        if bytes.starts_with(b"\x7fELF") {
            let cause =
                "is precompiled machine code, which is not taken from files; give the component (.wasm)";
            return Err(not_a_component(cause.into()));
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(not_a_component("is not WebAssembly; give a component (.wasm)".into()));
        }
        Self::walk(bytes).map_err(not_a_component)
    }

    fn walk(bytes: &[u8]) -> Result<Self, String> {
        let mut contents = Self::default();
        let mut counts = Counts::default();
        let malformed = |error: wasmparser::BinaryReaderError| format!("is malformed: {error}");
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(malformed)? {
                Payload::Version { encoding, .. } => counts.enter(encoding)?,
                Payload::End(_) => counts.depth -= 1,
                Payload::ComponentImportSection(section) if counts.depth == 1 => {
                    for import in section {
                        contents.imports.push(import.map_err(malformed)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if counts.depth == 1 => {
                    for export in section {
                        contents.exports.push(export.map_err(malformed)?.name.name.to_owned());
                    }
                }
                Payload::CodeSectionStart { count, .. } => counts.functions(count)?,
                Payload::CodeSectionEntry(body) => Counts::body(body.range())?,
                _ => {}
            }
            if contents.imports.len().max(contents.exports.len()) > MAX_NAMES {
                return Err(format!("has more than {MAX_NAMES} imports or exports"));
            }
        }
        Ok(contents)
    }

    /// The world that the component exports. Errors: none, several, or one of another version.
    pub fn world(&self, plugin: &str) -> Result<World> {
        self.check_versions(plugin)?;
        let exported = |world: &World| self.exports.iter().any(|name| *name == export_of(*world));
        let found: Vec<World> = WORLDS.into_iter().filter(exported).collect();
        match found[..] {
            [world] => Ok(world),
            [] => Err(HostError::NoWorld {
                plugin: plugin.into(),
                expected: WORLDS.map(|world| format!("`{}`", export_of(world))).join(", "),
            }),
            _ => Err(HostError::SeveralWorlds {
                plugin: plugin.into(),
                found: found.iter().map(World::to_string).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Whether the component exports the optional interface `state`.
    pub fn exports_state(&self) -> bool {
        let is_state = |name: Name<'_>| name.is_ours() && name.interface == "state";
        self.exports.iter().any(|name| Name::parse(name).is_some_and(is_state))
    }

    /// Compares imports with what the world and the grants offer. Errors: an import that is not offered.
    pub fn check_imports(&self, plugin: &str, world: World, grants: &[Grant]) -> Result<()> {
        if let Some(&grant) = grants.iter().find(|grant| grant.world() != world) {
            return Err(HostError::UselessGrant { plugin: plugin.into(), grant, world });
        }
        let common = interfaces::common(world);
        for import in &self.imports {
            let interface = Name::parse(import).filter(Name::is_ours).map(|name| name.interface);
            if interface.is_some_and(|interface| common.contains(&interface)) {
                continue;
            }
            let (plugin, shown) = (plugin.to_owned(), crate::text::clean(import, 200));
            match Grant::ALL
                .into_iter()
                .find(|grant| interface.is_some() && interface == grant.interface() && grant.world() == world)
            {
                Some(grant) if grants.contains(&grant) => {}
                Some(grant) => return Err(HostError::NotGranted { plugin, import: shown, grant }),
                None => return Err(HostError::UnknownImport { plugin, import: shown, world }),
            }
        }
        Ok(())
    }

    /// The grant that an import needs.
    pub fn grant_of(&self, import: &str) -> Option<Grant> {
        let interface = Name::parse(import).filter(|name| name.package == CONTRACT_PACKAGE)?.interface;
        Grant::ALL.into_iter().find(|grant| grant.interface() == Some(interface))
    }

    /// The versions of our package that its names have.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        let names = self.exports.iter().chain(&self.imports).filter_map(|name| Name::parse(name));
        names.filter(|name| name.package == CONTRACT_PACKAGE).map(|name| name.version)
    }

    /// Refuses names of our package in another version, so that people read of versions and not of missing
    /// imports.
    fn check_versions(&self, plugin: &str) -> Result<()> {
        let names = self.exports.iter().chain(&self.imports);
        let stranger = names
            .filter_map(|name| Name::parse(name).map(|parsed| (name, parsed)))
            .find(|(_, parsed)| parsed.package == CONTRACT_PACKAGE && parsed.version != CONTRACT_VERSION);
        match stranger {
            None => Ok(()),
            Some((name, parsed)) => Err(HostError::Version {
                plugin: plugin.into(),
                name: crate::text::clean(name, 200),
                found: crate::text::clean(parsed.version, 64),
                served: CONTRACT_VERSION,
            }),
        }
    }
}

/// The interface that makes a component a plugin of a world.
fn export_of(world: World) -> String {
    format!("{CONTRACT_PACKAGE}/{world}-plugin@{CONTRACT_VERSION}")
}

/// The parts of `package/interface@version`.
struct Name<'a> {
    package: &'a str,
    interface: &'a str,
    version: &'a str,
}

impl<'a> Name<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (package, rest) = name.split_once('/')?;
        let (interface, version) = rest.split_once('@')?;
        Some(Self { package, interface, version })
    }

    fn is_ours(&self) -> bool {
        self.package == CONTRACT_PACKAGE && self.version == CONTRACT_VERSION
    }
}

/// What has been met so far, against limits.
#[derive(Default)]
struct Counts {
    depth: usize,
    modules: u64,
    functions: u64,
}

impl Counts {
    fn enter(&mut self, encoding: Encoding) -> Result<(), String> {
        if self.depth == 0 && encoding == Encoding::Module {
            return Err("is a core module, not a component; link it with `wasm-component-ld`, as \
                        plugins/.cargo/config.toml does"
                .into());
        }
        self.depth += 1;
        self.modules += 1;
        if self.modules > MAX_MODULES {
            return Err(format!("has more than {MAX_MODULES} modules"));
        }
        Ok(())
    }

    fn functions(&mut self, count: u32) -> Result<(), String> {
        self.functions += u64::from(count);
        if self.functions > MAX_FUNCTIONS {
            return Err(format!("has more than {MAX_FUNCTIONS} functions"));
        }
        Ok(())
    }

    fn body(range: Range<usize>) -> Result<(), String> {
        if range.len() > MAX_FUNCTION_BYTES as usize {
            return Err(format!(
                "has a function of {} bytes; the limit is {MAX_FUNCTION_BYTES}",
                range.len()
            ));
        }
        Ok(())
    }
}
