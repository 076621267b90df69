//! A loaded model: checked, planned, resident, ready to open sessions.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use membrane_formats::Checkpoint;
use membrane_kernels::{self as kernels, Isa, RopeTable, Team, fastest_isa, interleaved};
use membrane_pager::{Catalog, Counters, EvictionPolicy, IoChoice, IoMode, Pager, PagerConfig, Phase, Usage};
use membrane_text::{GrammarCompiler, Tokenizer};

use crate::ahead::Speculate;
use crate::architectures::Architecture;
use crate::budget::plan;
use crate::error::{EngineError, Result};
use crate::hyper::Hyperparameters;
use crate::kv::KvFormat;
use crate::moe::Routing;
use crate::plan::MemoryPlan;
use crate::pool::Pool;
use crate::precision::Precision;
use crate::process::FreeMemory;
use crate::scratch::{Scratch, ScratchShape};
use crate::session::Session;
use crate::stages::StageTimes;
use crate::vocabulary::{self, ChatTemplates, Text};
use crate::weights::{Ignored, Interleaving, Layout, Resident, paged_files};

/// Most threads: each has its own scratch, and beyond the processors of one machine they only wait.
const MAX_THREADS: usize = 256;

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Ceiling over the whole process, in bytes; none is unlimited.
    pub memory: Option<u64>,
    /// The ceiling where `memory` is none: what is free on this machine, so that experts are paged where not all fit.
    pub free: Option<FreeMemory>,
    /// Context length in tokens; by default 4,096 or what the model was trained for, whichever is less.
    pub context: Option<u32>,
    /// Full contexts of which keys and values find room at a time; all sessions share them.
    pub contexts: u32,
    /// Full contexts beside those, for sessions of [`Model::side_session`]: what fills the others takes none of their room.
    pub side_contexts: u32,
    /// Most sessions at a time, forks included: memory for the logits of each is set aside.
    pub sessions: u32,
    /// Threads that compute; by default the processors that this process may use.
    pub threads: Option<usize>,
    /// How activations enter products with quantised weights.
    pub precision: Precision,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Tokens in a prefill chunk; by default chosen from the plan. It never changes a result.
    pub prefill_chunk: Option<usize>,
    /// How weights are read.
    pub io: IoMode,
    /// Which expert gives up its slot. It never changes a result.
    pub eviction: EvictionPolicy,
    /// Whether experts that the next layers are likely to ask for are read while this one computes. It never changes a result, but
    /// what was found in memory then depends on time.
    pub lookahead: bool,
    /// What earlier runs saw of this model: experts that they used most are read while no pass waits for the disk. It never changes a
    /// result, but what is found in memory then depends on time.
    pub recall: Option<Usage>,
    /// Instruction set; by default the best that this processor has. It never changes a result.
    pub isa: Option<Isa>,
    /// Checkpoints of recurrent states that are kept at most; by default chosen from the budget. It never changes a result.
    pub checkpoints: Option<u32>,
    /// Most experts to keep in memory, whatever the budget leaves: for measurements and tests.
    pub experts: Option<u64>,
    /// Whether tokens are drafted and computed ahead. It never changes a result.
    pub speculate: Speculate,
    /// Bytes that the rest of the process will still take, such as plugin instances.
    pub reserve: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            memory: None,
            free: None,
            context: None,
            contexts: 1,
            side_contexts: 0,
            sessions: 1,
            threads: None,
            precision: Precision::Fast,
            kv: KvFormat::default(),
            prefill_chunk: None,
            io: IoMode::Auto,
            eviction: EvictionPolicy::default(),
            lookahead: false,
            recall: None,
            isa: None,
            checkpoints: None,
            experts: None,
            speculate: Speculate::default(),
            reserve: 0,
        }
    }
}

