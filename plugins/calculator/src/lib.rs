//! A tool that computes arithmetic expressions, exactly where whole numbers allow it.
#![forbid(unsafe_code)]

mod expression;
mod functions;
mod number;

use membrane_plugin::tool::{Description, Tool, arguments};
use serde::Deserialize;

pub use expression::evaluate;
pub use functions::Angle;

/// The JSON Schema of the arguments.
const SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "expression": {
      "type": "string",
      "description": "For example (12.5 + 3) * 2^10 / sqrt(49)",
      "maxLength": 4096
    }
  },
  "required": ["expression"],
  "additionalProperties": false
}"#;

/// The parameters in the profile.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// The unit of angles.
    pub angle: Angle,
}

/// The tool.
pub struct Calculator {
    angle: Angle,
}

/// The arguments of a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    expression: String,
}

impl Tool for Calculator {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        Ok(Self { angle: parameters.angle })
    }

    fn describe(&self) -> Vec<Description> {
        let angle = match self.angle {
            Angle::Radians => "radians",
            Angle::Degrees => "degrees",
        };
        vec![Description {
            name: "calculator".to_owned(),
            description: format!(
                "Computes an arithmetic expression. Operators: + - * / % (remainder) ^ (power) ! (factorial) \
                 and parentheses. Functions: {}. Constants: pi, e, tau. Angles are in {angle}.",
                functions::names().collect::<Vec<_>>().join(", ")
            ),
            parameters: SCHEMA.to_owned(),
        }]
    }

    fn call(&mut self, name: &str, json: &str) -> Result<String, String> {
        match name {
            "calculator" => evaluate(&arguments::<Arguments>(json)?.expression, self.angle),
            other => Err(format!("there is no tool `{other}` here, only `calculator`")),
        }
    }
}

membrane_plugin::export_tool!(Calculator);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_takes_an_expression_and_nothing_else() {
        let mut tool = Calculator::new(Parameters::default()).unwrap();
        assert_eq!(tool.call("calculator", r#"{"expression": "6 * 7"}"#), Ok("42".to_owned()));
        assert!(
            tool.call("calculator", r#"{"expr": "6 * 7"}"#).unwrap_err().contains("unknown field `expr`")
        );
        assert!(tool.call("calculator", "{}").unwrap_err().contains("missing field `expression`"));
        assert!(tool.call("abacus", "{}").unwrap_err().contains("no tool `abacus`"));
    }

    #[test]
    fn the_description_is_a_schema_of_an_object() {
        let description = Calculator::new(Parameters::default()).unwrap().describe().remove(0);
        let schema: serde_json::Value = serde_json::from_str(&description.parameters).unwrap();
        assert_eq!(schema["type"], "object");
        assert!(description.description.contains("sqrt"));
    }
}
