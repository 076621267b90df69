//! Processes of plugins: this program, started with a word that no person types.

use std::sync::Arc;

use membrane_host::isolation::{ProcessOptions, Program, serve};

/// The word.
const VERB: &str = "plugin-process";

/// This program as it runs, even where its file has been replaced meanwhile.
const OWN: &str = "/proc/self/exe";

/// Serves a plugin, to the end of the process, if a host started this one for that. To be called first of all.
pub fn serve_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == VERB) && arguments.next().is_none() {
        serve();
    }
}

/// How plugins get processes of their own: by starting this program.
pub fn options() -> ProcessOptions {
    let warn = |text: &str| eprintln!("membrane: {text}");
    ProcessOptions { warn: Some(Arc::new(warn)), ..ProcessOptions::new(program()) }
}

/// This program, as one that serves plugins.
pub fn program() -> Program {
    let own = std::path::PathBuf::from(OWN);
    let path = if own.exists() { own } else { std::env::current_exe().unwrap_or(own) };
    Program { path, arguments: vec![VERB.to_owned()] }
}
