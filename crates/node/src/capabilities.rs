//! Linux capabilities as a set: what Torpor holds, and what it does not pass on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use torpor_criu::image::credential::CAPABILITIES;

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The empty set.
    pub const NONE: Capabilities = Capabilities(0);
    /// What Torpor and CRIU need and an ordinary container has not: not passed on to the program unless asked for.
    pub const TORPORS_OWN: Capabilities =
        Capabilities(1 << 12 | 1 << 19 | 1 << 21 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 38 | 1 << 39 | 1 << 40);

    /// One bit a capability, by its number.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The set with these bits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Capabilities {
        Capabilities(bits)
    }

    /// Those in both.
    #[must_use]
    pub fn intersection(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// Those that `other` has not.
    #[must_use]
    pub fn without(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }

    /// Whether it has this one, by the kernel's name without `CAP_`, in lower case.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        CAPABILITIES.iter().position(|known| *known == name).is_some_and(|number| self.0 & (1 << number) != 0)
    }

    /// Whether CRIU must be told that it lacks what it takes for granted of root. It then leaves out what
    /// is not needed, such as changing a root that is the right one, instead of failing there.
    #[must_use]
    pub fn needs_unprivileged_criu(self, root: bool) -> bool {
        !(root && ["sys_admin", "net_admin", "sys_time", "sys_chroot"].iter().all(|name| self.has(name)))
    }

    /// What is raised for CRIU: all that Torpor may do, where it may do more than its user (file capabilities), or would lose it
    /// at the execution. Root's programs have it anyway.
    #[must_use]
    pub fn raised_for_criu(self, root: bool) -> rustix::thread::CapabilitySet {
        rustix::thread::CapabilitySet::from_bits_retain(if root { 0 } else { self.0 })
    }

    /// Raises that for every program that this thread starts from now on; other threads are as they were.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn pass_on_from_this_thread(self, root: bool) -> std::io::Result<()> {
        let raised = self.raised_for_criu(root);
        if raised.is_empty() {
            return Ok(());
        }
        let mut sets = rustix::thread::capabilities(None)?;
        sets.inheritable |= raised;
        rustix::thread::set_capabilities(None, sets)?;
        for number in 0..u64::BITS {
            let capability = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
            if raised.contains(capability) {
                rustix::thread::configure_capability_in_ambient_set(capability, true)?;
            }
        }
        Ok(())
    }

    /// Whether it is all that this kernel knows, `last` being the number of the last one.
    #[must_use]
    pub fn is_full(self, last: u32) -> bool {
        let known = u64::MAX >> 63u32.saturating_sub(last);
        self.0 & known == known
    }

    /// What this thread may do now.
    #[must_use]
    pub fn effective() -> Capabilities {
        Capabilities(crate::sys::process::effective_capabilities())
    }
}

/// What CRIU is given that this thread has; see [`Capabilities::raised_for_criu`].
pub(crate) fn raised_for_criu() -> rustix::thread::CapabilitySet {
    Capabilities::effective().raised_for_criu(rustix::process::geteuid().is_root())
}

/// Whether CRIU works without what root usually has; see [`Capabilities::needs_unprivileged_criu`].
#[must_use]
pub fn unprivileged() -> bool {
    Capabilities::effective().needs_unprivileged_criu(rustix::process::geteuid().is_root())
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = CAPABILITIES
            .iter()
            .enumerate()
            .filter(|(number, _)| self.0 & (1 << number) != 0)
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&names.join(","))
    }
}

/// There is no capability of this name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a capability")]
pub struct UnknownCapability(pub String);

impl FromStr for Capabilities {
    type Err = UnknownCapability;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).try_fold(
            Capabilities::NONE,
            |set, name| {
                let lower = name.to_ascii_lowercase();
                let plain = lower.strip_prefix("cap_").unwrap_or(&lower);
                CAPABILITIES
                    .iter()
                    .position(|known| *known == plain)
                    .map(|number| Capabilities(set.0 | 1 << number))
                    .ok_or_else(|| UnknownCapability(name.to_owned()))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_printed() {
        let set: Capabilities = "CAP_SYS_ADMIN, checkpoint_restore".parse().unwrap();
        assert_eq!(set.bits(), 1 << 21 | 1 << 40);
        assert_eq!(set.to_string(), "sys_admin,checkpoint_restore");
        assert_eq!("x".parse::<Capabilities>(), Err(UnknownCapability("x".into())));
    }

    #[test]
    fn criu_takes_root_with_four_capabilities_for_privileged() {
        let four: Capabilities = "sys_admin,net_admin,sys_time,sys_chroot".parse().unwrap();
        assert!(!four.needs_unprivileged_criu(true));
        assert!(four.needs_unprivileged_criu(false));
        for without in ["sys_admin", "net_admin", "sys_time", "sys_chroot"] {
            let three = four.without(without.parse().unwrap());
            assert!(three.needs_unprivileged_criu(true), "{without}");
        }
    }

    #[test]
    fn torpors_own_are_those_an_ordinary_container_has_not() {
        assert_eq!(
            Capabilities::TORPORS_OWN.to_string(),
            "net_admin,sys_ptrace,sys_admin,sys_nice,sys_resource,sys_time,perfmon,bpf,checkpoint_restore"
        );
    }
}
