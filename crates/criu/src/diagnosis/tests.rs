use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn of(operation: Operation, log: &str) -> Diagnosis {
    diagnose(operation, &Log::from_bytes(log.as_bytes()))
}

/// Errors and warnings as CRIU 4.2.1 logged them on a kernel 6.18, each for a small program that provoked them.
const CAPTURED: &[(&str, Operation, &str)] = &[
    (
        "tcp-established",
        Operation::Checkpoint,
        "(00.038069) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.045248) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.
(00.045266) Error (criu/cr-dump.c:1545): Dump files (pid: 25980) failed with -1
(00.045654) Error (criu/cr-dump.c:1975): Dumping FAILED.",
    ),
    (
        "cgroup-gone",
        Operation::Checkpoint,
        "(00.113614) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(02.210213) Error (criu/cgroup.c:742): cg: failed walking /proc/self/fd/18/ for empty cgroups: No such file or directory
(02.210299) Error (criu/cr-dump.c:1584): Dump core (pid: 77) failed with -1
(02.261951) Error (criu/cr-dump.c:1975): Dumping FAILED.",
    ),
    (
        "network-lock-iptables",
        Operation::Checkpoint,
        "(00.044522) Error (criu/util.c:657): exited, status=127
(00.044531) Error (criu/netfilter.c:105): Iptables configuration failed
(00.044533) Error (criu/sk-tcp.c:81): tcp: Failed to lock TCP connection 8e39
(00.044886) Error (criu/cr-dump.c:1975): Dumping FAILED.",
    ),
    (
        "deleted-file-limit",
        Operation::Checkpoint,
        "(00.060178) Error (criu/files-reg.c:1031): Can't dump ghost file /tmp/gone of 3145728 size, increase limit
(00.060565) Error (criu/cr-dump.c:1975): Dumping FAILED.",
    ),
    (
        "unix-external",
        Operation::Checkpoint,
        "(00.042225) Error (criu/sk-unix.c:874): unix: External socket is used. Consider using --ext-unix-sk option.
(00.042299) Error (criu/cr-dump.c:1975): Dumping FAILED.",
    ),
    (
        "io-uring",
        Operation::Checkpoint,
        "pie: 26361: Error (criu/pie/parasite.c:588): send_fds failed (-22)
(00.037276) Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket
(00.037279) Error (compel/src/lib/infect-rpc.c:44): Message reply from daemon is trimmed (12/0)",
    ),
    (
        "inotify-handle",
        Operation::Checkpoint,
        "(00.048315) Warn  (criu/fsnotify.c:281): fsnotify: \tHandle 0x1a:0x1 cannot be opened
(00.094827) Warn  (criu/irmap.c:105): irmap: Can't stat /no-such-path: No such file or directory
(00.094831) Error (criu/fsnotify.c:284): fsnotify: \tCan't dump that handle",
    ),
    (
        "terminal-outside",
        Operation::Checkpoint,
        "(00.043193) Error (criu/tty.c:410): tty: Found slave peer index 0 without correspond master peer",
    ),
    (
        "not-session-leader",
        Operation::Checkpoint,
        "(00.035987) Error (criu/pstree.c:304): The root process 26584 is not a session leader. Consider using --shell-job option",
    ),
    (
        "file-lock",
        Operation::Checkpoint,
        "(00.059119) Error (criu/file-lock.c:110): Some file locks are hold by dumping tasks! You can try --file-locks to dump them.",
    ),
    (
        "traced",
        Operation::Checkpoint,
        "(00.033054) Warn  (compel/src/lib/infect.c:132): Unable to interrupt task: 26861 (Operation not permitted)
(00.033068) Error (compel/src/lib/infect.c:417): Unable to detach from 26861: No such process
(00.033073) Error (criu/cr-dump.c:1975): Dumping FAILED.",
    ),
    (
        "io-uring",
        Operation::Checkpoint,
        "(00.085830) Error (criu/proc_parse.c:502): Unknown shit 600 (anon_inode:[io_uring])
(00.085835) Error (criu/proc_parse.c:738): Can't open 9744's mapfile link 7fb13438b000: No such device or address",
    ),
    (
        "mount-lookup",
        Operation::Checkpoint,
        "(00.071362) Error (criu/files-reg.c:1790): Can't lookup mount=24 for fd=0 path=/dev/null",
    ),
    (
        "namespace-nested",
        Operation::Checkpoint,
        "(00.050277) Error (criu/namespaces.c:460): Can't dump nested pid namespace for 9970
(00.050279) Error (criu/namespaces.c:700): Can't make pidns id",
    ),
    (
        "user-namespace",
        Operation::Checkpoint,
        "(00.081364) Error (criu/namespaces.c:931): Unable to convert uid or gid",
    ),
    (
        "netlink-data",
        Operation::Checkpoint,
        "(00.086752) Error (criu/sk-netlink.c:77): netlink: The socket has data to read",
    ),
    (
        "mptcp",
        Operation::Checkpoint,
        "(00.100849) Error (criu/sk-inet.c:137): inet: Unsupported proto 262 for socket 191ce
(00.100850) Error (criu/sk-inet.c:139): inet: For Go programs, consider using \"GODEBUG=multipathtcp=0\" to disable MPTCP",
    ),
    (
        "tcp-in-flight",
        Operation::Checkpoint,
        "(00.065830) Error (criu/sk-inet.c:185): inet: In-flight connection (l) for 192ff",
    ),
    (
        "deleted-file-link",
        Operation::Checkpoint,
        "(00.043300) Error (criu/files-reg.c:1122): Can't create link remap for /tmp/h1. Use link-remap option.",
    ),
    (
        "disk-full",
        Operation::Checkpoint,
        "(00.077605) Error (criu/page-xfer.c:263): page-xfer: Unable to spice data: No space left on device
(00.077615) Error (criu/bfd.c:131): bfd: Error flushing image: No space left on device",
    ),
    (
        "not-root",
        Operation::Checkpoint,
        "(00.003984) Error (criu/net.c:4121): net: Unable create a network namespace: Operation not permitted
(00.004531) Warn  (criu/net.c:4177): net: NSID isn't reported for network links
(00.004589) Error (criu/kerndat.c:1922): kerndat_has_nftables_concat failed when initializing kerndat.",
    ),
    (
        "image-trimmed",
        Operation::Restore,
        "(00.063854) Error (criu/protobuf.c:72): Unexpected EOF on (empty-image)
(00.063861) Error (criu/cr-restore.c:2331): Restoring FAILED.",
    ),
    (
        "image-trimmed",
        Operation::Restore,
        "(00.048321) Error (criu/protobuf.c:93): Read 88 bytes while 107 expected from /d/files.img: No such file or directory",
    ),
    (
        "image-magic",
        Operation::Restore,
        "(00.060382) Error (criu/image.c:554): Head magic doesn't match for files.img",
    ),
    (
        "page-handler",
        Operation::Restore,
        "(00.049298) Error (criu/uffd.c:349): uffd: connect to lazy-pages.socket failed: No such file or directory",
    ),
    (
        "pid-taken",
        Operation::Restore,
        "(00.032852) Error (criu/cr-restore.c:1237): Can't fork for 26724: File exists
(00.032879) Error (criu/cr-restore.c:2331): Restoring FAILED.",
    ),
    (
        "port-in-use",
        Operation::Restore,
        "(00.038647)  26885: Error (criu/sk-inet.c:1059): inet: Can't bind inet socket (id 26): Address already in use
(00.038655)  26885: Error (criu/files.c:1221): Unable to open fd=3 id=0x1a
(00.038676) Error (criu/cr-restore.c:2331): Restoring FAILED.",
    ),
    (
        "file-missing",
        Operation::Restore,
        "(00.035774)  27101: Error (criu/files-reg.c:2353): Can't open file tmp/sub on restore: No such file or directory
(00.035780)  27101: Error (criu/files-reg.c:2267): Can't open file tmp/sub: No such file or directory
(00.035782)  27101: Error (criu/files.c:1399): Can't open cwd
(00.036715) Error (criu/cr-restore.c:2331): Restoring FAILED.",
    ),
];

