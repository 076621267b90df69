//! What a log says: one record a line.
//!
//! The number of a record names it: an answer is the number of its [`Answer`] record, and its later records carry that
//! number, so that the records of several answers may be mixed.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, Salt, from_hex, to_hex};
use crate::error::AuditError;
use crate::judgement::Judgement;

/// The form of this log; it changes when a reader of the old form would misread the new one.
pub const FORM: &str = "membrane-audit-1";

/// One thing that a log says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Record {
    /// A program begins to write.
    Open(Open),
    /// A model that answers are made with.
    Model(Model),
    /// A behaviour that answers are made with.
    Behaviour(Behaviour),
    /// An answer begins.
    Answer(Answer),
    /// A round of an answer begins: a prompt has been made.
    Round(Round),
    /// Tokens that samplers chose, one behind the other.
    Tokens(Tokens),
    /// A policy did something other than to let pass.
    Verdict(Verdict),
    /// The model judged something for a policy.
    Judgement(Judgement),
    /// The model asked for a tool.
    Tool(Tool),
    /// A policy forced a text: the model goes on behind other tokens than it chose.
    Rewind(Rewind),
    /// Plugins were exchanged in the middle of an answer.
    Swap(Swap),
    /// An answer is over.
    End(End),
    /// A signature over everything before it.
    Checkpoint(Checkpoint),
    /// The program has ended in order and writes no more.
    Close,
}

/// A random name of a log, 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId([u8; 16]);

impl LogId {
    pub(crate) fn random() -> Result<Self, AuditError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| AuditError::Random(error.to_string()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl Serialize for LogId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let malformed = || serde::de::Error::custom("the name of a log has 32 hexadecimal digits");
        from_hex(&digits).map(Self).ok_or_else(malformed)
    }
}

/// What of an answer's content is kept, and where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Salted digests in the log, nothing else.
    Digests,
    /// Token ids in the log, which whoever has the tokenizer can read; digests of everything else.
    #[default]
    Tokens,
    /// Salted digests in the log; token ids and texts in a second file, which may be erased.
    Text,
}

/// The digest of a content, salted so that it can't be found by trying likely ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// [`Digest::salted`] of the content's JSON.
    pub digest: Digest,
    /// The salt, where there is no text file that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<Salt>,
}

/// A program begins to write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// [`FORM`].
    pub form: String,
    /// The log; the same each time it is opened.
    pub log: LogId,
    /// Name and version of the program.
    pub program: String,
    /// What is kept of contents from here on.
    pub keep: Keep,
    /// A line that was torn, because the program before was killed while it wrote, and was taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
}

/// A torn line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovered {
    /// Bytes that were taken out; 0 if the line only lacked its newline.
    pub bytes: u64,
    /// Their digest.
    pub digest: Digest,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The path that it was opened by.
    pub path: String,
    /// Name of the architecture.
    pub architecture: String,
    /// Its files, in order.
    pub files: Vec<ModelFile>,
    /// Digest of all metadata that the tokenizer is made of.
    pub tokenizer: Digest,
    /// Digest of the chat template, if the model has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Digest>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Its path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Digest of what stands before the first tensor's data: metadata, names, shapes and types. It says nothing of
    /// the weights.
    pub header: Digest,
    /// Digest of the whole file, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Digest>,
    /// The whole file was not read for this record: a file of the same place, size, inode and times had this
    /// digest when it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remembered: bool,
}

/// A behaviour: the plugins of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// The profile's name.
    pub profile: String,
    /// The profile's digest, which covers the plugins with their parameters and grants.
    pub digest: Digest,
    /// Samplers, policies and tools, each in their order.
    pub plugins: Vec<Plugin>,
}

/// A plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// `sampler`, `policy` or `tool`.
    pub kind: String,
    /// Its name in verdicts.
    pub name: String,
    /// Digest of the component.
    pub digest: Digest,
    /// The manifest's version, where there is a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// A name of a plugin that the program carries, or the path of a component.
    pub location: String,
    /// What it was configured with, a JSON object.
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Grants beyond its world.
    pub grants: Vec<String>,
    /// What it found behind grants that have values, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authority: Vec<String>,
    /// Units of fuel of one call.
    pub fuel_per_call: u64,
    /// Bytes of memory of an instance.
    pub memory_bytes: u64,
    /// Milliseconds by the clock of one call, where they were limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Where its instances were to run: `none` is the program's own process, `process` one of their own, `required` one that the
    /// kernel holds in. None in logs of before this was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
}

