//! Divides the memory budget before anything large is read.

use membrane_formats::Checkpoint;
use membrane_kernels::RopeTable;
use membrane_pager::{Catalog, Pager, PagerConfig};

use crate::ahead::{DRAFTS_FRACTION, MOST_DRAFTS, Speculate};
use crate::error::{EngineError, Result};
use crate::hyper::Hyperparameters;
use crate::model::LoadOptions;
use crate::plan::{Bytes, MemoryParts, MemoryPlan};
use crate::scratch::ScratchShape;
use crate::state;
use crate::weights::{Embedding, Layout};
use crate::{kv, process};

/// Context length where neither the caller nor the model says less, in tokens.
const DEFAULT_CONTEXT: u32 = 4096;
/// Prefill chunk of a model that is wholly in memory, in tokens: past it, larger chunks gain nothing.
const CHUNK_IN_MEMORY: usize = 512;
/// Prefill chunk of a paged model, in tokens: each chunk reads nearly every expert once.
const CHUNK_PAGED: usize = 2048;
/// Smallest chunk that keeps all experts of a mixture in memory: a smaller one reads prompts more slowly than a few paged experts.
const CHUNK_FOR_EXPERTS: usize = 128;
/// Smallest chunk that a tight budget leads to.
const CHUNK_LEAST: usize = 32;
/// A paged model's scratch takes at most this fraction of what is left for experts and scratch.
const SCRATCH_FRACTION: u64 = 6;
/// Kept free beside what is planned: thread stacks, allocator slack, kernel rounding to huge pages.
const RESERVE: u64 = 24 << 20;
/// Checkpoints of recurrent states for each full context, if memory allows.
const CHECKPOINTS: u32 = 8;
/// Checkpoints take at most this fraction of the memory.
const CHECKPOINT_FRACTION: u64 = 16;
/// Checkpoints that there are in any case: one before a prompt's end, one at it.
const LEAST_CHECKPOINTS: u32 = 2;

/// Recurrent states that there is room for.
struct RecurrentStates {
    /// Of sessions.
    live: u32,
    checkpoints: u32,
    /// Bytes of a state over all layers.
    bytes: u64,
}

impl RecurrentStates {
    fn new(hyper: &Hyperparameters, options: &LoadOptions) -> Self {
        let bytes = state::shapes(hyper).bytes();
        if bytes == 0 {
            return Self { live: 0, checkpoints: 0, bytes };
        }
        let contexts = options.contexts.max(1);
        let most = contexts.saturating_mul(CHECKPOINTS);
        let memory = options.memory.or_else(process::memory_limit).unwrap_or(u64::MAX);
        let share = (memory / CHECKPOINT_FRACTION / bytes).min(u64::from(most)) as u32;
        let checkpoints = options.checkpoints.unwrap_or(share.max(LEAST_CHECKPOINTS));
        // Sessions that share a beginning take less than a full context each, but a whole state.
        let live = contexts.max(options.sessions.min(contexts.saturating_mul(2)));
        Self { live, checkpoints, bytes }
    }

    /// Those for so many full contexts beside the others.
    fn beside(&self, contexts: u32) -> Self {
        let checkpoints = if self.bytes == 0 { 0 } else { contexts.saturating_mul(LEAST_CHECKPOINTS) };
        Self { live: contexts, checkpoints, bytes: self.bytes }
    }

    fn total_bytes(&self) -> u64 {
        (u64::from(self.live) + u64::from(self.checkpoints)).saturating_mul(self.bytes)
    }
}

/// Most drafts of a session, and the bytes that they take. Under a budget that they would take much of there are none.
fn ahead(hyper: &Hyperparameters, options: &LoadOptions) -> (usize, u64) {
    let logits = (MOST_DRAFTS * hyper.vocabulary * 4) as u64;
    let one = logits + state::shapes(hyper).bytes();
    let bytes = u64::from(options.contexts.max(1)).saturating_mul(one);
    let small = options.memory.is_none_or(|budget| bytes <= budget / DRAFTS_FRACTION);
    match options.speculate {
        Speculate::Auto if small => (MOST_DRAFTS, bytes),
        Speculate::Always => (MOST_DRAFTS, bytes),
        Speculate::Auto | Speculate::Off => (0, 0),
    }
}

