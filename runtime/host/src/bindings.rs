//! What wasmtime makes of the contract: one module for each world. Types that worlds share are those of
//! `sampler`.
#![allow(missing_docs)]

pub mod sampler {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "sampler",
        imports: { default: trappable },
    });
}

pub mod policy {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "policy",
        imports: { default: trappable },
        with: {
            "membrane:plugin/types": crate::bindings::sampler::membrane::plugin::types,
            "membrane:plugin/log": crate::bindings::sampler::membrane::plugin::log,
        },
    });
}

pub mod tool {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "tool",
        imports: { default: trappable },
        with: {
            "membrane:plugin/types": crate::bindings::sampler::membrane::plugin::types,
            "membrane:plugin/log": crate::bindings::sampler::membrane::plugin::log,
        },
    });
}

pub mod stateful {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "stateful",
    });
}
