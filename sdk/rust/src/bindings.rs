//! What wit-bindgen makes of the contract: one module for each world.
#![allow(missing_docs)]

/// The world `sampler`.
pub mod sampler {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "sampler",
        pub_export_macro: true,
        additional_derives: [PartialEq],
    });
}

/// The world `policy`.
pub mod policy {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "policy",
        pub_export_macro: true,
        additional_derives: [PartialEq],
    });
}

/// The world `tool`.
pub mod tool {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "tool",
        pub_export_macro: true,
        additional_derives: [PartialEq],
    });
}

/// The world `agent`.
pub mod agent {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "agent",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        // Interfaces that nothing exported uses have bindings all the same.
        generate_unused_types: true,
    });
}

/// The world `stateful`.
pub mod stateful {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "stateful",
        pub_export_macro: true,
    });
}
