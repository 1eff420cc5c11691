//! A network between containers and an outside.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A network of its own that containers are connected to, one at a time; whoever is in it is outside.
pub(crate) struct Network {
    holder: Child,
}

impl Network {
    pub(super) fn new() -> Network {
        let script = "ip link set lo up && echo && exec sleep infinity";
        let mut command = Command::new("unshare");
        command.args(["--net", "--kill-child", "bash", "-c", script]).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        Network { holder }
    }

    /// A command in it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--"]).args(words);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Connects the container with this PID 1, which gets the address.
    pub(super) fn join(&self, init: i32, address: &str) {
        let (prefix, _) = address.rsplit_once('.').unwrap();
        let script = format!(
            "set -e; ip link del out 2>/dev/null || true
            ip link add out type veth peer name eth0 netns {init}
            ip addr add {prefix}.1/24 dev out; ip link set out up
            nsenter --target {init} --net ip addr add {address}/24 dev eth0
            nsenter --target {init} --net ip link set eth0 up"
        );
        let output = self.command(&["bash", "-c", &script]).output().unwrap();
        super::text(&output, &["ip"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
