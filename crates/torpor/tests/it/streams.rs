//! Standard streams and terminals: each container brings others, and the program goes on with them.

use std::io::Write;

use crate::container::{Pod, Terminal};

/// Tells the size of its terminal whenever that changes, and what is typed; counts meanwhile.
const UNDER_A_TERMINAL: &str = r#"
trap 'echo "size $(stty size)"' WINCH
echo "size $(stty size) $(tty) $$"
for ((i = 0; ; i++)); do
    if read -r -t 0.05 line; then echo "$i: got <$line>"; else echo "count $i"; fi
done
"#;

#[test]
fn a_terminal_keeps_working_and_has_the_size_of_the_new_one() {
    let Some(pod) = Pod::new(&["script"]) else { return };
    let program = ["bash", "-c", UNDER_A_TERMINAL];
    let start = |terminal: &Terminal| pod.run(&[], &program).terminal(terminal).start();
    let terminal = Terminal::new(30, 100);
    let mut container = start(&terminal);
    container.wait_line(|line| line.starts_with("size 30 100 /dev/pts/"));
    terminal.type_in("one\n");
    container.wait_line(|line| line.ends_with("got <one>\r"));
    terminal.resize(31, 101);
    container.wait_line(|line| line.starts_with("size 31 101"));
    let count =
        |line: &str| line.trim_end().strip_prefix("count ").and_then(|count| count.parse::<u64>().ok());
    let mut last = 0;
    for round in 1..=3u16 {
        let lines = container.suspend();
        let before = lines.iter().rev().find_map(|line| count(line)).unwrap();
        assert!(before > last, "it counted on: {last}, {before}");
        last = before;
        let terminal = Terminal::new(40 + round, 120 + round);
        container = start(&terminal);
        container.wait_restored(u64::from(round));
        container.wait_line(|line| line.starts_with(&format!("size {} {}", 40 + round, 120 + round)));
        let first = container.wait_for("count", || container.lines().iter().find_map(|line| count(line)));
        assert!(first > last, "it went on: {last}, {first}");
        terminal.type_in("again\n");
        container.wait_line(|line| line.ends_with("got <again>\r"));
        terminal.resize(20, 70 + round);
        container.wait_line(|line| line.starts_with(&format!("size 20 {}", 70 + round)));
    }
}

#[test]
fn an_interrupt_typed_after_a_restore_reaches_the_program() {
    let Some(pod) = Pod::new(&["script"]) else { return };
    let program = ["bash", "-c", "trap 'echo caught; exit 9' INT; while :; do echo tick; sleep 0.05; done"];
    let start = |terminal: &Terminal| pod.run(&[], &program).terminal(terminal).start();
    let terminal = Terminal::new(24, 80);
    let container = start(&terminal);
    container.wait_line(|line| line.starts_with("tick"));
    container.suspend();
    let terminal = Terminal::new(24, 80);
    let container = start(&terminal);
    container.wait_restored(1);
    container.wait_line(|line| line.starts_with("tick"));
    terminal.type_in("\x03");
    container.wait_line(|line| line.contains("caught"));
    assert_eq!(container.wait(), 9, "{}", container.story());
}

#[test]
fn input_is_a_pipe_and_then_a_file_and_output_a_pipe_and_then_a_file() {
    let Some(pod) = Pod::new(&["cat"]) else { return };
    let program = ["bash", "-c", "while read -r line; do echo \"<$line>\"; done; echo end; sleep 1000"];
    let (input, mut typed) = std::io::pipe().unwrap();
    let container = pod.run(&[], &program).stdin(input).start();
    typed.write_all(b"one\ntwo\n").unwrap();
    container.wait_line(|line| line == "<two>");
    assert_eq!(container.suspend(), ["<one>", "<two>"]);
    drop(typed);

    let file = pod.volume().join("input");
    std::fs::write(&file, "three\nfour\n").unwrap();
    let output = pod.volume().join("output");
    let open = std::fs::File::options().append(true).create(true).open(&output).unwrap();
    let input = std::fs::File::open(&file).unwrap();
    let container = pod.run(&[], &program).stdin(input).stdout(open).start();
    container.wait_restored(1);
    let written = || std::fs::read_to_string(&output).unwrap();
    container.wait_for("end of the file", || written().ends_with("end\n").then_some(()));
    assert_eq!(written(), "<three>\n<four>\nend\n");

    // And back to a pipe.
    container.signal(rustix::process::Signal::TERM);
    assert_eq!(container.wait(), 143, "{}", container.story());
    let container = pod.start(&[], &program);
    container.wait_restored(2);
    assert_eq!(container.suspend(), [""; 0]);
}

/// Prints a line of its input whenever `/volume/next` says how many it has printed so far, or more.
const READER: &str = r#"
for ((n = 1; ; n++)); do
    until [ "$(cat /volume/next 2>/dev/null || echo 0)" -ge $n ]; do sleep 0.02; done
    read -r line || { echo end; exit 0; }
    echo "<$line>"
done
"#;

#[test]
fn what_was_written_and_not_read_is_read_after_the_restore() {
    let Some(pod) = Pod::new(&["cat"]) else { return };
    // A byte at a time, or bash would read ahead.
    let program = ["bash", "-c", READER];
    let allow = |lines: u32| std::fs::write(pod.volume().join("next"), lines.to_string()).unwrap();
    allow(1);
    let (input, mut typed) = std::io::pipe().unwrap();
    let container = pod.run(&[], &program).stdin(input).start();
    typed.write_all(b"one\ntwo\nthree\nfou").unwrap();
    container.wait_line(|line| line == "<one>");
    assert_eq!(container.suspend(), ["<one>"]);
    drop(typed);

    // Twice: what came with the checkpoint may lie unread at the next one too.
    for round in 1..=2 {
        let (input, mut typed) = std::io::pipe().unwrap();
        typed.write_all(if round == 1 { b"r\nfive\n" } else { b"six\n" }).unwrap();
        drop(typed);
        allow(if round == 1 { 2 } else { 9 });
        let outside = input.try_clone().unwrap();
        let container = pod.run(&[], &program).stdin(input).start();
        container.wait_restored(round);
        if round == 1 {
            container.wait_line(|line| line == "<two>");
            let left = || rustix::io::ioctl_fionread(&outside).unwrap();
            container.wait_for("end of what the outside has", || (left() == 0).then_some(()));
            assert_eq!(container.suspend(), ["<two>"]);
        } else {
            container.wait_line(|line| line == "end");
            let lines = container.lines();
            assert_eq!(lines, ["<three>", "<four>", "<five>", "<six>", "end"], "{}", container.story());
            assert_eq!(container.wait(), 0);
        }
    }
}

#[test]
fn a_pipe_that_both_starts_have_is_read_on() {
    let Some(pod) = Pod::new(&["cat"]) else { return };
    let program = ["bash", "-c", READER];
    let allow = |lines: u32| std::fs::write(pod.volume().join("next"), lines.to_string()).unwrap();
    allow(1);
    let (input, mut typed) = std::io::pipe().unwrap();
    typed.write_all(b"one\ntwo\nthree\n").unwrap();
    let container = pod.run(&[], &program).stdin(input.try_clone().unwrap()).start();
    container.wait_line(|line| line == "<one>");
    container.suspend();
    drop(typed);
    allow(9);
    let container = pod.run(&[], &program).stdin(input).start();
    container.wait_line(|line| line == "end");
    assert_eq!(container.lines(), ["<two>", "<three>", "end"], "{}", container.story());
}
