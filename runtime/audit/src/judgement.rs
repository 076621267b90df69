//! What the model judged for a policy.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::record::Sealed;

/// The natural logarithm of a probability, to the bit: written as the 16 hexadecimal digits of a double, since JSON has no
/// infinity and its readers round.
#[derive(Debug, Clone, Copy)]
pub struct LogProbability(pub f64);

impl PartialEq for LogProbability {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for LogProbability {}

impl fmt::Display for LogProbability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.0)
    }
}

impl Serialize for LogProbability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0.to_bits()))
    }
}

impl<'de> Deserialize<'de> for LogProbability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let whole = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u64::from_str_radix(&digits, 16).ok().filter(|_| whole);
        let malformed = || serde::de::Error::custom("a logarithm of a probability has 16 hexadecimal digits");
        bits.map(|bits| Self(f64::from_bits(bits))).ok_or_else(malformed)
    }
}

/// A policy asked the model how likely texts are behind a question of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgement {
    /// The answer.
    pub answer: u64,
    /// Tokens of the answer that were chosen before.
    pub token: u64,
    /// Name of the policy.
    pub policy: String,
    /// Tokens of the question and the texts together; 0 where it was not cut into tokens.
    pub tokens: u64,
    /// How likely each text is; none where the model could not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<LogProbability>>,
    /// Token ids, where the log keeps ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<JudgedIds>,
    /// [`JudgementText`].
    pub text: Sealed,
}

/// The tokens of a question and of the texts behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedIds {
    /// The question.
    pub question: Vec<u32>,
    /// Each text.
    pub continuations: Vec<Vec<u32>>,
}

/// What the model was asked to judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgementText {
    /// A text, or the messages of a conversation: objects with `role` and `content`. Where the policy was told that it can't
    /// be judged, an object with the `digest` of this and of the texts, of which then none are here.
    pub question: Value,
    /// The texts.
    pub continuations: Vec<String>,
    /// Token ids.
    pub ids: JudgedIds,
    /// Why there are no scores, where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it was the model that failed: then the policy's call ended. Otherwise the policy was told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

#[cfg(test)]
mod tests {
    use super::LogProbability;

    #[test]
    fn logarithms_are_kept_to_the_bit_and_nothing_else_is_read() {
        for value in [-0.1_f64, 0.0, -0.0, f64::NEG_INFINITY, -1e-300, f64::NAN] {
            let json = serde_json::to_string(&LogProbability(value)).unwrap();
            assert_eq!(
                serde_json::from_str::<LogProbability>(&json).unwrap(),
                LogProbability(value),
                "{json}"
            );
        }
        for wrong in ["\"\"", "\"+fb999999999999a\"", "\"bfb999999999999a0\"", "-0.1", "null"] {
            assert!(serde_json::from_str::<LogProbability>(wrong).is_err(), "{wrong}");
        }
    }
}
