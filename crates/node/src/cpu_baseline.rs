//! `--cpu-baseline`: a program that keeps within an instruction set restores on every machine that has it.
//!
//! Libraries choose the code they run by the processor's features when they are loaded, and a checkpoint remembers the
//! choice. The C library can be told to look away from some of them (glibc, manual, "Hardware Capability Tunables").

use std::ffi::OsString;

use crate::config::CpuBaseline;
use crate::machine::Machine;

/// Above each level of x86-64, by glibc's names (sysdeps/x86/include/cpu-features.h); `XSAVE` and `XSAVEC` because the
/// size of the state they save differs between machines.
const ABOVE: [(u8, &[&str]); 4] = [
    (1, &["SSE3", "SSSE3", "SSE4_1", "SSE4_2", "POPCNT"]),
    (2, &["AVX", "AVX2", "BMI1", "BMI2", "F16C", "FMA", "LZCNT", "MOVBE", "AVX_Fast_Unaligned_Load"]),
    (
        3,
        &[
            "AVX512F", "AVX512BW", "AVX512CD", "AVX512DQ", "AVX512VL", "AVX512ER", "AVX512PF", "ERMS",
            "FSRM", "RTM",
        ],
    ),
    (4, &["XSAVE", "XSAVEC"]),
];

fn level(baseline: CpuBaseline) -> u8 {
    match baseline {
        CpuBaseline::V1 => 1,
        CpuBaseline::V2 => 2,
        CpuBaseline::V3 => 3,
        CpuBaseline::V4 => 4,
    }
}

/// The variable that keeps the C library within `baseline`. What the environment has of it already stays.
#[must_use]
pub fn variable(baseline: CpuBaseline) -> (OsString, OsString) {
    let before = std::env::var("GLIBC_TUNABLES").ok();
    ("GLIBC_TUNABLES".into(), tunables(before.as_deref(), baseline).into())
}

fn tunables(before: Option<&str>, baseline: CpuBaseline) -> String {
    let without: Vec<String> = ABOVE
        .iter()
        .filter(|(below, _)| *below >= level(baseline))
        .flat_map(|(_, names)| names.iter().map(|name| format!("-{name}")))
        .collect();
    let ours = format!("glibc.cpu.hwcaps={}", without.join(","));
    before.map_or(ours.clone(), |before| format!("{before}:{ours}"))
}

/// What a manifest says of the machine: of a program within a baseline, that it needs no more than that.
#[must_use]
pub fn machine(machine: &Machine, baseline: Option<CpuBaseline>) -> Machine {
    let mut needed = machine.clone();
    if let Some(baseline) = baseline {
        needed.cpu = needed.cpu.within(level(baseline));
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_above_the_baseline_is_taken_away() {
        let v3 = tunables(None, CpuBaseline::V3);
        assert!(v3.starts_with("glibc.cpu.hwcaps=-AVX512F,") && v3.ends_with("-XSAVE,-XSAVEC"), "{v3}");
        assert!(!v3.contains("-AVX2"));
        assert!(tunables(None, CpuBaseline::V2).contains("-AVX2"));
        assert!(
            tunables(Some("glibc.malloc.check=1"), CpuBaseline::V4)
                .starts_with("glibc.malloc.check=1:glibc.cpu")
        );
    }
}
