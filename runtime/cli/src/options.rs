//! Flags that several verbs share.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::model::named;
use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use membrane_engine::process::FreeMemory;
use membrane_engine::{EvictionPolicy, IoMode, Isa, KvFormat, LoadOptions, Precision, Speculate};
use membrane_profile::ByteSize;

/// A model and how it is loaded.
#[derive(Args, Clone)]
pub struct ModelOptions {
    /// The model: a GGUF file, the first of a split one, a folder with config.json and safetensors files, or a name that `membrane
    /// model ls` shows
    #[arg(value_name = "MODEL", value_parser = named())]
    pub model: PathBuf,
    #[command(flatten)]
    pub load: LoadFlags,
}

/// How it is loaded, whichever it is.
#[derive(Args, Clone)]
pub struct LoadFlags {
    #[command(flatten)]
    pub machine: MachineFlags,
    /// How keys and values are kept. Less than f16 saves memory in long contexts and changes what is computed
    #[arg(long, value_enum, default_value_t = KvCache::F16)]
    pub kv_cache: KvCache,
    /// The integers that activations are rounded to where weights are quantised; changes what is computed, and the speed of
    /// prompts
    #[arg(long, value_enum, default_value_t = Activations::Auto, conflicts_with = "reference")]
    pub activations: Activations,
    /// Compute with f32 activations and an f32 KV cache: slow, for comparisons
    #[arg(long)]
    pub reference: bool,
}

/// What of it changes memory and speed, and never what is computed.
#[derive(Args, Clone)]
pub struct MachineFlags {
    /// Ceiling on the memory of the whole process: a size such as 768MiB or 8GiB, what machine and control groups have free
    /// less a margin (auto), or no ceiling (none)
    #[arg(long, value_name = "SIZE", default_value = "auto")]
    pub memory: Memories,
    /// Context length in tokens [default: 4096, or less if the model was trained for less]
    #[arg(long, value_name = "TOKENS")]
    pub ctx: Option<u32>,
    /// Threads that compute [default: the processors that this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Most tokens in a prefill chunk, fewer where the budget asks for it; changes speed and memory, never the
    /// result [default: by the memory plan]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub prefill_chunk: Option<usize>,
    /// How experts are read from disk, and of a model that is paged the resident weights
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub io: Io,
    /// Which expert gives up its slot; changes speed, never the result
    #[arg(long, value_enum, default_value_t = Eviction::Frequency)]
    pub eviction: Eviction,
    /// Whether experts that the next layers are likely to need are read while this one computes; changes speed, never the result
    #[arg(long, value_enum, default_value_t = Lookahead::Auto)]
    pub lookahead: Lookahead,
    /// Whether tokens are drafted from the text so far and computed ahead; changes speed, never the result
    #[arg(long, value_enum, default_value_t = Speculation::Auto)]
    pub speculate: Speculation,
    /// Instruction set; changes speed, never the result [default: the best that this processor has]
    #[arg(long, value_enum)]
    pub isa: Option<InstructionSet>,
}

/// Free memory from which on plugins get what they do where nothing limits memory: a dozen instances and a compilation are a small part.
const AMPLE_BYTES: u64 = 4 << 30;

/// A ceiling on the memory of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// What is free, less a margin.
    Auto,
    /// No ceiling.
    Unlimited,
    /// That many bytes.
    Size(ByteSize),
}

/// What `--memory` was given: one ceiling, or for measurements several.
#[derive(Debug, Clone)]
pub struct Memories(pub Vec<Memory>);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::Unlimited),
            size => size.parse().map(Self::Size).map_err(|error| format!("{error}; or `auto`, or `none`")),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Unlimited => f.write_str("none"),
            Self::Size(size) => size.fmt(f),
        }
    }
}

impl FromStr for Memories {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Memories {
    /// The size in bytes, if that is what was given.
    pub fn size(&self) -> Option<u64> {
        match self.0[..] {
            [Memory::Size(size)] => Some(size.bytes()),
            _ => None,
        }
    }

    /// Whether memory is so short that instances of plugins get little by default: with a ceiling by hand, or where little is free.
    pub fn limited(&self) -> bool {
        match self.0[..] {
            [Memory::Unlimited] => false,
            [Memory::Auto] => FreeMemory::now().is_some_and(|free| free.budget.0 < AMPLE_BYTES),
            _ => true,
        }
    }

