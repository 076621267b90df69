//! The behaviour of an answer: which plugins, started anew for it.

use std::sync::Arc;

use membrane_audit as audit;
use membrane_engine::Model;
use membrane_host::{
    AnswerContext, Host, Plugin, PolicyChain, SamplerChain, SharedJudge, ToolSet, Vocabulary,
};
use membrane_text::Tokenizer;
use serde_json::{Map, Value};

use crate::error::{GenerateError, Result};
use crate::journal::Journal;
use crate::judge::asks_the_model;
use crate::reload::Changes;

/// The plugins of a profile, compiled, in the profile's order.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// Each transforms the logits; the first to choose a token wins.
    pub samplers: Vec<Plugin>,
    /// Each sees what the one before has let through.
    pub policies: Vec<Plugin>,
    /// What the model may call.
    pub tools: Vec<Plugin>,
    /// How the audit log has it, with the profile and the places of the components. Without it the log has what the
    /// plugins themselves tell.
    pub record: Option<Arc<audit::Behaviour>>,
}

/// Instances of a behaviour for one answer.
pub(crate) struct Running {
    pub samplers: SamplerChain,
    pub policies: PolicyChain,
    pub tools: ToolSet,
    /// What the audit log is told.
    pub journal: Journal,
    /// What may change about them, and where changes come from.
    pub changes: Changes,
}

impl Behaviour {
    /// All plugins: samplers, policies, tools.
    pub fn plugins(&self) -> impl Iterator<Item = &Plugin> {
        self.samplers.iter().chain(&self.policies).chain(&self.tools)
    }

    /// As the audit log has it.
    pub(crate) fn recorded(&self) -> Arc<audit::Behaviour> {
        if let Some(record) = &self.record {
            return record.clone();
        }
        let plugins: Vec<audit::Plugin> = self.plugins().map(recorded).collect();
        let json = serde_json::to_vec(&plugins).unwrap_or_default();
        Arc::new(audit::Behaviour { profile: String::new(), digest: audit::Digest::of(&json), plugins })
    }

    /// With other parameters of the last sampler, which the audit log has, too.
    pub(crate) fn sampling(&self, parameters: Map<String, Value>) -> Self {
        let mut changed = self.clone();
        let Some(last) = changed.samplers.last_mut() else { return changed };
        *last = last.with_parameters(parameters.clone());
        changed.record = self.record.as_deref().map(|record| {
            let mut record = record.clone();
            let kind = last.world().as_str();
            if let Some(plugin) = record.plugins.iter_mut().rfind(|plugin| plugin.kind == kind) {
                plugin.parameters = parameters;
            }
            Arc::new(record)
        });
        changed
    }

    /// Errors: a policy may ask the model, and its memory plan has no room for a judge.
    pub(crate) fn has_its_judge(&self, model: &Model) -> Result<()> {
        if asks_the_model(&self.policies) && model.plan().side_kv.0 == 0 {
            return Err(GenerateError::NoJudge);
        }
        Ok(())
    }

    /// Starts instances for an answer. `judge`: whom policies that were granted it may ask.
    pub(crate) fn start(
        &self,
        host: &Host,
        vocabulary: &Arc<Words>,
        seed: u64,
        judge: Option<SharedJudge>,
    ) -> Result<Running> {
        let context = AnswerContext { vocabulary: vocabulary.clone(), seed };
        Ok(Running {
            samplers: SamplerChain::start(host, &self.samplers, context)?,
            policies: PolicyChain::start_with(host, &self.policies, judge)?,
            tools: ToolSet::start(host, &self.tools)?,
            journal: Journal::default(),
            changes: Changes::default(),
        })
    }
}

/// A plugin as the audit log has it, where no profile says where it is.
fn recorded(plugin: &Plugin) -> audit::Plugin {
    audit::Plugin {
        kind: plugin.world().as_str().to_owned(),
        name: plugin.name().to_owned(),
        digest: audit::Digest::from_bytes(*plugin.digest().as_bytes()),
        version: None,
        location: String::new(),
        parameters: serde_json::from_str(plugin.parameters()).unwrap_or_default(),
        grants: plugin.grants().iter().map(|grant| grant.name().to_owned()).collect(),
        authority: plugin.authority().lines().into_iter().collect(),
        fuel_per_call: plugin.limits().fuel_per_call,
        memory_bytes: plugin.limits().memory_bytes as u64,
        wall_ms: plugin.limits().wall_ms,
        isolation: Some(plugin.isolation().as_str().to_owned()),
    }
}

/// The tokenizer as plugins see it.
pub(crate) struct Words(pub Model);

impl Words {
    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.0.tokenizer().ok()
    }
}

impl Vocabulary for Words {
    fn size(&self) -> u32 {
        self.0.hyperparameters().vocabulary as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.tokenizer()?.token_bytes(token).ok()
    }

    fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let tokenizer = self.tokenizer().ok_or("the model has no tokenizer")?;
        tokenizer.encode_continuation(text).map_err(|error| error.to_string())
    }

    fn is_end(&self, token: u32) -> bool {
        self.tokenizer().is_some_and(|tokenizer| tokenizer.end_tokens().contains(&token))
    }

    fn end_token(&self) -> Option<u32> {
        self.tokenizer()?.end_tokens().iter().next().copied()
    }
}
