//! Messages to the person who runs the host. At most 256 lines of 1,024 bytes an answer; they are shown as
//! data.

use crate::bindings::tool::membrane::plugin::log::{Level, write};

/// For the author of the plugin.
pub fn debug(text: &str) {
    write(Level::Debug, text);
}

/// For whoever runs the host.
pub fn info(text: &str) {
    write(Level::Info, text);
}

/// Something is wrong, and the plugin goes on.
pub fn warning(text: &str) {
    write(Level::Warning, text);
}
