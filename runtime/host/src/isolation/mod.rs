//! Plugins in a process of their own: the same binary, started for one plugin, with nothing of the host in it.
//!
//! The process gets no environment and no file but one end of a socket pair. Before it sees a byte of the plugin it
//! gives up what it could do otherwise ([`confine`]): a session of its own, no new privileges, no core files, a limit of
//! memory, Landlock without a path or a port, and a list of the system calls that computing takes: none that opens,
//! connects, executes, traces or signals. There it compiles the component and runs its instances, as many as there are
//! answers with the plugin.
//!
//! What the plugin imports is asked of the host, which serves it with the same code and the same
//! [limits](crate::limits) as for a plugin in its own process, so that results, charges and errors are the same. The
//! host takes the process to be hostile: frames have a limit of size and a time in which they must come, an
//! import is compared with world and grants once more, and whatever is malformed ends the process. Its death is a
//! failure of the plugin; the next instance gets a new process. Compiled code that comes out of the process goes
//! back into such processes and nowhere else.
//!
//! - `starter.rs`: how a process begins. `jail.rs`: what it gives up.
//! - `protocol.rs`, `frames.rs`: what the two say to each other, and in which form.
//! - `imports.rs`: the imports. **A new function of a WIT interface is a line there**, a new interface a block.
//!   Functions that plugins export are lines of `exports.rs`, in both modes.
//! - `process.rs`: the host's end. `inmate.rs`: the other one.
//! - `compiler.rs`: a process that compiles for those of plugins and runs none of them, so that what it keeps from one
//!   component to the next can't be a plugin's doing.
//!
//! A program that embeds the host names what is to be started in [`ProcessOptions`]: itself with an argument that
//! leads to [`serve`] before it does anything else.

mod compiler;
mod frames;
mod imports;
mod inmate;
mod jail;
mod process;
mod protocol;
mod starter;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use compiler::Compiler;
pub use inmate::{Confined, confine, serve};
pub use process::probe;
pub(crate) use process::{Launch, Process, Remote};
pub use starter::start;

/// The program that plugins run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments, which lead to [`serve`].
    pub arguments: Vec<String>,
}

/// Who is told of what the kernel lacks.
pub type Warn = Arc<dyn Fn(&str) + Send + Sync>;

/// How plugins get a process of their own.
#[derive(Clone)]
pub struct ProcessOptions {
    /// The program to start.
    pub program: Program,
    /// How long the process may take beyond what its fuel takes, in wall time. A process that is silent for longer is
    /// ended.
    pub patience: Duration,
    /// Is told once where the kernel lacks something.
    pub warn: Option<Warn>,
}

impl ProcessOptions {
    /// The options for a program: 30 seconds of patience, and nobody is told of what the kernel lacks.
    pub fn new(program: Program) -> Self {
        Self { program, patience: Duration::from_secs(30), warn: None }
    }
}

/// What keeps a process in, beside that it holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Version of Landlock's interface; none if the kernel has none.
    pub landlock: Option<u32>,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

impl Confinement {
    /// What is missing; none if nothing is.
    pub fn missing(self) -> Option<&'static str> {
        match (self.landlock, self.seccomp) {
            (Some(_), true) => None,
            (Some(_), false) => Some("seccomp"),
            (None, true) => Some("Landlock"),
            (None, false) => Some("Landlock and seccomp"),
        }
    }
}

impl std::fmt::Display for Confinement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.landlock {
            Some(version) => write!(f, "Landlock (version {version})")?,
            None => f.write_str("no Landlock")?,
        }
        f.write_str(if self.seccomp { ", seccomp" } else { ", no seccomp" })
    }
}