/// Tokens of a context that is not worth making smaller.
const SMALL_CONTEXT: u32 = 512;

/// Divides the budget, or says by how much it or the machine is too small. Drafts that are not asked for by name give up their
/// room before a model is refused.
pub(crate) fn plan(
    checkpoint: &Checkpoint,
    hyper: &Hyperparameters,
    layout: &Layout,
    options: &LoadOptions,
    threads: usize,
) -> Result<MemoryPlan> {
    let Some(free) = options.free.as_ref().filter(|_| options.memory.is_none()) else {
        return with_drafts_if_they_fit(checkpoint, hyper, layout, options, threads);
    };
    let options = LoadOptions { memory: Some(free.budget.0), ..options.clone() };
    match with_drafts_if_they_fit(checkpoint, hyper, layout, &options, threads) {
        Ok(plan) => Ok(MemoryPlan { automatic: Some(free.clone()), ..plan }),
        Err(EngineError::Budget { needed, parts, .. }) => {
            let advice = match parts.context > SMALL_CONTEXT {
                true => "give a smaller --ctx or take a smaller model",
                false => "take a smaller model",
            };
            Err(EngineError::Free { free: Box::new(free.clone()), needed, parts, advice })
        }
        Err(error) => Err(error),
    }
}

fn with_drafts_if_they_fit(
    checkpoint: &Checkpoint,
    hyper: &Hyperparameters,
    layout: &Layout,
    options: &LoadOptions,
    threads: usize,
) -> Result<MemoryPlan> {
    let without_drafts = || {
        let options = LoadOptions { speculate: Speculate::Off, ..options.clone() };
        divide(checkpoint, hyper, layout, &options, threads)
    };
    match divide(checkpoint, hyper, layout, options, threads) {
        divided if options.speculate != Speculate::Auto => divided,
        Err(EngineError::Budget { .. } | EngineError::Machine { .. }) => without_drafts(),
        // Reading experts again and again costs more than drafts can gain.
        Ok(plan) if plan.paged() => Ok(without_drafts().ok().filter(|less| !less.paged()).unwrap_or(plan)),
        divided => divided,
    }
}

fn divide(
    checkpoint: &Checkpoint,
    hyper: &Hyperparameters,
    layout: &Layout,
    options: &LoadOptions,
    threads: usize,
) -> Result<MemoryPlan> {
    let needs = Needs::of(hyper, layout, options, threads)?;
    let (chunk, arena) = needs.share()?;
    needs.check_machine(chunk, arena)?;
    Ok(needs.plan(checkpoint, chunk, arena))
}

/// What a model needs with these options. All but counts are bytes.
struct Needs<'a> {
    hyper: &'a Hyperparameters,
    layout: &'a Layout,
    options: &'a LoadOptions,
    threads: usize,
    /// Tokens.
    context: u32,
    contexts: u32,
    /// What the process has before anything is loaded.
    process: u64,
    /// Kept free.
    reserve: u64,
    /// Keys and values of all contexts, those of `side_kv` among them.
    kv: u64,
    side_kv: u64,
    states: RecurrentStates,
    side_states: RecurrentStates,
    /// Most drafts of a session.
    drafts: usize,
    /// Room of drafts.
    ahead: u64,
    /// What scratch has beside what depends on the chunk.
    beside_scratch: u64,
    /// An expert.
    slot: u64,
    experts: u64,
    /// The experts that a token needs at a time.
    least_arena: u64,
}

