//! What a profile may grant to a plugin beyond what its world gives to all.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::World;

/// Something that a plugin gets only by name.
///
/// There is no name without something behind it that the host enforces: what can't be enforced is not granted, and a
/// profile that asks for it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// The time of day, for tools.
    Clock,
    /// Files in the folders of the profile entry, for tools.
    Files,
    /// Requests to the hosts of the profile entry, for tools.
    Http,
    /// The environment variables of the profile entry, for tools.
    Environment,
    /// All logits of the vocabulary at once, for samplers.
    AllLogits,
    /// The tokens of the prompt, for samplers.
    PromptTokens,
    /// The verdict `force`, for policies.
    ForceText,
    /// Changes of system messages, for policies.
    SystemPrompt,
    /// The model as a judge of texts, for policies.
    Judge,
    /// Logits and tokens that no policy has looked at, for agents.
    RawDecoding,
    /// Values that outlive the run, for agents.
    Store,
}

/// A name that is no grant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no grant `{name}`; there are: {}", Grant::names())]
pub struct UnknownGrant {
    name: String,
}

impl Grant {
    /// All that there are.
    pub const ALL: [Grant; 11] = [
        Grant::Clock,
        Grant::Files,
        Grant::Http,
        Grant::Environment,
        Grant::AllLogits,
        Grant::PromptTokens,
        Grant::ForceText,
        Grant::SystemPrompt,
        Grant::Judge,
        Grant::RawDecoding,
        Grant::Store,
    ];

    /// The name in profiles and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Grant::Clock => "clock",
            Grant::Files => "files",
            Grant::Http => "http",
            Grant::Environment => "environment",
            Grant::AllLogits => "all-logits",
            Grant::PromptTokens => "prompt-tokens",
            Grant::ForceText => "force-text",
            Grant::SystemPrompt => "system-prompt",
            Grant::Judge => "judge",
            Grant::RawDecoding => "raw-decoding",
            Grant::Store => "store",
        }
    }

    /// The interface that it opens. Without one it is checked when the plugin does what it is for.
    pub const fn interface(self) -> Option<&'static str> {
        match self {
            Grant::Clock => Some("clock"),
            Grant::Files => Some("files"),
            Grant::Http => Some("http"),
            Grant::Environment => Some("environment"),
            Grant::AllLogits => Some("all-logits"),
            Grant::Judge => Some("judge"),
            Grant::RawDecoding => Some("raw-decoding"),
            Grant::Store => Some("store"),
            Grant::PromptTokens | Grant::ForceText | Grant::SystemPrompt => None,
        }
    }

    /// The world that it is for.
    pub const fn world(self) -> World {
        match self {
            Grant::Clock | Grant::Files | Grant::Http | Grant::Environment => World::Tool,
            Grant::AllLogits | Grant::PromptTokens => World::Sampler,
            Grant::ForceText | Grant::SystemPrompt | Grant::Judge => World::Policy,
            Grant::RawDecoding | Grant::Store => World::Agent,
        }
    }

    /// What a plugin may do with it, in plain words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Grant::Clock => "read the time of day and the local time zone",
            Grant::Files => {
                "list and read files in the folders that its profile entry names, and write where it says so"
            }
            Grant::Http => "send requests to the hosts that its profile entry names",
            Grant::Environment => "read the environment variables that its profile entry names",
            Grant::AllLogits => "read and replace the logits of the whole vocabulary",
            Grant::PromptTokens => "read the tokens of the prompt",
            Grant::ForceText => "put words of its own into the model's mouth",
            Grant::SystemPrompt => "add, change and remove system messages",
            Grant::Judge => {
                "ask the model how likely it finds short answers to questions about the conversation"
            }
            Grant::RawDecoding => {
                "see and choose tokens past samplers and policies, which still judge what it hands on"
            }
            Grant::Store => "keep values of its own from run to run",
        }
    }

    /// The field of a profile entry that has its values.
    pub const fn values(self) -> Option<&'static str> {
        match self {
            Grant::Files => Some("folders"),
            Grant::Http => Some("hosts"),
            Grant::Environment => Some("environment"),
            _ => None,
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Reads names as a profile lists them. Errors: a name that is no grant, with those that are.
    pub fn parse_all(names: &[String]) -> Result<BTreeSet<Grant>, UnknownGrant> {
        names.iter().map(|name| name.parse()).collect()
    }
}

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(name: &str) -> Result<Self, UnknownGrant> {
        let unknown = || UnknownGrant { name: crate::text::clean(name, 64) };
        Self::ALL.into_iter().find(|grant| grant.name() == name).ok_or_else(unknown)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_grant_is_told_which_there_are() {
        let error = "network".parse::<Grant>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "there is no grant `network`; there are: clock, files, http, environment, all-logits, prompt-tokens, force-text, \
             system-prompt, judge, raw-decoding, store"
        );
        for grant in Grant::ALL {
            assert_eq!(grant.name().parse(), Ok(grant));
        }
    }
}
