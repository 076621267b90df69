//! Texts of plugins that are no part of an answer, such as lines of their logs and their errors: a sampler or a tool may have
//! put into one what the policies withhold from the answer.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use membrane_generate::GenerateError;
use membrane_host::{Host, HostError, JudgedLines, Plugin, PolicyChain};

use crate::{plugin_log, report};

/// The policies that may have withheld something, with a host of theirs.
static POLICIES: Mutex<Option<(Host, Vec<Plugin>)>> = Mutex::new(None);

/// What each plugin has logged, by its name.
static LOGS: Mutex<BTreeMap<String, JudgedLines>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// Policies are asked on this thread just now.
    static JUDGING: Cell<bool> = const { Cell::new(false) };
}

/// Adds policies to those that judge. One that does not start withholds every answer, so that there is nothing to judge by it.
pub fn by(host: &Host, policies: &[Plugin]) {
    let mut all = POLICIES.lock().unwrap_or_else(PoisonError::into_inner);
    let (host, all) = all.get_or_insert_with(|| (host.clone(), Vec::new()));
    for policy in policies {
        let known = all.iter().any(|known| known.same(policy));
        if !known && PolicyChain::start(host, std::slice::from_ref(policy)).is_ok() {
            all.push(policy.clone());
        }
    }
}

/// Adds policies likewise, and lets go of all others once the lines so far are shown: no answer has them any more.
pub fn only(host: &Host, policies: &[Plugin]) {
    by(host, policies);
    let same = |known: &Plugin| policies.iter().find(|policy| policy.same(known));
    let lock = || POLICIES.lock().unwrap_or_else(PoisonError::into_inner);
    let goes = lock().iter().flat_map(|(_, all)| all).any(|known| same(known).is_none());
    if goes {
        plugin_log::flush();
    }
    if let Some((_, all)) = &mut *lock() {
        *all = all.iter().filter_map(same).cloned().collect();
    }
}

/// A text if every policy lets it pass as an answer, and a word in its place if not.
pub fn text(text: &str) -> String {
    judge(text, |host, policies| PolicyChain::judged(host, policies, text))
}

/// A line of a plugin's log, if every policy lets it pass behind those before it, and a word in its place if not.
pub fn line(plugin: &str, line: &str) -> String {
    judge(line, |host, policies| {
        let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
        logs.entry(plugin.to_owned()).or_default().next(host, policies, None, line)
    })
}

fn judge(text: &str, judged: impl FnOnce(&Host, &[Plugin]) -> String) -> String {
    let Some((host, policies)) = POLICIES.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
        return text.to_owned();
    };
    JUDGING.set(true);
    let judged = judged(&host, &policies);
    JUDGING.set(false);
    judged
}

/// Whether this thread is asking policies just now.
pub fn is_judging() -> bool {
    JUDGING.get()
}

/// An error with its causes; judged where it is a plugin that speaks.
pub fn error(error: &anyhow::Error) -> String {
    let described = report::describe(error);
    if error.chain().any(is_a_plugins) { text(&described) } else { described }
}

/// Whether a plugin speaks in an error of what it has seen: one other than the policies themselves, and not before anything
/// was generated.
fn is_a_plugins(cause: &(dyn std::error::Error + 'static)) -> bool {
    let host = match cause.downcast_ref() {
        Some(GenerateError::Host(error)) => Some(error),
        _ => cause.downcast_ref(),
    };
    let Some(HostError::Failed(failure)) = host else { return false };
    let policies = POLICIES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut names = policies.iter().flat_map(|(_, policies)| policies).map(Plugin::name);
    !matches!(failure.hook, "start" | "configure") && !names.any(|name| name == failure.plugin)
}

#[cfg(test)]
mod tests {
    use membrane_host::{HostOptions, PluginSource, World, first_party};
    use serde_json::json;

    use super::*;

    #[test]
    fn only_policies_of_answers_judge() {
        let host = Host::new(HostOptions::default()).unwrap();
        let guard = |word: &str| {
            let rules = format!(
                "[[clause]]\nid = \"a\"\nwhen = \"output\"\nmatch = \"{word}\"\naction = \"redact\"\n"
            );
            let source = PluginSource {
                parameters: json!({ "rules": rules }),
                ..PluginSource::new(
                    "guard",
                    first_party::find("guard").unwrap().bytes.to_vec(),
                    World::Policy,
                )
            };
            host.load(source, World::Policy).unwrap()
        };
        let (first, second) = (guard("tangerine"), guard("aubergine"));
        let withheld = || ["tangerine", "aubergine", "other"].map(|word| text(word) != word);
        by(&host, std::slice::from_ref(&first));
        assert_eq!(withheld(), [true, false, false]);
        only(&host, &[first, second.clone()]);
        assert_eq!(withheld(), [true, true, false]);
        only(&host, &[second]);
        assert_eq!(withheld(), [false, true, false]);
        only(&host, &[]);
        assert_eq!(withheld(), [false; 3]);
    }
}
