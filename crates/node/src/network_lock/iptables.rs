//! CRIU's lock by iptables, which it takes where it is told to: a rule for each connection and direction, that drops
//! what does not carry CRIU's mark (`criu/netfilter.c`, `soccr/soccr.h`).

use std::io;
use std::process::{Command, Stdio};

/// CRIU's mark, as `iptables-save` writes it in a rule that drops everything else.
const UNMARKED: [&str; 3] = ["!", "--mark", "0xc114"];

/// Takes such rules away. Returns how many there were. Where there is no iptables there are none.
///
/// # Errors
/// Where there is one that cannot be taken away.
pub(super) fn remove() -> io::Result<usize> {
    let mut removed = 0;
    for tool in ["iptables", "ip6tables"] {
        let saved = Command::new(format!("{tool}-save")).args(["-t", "filter"]).stdin(Stdio::null()).output();
        let Ok(saved) = saved else { continue };
        for rule in locks(&String::from_utf8_lossy(&saved.stdout)) {
            let mut command = Command::new(tool);
            command.args(["-w", "-t", "filter", "-D"]).args(rule).stdin(Stdio::null());
            let output = command.output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(io::Error::other(format!("{tool}: {said}")));
            }
            removed += 1;
        }
    }
    Ok(removed)
}

/// The chain and words of each rule that is a lock.
fn locks(saved: &str) -> Vec<Vec<&str>> {
    let rules = saved.lines().filter_map(|line| line.strip_prefix("-A "));
    let words = rules.map(|rule| rule.split_ascii_whitespace().collect::<Vec<_>>());
    words
        .filter(|words| {
            words.windows(UNMARKED.len()).any(|window| window == UNMARKED) && words.ends_with(&["-j", "DROP"])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_of_a_lock_are_taken() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n\
            -A INPUT -s 10.0.0.1/32 -d 10.0.0.2/32 -p tcp -m mark ! --mark 0xc114 -m tcp --sport 80 --dport 5 -j DROP\n\
            -A INPUT -m mark --mark 0xc114 -j ACCEPT\n-A INPUT -m mark ! --mark 0xc114 -j LOG\n-A INPUT -j DROP\nCOMMIT\n";
        let found = locks(saved);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0][..3], ["INPUT", "-s", "10.0.0.1/32"]);
    }
}
