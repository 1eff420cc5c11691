//! From rules to the classic BPF that the kernel runs before every system call (seccomp(2), bpf(4)).

use std::collections::BTreeMap;

use super::{Argument, Comparison, SeccompError};

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub(super) const MOST: usize = 4096;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data`: the call's number, the architecture, the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` (Linux, include/uapi/linux/audit.h).
const NATIVE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };
/// On x86-64, numbers from here on are those of the x32 way to call.
const X32: u32 = 0x4000_0000;
/// Calls made in another way than the machine's own fail with `ENOSYS`: their numbers mean something else.
const FOREIGN: u32 = 0x0005_0000 | libc::ENOSYS as u32;

/// One instruction: `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) value: u32,
}

/// A filter, ready to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Vec<Instruction>);

impl Filter {
    /// Its instructions, at most 4096.
    pub(crate) fn instructions(&self) -> &[Instruction] {
        &self.0
    }
}

/// Where a comparison leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// To what follows.
    On,
    /// To the next argument.
    Holds,
    /// To the next rule.
    Fails,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Do(u16, u32),
    Test(u16, u32, To, To),
}

/// What is done about one call: on arguments first, then in any case.
#[derive(Debug, Default)]
struct Call {
    on_arguments: Vec<(Vec<Argument>, u32)>,
    always: Option<u32>,
}

/// Gathers rules.
#[derive(Debug)]
pub(super) struct Builder {
    default: u32,
    calls: BTreeMap<u32, Call>,
}

impl Builder {
    pub(super) fn new(default: u32) -> Builder {
        Builder { default, calls: BTreeMap::new() }
    }

    /// Adds a rule: where all of `arguments` hold, the call with this number comes to `action`. Several conditions on one
    /// argument are alternatives, as runtimes have it (runc, libcontainer/seccomp).
    pub(super) fn add(&mut self, number: u32, arguments: &[Argument], action: u32) {
        let call = self.calls.entry(number).or_default();
        let twice =
            |argument: &Argument| arguments.iter().filter(|other| other.index == argument.index).count() > 1;
        if arguments.is_empty() {
            call.always.get_or_insert(action);
        } else if arguments.iter().any(twice) {
            call.on_arguments.extend(arguments.iter().map(|argument| (vec![*argument], action)));
        } else {
            call.on_arguments.push((arguments.to_vec(), action));
        }
    }

    pub(super) fn finish(self) -> Result<Filter, SeccompError> {
        let mut all = vec![
            plain(LOAD, ARCHITECTURE),
            jump(JUMP_EQUAL, NATIVE, 1, 0),
            plain(RETURN, FOREIGN),
            plain(LOAD, NUMBER),
        ];
        if cfg!(target_arch = "x86_64") {
            all.extend([jump(JUMP_AT_LEAST, X32, 0, 1), plain(RETURN, FOREIGN)]);
        }
        for (number, call) in self.calls {
            let mut body: Vec<Instruction> =
                call.on_arguments.iter().flat_map(|(arguments, action)| rule(arguments, *action)).collect();
            body.push(plain(RETURN, call.always.unwrap_or(self.default)));
            // The long jump reaches over any number of instructions.
            all.extend([jump(JUMP_EQUAL, number, 1, 0), plain(JUMP, body.len() as u32)]);
            all.extend(body);
        }
        all.push(plain(RETURN, self.default));
        if all.len() > MOST { Err(SeccompError::TooBig { count: all.len() }) } else { Ok(Filter(all)) }
    }
}

/// Returns `action` where all arguments hold; else goes on behind itself.
fn rule(arguments: &[Argument], action: u32) -> Vec<Instruction> {
    let parts: Vec<Vec<Step>> = arguments.iter().map(comparison).collect();
    let length: usize = parts.iter().map(Vec::len).sum::<usize>() + 1;
    let mut rule = Vec::with_capacity(length);
    for part in parts {
        let end = rule.len() + part.len();
        for step in part {
            let next = rule.len() + 1;
            // At most six arguments of five steps each: every distance fits.
            let distance = |to| match to {
                To::On => 0,
                To::Holds => (end - next) as u8,
                To::Fails => (length - next) as u8,
            };
            rule.push(match step {
                Step::Do(code, value) => plain(code, value),
                Step::Test(code, value, yes, no) => jump(code, value, distance(yes), distance(no)),
            });
        }
    }
    rule.push(plain(RETURN, action));
    rule
}

/// Arguments have 64 bits and instructions 32, so both halves are looked at.
fn comparison(argument: &Argument) -> Vec<Step> {
    use To::{Fails, Holds, On};
    let low_at = ARGUMENTS + 8 * argument.index;
    let (load_low, load_high) = (Step::Do(LOAD, low_at), Step::Do(LOAD, low_at + 4));
    let half = |value: u64| (value as u32, (value >> 32) as u32);
    let (low, high) = half(argument.value);
    // Decided by the high half, or where that is equal by the low one.
    let ordered = |test, greater, less, yes, no| {
        vec![
            load_high,
            Step::Test(JUMP_GREATER, high, greater, On),
            Step::Test(JUMP_EQUAL, high, On, less),
            load_low,
            Step::Test(test, low, yes, no),
        ]
    };
    match argument.op {
        Comparison::Equals => vec![
            load_low,
            Step::Test(JUMP_EQUAL, low, On, Fails),
            load_high,
            Step::Test(JUMP_EQUAL, high, On, Fails),
        ],
        Comparison::Differs => vec![
            load_low,
            Step::Test(JUMP_EQUAL, low, On, Holds),
            load_high,
            Step::Test(JUMP_EQUAL, high, Fails, On),
        ],
        Comparison::Masked => {
            let (wanted_low, wanted_high) = half(argument.value_two);
            vec![
                load_low,
                Step::Do(AND, low),
                Step::Test(JUMP_EQUAL, wanted_low, On, Fails),
                load_high,
                Step::Do(AND, high),
                Step::Test(JUMP_EQUAL, wanted_high, On, Fails),
            ]
        }
        Comparison::Greater => ordered(JUMP_GREATER, Holds, Fails, On, Fails),
        Comparison::AtLeast => ordered(JUMP_AT_LEAST, Holds, Fails, On, Fails),
        Comparison::Less => ordered(JUMP_AT_LEAST, Fails, Holds, Fails, On),
        Comparison::AtMost => ordered(JUMP_GREATER, Fails, Holds, Fails, On),
    }
}

fn plain(code: u16, value: u32) -> Instruction {
    jump(code, value, 0, 0)
}

fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

#[cfg(test)]
pub(super) mod machine {
    //! Runs filters as the kernel does.

    use super::*;

    /// What the filter returns for a call of the machine's own architecture.
    pub(crate) fn run(filter: &Filter, number: u32, arguments: [u64; 6]) -> u32 {
        run_as(filter, NATIVE, number, arguments)
    }

    pub(crate) fn run_as(filter: &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number.to_ne_bytes(), architecture.to_ne_bytes()].concat();
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut at, mut a) = (0, 0u32);
        loop {
            let Instruction { code, if_true, if_false, value } = filter.0[at];
            at += 1;
            let holds = match code {
                LOAD => {
                    let at = value as usize;
                    a = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
                    continue;
                }
                AND => {
                    a &= value;
                    continue;
                }
                JUMP => {
                    at += value as usize;
                    continue;
                }
                RETURN => return value,
                JUMP_EQUAL => a == value,
                JUMP_GREATER => a > value,
                JUMP_AT_LEAST => a >= value,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if holds { if_true } else { if_false });
        }
    }
}
