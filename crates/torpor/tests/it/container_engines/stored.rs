//! Containers that go into a store and come back, on a machine with real runtimes.

use std::time::{Duration, Instant};

use super::host::Host;
use super::{COUNTER, PROMISE, RUNTIMES};

/// Counts in memory and in files of its own, and ends with the code that it is told, when it is told to.
const FILES: &str = "i=0; mkdir /state; while [ ! -e /volume/end ]; do i=$((i+1)); echo $i > /state/$i; rm -f /state/$((i-5)); \
    echo $i > /kept; echo $i > /volume/new; busybox mv /volume/new /volume/count; sleep 0.02; done; exit $(cat /volume/end)";

/// The words of a restore from the store of the machine.
fn restore<'a>(name: &'a str, bundle: &'a str, runtime: &'a str) -> Vec<&'a str> {
    vec![
        "restore",
        name,
        "--store",
        "/run/store",
        "--bundle",
        bundle,
        "--runtime",
        runtime,
        "--room",
        "/run/room",
    ]
}

#[test]
fn a_container_in_a_store_takes_its_files_along() {
    let Some(host) = Host::new() else { return };
    let changes = "rm /removed; echo changed > /kept; mkdir /made; echo x > /made/file; ln /made/file /made/link; echo s > /bin/new";
    for id in RUNTIMES {
        let (name, elsewhere) = (format!("shop/{id}"), format!("{id}-elsewhere"));
        let target = format!("container:{id}");
        host.bundle(id, &format!("{changes}; {COUNTER}"));
        host.start(id, id);
        host.counts_beyond(id, 3);
        let keep = ["checkpoint", &target, "--store", "/run/store", "--name", &name];
        let said = host.torpor(&[&keep[..], &["--leave-running"]].concat());
        assert!(said.starts_with(&format!("{name}@1")) && said.contains("runs on"), "{said}");
        host.counts_beyond(id, host.count(id));
        let said = host.torpor(&keep);
        assert!(said.starts_with(&format!("{name}@2")) && said.contains("ended"), "{said}");
        let end = host.count(id);

        let said = host.refused(&["restore", &name, "--store", "/run/store"]);
        assert!(said.contains("--bundle"), "{said}");

        host.bundle_for(&elsewhere, id);
        let bundle = format!("/run/b/{elsewhere}");
        let restore = [
            "restore",
            &name,
            "--store",
            "/run/store",
            "--bundle",
            &bundle,
            "--runtime",
            id,
            "--detach",
            "--room",
            "/run/room",
        ];
        host.torpor_quietly(&restore);
        host.counts_beyond(id, end);
        let root = format!("{bundle}/rootfs");
        assert_eq!(host.run(&["cat", &format!("{root}/kept"), &format!("{root}/made/link")]), "changed\nx\n");
        assert!(!host.path(&format!("{root}/removed")).exists());
        let again = host.refused(&restore);
        assert!(again.contains("is not to be restored"), "a suspend is resumed once: {again}");
        assert!(host.names("/run/room").is_empty(), "images are gone once they are restored");
        host.run(&[id, "delete", "--force", &elsewhere]);
    }
}

#[test]
fn a_container_moves_from_root_to_root_and_ends_with_its_own_code() {
    let Some(host) = Host::new() else { return };
    for id in RUNTIMES {
        let name = format!("moves/{id}");
        host.bundle(id, FILES);
        host.start(id, id);
        let mut at = id.to_owned();
        let mut count = host.counts_beyond(id, 10);
        for round in 1..=3 {
            host.torpor(&[
                "checkpoint",
                &format!("container:{at}"),
                "--store",
                "/run/store",
                "--name",
                &name,
            ]);
            let end = host.count(id);
            assert!(end >= count, "{id}, round {round}");
            at = format!("{id}-{round}");
            host.bundle_for(&at, id);
            let bundle = format!("/run/b/{at}");
            host.torpor_quietly(&[&restore(&name, &bundle, id)[..], &["--detach", "--id", &at]].concat());
            count = host.counts_beyond(id, end);
            assert!(count <= end + 50, "{id}, round {round}: {end}, then {count}");
            host.run(&[id, "pause", &at]);
            let mut files: Vec<u64> = host
                .names(&format!("{bundle}/rootfs/state"))
                .iter()
                .map(|name| name.parse().unwrap())
                .collect();
            files.sort_unstable();
            let newest = files.last().copied().unwrap();
            assert!(
                files.len() <= 6 && newest >= count && files[0] + 6 >= newest,
                "{id}, {count}: {files:?}"
            );
            host.run(&[id, "resume", &at]);
        }
        host.torpor(&["checkpoint", &format!("container:{at}"), "--store", "/run/store", "--name", &name]);
        let bundle = format!("/run/b/{at}");
        // An end with an error within seconds is a failed attempt, after which another is allowed.
        for end in [7, 0] {
            std::fs::write(host.path(&format!("/run/b/{id}/volume/end")), end.to_string()).unwrap();
            let waiting = [&["/run/torpor/torpor"], &restore(&name, &bundle, id)[..]].concat();
            let code = host.command(&waiting).status().unwrap().code();
            assert_eq!(code, Some(end), "{id}: its own exit code");
        }
        let said = host.refused(&restore(&name, &bundle, id));
        assert!(said.contains("ended"), "{said}");
    }
}

