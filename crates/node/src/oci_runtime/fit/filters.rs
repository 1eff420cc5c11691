//! Seccomp filters: whether those in images stop what the configuration's profile stops.
//!
//! Filters are programs of classic BPF (seccomp(2)). Which of two is stricter cannot be told from their text, so all ways through
//! them are followed, for each system call: what a program learns about arguments is taken for unknown.

use std::collections::HashSet;

use syscalls::Sysno;
use torpor_criu::image::credential::SeccompFilter;
use torpor_criu::image::process::Core;

use super::{Claim, Misfit, has_ended};
use crate::capabilities::Capabilities;
use crate::seccomp::{Around, Filter};

use super::grant::Grant;

/// The mode in which filters count.
const FILTERED: u32 = 2;
/// The strict mode lets through four calls.
const STRICT: u32 = 1;
/// The longest chain of filters, which the kernel limits by its size of 32768 instructions.
const LONGEST: usize = 512;
/// The most steps through one filter for one call.
const STEPS: usize = 20_000;
/// System calls have numbers below this.
const NUMBERS: usize = 1024;
/// `SECCOMP_FILTER_FLAG_TSYNC` (Linux, include/uapi/linux/seccomp.h).
const TO_ALL_THREADS: u32 = 1;
/// How many calls are named of one thread.
const MOST: usize = 4;
/// `AUDIT_ARCH_X86_64`, and `AUDIT_ARCH_AARCH64` (Linux, include/uapi/linux/audit.h).
const NATIVE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };
/// `AUDIT_ARCH_I386`, and `AUDIT_ARCH_ARM`.
const NARROW: u32 = if cfg!(target_arch = "aarch64") { 0x4000_0028 } else { 0x4000_0003 };
/// From this number on, calls have the same number on all architectures.
const COMMON: usize = 424;
/// On x86-64, numbers from here on are those of the x32 way to call.
const X32: u32 = 0x4000_0000;

