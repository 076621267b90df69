//! The process that compiles in haste for the processes of plugins, seen from the host.

use std::sync::{Mutex, PoisonError};

use crate::engine::Host;
use crate::error::{HostError, Result};
use crate::functions::{MAX_COMPONENT_BYTES, MAX_FUNCTION_BYTES};
use crate::isolation::process::{Connection, compiler_bytes, not_compiled};
use crate::isolation::protocol::{ToHost, ToProcess};

/// A process that keeps the functions that it has compiled. It is started when it is first needed, and again where it ended.
#[derive(Default)]
pub(crate) struct Compiler(Mutex<Option<Connection>>);

impl Compiler {
    /// Compiled code of a component, for processes of plugins and for nothing else. `name` is for errors.
    ///
    /// # Errors
    /// The component is malformed or meets a limit of compiling, or the process can't be started.
    pub fn compile(&self, host: &Host, name: &str, component: &[u8]) -> Result<Vec<u8>> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It is put back only where it can compile another.
        let mut process = match connection.take_if(|process| process.lives()) {
            Some(process) => process,
            None => start(host, name)?,
        };
        let answer = process.compile(host, name, &ToProcess::Compile, component, component.len())?;
        match answer {
            (ToHost::Compiled, code) => {
                *connection = Some(process);
                Ok(code)
            }
            (ToHost::NotCompiled { why }, _) => {
                *connection = Some(process);
                Err(not_compiled(name, &why))
            }
            _ => Err(not_compiled(name, "the compiler broke the protocol: an unexpected message")),
        }
    }
}

fn start(host: &Host, name: &str) -> Result<Connection> {
    let refused = |cause: String| HostError::Isolation { plugin: name.to_owned(), cause };
    let options = host
        .processes()
        .ok_or_else(|| refused("this program does not say which program to start".to_owned()))?;
    let bytes = compiler_bytes(host, MAX_COMPONENT_BYTES).saturating_add(MAX_FUNCTION_BYTES as u64);
    Ok(Connection::open(options, bytes).map_err(refused)?.0)
}