#[test]
fn a_kill_during_a_checkpoint_into_a_store_leaves_nothing_half_made() {
    let Some(host) = Host::new() else { return };
    host.bundle("killed", COUNTER);
    host.start("runc", "killed");
    host.counts_beyond("killed", 3);
    let keep = ["checkpoint", "container:killed", "--store", "/run/store", "--name", "killed"];
    host.torpor(&[&keep[..], &["--leave-running"]].concat());
    let mounts = host.run(&["cat", "/proc/self/mountinfo"]);
    for round in 0..10 {
        let victim = if round % 2 == 0 { "torpor" } else { "criu" };
        let mut command = host.command(&[&["/run/torpor/torpor"], &keep[..], &["--leave-running"]].concat());
        let mut checkpoint = command.spawn().unwrap();
        // At another moment each time: while it starts, checks, holds the container, and commits.
        std::thread::sleep(Duration::from_millis(40 * round));
        let _ = host.output(&["bash", "-c", &format!("kill -KILL $(pidof {victim})")]);
        let killed = Instant::now();
        // The moment in which CRIU has written into its code (docs/containers.md): it ended, and does not stand still.
        let ended = || host.run(&["runc", "state", "killed"]).contains("stopped");
        let (before, trapped) = (host.count("killed") + 1, victim == "criu");
        while host.count("killed") <= before && !(trapped && ended()) {
            assert!(killed.elapsed() < PROMISE, "round {round}: it stands still for {:?}", killed.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        checkpoint.wait().unwrap();
        if trapped && ended() {
            host.run(&["runc", "delete", "--force", "killed"]);
            host.start("runc", "killed");
            host.counts_beyond("killed", 3);
        }
    }
    host.torpor(&[&keep[..], &["--leave-running"]].concat());
    assert_eq!(host.run(&["cat", "/proc/self/mountinfo"]), mounts);
    let left = host.names("/run/rt/torpor");
    assert!(!left.iter().any(|name| name.starts_with("container-")), "{left:?}");
    // What is offered is whole.
    host.torpor(&["verify", "--store", "/run/store"]);
    host.torpor(&keep);
    let end = host.count("killed");
    host.torpor_quietly(&[&restore("killed", "/run/b/killed", "runc")[..], &["--detach"]].concat());
    host.counts_beyond("killed", end);
    host.run(&["runc", "delete", "--force", "killed"]);
}

/// Counts, in its own root and in the volume, where another container of the pod follows it.
const LEADS: &str = "i=0; while :; do i=$((i+1)); echo $i > /new; busybox mv /new /state; echo $i > /volume/new; busybox mv /volume/new /volume/count; done";
const FOLLOWS: &str = "while :; do busybox cp /volume/count /new && busybox mv /new /state; done";

#[test]
fn containers_of_a_pod_are_kept_as_they_were_at_one_moment() {
    let Some(host) = Host::new() else { return };
    for (bundle, runtime, program) in [("leads", "runc", LEADS), ("follows", "crun", FOLLOWS)] {
        host.bundle(bundle, program);
        host.put_into_pod(bundle, "pod", bundle);
        host.start(runtime, bundle);
    }
    host.counts_beyond("pod", 20);
    let keep = ["checkpoint", "pod:shop/pod", "--store", "/run/store"];
    for round in 1..=3 {
        let said = host.torpor(&[&keep[..], &["--leave-running"]].concat());
        for name in ["shop/pod/leads", "shop/pod/follows"] {
            assert!(said.contains(&format!("{name}@{round}: ")), "{said}");
        }
        host.counts_beyond("pod", host.count("pod") + 5);
    }
    // One that cannot be checkpointed, and none is; all go on.
    host.run(&["crun", "pause", "follows"]);
    let said = host.refused(&[&keep[..], &["--leave-running"]].concat());
    assert!(said.contains("it is paused"), "{said}");
    host.run(&["crun", "resume", "follows"]);
    host.counts_beyond("pod", host.count("pod") + 5);
    assert!(!host.torpor(&["ls", "--store", "/run/store", "shop/pod/leads"]).contains("@4"));

    host.torpor(&keep);
    let state = |bundle: &str, runtime: &str| -> u64 {
        let elsewhere = format!("{bundle}-elsewhere");
        host.bundle_for(&elsewhere, "pod");
        let (name, place) = (format!("shop/pod/{bundle}"), format!("/run/b/{elsewhere}"));
        host.torpor_quietly(&[&restore(&name, &place, runtime)[..], &["--detach"]].concat());
        let state = host.run(&["cat", &format!("{place}/rootfs/state")]).trim().parse().unwrap();
        host.run(&[runtime, "delete", "--force", &elsewhere]);
        state
    };
    let (follows, leads) = (state("follows", "crun"), state("leads", "runc"));
    assert!(follows <= leads + 1, "{follows} and {leads}");
}

#[test]
fn a_restored_container_sees_its_own_control_groups() {
    let Some(host) = Host::new() else { return };
    // Those who are in the group, by their numbers in the container: those of others are 0 there.
    let program = "f=/sys/fs/cgroup/pids/cgroup.procs; [ -e $f ] || f=/sys/fs/cgroup/cgroup.procs; exec 9<$f; \
        i=0; while :; do i=$((i+1)); w=$(cat $f); echo \"$w\" > /volume/who; echo $i > /volume/count; sleep 0.02; done";
    for runtime in ["runc", "crun"] {
        for with_path in [true, false] {
            let [first, second] = ["first", "second"].map(|name| format!("{runtime}-{name}-{with_path}"));
            host.bundle(&first, program);
            host.start(runtime, &first);
            host.counts_beyond(&first, 3);
            let target = format!("container:{first}");
            host.torpor(&["checkpoint", &target, "--store", "/run/store", "--name", &first]);
            let end = host.count(&first);
            host.bundle_for(&second, &first);
            if !with_path {
                host.without_group(&second);
            }
            std::fs::remove_file(host.path(&format!("/run/b/{first}/volume/who"))).unwrap();
            host.torpor_quietly(
                &[&restore(&first, &format!("/run/b/{second}"), runtime)[..], &["--detach"]].concat(),
            );
            host.counts_beyond(&first, end + 2);
            let who = std::fs::read_to_string(host.path(&format!("/run/b/{first}/volume/who"))).unwrap();
            assert!(who.lines().any(|pid| pid == "1"), "{runtime}, {with_path}: {who:?}");
            host.run(&[runtime, "delete", "--force", &second]);
        }
    }
}

#[test]
fn a_mount_is_taken_along_where_that_is_asked_for() {
    let Some(host) = Host::new() else { return };
    host.bundle("mounts", COUNTER);
    host.start("runc", "mounts");
    host.counts_beyond("mounts", 3);
    host.run(&[
        "bash",
        "-c",
        "cd /run/b/mounts/volume && mkdir deep && echo kept > deep/file && ln deep/file link",
    ]);
    let keep = ["checkpoint", "container:mounts", "--store", "/run/store", "--name", "mounts"];
    for path in ["/volumes", "/tmp"] {
        let said = host.refused(&[&keep[..], &["--carry-mount", path]].concat());
        assert!(said.contains(&format!("there is no directory from outside mounted at {path}")), "{said}");
    }
    host.torpor(&[&keep[..], &["--carry-mount", "/volume"]].concat());
    let end = host.count("mounts");

    // A volume of its own, with something else in it.
    host.bundle("elsewhere", "true");
    host.run(&["bash", "-c", "cd /run/b/elsewhere/volume && echo other > other && echo old > link"]);
    let words = restore("mounts", "/run/b/elsewhere", "runc");
    host.torpor_quietly(&[&words[..], &["--detach"]].concat());
    host.counts_beyond("elsewhere", end);
    let read = |name: &str| host.run(&["cat", &format!("/run/b/elsewhere/volume/{name}")]);
    assert_eq!([read("deep/file"), read("link"), read("other")], ["kept\n", "kept\n", "other\n"]);
    assert!(!host.path("/run/b/elsewhere/rootfs/volume/deep").exists(), "it is in the mount, not below it");
    host.run(&["runc", "delete", "--force", "elsewhere"]);
}

#[test]
fn a_file_whose_mode_alone_changed_comes_along_whole() {
    let Some(host) = Host::new() else { return };
    host.bundle("modes", &format!("busybox chmod 600 /kept; {COUNTER}"));
    let remount = "cd /run/b/modes && umount rootfs && mount -t overlay -o metacopy=on,redirect_dir=on,\
        lowerdir=/run/b/modes/lower,upperdir=/run/b/modes/upper,workdir=/run/b/modes/work overlay rootfs";
    host.run(&["bash", "-c", &remount.replace("\\\n        ", "")]);
    host.start("runc", "modes");
    host.counts_beyond("modes", 3);
    let attributes = "import os; print(os.listxattr('/run/b/modes/upper/kept'))";
    assert!(host.run(&["python3", "-c", attributes]).contains("metacopy"), "its body is in the image alone");
    host.torpor(&["checkpoint", "container:modes", "--store", "/run/store", "--name", "modes"]);
    host.bundle_for("elsewhere", "modes");
    host.torpor_quietly(&[&restore("modes", "/run/b/elsewhere", "runc")[..], &["--detach"]].concat());
    assert_eq!(host.run(&["cat", "/run/b/elsewhere/rootfs/kept"]), "kept\n");
    assert_eq!(host.run(&["stat", "-c", "%a", "/run/b/elsewhere/rootfs/kept"]), "600\n");
    host.run(&["runc", "delete", "--force", "elsewhere"]);
}

#[test]
fn a_kill_during_a_suspend_or_a_restore_leaves_one_container() {
    let Some(host) = Host::new() else { return };
    host.bundle("once", FILES);
    host.start("runc", "once");
    let mut count = host.counts_beyond("once", 3);
    let keep =
        ["/run/torpor/torpor", "checkpoint", "container:once", "--store", "/run/store", "--name", "once"];
    let back = [&restore("once", "/run/b/once", "runc")[..], &["--detach"]].concat();
    let runs = || host.run(&["runc", "list"]).contains("running");
    for round in 0..6 {
        let mut checkpoint = host.command(&keep).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 * round));
        let _ = host.output(&["bash", "-c", "kill -KILL $(pidof torpor)"]);
        checkpoint.wait().unwrap();
        let killed = Instant::now();
        // It has ended with a checkpoint, or runs on: nothing in between.
        while host.count("once") <= count && killed.elapsed() < PROMISE && runs() {
            std::thread::sleep(Duration::from_millis(20));
        }
        if runs() {
            count = host.counts_beyond("once", count);
        } else {
            host.torpor_quietly(&back);
            count = host.counts_beyond("once", count);
        }
    }
    if runs() {
        host.torpor(&keep[1..]);
    }
    // A restore whose torpor is killed goes on with its runtime, or never was; the next one says which, and cleans up.
    let mut restoring = host.command(&[&["/run/torpor/torpor"], &back[..]].concat());
    let mut restoring =
        restoring.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(120));
    let _ = host.output(&["bash", "-c", "kill -KILL $(pidof torpor)"]);
    restoring.wait().unwrap();
    host.run(&["bash", "-c", "while pidof runc criu > /dev/null; do sleep 0.02; done"]);
    if !runs() {
        host.torpor_quietly(&back);
    }
    count = host.counts_beyond("once", count);
    host.torpor(&keep[1..]);
    host.torpor_quietly(&back);
    host.counts_beyond("once", count);
    assert!(host.names("/run/room").is_empty(), "{:?}", host.names("/run/room"));
    host.run(&["runc", "delete", "--force", "once"]);
}
