//! Looking at the machine, without an opinion.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use torpor_criu::program::Program;

use super::features::FEATURES;
use crate::capabilities::Capabilities;
use crate::criu_bundle::{self, CriuVersion, Place};
use crate::machine::Machine;
use crate::privileges::Privileges;

/// Everything the report is made from.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Facts about the machine.
    pub machine: Machine,
    /// What this process may do.
    pub privileges: Privileges,
    /// CRIU, and what it says.
    pub criu: CriuFinding,
    /// Programs found in `PATH` that lock a network: `iptables-restore`, `nft`.
    pub firewalls: Vec<String>,
    /// `net.core.wmem_max`: how large a send buffer may be without privilege, in bytes.
    pub send_buffer_limit: Option<u64>,
    /// Directories that must have space.
    pub directories: Vec<Directory>,
    /// The machine's memory, in bytes.
    pub memory: u64,
    /// The store, if one was asked about.
    pub store: Option<StoreFinding>,
}

/// What became of looking for CRIU.
#[derive(Debug, Clone)]
pub enum CriuFinding {
    /// There is none that can be started.
    Missing {
        /// Why.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// There is one.
    There {
        /// The file.
        path: PathBuf,
        /// Where it was found.
        place: Place,
        /// Its version.
        version: CriuVersion,
        /// What `criu check` says.
        check: CriuTrial,
        /// What `criu check --feature` says of each.
        features: Vec<FeatureTrial>,
    },
}

/// What CRIU answered to a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriuTrial {
    /// Whether it passed.
    pub passed: bool,
    /// The last line it said, without its own prefix.
    pub said: String,
}

/// One feature, as CRIU finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureTrial {
    /// CRIU's name of it.
    pub name: &'static str,
    /// Whether this CRIU knows it at all.
    pub known: bool,
    /// What it answered.
    pub trial: CriuTrial,
}

/// A directory where checkpoints or their parts are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// What it is for, such as `store`.
    pub purpose: &'static str,
    /// The directory, or the nearest above it that exists.
    pub path: PathBuf,
    /// Free bytes, or why that cannot be told.
    pub free: Result<u64, String>,
    /// Whether it can be written.
    pub writable: bool,
}

/// What became of opening the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFinding {
    /// The store.
    pub url: String,
    /// Whether it was opened, with what to tell; else why not, and what to do.
    pub opened: Result<String, (String, String)>,
}

impl Directory {
    /// Looks at `path`, or at the nearest directory above that exists.
    #[must_use]
    pub fn examine(purpose: &'static str, path: &Path) -> Directory {
        let path = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/")).to_path_buf();
        let free = rustix::fs::statvfs(&path)
            .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
            .map_err(|error| error.to_string());
        let writable = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).is_ok();
        Directory { purpose, path, free, writable }
    }
}

impl Findings {
    /// Looks at everything. Takes about a second, nearly all of it CRIU's checks.
    #[must_use]
    pub fn examine(
        criu: Option<&Path>,
        directories: Vec<Directory>,
        store: Option<StoreFinding>,
    ) -> Findings {
        let privileges = Privileges::read();
        Findings {
            machine: Machine::read(),
            criu: examine_criu(criu),
            privileges,
            firewalls: ["iptables-restore", "nft"]
                .into_iter()
                .filter(|program| in_path(program))
                .map(str::to_owned)
                .collect(),
            send_buffer_limit: fs::read_to_string("/proc/sys/net/core/wmem_max")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            directories,
            memory: memory(),
            store,
        }
    }
}

fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).exists())
}

fn examine_criu(flag: Option<&Path>) -> CriuFinding {
    let found = criu_bundle::find(flag)
        .and_then(|found| criu_bundle::version(&found.program).map(|version| (found, version)));
    match found {
        Err(error) => CriuFinding::Missing {
            remedy: error.remedy().to_owned(),
            message: match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        },
        Ok((found, version)) => CriuFinding::There {
            check: check(&found.program, &[]),
            features: check_features(&found.program),
            path: found.program.path().to_path_buf(),
            place: found.place,
            version,
        },
    }
}

/// Each check is a process of its own and mostly waits, so a few run side by side.
fn check_features(program: &Program) -> Vec<FeatureTrial> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(feature) = FEATURES.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let trial = check(program, &["--feature", feature.name]);
                    let known = !trial.said.contains("Unknown feature");
                    let trial = FeatureTrial { name: feature.name, known, trial };
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(trial);
                }
            });
        }
    });
    let mut trials = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    trials.sort_unstable_by_key(|trial| FEATURES.iter().position(|feature| feature.name == trial.name));
    trials
}

