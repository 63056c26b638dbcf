//! Instruction sets: which are at hand, and one body compiled for each of them.

use std::fmt;

/// An instruction set this processor has; it decides speed, never bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(super) Level);

/// Only built by [`Isa`] after asking the processor, which is what makes
/// calling the compiled variants sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// [`Level::Avx512`] with dot products of bf16; to f32 the same.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Isa {
    /// The fastest instruction set of this processor.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Isa(Level::Scalar))
    }

    /// Plain code, with fused multiply-add from a library where the target has none: slow, exact.
    pub fn scalar() -> Self {
        Isa(Level::Scalar)
    }

    /// All instruction sets of this processor, the slowest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Isa(Level::Scalar)];
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            all.push(Isa(Level::Avx2));
            if std::is_x86_feature_detected!("avx512f") {
                all.push(Isa(Level::Avx512));
                if std::is_x86_feature_detected!("avx512bf16") {
                    all.push(Isa(Level::Avx512Bf16));
                }
            }
        }
        all
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => "AVX-512 BF16",
        })
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({self})")
    }
}

/// Defines a function whose first argument is an [`Isa`] and whose body is
/// compiled for each instruction set. The compiler neither reorders nor
/// contracts float operations, so all variants give the same bits.
macro_rules! dispatched {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[expect(clippy::allow_attributes, reason = "not every body has many arguments")]
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::ml::kernels::Isa, $($arg: $ty),*) $(-> $ret)? {
            use $crate::ml::kernels::isa::Level;
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }
            match isa.0 {
                Level::Scalar => body($($arg),*),
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "an Isa exists only where the processor has it")]
                Level::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "an Isa exists only where the processor has it")]
                Level::Avx512 | Level::Avx512Bf16 => unsafe { avx512($($arg),*) },
            }
        }
    };
}

pub(super) use dispatched;
