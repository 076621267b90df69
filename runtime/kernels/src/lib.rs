//! The arithmetic of the engine: quantised products, norms, rotary positions, softmax, attention,
//! the delta-net.
//!
//! Every kernel has a canonical order of its float operations, written in its doc. Scalar code, AVX2, AVX-VNNI,
//! AVX-512, AMX and NEON keep to it, and no order depends on the number of threads, on how many rows are computed at once
//! or on how the work is cut: so one input gives the same bits everywhere. The scalar version of each kernel
//! is the oracle of its tests.
//!
//! Work is given to a [`Team`] of threads through a [`Region`]; kernels take the region and run their loops
//! in it. Wrong lengths of slices are mistakes of the calling code and panic; what comes out of a model file
//! is checked when a kernel's arguments are made.

pub mod attention;
pub mod delta_net;
pub mod format;
pub mod isa;
pub mod matmul;
pub mod ops;
pub mod parallel;
mod probe;
pub mod quant;
pub mod recode;
mod simd;
pub mod sparse;
#[cfg(test)]
mod testing;

pub use attention::{AttentionArgs, AttentionScratch, KvSlice, attention};
pub use delta_net::{DeltaRule, DeltaShape, DeltaState, HeadOrder, delta_rule};
pub use format::{Format, ShapeError};
pub use isa::Isa;
pub use matmul::{
    Activations, Matrix, Precision, Product, fastest_isa, interleaved, kept_input_bytes, matmul,
};
pub use ops::{Gate, Glu, Llama3, Rope, RopeScaling, RopeTable, Yarn, store_f16};
pub use parallel::{Region, Team};
pub use probe::{MEMORY_PROBE_BYTES, memory_read_bandwidth};
pub use recode::{RecodeError, Recoding};
pub use sparse::{ChoiceArgs, ChoiceScratch, IndexKeys, choose_blocks};
