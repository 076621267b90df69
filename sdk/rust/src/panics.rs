//! The words of a panic, which would otherwise end in a bare trap.

/// Logs panics as warnings from now on; the host puts the last one into its error.
pub fn report() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| crate::log::warning(&panic.to_string())));
}