/// A model that was opened and checked, with its memory plan; nothing large has been read yet.
pub struct Prepared {
    checkpoint: Arc<Checkpoint>,
    architecture: Architecture,
    hyper: Hyperparameters,
    layout: Layout,
    text: Text,
    chat_templates: Option<ChatTemplates>,
    plan: MemoryPlan,
    options: LoadOptions,
    threads: usize,
    isa: Isa,
}

impl Prepared {
    /// Opens a model, a GGUF file or a published folder, and plans its memory.
    ///
    /// Errors: a damaged file, an unsupported architecture, tensor or tokenizer, a budget that can't hold
    /// the resident part.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        Self::of(Arc::new(Checkpoint::open(path)?), options)
    }

    /// The same for a file that is open already.
    pub fn of(checkpoint: Arc<Checkpoint>, options: &LoadOptions) -> Result<Self> {
        Self::new(checkpoint, options, true)
    }

    /// The same for a file that may lack a tokenizer, when only token ids are used.
    pub fn without_text(checkpoint: Arc<Checkpoint>, options: &LoadOptions) -> Result<Self> {
        Self::new(checkpoint, options, false)
    }

    fn new(checkpoint: Arc<Checkpoint>, options: &LoadOptions, text: bool) -> Result<Self> {
        let threads = threads(options)?;
        let architecture = Architecture::of(&checkpoint)?;
        let hyper = Hyperparameters::read(&checkpoint, &architecture)?;
        let isa = options.isa.map_or_else(fastest_isa, Isa::or_slower);
        let tokenizer = if text {
            vocabulary::check_rows(&checkpoint, hyper.vocabulary)?;
            let tokenizer = vocabulary::tokenizer(&checkpoint)?;
            vocabulary::check_tokens(&checkpoint, tokenizer.vocab_size(), hyper.vocabulary)?;
            Some(tokenizer)
        } else {
            None
        };
        let chat_templates = vocabulary::chat_templates(&checkpoint)?;
        // Last, since it counts what the process holds by now: a large vocabulary takes tens of MiB.
        let (hyper, layout, plan) = planned(&checkpoint, hyper, options, isa, threads)?;
        let options = options.clone();
        Ok(Self {
            checkpoint,
            architecture,
            hyper,
            layout,
            text: Text::of(tokenizer),
            chat_templates,
            plan,
            options,
            threads,
            isa,
        })
    }

    /// Where the budget will go.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// The file.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The shape of the model.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyper
    }

    /// What makes constraints for the model's vocabulary, as [`Model::grammars`], which has it then.
    pub fn grammars(&self) -> Result<&GrammarCompiler> {
        self.text.grammars()
    }

    /// Tensors of the file that are left out, by the reason why that changes nothing.
    pub fn ignored(&self) -> &[Ignored] {
        &self.layout.ignored
    }

    /// What earlier runs saw, if it is of this model and experts are paged.
    pub fn recall(&self) -> Option<&Usage> {
        let fits = |usage: &&Usage| self.layout.experts.as_ref().is_some_and(|catalog| usage.fits(catalog));
        self.options.recall.as_ref().filter(fits).filter(|_| self.plan.paged())
    }

    /// Reads what is resident and opens the pager. `progress` is told bytes done and bytes in all.
    pub fn load(self, progress: &mut dyn FnMut(u64, u64)) -> Result<Model> {
        let all_in_memory = !self.plan.paged();
        let total = self.layout.resident_bytes + if all_in_memory { self.layout.expert_bytes() } else { 0 };
        let (io, team) = (self.options.io, Arc::new(Team::new(self.threads, self.isa)));
        let mut told = |done| progress(done, total);
        let resident = self.layout.load(&self.checkpoint, io, all_in_memory, &team, &mut told)?;
        let pager = self.layout.experts.as_ref().map(|catalog| self.open_pager(catalog)).transpose()?;
        progress(total, total);
        let table = |rope| {
            let mut table = RopeTable::new(rope, self.layout.rope_factors.as_deref());
            table.reserve(self.plan.context as usize);
            table
        };
        let ropes = self.hyper.ropes().iter().map(table).collect();
        let scratch_shape = ScratchShape::new(&self.hyper, self.plan.prefill_chunk, self.layout.ordered());
        let context = self.plan.context as usize;
        let compute = Compute {
            team,
            scratch: Scratch::new(&scratch_shape, context, self.threads),
            ropes,
            routing: Routing::default(),
            pager,
        };
        let container = self.checkpoint.container();
        let computes = self.options.precision.resolved(container, &self.hyper, self.layout.formats());
        let core = Core {
            checkpoint: self.checkpoint,
            architecture: self.architecture,
            hyper: self.hyper,
            layout: self.layout,
            resident,
            computes,
            precision: computes.of_products(),
            kv: self.options.kv,
            speculate: self.options.speculate,
            lookahead: self.options.lookahead,
            pool: Pool::new(
                self.plan.kv.0 - self.plan.side_kv.0 + self.plan.recurrent.0 - self.plan.side_recurrent.0,
                self.plan.checkpoints as usize,
            ),
            draft_pool: Pool::new(self.plan.ahead.0, 0),
            side_pool: Pool::new(
                self.plan.side_kv.0 + self.plan.side_recurrent.0,
                self.plan.side_checkpoints as usize,
            ),
            plan: self.plan,
            cancel: Arc::new(AtomicBool::new(false)),
        };
        Ok(Model(Arc::new(Shared {
            core,
            text: self.text,
            chat_templates: self.chat_templates,
            compute: Mutex::new(compute),
        })))
    }
}

