//! Containers that move from one machine to another, straight or by a store that both share.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::host::Host;
use super::{COUNTER, PROMISE, RUNTIMES};

const LIMIT: Duration = Duration::from_secs(30);
const CHANGES: &str = "rm /removed; echo changed > /kept; mkdir /made; echo x > /made/file";

/// A `torpor receive` on a machine.
struct Receiver {
    process: Child,
    ticket: String,
}

impl Receiver {
    fn start(host: &Host, bundle: &str, words: &[&str]) -> Receiver {
        let bundle = format!("/run/b/{bundle}");
        let receive =
            ["/run/torpor/torpor", "receive", "--listen", "10.77.0.2:7411", "--ticket-file", "/run/ticket"];
        let rest = ["--bundle", bundle.as_str(), "--room", "/run/room"];
        let said = fs::File::create(host.path("/run/said")).unwrap();
        let mut command = host.command(&[&receive[..], &rest, words].concat());
        // The container goes on with the output that it is given.
        let mut process = command.stdout(Stdio::null()).stderr(said).spawn().unwrap();
        let until = Instant::now() + LIMIT;
        let ticket = loop {
            if let Ok(ticket) = fs::read_to_string(host.path("/run/ticket")) {
                break ticket.trim().to_owned();
            }
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{}", said_by(host));
            std::thread::sleep(Duration::from_millis(10));
        };
        fs::remove_file(host.path("/run/ticket")).unwrap();
        Receiver { process, ticket }
    }

    fn followed_by(mut self, host: &Host, bundle: &str, words: &[&str]) -> Receiver {
        host.run(&["bash", "-c", "kill -KILL $(pidof torpor)"]);
        self.process.wait().unwrap();
        Receiver::start(host, bundle, words)
    }

    fn ends(mut self, host: &Host, well: bool) -> String {
        assert_eq!(self.process.wait().unwrap().success(), well, "{}", said_by(host));
        said_by(host)
    }
}

fn said_by(host: &Host) -> String {
    fs::read_to_string(host.path("/run/said")).unwrap_or_default()
}

fn migrate<'a>(target: &'a str, ticket: &'a str) -> [&'a str; 6] {
    ["migrate", target, "--to", "10.77.0.2:7411", "--ticket", ticket]
}

#[test]
fn a_container_moves_straight_to_another_machine_with_its_files() {
    let Some((here, there)) = Host::two() else { return };
    for id in RUNTIMES {
        here.bundle(id, &format!("{CHANGES}; {COUNTER}"));
        here.start(id, id);
        here.counts_beyond(id, 3);
        there.bundle(id, "true");
        let receiver = Receiver::start(&there, id, &["--runtime", id, "--pid-file", "/run/pid"]);
        let target = format!("container:{id}");
        let said = here.torpor(&migrate(&target, &receiver.ticket));
        assert!(said.contains("runs on 10.77.0.2:7411") && said.contains("frozen"), "{said}");
        let end = here.count(id);
        receiver.ends(&there, true);
        let count = there.counts_beyond(id, end);
        assert!(count <= end + 100, "it went on from {end}, and is at {count}");
        let root = format!("/run/b/{id}/rootfs");
        assert_eq!(
            there.run(&["cat", &format!("{root}/kept"), &format!("{root}/made/file")]),
            "changed\nx\n"
        );
        assert!(!there.path(&format!("{root}/removed")).exists());
        assert_eq!(here.count(id), end, "it has ended there");
        assert!(!here.run(&[id, "list", "-q"]).contains(id), "the runtime has forgotten it");
        let pid = fs::read_to_string(there.path("/run/pid")).unwrap();
        assert!(there.run(&[id, "list"]).contains(&format!(" {} ", pid.trim())), "{pid}");
        assert!(there.names("/run/room").is_empty(), "what was sent is gone once it runs");
        there.run(&[id, "delete", "--force", id]);
    }
}

