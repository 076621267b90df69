//! Which instruction set the kernels use.

use std::fmt;

/// An instruction set that the kernels are written for, from the slowest to the fastest.
///
/// All of them give the same bits; the choice is only about speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, no vector intrinsics: the oracle of the tests.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Self {
        Self::Avx512.or_slower()
    }

    /// The instruction sets that this CPU has, slowest first; never empty.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this CPU, and the operating system's handling of its registers, can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// This instruction set, or the fastest one below it that the CPU has.
    pub fn or_slower(self) -> Self {
        Self::ALL.into_iter().rev().find(|&isa| isa <= self && isa.is_available()).unwrap_or(Self::Scalar)
    }

    /// The name in reports: `scalar`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Isa;

    #[test]
    fn detection_never_names_an_instruction_set_that_the_cpu_lacks() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::Scalar));
        assert_eq!(available.last(), Some(&Isa::detect()));
        for isa in Isa::ALL {
            assert!(available.contains(&isa.or_slower()), "{isa} falls back to a missing one");
            assert!(isa.or_slower() <= isa);
        }
    }
}
