//! Where compiled code and data of plugins are kept from run to run.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use membrane_host::{CodeCache, DEFAULT_CAPACITY_BYTES};

use crate::report::describe;

/// The cache of this user. Where there can be none plugins are compiled with every start, and the reason is shown.
pub fn cache(quiet: bool) -> Option<Arc<CodeCache>> {
    match open() {
        Ok(cache) => Some(Arc::new(cache)),
        Err(error) => {
            if !quiet {
                eprintln!("code cache: none: {}", describe(&error));
            }
            None
        }
    }
}

/// Where data of plugins is kept.
pub fn data() -> Result<PathBuf> {
    Ok(base("XDG_DATA_HOME", ".local/share")?.join("membrane"))
}

fn open() -> Result<CodeCache> {
    let code = base("XDG_CACHE_HOME", ".cache")?.join("membrane/code");
    let key = base("XDG_STATE_HOME", ".local/state")?.join("membrane/code.key");
    Ok(CodeCache::open(&code, &key, DEFAULT_CAPACITY_BYTES)?)
}

/// A folder of the XDG base directory specification; a relative one is to be ignored.
pub fn base(variable: &str, below_home: &str) -> Result<PathBuf> {
    let set = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    match set {
        Some(folder) => Ok(folder),
        None => Ok(env::home_dir().context("no home folder is known")?.join(below_home)),
    }
}