#[test]
fn what_criu_really_logs_is_known() {
    for (id, operation, log) in CAPTURED {
        let diagnosis = of(*operation, log);
        assert_eq!(diagnosis.id, *id, "{diagnosis:#?}");
        assert!(!diagnosis.cause.contains('{') && !diagnosis.remedy.contains('{'), "{diagnosis:?}");
        assert!(diagnosis.lines.iter().all(|line| log.contains(line.as_str())));
    }
}

#[test]
fn a_diagnosis_names_what_it_is_about() {
    let deleted = of(
        Operation::Checkpoint,
        "(00.06) Error (criu/files-reg.c:1031): Can't dump ghost file /tmp/gone of 3145728 size, increase limit",
    );
    assert_eq!(deleted.subjects, ["/tmp/gone", "3145728"]);
    assert_eq!(
        deleted.cause,
        "the program holds the deleted file /tmp/gone open, and its 3145728 bytes are more than CRIU takes along"
    );
    assert!(deleted.remedy.contains("--criu-option ghost-limit=3145728"));
    assert_eq!(deleted.remedy, deleted.remedy_elsewhere);

    let inotify = of(
        Operation::Checkpoint,
        "(00.04) Warn  (criu/fsnotify.c:281): fsnotify: \tHandle 0x1a:0x1 cannot be opened\n\
         (00.09) Error (criu/fsnotify.c:284): fsnotify: \tCan't dump that handle",
    );
    assert_eq!(inotify.subjects, ["0x1a:0x1"]);
    assert_eq!(inotify.lines.len(), 2);

    let private = of(
        Operation::Restore,
        "(00.1) 1: Error (criu/mount-v2.c:891): mnt-v2: Failed to copy sharing from -1:/run/b/rootfs to 5: Invalid argument",
    );
    assert_eq!((private.id, private.subjects[0].as_str()), ("mount-shared", "/run/b/rootfs"));

    let size = of(
        Operation::Restore,
        "(00.02) 7: Error (criu/files-reg.c:2175): File usr/lib/libc.so.6 has bad size 12 (expect 34)",
    );
    assert_eq!((size.id, size.subjects.join(" ")), ("file-changed", "usr/lib/libc.so.6 12 34".into()));
}

