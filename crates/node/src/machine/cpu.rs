//! The processor: what a program on it may have come to rely on.
//!
//! A C library chooses its functions by the processor's features when a program starts, and keeps the addresses: on a
//! processor that lacks one, the restored program dies of an illegal instruction much later. The features are asked of the
//! processor itself, as libraries do; `/proc/cpuinfo` leaves out what the kernel was told to hide.

use serde::{Deserialize, Serialize};

/// The processor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Who made it, such as `GenuineIntel`.
    pub vendor: String,
    /// What its maker calls it.
    pub model: String,
    /// On x86-64, the level of the psABI whose features it has all of: 1 to 4.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub level: Option<u8>,
    /// The features a program can use, by the kernel's names, sorted.
    pub features: Vec<String>,
    /// The size in bytes of the extended state that the processor saves of a thread now (XSAVE); zero without.
    #[serde(default)]
    pub extended_state: u32,
}

impl Cpu {
    /// Asks this machine's processor.
    #[must_use]
    pub fn read() -> Cpu {
        here::read()
    }

    /// This processor as a program sees it that keeps within a level of x86-64, 1 to 4.
    #[must_use]
    pub fn within(&self, level: u8) -> Cpu {
        let known = |feature: &String| {
            LEVELS.iter().take(usize::from(level)).any(|features| features.contains(&feature.as_str()))
        };
        Cpu {
            features: self.features.iter().filter(|feature| known(feature)).cloned().collect(),
            ..self.clone()
        }
    }

    /// The features of `recorded` that this processor lacks.
    #[must_use]
    pub fn lacks<'a>(&self, recorded: &'a Cpu) -> Vec<&'a str> {
        recorded
            .features
            .iter()
            .filter(|feature| !self.features.contains(feature))
            .map(String::as_str)
            .collect()
    }
}

/// The features each level of x86-64 adds (the psABI, "Micro-Architecture Levels"), by the kernel's names.
const LEVELS: [&[&str]; 4] = [
    &["cmov", "cx8", "fpu", "fxsr", "mmx", "sse", "sse2"],
    &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
    &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "osxsave"],
    &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
];

#[cfg(any(target_arch = "x86_64", test))]
fn level(features: &[String]) -> Option<u8> {
    let has = |level: &[&str]| level.iter().all(|name| features.iter().any(|feature| feature == name));
    u8::try_from(LEVELS.iter().take_while(|level| has(level)).count()).ok().filter(|level| *level > 0)
}

#[cfg(target_arch = "x86_64")]
mod here {
    use super::{Cpu, level};
    use crate::sys::cpuid::{self, Registers};

    #[derive(Clone, Copy)]
    enum Register {
        A,
        B,
        C,
        D,
    }
    use Register::{A, B, C, D};