#[test]
fn a_machine_that_cannot_take_a_container_says_so_before_it_is_frozen() {
    let Some((here, there)) = Host::two() else { return };
    here.bundle("stays", COUNTER);
    here.start("runc", "stays");
    here.counts_beyond("stays", 3);
    let target = "container:stays";
    let goes_on = || here.counts_beyond("stays", here.count("stays"));

    // A ticket of another migration, and one that is none.
    there.bundle("stays", "true");
    let receiver = Receiver::start(&there, "stays", &[]);
    let (head, tail) = receiver.ticket.split_at(receiver.ticket.len() - 8);
    let other_source = format!("{head}{}", if tail == "00000000" { "11111111" } else { "00000000" });
    let other_target = receiver.ticket.replacen("torpor1-", "torpor1-00000000", 1);
    for ticket in [&other_source, &other_target[..receiver.ticket.len()]] {
        let said = here.refused(&migrate(target, ticket));
        assert!(said.contains("the ticket"), "{said}");
    }
    assert!(here.refused(&migrate(target, "torpor1-x")).contains("no ticket"));
    assert!(here.refused(&["migrate", target, "--to", "10.77.0.2:7411"]).contains("--ticket"));
    goes_on();

    // A container of that ID is there already.
    there.bundle("taken", COUNTER);
    there.start("runc", "taken");
    let receiver = receiver.followed_by(&there, "stays", &["--id", "taken"]);
    let said = here.refused(&migrate(target, &receiver.ticket));
    assert!(said.contains("there is a container taken already"), "{said}");
    receiver.ends(&there, false);
    there.run(&["runc", "delete", "--force", "taken"]);

    // A mount is missing in the bundle, or all of it.
    there.without_volume("stays");
    for (bundle, because) in [("stays", "lacks mounts"), ("none", "/run/b/none")] {
        let receiver = Receiver::start(&there, bundle, &[]);
        let said = here.refused(&migrate(target, &receiver.ticket));
        assert!(
            said.contains("10.77.0.2:7411 cannot take the container") && said.contains(because),
            "{said}"
        );
        assert!(said.contains("help: "), "{said}");
        receiver.ends(&there, false);
    }
    let said = here.refused(&migrate(target, &other_source));
    assert!(said.contains("cannot reach"), "{said}");
    goes_on();
    here.run(&["runc", "delete", "--force", "stays"]);
}

#[test]
fn a_target_that_is_killed_midway_leaves_the_container_running_where_it_is() {
    let Some((here, there)) = Host::two() else { return };
    here.bundle("once", COUNTER);
    here.start("runc", "once");
    here.counts_beyond("once", 3);
    there.bundle("once", "true");
    let target = "container:once";
    for round in 0..5 {
        let receiver = Receiver::start(&there, "once", &[]);
        let mut migrating =
            here.command(&[&["/run/torpor/torpor"], &migrate(target, &receiver.ticket)[..]].concat());
        let mut migrating = migrating.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // At another moment each time: while it is looked at, copied ahead, captured, and restored there.
        std::thread::sleep(Duration::from_millis(60 * round));
        let _ = there.output(&["bash", "-c", "kill -KILL $(pidof torpor)"]);
        let killed = Instant::now();
        let moved = migrating.wait().unwrap().success();
        let _ = receiver.process.wait_with_output();
        // One that had moved, or was about to go on there, is not here any more: never in both places.
        if moved || !here.run(&["runc", "list"]).contains("running") {
            let _ = here.output(&["runc", "delete", "--force", "once"]);
            // A runc that still restores has mounted the bundle's files below its state, where runc would remove them.
            there.run(&["bash", "-c", "while pgrep -f '[r]unc .*restore' > /run/seen; do sleep 0.02; done"]);
            there.run(&["runc", "delete", "--force", "once"]);
            here.start("runc", "once");
            here.counts_beyond("once", 0);
            continue;
        }
        here.counts_beyond("once", here.count("once") + 1);
        assert!(killed.elapsed() < PROMISE, "round {round}: it stood still for {:?}", killed.elapsed());
    }
    // What they left is no obstacle, and goes.
    let receiver = Receiver::start(&there, "once", &[]);
    here.torpor(&migrate(target, &receiver.ticket));
    let end = here.count("once");
    receiver.ends(&there, true);
    there.counts_beyond("once", end);
    assert!(there.names("/run/room").is_empty(), "{:?}", there.names("/run/room"));
    there.run(&["runc", "delete", "--force", "once"]);
}

