//! Under a seccomp profile, and without root.

use std::process::Command;

use crate::container::Pod;

/// Tells its filter, and what io_uring_setup(2) fails with.
const FILTERED: &str = r#"
$| = 1;
while (1) {
    my $errno = syscall(425, 1, 0) == -1 ? $! + 0 : 0;
    open(my $status, '<', '/proc/self/status') or die;
    my ($mode) = map { /^Seccomp:\s+(\d)/ ? $1 : () } <$status>;
    print "mode $mode errno $errno\n";
    select(undef, undef, undef, 0.05);
}
"#;

#[test]
fn a_program_keeps_its_seccomp_profile_over_suspends() {
    let Some(pod) = Pod::new(&["perl"]) else { return };
    let shipped = include_str!("../../../../deploy/seccomp/torpor.json");
    std::fs::write(pod.volume().join("profile.json"), shipped).unwrap();
    let program = ["perl", "-e", FILTERED];
    let options = ["--seccomp-profile", "/volume/profile.json"];
    let lines = pod.three_rounds(&options, &program, |container, _| container.wait_more_lines(3));
    let meant = format!("mode 2 errno {}", rustix::io::Errno::NOSYS.raw_os_error());
    assert!(lines.iter().all(|line| *line == meant), "{lines:?}");
}

#[test]
fn a_profile_that_cannot_be_read_starts_nothing() {
    let Some(pod) = Pod::new(&[]) else { return };
    std::fs::write(pod.volume().join("profile.json"), "{\"defaultAction\": \"ALLOW\"}").unwrap();
    let container = pod.start(&["--seccomp-profile", "/volume/profile.json"], &["echo", "ran"]);
    assert_ne!(container.wait(), 0);
    assert!(container.log().contains("profile.json cannot be understood"), "{}", container.story());
    assert!(container.lines().is_empty());
}

/// What docs/privileges.md asks for where Torpor is not root.
const FILE_CAPABILITIES: &str =
    "cap_checkpoint_restore,cap_sys_ptrace,cap_net_admin,cap_sys_chroot,cap_setpcap=ep";

#[test]
fn file_capabilities_are_enough_without_root_and_the_program_has_none_of_them() {
    let Some(pod) = Pod::new(&["setcap", "setpriv"]) else { return };
    let binary = pod.volume().join("torpor");
    std::fs::copy(env!("CARGO_BIN_EXE_torpor"), &binary).unwrap();
    let set = Command::new("setcap").arg(FILE_CAPABILITIES).arg(&binary).output().unwrap();
    if !set.status.success() {
        return eprintln!("SKIPPED: no file capabilities here: {}", String::from_utf8_lossy(&set.stderr));
    }
    std::os::unix::fs::chown(pod.volume(), Some(1000), Some(1000)).unwrap();
    // A binary with more privileges than its caller takes CRIU from few places. And runtimes give a container's pipes to its
    // user, or they could not be opened again.
    let script = r#"mkdir -p /opt/torpor/criu; mount --bind "$TORPOR_CRIU" /opt/torpor/criu; unset TORPOR_CRIU; cd /
        chown 1000 /proc/self/fd/1 /proc/self/fd/2
        exec setpriv --reuid 1000 --regid 1000 --clear-groups -- "$@""#;
    let program =
        "for ((i = 0; ; i++)); do echo $i $UID $(grep -h CapEff /proc/self/status); sleep 0.05; done";
    let run = ["run", "--store", "file:///volume/store", "--name", "pod/main", "--", "bash", "-c", program];
    let words = [&["bash", "-c", script, "bash", "/volume/torpor", "--log", "debug"][..], &run].concat();
    let mut expected = 0;
    for round in 0..3 {
        let container = pod.other(&words).start();
        container.wait_more_lines(3);
        if round > 0 {
            assert!(container.log().contains(" restored "), "{}", container.story());
        }
        for line in container.suspend() {
            assert_eq!(line, format!("{expected} 1000 CapEff: 0000000000000000"));
            expected += 1;
        }
    }
}
