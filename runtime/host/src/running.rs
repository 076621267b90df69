//! A component's instance in the process at hand: where it imports from depends on what stands in its store.

use wasmtime::Store;
use wasmtime::component::{Component, InstancePre, Linker};

use crate::World;
use crate::bindings::stateful::StatefulIndices;
use crate::ending::Ending;
use crate::exports::{Bound, Export, Exports, WorldExports};
use crate::grants::Grant;
use crate::interfaces::{self, Interfaces};
use crate::limits::{MAX_HANDLES, MAX_TRANSFER_BYTES, Meter};
use crate::wall::Watchdog;

/// What makes instances of a component, with all imports resolved.
pub(crate) struct Prepared<T: 'static> {
    pre: InstancePre<T>,
    exports: Exports,
    /// Where the component exports `state`.
    state: Option<StatefulIndices>,
}

impl<T: Imports> Prepared<T> {
    /// Resolves the imports of a component. Errors: it imports what the world and the grants do not offer, or has not the
    /// exports of the world.
    pub fn new<'g>(
        component: &Component,
        world: World,
        grants: impl IntoIterator<Item = &'g Grant>,
        exports_state: bool,
    ) -> wasmtime::Result<Self> {
        let mut linker: Linker<T> = Linker::new(component.engine());
        interfaces::offer(&mut linker, world, grants)?;
        let pre = linker.instantiate_pre(component)?;
        let exports = Exports::new(world, &pre)?;
        let state = exports_state.then(|| StatefulIndices::new(&pre)).transpose()?;
        Ok(Self { pre, exports, state })
    }
}

/// What stands in the store of an instance: serves its imports, and counts its memory.
pub(crate) trait Imports: Interfaces + Sized {
    /// The count.
    fn meter(&mut self) -> &mut Meter;

    /// Makes a new store look at the clock, if it is to.
    fn look_at_the_clock(_store: &mut Store<Self>) {}

    /// Ends the call that begins when its time is over, unless it is dropped before; none where something else does.
    fn watchdog(_store: &Store<Self>) -> Option<Watchdog> {
        None
    }
}

/// An instance.
pub(crate) struct Running<E, T: 'static> {
    store: Store<T>,
    bound: Bound<E>,
}

impl<E: WorldExports, T: Imports> Running<E, T> {
    /// Makes an instance. Start functions run here. Gives `data` back in the error.
    pub fn start(prepared: &Prepared<T>, data: T, fuel: u64) -> Result<Self, Box<(Ending, T)>> {
        let mut store = Store::new(prepared.pre.engine(), data);
        store.limiter(|data| data.meter());
        store.set_hostcall_fuel(MAX_TRANSFER_BYTES);
        store.set_max_component_handles(MAX_HANDLES);
        T::look_at_the_clock(&mut store);
        let _watchdog = T::watchdog(&store);
        let started = store.set_fuel(fuel).and_then(|()| {
            let instance = prepared.pre.instantiate(&mut store)?;
            Bound::load(&prepared.exports, prepared.state.as_ref(), &mut store, &instance)
        });
        match started {
            Ok(bound) => Ok(Self { store, bound }),
            Err(error) => {
                let mut data = store.into_data();
                Err(Box::new((Ending::of(&error, data.meter().denied), data)))
            }
        }
    }

    /// Calls a function with so much fuel.
    pub fn call<X: Export<E>>(&mut self, call: &X, fuel: u64) -> Result<X::Output, Ending> {
        let _watchdog = T::watchdog(&self.store);
        self.store.data_mut().meter().denied = false;
        let result = self.store.set_fuel(fuel).and_then(|()| call.call(&self.bound, &mut self.store));
        self.ended(result)
    }

    /// Calls the function of this number with encoded parameters, and encodes its result.
    pub fn call_encoded(&mut self, function: u8, parameters: &[u8], fuel: u64) -> Result<Vec<u8>, Ending> {
        self.store.data_mut().meter().denied = false;
        let called = self
            .store
            .set_fuel(fuel)
            .and_then(|()| E::call(&self.bound, &mut self.store, function, parameters));
        self.ended(called)
    }

    /// What stands in the store.
    pub fn data(&mut self) -> &mut T {
        self.store.data_mut()
    }

    fn ended<R>(&mut self, result: wasmtime::Result<R>) -> Result<R, Ending> {
        result.map_err(|error| Ending::of(&error, self.store.data_mut().meter().denied))
    }
}
