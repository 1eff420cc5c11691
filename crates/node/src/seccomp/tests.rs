//! What profiles mean, by running the filters that come of them.

use proptest::prelude::*;

use super::bpf::machine::{run, run_as};
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
const EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
const NONE: Around<'static> = Around { capabilities: Capabilities::NONE, kernel: "6.18.5" };

fn profile(json: serde_json::Value) -> Profile {
    serde_json::from_value(json).unwrap()
}

fn number(call: &str) -> u32 {
    call.parse::<Sysno>().unwrap().id() as u32
}

#[test]
fn calls_that_are_named_differ_from_the_rest() {
    let filter = profile(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS},
        ],
    }));
    let filter = filter.filter(NONE).unwrap();
    for (call, meant) in [("read", ALLOW), ("write", ALLOW), ("clone3", ENOSYS), ("mount", EPERM)] {
        assert_eq!(run(&filter, number(call), [0; 6]), meant, "{call}");
    }
    assert_eq!(run_as(&filter, 0x4000_0003, number("read"), [0; 6]), ENOSYS, "i386 numbers calls otherwise");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(run(&filter, 0x4000_0000 | number("read"), [0; 6]), ENOSYS, "so does x32");
    }
}

#[test]
fn groups_count_by_capability_architecture_and_kernel() {
    let with = |condition: serde_json::Value| {
        let mut group = serde_json::json!({"names": ["mount"], "action": "SCMP_ACT_ALLOW", "args": []});
        group.as_object_mut().unwrap().extend(condition.as_object().unwrap().clone());
        let filter = profile(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [group]}));
        let filter = filter.filter(NONE).unwrap();
        run(&filter, number("mount"), [0; 6]) == ALLOW
    };
    for (condition, counts) in [
        (serde_json::json!({}), true),
        (serde_json::json!({"includes": {"caps": ["CAP_SYS_ADMIN"]}}), false),
        (serde_json::json!({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}), true),
        (serde_json::json!({"includes": {"minKernel": "4.8"}}), true),
        (serde_json::json!({"includes": {"minKernel": "6.19"}}), false),
        (serde_json::json!({"includes": {"arches": [ARCH, "s390"]}}), true),
        (serde_json::json!({"includes": {"arches": ["s390"]}}), false),
        (serde_json::json!({"excludes": {"arches": [ARCH]}}), false),
    ] {
        assert_eq!(with(condition.clone()), counts, "{condition}");
    }
}

#[test]
fn what_no_filter_can_do_is_refused() {
    for (json, said) in [
        (serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY"),
        (serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}), "errno 5000"),
        (
            serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "read", "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
            "argument 6",
        ),
    ] {
        let error = profile(json).filter(NONE).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn the_profile_that_is_shipped_keeps_programs_away_from_io_uring() {
    let shipped = include_str!("../../../../deploy/seccomp/torpor.json");
    let profile: Profile = serde_json::from_str(shipped).unwrap();
    let unknown: Vec<_> = profile
        .syscalls
        .iter()
        .flat_map(|group| &group.names)
        .filter(|name| name.parse::<Sysno>().is_err())
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let filter = profile.filter(NONE).unwrap();
    // What Torpor does after the filter is applied, and what CRIU ends a restore with.
    for call in
        ["execve", "prctl", "capget", "capset", "rt_sigreturn", "exit_group", "write", "clone", "ptrace"]
    {
        assert_eq!(run(&filter, number(call), [0; 6]), ALLOW, "{call}");
    }
    for call in ["io_uring_setup", "clone3"] {
        assert_eq!(run(&filter, number(call), [0; 6]), ENOSYS, "{call}");
    }
    assert_eq!(run(&filter, number("mount"), [0; 6]), EPERM);
    let namespaces = [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0];
    assert_eq!(run(&filter, number("clone"), namespaces), EPERM);
}

fn holds(argument: &Argument, given: u64) -> bool {
    match argument.op {
        Comparison::Differs => given != argument.value,
        Comparison::Less => given < argument.value,
        Comparison::AtMost => given <= argument.value,
        Comparison::Equals => given == argument.value,
        Comparison::AtLeast => given >= argument.value,
        Comparison::Greater => given > argument.value,
        Comparison::Masked => given & argument.value == argument.value_two,
    }
}

/// Values whose halves are often equal.
fn value() -> impl Strategy<Value = u64> {
    (0u64..4, 0u64..4).prop_map(|(high, low)| high << 32 | low)
}

fn argument() -> impl Strategy<Value = Argument> {
    use Comparison::{AtLeast, AtMost, Differs, Equals, Greater, Less, Masked};
    let op = proptest::sample::select(vec![Differs, Less, AtMost, Equals, AtLeast, Greater, Masked]);
    (0u32..6, value(), value(), op).prop_map(|(index, value, value_two, op)| Argument {
        index,
        value,
        value_two,
        op,
    })
}

proptest! {
    #[test]
    fn filters_compare_as_rules_say(arguments in proptest::collection::vec(argument(), 1..5), given in proptest::array::uniform6(value())) {
        let mut filter = bpf::Builder::new(ALLOW);
        filter.add(7, &arguments, EPERM);
        let filter = filter.finish().unwrap();
        let each = |argument: &Argument| holds(argument, given[argument.index as usize]);
        let mut indexes: Vec<_> = arguments.iter().map(|argument| argument.index).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let denied = if indexes.len() < arguments.len() { arguments.iter().any(each) } else { arguments.iter().all(each) };
        prop_assert_eq!(run(&filter, 7, given) == EPERM, denied, "{:?} {:?}", arguments, given);
        prop_assert_eq!(run(&filter, 8, given), ALLOW);
    }

    #[test]
    fn any_text_is_read_without_panic(text in "\\PC{0,200}") {
        if let Ok(profile) = serde_json::from_str::<Profile>(&text) {
            let _ = profile.filter(NONE);
        }
    }
}
