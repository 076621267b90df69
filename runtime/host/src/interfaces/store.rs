//! The interface `store`, by grant.

use wasmtime::Result;

use crate::agent::{Store, StoreError};
use crate::bindings::agent::membrane::plugin::store::Host;
use crate::error::Cause;
use crate::limits::ITEM_UNITS;
use crate::state::State;

impl State {
    fn store(&mut self, work: usize) -> Result<Store> {
        match self.agency(work)?.store.clone() {
            Some(store) => Ok(store),
            None => Err(self.end(Cause::Broke("it has no store in this run".into()))),
        }
    }
}

/// What a guest is told of an error: nothing of where its store is.
fn told(error: StoreError) -> String {
    match error {
        StoreError::Limit(what) => what,
        StoreError::Io { .. } | StoreError::Stranger { .. } | StoreError::InUse { .. } => {
            "the store could not be written".into()
        }
    }
}

/// Units for a change, which is brought to the disk.
const WRITE_UNITS: usize = 10_000;

impl Host for State {
    fn get(&mut self, key: String) -> Result<Result<Option<Vec<u8>>, String>> {
        let value = self.store(key.len())?.get(&key);
        self.give(value, |value| value.as_ref().map_or(0, Vec::len)).map(Ok)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<Result<(), String>> {
        Ok(self.store(WRITE_UNITS + key.len() + value.len())?.set(&key, value).map_err(told))
    }

    fn delete(&mut self, key: String) -> Result<Result<(), String>> {
        Ok(self.store(WRITE_UNITS + key.len())?.delete(&key).map_err(told))
    }

    fn keys(&mut self, prefix: String) -> Result<Result<Vec<String>, String>> {
        let keys = self.store(1000 + prefix.len())?.keys(&prefix);
        self.give(keys, |keys| keys.iter().map(|key| ITEM_UNITS + key.len()).sum()).map(Ok)
    }
}
