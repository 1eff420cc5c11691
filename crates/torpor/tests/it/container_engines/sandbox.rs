//! A container that is looked at: it reaches nothing, changes nothing, and stands still.

use std::fs;

use super::SLOW_COUNTER;
use super::host::Host;

/// The PIDs that a restore into a sandbox tells.
fn look(host: &Host, source: &str, words: &[&str]) -> Vec<String> {
    let rest = words.join(" ");
    let command = format!(
        "exec /run/torpor/torpor restore {source} --store /run/store --bundle /run/b/look --room /run/room --sandbox {rest} >/run/told 2>/run/said"
    );
    let ended = host.output(&["bash", "-c", &command]).status;
    assert!(ended.success(), "{}", fs::read_to_string(host.path("/run/said")).unwrap());
    let told = fs::read_to_string(host.path("/run/told")).unwrap();
    assert!(told.contains("stands still") && told.contains("gdb --pid"), "{told}");
    let rows = told.lines().skip(2).take_while(|line| !line.starts_with("look"));
    rows.map(|row| row.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn a_container_of_runcs_in_a_sandbox_reaches_nothing_and_changes_nothing() {
    reaches_nothing_and_changes_nothing("runc");
}

#[test]
fn a_container_of_cruns_in_a_sandbox_reaches_nothing_and_changes_nothing() {
    reaches_nothing_and_changes_nothing("crun");
}

fn reaches_nothing_and_changes_nothing(runtime: &str) {
    let Some((here, _there)) = Host::two() else { return };
    here.bundle("look", &format!("echo changed > /kept; {SLOW_COUNTER}"));
    // The machine's own network, from which the other one is reached.
    here.join_network("look");
    here.start(runtime, "look");
    here.counts_beyond("look", 1);
    let keep = ["checkpoint", "container:look", "--store", "/run/store", "--name", "look"];
    here.torpor(&keep);
    let end = here.count("look");
    assert_eq!(here.run(&["ip", "-o", "link"]).lines().count(), 2);
    let mounts = here.run(&["cat", "/proc/self/mountinfo"]);
    let root = here.names("/run/b/look/rootfs");

    for round in 0..2 {
        let pids = look(&here, "look@1", &["--runtime", runtime]);
        assert!(pids.len() > 1, "{pids:?}");
        for pid in &pids {
            assert!(here.run(&["cat", &format!("/proc/{pid}/status")]).contains("State:\tT"), "{pid}");
        }
        let first = pids[0].as_str();
        let links = here.run(&["nsenter", "--target", first, "--net", "ip", "-o", "link"]);
        assert!(links.lines().count() == 1 && links.contains(" lo:"), "{links}");
        let out = ["nsenter", "--target", first, "--net", "bash", "-c", "exec 3<>/dev/tcp/10.77.0.2/7411"];
        let said = String::from_utf8(here.output(&out).stderr).unwrap();
        assert!(said.contains("unreachable"), "{said}");
        assert_eq!(here.run(&["cat", &format!("/proc/{first}/root/kept")]), "changed\n");
        // It goes on where it is let, and the volume stays as it is.
        for pid in &pids {
            here.run(&["kill", "-CONT", pid]);
        }
        let inside = format!("/proc/{first}/root/volume/count");
        here.wait_for(|| {
            here.run(&["cat", &inside]).trim().parse::<u64>().is_ok_and(|count| count > end + 1)
        });
        assert_eq!(here.count("look"), end, "round {round}");
        here.run(&[runtime, "delete", "--force", "look-sandbox"]);
    }
    let pids = look(&here, "look", &["--volumes", "empty", "--id", "other", "--runtime", runtime]);
    assert_eq!(here.run(&["ls", &format!("/proc/{}/root/volume", pids[0])]), "");
    here.run(&[runtime, "delete", "--force", "other"]);

    assert_eq!(here.names("/run/b/look/rootfs"), root);
    assert_eq!(here.run(&["cat", "/proc/self/mountinfo"]), mounts);
    assert!(here.names("/run/room").is_empty());
    // Looks do not count: it is resumed once, and not in a sandbox.
    let restore = [
        "restore",
        "look",
        "--store",
        "/run/store",
        "--bundle",
        "/run/b/look",
        "--room",
        "/run/room",
        "--detach",
        "--runtime",
        runtime,
    ];
    here.torpor_quietly(&restore);
    here.counts_beyond("look", end);
    here.run(&[runtime, "delete", "--force", "look"]);
    let alone = ["restore", "look", "--store", "/run/store", "--room", "/run/room", "--sandbox"];
    assert!(here.refused(&alone).contains("--bundle"));
}