#[test]
fn an_unknown_failure_shows_the_errors() {
    let unknown = of(
        Operation::Restore,
        "(00.01) Something usual\n(00.02) Error (criu/new.c:1): a thing nobody has seen\n(00.03) Error (criu/cr-restore.c:1): Restoring FAILED.",
    );
    assert_eq!(unknown.id, UNKNOWN);
    assert_eq!(unknown.lines.len(), 2);
    assert!(unknown.lines[0].contains("nobody has seen"));

    let without_errors = of(Operation::Checkpoint, "(00.01) Something usual\n");
    assert_eq!(without_errors.lines, ["(00.01) Something usual"]);
    assert!(of(Operation::Checkpoint, "").cause.contains("logged nothing"));
}

/// A later row must not be hidden by an earlier one, and every `{n}` needs a `*`.
#[test]
fn every_row_can_be_reached_and_is_filled() {
    for known in known() {
        for message in known.messages {
            let mut log = format!("(00.01) Error (criu/x.c:1): {}\n", message.replace('*', "7"));
            if let Some(with) = known.with {
                log += &format!("(00.00) {}\n", with.replace('*', "7"));
            }
            for operation in [Operation::Checkpoint, Operation::Restore] {
                if known.operation.is_none_or(|only| only == operation) {
                    let diagnosis = of(operation, &log);
                    assert_eq!(diagnosis.id, known.id, "{message}");
                    let text = format!("{} {}", diagnosis.cause, diagnosis.remedy);
                    assert!(!text.contains(['{', '}']), "{message}: {text}");
                }
            }
        }
    }
}

#[test]
fn the_table_reads_like_one_text() {
    let ids: HashSet<&str> = known().map(|known| known.id).collect();
    assert!(!ids.contains(UNKNOWN));
    for known in known() {
        assert!(known.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", known.id);
        for text in [known.cause, known.remedy, known.remedy_elsewhere()] {
            assert!(!text.is_empty() && !text.ends_with('.'), "{}: {text}", known.id);
        }
    }
}

proptest! {
    #[test]
    fn any_log_has_a_diagnosis(log in "(\\(0[0-9]\\.[0-9]{6}\\) (Error|Warn ) \\(a\\.c:1\\): \\PC{0,60}\n){0,5}\\PC{0,80}") {
        for operation in [Operation::Checkpoint, Operation::Restore] {
            let diagnosis = of(operation, &log);
            prop_assert!(!diagnosis.cause.is_empty() && diagnosis.lines.len() <= MOST_LINES);
        }
    }
}
