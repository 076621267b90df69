//! The world `tool`: do something for the model when it asks for it.

use serde::de::DeserializeOwned;

pub use crate::bindings::tool::exports::membrane::plugin::tool_plugin::Description;

/// The time of day; needs the grant `clock`.
pub mod clock {
    pub use crate::bindings::tool::membrane::plugin::clock::{now_ms, utc_offset_minutes};
}

/// Files in the folders of the profile entry; needs the grant `files`.
pub mod files {
    pub use crate::bindings::tool::membrane::plugin::files::{
        Entry, Folder, Kind, append, delete, entries, folders, make_folder, metadata, read, write,
    };
}

/// Requests to the hosts of the profile entry; needs the grant `http`.
pub mod http {
    pub use crate::bindings::tool::membrane::plugin::http::{
        Field, Method, Request, Response, origins, send,
    };
}

/// The environment variables of the profile entry; needs the grant `environment`.
pub mod environment {
    pub use crate::bindings::tool::membrane::plugin::environment::get;
}

/// A component with one or several tools. An instance lives for one answer, or until a call traps.
pub trait Tool: Sized {
    /// The parameters in the profile, read with serde; `#[serde(default, deny_unknown_fields)]` is good
    /// practice.
    type Parameters: DeserializeOwned;

    /// Starts an answer. Errors: a parameter that is out of range.
    fn new(parameters: Self::Parameters) -> Result<Self, String>;

    /// The tools; at least one.
    fn describe(&self) -> Vec<Description>;

    /// Calls the tool `name` with `arguments`, a JSON object; gives text for the model. Errors are told to
    /// the model.
    fn call(&mut self, name: &str, arguments: &str) -> Result<String, String>;
}

/// Reads the arguments of a call. Errors name the field; with `#[serde(deny_unknown_fields)]` on the type, also one
/// that the type does not have.
pub fn arguments<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| format!("arguments: {error}"))
}

/// Makes a type that implements [`Tool`](tool::Tool) the plugin of this crate. With `, state` behind the type a new version
/// goes on from the state of an old one; see [`State`](state::State).
#[macro_export]
macro_rules! export_tool {
    ($plugin:ty $(, $state:ident)?) => {
        // Natively, for tests, there is no host to export to.
        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::std::cell::RefCell;
            use $crate::__private::bindings::tool::exports::membrane::plugin::tool_plugin as exports;
            use $crate::tool::Tool;

            ::std::thread_local! {
                static PLUGIN: RefCell<Option<$plugin>> = const { RefCell::new(None) };
            }

            struct Exported;

            impl exports::Guest for Exported {
                fn configure(parameters: String) -> Result<(), String> {
                    $crate::__private::report_panics();
                    let parameters = $crate::__private::parse(&parameters)?;
                    PLUGIN.set(Some(<$plugin as Tool>::new(parameters)?));
                    Ok(())
                }

                fn describe() -> Vec<exports::Description> {
                    PLUGIN.with_borrow(|plugin| plugin.as_ref().map(Tool::describe).unwrap_or_default())
                }

                fn call(name: String, arguments: String) -> Result<String, String> {
                    PLUGIN.with_borrow_mut(|plugin| {
                        plugin.as_mut().ok_or("not configured")?.call(&name, &arguments)
                    })
                }
            }

            $crate::__private::bindings::tool::export!(
                Exported with_types_in $crate::__private::bindings::tool
            );

            $($crate::__export_state!($state);)?
        };
    };
}
