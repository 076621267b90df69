//! Functions that were compiled before, so that a new version of a plugin costs the functions that changed.
//!
//! Cranelift names a function by the SHA-256 of its intermediate code and of all settings (its incremental cache). What is
//! kept here is only what this process has compiled itself, and goes with it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wasmtime::CacheStore;

/// Bytes of a component whose functions are kept. Those of larger ones, which hold a whole interpreter, would fill the memory
/// that is meant for a dozen small ones.
pub(crate) const MAX_COMPONENT_BYTES: usize = 4 << 20;
/// Bytes of all kept functions, and of what it takes to find them. A plugin of 110 KB has some 600 KB.
pub(crate) const MAX_FUNCTION_BYTES: usize = 16 << 20;
/// Bytes that an entry takes beside its name and its code.
const ENTRY_BYTES: usize = 64;

/// Compiled functions in memory, those that were used last.
#[derive(Debug, Default)]
pub(crate) struct CompiledFunctions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    functions: HashMap<Vec<u8>, Function>,
    bytes: usize,
    /// Number of the component that is compiled.
    component: u64,
    /// Whether it is too large for its functions to be kept.
    large: bool,
}

#[derive(Debug)]
struct Function {
    code: Vec<u8>,
    /// The last component that had it.
    component: u64,
}

impl CompiledFunctions {
    /// Says that another component comes now, of so many bytes.
    pub fn begin(&self, bytes: usize) {
        let mut kept = self.kept();
        kept.component += 1;
        kept.large = bytes > MAX_COMPONENT_BYTES;
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.kept().functions.len()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheStore for CompiledFunctions {
    fn get(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let mut kept = self.kept();
        let component = kept.component;
        let function = kept.functions.get_mut(name)?;
        function.component = component;
        Some(Cow::Owned(function.code.clone()))
    }

    fn insert(&self, name: &[u8], code: Vec<u8>) -> bool {
        self.kept().insert(name, code, MAX_FUNCTION_BYTES)
    }
}

impl Kept {
    /// False: it finds no room beside the functions of the same component.
    fn insert(&mut self, name: &[u8], code: Vec<u8>, most: usize) -> bool {
        if self.large {
            return false;
        }
        let bytes = size(name, &code);
        if self.bytes + bytes > most {
            let now = self.component;
            self.functions.retain(|_, function| function.component == now);
            self.bytes = self.functions.iter().map(|(name, function)| size(name, &function.code)).sum();
        }
        if self.bytes + bytes > most {
            return false;
        }
        self.bytes += bytes;
        let function = Function { code, component: self.component };
        if let Some(before) = self.functions.insert(name.to_vec(), function) {
            self.bytes -= size(name, &before.code);
        }
        true
    }
}

fn size(name: &[u8], code: &[u8]) -> usize {
    ENTRY_BYTES + name.len() + code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_earlier_components_give_way_and_those_of_this_one_stay() {
        let mut kept = Kept::default();
        let most = 4 * size(b"a", &[0; 100]);
        let insert = |kept: &mut Kept, name: &[u8]| kept.insert(name, vec![name[0]; 100], most);
        for name in [b"a", b"b", b"c", b"b"] {
            assert!(insert(&mut kept, name));
        }
        assert_eq!(kept.bytes, 3 * size(b"a", &[0; 100]));
        kept.component += 1;
        assert!(insert(&mut kept, b"d") && insert(&mut kept, b"e"));
        let mut names: Vec<_> = kept.functions.keys().map(|name| name[0]).collect();
        names.sort_unstable();
        assert_eq!(names, *b"de");
        assert!(insert(&mut kept, b"f") && insert(&mut kept, b"g"));
        assert!(!insert(&mut kept, b"h"));
        kept.component += 1;
        kept.large = true;
        assert!(!insert(&mut kept, b"h"));
        assert_eq!((kept.functions.len(), kept.bytes), (4, most));
    }

    #[test]
    fn a_function_that_is_used_again_belongs_to_the_component_that_uses_it() {
        let functions = CompiledFunctions::default();
        functions.insert(b"name", vec![1, 2, 3]);
        functions.begin(100);
        assert_eq!(functions.get(b"name").as_deref(), Some(&[1, 2, 3][..]));
        assert_eq!(functions.kept().functions[&b"name"[..]].component, 1);
        assert_eq!(functions.get(b"another"), None);
    }
}
