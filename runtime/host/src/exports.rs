//! What plugins export, each function as a type: its parameters, its result, and how it is called. A call is data
//! until it is made, and can be made in another process.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::World;
use crate::bindings::agent::{Agent, AgentIndices};
use crate::bindings::policy::{Policy, PolicyIndices};
use crate::bindings::sampler::{Sampler, SamplerIndices};
use crate::bindings::stateful::{Stateful, StatefulIndices};
use crate::bindings::tool::{Tool, ToolIndices};

/// Where the functions of the world's interface stand in a component.
pub(crate) enum Exports {
    Sampler(SamplerIndices),
    Policy(PolicyIndices),
    Tool(ToolIndices),
    Agent(AgentIndices),
}

impl Exports {
    pub fn new<T>(world: World, pre: &InstancePre<T>) -> wasmtime::Result<Self> {
        Ok(match world {
            World::Sampler => Self::Sampler(SamplerIndices::new(pre)?),
            World::Policy => Self::Policy(PolicyIndices::new(pre)?),
            World::Tool => Self::Tool(ToolIndices::new(pre)?),
            World::Agent => Self::Agent(AgentIndices::new(pre)?),
        })
    }
}

/// The functions of an instance.
pub(crate) struct Bound<E> {
    exports: E,
    /// Where the plugin exports `state`.
    stateful: Option<Stateful>,
}

impl<E: WorldExports> Bound<E> {
    /// Finds them. Errors: one has another type than the contract's.
    pub fn load<T: 'static>(
        exports: &Exports,
        state: Option<&StatefulIndices>,
        store: &mut Store<T>,
        instance: &Instance,
    ) -> wasmtime::Result<Self> {
        let stateful = state.map(|state| state.load(&mut *store, instance)).transpose()?;
        Ok(Self { exports: E::load(exports, store, instance)?, stateful })
    }

    fn stateful(&self) -> wasmtime::Result<&Stateful> {
        self.stateful.as_ref().ok_or_else(|| wasmtime::Error::msg("it exports no state"))
    }
}

/// The exports of a world.
pub(crate) trait WorldExports: Sized + Send + 'static {
    /// Finds them in an instance.
    fn load<T: 'static>(
        exports: &Exports,
        store: &mut Store<T>,
        instance: &Instance,
    ) -> wasmtime::Result<Self>;

    /// Calls the function of this number with encoded parameters, and encodes its result.
    fn call<T: Send + 'static>(
        bound: &Bound<Self>,
        store: &mut Store<T>,
        function: u8,
        parameters: &[u8],
    ) -> wasmtime::Result<Vec<u8>>;
}

/// A call of a function that plugins export.
pub(crate) trait Export<E>: Serialize {
    /// Its number among those of its world, as processes tell it to each other.
    const NUMBER: u8;
    /// Its name in the contract.
    const NAME: &'static str;
    /// What it gives.
    type Output: Serialize + DeserializeOwned;

    /// Makes the call.
    fn call<T: Send + 'static>(
        &self,
        bound: &Bound<E>,
        store: &mut Store<T>,
    ) -> wasmtime::Result<Self::Output>;
}

/// Encodes what goes to another process.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> wasmtime::Result<Vec<u8>> {
    postcard::to_allocvec(value).map_err(|error| wasmtime::Error::msg(error.to_string()))
}

/// Decodes what came from another process. None: it is malformed, or has something behind it.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}

/// A parameter, as bindings take it.
pub(crate) trait Lend {
    type Lent<'a>: Serialize
    where
        Self: 'a;
    fn lend(&self) -> Self::Lent<'_>;
}

macro_rules! lend {
    ($($owned:ty => $lent:ty, $by:expr;)*) => {
        $(impl Lend for $owned {
            type Lent<'a> = $lent;
            fn lend(&self) -> Self::Lent<'_> {
                let lend: fn(&$owned) -> Self::Lent<'_> = $by;
                lend(self)
            }
        })*
    };
}

lend! {
    String => &'a str, |text| text;
    bool => bool, |flag| *flag;
    Vec<u8> => &'a [u8], |bytes| bytes;
    Vec<crate::bindings::sampler::membrane::plugin::types::Message> =>
        &'a [crate::bindings::sampler::membrane::plugin::types::Message], |messages| messages;
    crate::bindings::sampler::membrane::plugin::types::Invocation =>
        &'a crate::bindings::sampler::membrane::plugin::types::Invocation, |call| call;
}

/// One function of a world. `$via` leads from the bindings to the interface.
macro_rules! export {
    ($exports:ident, $via:ident, $number:literal $Call:ident $name:literal $function:ident()
        -> $output:ty) => {
        #[derive(Serialize)]
        pub(crate) struct $Call;

        impl Export<$exports> for $Call {
            const NUMBER: u8 = $number;
            const NAME: &'static str = $name;
            type Output = $output;

            fn call<T: Send + 'static>(
                &self,
                bound: &Bound<$exports>,
                store: &mut Store<T>,
            ) -> wasmtime::Result<Self::Output> {
                bound.exports.$via().$function(store)
            }
        }
    };
    ($exports:ident, $via:ident, $number:literal $Call:ident $name:literal $function:ident
        ($($parameter:ident: $type:ty),+) -> $output:ty) => {
        #[derive(Serialize)]
        pub(crate) struct $Call<'a> {
            $(pub $parameter: <$type as Lend>::Lent<'a>,)+
        }

        impl Export<$exports> for $Call<'_> {
            const NUMBER: u8 = $number;
            const NAME: &'static str = $name;
            type Output = $output;

            fn call<T: Send + 'static>(
                &self,
                bound: &Bound<$exports>,
                store: &mut Store<T>,
            ) -> wasmtime::Result<Self::Output> {
                bound.exports.$via().$function(store, $(self.$parameter),+)
            }
        }
    };
}

