//! What processes were allowed to do.

use serde::Serialize;
use torpor_criu::image::credential::{CAPABILITIES, Creds, SeccompFilter, SeccompFilters, capability_set};
use torpor_criu::image::process::Thread;

use super::images::Images;

/// The bits of securebits, as in capabilities(7).
const SECURE_BITS: [&str; 8] = [
    "noroot",
    "noroot_locked",
    "no_setuid_fixup",
    "no_setuid_fixup_locked",
    "keep_caps",
    "keep_caps_locked",
    "no_cap_ambient_raise",
    "no_cap_ambient_raise_locked",
];

/// The names of a set of capabilities, lowest first, as `cap_chown`.
#[must_use]
pub fn capability_names(set: u64) -> Vec<String> {
    (0..64)
        .filter(|bit| set >> bit & 1 == 1)
        .map(|bit| match CAPABILITIES.get(bit) {
            Some(name) => format!("cap_{name}"),
            None => format!("cap_{bit}"),
        })
        .collect()
}

/// The names of all capabilities there are.
#[must_use]
pub fn every_capability() -> Vec<String> {
    capability_names((1 << CAPABILITIES.len()) - 1)
}

/// Who a thread acts as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Real, effective and saved user, and that for access to files.
    pub users: Identity,
    /// The same of groups.
    pub groups: Identity,
    /// Supplementary groups.
    pub supplementary_groups: Vec<u32>,
    /// Effective capabilities.
    pub effective: Vec<String>,
    /// Permitted capabilities.
    pub permitted: Vec<String>,
    /// Inheritable capabilities.
    pub inheritable: Vec<String>,
    /// Ambient capabilities.
    pub ambient: Vec<String>,
    /// The bounding set.
    pub bounding: Vec<String>,
    /// Secure bits.
    pub secure_bits: Vec<&'static str>,
    /// Whether programs it executes gain nothing.
    pub no_new_privileges: bool,
    /// AppArmor profile or SELinux label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsm_profile: Option<String>,
    /// How system calls are filtered.
    pub seccomp: Seccomp,
}

/// Users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
    /// For access to files.
    pub file_system: u32,
}

/// How system calls are filtered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// `disabled`, `strict`, `filter`, or the number that stands there.
    pub mode: String,
    /// The filters in force, the last that was installed first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
}

/// A program that decides about system calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Its place in the image.
    pub number: u32,
    /// How long it is.
    pub instructions: usize,
    /// Flags, as in seccomp(2).
    pub flags: u32,
}

/// The filters of a checkpoint.
pub(super) fn filters(images: &Images<'_>) -> Vec<SeccompFilter> {
    images.one::<SeccompFilters>(0).map(|image| image.seccomp_filters).unwrap_or_default()
}

impl Credentials {
    pub(super) fn of(
        creds: &Creds,
        thread: &Thread,
        old_mode: Option<u32>,
        filters: &[SeccompFilter],
    ) -> Self {
        let names = |words: &[u32]| capability_names(capability_set(words));
        let mode = thread.seccomp_mode.or(old_mode).unwrap_or(0);
        Self {
            users: Identity {
                real: creds.uid,
                effective: creds.euid,
                saved: creds.suid,
                file_system: creds.fsuid,
            },
            groups: Identity {
                real: creds.gid,
                effective: creds.egid,
                saved: creds.sgid,
                file_system: creds.fsgid,
            },
            supplementary_groups: creds.groups.clone(),
            effective: names(&creds.cap_eff),
            permitted: names(&creds.cap_prm),
            inheritable: names(&creds.cap_inh),
            ambient: names(&creds.cap_amb),
            bounding: names(&creds.cap_bnd),
            secure_bits: SECURE_BITS
                .iter()
                .enumerate()
                .filter(|(bit, _)| creds.secbits >> bit & 1 == 1)
                .map(|(_, name)| *name)
                .collect(),
            no_new_privileges: creds.no_new_privs.is_some_and(|value| value != 0),
            lsm_profile: creds.lsm_profile.clone(),
            seccomp: Seccomp {
                mode: match mode {
                    0 => "disabled".to_owned(),
                    1 => "strict".to_owned(),
                    2 => "filter".to_owned(),
                    other => other.to_string(),
                },
                filters: if mode == 2 { chain(thread.seccomp_filter, filters) } else { Vec::new() },
            },
        }
    }
}

/// A filter and those installed before it. A chain that goes in a circle ends where it comes back.
fn chain(last: Option<u32>, filters: &[SeccompFilter]) -> Vec<Filter> {
    let mut chain = Vec::new();
    let mut next = last;
    while let Some(number) = next
        && let Some(filter) = filters.get(number as usize)
        && chain.len() < filters.len()
    {
        chain.push(Filter {
            number,
            instructions: filter.filter.len() / 8,
            flags: filter.flags.unwrap_or(0),
        });
        next = filter.prev;
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names_and_later_ones_numbers() {
        assert_eq!(
            capability_names(1 << 21 | 1 << 40 | 1 << 41),
            ["cap_sys_admin", "cap_checkpoint_restore", "cap_41"]
        );
        assert_eq!(every_capability().len(), 41);
    }

    #[test]
    fn a_chain_of_filters_ends() {
        let filter = |prev| SeccompFilter { filter: vec![0; 16], prev, flags: None };
        let numbers = |last, filters: &[SeccompFilter]| {
            chain(last, filters).iter().map(|filter| filter.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(Some(1), &[filter(None), filter(Some(0))]), [1, 0]);
        assert_eq!(numbers(Some(0), &[filter(Some(0))]), [0]);
        assert_eq!(numbers(Some(7), &[filter(None)]), [0; 0]);
    }
}
