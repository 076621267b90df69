//! State that a new version of a sampler or tool goes on from when it is put in the place of an old one in the middle
//! of an answer.

/// A plugin whose state can be handed on. Name it in the export macro: `export_sampler!(MySampler, state)`.
///
/// Begin the bytes with a version of their own, and refuse what you can't go on from: the old version then makes the
/// rest of the answer.
pub trait State {
    /// The state, at most 1 MiB. Must not change it.
    fn snapshot(&self) -> Vec<u8>;

    /// Takes over the state of another version, perhaps an older one or one with other parameters. Called at most once,
    /// right after `new`. Errors: bytes that it can't go on from.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String>;
}

/// The exports of the interface `state` for the plugin in `PLUGIN`.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_state {
    (state) => {
        impl $crate::__private::bindings::stateful::exports::membrane::plugin::state::Guest for Exported {
            fn snapshot() -> Vec<u8> {
                let snapshot = |plugin: &Option<_>| plugin.as_ref().map($crate::state::State::snapshot);
                PLUGIN.with_borrow(snapshot).unwrap_or_default()
            }

            fn restore(bytes: Vec<u8>) -> Result<(), String> {
                PLUGIN.with_borrow_mut(|plugin| {
                    let plugin = plugin.as_mut().ok_or("not configured")?;
                    $crate::state::State::restore(plugin, &bytes)
                })
            }
        }

        $crate::__private::bindings::stateful::export!(
            Exported with_types_in $crate::__private::bindings::stateful
        );
    };
}