#[test]
fn a_container_moves_by_a_store_that_both_machines_share() {
    let Some((here, there)) = Host::two() else { return };
    let store = here.shared("store");
    here.bundle("shared", &format!("{CHANGES}; {COUNTER}"));
    here.start("runc", "shared");
    here.counts_beyond("shared", 3);
    let said = here.torpor(&["migrate", "container:shared", "--to", &store, "--name", "shop/moved"]);
    assert!(said.contains("torpor restore shop/moved@2"), "{said}");
    let end = here.count("shared");
    there.bundle("shared", "true");
    let restore = [
        "restore",
        "shop/moved",
        "--store",
        &store,
        "--bundle",
        "/run/b/shared",
        "--detach",
        "--room",
        "/run/room",
    ];
    there.torpor_quietly(&restore);
    there.counts_beyond("shared", end);
    assert_eq!(there.run(&["cat", "/run/b/shared/rootfs/kept"]), "changed\n");
    assert!(there.refused(&restore).contains("is not to be restored"), "it moves once");
    there.run(&["runc", "delete", "--force", "shared"]);
}

#[test]
fn a_container_moves_by_a_registry_to_the_first_who_takes_it() {
    let Some((here, there)) = Host::two() else { return };
    here.start_registry(5000, true);
    here.start_registry(5001, false);
    here.bundle("kept", &format!("{CHANGES}; {COUNTER}"));
    here.start("runc", "kept");
    here.counts_beyond("kept", 3);
    let migrate =
        |to: &'static str| ["migrate", "container:kept", "--room", "/run/room", "--plain-http", "--to", to];
    const PLACE: &str = "docker://10.77.0.1:5000/shop/web:1";
    let said = here.refused(&migrate("docker://10.77.0.1:5001/shop/web:1"));
    assert!(said.contains("deletes nothing") && said.contains("enabled: true"), "{said}");
    here.counts_beyond("kept", here.count("kept"));
    let said = here.torpor(&migrate(PLACE));
    assert!(said.contains("torpor receive --from docker://10.77.0.1:5000/shop/web:1"), "{said}");
    let end = here.count("kept");
    assert!(!here.run(&["runc", "list", "-q"]).contains("kept"), "the runtime has forgotten it");
    assert!(here.names("/run/room").is_empty());
    // The place is taken until somebody comes for it.
    here.start("runc", "kept");
    let said = here.refused(&migrate(PLACE));
    assert!(said.contains("there is an image of that name"), "{said}");
    here.run(&["runc", "delete", "--force", "kept"]);
    std::fs::write(here.path("/run/b/kept/volume/count"), end.to_string()).unwrap();

    let receive = ["receive", "--from", PLACE, "--plain-http", "--room", "/run/room", "--bundle"];
    there.bundle("lacking", "true");
    there.without_volume("lacking");
    assert!(there.refused(&[&receive[..], &["/run/b/lacking"]].concat()).contains("lacks mounts"));
    there.bundle("kept", "true");
    let receive = [&receive[..], &["/run/b/kept"]].concat();
    there.torpor_quietly(&receive);
    there.counts_beyond("kept", end);
    assert_eq!(there.run(&["cat", "/run/b/kept/rootfs/kept"]), "changed\n");
    assert!(there.names("/run/room").is_empty());
    assert!(here.refused(&receive).contains("has no image"));

    // Back, with somebody who takes it while another is at it.
    assert!(there.torpor(&migrate(PLACE)).contains("has ended here"));
    let end = there.count("kept");
    let slow = "#!/bin/sh\ncase \"$*\" in *restore*) : > /run/slow; while [ -e /run/slow ]; do sleep 0.02; done;; esac; exec runc \"$@\"\n";
    fs::write(here.path("/run/runc-slow"), slow).unwrap();
    here.run(&["chmod", "+x", "/run/runc-slow"]);
    let late = [&["/run/torpor/torpor"], &receive[..], &["--runtime", "/run/runc-slow"]].concat();
    let late = here.command(&late).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    here.wait_for(|| here.path("/run/slow").exists());
    there.torpor_quietly(&receive);
    fs::remove_file(here.path("/run/slow")).unwrap();
    let late = late.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&late.stderr);
    assert!(!late.status.success() && said.contains("somebody else has taken the container"), "{said}");
    assert!(!here.run(&["runc", "list", "-q"]).contains("kept"), "nothing stays of it");
    assert!(here.names("/run/room").is_empty());
    there.counts_beyond("kept", end);
    there.run(&["runc", "delete", "--force", "kept"]);
}
