//! The memory plan: where every byte of the budget goes, before anything is loaded.

use std::fmt;

use serde::Serialize;

use crate::process::FreeMemory;

/// A number of bytes, printed for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    /// MiB, rounded up, so that a printed need is never below the real one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}MiB", self.0.div_ceil(1 << 20)))
    }
}

/// What a model takes of the memory budget.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryPlan {
    /// The ceiling over the whole process; none is unlimited.
    pub budget: Option<Bytes>,
    /// Where the budget comes from, if nobody gave it.
    pub automatic: Option<FreeMemory>,
    /// The process as it stood before loading: program, tokenizer, compiled plugins.
    pub process: Bytes,
    /// Kept free for plugin instances, threads and the allocator.
    pub reserve: Bytes,
    /// Weights that are never paged.
    pub weights: Bytes,
    /// Embedding rows that stay on disk, not counted against the budget.
    pub embedding_on_disk: Bytes,
    /// Tables of n-grams, of which rows are read as tokens ask for them; not counted against the budget.
    pub ngrams_on_disk: Bytes,
    /// Keys and values of all full contexts.
    pub kv: Bytes,
    /// What they are kept as: `F16`, `Q8_0`.
    pub kv_format: &'static str,
    /// Context length, in tokens.
    pub context: u32,
    /// Full contexts of which keys and values find room at a time, those beside the others included.
    pub contexts: u32,
    /// Recurrent states of sessions and their checkpoints; 0 in a model without recurrent layers.
    pub recurrent: Bytes,
    /// Recurrent states of sessions that find room beside all checkpoints.
    pub recurrent_states: u32,
    /// Checkpoints of recurrent states that are kept at most.
    pub checkpoints: u32,
    /// Of `kv`, what is for sessions beside the others.
    pub side_kv: Bytes,
    /// Of `recurrent`, what is for them.
    pub side_recurrent: Bytes,
    /// Checkpoints that are kept at most of their recurrent states.
    pub side_checkpoints: u32,
    /// Logits and recurrent states of tokens that are drafted ahead.
    pub ahead: Bytes,
    /// Most tokens that a session drafts ahead; 0 where none are.
    pub drafts: u32,
    /// Activations of one prefill chunk.
    pub scratch: Bytes,
    /// Tokens in a prefill chunk.
    pub prefill_chunk: usize,
    /// Memory for paged experts.
    pub expert_arena: Bytes,
    /// Experts that the arena holds.
    pub expert_slots: u64,
    /// Bytes of one slot.
    pub expert_slot: Bytes,
    /// Experts of the model over all layers.
    pub experts: u64,
    /// Bytes of all experts.
    pub experts_total: Bytes,
    /// Experts that one token uses over all layers.
    pub experts_per_token: u64,
}

impl MemoryPlan {
    /// Whether all experts stay in memory, and prompts, drafts and contexts get as much as in another plan of the model.
    pub(crate) fn gives_as_much_as(&self, other: &Self) -> bool {
        let rest =
            |plan: &Self| (plan.prefill_chunk, plan.drafts, plan.context, plan.contexts, plan.checkpoints);
        !self.paged() && rest(self) == rest(other)
    }

    /// Everything that the plan takes.
    pub fn total(&self) -> Bytes {
        let Self { process, reserve, weights, kv, recurrent, ahead, scratch, expert_arena, .. } = self;
        let parts = [process, reserve, weights, kv, recurrent, ahead, scratch, expert_arena];
        Bytes(parts.iter().map(|part| part.0).sum())
    }

    /// Whether experts are read from disk while the model runs.
    pub fn paged(&self) -> bool {
        self.expert_slots < self.experts
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, bytes: Bytes, note: String| writeln!(f, "  {name:<18}{bytes:>10}  {note}");
        row("process", self.process, "program, tokenizer, plugins".into())?;
        row("resident weights", self.weights, String::new())?;
        let times = if self.contexts > 1 { format!("{} times ", self.contexts) } else { String::new() };
        row("KV cache", self.kv, format!("{times}{} tokens in {}", self.context, self.kv_format))?;
        if self.recurrent.0 > 0 {
            let note = format!("{} at a time and {} checkpoints", self.recurrent_states, self.checkpoints);
            row("recurrent states", self.recurrent, note)?;
        }
        if self.ahead.0 > 0 {
            row("speculation", self.ahead, format!("{} tokens ahead", self.drafts))?;
        }
        row("scratch", self.scratch, format!("prefill chunks of {} tokens", self.prefill_chunk))?;
        if self.experts > 0 {
            let note = format!(
                "{} of {} experts of {}; one token uses {}",
                self.expert_slots, self.experts, self.expert_slot, self.experts_per_token
            );
            row("expert arena", self.expert_arena, note)?;
        }
        row("reserve", self.reserve, "plugin instances, threads, allocator".into())?;
        let budget = self.budget.map_or("no budget".into(), |budget| format!("of {budget}"));
        row("total", self.total(), budget)?;
        if self.paged() {
            writeln!(
                f,
                "  {:<18}{:>10}  experts of which the arena holds a part",
                "on disk", self.experts_total
            )?;
        }
        if self.ngrams_on_disk.0 > 0 {
            let note = "n-grams, of which each token reads some rows";
            writeln!(f, "  {:<18}{:>10}  {note}", "on disk", self.ngrams_on_disk)?;
        }
        Ok(())
    }
}

/// What makes up the memory of a model, where a plan can't be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryParts {
    /// Weights that are never paged.
    pub weights: Bytes,
    /// Keys and values.
    pub kv: Bytes,
    /// Context length of `kv`, in tokens.
    pub context: u32,
    /// How many such contexts `kv` holds.
    pub contexts: u32,
    /// Recurrent states and their checkpoints.
    pub recurrent: Bytes,
    /// Activations of one prefill chunk.
    pub scratch: Bytes,
    /// The arena of experts.
    pub experts: Bytes,
    /// Program, tokenizer and plugins.
    pub process: Bytes,
}

impl fmt::Display for MemoryParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, kv, context, contexts, recurrent, scratch, experts, process } = self;
        let contexts = if *contexts > 1 { format!("{contexts} contexts") } else { "a context".to_owned() };
        write!(f, "{weights} resident weights, {kv} for {contexts} of {context} tokens, ")?;
        if recurrent.0 > 0 {
            write!(f, "{recurrent} for recurrent states, ")?;
        }
        write!(f, "{scratch} scratch, {experts} for experts, {process} for the process itself")
    }
}
