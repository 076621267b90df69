//! A tool that tells the time. It needs the grant `clock`.
#![forbid(unsafe_code)]

mod calendar;

use membrane_plugin::tool::{Description, Tool, arguments, clock};
use serde::Deserialize;

use calendar::{Moment, Offset};

/// The JSON Schema of the arguments.
const SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "utc_offset": {
      "type": "string",
      "description": "Offset from UTC, such as +02:00, or Z for UTC; local time if it is left out",
      "pattern": "^(Z|[+-][0-9]{2}:[0-9]{2})$"
    }
  },
  "additionalProperties": false
}"#;

/// The parameters in the profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// `local`, `Z` or `+hh:mm`: the offset where a call names none.
    pub utc_offset: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { utc_offset: "local".to_owned() }
    }
}

/// The tool.
pub struct Clock {
    /// `None` is the host's local time.
    offset: Option<Offset>,
}

/// The arguments of a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    utc_offset: Option<String>,
}

impl Tool for Clock {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        let offset = match parameters.utc_offset.as_str() {
            "local" => None,
            given => Some(given.parse()?),
        };
        Ok(Self { offset })
    }

    fn describe(&self) -> Vec<Description> {
        vec![Description {
            name: "current_time".to_owned(),
            description: "Tells the current date, time of day and weekday.".to_owned(),
            parameters: SCHEMA.to_owned(),
        }]
    }

    fn call(&mut self, name: &str, json: &str) -> Result<String, String> {
        if name != "current_time" {
            return Err(format!("there is no tool `{name}` here, only `current_time`"));
        }
        let offset = match (arguments::<Arguments>(json)?.utc_offset, self.offset) {
            (Some(given), _) => given.parse()?,
            (None, Some(offset)) => offset,
            (None, None) => Offset::minutes(clock::utc_offset_minutes())?,
        };
        Ok(answer(clock::now_ms(), offset))
    }
}

/// What the model is told.
fn answer(now_ms: u64, offset: Offset) -> String {
    let moment = Moment::new(now_ms, offset);
    serde_json::json!({"time": moment.to_string(), "weekday": moment.weekday(), "unix": now_ms / 1000})
        .to_string()
}

membrane_plugin::export_tool!(Clock);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_json_with_time_and_weekday() {
        let answer: serde_json::Value =
            serde_json::from_str(&answer(1_700_000_000_123, Offset::UTC)).unwrap();
        let expected = serde_json::json!({
            "time": "2023-11-14T22:13:20Z", "weekday": "Tuesday", "unix": 1_700_000_000,
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_malformed_offset_is_refused_at_the_start_and_in_a_call() {
        let start = |text: &str| Clock::new(Parameters { utc_offset: text.to_owned() }).err();
        assert!(start("CET").unwrap().contains("`CET`"));
        assert_eq!(start("+05:45"), None);
        let mut clock = Clock::new(Parameters::default()).unwrap();
        assert!(clock.call("current_time", r#"{"utc_offset": "+25:00"}"#).unwrap_err().contains("`+25:00`"));
        assert!(clock.call("current_time", r#"{"zone": "Z"}"#).unwrap_err().contains("unknown field `zone`"));
        assert!(clock.call("now", "{}").unwrap_err().contains("no tool `now`"));
    }
}
