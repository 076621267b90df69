//! Parameters from the profile.

use serde::de::DeserializeOwned;

/// Parses the JSON object of a plugin's parameters. Errors name the field.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json)
        .map_err(|error| format!("parameters: {}", without_position(&error.to_string())))
}

/// The position within the JSON text says nothing to people, who wrote TOML or command-line options.
fn without_position(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(message, _)| message)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Parameters {
        temperature: f32,
    }

    impl Default for Parameters {
        fn default() -> Self {
            Self { temperature: 0.5 }
        }
    }

    #[test]
    fn defaults_apply() {
        let parameters: Parameters = super::parse("{}").expect("parses");
        assert_eq!(parameters.temperature, 0.5);
    }

    #[test]
    fn unknown_field_is_named_without_position() {
        let error = super::parse::<Parameters>(r#"{"temprature": 1}"#).expect_err("unknown");
        assert_eq!(error, "parameters: unknown field `temprature`, expected `temperature`");
    }
}
