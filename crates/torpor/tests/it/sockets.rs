//! TCP across restores: connections inside the tree, listening sockets under other addresses and ports.

use crate::container::{Container, Pod, Printing};

/// A child sends numbers as fast as it can; its parent takes them slowly enough that some are always on their way, and
/// ends with 1 if one is missing or comes twice.
const IN_FLIGHT: &str = r"
import os, socket, sys, time
server = socket.create_server(('127.0.0.1', 7777))
if os.fork() == 0:
    peer = socket.create_connection(('127.0.0.1', 7777))
    number = 0
    while True:
        peer.sendall(b''.join(b'%08d' % n for n in range(number, number + 500)))
        number += 500
peer, _ = server.accept()
expected, rest, told = 0, b'', time.monotonic()
while True:
    rest += peer.recv(65536)
    whole = len(rest) // 8 * 8
    for at in range(0, whole, 8):
        if int(rest[at:at + 8]) != expected:
            print('broken', rest[at:at + 8], expected, flush=True); sys.exit(1)
        expected += 1
    rest = rest[whole:]
    if time.monotonic() - told > 0.05:
        told = time.monotonic(); print(expected, flush=True)
    time.sleep(0.001)
";

#[test]
fn a_connection_inside_the_tree_loses_nothing_that_is_on_its_way() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let lines =
        pod.three_rounds(&[], &["python3", "-c", IN_FLIGHT], |container, _| container.wait_more_lines(4));
    let counts: Vec<u64> = lines.iter().map(|line| line.parse().expect(line)).collect();
    assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "{counts:?}");
}

/// A child has said all that it will, which its parent has not read yet, and goes on to listen. What it said is read a
/// little at a time, with numbers in return. It ends with 1 if anything of either is missing or comes twice.
const HALF_CLOSED: &str = r"
import os, socket, sys, time
server = socket.create_server(('127.0.0.1', 7777))
if os.fork() == 0:
    peer = socket.create_connection(('127.0.0.1', 7777))
    peer.sendall(b''.join(b'%08d' % n for n in range(20000)))
    peer.shutdown(socket.SHUT_WR)
    expected, file = 0, peer.makefile('rb')
    while True:
        line = file.readline()
        if int(line or -1) != expected: print('broken', line, expected, flush=True); os._exit(1)
        expected += 1
        if expected % 20 == 0: print(expected, flush=True)
peer, _ = server.accept()
said, number = b'', 0
while True:
    peer.sendall(b'%d\n' % number); number += 1
    some = peer.recv(400)
    said += some
    if not some and said != b''.join(b'%08d' % n for n in range(20000)): sys.exit(1)
    time.sleep(0.002)
";

#[test]
fn a_connection_inside_the_tree_of_which_one_half_is_closed_goes_on_by_the_other() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let lines =
        pod.three_rounds(&[], &["python3", "-c", HALF_CLOSED], |container, _| container.wait_more_lines(4));
    let counts: Vec<u64> = lines.iter().map(|line| line.parse().expect(line)).collect();
    assert!(counts.windows(2).all(|pair| pair[0] + 20 == pair[1]), "{counts:?}");
}

/// Listens where its container was when it began, and tells everybody where a connection came to.
const LISTENER: &str = r"
import os, socket, subprocess, sys
address = sys.argv[1] or subprocess.run(['hostname', '-I'], capture_output=True, text=True).stdout.split()[0]
server = socket.create_server((address, 9000))
asked = 0
while True:
    peer, _ = server.accept()
    asked += 1
    peer.sendall(('%d %s:%d' % (asked, *peer.getsockname())).encode()); peer.close()
";

/// Asks an address from outside until it answers.
fn ask(pod: &Pod, container: &Container, address: &str, port: u16) -> String {
    let script = format!("exec 3<>/dev/tcp/{address}/{port} && timeout 5 cat <&3");
    container.wait_for(format_args!("answer of {address}:{port}"), || {
        let output = pod.network().command(&["timeout", "1", "bash", "-c", &script]).output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        (!answer.is_empty()).then_some(answer)
    })
}

