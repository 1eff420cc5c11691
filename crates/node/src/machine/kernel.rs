//! The running kernel: its version and how it was built.

use std::fs;
use std::io::{self, Read};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// The running kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// As `uname -m` prints it.
    pub architecture: String,
    /// Whether it was built with `CONFIG_CHECKPOINT_RESTORE`, without which CRIU cannot work.
    pub checkpoint_restore: KernelOption,
}

/// Whether a kernel has an option, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KernelOption {
    /// Its configuration says so.
    Built,
    /// Its configuration is not to be seen, but it behaves like that.
    Seen,
    /// It has not.
    Missing,
    /// Neither its configuration nor its behaviour tells.
    Unknown,
}

/// A kernel's version by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion(
    /// Major.
    pub u32,
    /// Minor.
    pub u32,
);

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Kernel {
    /// Reads what the kernel says about itself.
    #[must_use]
    pub fn read() -> Kernel {
        let names = rustix::system::uname();
        let release = names.release().to_string_lossy().into_owned();
        let config = configuration(&release).ok();
        Kernel {
            architecture: names.machine().to_string_lossy().into_owned(),
            checkpoint_restore: checkpoint_restore(config.as_deref(), ns_last_pid_exists()),
            release,
        }
    }

    /// The version by number; none if `release` does not start with one.
    #[must_use]
    pub fn version(&self) -> Option<KernelVersion> {
        let mut parts = self.release.split(|c: char| !c.is_ascii_digit());
        Some(KernelVersion(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// `ns_last_pid` is there only with the option (kernel/pid_namespace.c).
fn ns_last_pid_exists() -> bool {
    fs::metadata("/proc/sys/kernel/ns_last_pid").is_ok()
}

fn checkpoint_restore(config: Option<&str>, seen: bool) -> KernelOption {
    match config {
        Some(config) if config.lines().any(|line| line == "CONFIG_CHECKPOINT_RESTORE=y") => {
            KernelOption::Built
        }
        // A container's view of /boot can be another kernel's: what the kernel does has the last word.
        _ if seen => KernelOption::Seen,
        Some(_) => KernelOption::Missing,
        None => KernelOption::Unknown,
    }
}

/// The configuration the kernel was built with, where it is to be had.
fn configuration(release: &str) -> io::Result<String> {
    const LIMIT: u64 = 4 << 20;
    if let Ok(file) = fs::File::open(format!("/boot/config-{release}")) {
        let mut text = String::new();
        file.take(LIMIT).read_to_string(&mut text)?;
        return Ok(text);
    }
    // gzip is on every system that has a shell; a decompressor of our own for one line would be a waste.
    fs::metadata("/proc/config.gz")?;
    let output = Command::new("gzip")
        .args(["-dc", "/proc/config.gz"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other("gzip cannot read /proc/config.gz"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str) -> Kernel {
        Kernel {
            release: release.into(),
            architecture: "x86_64".into(),
            checkpoint_restore: KernelOption::Unknown,
        }
    }

    #[test]
    fn a_release_starts_with_its_version() {
        assert_eq!(kernel("6.18.3-cloud+").version(), Some(KernelVersion(6, 18)));
        assert_eq!(kernel("5.15.0-1-generic").version(), Some(KernelVersion(5, 15)));
        assert_eq!(kernel("odd").version(), None);
        assert!(KernelVersion(6, 2) < KernelVersion(6, 13));
    }

    #[test]
    fn configuration_and_behaviour_decide_together() {
        let with = Some("CONFIG_X=y\nCONFIG_CHECKPOINT_RESTORE=y\n");
        let without = Some("# CONFIG_CHECKPOINT_RESTORE is not set\n");
        assert_eq!(checkpoint_restore(with, false), KernelOption::Built);
        assert_eq!(checkpoint_restore(without, false), KernelOption::Missing);
        assert_eq!(checkpoint_restore(without, true), KernelOption::Seen);
        assert_eq!(checkpoint_restore(None, true), KernelOption::Seen);
        assert_eq!(checkpoint_restore(None, false), KernelOption::Unknown);
    }
}