impl Prepared {
    fn open_pager(&self, catalog: &Catalog) -> Result<Pager> {
        let files = paged_files(&self.checkpoint);
        let config = PagerConfig {
            io: self.options.io,
            eviction: self.options.eviction.start(),
            ..PagerConfig::new(self.plan.expert_arena.0)
        };
        let pager = Pager::open(&files, catalog.clone(), config)?;
        if !self.plan.paged() {
            pager.warm()?;
        } else if let Some(usage) = self.recall() {
            pager.recall(usage);
        }
        Ok(pager)
    }
}

/// What does not change while a model runs.
pub(crate) struct Core {
    pub checkpoint: Arc<Checkpoint>,
    pub architecture: Architecture,
    pub hyper: Hyperparameters,
    pub layout: Layout,
    pub resident: Resident,
    /// What was chosen of [`LoadOptions::precision`].
    pub computes: Precision,
    /// The same for products.
    pub precision: kernels::Precision,
    pub kv: KvFormat,
    pub speculate: Speculate,
    pub lookahead: bool,
    pub pool: Arc<Pool>,
    /// For what sessions compute ahead, so that it takes nothing from what their tokens need.
    pub draft_pool: Arc<Pool>,
    /// For sessions beside those.
    pub side_pool: Arc<Pool>,
    pub plan: MemoryPlan,
    pub cancel: Arc<AtomicBool>,
}

/// What one forward pass at a time uses.
pub(crate) struct Compute {
    pub team: Arc<Team>,
    pub scratch: Scratch,
    /// A table for each of [`Hyperparameters::ropes`].
    pub ropes: Vec<RopeTable>,
    pub routing: Routing,
    pub pager: Option<Pager>,
}

struct Shared {
    core: Core,
    text: Text,
    chat_templates: Option<ChatTemplates>,
    compute: Mutex<Compute>,
}

/// A loaded model. Clones share it.
#[derive(Clone)]
pub struct Model(Arc<Shared>);