#[test]
fn a_socket_that_listens_on_the_old_address_listens_on_the_new_one() {
    let Some(pod) = Pod::with_network(&["python3"]) else { return };
    let program = ["python3", "-c", LISTENER, "10.78.0.10"];
    let start = |last: u64| pod.run(&[], &program).address(&format!("10.78.0.{last}")).start();
    let mut container = start(10);
    assert_eq!(ask(&pod, &container, "10.78.0.10", 9000), "1 10.78.0.10:9000");
    for round in 1..=3 {
        container.suspend();
        container = start(10 + round);
        container.wait_restored(round);
        let address = format!("10.78.0.{}", 10 + round);
        assert_eq!(ask(&pod, &container, &address, 9000), format!("{} {address}:9000", 1 + round));
    }
}

#[test]
fn a_listening_socket_moves_to_another_port() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let program = ["python3", "-c", LISTENER, "127.0.0.1"];
    let container = pod.start(&[], &program);
    assert_eq!(container.ask(9000, ""), "1 127.0.0.1:9000");
    container.suspend();
    let container = pod.start(&["--tcp-listen-remap", "9000:9100"], &program);
    container.wait_restored(1);
    assert_eq!(container.ask(9100, ""), "2 127.0.0.1:9100");
    container.suspend();
    let container = pod.start(&["--tcp-listen-remap", "9100:9000"], &program);
    container.wait_restored(2);
    assert_eq!(container.ask(9000, ""), "3 127.0.0.1:9000");
}

/// Connects to the outside, and tells whether the connection still lives.
const CONNECTED: &str = r"
import socket, time
peer = socket.create_connection(('10.79.0.1', 9000))
print('connected', flush=True)
try:
    while peer.recv(100): pass
    print('closed', flush=True)
except OSError as error:
    print('closed by', error, flush=True)
time.sleep(1000)
";

/// Takes a connection and holds on to it.
const HOLDER: &str = r"
import socket
server = socket.create_server(('10.79.0.1', 9000))
print('listening', flush=True)
held = []
while True: held.append(server.accept())
";

#[test]
fn a_connection_that_leads_outside_is_closed_or_stands_in_the_way_by_policy() {
    let Some(pod) = Pod::with_network(&["python3"]) else { return };
    let program = ["python3", "-c", CONNECTED];
    // The outside has an address only once a container is connected to it.
    let command = |container: &Container| {
        let script =
            "until ip addr show dev out 2>/dev/null | grep -q 10.79.0.1; do sleep 0.02; done; exec \"$@\"";
        let words = ["bash", "-c", script, "wait", "python3", "-c", HOLDER];
        let holder = Printing::start(pod.network().command(&words));
        container.wait_for("the other side", || (!holder.lines().is_empty()).then_some(()));
        holder
    };
    let gate = "until timeout 1 bash -c 'exec 3<>/dev/tcp/10.79.0.1/9000' 2>/dev/null; do sleep 0.02; done; exec \"$@\"";
    let gated = [&["bash", "-c", gate, "gate"], &program[..]].concat();

    let container = pod.run(&["--tcp", "fail", "--grace", "8s"], &gated).address("10.79.0.2").start();
    let _holder = command(&container);
    container.wait_line(|line| line == "connected");
    container.signal(rustix::process::Signal::TERM);
    assert_eq!(container.wait(), 143);
    let log = container.log();
    assert!(log.contains("10.79.0.1:9000") && log.contains("--tcp close"), "{log}");
    assert!(container.has_ended_by_itself(), "no suspend, but its own end\n{log}");

    let start = || pod.run(&[], &gated).address("10.79.0.2").start();
    let container = start();
    container.wait_line(|line| line == "connected");
    container.suspend();
    let container = start();
    container.wait_restored(1);
    container.wait_line(|line| line.starts_with("closed"));
}
