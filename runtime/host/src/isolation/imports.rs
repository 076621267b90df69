//! The imports of plugins that run in a process of their own: asked there, served by the host.
//!
//! Each function of each interface is one line below, as in the WIT file. Of a line come a variant of [`Import`] (what
//! goes over to the host), the function that a plugin calls in its process, which asks, and the host's call of the very
//! implementation that serves plugins in its own process ([`State`]).
//!
//! To broker another interface: write it in WIT, implement its `Host` for [`State`] in a file of `interfaces/` (with
//! the charges and the checks: what it does is done by the host, never by the process), add it to `Interfaces` and
//! `offer` there, and add its block here. The grant that opens it is checked from its name, in both modes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasmtime::component::Resource;

use crate::agent::{GenerationHandle, SessionHandle};
use crate::bindings::{
    agent::membrane::plugin as agent, policy::membrane::plugin as policy,
    sampler::membrane::plugin as sampler, tool::membrane::plugin as tool,
};
use crate::exports::encode;
use crate::isolation::inmate::Inmate;
use crate::state::State;

/// A value in the form in which it goes to another process and back.
pub trait Wire: Sized {
    type Form: Serialize + DeserializeOwned;
    fn out(self) -> Self::Form;
    fn back(form: Self::Form) -> Self;
}

/// Types that go over as they are.
macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(impl Wire for $type {
            type Form = Self;
            fn out(self) -> Self {
                self
            }
            fn back(form: Self) -> Self {
                form
            }
        })*
    };
}

plain! {
    (), bool, u32, u64, i32, f32, String,
    sampler::log::Level, sampler::logits::MaskKind, sampler::logits::Drawn, sampler::types::Invocation,
    policy::judge::Question,
    tool::files::Entry, tool::http::Request, tool::http::Response,
    agent::inference::ModelInfo, agent::inference::GenerationOptions, agent::inference::Completion,
    agent::inference::InferenceError, agent::inference::Synced,
}

impl<T: Serialize + DeserializeOwned> Wire for Vec<T> {
    type Form = Self;
    fn out(self) -> Self {
        self
    }
    fn back(form: Self) -> Self {
        form
    }
}

impl<T: Wire> Wire for Option<T> {
    type Form = Option<T::Form>;
    fn out(self) -> Self::Form {
        self.map(T::out)
    }
    fn back(form: Self::Form) -> Self {
        form.map(T::back)
    }
}

impl<T: Wire, E: Wire> Wire for Result<T, E> {
    type Form = Result<T::Form, E::Form>;
    fn out(self) -> Self::Form {
        self.map(T::out).map_err(E::out)
    }
    fn back(form: Self::Form) -> Self {
        form.map(T::back).map_err(E::back)
    }
}

/// A handle is a number of the table of handles in the host, which knows of each what it is.
impl<T: 'static> Wire for Resource<T> {
    type Form = u32;
    fn out(self) -> u32 {
        self.rep()
    }
    fn back(form: u32) -> Self {
        Resource::new_own(form)
    }
}

/// The interfaces: the trait of their bindings, the name of the variant, the name in the contract, the functions.
macro_rules! brokered {
    ($($world:ident::$interface:ident::$Trait:ident as $variant:ident $name:literal {
        $($function:ident($($parameter:ident: $type:ty),*) -> $result:ty;)*
    })*) => {
        /// A call of an import.
        #[derive(Serialize, Deserialize)]
        #[allow(non_camel_case_types)]
        pub enum Import {
            $($variant($variant::Call),)*
        }

        impl Import {
            /// Name of the interface.
            pub fn interface(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }

            /// Makes the call in the host, and encodes the result. The error ends the plugin's call.
            pub fn serve(self, state: &mut State) -> wasmtime::Result<Vec<u8>> {
                match self {
                    $(Self::$variant(call) => $variant::serve(call, state),)*
                }
            }
        }

        $(pub mod $variant {
            #[allow(unused_imports)]
            use super::{$world::$interface::*, *};

            /// A call of a function of this interface.
            #[derive(Serialize, Deserialize)]
            #[allow(non_camel_case_types)]
            pub enum Call {
                $($function($(<$type as Wire>::Form),*),)*
            }

            impl $world::$interface::$Trait for Inmate {
                $(fn $function(&mut self, $($parameter: $type),*) -> wasmtime::Result<$result> {
                    let call = Call::$function($(Wire::out($parameter)),*);
                    self.ask(&Import::$variant(call)).map(<$result as Wire>::back)
                })*
            }

            pub(super) fn serve(call: Call, state: &mut State) -> wasmtime::Result<Vec<u8>> {
                match call {
                    $(Call::$function($($parameter),*) => {
                        $(let $parameter = <$type as Wire>::back($parameter);)*
                        let result = $world::$interface::$Trait::$function(state, $($parameter),*)?;
                        encode(&Wire::out(result))
                    })*
                }
            }
        })*
    };
}

impl sampler::types::Host for Inmate {}

