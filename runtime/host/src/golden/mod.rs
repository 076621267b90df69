//! Golden cases: what a plugin does, written down as data in the folder `golden` beside its source, and run against
//! its component.
//!
//! [`GoldenCases::read`] reads a folder, [`GoldenCases::run`] gives what came of each case. The cases
//! start the plugin anew with their own parameters and the grants and limits that it was loaded with;
//! it is not compiled again. `plugins/README.md` describes the files.
//!
//! ```no_run
//! # use std::path::Path;
//! # use membrane_host::{Host, HostOptions, PluginSource, World, golden::GoldenCases};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cases = GoldenCases::read(Path::new("greedy/golden"), World::Sampler)?;
//! let host = Host::new(HostOptions::default())?;
//! let source = PluginSource::new("greedy", std::fs::read("greedy.wasm")?, World::Sampler);
//! let report = cases.run(&host, &host.load(source, World::Sampler)?)?;
//! for outcome in report.failures() {
//!     println!("{outcome}");
//! }
//! # Ok(())
//! # }
//! ```

mod agents;
mod judges;
mod policies;
mod read;
mod report;
mod samplers;
mod stage;
mod tools;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::engine::Host;
use crate::error::{HostError, Result};
use crate::plugin::Plugin;
use crate::{World, error};

pub use policies::Cut;
pub use read::GoldenError;
pub use report::{GoldenReport, Mismatch, Outcome, Place};

/// The golden cases of a plugin.
#[derive(Debug)]
pub struct GoldenCases {
    world: World,
    cases: Vec<Case>,
}

/// One case.
#[derive(Debug)]
struct Case {
    /// The file that it stands in.
    file: PathBuf,
    /// Its place in the file, from 1.
    number: usize,
    /// What it shows, a sentence.
    about: String,
    parameters: Map<String, Value>,
    expected: Expected,
}

/// What must come of a case.
#[derive(Debug)]
enum Expected {
    /// The plugin does not start; the error has this part.
    Refused(String),
    Sampler(samplers::Case),
    Policy(policies::Case),
    Tool(tools::Case),
    Agent(agents::Case),
}

impl GoldenCases {
    /// Reads every `*.json` of a folder, in the order of their names. `world` is that of the plugin.
    ///
    /// # Errors
    /// The folder or a file can't be read, is larger than is read, or a case is malformed; the error names
    /// file, case and field.
    pub fn read(folder: &Path, world: World) -> Result<Self, GoldenError> {
        Ok(Self { world, cases: read::folder(folder, world)? })
    }

    /// Number of cases.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Parameters of the first case in which the plugin starts.
    pub fn first_parameters(&self) -> Option<&Map<String, Value>> {
        self.first().map(|case| &case.parameters)
    }

    fn first(&self) -> Option<&Case> {
        self.cases.iter().find(|case| !matches!(case.expected, Expected::Refused(_)))
    }

    /// Runs the first case in which the plugin starts, if there is one.
    ///
    /// # Errors
    /// The plugin is of another world than the cases.
    pub fn run_first(&self, host: &Host, plugin: &Plugin) -> Result<Option<Outcome>> {
        self.fit(plugin)?;
        Ok(self.first().map(|case| case.run(host, plugin)))
    }

    /// Runs all cases, each on instances of its own. What the plugin does wrong is in the report.
    ///
    /// # Errors
    /// The plugin is of another world than the cases.
    pub fn run(&self, host: &Host, plugin: &Plugin) -> Result<GoldenReport> {
        self.fit(plugin)?;
        Ok(GoldenReport { outcomes: self.cases.iter().map(|case| case.run(host, plugin)).collect() })
    }

    fn fit(&self, plugin: &Plugin) -> Result<()> {
        if plugin.world() == self.world { Ok(()) } else { Err(error::wrong_world(plugin, self.world)) }
    }
}

impl Case {
    fn run(&self, host: &Host, plugin: &Plugin) -> Outcome {
        let plugin = plugin.with_parameters(self.parameters.clone());
        let result = match &self.expected {
            Expected::Refused(part) => refused(host, &plugin, part),
            Expected::Sampler(case) => case.run(host, &plugin),
            Expected::Policy(case) => case.run(host, &plugin),
            Expected::Tool(case) => case.run(host, &plugin),
            Expected::Agent(case) => case.run(&plugin),
        };
        Outcome { file: self.file.clone(), number: self.number, about: self.about.clone(), result }
    }
}

/// Starts a plugin that must not start.
fn refused(host: &Host, plugin: &Plugin, part: &str) -> Result<(), Mismatch> {
    let plugins = std::slice::from_ref(plugin);
    let started = match plugin.world() {
        World::Sampler => samplers::start_bare(host, plugins),
        World::Policy => crate::PolicyChain::start(host, plugins).map(drop),
        World::Tool => crate::ToolSet::start(host, plugins).map(drop),
        World::Agent => agents::start_bare(plugin),
    };
    match started {
        Ok(()) => Err(Mismatch::Started { expected: part.to_owned() }),
        Err(error) if error.to_string().contains(part) => Ok(()),
        Err(error) => Err(Mismatch::differs(Place::Start, "the error", error, part)),
    }
}

/// A plugin that must start.
fn started<T>(result: Result<T, HostError>) -> Result<T, Mismatch> {
    result.map_err(|error| Mismatch::Failed { place: Place::Start, error: Box::new(error) })
}
