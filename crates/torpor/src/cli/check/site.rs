//! This machine, as a check looks at it.

use std::fs;
use std::path::Path;

use torpor_archive::check::{PLUGIN_DIRECTORIES, Site};
use torpor_node::criu_bundle;
use torpor_node::machine::{KernelVersion, Machine};

/// Reads what there is.
pub(super) fn read(criu: Option<&Path>) -> Site {
    let machine = Machine::read();
    let version = criu_bundle::find(criu).and_then(|found| criu_bundle::version(&found.program)).ok();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Site {
        criu: version.map(|version| version.major * 10_000 + version.minor * 100 + version.patch),
        kernel: machine.kernel.version().map(|KernelVersion(major, minor)| (major, minor)),
        architecture: machine.kernel.architecture,
        page_size: machine.page_size,
        cpu_features: machine.cpu.features,
        security_modules: fs::read_to_string("/sys/kernel/security/lsm")
            .map(|modules| modules.trim().split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
        memory: bytes(&memory, "MemTotal:"),
        memory_available: bytes(&memory, "MemAvailable:"),
        plugins: PLUGIN_DIRECTORIES.iter().flat_map(|directory| names(Path::new(directory))).collect(),
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn bytes(memory: &str, key: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(found) = fs::read_dir(directory) else { return Vec::new() };
    found.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_kibibytes() {
        let told = "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(bytes(told, "MemTotal:"), Some(16 << 20));
        assert_eq!(bytes(told, "MemAvailable:"), Some(8 << 20));
        assert_eq!(bytes(told, "Swap:"), None);
    }
}
