//! The world `sampler`: choose the next token.

use serde::de::DeserializeOwned;

use crate::bindings::sampler::membrane::plugin as imports;

/// The logits of the current step. Operations change them in place, natively in the host.
pub mod logits {
    pub use super::imports::logits::{
        Bias, Candidate, Drawn, Dry, MaskKind, Operation, Penalties, Temperature, Xtc, add, apply, count,
        draw, get, greedy, mask, top,
    };
}

/// All logits of the vocabulary at once; needs the grant `all-logits`.
pub mod all_logits {
    pub use super::imports::all_logits::{read, write};
}

/// The tokens of the context so far.
pub mod history {
    pub use super::imports::history::{length, prompt_length, tail};
}

/// The model's vocabulary.
pub mod vocabulary {
    pub use super::imports::vocabulary::{bytes_of, encode, end_token, is_end, size};
}

/// The recorded random source.
pub mod random {
    pub use super::imports::random::next;
}

pub use crate::bindings::sampler::exports::membrane::plugin::sampler_plugin::Choice;

/// An index into the vocabulary.
pub type Token = u32;

/// A sampler. An instance lives for one answer.
pub trait Sampler: Sized {
    /// The parameters in the profile, read with serde; `#[serde(default, deny_unknown_fields)]` is good
    /// practice.
    type Parameters: DeserializeOwned;

    /// Starts an answer. Errors: a parameter that is out of range.
    fn new(parameters: Self::Parameters) -> Result<Self, String>;

    /// Called once for each token.
    fn sample(&mut self) -> Result<Choice, String>;
}

/// Makes a type that implements [`Sampler`](sampler::Sampler) the plugin of this crate. With `, state` behind the type a new version
/// goes on from the state of an old one; see [`State`](state::State).
#[macro_export]
macro_rules! export_sampler {
    ($plugin:ty $(, $state:ident)?) => {
        // Natively, for tests, there is no host to export to.
        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::std::cell::RefCell;
            use $crate::__private::bindings::sampler::exports::membrane::plugin::sampler_plugin as exports;

            ::std::thread_local! {
                static PLUGIN: RefCell<Option<$plugin>> = const { RefCell::new(None) };
            }

            struct Exported;

            impl exports::Guest for Exported {
                fn configure(parameters: String) -> Result<(), String> {
                    $crate::__private::report_panics();
                    let parameters = $crate::__private::parse(&parameters)?;
                    let plugin = <$plugin as $crate::sampler::Sampler>::new(parameters)?;
                    PLUGIN.set(Some(plugin));
                    Ok(())
                }

                fn sample() -> Result<exports::Choice, String> {
                    PLUGIN.with_borrow_mut(|plugin| {
                        let plugin = plugin.as_mut().ok_or("not configured")?;
                        $crate::sampler::Sampler::sample(plugin)
                    })
                }
            }

            $crate::__private::bindings::sampler::export!(
                Exported with_types_in $crate::__private::bindings::sampler
            );

            $($crate::__export_state!($state);)?
        };
    };
}
