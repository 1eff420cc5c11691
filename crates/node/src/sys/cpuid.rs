//! The processor's own words about itself.

/// The four registers that an x86 processor answers with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
}

/// Asks the processor for `leaf`, `subleaf`; zeros where it has none.
#[cfg(target_arch = "x86_64")]
pub(crate) fn ask(leaf: u32, subleaf: u32) -> Registers {
    use std::arch::x86_64::__cpuid_count;
    // Newer compilers have it as a safe function.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 processor has the instruction, and it has no side effects.
    let highest = unsafe { __cpuid_count(leaf & 0x8000_0000, 0) }.eax;
    if leaf > highest {
        return Registers::default();
    }
    #[allow(unused_unsafe)]
    // SAFETY: as above.
    let found = unsafe { __cpuid_count(leaf, subleaf) };
    Registers { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
}