    /// The one ceiling. Error: there are several.
    fn one(&self) -> Result<Memory> {
        match self.0[..] {
            [memory] => Ok(memory),
            _ => bail!("--memory: one size, please; `membrane bench` alone takes several"),
        }
    }
}

/// How experts are read.
#[derive(Clone, Copy, ValueEnum)]
pub enum Io {
    /// As a short probe of the file's disk says.
    Auto,
    /// Past the page cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// Which expert gives up its slot.
#[derive(Clone, Copy, ValueEnum)]
pub enum Eviction {
    /// The one that is expected to be needed last by how often it was used of late.
    Frequency,
    /// The one that is expected to be needed last by when it was last used.
    NextUse,
    /// The one that was used longest ago.
    Lru,
}

/// The integers that activations are rounded to.
#[derive(Clone, Copy, ValueEnum)]
pub enum Activations {
    /// int8 for GGUF files, int8-groups where these are of Q4_K, Q5_K and Q6_K and the CPU has AMX; int16 for mixtures of which a
    /// token has fewer than 8 experts, and for folders.
    Auto,
    /// Of 8 bits, 32 with a scale.
    Int8,
    /// Of 8 bits, 128 with a scale.
    Int8Groups,
    /// Of 16 bits.
    Int16,
}

/// How keys and values are kept.
#[derive(Clone, Copy, ValueEnum)]
pub enum KvCache {
    /// Half precision (with --reference, single).
    #[value(name = "f16")]
    F16,
    /// 8 bits, a scale for each 32: about half the memory.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits, a scale for each 32: about a quarter of the memory.
    #[value(name = "q4_0")]
    Q4_0,
}

/// Whether tokens are drafted and computed ahead.
#[derive(Clone, Copy, ValueEnum)]
pub enum Speculation {
    /// While measurements of this run say that it saves time.
    Auto,
    /// Never.
    Off,
    /// Whenever there is a draft, whatever it costs.
    Always,
}

impl From<Speculation> for Speculate {
    fn from(speculation: Speculation) -> Self {
        match speculation {
            Speculation::Auto => Self::Auto,
            Speculation::Off => Self::Off,
            Speculation::Always => Self::Always,
        }
    }
}

/// Whether experts are read ahead.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Lookahead {
    /// While the disk is idle and enough of them come to be needed.
    Auto,
    /// Never.
    Off,
}

impl From<Eviction> for EvictionPolicy {
    fn from(eviction: Eviction) -> Self {
        match eviction {
            Eviction::Frequency => Self::Frequency,
            Eviction::NextUse => Self::NextUse,
            Eviction::Lru => Self::Lru,
        }
    }
}

impl From<Activations> for Precision {
    fn from(activations: Activations) -> Self {
        match activations {
            Activations::Auto => Self::Fast,
            Activations::Int8 => Self::Int8,
            Activations::Int8Groups => Self::Int8Groups,
            Activations::Int16 => Self::Int16,
        }
    }
}

impl From<KvCache> for KvFormat {
    fn from(kv: KvCache) -> Self {
        match kv {
            KvCache::F16 => Self::F16,
            KvCache::Q8_0 => Self::Q8_0,
            KvCache::Q4_0 => Self::Q4_0,
        }
    }
}

/// Instruction sets of the kernels.
#[derive(Clone, Copy, ValueEnum)]
pub enum InstructionSet {
    /// Portable code.
    Scalar,
    /// NEON of 64-bit ARM.
    Neon,
    /// The same with dot products of bytes.
    Dotprod,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI.
    Avxvnni,
    /// AVX-512 with VNNI.
    Avx512,
    /// The same with VBMI and BITALG.
    Avx512vbmi,
    /// AVX-512 with the tiles of AMX.
    Amx,
}

/// A number of tokens or repetitions.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

impl LoadFlags {
    /// The engine's options. `reserve`: bytes that the rest of the process will still take.
    pub fn load_options(&self, reserve: u64) -> Result<LoadOptions> {
        Ok(LoadOptions {
            precision: if self.reference { Precision::Reference } else { self.activations.into() },
            kv: self.kv_cache.into(),
            ..self.machine.load_options(reserve)?
        })
    }
}

impl MachineFlags {
    /// The same, with the usual precision and cache.
    pub fn load_options(&self, reserve: u64) -> Result<LoadOptions> {
        let isa = self.isa.map(|isa| match isa {
            InstructionSet::Scalar => Isa::Scalar,
            InstructionSet::Neon => Isa::Neon,
            InstructionSet::Dotprod => Isa::Dotprod,
            InstructionSet::Avx2 => Isa::Avx2,
            InstructionSet::Avxvnni => Isa::AvxVnni,
            InstructionSet::Avx512 => Isa::Avx512,
            InstructionSet::Avx512vbmi => Isa::Avx512Vbmi,
            InstructionSet::Amx => Isa::Amx,
        });
        if let Some(isa) = isa {
            ensure!(Isa::available().contains(&isa), "--isa: this processor does not have it");
        }
        Ok(LoadOptions {
            memory: self.memory.size(),
            free: (self.memory.one()? == Memory::Auto).then(FreeMemory::now).flatten(),
            context: self.ctx,
            threads: self.threads,
            prefill_chunk: self.prefill_chunk,
            io: match self.io {
                Io::Auto => IoMode::Auto,
                Io::Direct => IoMode::Direct,
                Io::Buffered => IoMode::Buffered,
            },
            eviction: self.eviction.into(),
            lookahead: matches!(self.lookahead, Lookahead::Auto),
            isa,
            speculate: self.speculate.into(),
            reserve,
            ..LoadOptions::default()
        })
    }
}
