//! The engine: architectures, forward pass, sessions. It never sees wasm, HTTP or policy.
//!
//! [`Prepared::open`] reads and checks a file and plans its memory; [`Prepared::load`] makes it a
//! [`Model`]; a [`Session`] is one mutable timeline over it. Logits do not depend on threads, memory
//! budget, cache state, prefill chunk or instruction set.

#![forbid(unsafe_code)]

mod ahead;
mod architectures;
mod batch;
mod budget;
mod control_group;
mod error;
mod finite;
mod forward;
mod hyper;
mod keys;
mod kv;
mod model;
mod moe;
mod pack;
mod plan;
mod pool;
mod precision;
pub mod process;
mod propose;
mod router;
mod scratch;
mod session;
mod stages;
mod state;
mod vocabulary;
mod weights;

pub use ahead::{MOST_DRAFTS, Speculate};
pub use architectures::{ALL as ARCHITECTURES, Architecture};
pub use error::{EngineError, Result};
pub use forward::Observer;
pub use hyper::{
    Attention, CacheWidths, DeltaNet, DeltaShape, ExpertGroups, FeedForward, Glu, HeadOrder, Hyperparameters,
    LatentAttention, Layer, Mixer, Moe, Norms, Projections, Rope, RopeScaling, Router, Scores, SharedExpert,
    Temperature, Yarn,
};
pub use kv::KvFormat;
pub use membrane_kernels::{DeltaState, Isa};
pub use membrane_pager::{Counters, EvictionPolicy, IoChoice, IoMode, IoReason, Usage};
pub use model::{LoadOptions, Model, Prepared};
pub use pack::Packing;
pub use plan::{Bytes, MemoryParts, MemoryPlan};
pub use precision::Precision;
pub use session::{Continuation, Session, Synced};
pub use stages::{Stage, StageTime, StageTimes};
pub use vocabulary::{ChatTemplates, TokenizerKind, chat_templates, tokenizer, tokenizer_kind};
pub use weights::Ignored;
