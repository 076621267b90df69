//! Tools that fail on request. What is described comes from the parameters.

mod outside;

use membrane_plugin::state::State;
use membrane_plugin::tool::{Description, Tool, arguments};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    names: Vec<String>,
    #[serde(default = "any")]
    schema: String,
    /// Changes nothing but the parameters.
    #[serde(default, rename = "version")]
    _version: u32,
}

fn any() -> String {
    r#"{"type": "object"}"#.to_owned()
}

#[derive(Deserialize)]
struct Arguments {
    #[serde(default)]
    act: String,
}

struct Test {
    parameters: Parameters,
    calls: u32,
}

impl Tool for Test {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        Ok(Self { parameters, calls: 0 })
    }

    fn describe(&self) -> Vec<Description> {
        let describe = |name: &String| Description {
            name: name.clone(),
            description: "Does what it is told.".to_owned(),
            parameters: self.parameters.schema.clone(),
        };
        self.parameters.names.iter().map(describe).collect()
    }

    fn call(&mut self, name: &str, json: &str) -> Result<String, String> {
        self.calls += 1;
        match arguments::<Arguments>(json)?.act.as_str() {
            "panic" => panic!("on purpose"),
            "error" => Err("out of order".to_owned()),
            "long" => Ok("é".repeat(400_000)),
            "loop" => {
                let mut count = 0u64;
                loop {
                    count = std::hint::black_box(count.wrapping_add(1));
                }
            }
            act => match outside::act(act, json)? {
                Some(result) => Ok(result),
                None => Ok(format!("{name}, call {}", self.calls)),
            },
        }
    }
}

/// The number of calls is the state.
impl State for Test {
    fn snapshot(&self) -> Vec<u8> {
        self.calls.to_le_bytes().to_vec()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.calls = u32::from_le_bytes(bytes.try_into().map_err(|_| "not four bytes")?);
        Ok(())
    }
}

membrane_plugin::export_tool!(Test, state);
