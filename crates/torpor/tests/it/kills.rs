//! SIGKILL to Torpor, to CRIU and to the guard, at random moments of every phase.
//!
//! `TORPOR_TEST_KILLS` sets the number of rounds, `TORPOR_TEST_SEED` repeats the moments of an earlier run.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::node::{Container, Node, Part};
use crate::process::{send, state};

/// Within which a program runs again or has ended.
const RUNS_AGAIN: Duration = Duration::from_secs(5);

/// How long somebody who was not there at a moment is waited for.
const COMES: Duration = Duration::from_millis(400);

#[test]
fn as_the_only_program_of_a_container() {
    rounds(1, Node::run);
}

#[test]
fn beside_other_programs() {
    rounds(2, Node::run_beside);
}

/// Sends each step to a peer that Torpor does not hold, and waits for the answer.
const CLIENT: &str = r#"
use Socket;
socket(my $peer, PF_INET, SOCK_STREAM, 0) or die;
connect($peer, sockaddr_in(7, INADDR_LOOPBACK)) or die;
$peer->autoflush(1);
my ($i, $x) = (0, 1);
while (1) {
    $i++;
    $x = ($x * 69069 + 1) & 0xffffffff;
    syswrite($peer, pack('NN', $i, $x)) == 8 or die "cannot write: $!";
    sysread($peer, my $answer, 8) == 8 or die "cannot read: $!";
    my ($j, $y) = unpack('NN', $answer);
    die "$j $y is no answer to $i $x" unless $j == $i && $y == $x;
    open(my $steps, '>>', '/volume/steps') or die;
    print $steps "$i $x\n";
    close $steps;
    select(undef, undef, undef, 0.002);
}
"#;
/// Answers with what it is sent, on the port for that; then starts the rest of its command line as PID 1 does.
const PEER: &str = r#"
use Socket;
socket(my $listener, PF_INET, SOCK_STREAM, 0) or die;
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1);
bind($listener, sockaddr_in(7, INADDR_LOOPBACK)) or die;
listen($listener, 9) or die;
unless (fork // die) {
    while (accept(my $client, $listener)) {
        while (sysread($client, my $bytes, 8)) { syswrite($client, $bytes) }
    }
    exit;
}
close $listener;
do '/volume/init.pl' or die;
"#;

#[test]
fn neither_lock_nor_repair_outlives_a_kill() {
    let Some(node) = Node::new() else { return };
    std::fs::write(node.volume("client.pl"), CLIENT).unwrap();
    std::fs::write(node.volume("peer.init.pl"), PEER).unwrap();
    let seed = seed();
    eprintln!("TORPOR_TEST_SEED={seed}");
    let mut random = Random(seed);
    let mut connections_lost = 0;
    for round in 0..36 {
        let victims: &[Part] = [&[Part::Criu][..], &[Part::Torpor], &[Part::Criu, Part::Torpor]][round % 3];
        let options = ["--tcp", "established", "--no-restore", "--every", "100ms"];
        let torpor = Node::torpor(&options, &["perl", "/volume/client.pl"]);
        let mut command = vec!["perl", "/volume/peer.init.pl"];
        command.extend(crate::node::words(&torpor));
        let mut container = node.start(&command);
        // CRIU is there for the whole of a checkpoint, from before the freeze to the thaw.
        assert!(container.until(RUNS_AGAIN, |container| container.find(Part::Criu).is_some()));
        let after = Duration::from_micros(random.below(60_000) as u64);
        let pids: Vec<i32> = victims.iter().filter_map(|part| container.find(*part)).collect();
        std::thread::sleep(after);
        for pid in pids {
            send(pid, Signal::KILL);
        }
        let steps = node.steps().len();
        // Without Torpor there are no further locks. With it there may be the next checkpoint's.
        let gone = victims.contains(&Part::Torpor);
        let went = container.until(RUNS_AGAIN, |container| {
            node.steps().len() > steps + 3 && (!gone || locks(container).is_empty())
        });
        // Between the kill of CRIU and the end of the repair the program may run for a moment, and what it reads and
        // writes then may cost it the connection. Where CRIU is killed while its code is in the program, it may cost the
        // program. What must not be is a program that stays frozen.
        let program = container.find(Part::Program).and_then(state);
        let frozen = program.is_some_and(|state| "TtD".contains(state));
        let lost = victims.contains(&Part::Criu) && !frozen;
        let locks = locks(&container);
        assert!(
            (went || lost) && (!gone || locks.is_empty()),
            "seed {seed}, round {round}: {victims:?} after {after:?}; program {program:?}; locks {locks:?}\n{}",
            container.errors()
        );
        connections_lost += usize::from(!went);
        if !container.has_ended() {
            container.vanish();
        }
    }
    assert!(connections_lost <= 4, "{connections_lost} connections were lost");
}

