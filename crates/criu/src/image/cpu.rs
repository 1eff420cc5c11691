//! The processor that a dump was made on (CRIU `images/cpuinfo.proto`, and the order of the words of features in
//! `compel/arch/x86/src/lib/include/uapi/asm/cpu.h`). CRIU writes it only where it is told to (`--cpu-cap`).

use prost::Message;

use super::records;

/// The processor.
#[derive(Clone, PartialEq, Message)]
pub struct CpuInfo {
    /// One for each processor of x86: CRIU writes one, for all.
    #[prost(message, repeated, tag = "1")]
    pub x86: Vec<X86>,
}

/// A processor of x86.
#[derive(Clone, PartialEq, Message)]
pub struct X86 {
    /// 1 is Intel, 2 is AMD.
    #[prost(int32, required, tag = "1")]
    pub vendor: i32,
    /// Its family.
    #[prost(uint32, required, tag = "2")]
    pub family: u32,
    /// Its model.
    #[prost(uint32, required, tag = "3")]
    pub model: u32,
    /// Which words of features there are.
    #[prost(uint32, required, tag = "5")]
    pub capability_version: u32,
    /// Words of features.
    #[prost(uint32, repeated, tag = "6")]
    pub capabilities: Vec<u32>,
    /// Its name.
    #[prost(string, optional, tag = "7")]
    pub name: Option<String>,
    /// Bytes that the extended state takes.
    #[prost(uint32, optional, tag = "9")]
    pub extended_state: Option<u32>,
}

records! { CpuInfo => CpuInfo }

/// Instructions and registers that programs use, by word and bit, with the kernel's names (Linux,
/// `arch/x86/include/asm/cpufeatures.h`). Each word is a register of the CPUID instruction, so bits are the processor's own.
const FEATURES: [(usize, &[(u32, &str)]); 6] = [
    (0, &[(23, "mmx"), (24, "fxsr"), (25, "sse"), (26, "sse2")]),
    (
        4,
        &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (9, "ssse3"),
            (12, "fma"),
            (13, "cx16"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (22, "movbe"),
            (23, "popcnt"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
        ],
    ),
    (6, &[(0, "lahf_lm"), (5, "abm"), (6, "sse4a"), (11, "xop"), (16, "fma4"), (21, "tbm")]),
    (
        9,
        &[
            (0, "fsgsbase"),
            (3, "bmi1"),
            (5, "avx2"),
            (8, "bmi2"),
            (11, "rtm"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    ),
    (10, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")]),
    (
        11,
        &[
            (1, "avx512vbmi"),
            (6, "avx512_vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (14, "avx512_vpopcntdq"),
            (22, "rdpid"),
        ],
    ),
];

impl X86 {
    /// What programs may use of it, by the kernel's names, sorted.
    #[must_use]
    pub fn features(&self) -> Vec<&'static str> {
        let mut features: Vec<&str> = FEATURES
            .iter()
            .flat_map(|(word, bits)| {
                let word = self.capabilities.get(*word).copied().unwrap_or(0);
                bits.iter().filter(move |(bit, _)| word & (1 << bit) != 0).map(|(_, name)| *name)
            })
            .collect();
        features.sort_unstable();
        features
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_the_kernels_names() {
        let mut capabilities = vec![0; 12];
        (capabilities[0], capabilities[9]) = (1 << 26, 1 << 5 | 1 << 16);
        let cpu = X86 { capabilities, ..X86::default() };
        assert_eq!(cpu.features(), ["avx2", "avx512f", "sse2"]);
        assert!(X86 { capabilities: vec![u32::MAX], ..X86::default() }.features().contains(&"sse"));
        assert!(X86::default().features().is_empty());
    }
}
