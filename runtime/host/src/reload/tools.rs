//! Tools that are replaced between two calls.

use serde_json::Value;

use crate::error::Result;
use crate::plugin::Plugin;
use crate::reload::{Effect, Swap, changed, removed};
use crate::tool::{ToolSet, describe, start};

impl ToolSet {
    /// Puts the tools of `after` in the place of those that are offered, as far as the model was told of them: a plugin
    /// that describes its tools as the one of the same name did is replaced, with its state if both keep state; other
    /// new ones wait for the next answer. One that was removed can't be called any more.
    pub fn reload(&mut self, after: &[Plugin]) -> Vec<Swap> {
        let offered =
            self.members.iter().enumerate().filter(|(at, _)| self.tools.iter().any(|tool| tool.1 == *at));
        let before: Vec<Plugin> = offered.map(|(_, member)| member.plugin.clone()).collect();
        let mut swaps = Vec::new();
        for (old, new) in changed(&before, after) {
            let effect = match self.replace(new) {
                Ok(effect) => effect,
                Err(error) => Effect::NextAnswer { why: error.to_string() },
            };
            swaps.extend(Swap::between(old, Some(new), effect));
        }
        for old in removed(&before, after) {
            self.remove(old.name());
            swaps.extend(Swap::between(Some(old), None, Effect::Live { state: false }));
        }
        swaps
    }

    /// Puts tools that were in force before in place again, as [`ToolSet::reload`] does; there is nothing to go back to from them.
    pub fn go_back(&mut self, to: &[Plugin]) -> Vec<Swap> {
        let swaps = self.reload(to);
        self.members.iter_mut().for_each(|member| member.before = None);
        swaps
    }

    /// The plugin that a call of this tool goes to.
    pub fn serving(&self, tool: &str) -> Option<&Plugin> {
        let (_, index) = self.tools.iter().find(|(name, _)| name == tool)?;
        Some(&self.members[*index].plugin)
    }

    fn replace(&mut self, new: &Plugin) -> Result<Effect> {
        let waits = |why: &str| Ok(Effect::NextAnswer { why: why.into() });
        let Some(at) = self.members.iter().position(|member| member.plugin.name() == new.name()) else {
            return waits("the model was not told of it");
        };
        let mut instance = start(new)?;
        let described = describe(&mut instance)?;
        let told: Vec<&Value> = self
            .tools
            .iter()
            .zip(self.descriptions.iter())
            .filter(|(tool, _)| tool.1 == at)
            .map(|(_, told)| told)
            .collect();
        if !described.iter().map(|(_, description)| description).eq(told) {
            return waits("the model was told of other tools");
        }
        let member = &mut self.members[at];
        let state = match member.instance.as_mut() {
            Some(old) if new.keeps_state() => old.snapshot()?,
            _ => None,
        };
        let state = state.map(|state| instance.restore(&state)).transpose()?.unwrap_or(false);
        let old = std::mem::replace(&mut member.plugin, new.clone());
        member.before.get_or_insert(old);
        member.instance = Some(instance);
        Ok(Effect::Live { state })
    }

    /// Takes a plugin's tools out; its place stays.
    fn remove(&mut self, name: &str) {
        let Some(at) = self.members.iter().position(|member| member.plugin.name() == name) else { return };
        let stays: Vec<bool> = self.tools.iter().map(|tool| tool.1 != at).collect();
        let mut kept = stays.iter();
        self.tools.retain(|_| kept.next() == Some(&true));
        let told = self.descriptions.iter().zip(&stays).filter(|(_, stays)| **stays);
        self.descriptions = told.map(|(told, _)| told.clone()).collect();
        self.members[at].instance = None;
    }
}