/// What the engine was told, as far as it can change a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Its version.
    pub version: String,
    /// Instruction set. All give the same bits; it is here to find the machine if they ever don't.
    pub instruction_set: String,
    /// Whether it computed in f32 throughout, which gives other bits.
    pub reference: bool,
    /// The integers that activations were rounded to, which give bits of their own: `int8`, `int8-groups`. None: of 16 bits, or none with
    /// `reference`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<String>,
    /// How keys and values were kept, which changes what is computed: `q8_0`, `q4_0`. None: in half precision, or in single
    /// precision with `reference`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<String>,
    /// Context length in tokens.
    pub context: u32,
}

/// An answer begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Number of the [`Model`] record.
    pub model: u64,
    /// Number of the [`Behaviour`] record.
    pub behaviour: u64,
    /// Number of the [`Behaviour`] record that the answer goes back to if a plugin of `behaviour` fails: a new version
    /// is on trial until it has made a whole answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// The engine.
    pub engine: Engine,
    /// Seed of the samplers' random source.
    pub seed: u64,
    /// Most tokens to choose; none is as many as the context holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// The messages were given to the model without a chat template.
    pub raw: bool,
    /// The time that the chat template was told, seconds since 1970.
    pub now: i64,
    /// What the text had to follow, if there was something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
    /// [`crate::RequestText`]: the messages as they were given, before any policy.
    pub request: Sealed,
}

/// What the text of an answer had to follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// `json-schema`, `regex` or `lark`.
    pub kind: String,
    /// The schema, expression or grammar, where the log keeps token ids: they can't be chosen again without it. It
    /// stands in [`crate::RequestText`] in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar: Option<serde_json::Value>,
}

/// A round begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// The answer.
    pub answer: u64,
    /// Tokens of the prompt; 0 if a policy refused before it was cut into tokens.
    pub tokens: u64,
    /// Their ids, where the log keeps ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
    /// [`crate::PromptText`].
    pub prompt: Sealed,
}

/// Tokens that samplers chose, and what the policies were shown meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// The answer.
    pub answer: u64,
    /// How many tokens were chosen in the answer before these.
    pub first: u64,
    /// How many these are; 0 if policies were shown text without a new token.
    pub count: u64,
    /// Their ids, where the log keeps ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
    /// Who chose them: name of the sampler and how many in a row.
    pub by: Vec<(String, u64)>,
    /// The probability of each among the tokens that were in the running, where the sampler drew it from those.
    pub probabilities: Vec<Option<f32>>,
    /// [`crate::TokensText`].
    pub text: Sealed,
}

/// A place in a sequence: from `start` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The first.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
}

/// A policy did something other than to let pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The answer.
    pub answer: u64,
    /// Name of the policy.
    pub policy: String,
    /// The hook, as the contract names it.
    pub hook: String,
    /// `rewrite`, `replace`, `stop`, `deny`, `force`, `refuse` or `fail`.
    pub verdict: String,
    /// Id of the clause that it rests on.
    pub clause: String,
    /// In the hook `output`: bytes that the policy had let pass in this answer before the place that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_bytes: Option<u64>,
    /// In the hook `output`: tokens of the answer within which the text lies that it concerns. Up to the first
    /// verdict that changes the text, `start` is the first token of the text at `offset_bytes`; from then on it may
    /// lie before it. `end` is how many tokens had been chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Span>,
}

/// The model asked for a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// The answer.
    pub answer: u64,
    /// Name of the tool, if it is one that was offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the call was made; a policy may have denied it.
    pub made: bool,
    /// Whether the tool did what was asked.
    pub ok: bool,
    /// [`crate::CallText`].
    pub call: Sealed,
}

/// The session goes on behind other tokens than were chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewind {
    /// The answer.
    pub answer: u64,
    /// How many tokens the session holds now, prompt included.
    pub tokens: u64,
    /// Those behind the prompt, where the log keeps ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
    /// [`crate::PromptText`] of the tokens behind the prompt.
    pub prompt: Sealed,
}

