//! How calls end without a result.

use serde::{Deserialize, Serialize};
use wasmtime::Trap;

use crate::CONTRACT;
use crate::error::Cause;
use crate::limits::{MAX_SHOWN_BYTES, MAX_TRANSFER_BYTES};
use crate::plugin::Plugin;
use crate::state::State;

/// What wasmtime says where an export has another type than its binding; it keeps the type of this error to itself.
const TYPES_DIFFER: &str = "failed to convert function to given type";

/// How a call of an instance ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// Its fuel was used up.
    Fuel,
    /// The stack was used up.
    Recursion,
    /// It trapped after memory was denied to it.
    Memory,
    /// An unreachable instruction.
    Unreachable,
    /// An access outside its memory.
    OutOfBounds,
    /// It handed over too much.
    Transfer,
    /// An export has another type than the contract's.
    TypesDiffer,
    /// Another trap, or an error of the host.
    Trapped(String),
    /// The process that it ran in is gone. Why.
    Process(String),
}

impl Ending {
    /// Reads an error of wasmtime. `denied`: whether memory was denied to the instance.
    pub fn of(error: &wasmtime::Error, denied: bool) -> Self {
        match error.downcast_ref::<Trap>().copied() {
            Some(Trap::OutOfFuel) => Self::Fuel,
            Some(Trap::StackOverflow) => Self::Recursion,
            _ if denied => Self::Memory,
            Some(Trap::UnreachableCodeReached) => Self::Unreachable,
            Some(Trap::MemoryOutOfBounds) => Self::OutOfBounds,
            Some(trap) => Self::Trapped(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
            None if error.chain().any(|cause| cause.to_string() == TYPES_DIFFER) => Self::TypesDiffer,
            None => {
                let text = error.root_cause().to_string();
                // wasmtime keeps the type of this error to itself.
                if text.contains("allocated for hostcalls") { Self::Transfer } else { Self::Trapped(text) }
            }
        }
    }

    /// What that means for a plugin whose call had so much fuel. Where the host ended the call, the state has the cause.
    pub fn cause(self, state: &mut State, plugin: &Plugin, fuel: u64) -> Cause {
        let own = state.cause.take();
        if let Self::Process(text) = self {
            return Cause::Process(crate::text::clean(&text, MAX_SHOWN_BYTES));
        }
        if let Some(cause) = own {
            return cause;
        }
        match self {
            Self::Fuel => Cause::Fuel { units: fuel },
            Self::Recursion => Cause::Recursion,
            Self::Memory => Cause::Memory { bytes: plugin.limits().memory_bytes },
            Self::Transfer => Cause::Transfer { bytes: MAX_TRANSFER_BYTES },
            Self::Unreachable => Cause::Trapped(match state.last_warning() {
                Some(warning) => format!("unreachable instruction; its last warning was: {warning}"),
                None => "unreachable instruction, a panic in most languages".into(),
            }),
            // The guest's own stack lies at the start of its memory: where it overflows, addresses wrap around.
            Self::OutOfBounds => Cause::Trapped(
                "out of bounds memory access, by a wild pointer or recursing too deep for the plugin's own stack"
                    .into(),
            ),
            Self::TypesDiffer => Cause::Broke(format!(
                "a function that it exports has other parameters or results than in {CONTRACT}: it was built against \
                 another text of that version. Build it with this version's wit/ or SDK"
            )),
            Self::Trapped(text) | Self::Process(text) => {
                Cause::Trapped(crate::text::clean(&text, MAX_SHOWN_BYTES))
            }
        }
    }
}
