//! What a checkpoint does about each mount.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::class::in_container;
use super::{Mount, MountClass, Mounts, escape, escaped_path, escaped_paths};

/// What is done about a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountPolicy {
    /// Changes since the start go into the checkpoint, and are put back at a restore.
    Carry,
    /// Nothing is copied; files the program holds open for writing are recorded, and compared at a restore.
    Leave,
    /// A checkpoint is refused while the program has a file of it open.
    Refuse,
}

impl MountPolicy {
    fn word(self) -> &'static str {
        match self {
            Self::Carry => "carry",
            Self::Leave => "leave",
            Self::Refuse => "refuse",
        }
    }
}

/// Whether changes to the root are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootFiles {
    /// Carried where the root is a container's own, left where it is a machine's.
    #[default]
    Auto,
    /// Carried.
    Carry,
    /// Left.
    Leave,
}

/// A user's rule for one mount: `PATH=carry|leave|refuse`, or for `/` the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRule {
    /// The mount point, exactly.
    #[serde(with = "escaped_path")]
    pub point: PathBuf,
    /// What is done.
    pub policy: MountPolicy,
}

/// Why a rule, or a plan, was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The text is not `PATH=carry|leave|refuse`.
    #[error("mount rule {0:?} is not PATH=carry|leave|refuse with an absolute path")]
    Rule(String),
    /// The kernel's own file systems cannot be carried.
    #[error("{} is a {file_system} mount, which has no files of its own to carry", .point.display())]
    NotCarried {
        /// Where it is mounted.
        point: PathBuf,
        /// Its type.
        file_system: String,
    },
}

impl PolicyError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Rule(_) => "write the rule as, for example, /data=leave",
            Self::NotCarried { .. } => "use leave or refuse for this mount",
        }
    }
}

impl FromStr for MountRule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let broken = || PolicyError::Rule(text.to_owned());
        let (point, policy) = text.rsplit_once('=').ok_or_else(broken)?;
        let policy = match policy {
            "carry" => MountPolicy::Carry,
            "leave" => MountPolicy::Leave,
            "refuse" => MountPolicy::Refuse,
            _ => return Err(broken()),
        };
        let point = Path::new(point);
        if !point.is_absolute() {
            return Err(broken());
        }
        // Collected from components, so a trailing slash does not matter.
        Ok(Self { point: point.components().collect(), policy })
    }
}

/// A mount, and what is done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedMount {
    /// The mount.
    pub mount: Mount,
    /// What it is.
    pub class: MountClass,
    /// What is done.
    pub policy: MountPolicy,
    /// The user said so, by a rule or by `--root-files`.
    pub asked: bool,
}

/// What a checkpoint does about each mount a program can reach, sorted by mount point.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountPlan {
    /// The mounts.
    pub mounts: Vec<PlannedMount>,
    /// Rules for paths where nothing is mounted; worth a warning.
    #[serde(with = "escaped_paths", default)]
    pub unused_rules: Vec<PathBuf>,
}

impl MountPlan {
    /// Decides for every reachable mount.
    pub fn new(mounts: &Mounts, root: RootFiles, rules: &[MountRule]) -> Result<Self, PolicyError> {
        let mut planned = Vec::new();
        let reachable = mounts.reachable();
        let in_container = in_container(&reachable);
        for mount in reachable {
            let class = MountClass::of(mount, in_container);
            let rule = rules.iter().rev().find(|rule| rule.point == mount.point);
            let by_flag = (mount.point == Path::new("/")).then_some(root).and_then(|root| match root {
                RootFiles::Auto => None,
                RootFiles::Carry => Some(MountPolicy::Carry),
                RootFiles::Leave => Some(MountPolicy::Leave),
            });
            let asked = rule.map(|rule| rule.policy).or(by_flag);
            if asked == Some(MountPolicy::Carry) && class == MountClass::KernelPseudo {
                let (point, file_system) = (mount.point.clone(), mount.file_system.clone());
                return Err(PolicyError::NotCarried { point, file_system });
            }
            let policy = asked.unwrap_or_else(|| default_policy(mount, class));
            planned.push(PlannedMount { mount: mount.clone(), class, policy, asked: asked.is_some() });
        }
        planned.sort_by(|a, b| a.mount.point.cmp(&b.mount.point));
        let unused_rules = rules
            .iter()
            .map(|rule| &rule.point)
            .filter(|point| !planned.iter().any(|planned| planned.mount.point == **point))
            .cloned()
            .collect();
        Ok(Self { mounts: planned, unused_rules })
    }

    /// The mounts whose changes go into the checkpoint.
    pub fn carried(&self) -> impl Iterator<Item = &PlannedMount> {
        self.mounts.iter().filter(|planned| planned.policy == MountPolicy::Carry)
    }