/// Plugins were exchanged, added or removed in the middle of an answer. The tokens from `token` on were made with what
/// it says, up to the next such record. One reload is one record, so that a writer that is killed leaves all of it or
/// nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// The answer.
    pub answer: u64,
    /// How many tokens were chosen before: the first that it concerns has this number, counted from 0.
    pub token: u64,
    /// Number of the [`Behaviour`] record that was taken over, or gone back to. It has the order of the samplers, and
    /// parameters, grants and limits of each plugin.
    pub behaviour: u64,
    /// A new version failed, and `behaviour` was gone back to: it makes the token in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
    /// What became of each plugin; empty if only the order of the samplers changed.
    pub plugins: Vec<Swapped>,
}

/// A plugin that was exchanged, added or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swapped {
    /// `sampler`, `policy` or `tool`.
    pub kind: String,
    /// Name of the plugin.
    pub plugin: String,
    /// Digest of the component before; none if it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Digest>,
    /// Digest of the component after; none if it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Digest>,
    /// `live`, `beside` (with the one before, which stays), `next-answer` (not in this answer) or `rolled-back` (`from`
    /// failed, and `to` makes the token in its place).
    pub effect: String,
    /// Whether it went on from the state of the one before.
    pub state: bool,
}

/// An answer is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The answer.
    pub answer: u64,
    /// Why, as events name it, or `failed`.
    pub reason: String,
    /// Rounds that began.
    pub rounds: u64,
    /// Tokens that samplers chose.
    pub tokens: u64,
    /// [`crate::EndText`].
    pub text: Sealed,
}

/// A signature over the record before, and with it over all before that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Public key, 64 hexadecimal digits.
    pub key: String,
    /// Signature, 128 hexadecimal digits, over the log's name, the number and the hash of the record before.
    pub signature: String,
}

impl Record {
    /// The name of its kind, as in the log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Model(_) => "model",
            Self::Behaviour(_) => "behaviour",
            Self::Answer(_) => "answer",
            Self::Round(_) => "round",
            Self::Tokens(_) => "tokens",
            Self::Verdict(_) => "verdict",
            Self::Judgement(_) => "judgement",
            Self::Tool(_) => "tool",
            Self::Rewind(_) => "rewind",
            Self::Swap(_) => "swap",
            Self::End(_) => "end",
            Self::Checkpoint(_) => "checkpoint",
            Self::Close => "close",
        }
    }

    /// The answer that it belongs to, if it is not its beginning.
    pub fn answer(&self) -> Option<u64> {
        match self {
            Self::Round(round) => Some(round.answer),
            Self::Tokens(tokens) => Some(tokens.answer),
            Self::Verdict(verdict) => Some(verdict.answer),
            Self::Judgement(judgement) => Some(judgement.answer),
            Self::Tool(tool) => Some(tool.answer),
            Self::Rewind(rewind) => Some(rewind.answer),
            Self::Swap(swap) => Some(swap.answer),
            Self::End(end) => Some(end.answer),
            _ => None,
        }
    }

    /// The content that it has the digest of.
    pub fn sealed(&self) -> Option<&Sealed> {
        match self {
            Self::Answer(answer) => Some(&answer.request),
            Self::Round(round) => Some(&round.prompt),
            Self::Tokens(tokens) => Some(&tokens.text),
            Self::Judgement(judgement) => Some(&judgement.text),
            Self::Tool(tool) => Some(&tool.call),
            Self::Rewind(rewind) => Some(&rewind.prompt),
            Self::End(end) => Some(&end.text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_of_an_older_log_stays_as_it_was_written() {
        let digest = Digest::of(b"component");
        let older = format!(
            r#"{{"kind":"sampler","name":"greedy","digest":"{digest}","location":"greedy","parameters":{{}},"#
        ) + r#""grants":[],"fuel_per_call":1,"memory_bytes":2}"#;
        let plugin: Plugin = serde_json::from_str(&older).unwrap();
        assert_eq!(plugin.isolation, None);
        assert_eq!(serde_json::to_string(&plugin).unwrap(), older);
        let newer = Plugin { isolation: Some("process".into()), ..plugin };
        assert!(
            serde_json::to_string(&newer).unwrap().ends_with(r#""memory_bytes":2,"isolation":"process"}"#)
        );
    }
}