/// CRIU's locks in the network of a container.
fn locks(container: &Container) -> Vec<String> {
    let Some(init) = container.init() else { return Vec::new() };
    let output = std::process::Command::new("nsenter")
        .args(["--net", "--target", &init.to_string(), "nft", "list", "tables"])
        .output()
        .unwrap();
    assert!(
        output.status.success() || !std::path::Path::new(&format!("/proc/{init}")).exists(),
        "{output:?}"
    );
    let tables = String::from_utf8_lossy(&output.stdout).into_owned();
    tables.lines().filter(|table| table.contains("CRIU")).map(str::to_owned).collect()
}

/// What is under way when the kill comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Start,
    Checkpoint,
    Suspend,
}

/// One kill.
#[derive(Debug, Clone, Copy)]
struct Kill {
    victim: Part,
    act: Act,
    phase: &'static str,
    after: Duration,
}

impl Kill {
    fn random(random: &mut Random) -> Kill {
        let (act, phases): (_, &[&str]) = match random.below(3) {
            0 => (Act::Start, &["find", "check", "prepare", "restore", "go-on"]),
            1 => (Act::Checkpoint, &["check", "freeze", "capture", "thaw", "commit"]),
            _ => (Act::Suspend, &["check", "freeze", "capture", "commit", "end"]),
        };
        Kill {
            victim: [Part::Torpor, Part::Criu, Part::Guard][random.below(3)],
            act,
            phase: phases[random.below(phases.len())],
            after: Duration::from_micros(random.below(60_000) as u64),
        }
    }
}

impl Kill {
    /// Whether who is to be killed, and was not there at the moment that was drawn, may come later.
    fn may_still_come(&self, errors: &str) -> bool {
        match self.act {
            Act::Start => self.phase != "go-on" && !errors.contains("starting fresh"),
            Act::Checkpoint => true,
            Act::Suspend => matches!(self.phase, "check" | "freeze"),
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seed() -> u64 {
    number("TORPOR_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()))
}

fn rounds(lane: u64, start: fn(&Node, &[&str]) -> Container) {
    let Some(node) = Node::new() else { return };
    let seed = seed();
    // Both lanes together make the number that was asked for.
    let wanted = number("TORPOR_TEST_KILLS").unwrap_or(100).div_ceil(2);
    eprintln!("TORPOR_TEST_SEED={seed}");
    let mut random = Random(seed ^ lane << 32);
    let mut killed = 0;
    let mut missed = 0;
    let mut history = History::new();
    while killed < wanted {
        let kill = Kill::random(&mut random);
        let mut round = Round {
            node: &node,
            container: None,
            kill,
            before: node.generations(),
            steps: node.steps().len(),
        };
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| round.play(start, &mut history))) {
            Ok(true) => killed += 1,
            Ok(false) => missed += 1,
            Err(_) => {
                let errors = round.container.as_ref().map(Container::errors).unwrap_or_default();
                let tail = node.steps().into_iter().skip(round.steps).collect::<Vec<_>>();
                panic!("seed {seed}, round {killed}+{missed}: {:?}\nsteps {tail:?}\n{errors}", round.kill);
            }
        }
        assert!(missed < 10 * wanted + 20, "the moments are never there");
    }
    eprintln!("{killed} kills, and {missed} moments at which the victim was not there");
}

/// One start, one kill, and what must hold afterwards.
struct Round<'a> {
    node: &'a Node,
    container: Option<Container>,
    kill: Kill,
    /// The record before the start.
    before: Vec<Value>,
    /// How many steps there were before it.
    steps: usize,
}

impl Round<'_> {
    /// Returns whether somebody was killed.
    fn play(&mut self, start: fn(&Node, &[&str]) -> Container, history: &mut History) -> bool {
        let every = if self.kill.act == Act::Checkpoint { "150ms" } else { "1h" };
        let container = self.container.insert(start(self.node, &["--after-crash", "last", "--every", every]));
        let (node, steps, kill) = (self.node, self.steps, self.kill);
        if self.kill.act != Act::Start {
            let runs = container.until(Duration::from_secs(10), |_| node.steps().len() > steps + 2);
            assert!(runs, "the program does not run");
        }
        let from = container.errors().len();
        if self.kill.act == Act::Suspend {
            assert!(container.signal(Part::Torpor, Signal::TERM));
        }
        let begins = format!("begins phase=\"{}\"", self.kill.phase);
        let from = if self.kill.act == Act::Start { 0 } else { from };
        let mut victim = None;
        let begun = container.until(Duration::from_secs(5), |container| {
            victim = container.find(kill.victim).or(victim);
            let errors = container.errors();
            errors[from..].contains(&begins) || (from == 0 && errors.contains("starting fresh"))
        });
        assert!(begun || self.kill.act == Act::Suspend, "{begins} never comes");
        victim = victim.or_else(|| container.find(kill.victim));
        std::thread::sleep(kill.after);
        // CRIU and the guard come and go.
        victim =
            victim.filter(|pid| Part::of(*pid) == Some(kill.victim)).or_else(|| container.find(kill.victim));
        if victim.is_none() && self.kill.may_still_come(&container.errors()) {
            container.until(COMES, |container| {
                victim = container.find(kill.victim);
                victim.is_some()
            });
            // Anywhere in its life, not only at the beginning.
            std::thread::sleep(kill.after / 2);
        }
        let killed = victim.is_some_and(|pid| send(pid, Signal::KILL));

        self.goes_on_or_ends();
        self.started_rightly(history);
        if let Some(container) = &mut self.container
            && !container.has_ended()
        {
            container.vanish();
        }
        self.note(history);
        node.verify();
        killed
    }