/// The functions of a world: number, type, name in the contract, binding, parameters and result of each. A new one is a
/// line here.
macro_rules! exports {
    ($exports:ident, $via:ident; $($number:literal $Call:ident $name:literal $function:ident
        ($($parameter:ident: $type:ty),*) -> $output:ty;)*) => {
        $(export!($exports, $via, $number $Call $name $function($($parameter: $type),*) -> $output);)*

        impl WorldExports for $exports {
            fn load<T: 'static>(
                exports: &Exports,
                store: &mut Store<T>,
                instance: &Instance,
            ) -> wasmtime::Result<Self> {
                match exports {
                    Exports::$exports(indices) => indices.load(store, instance),
                    _ => Err(wasmtime::Error::msg("it is of another world")),
                }
            }

            fn call<T: Send + 'static>(
                bound: &Bound<Self>,
                store: &mut Store<T>,
                function: u8,
                parameters: &[u8],
            ) -> wasmtime::Result<Vec<u8>> {
                let malformed = || wasmtime::Error::msg("malformed parameters");
                match function {
                    $($number => {
                        let ($($parameter,)*): ($($type,)*) = decode(parameters).ok_or_else(malformed)?;
                        encode(&bound.exports.$via().$function(store, $($parameter.lend()),*)?)
                    })*
                    Snapshot::NUMBER_OF_ALL => encode(&Export::<Self>::call(&Snapshot, bound, store)?),
                    Restore::NUMBER_OF_ALL => {
                        let bytes: Vec<u8> = decode(parameters).ok_or_else(malformed)?;
                        encode(&Export::<Self>::call(&Restore { bytes: &bytes }, bound, store)?)
                    }
                    _ => Err(wasmtime::Error::msg("there is no such function")),
                }
            }
        }
    };
}

/// What samplers export.
pub(crate) mod sampler {
    use super::*;
    use crate::bindings::sampler::exports::membrane::plugin::sampler_plugin::Choice;

    exports! { Sampler, membrane_plugin_sampler_plugin;
        0 Configure "configure" call_configure(parameters: String) -> Result<(), String>;
        1 Sample "sample" call_sample() -> Result<Choice, String>;
    }
}

/// What policies export.
pub(crate) mod policy {
    use super::*;
    use crate::bindings::policy::exports::membrane::plugin::policy_plugin::{
        OutputVerdict, PromptVerdict, RequestVerdict, ToolCallVerdict, ToolResultVerdict,
    };
    use crate::bindings::sampler::membrane::plugin::types::{Invocation, Message};

    exports! { Policy, membrane_plugin_policy_plugin;
        0 Configure "configure" call_configure(parameters: String) -> Result<(), String>;
        1 Request "request" call_request(messages: Vec<Message>) -> Result<RequestVerdict, String>;
        2 Prompt "prompt" call_prompt(rendered: String) -> Result<PromptVerdict, String>;
        3 Output "output" call_output(pending: String, done: bool) -> Result<OutputVerdict, String>;
        4 ToolCall "tool-call" call_tool_call(call: Invocation) -> Result<ToolCallVerdict, String>;
        5 ToolResult "tool-result" call_tool_result(call: Invocation, output: String)
            -> Result<ToolResultVerdict, String>;
        6 Finish "finish" call_finish(released: String) -> Result<(), String>;
    }
}

/// What tools export.
pub(crate) mod tool {
    use super::*;
    use crate::bindings::tool::exports::membrane::plugin::tool_plugin::Description;

    exports! { Tool, membrane_plugin_tool_plugin;
        0 Configure "configure" call_configure(parameters: String) -> Result<(), String>;
        1 Describe "describe" call_describe() -> Vec<Description>;
        2 Call "call" call_call(name: String, arguments: String) -> Result<String, String>;
    }
}

/// What agents export.
pub(crate) mod agent {
    use super::*;

    exports! { Agent, membrane_plugin_agent_plugin;
        0 Configure "configure" call_configure(parameters: String) -> Result<(), String>;
        1 Run "run" call_run(task: String) -> Result<String, String>;
    }
}

/// `snapshot` of the interface `state`, which plugins of every world may export.
#[derive(Serialize)]
pub(crate) struct Snapshot;

/// `restore` of it.
#[derive(Serialize)]
pub(crate) struct Restore<'a> {
    pub bytes: &'a [u8],
}

impl Snapshot {
    const NUMBER_OF_ALL: u8 = 100;
}

impl Restore<'_> {
    const NUMBER_OF_ALL: u8 = 101;
}

impl<E: WorldExports> Export<E> for Snapshot {
    const NUMBER: u8 = Self::NUMBER_OF_ALL;
    const NAME: &'static str = "snapshot";
    type Output = Vec<u8>;

    fn call<T: Send + 'static>(&self, bound: &Bound<E>, store: &mut Store<T>) -> wasmtime::Result<Vec<u8>> {
        bound.stateful()?.membrane_plugin_state().call_snapshot(store)
    }
}

impl<E: WorldExports> Export<E> for Restore<'_> {
    const NUMBER: u8 = Self::NUMBER_OF_ALL;
    const NAME: &'static str = "restore";
    type Output = Result<(), String>;

    fn call<T: Send + 'static>(
        &self,
        bound: &Bound<E>,
        store: &mut Store<T>,
    ) -> wasmtime::Result<Self::Output> {
        bound.stateful()?.membrane_plugin_state().call_restore(store, self.bytes)
    }
}