brokered! {
    sampler::log::Host as log "log" {
        write(level: Level, text: String) -> ();
    }
    sampler::logits::Host as logits "logits" {
        top(n: u32) -> Vec<Candidate>;
        count() -> u32;
        get(token: u32) -> Result<f32, String>;
        add(biases: Vec<Bias>) -> Result<(), String>;
        mask(kind: MaskKind, tokens: Vec<u32>) -> Result<(), String>;
        apply(operations: Vec<Operation>) -> Result<(), String>;
        draw() -> Result<Drawn, String>;
        greedy() -> Result<Drawn, String>;
    }
    sampler::history::Host as history "history" {
        length() -> u32;
        prompt_length() -> u32;
        tail(n: u32) -> Vec<u32>;
    }
    sampler::vocabulary::Host as vocabulary "vocabulary" {
        size() -> u32;
        bytes_of(token: u32) -> Result<Vec<u8>, String>;
        encode(text: String) -> Result<Vec<u32>, String>;
        is_end(token: u32) -> bool;
        end_token() -> Option<u32>;
    }
    sampler::random::Host as random "random" {
        next() -> u64;
    }
    sampler::all_logits::Host as all_logits "all-logits" {
        read() -> Vec<f32>;
        write(logits: Vec<f32>) -> Result<(), String>;
    }
    tool::clock::Host as clock "clock" {
        now_ms() -> u64;
        utc_offset_minutes() -> i32;
    }
    tool::files::Host as files "files" {
        folders() -> Vec<Folder>;
        entries(folder: String, path: String) -> Result<Vec<Entry>, String>;
        metadata(folder: String, path: String) -> Result<Entry, String>;
        read(folder: String, path: String, offset: u64, length: u32) -> Result<Vec<u8>, String>;
        write(folder: String, path: String, bytes: Vec<u8>) -> Result<(), String>;
        append(folder: String, path: String, bytes: Vec<u8>) -> Result<(), String>;
        make_folder(folder: String, path: String) -> Result<(), String>;
        delete(folder: String, path: String) -> Result<(), String>;
    }
    tool::http::Host as http "http" {
        origins() -> Vec<String>;
        send(request: Request) -> Result<Response, String>;
    }
    tool::environment::Host as environment "environment" {
        get(name: String) -> Result<Option<String>, String>;
    }
    agent::inference::Host as inference "inference" {
        model() -> ModelInfo;
    }
    agent::inference::HostSession as inference_session "inference" {
        new() -> Resource<SessionHandle>;
        fork(session: Resource<SessionHandle>) -> Result<Resource<SessionHandle>, InferenceError>;
        length(session: Resource<SessionHandle>) -> u32;
        room(session: Resource<SessionHandle>) -> u32;
        truncate(session: Resource<SessionHandle>, tokens: u32) -> Result<(), InferenceError>;
        append(session: Resource<SessionHandle>, text: String) -> Result<u32, InferenceError>;
        chat(session: Resource<SessionHandle>, turns: Vec<Turn>, tools: bool) -> Result<Synced, InferenceError>;
        generate(session: Resource<SessionHandle>, options: GenerationOptions)
            -> Result<Resource<GenerationHandle>, InferenceError>;
        score(session: Resource<SessionHandle>, continuations: Vec<String>)
            -> Result<Vec<Score>, InferenceError>;
        save(session: Resource<SessionHandle>, name: String) -> Result<(), InferenceError>;
        open(name: String) -> Option<Resource<SessionHandle>>;
        drop(session: Resource<SessionHandle>) -> ();
    }
    agent::inference::HostGeneration as inference_generation "inference" {
        next(generation: Resource<GenerationHandle>) -> Result<Option<String>, InferenceError>;
        finish(generation: Resource<GenerationHandle>) -> Result<Completion, InferenceError>;
        cancel(generation: Resource<GenerationHandle>) -> ();
        drop(generation: Resource<GenerationHandle>) -> ();
    }
    agent::raw_decoding::Host as raw_decoding "raw-decoding" {
        top(session: Resource<SessionHandle>, n: u32) -> Result<Vec<Candidate>, InferenceError>;
        logits(session: Resource<SessionHandle>) -> Result<Vec<f32>, InferenceError>;
        tokens(session: Resource<SessionHandle>) -> Result<Vec<u32>, InferenceError>;
        append(session: Resource<SessionHandle>, tokens: Vec<u32>) -> Result<(), InferenceError>;
    }
    agent::tools::Host as tools "tools" {
        available() -> Vec<Offer>;
        call(call: Invocation) -> Result<String, String>;
    }
    agent::output::Host as output "output" {
        write(text: String) -> ();
    }
    policy::judge::Host as judge "judge" {
        score(question: Question, continuations: Vec<String>) -> Result<Vec<f64>, String>;
    }
    agent::store::Host as store "store" {
        get(key: String) -> Result<Option<Vec<u8>>, String>;
        set(key: String, value: Vec<u8>) -> Result<(), String>;
        delete(key: String) -> Result<(), String>;
        keys(prefix: String) -> Result<Vec<String>, String>;
    }
}
