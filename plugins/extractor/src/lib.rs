//! Reads facts out of a text into JSON of a given schema. The model can't write anything else: the schema is a constraint of the
//! decoding, not a wish in the prompt.

use membrane_plugin::agent::{Agent, Constraint, GenerationOptions, Role, Session, Turn};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// What the profile may set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// JSON Schema of the result, as text or as it is. Not as a value: properties come in the order in which they stand.
    schema: Box<RawValue>,
    /// Most tokens of the result; 0 is as many as the context holds.
    #[serde(default = "most")]
    max_tokens: u32,
    /// What is to be read out, for the model.
    #[serde(default = "instruction")]
    instruction: String,
}

fn most() -> u32 {
    1024
}

fn instruction() -> String {
    "Read the facts that the schema asks for out of the text, as JSON. Take them from the text and from nowhere else.".into()
}

/// The agent.
pub struct Extractor {
    parameters: Parameters,
    /// The text of the schema.
    schema: String,
}

impl Agent for Extractor {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        let given = parameters.schema.get();
        let schema = serde_json::from_str(given).unwrap_or_else(|_| given.to_owned());
        match serde_json::from_str(&schema) {
            Ok(Value::Object(_)) => Ok(Self { parameters, schema }),
            _ => Err("schema: is no JSON object".to_owned()),
        }
    }

    fn run(&mut self, task: &str) -> Result<String, String> {
        let system = format!("{}\n\nJSON Schema:\n{}", self.parameters.instruction, self.schema);
        let session = Session::new();
        session.chat(&[Turn::new(Role::System, system), Turn::new(Role::User, task)], false)?;
        let mut options = GenerationOptions::new().under(Constraint::JsonSchema(self.schema.clone()));
        let most = self.parameters.max_tokens;
        options.max_tokens = (most > 0).then_some(most);
        let text = session.generate(&options)?.finish()?.text;
        match serde_json::from_str::<Value>(&text) {
            Ok(_) => Ok(text),
            Err(error) => Err(format!("the result is not complete ({error}); allow more max_tokens")),
        }
    }
}

membrane_plugin::export_agent!(Extractor);
