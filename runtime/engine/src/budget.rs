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
            Err(EngineError::Free { free: Box::new(free.clone()), needed, parts })
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
    match divide(checkpoint, hyper, layout, options, threads) {
        Err(EngineError::Budget { .. } | EngineError::Machine { .. })
            if options.speculate == Speculate::Auto =>
        {
            let without = LoadOptions { speculate: Speculate::Off, ..options.clone() };
            divide(checkpoint, hyper, layout, &without, threads)
        }
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
    let context = options.context.unwrap_or_else(|| hyper.trained_context.min(DEFAULT_CONTEXT));
    if context == 0 {
        return Err(EngineError::Option("--ctx must be at least 1".into()));
    }
    let blocks = u64::from(context).div_ceil(kv::BLOCK as u64);
    let contexts = options.contexts.max(1);
    let one = blocks * kv::bytes_per_block(hyper, options.kv.stored(options.precision))?;
    let side_kv = u64::from(options.side_contexts) * one;
    let kv = u64::from(contexts) * one + side_kv;
    let others = u64::from(options.sessions.saturating_sub(1)) + u64::from(options.side_contexts);
    let logits = others * hyper.vocabulary as u64 * 4;
    let process = process::resident_bytes();
    let reserve = RESERVE + options.reserve;
    let states = RecurrentStates::new(hyper, options);
    let side_states = states.beside(options.side_contexts);
    let recurrent = states.total_bytes() + side_states.total_bytes();
    let (drafts, ahead) = ahead(hyper, options);
    let ropes =
        hyper.ropes().iter().map(|rope| RopeTable::bytes(rope.dims, context as usize) as u64).sum::<u64>();
    let ordered = layout.ordered();
    let scratch_of = |chunk: usize| {
        ScratchShape::new(hyper, chunk, ordered).bytes(context as usize, threads) + ropes + logits
    };
    let slot = layout.experts.as_ref().map_or(0, Pager::slot_bytes_for);
    let experts = layout.expert_count();
    let top_k = hyper.moes().map(|moe| moe.top_k as u64).max().unwrap_or(0);
    let all = experts * slot;
    let most = options.experts.map_or(experts, |most| most.clamp(1, experts.max(1)));
    // What I/O threads read before it is recoded into a slot.
    let staging = layout.experts.as_ref().map_or(0, Catalog::staging_bytes) * PagerConfig::IO_THREADS as u64;
    let scratch_of = |chunk: usize| scratch_of(chunk) + staging;
    let fixed = process + reserve + layout.resident_bytes + kv + recurrent + ahead;
    let chunk_limit = (context as usize).max(1);
    let asked = options.prefill_chunk.map(|chunk| chunk.clamp(1, chunk_limit));
    let fits = |chunk: usize, arena: u64| {
        let needed =
            (fixed + scratch_of(chunk) + arena).max(fixed - kv - recurrent - ahead + layout.loading_bytes());
        options.memory.is_none_or(|budget| needed <= budget)
    };
    let in_memory = asked.unwrap_or(CHUNK_IN_MEMORY.min(chunk_limit));
    let parts = |chunk: usize, arena: u64, process: u64| MemoryParts {
        weights: Bytes(layout.resident_bytes),
        kv: Bytes(kv),
        context,
        contexts: contexts + options.side_contexts,
        recurrent: Bytes(recurrent),
        scratch: Bytes(scratch_of(chunk) + ahead),
        experts: Bytes(arena),
        process: Bytes(process),
    };
    let (chunk, arena) = if most == experts && fits(in_memory, all) {
        (in_memory, all)
    } else {
        let budget = options.memory.unwrap_or(u64::MAX);
        let left = budget.saturating_sub(fixed);
        let mut chunk = asked.unwrap_or(CHUNK_PAGED.min(chunk_limit));
        let most_scratch = match asked {
            None => left / SCRATCH_FRACTION,
            Some(_) => left.saturating_sub(top_k * slot),
        };
        while chunk > CHUNK_LEAST && scratch_of(chunk) > most_scratch {
            chunk /= 2;
        }
        // Nothing beside the resident weights is in memory while they are loaded.
        let loading = process + reserve + layout.resident_bytes + layout.loading_bytes();
        let least = (fixed + scratch_of(chunk) + top_k * slot).max(loading);
        if least > budget {
            return Err(EngineError::Budget {
                budget: Bytes(budget),
                needed: Bytes(least),
                parts: parts(chunk, top_k * slot, process + reserve),
                advice: if context > 512 { ", or a smaller --ctx".into() } else { String::new() },
            });
        }
        let slots = (budget - fixed - scratch_of(chunk)) / slot.max(1);
        (chunk, slots.min(most) * slot)
    };
    // The reserve is left out: it is what plugins may take at most, not what anything needs.
    let unpaged = process + layout.resident_bytes + kv + recurrent + ahead + scratch_of(chunk);
    let needed = unpaged + arena;
    if let Some(machine) = process::memory_limit().filter(|&machine| needed > machine) {
        let pages = experts > 0 && unpaged + top_k * slot <= machine;
        return Err(EngineError::Machine {
            machine: Bytes(machine),
            needed: Bytes(needed),
            parts: parts(chunk, arena, process),
            advice: match (pages, options.memory) {
                (true, _) => "--memory with less than the machine has, so that experts are paged",
                (false, Some(_)) => "a smaller --ctx or --memory",
                (false, None) => "a smaller --ctx, or take a smaller model",
            },
        });
    }
    let embedding_on_disk = match layout.embedding {
        Embedding::OnDisk(index) => checkpoint.tensors()[index].bytes,
        Embedding::Tied => 0,
    };
    Ok(MemoryPlan {
        budget: options.memory.map(Bytes),
        automatic: None,
        process: Bytes(process),
        reserve: Bytes(reserve),
        weights: Bytes(layout.resident_bytes),
        embedding_on_disk: Bytes(embedding_on_disk),
        ngrams_on_disk: Bytes(layout.ngram_bytes()),
        kv: Bytes(kv),
        kv_format: options.kv.stored(options.precision).name(),
        context,
        contexts: contexts + options.side_contexts,
        recurrent: Bytes(recurrent),
        recurrent_states: states.live,
        checkpoints: states.checkpoints,
        side_kv: Bytes(side_kv),
        side_recurrent: Bytes(side_states.total_bytes()),
        side_checkpoints: side_states.checkpoints,
        ahead: Bytes(ahead),
        drafts: drafts as u32,
        scratch: Bytes(scratch_of(chunk)),
        prefill_chunk: chunk,
        expert_arena: Bytes(arena),
        expert_slots: arena.checked_div(slot).unwrap_or(0),
        expert_slot: Bytes(slot),
        experts,
        experts_total: Bytes(layout.expert_bytes()),
        experts_per_token: hyper.moes().map(|moe| moe.top_k as u64).sum(),
    })
}