    /// The mount that holds a path, by name alone.
    #[must_use]
    pub fn holding(&self, path: &Path) -> Option<&PlannedMount> {
        self.mounts
            .iter()
            .filter(|planned| path.starts_with(&planned.mount.point))
            .max_by_key(|planned| planned.mount.point.components().count())
    }

    /// The mount with this id, as found in `/proc/PID/fdinfo`.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<&PlannedMount> {
        self.mounts.iter().find(|planned| planned.mount.id == id)
    }
}

fn default_policy(mount: &Mount, class: MountClass) -> MountPolicy {
    match class {
        // What is read-only did not change.
        MountClass::ContainerRoot | MountClass::PrivateTmpfs if !mount.read_only => MountPolicy::Carry,
        _ => MountPolicy::Leave,
    }
}

impl fmt::Display for MountPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::ffi::OsStrExt;
        for planned in &self.mounts {
            let PlannedMount { mount, class, policy, asked } = planned;
            write!(f, "{:<6}  {}", policy.word(), escape(mount.point.as_os_str().as_bytes()))?;
            write!(f, "  ({}, {}", class.describe(), mount.file_system)?;
            if mount.read_only {
                f.write_str(", read-only")?;
            }
            f.write_str(if *asked { ", asked for)\n" } else { ")\n" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POD: &str = "\
1 0 0:50 / / rw - overlay overlay rw
2 1 0:51 / /proc rw - proc proc rw
3 1 0:52 / /dev rw - tmpfs tmpfs rw
4 3 0:53 / /dev/shm rw - tmpfs shm rw
5 1 8:1 /pods/1/vol /data rw - ext4 /dev/sda1 rw
6 1 8:1 /pods/1/hosts /etc/hosts rw - ext4 /dev/sda1 rw
7 1 0:54 / /run/secrets/kubernetes.io/serviceaccount ro - tmpfs tmpfs ro
8 1 0:55 / /config ro - tmpfs tmpfs ro
";

    fn plan(table: &str, root: RootFiles, rules: &[&str]) -> Result<MountPlan, PolicyError> {
        let rules: Vec<MountRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        MountPlan::new(&Mounts::parse(table.as_bytes()).unwrap(), root, &rules)
    }

    fn carried(plan: &MountPlan) -> Vec<&str> {
        plan.carried().map(|planned| planned.mount.point.to_str().unwrap()).collect()
    }

    #[test]
    fn a_pod_carries_its_root_and_what_is_private_to_it() {
        assert_eq!(carried(&plan(POD, RootFiles::Auto, &[]).unwrap()), ["/", "/dev", "/dev/shm"]);
    }

    #[test]
    fn a_machine_carries_only_what_is_asked_for() {
        let table = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:53 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(carried(&plan(table, RootFiles::Auto, &[]).unwrap()), [""; 0]);
        assert_eq!(carried(&plan(table, RootFiles::Carry, &[]).unwrap()), ["/"]);
        assert_eq!(carried(&plan(table, RootFiles::Carry, &["/=leave", "/tmp=carry"]).unwrap()), ["/tmp"]);
    }

    #[test]
    fn a_rule_decides_for_its_mount_and_the_last_one_wins() {
        let plan = plan(POD, RootFiles::Auto, &["/data=refuse", "/data/=carry", "/dev/shm=leave"]).unwrap();
        assert_eq!(carried(&plan), ["/", "/data", "/dev"]);
    }

    #[test]
    fn a_rule_where_nothing_is_mounted_is_told() {
        let plan = plan(POD, RootFiles::Auto, &["/dada=carry"]).unwrap();
        assert_eq!(plan.unused_rules, [PathBuf::from("/dada")]);
    }

    #[test]
    fn the_kernel_is_not_carried() {
        let error = plan(POD, RootFiles::Auto, &["/proc=carry"]).unwrap_err();
        assert_eq!(error.to_string(), "/proc is a proc mount, which has no files of its own to carry");
    }

    #[test]
    fn a_plan_prints_one_line_for_each_mount() {
        let text = plan(POD, RootFiles::Auto, &["/data=refuse"]).unwrap().to_string();
        assert!(text.contains("carry   /  (container root, overlay)\n"), "{text}");
        assert!(text.contains("refuse  /data  (volume, ext4, asked for)\n"), "{text}");
        assert!(text.contains("leave   /config  (private tmpfs, tmpfs, read-only)\n"), "{text}");
    }

    #[test]
    fn a_plan_survives_json() {
        let plan = plan(POD, RootFiles::Auto, &["/data=refuse", "/no=leave"]).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<MountPlan>(&text).unwrap(), plan);
    }

    proptest! {
        #[test]
        fn any_rule_is_read_or_refused(text: String) {
            if let Ok(rule) = text.parse::<MountRule>() {
                prop_assert!(rule.point.is_absolute());
            }
        }
    }
}
