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
    /// Words of each description.
    #[serde(default = "few")]
    words: usize,
    /// What goes wrong when state is handed on: `huge` or `loop`.
    #[serde(default)]
    snapshot: String,
    /// What goes wrong when state is taken over: `loop` or `memory`.
    #[serde(default)]
    restore: String,
    /// Changes nothing but the parameters.
    #[serde(default, rename = "version")]
    _version: u32,
}

fn any() -> String {
    r#"{"type": "object"}"#.to_owned()
}

fn few() -> usize {
    5
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
            description: "word ".repeat(self.parameters.words),
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
            "huge" => Ok("x".repeat(50 << 20)),
            "memory" => hoard(),
            "loop" => forever(),
            "log" => {
                for line in 0..1_000 {
                    membrane_plugin::log::warning(&format!("\u{1b}[2J{line}\r\nforged"));
                }
                Ok("logged".to_owned())
            }
            act => match outside::act(act, json)? {
                Some(result) => Ok(result),
                None => Ok(format!("{name}, call {}", self.calls)),
            },
        }
    }
}

fn forever<T>() -> T {
    let mut count = 0u64;
    loop {
        count = std::hint::black_box(count.wrapping_add(1));
    }
}

fn hoard<T>() -> T {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![hoard.len() as u8; 1 << 20]);
    }
}

/// The number of calls is the state.
impl State for Test {
    fn snapshot(&self) -> Vec<u8> {
        match self.parameters.snapshot.as_str() {
            "huge" => return vec![0; 2 << 20],
            "loop" => forever(),
            _ => {}
        }
        self.calls.to_le_bytes().to_vec()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.parameters.restore.as_str() {
            "loop" => forever(),
            "memory" => hoard(),
            _ => {}
        }
        self.calls = u32::from_le_bytes(bytes.try_into().map_err(|_| "not four bytes")?);
        Ok(())
    }
}

membrane_plugin::export_tool!(Test, state);