impl Model {
    /// Opens, plans and loads a model file.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        Prepared::open(path, options)?.load(&mut |_, _| {})
    }

    /// A new, empty timeline.
    pub fn session(&self) -> Session {
        Session::new(self.clone(), &self.0.core.pool)
    }

    /// A new, empty timeline in the room of [`LoadOptions::side_contexts`], of which all such sessions have a part. Its tokens
    /// touch no other session.
    pub fn side_session(&self) -> Session {
        Session::new(self.clone(), &self.0.core.side_pool)
    }

    /// The tokenizer. Errors: the model was opened without text.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        Ok(self.0.text.tokenizer()?)
    }

    /// What makes constraints for this model's vocabulary; made at the first call, which takes a while. Errors: the model
    /// was opened without text, or its vocabulary goes beyond the limits of grammars.
    pub fn grammars(&self) -> Result<&GrammarCompiler> {
        self.0.text.grammars()
    }

    /// The file's chat templates.
    pub fn chat_templates(&self) -> Option<&ChatTemplates> {
        self.0.chat_templates.as_ref()
    }

    /// The memory plan.
    pub fn plan(&self) -> &MemoryPlan {
        &self.0.core.plan
    }

    /// Bytes that the plan gives to what is in use now: all of it but the reserve, slots that hold no expert, and room for keys,
    /// values and recurrent states that no session or checkpoint has taken.
    pub fn planned_in_use(&self) -> u64 {
        let Core { plan, pool, side_pool, draft_pool, .. } = self.core();
        let experts =
            self.compute().pager.as_ref().map_or(0, |pager| pager.resident() as u64 * pager.slot_bytes());
        let pools = pool.used() + side_pool.used() + draft_pool.used();
        plan.process.0 + plan.weights.0 + plan.scratch.0 + pools + experts
    }

    /// The shape of the model.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.0.core.hyper
    }

    /// The name in `general.architecture`.
    pub fn architecture(&self) -> &'static str {
        self.0.core.architecture.name
    }

    /// The file.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0.core.checkpoint
    }

    /// How activations enter products with quantised weights; never [`Precision::Fast`].
    pub fn precision(&self) -> Precision {
        self.0.core.computes
    }

    /// How keys and values are kept.
    pub fn kv_format(&self) -> KvFormat {
        self.0.core.kv
    }

    /// Whether the model's own head for multi-token prediction is loaded, see [`Session::propose`].
    pub fn has_draft_head(&self) -> bool {
        self.0.core.layout.draft.is_some()
    }

    /// Whether tokens are drafted and computed ahead.
    pub fn speculate(&self) -> Speculate {
        self.0.core.speculate
    }

    /// Set it to end a running `append` between two layers; `append` clears it when it starts.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.0.core.cancel.clone()
    }

    /// What the pager has done since loading; all zero for a model without experts.
    pub fn counters(&self) -> Counters {
        self.compute().pager.as_ref().map(Pager::counters).unwrap_or_default()
    }

    /// How often experts were used since loading, for [`LoadOptions::recall`] of the next run; none for a model that is not paged.
    pub fn usage(&self) -> Option<Usage> {
        self.compute().pager.as_ref().filter(|pager| !pager.holds_everything()).map(Pager::usage)
    }

    /// Whether no expert is being read or is still to be, such as those of [`LoadOptions::recall`].
    pub fn is_disk_idle(&self) -> bool {
        self.compute().pager.as_ref().is_none_or(Pager::is_idle)
    }

    /// Measures what stages of passes take, from now on and from zero; or no longer. Gives what was measured until now. While it
    /// measures, a pass takes about 50 ns a stage and layer more.
    pub fn time_stages(&self, on: bool) -> StageTimes {
        self.compute().scratch.clock.restart(on)
    }

    /// Writes every request for experts from now on to `out`, as a [`Trace`](membrane_pager::Trace) that
    /// [`simulate`](membrane_pager::simulate()) takes. `name`: of the model, for people. Nothing is written for a model without
    /// experts.
    pub fn record_routing(&self, name: &str, out: Box<dyn std::io::Write + Send>) {
        if let Some(pager) = &self.compute().pager {
            pager.record(name, out);
        }
    }

    /// Notes in the recording of routing what the passes from here on are for.
    pub fn mark_routing(&self, phase: Phase) {
        self.compute().pager.iter().for_each(|pager| pager.mark(phase));
    }

    /// Ends the recording of routing, if there is one. Error: it could not be written.
    pub fn end_routing(&self) -> std::io::Result<()> {
        self.compute().pager.as_ref().map_or(Ok(()), Pager::end_recording)
    }

    /// How experts are read, and what the probe found; none for a model without experts.
    pub fn io(&self) -> Option<IoChoice> {
        self.compute().pager.as_ref().map(|pager| pager.io_mode().clone())
    }

    /// The threads that compute, for measurements of the machine beside the model.
    pub fn team(&self) -> Arc<Team> {
        self.compute().team.clone()
    }

    /// Whether the other is a clone of this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn core(&self) -> &Core {
        &self.0.core
    }

    /// The computing state. A panic in an earlier pass left nothing half-done that a later pass would read.
    pub(crate) fn compute(&self) -> MutexGuard<'_, Compute> {
        self.0.compute.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The layout and the memory plan of a model. Experts that stay in memory are interleaved where the instruction set has a use for it, if
