//! What wasmtime makes of the contract: one module for each world. Types that worlds share are those of
//! `sampler`. All can be encoded, for plugins that run in a process of their own.
#![allow(missing_docs)]

pub mod sampler {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "sampler",
        imports: { default: trappable },
        additional_derives: [serde::Serialize, serde::Deserialize],
    });
}

pub mod policy {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "policy",
        imports: { default: trappable },
        additional_derives: [serde::Serialize, serde::Deserialize],
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
        additional_derives: [serde::Serialize, serde::Deserialize],
        with: {
            "membrane:plugin/types": crate::bindings::sampler::membrane::plugin::types,
            "membrane:plugin/log": crate::bindings::sampler::membrane::plugin::log,
        },
    });
}

pub mod agent {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "agent",
        imports: { default: trappable },
        additional_derives: [serde::Serialize, serde::Deserialize],
        with: {
            "membrane:plugin/types": crate::bindings::sampler::membrane::plugin::types,
            "membrane:plugin/log": crate::bindings::sampler::membrane::plugin::log,
            "membrane:plugin/vocabulary": crate::bindings::sampler::membrane::plugin::vocabulary,
            "membrane:plugin/random": crate::bindings::sampler::membrane::plugin::random,
            "membrane:plugin/inference.session": crate::agent::SessionHandle,
            "membrane:plugin/inference.generation": crate::agent::GenerationHandle,
        },
    });
}

pub mod stateful {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "stateful",
    });
}