impl<'a> Needs<'a> {
    fn of(
        hyper: &'a Hyperparameters,
        layout: &'a Layout,
        options: &'a LoadOptions,
        threads: usize,
    ) -> Result<Self> {
        let context = options.context.unwrap_or_else(|| hyper.trained_context.min(DEFAULT_CONTEXT));
        if context == 0 {
            return Err(EngineError::Option("--ctx must be at least 1".into()));
        }
        let blocks = u64::from(context).div_ceil(kv::BLOCK as u64);
        let contexts = options.contexts.max(1);
        let one = blocks * kv::bytes_per_block(hyper, options.kv.stored(options.precision))?;
        let side_kv = u64::from(options.side_contexts) * one;
        let others = u64::from(options.sessions.saturating_sub(1)) + u64::from(options.side_contexts);
        let logits = others * hyper.vocabulary as u64 * 4;
        let states = RecurrentStates::new(hyper, options);
        let (drafts, ahead) = ahead(hyper, options);
        let rope_bytes = |dims: usize| RopeTable::bytes(dims, context as usize) as u64;
        let ropes = hyper.ropes().iter().map(|rope| rope_bytes(rope.dims)).sum::<u64>();
        let experts = layout.experts.as_ref();
        // What I/O threads read before it is recoded into a slot.
        let staging = experts.map_or(0, Catalog::staging_bytes) * PagerConfig::IO_THREADS as u64;
        let slot = experts.map_or(0, Pager::slot_bytes_for);
        let top_k = hyper.moes().map(|moe| moe.top_k as u64).max().unwrap_or(0);
        Ok(Self {
            hyper,
            layout,
            options,
            threads,
            context,
            contexts,
            process: process::resident_bytes(),
            reserve: RESERVE + options.reserve,
            kv: u64::from(contexts) * one + side_kv,
            side_kv,
            side_states: states.beside(options.side_contexts),
            states,
            drafts,
            ahead,
            beside_scratch: ropes + logits + staging,
            slot,
            experts: layout.expert_count(),
            least_arena: top_k * slot,
        })
    }

    fn recurrent(&self) -> u64 {
        self.states.total_bytes() + self.side_states.total_bytes()
    }

    /// What a pass over so many tokens works in.
    fn scratch(&self, chunk: usize) -> u64 {
        let shape = ScratchShape::new(self.hyper, chunk, self.layout.ordered());
        shape.bytes(self.context as usize, self.threads) + self.beside_scratch
    }

    /// All that depends neither on the chunk nor on the room for experts.
    fn fixed(&self) -> u64 {
        let sessions = self.kv + self.recurrent() + self.ahead;
        self.process + self.reserve + self.layout.resident_bytes + sessions
    }

    /// What there is while weights are loaded: nothing large beside the resident ones is in memory then; buffers of 8 MiB for direct
    /// reads are less than what the process is given beside.
    fn loading(&self) -> u64 {
        self.process + self.reserve + self.layout.resident_bytes + self.layout.loading_bytes()
    }

    /// Tokens of a chunk and bytes of the room for experts. Error: the budget is too small.
    fn share(&self) -> Result<(usize, u64)> {
        let all = self.experts * self.slot;
        let most = self.options.experts.map_or(self.experts, |most| most.clamp(1, self.experts.max(1)));
        let chunk_limit = (self.context as usize).max(1);
        let asked = self.options.prefill_chunk.map(|chunk| chunk.clamp(1, chunk_limit));
        let mut in_memory = asked.unwrap_or(CHUNK_IN_MEMORY.min(chunk_limit));
        let least = match asked {
            Some(asked) => asked,
            None if self.experts == 0 => CHUNK_LEAST,
            None => CHUNK_FOR_EXPERTS,
        };
        let fits = |chunk: usize| {
            let needed = (self.fixed() + self.scratch(chunk) + all).max(self.loading());
            self.options.memory.is_none_or(|budget| needed <= budget)
        };
        while !fits(in_memory) && in_memory / 2 >= least {
            in_memory /= 2;
        }
        if most == self.experts && fits(in_memory) {
            return Ok((in_memory, all));
        }
        let budget = self.options.memory.unwrap_or(u64::MAX);
        let left = budget.saturating_sub(self.fixed());
        let mut chunk = asked.unwrap_or(CHUNK_PAGED.min(chunk_limit));
        let most_scratch = match asked {
            None => left / SCRATCH_FRACTION,
            Some(_) => left.saturating_sub(self.least_arena),
        };
        while chunk > CHUNK_LEAST && self.scratch(chunk) > most_scratch {
            chunk /= 2;
        }
        let least = (self.fixed() + self.scratch(chunk) + self.least_arena).max(self.loading());
        if least > budget {
            return Err(EngineError::Budget {
                budget: Bytes(budget),
                needed: Bytes(least),
                parts: self.parts(chunk, self.least_arena, self.process + self.reserve),
                advice: if self.context > SMALL_CONTEXT {
                    ", or a smaller --ctx".into()
                } else {
                    String::new()
                },
            });
        }
        let slots = (budget - self.fixed() - self.scratch(chunk)) / self.slot.max(1);
        Ok((chunk, slots.min(most) * self.slot))
    }