/// Asked as a checkpoint here would be made: with few privileges CRIU is told so.
fn check(program: &Program, arguments: &[&str]) -> CriuTrial {
    let mut command = criu_bundle::command(program);
    command.args(["check", "--no-default-config"]).args(arguments);
    if crate::capabilities::unprivileged() {
        command.arg("--unprivileged");
    }
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let root = rustix::process::geteuid().is_root();
            Capabilities::effective().pass_on_from_this_thread(root)?;
            criu_bundle::output(&mut command)
        });
        asking.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
    });
    match asked {
        Err(error) => CriuTrial { passed: false, said: error.to_string() },
        Ok(output) => CriuTrial {
            passed: output.status.success(),
            said: gist(
                &[output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()),
            ),
        },
    }
}

/// Its last error, else the first thing it said, without `Error (file:line): `.
fn gist(said: &[String]) -> String {
    let lines = || said.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty());
    let line = lines().rfind(|line| line.starts_with("Error")).or_else(|| lines().next());
    let line = line.unwrap_or_default();
    match line.split_once("): ") {
        Some((prefix, rest)) if prefix.contains('(') => rest.trim(),
        _ => line.trim(),
    }
    .trim_end_matches([':', '.'])
    .to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::machine::{Cgroups, Cpu, Kernel, KernelOption};
    use crate::privileges::{Operation, Outcome, Seccomp, Trial};

    /// A machine without any fault.
    pub(in crate::doctor) fn perfect() -> Findings {
        let trials =
            Operation::all().map(|operation| Trial { operation, outcome: Outcome::Granted }).collect();
        Findings {
            machine: Machine {
                kernel: Kernel {
                    release: "6.12.1".into(),
                    architecture: "x86_64".into(),
                    checkpoint_restore: KernelOption::Built,
                },
                cpu: Cpu { model: "a processor".into(), level: Some(3), ..Cpu::default() },
                page_size: 4096,
                cgroups: Cgroups::Unified,
                host_name: "here".into(),
                boot_id: "boot".into(),
                machine_id: None,
                container: None,
            },
            privileges: Privileges {
                trials,
                effective_capabilities: u64::MAX,
                bounding_capabilities: u64::MAX,
                seccomp: Seccomp::Off,
                no_new_privileges: false,
                security_label: None,
                send_buffer: 4 << 20,
                user: 0,
                initial_user_namespace: true,
            },
            criu: CriuFinding::There {
                path: "/opt/torpor/criu/usr/sbin/criu".into(),
                place: Place::Opt,
                version: CriuVersion { major: 4, minor: 2, patch: 1 },
                check: CriuTrial { passed: true, said: "Looks good.".into() },
                features: FEATURES
                    .iter()
                    .map(|feature| FeatureTrial {
                        name: feature.name,
                        known: true,
                        trial: CriuTrial { passed: true, said: String::new() },
                    })
                    .collect(),
            },
            firewalls: vec!["iptables-restore".into(), "nft".into()],
            send_buffer_limit: Some(4 << 20),
            directories: vec![Directory {
                purpose: "store",
                path: "/var/lib".into(),
                free: Ok(1 << 40),
                writable: true,
            }],
            memory: 8 << 30,
            store: Some(StoreFinding { url: "file:///s".into(), opened: Ok("2 names".into()) }),
        }
    }

    #[test]
    fn what_criu_said_is_its_error_without_where_it_was_said() {
        let said = |text: &str| gist(&[String::new(), text.to_owned()]);
        assert_eq!(said("Warn  (criu/cr-check.c:824): Dirty tracking is OFF.\n"), "Dirty tracking is OFF");
        assert_eq!(said("CRIU needs a capability:\n setcap ...\n"), "CRIU needs a capability");
        assert_eq!(said("Error (a.c:1): one\nError (b.c:2): two\nall is lost\n"), "two");
        assert_eq!(said(""), "");
    }

    #[test]
    fn a_directory_that_is_not_there_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let found = Directory::examine("store", &dir.path().join("not/yet"));
        assert_eq!(found.path, dir.path());
        assert!(found.writable && found.free.is_ok());
    }
}