    /// Within five seconds the program runs, or has ended with everything else.
    fn goes_on_or_ends(&mut self) {
        let node = self.node;
        let alone = self.kill.victim == Part::Torpor;
        let container = self.container.as_mut().unwrap();
        let steps = node.steps().len();
        let torpor_is_pid_1 = container.init().is_some_and(|init| Part::of(init) == Some(Part::Torpor));
        let settled = container.until(RUNS_AGAIN, |container| {
            let processes = container.processes();
            let Some(program) = container.find(Part::Program) else {
                return processes.is_empty();
            };
            let stopped = processes.iter().any(|pid| matches!(state(*pid), Some('T' | 't' | 'D')));
            state(program) != Some('Z') && !stopped && node.steps().len() > steps + 1
        });
        let states: Vec<_> = container.processes().iter().map(|pid| (Part::of(*pid), state(*pid))).collect();
        assert!(settled || container.has_ended(), "the program neither runs nor has ended: {states:?}");
        if alone && !torpor_is_pid_1 {
            let left = |container: &Container| {
                [Part::Criu, Part::Guard]
                    .into_iter()
                    .filter_map(|part| container.find(part))
                    .collect::<Vec<_>>()
            };
            assert!(
                container.until(RUNS_AGAIN, |container| left(container).is_empty()),
                "CRIU or the guard outlives Torpor"
            );
        }
    }

    /// What was restored is what was committed last, and the program took its next step from there.
    fn started_rightly(&mut self, history: &History) {
        let container = self.container.as_mut().unwrap();
        let start = |errors: &str| {
            let restored = errors.rsplit_once("restored generation=").map(|(_, rest)| rest.to_owned());
            let restored =
                restored.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
            restored
                .map(Start::Restored)
                .or_else(|| errors.contains("starting fresh").then_some(Start::Fresh))
        };
        // The program runs a moment before Torpor says so.
        container.until(Duration::from_secs(1), |container| start(&container.errors()).is_some());
        let errors = container.errors();
        // The first failure may be the kill itself; what follows from it is tried by the lineage's own tests.
        let failed = errors.contains("cannot restore");
        let new: Vec<u64> = self.node.steps().split_off(self.steps);
        let untouched = |generation: &Value| {
            generation["state"]["state"] == "committed"
                && generation["attempts"].as_array().is_none_or(Vec::is_empty)
        };
        let passed_over = |number: u64| {
            let newer =
                self.before.iter().filter(move |generation| generation["number"].as_u64() > Some(number));
            newer.filter(|generation| untouched(generation)).count()
        };
        match start(&errors) {
            None => assert!(new.is_empty() || self.kill.victim == Part::Torpor, "nobody started the program"),
            Some(Start::Fresh) => {
                assert!(
                    failed || self.before.last().is_none_or(|newest| !untouched(newest)),
                    "the newest was left"
                );
                assert!(new.first().is_none_or(|first| *first == 1));
            }
            Some(Start::Restored(number)) => {
                assert!(failed || passed_over(number) == 0, "newer ones than {number} were not taken");
                let captured = history.get(&number).unwrap_or_else(|| panic!("{number} was not committed"));
                let first = new.first().map_or(captured.end() + 1, |first| *first);
                assert!(
                    captured.contains(&(first - 1)),
                    "{number} was captured at {captured:?}, not before {first}"
                );
            }
        }
        assert!(new.windows(2).all(|pair| pair[1] == pair[0] + 1), "steps are lost or doubled");
    }

    /// Notes between which steps each new generation was captured.
    fn note(&self, history: &mut History) {
        let steps = self.node.steps();
        let new = &steps[self.steps..];
        for generation in self.node.generations() {
            let number = generation["number"].as_u64().unwrap();
            let Some((first, last)) = new.first().copied().zip(new.last().copied()) else { continue };
            // A suspend has the very last step. Where Torpor was killed just when the commit was made, and before it had
            // ended the program, the guard has let that go on for some more: it cannot know.
            let last_alone = generation["kind"] == "suspend" && self.kill.victim != Part::Torpor;
            let first = if last_alone { last } else { first };
            history.entry(number).or_insert(first..=last);
        }
    }
}

/// Between which steps each generation was captured.
type History = HashMap<u64, RangeInclusive<u64>>;

/// How a program came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Fresh,
    Restored(u64),
}

/// Numbers that follow from a seed (Vigna's splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % bound as u64) as usize
    }
}