    /// Error: the machine has less memory than this takes.
    fn check_machine(&self, chunk: usize, arena: u64) -> Result<()> {
        // The reserve is left out: it is what plugins may take at most, not what anything needs.
        let unpaged = self.fixed() - self.reserve + self.scratch(chunk);
        let needed = unpaged + arena;
        let Some(machine) = process::memory_limit().filter(|&machine| needed > machine) else {
            return Ok(());
        };
        let pages = self.experts > 0 && unpaged + self.least_arena <= machine;
        Err(EngineError::Machine {
            machine: Bytes(machine),
            limited_by: match process::machine_bytes("MemTotal:").is_some_and(|all| machine < all) {
                true => process::CONTROL_GROUP,
                false => process::THIS_MACHINE,
            },
            needed: Bytes(needed),
            parts: self.parts(chunk, arena, self.process),
            advice: match (pages, self.options.memory) {
                (true, _) => "--memory with less than the machine has, so that experts are paged",
                (false, Some(_)) => "a smaller --ctx or --memory",
                (false, None) => "a smaller --ctx, or take a smaller model",
            },
        })
    }

    fn parts(&self, chunk: usize, arena: u64, process: u64) -> MemoryParts {
        MemoryParts {
            weights: Bytes(self.layout.resident_bytes),
            kv: Bytes(self.kv),
            context: self.context,
            contexts: self.contexts + self.options.side_contexts,
            recurrent: Bytes(self.recurrent()),
            scratch: Bytes(self.scratch(chunk) + self.ahead),
            experts: Bytes(arena),
            process: Bytes(process),
        }
    }

    fn plan(&self, checkpoint: &Checkpoint, chunk: usize, arena: u64) -> MemoryPlan {
        let embedding_on_disk = match self.layout.embedding {
            Embedding::OnDisk(index) => checkpoint.tensors()[index].bytes,
            Embedding::Tied => 0,
        };
        MemoryPlan {
            budget: self.options.memory.map(Bytes),
            automatic: None,
            process: Bytes(self.process),
            reserve: Bytes(self.reserve),
            weights: Bytes(self.layout.resident_bytes),
            embedding_on_disk: Bytes(embedding_on_disk),
            ngrams_on_disk: Bytes(self.layout.ngram_bytes()),
            kv: Bytes(self.kv),
            kv_format: self.options.kv.stored(self.options.precision).name(),
            context: self.context,
            contexts: self.contexts + self.options.side_contexts,
            recurrent: Bytes(self.recurrent()),
            recurrent_states: self.states.live,
            checkpoints: self.states.checkpoints,
            side_kv: Bytes(self.side_kv),
            side_recurrent: Bytes(self.side_states.total_bytes()),
            side_checkpoints: self.side_states.checkpoints,
            ahead: Bytes(self.ahead),
            drafts: self.drafts as u32,
            scratch: Bytes(self.scratch(chunk)),
            prefill_chunk: chunk,
            expert_arena: Bytes(arena),
            expert_slots: arena.checked_div(self.slot).unwrap_or(0),
            expert_slot: Bytes(self.slot),
            experts: self.experts,
            experts_total: Bytes(self.layout.expert_bytes()),
            experts_per_token: self.hyper.moes().map(|moe| moe.top_k as u64).sum(),
        }
    }
}