/// One instruction of a filter.
#[derive(Debug, Clone, Copy)]
struct Step {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

fn steps(filter: &SeccompFilter) -> Vec<Step> {
    let (whole, _) = filter.filter.as_chunks::<8>();
    whole
        .iter()
        .map(|&[c0, c1, if_true, if_false, v0, v1, v2, v3]| Step {
            code: u16::from_le_bytes([c0, c1]),
            if_true,
            if_false,
            value: u32::from_le_bytes([v0, v1, v2, v3]),
        })
        .collect()
}

fn own_steps(filter: &Filter) -> Vec<Step> {
    let instructions = filter.instructions().iter();
    instructions
        .map(|one| Step { code: one.code, if_true: one.if_true, if_false: one.if_false, value: one.value })
        .collect()
}

/// Whether the filter may let a call through: on some way, with some arguments.
fn may_pass(filter: &[Step], architecture: u32, number: u32) -> bool {
    let mut ways = vec![(0usize, None::<u32>)];
    let mut seen = HashSet::new();
    while let Some((at, a)) = ways.pop() {
        if !seen.insert((at, a)) {
            continue;
        }
        // What is too long to be followed, or leaves the program, is not known to stop anything.
        let Some(step) = filter.get(at).filter(|_| seen.len() <= STEPS) else { return true };
        let (next, value) = (at + 1, step.value);
        let branch = |holds: bool| next + usize::from(if holds { step.if_true } else { step.if_false });
        match step.code {
            // Load a word: the number, the architecture, or what cannot be known.
            0x20 => ways.push((
                next,
                match value {
                    0 => Some(number),
                    4 => Some(architecture),
                    _ => None,
                },
            )),
            0x00 => ways.push((next, Some(value))),
            // Jump, and return.
            0x05 => ways.push((next.saturating_add(value as usize), a)),
            0x06 if passes(value) => return true,
            0x06 => {}
            0x16 if a.is_none_or(passes) => return true,
            0x16 => {}
            // Comparisons with a constant.
            0x15 | 0x25 | 0x35 | 0x45 => match a {
                Some(a) => {
                    let holds = match step.code {
                        0x15 => a == value,
                        0x25 => a > value,
                        0x35 => a >= value,
                        _ => a & value != 0,
                    };
                    ways.push((branch(holds), Some(a)));
                }
                None => ways.extend([(branch(true), None), (branch(false), None)]),
            },
            // Comparisons with what cannot be known.
            code if code & 0x07 == 0x05 => ways.extend([(branch(true), a), (branch(false), a)]),
            0x54 => ways.push((next, a.map(|a| a & value))),
            // What only stores leaves the accumulator alone: ST, STX, LDX, TAX.
            code if matches!(code & 0x07, 0x01..=0x03) || code == 0x07 => ways.push((next, a)),
            _ => ways.push((next, None)),
        }
    }
    false
}

/// Whether a filter's verdict lets a call through. Logging, tracing and asking others do.
fn passes(verdict: u32) -> bool {
    matches!(verdict & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000 | 0x7fc0_0000)
}

/// A thread's filters, from the last to the first; none where the chain is broken.
fn links(filters: &[SeccompFilter], last: u32) -> Option<Vec<&SeccompFilter>> {
    let mut all = Vec::new();
    let mut next = Some(last);
    while let Some(number) = next {
        let filter = filters.get(number as usize).filter(|_| all.len() < LONGEST)?;
        all.push(filter);
        // A filter was there before those that came after it.
        next = filter.prev.filter(|previous| *previous < number);
        if filter.prev.is_some() && next.is_none() {
            return None;
        }
    }
    Some(all)
}

/// Holds each living thread's filters against the profile.
pub(super) fn check(claim: &Claim, grant: &Grant, all: &mut Vec<Misfit>) {
    let Some(profile) = &grant.seccomp else { return };
    let capabilities = Capabilities::from_bits(grant.capabilities.bounding);
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    // What asks another process cannot be compared; that there are filters can.
    let wanted = profile.filter(Around { capabilities, kernel: &release }).ok();
    let wanted = wanted.as_ref().map(own_steps);
    let mut known: Vec<(Option<u32>, Option<Misfit>)> = Vec::new();
    for (thread, core) in &claim.threads {
        if has_ended(core) {
            continue;
        }
        let (mode, last) = mode(core);
        if mode == STRICT {
            continue;
        }
        let last = match mode {
            FILTERED => last,
            _ => claim.leader(*thread).and_then(|leader| passed_on(leader, &claim.filters)),
        };
        let found = match known.iter().find(|(known, _)| *known == last) {
            Some((_, found)) => found.clone(),
            None => {
                let found = judge(*thread, &claim.filters, last, wanted.as_deref());
                known.push((last, found.clone()));
                found
            }
        };
        all.extend(found);
    }
}

/// The last filter of a leader that gives all of them to its threads. Where all threads of a process have the same filters, CRIU writes them
/// for the leader alone, each with the flag to give it to all (CRIU, `criu/seccomp.c`); a restore sets them before any thread runs.
fn passed_on(leader: &Core, filters: &[SeccompFilter]) -> Option<u32> {
    let (FILTERED, Some(last)) = mode(leader) else { return None };
    let chain = links(filters, last)?;
    chain.iter().all(|filter| filter.flags.unwrap_or(0) & TO_ALL_THREADS != 0).then_some(last)
}

/// The mode and the last filter of a thread, wherever this CRIU keeps them.
fn mode(core: &Core) -> (u32, Option<u32>) {
    let own = core.thread_core.as_ref();
    let task = core.tc.as_ref();
    let mode = own.and_then(|own| own.seccomp_mode).or_else(|| task.and_then(|task| task.old_seccomp_mode));
    let last =
        own.and_then(|own| own.seccomp_filter).or_else(|| task.and_then(|task| task.old_seccomp_filter));
    (mode.unwrap_or(0), last)
}

fn judge(
    thread: u32,
    filters: &[SeccompFilter],
    last: Option<u32>,
    wanted: Option<&[Step]>,
) -> Option<Misfit> {
    let Some(links) = last.and_then(|last| links(filters, last)) else {
        return Some(Misfit::NoFilter { thread });
    };
    let programs: Vec<_> = links.into_iter().map(steps).collect();
    let wanted = wanted?;
    let mut calls = Vec::new();
    for number in 0..NUMBERS {
        let Some(call) = Sysno::new(number) else { continue };
        let native = number as u32;
        if may_pass(wanted, NATIVE, native) {
            continue;
        }
        let let_through =
            |architecture, number| programs.iter().all(|program| may_pass(program, architecture, number));
        let wide = cfg!(target_arch = "x86_64") && let_through(NATIVE, native | X32);
        let narrow = number >= COMMON && let_through(NARROW, native);
        if let_through(NATIVE, native) || wide || narrow {
            calls.push(call.name().to_owned());
        }
        if calls.len() == MOST {
            break;
        }
    }
    (!calls.is_empty()).then_some(Misfit::Filter { thread, calls })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use torpor_criu::image::process::{Task, Thread};

    use super::*;

    fn profile(json: &str) -> Grant {
        Grant::parse(format!(r#"{{"linux": {{"seccomp": {json}}}}}"#).as_bytes()).unwrap()
    }

    const DENIES: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mount", "bpf"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;

    /// The filter of a profile, as images have it.
    fn image(json: &str, prev: Option<u32>) -> SeccompFilter {
        let profile = profile(json).seccomp.unwrap();
        let around = Around { capabilities: Capabilities::NONE, kernel: "6.18.0" };
        let filter = profile.filter(around).unwrap();
        let bytes = filter.instructions().iter().flat_map(|one| {
            let [c0, c1] = one.code.to_le_bytes();
            let [v0, v1, v2, v3] = one.value.to_le_bytes();
            [c0, c1, one.if_true, one.if_false, v0, v1, v2, v3]
        });
        SeccompFilter { filter: bytes.collect(), prev, flags: None }
    }

    fn core(mode: u32, filter: Option<u32>) -> Core {
        let own = Thread { seccomp_mode: Some(mode), seccomp_filter: filter, ..Thread::default() };
        Core { thread_core: Some(own), ..Core::default() }
    }

    fn told(filters: Vec<SeccompFilter>, core: Core) -> Vec<String> {
        let claim = Claim { filters, threads: vec![(1, core)], ..Claim::default() };
        let mut all = Vec::new();
        check(&claim, &profile(DENIES), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_thread_needs_filters_that_stop_what_the_profile_stops() {
        let allows = |names: &str| {
            format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": [{names}], "action": "SCMP_ACT_ALLOW"}}]}}"#
            )
        };
        let stricter = allows(r#""read""#);
        for (filters, core, expected) in [
            (vec![], core(0, None), "thread 1 has no seccomp filter"),
            (vec![], core(2, Some(0)), "thread 1 has no seccomp filter"),
            (vec![], core(1, None), ""),
            (vec![image(DENIES, None)], core(2, Some(0)), ""),
            (vec![image(&stricter, None)], core(2, Some(0)), ""),
            (vec![image(&allows(r#""read", "bpf""#), None)], core(2, Some(0)), "let bpf through"),
            (
                vec![image(r#"{"defaultAction": "SCMP_ACT_LOG"}"#, None)],
                core(2, Some(0)),
                "let mount, bpf through",
            ),
            // All filters of the chain count, not the last alone.
            (
                vec![image(DENIES, None), image(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#, Some(0))],
                core(2, Some(1)),
                "",
            ),
            (vec![image(DENIES, Some(0))], core(2, Some(0)), "has no seccomp filter"),
            (vec![image(DENIES, Some(7))], core(2, Some(0)), "has no seccomp filter"),
        ] {
            let told = told(filters, core);
            assert_eq!(told.is_empty(), expected.is_empty(), "{told:?}");
            assert!(told.iter().all(|told| told.contains(expected)), "{told:?}");
        }
    }

    #[test]
    fn a_leader_may_give_its_filters_to_its_threads() {
        let given = |flags| SeccompFilter { flags, ..image(DENIES, None) };
        let later = |flags| SeccompFilter { flags, prev: Some(0), ..image(DENIES, None) };
        for (filters, leader, fits) in [
            (vec![given(Some(1))], core(2, Some(0)), true),
            (vec![given(Some(3)), later(Some(1))], core(2, Some(1)), true),
            (vec![given(None)], core(2, Some(0)), false),
            (vec![given(Some(1)), later(None)], core(2, Some(1)), false),
            (vec![given(None), later(Some(1))], core(2, Some(1)), false),
            (vec![given(Some(1))], core(2, Some(4)), false),
            (vec![given(Some(1))], core(0, Some(0)), false),
        ] {
            let claim = Claim {
                filters,
                threads: vec![(7, core(0, None))],
                processes: vec![(1, None, leader)],
                leaders: HashMap::from([(7, 0)]),
                ..Claim::default()
            };
            let mut all = Vec::new();
            check(&claim, &profile(DENIES), &mut all);
            assert_eq!(all.is_empty(), fits, "{all:?}");
        }
    }

    #[test]
    fn what_depends_on_arguments_may_pass() {
        let conditional = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mount", "bpf"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;
        assert!(told(vec![image(conditional, None)], core(2, Some(0)))[0].contains("let mount, bpf through"));
    }

    #[test]
    fn the_dead_need_no_filter() {
        let dead = Core { tc: Some(Task { task_state: 6, ..Task::default() }), ..Core::default() };
        assert!(told(vec![], dead).is_empty());
    }

    proptest! {
        #[test]
        fn any_program_is_followed_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..400), number in any::<u32>()) {
            let filter = SeccompFilter { filter: bytes, prev: None, flags: None };
            may_pass(&steps(&filter), NATIVE, number);
        }
    }
}
