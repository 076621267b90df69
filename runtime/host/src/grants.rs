//! What a profile may grant to a plugin beyond what its world gives to all.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::World;

/// Something that a plugin gets only by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// The time of day, for tools.
    Clock,
    /// All logits of the vocabulary at once, for samplers.
    AllLogits,
}

/// A name that is no grant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no grant `{name}`; there are: {}", Grant::names())]
pub struct UnknownGrant {
    name: String,
}

impl Grant {
    /// All that there are.
    pub const ALL: [Grant; 2] = [Grant::Clock, Grant::AllLogits];

    /// The interface that it opens, which has the same name.
    pub const fn name(self) -> &'static str {
        match self {
            Grant::Clock => "clock",
            Grant::AllLogits => "all-logits",
        }
    }

    /// The world that knows the interface.
    pub const fn world(self) -> World {
        match self {
            Grant::Clock => World::Tool,
            Grant::AllLogits => World::Sampler,
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
        assert_eq!(error.to_string(), "there is no grant `network`; there are: clock, all-logits");
        assert_eq!("clock".parse(), Ok(Grant::Clock));
    }
}