    /// Leaf, subleaf, register, and bits of it with their names.
    type Word = (u32, u32, Register, &'static [(u32, &'static str)]);

    /// Bits and names as in the kernel's arch/x86/include/asm/cpufeatures.h; only what unprivileged code can use.
    const FEATURES: &[Word] = &[
        (
            1,
            0,
            D,
            &[
                (0, "fpu"),
                (8, "cx8"),
                (15, "cmov"),
                (19, "clflush"),
                (23, "mmx"),
                (24, "fxsr"),
                (25, "sse"),
                (26, "sse2"),
            ],
        ),
        (
            1,
            0,
            C,
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
                (27, "osxsave"),
                (28, "avx"),
                (29, "f16c"),
                (30, "rdrand"),
            ],
        ),
        (
            7,
            0,
            B,
            &[
                (0, "fsgsbase"),
                (3, "bmi1"),
                (4, "hle"),
                (5, "avx2"),
                (8, "bmi2"),
                (9, "erms"),
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
        (
            7,
            0,
            C,
            &[
                (1, "avx512vbmi"),
                (3, "pku"),
                (4, "ospke"),
                (5, "waitpkg"),
                (6, "avx512_vbmi2"),
                (7, "user_shstk"),
                (8, "gfni"),
                (9, "vaes"),
                (10, "vpclmulqdq"),
                (11, "avx512_vnni"),
                (12, "avx512_bitalg"),
                (14, "avx512_vpopcntdq"),
                (22, "rdpid"),
                (25, "cldemote"),
                (27, "movdiri"),
                (28, "movdir64b"),
            ],
        ),
        (
            7,
            0,
            D,
            &[
                (4, "fsrm"),
                (8, "avx512_vp2intersect"),
                (14, "serialize"),
                (22, "amx_bf16"),
                (23, "avx512_fp16"),
                (24, "amx_tile"),
                (25, "amx_int8"),
            ],
        ),
        (7, 1, A, &[(4, "avx_vnni"), (5, "avx512_bf16"), (10, "fzrm"), (11, "fsrs"), (12, "fsrc")]),
        (0xd, 1, A, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")]),
        (
            0x8000_0001,
            0,
            C,
            &[
                (0, "lahf_lm"),
                (5, "abm"),
                (6, "sse4a"),
                (8, "3dnowprefetch"),
                (11, "xop"),
                (16, "fma4"),
                (21, "tbm"),
            ],
        ),
        (0x8000_0001, 0, D, &[(26, "pdpe1gb"), (27, "rdtscp")]),
    ];

    pub(super) fn read() -> Cpu {
        let mut features: Vec<String> = FEATURES
            .iter()
            .flat_map(|(leaf, subleaf, register, bits)| {
                let word = pick(cpuid::ask(*leaf, *subleaf), *register);
                bits.iter().filter(move |(bit, _)| word & (1 << bit) != 0).map(|(_, name)| (*name).to_owned())
            })
            .collect();
        features.sort_unstable();
        Cpu {
            vendor: vendor(cpuid::ask(0, 0)),
            model: model(),
            level: level(&features),
            extended_state: cpuid::ask(0xd, 0).ebx,
            features,
        }
    }

    fn pick(registers: Registers, register: Register) -> u32 {
        match register {
            A => registers.eax,
            B => registers.ebx,
            C => registers.ecx,
            D => registers.edx,
        }
    }

    fn vendor(leaf: Registers) -> String {
        let bytes = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }

    fn model() -> String {
        let mut bytes = Vec::new();
        for leaf in 0x8000_0002..=0x8000_0004 {
            let found = cpuid::ask(leaf, 0);
            for word in [found.eax, found.ebx, found.ecx, found.edx] {
                bytes.extend(word.to_le_bytes());
            }
        }
        String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_owned()
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod here {
    use super::Cpu;

    pub(super) fn read() -> Cpu {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let value = |names: &[&str]| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| names.contains(&name.trim()))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let mut features: Vec<_> =
            value(&["Features", "isa", "features"]).split_whitespace().map(str::to_owned).collect();
        features.sort_unstable();
        Cpu {
            vendor: value(&["CPU implementer", "vendor_id", "uarch"]),
            model: value(&["model name", "CPU part", "machine", "cpu"]),
            level: None,
            features,
            extended_state: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(levels: usize) -> Vec<String> {
        LEVELS[..levels].iter().flat_map(|level| level.iter().map(|name| (*name).to_owned())).collect()
    }

    #[test]
    fn a_level_counts_only_with_all_below_it() {
        assert_eq!(level(&with(1)), Some(1));
        assert_eq!(level(&with(3)), Some(3));
        assert_eq!(level(&with(4)), Some(4));
        let gap: Vec<_> = with(4).into_iter().filter(|name| name != "popcnt").collect();
        assert_eq!(level(&gap), Some(1));
        assert_eq!(level(&[]), None);
    }

    #[test]
    fn what_a_processor_lacks_is_named() {
        let here = Cpu { features: with(2), ..Cpu::default() };
        let there = Cpu { features: [with(2), vec!["avx2".into()]].concat(), ..Cpu::default() };
        assert_eq!(here.lacks(&there), ["avx2"]);
        assert!(there.lacks(&here).is_empty());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn this_processor_tells_about_itself() {
        let cpu = Cpu::read();
        assert!(!cpu.vendor.is_empty());
        assert!(cpu.level >= Some(1), "{cpu:?}");
    }
}
