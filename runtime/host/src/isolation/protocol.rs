//! What host and process say to each other. A frame is a message and, behind it, bytes whose meaning the message gives.
//!
//! The host speaks first (`Confine`), the process answers every message with one of its own. While a `Start` or `Call`
//! runs it may ask for imports; each is answered before it goes on.

use serde::{Deserialize, Serialize};

use crate::World;
use crate::ending::Ending;
use crate::isolation::Confinement;

/// Version of this protocol and of everything behind messages. A process of another is refused.
pub const VERSION: u32 = 3;

/// From the host.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToProcess {
    /// First. Give up all but computing, with at most so much memory to write to, in bytes.
    Confine { data_bytes: u64 },
    /// Compile the component behind it in haste, for other processes. One that does it takes no plugin in.
    Compile,
    /// Take the plugin in. Behind it: its component, or code that was compiled from it before.
    Load { plugin: Plugin, compiled: bool },
    /// Make an instance, after dropping some.
    Start { instance: u32, fuel: u64, dropped: Vec<u32> },
    /// Call a function. Behind it: its parameters.
    Call { instance: u32, function: u8, fuel: u64 },
    /// The result of an import is behind it.
    Imported,
    /// The host ends the call for what an import did.
    End { why: String },
}

/// What a process must know of its plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plugin {
    pub world: World,
    /// Names of its grants.
    pub grants: Vec<String>,
    pub exports_state: bool,
    /// Limit of an instance's memory, in bytes.
    pub memory_bytes: u64,
    /// Compile in haste.
    pub draft: bool,
    /// Hand compiled code out.
    pub keep: bool,
}

/// From the process.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToHost {
    /// It is ready for a plugin.
    Confined { version: u32, confinement: Confinement },
    /// It can't do what is asked of it before it has a plugin. Why.
    Failed { why: String },
    /// The plugin can be started. Behind it: its compiled code, if it was compiled now.
    Loaded,
    /// Compiled code is behind it.
    Compiled,
    /// The component can't be compiled. The compiler's words.
    NotCompiled { why: String },
    /// The component does not fit the contract: the names that differ.
    Mismatch { names: String },
    /// There is the instance.
    Started,
    /// The result of the call is behind it.
    Returned,
    /// The call, or the start, ended without a result.
    Ended(Ending),
    /// An import is behind it.
    Import,
}
