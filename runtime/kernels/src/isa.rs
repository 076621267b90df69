//! Which instruction set the kernels use.

use std::fmt;

/// An instruction set that the kernels are written for: those of an architecture from the slowest to the fastest.
///
/// All of them give the same bits; the choice is only about speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, no vector intrinsics: the oracle of the tests.
    Scalar,
    /// NEON, which every 64-bit ARM CPU has.
    Neon,
    /// The same, and the dot products of bytes of FEAT_DotProd.
    Dotprod,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI, products of bytes.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
    /// The same with VBMI and BITALG, for the formats with codebooks: Intel from Ice Lake, AMD from Zen 4 on.
    Avx512Vbmi,
    /// AVX-512, and the tiles of AMX for products of bytes.
    Amx,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Self; 8] = [
        Self::Scalar,
        Self::Neon,
        Self::Dotprod,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx512Vbmi,
        Self::Amx,
    ];

    /// The widest vectors of this CPU: never AMX, see [`fastest_isa`](crate::fastest_isa).
    pub fn detect() -> Self {
        Self::Avx512Vbmi.or_slower()
    }

    /// The instruction sets that this CPU has, slowest first; never empty.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this CPU, and the operating system's handling of its registers, can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(not(target_arch = "aarch64"))]
            Self::Neon | Self::Dotprod => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vbmi => {
                Self::Avx512.is_available()
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512bitalg")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512.is_available() && amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::AvxVnni | Self::Avx512 | Self::Avx512Vbmi | Self::Amx => false,
        }
    }

    /// This instruction set, or the fastest one below it that the CPU has.
    pub fn or_slower(self) -> Self {
        Self::ALL.into_iter().rev().find(|&isa| isa <= self && isa.is_available()).unwrap_or(Self::Scalar)
    }

    /// Has AMX count as available where AVX-512 is, for the tests on CPUs without tiles.
    ///
    /// # Safety
    /// The process must have a handler of SIGILL that does the instructions of AMX-TILE and AMX-INT8.
    #[doc(hidden)]
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn emulate_amx() {
        amx::EMULATED.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// The name in reports: `scalar`, `neon`, `dotprod`, `avx2`, `avxvnni`, `avx512`, `avx512vbmi`, `amx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vbmi => "avx512vbmi",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Whether the process does the instructions of tiles itself.
    pub static EMULATED: AtomicBool = AtomicBool::new(false);

    /// Whether this process has the tiles of AMX. The answer is looked up once: with it goes the request to the operating system.
    pub fn is_available() -> bool {
        static AVAILABLE: LazyLock<bool> =
            LazyLock::new(|| cpu_has_tiles() && system_keeps_tiles() && is_allowed());
        *AVAILABLE || EMULATED.load(Ordering::Relaxed)
    }

    /// AMX-TILE and AMX-INT8: Intel SDM, volume 2, CPUID, leaf 7.
    fn cpu_has_tiles() -> bool {
        const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8
    }

    /// Whether the operating system saves their state: Intel SDM, volume 1, chapter 13.
    fn system_keeps_tiles() -> bool {
        const OSXSAVE: u32 = 1 << 27;
        const TILECFG_AND_TILEDATA: u32 = 1 << 17 | 1 << 18;
        if __cpuid(1).ecx & OSXSAVE == 0 {
            return false;
        }
        let states: u32;
        // SAFETY: OSXSAVE says that the instruction is there; it only reads.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") states, out("edx") _, options(nomem, nostack)) };
        states & TILECFG_AND_TILEDATA == TILECFG_AND_TILEDATA
    }

    /// Asks that this process may use them, as Linux wants it: `Documentation/arch/x86/xstate.rst`.
    #[cfg(target_os = "linux")]
    fn is_allowed() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const TILEDATA: libc::c_long = 18;
        // SAFETY: the call has no effect but the permission.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILEDATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn is_allowed() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::Isa;

    #[test]
    fn detection_never_names_an_instruction_set_that_the_cpu_lacks() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::Scalar));
        assert!(available.contains(&Isa::detect()));
        for isa in Isa::ALL {
            assert!(available.contains(&isa.or_slower()), "{isa} falls back to a missing one");
            assert!(isa.or_slower() <= isa);
        }
    }

    /// `cargo xtask arm` says what the CPUs that it plays have.
    #[test]
    fn what_the_cpu_is_said_to_have_is_found() {
        if let Ok(expected) = std::env::var("MEMBRANE_TEST_ISA") {
            assert_eq!(Isa::detect().name(), expected);
        }
    }
}
