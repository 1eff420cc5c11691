//! What a chore needs from the machine, and installing it where it is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::chore;

/// A program a chore runs, and Debian's package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// Real programs that the tests freeze and restore, and the tools that look at them from outside.
pub(crate) const TESTS: &[Need] = &[
    need("python3", "python3"),
    need("redis-server", "redis-server"),
    need("redis-cli", "redis-tools"),
    need("nginx", "nginx-light"),
    need("node", "nodejs"),
    need("ip", "iproute2"),
    need("iptables", "iptables"),
    need("nft", "nftables"),
    need("setpriv", "util-linux"),
    need("script", "bsdutils"),
    // Shows the pages of `torpor inspect --html`.
    need("chromium", "chromium"),
    need("gdb", "gdb"),
];

/// What benchmarks compare with, and measure with.
pub(crate) const BENCH: &[Need] =
    &[need("zstd", "zstd"), need("tar", "tar"), need("python3", "python3"), need("strace", "strace")];

/// What makes the root of lab hosts.
pub(crate) const LAB: &[Need] = &[need("debootstrap", "debootstrap")];

/// What the demonstration shows.
pub(crate) const DEMO: &[Need] = &[
    need("python3", "python3-minimal"),
    need("redis-server", "redis-server"),
    need("redis-cli", "redis-tools"),
    need("iptables", "iptables"),
];

/// The packages of `needs` that are missing, each once.
fn missing(needs: &[Need], installed: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        needs.iter().filter(|need| !installed(need.program)).map(|need| need.package).collect();
    packages.dedup();
    packages
}

/// Installs what of `needs` is missing.
///
/// # Errors
/// Where something is missing and this user may not install it, the message says what to type.
pub(crate) fn install(needs: &[Need]) -> Result<()> {
    let packages = missing(needs, chore::installed);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !chore::installed("apt-get") {
        bail!("these are missing, under the names of Debian's packages: {list}");
    }
    if !chore::is_root() {
        bail!("these packages are missing: run `sudo apt-get install {list}`, then this again");
    }
    chore::step(&format!("installing {list}"));
    let _quiet = ServicesHeld::new()?;
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").args([
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "-o",
            "Dpkg::Use-Pty=0",
        ]);
        apt.args(&packages);
        apt
    };
    if chore::capture(&mut install()).is_ok() {
        return Ok(());
    }
    // A machine that never read its lists, or whose lists are old, finds nothing.
    chore::run(Command::new("apt-get").args(["update", "-qq"]))?;
    chore::run(&mut install())
}

/// Keeps newly installed packages from starting their services while it lives: the tests start their own.
#[derive(Debug)]
struct ServicesHeld {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl ServicesHeld {
    fn new() -> Result<ServicesHeld> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(ServicesHeld { ours })
    }
}

impl Drop for ServicesHeld {
    fn drop(&mut self) {
        if self.ours {
            // Nothing is lost when it stays except that services don't start by themselves.
            let _ = fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_whose_program_is_absent_are_missing() {
        let needs = [need("python3", "python3-minimal"), need("nginx", "nginx-light")];
        assert_eq!(missing(&needs, |program| program == "python3"), ["nginx-light"]);
        assert!(missing(&needs, |_| true).is_empty());
    }
}
