//! Several that are alike under one name: each takes a slot of its own, and goes on where one of them was.

use rustix::process::Signal;

use crate::container::{Container, Pod};

/// Counts from a number of its own, so that one is told from another.
const COUNTER: [&str; 3] =
    ["bash", "-c", "for ((i = $$$(date +%N | cut -c1-6); ; i++)); do echo $i; sleep 0.02; done"];
const CLAIM: [&str; 2] = ["--slots", "claim"];

fn last(lines: &[String]) -> u64 {
    lines.last().expect("a count").parse().unwrap()
}

fn first(container: &Container) -> u64 {
    container.wait_for("count", || container.lines().first().map(|line| line.parse().unwrap()))
}

/// The slots of the name, with what is known of their holders.
fn slots(pod: &Pod) -> Vec<serde_json::Value> {
    let listed: serde_json::Value = serde_json::from_str(&pod.torpor(&["ls", "--output", "json"])).unwrap();
    listed["names"].as_array().unwrap().clone()
}

#[test]
fn two_replicas_of_one_name_go_on_where_two_were() {
    let Some(pod) = Pod::new(&[]) else { return };
    let (one, two) = (pod.start(&CLAIM, &COUNTER), pod.start(&CLAIM, &COUNTER));
    one.wait_more_lines(5);
    two.wait_more_lines(5);
    let one = last(&one.suspend());
    let two = last(&two.suspend());
    assert_eq!(slots(&pod).len(), 2);

    let (three, four) = (pod.start(&CLAIM, &COUNTER), pod.start(&CLAIM, &COUNTER));
    let mut now = [first(&three), first(&four)];
    now.sort_unstable();
    let mut expected = [one + 1, two + 1];
    expected.sort_unstable();
    assert_eq!(now, expected, "{}\n{}", three.story(), four.story());

    let five = pod.start(&CLAIM, &COUNTER);
    five.wait_for("fresh start", || five.log().contains("starting fresh").then_some(()));
    first(&five);
    assert_eq!(slots(&pod).len(), 3);
}

#[test]
fn a_replica_waits_for_the_slot_of_the_one_it_replaces() {
    let Some(pod) = Pod::new(&[]) else { return };
    // The suspend lasts until the other has come so far as to wait.
    let hook = "until [ -e /volume/go ]; do sleep 0.05; done";
    let old = pod.start(&[&CLAIM[..], &["--pre-checkpoint", hook]].concat(), &COUNTER);
    old.wait_more_lines(5);
    old.signal(Signal::TERM);
    old.wait_for("the note that it leaves", || {
        let shown = pod.torpor(&["show", slots(&pod)[0]["name"].as_str()?, "--output", "json"]);
        shown.contains("leavingUntil").then_some(())
    });
    let new = pod.start(&CLAIM, &COUNTER);
    new.wait_for("wait", || new.log().contains("waits for a slot").then_some(()));
    std::fs::write(pod.volume().join("go"), "").unwrap();
    assert_eq!(old.wait(), 143, "{}", old.story());
    assert_eq!(first(&new), last(&old.lines()) + 1, "{}", new.story());
}