/// there is room for what the pager's threads read them to, and nothing else of the plan has to give way to that.
fn planned(
    checkpoint: &Checkpoint,
    hyper: Hyperparameters,
    options: &LoadOptions,
    isa: Isa,
    threads: usize,
) -> Result<(Hyperparameters, Layout, MemoryPlan)> {
    let planned = |hyper: Hyperparameters, experts: bool| {
        let interleaving = Interleaving { isa: Some(isa), experts };
        let layout =
            Layout::of(checkpoint, &hyper, interleaving).map_err(|error| error.of_file(checkpoint.path()))?;
        let plan = plan(checkpoint, &hyper, &layout, options, threads)?;
        Ok((hyper, layout, plan))
    };
    let chosen = with_or_without_head(hyper, options, &|hyper| planned(hyper, false))?;
    let (hyper, layout, stored) = &chosen;
    if stored.paged() || layout.experts.is_none() || !interleaved::is_used(isa) {
        return Ok(chosen);
    }
    match planned(hyper.clone(), true) {
        Ok(side_by_side) if side_by_side.2.gives_as_much_as(stored) => Ok(side_by_side),
        _ => Ok(chosen),
    }
}

/// What is planned with or without the head that drafts tokens. It is a part of the model where it is asked for by name, and
/// by itself only where everything is in memory with it and its experts take no larger slots than the others: where experts are
/// paged, a draft reads more of them, and the memory is worth more to the others. Sessions beyond the planned contexts find
/// room where its keys and values would be, so that there is none beside them.
fn with_or_without_head(
    hyper: Hyperparameters,
    options: &LoadOptions,
    planned: &dyn Fn(Hyperparameters) -> Result<(Hyperparameters, Layout, MemoryPlan)>,
) -> Result<(Hyperparameters, Layout, MemoryPlan)> {
    let without = Hyperparameters { draft_layer: None, ..hyper.clone() };
    if hyper.draft_layer.is_none() || options.sessions > options.contexts.max(1) {
        return planned(without);
    }
    match options.speculate {
        Speculate::Off => planned(without),
        Speculate::Always => planned(hyper),
        Speculate::Auto => {
            let plain = planned(without)?;
            let slot = plain.2.expert_slot;
            match planned(hyper) {
                Ok((hyper, layout, plan)) if !plan.paged() && plan.drafts > 0 && plan.expert_slot == slot => {
                    Ok((hyper, layout, plan))
                }
                _ => Ok(plain),
            }
        }
    }
}

/// Threads that compute. Errors: an option that can't be meant.
fn threads(options: &LoadOptions) -> Result<usize> {
    match options.threads {
        Some(0) => Err(EngineError::Option("--threads must be at least 1".into())),
        Some(threads) if threads > MAX_THREADS => Err(EngineError::Option(format!(
            "--threads is {threads} and may be at most {MAX_THREADS}; more than this machine's processors gain \
             nothing"
        ))),
        Some(threads) => Ok(threads),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)),
    }
}
