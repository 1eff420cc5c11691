//! Rows about what `criu check --feature` finds. Names are CRIU's (criu/cr-check.c).

use super::{CriuFinding, Row, Topic};

/// A feature CRIU can be asked about.
#[derive(Debug)]
pub(super) struct Feature {
    pub(super) name: &'static str,
    /// For which programs, or for what, it is needed.
    purpose: &'static str,
    weight: Weight,
}

/// What its absence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// No checkpoint or no restore works.
    Needed,
    /// Some programs cannot be frozen, or something is slower.
    Useful,
    /// Nothing that Torpor does depends on it.
    Aside,
}

const fn needed(name: &'static str, purpose: &'static str) -> Feature {
    Feature { name, purpose, weight: Weight::Needed }
}

const fn useful(name: &'static str, purpose: &'static str) -> Feature {
    Feature { name, purpose, weight: Weight::Useful }
}

const fn aside(name: &'static str, purpose: &'static str) -> Feature {
    Feature { name, purpose, weight: Weight::Aside }
}

pub(super) const FEATURES: &[Feature] = &[
    needed("mnt_id", "telling which mount an open file is on"),
    needed("can_map_vdso", "moving the kernel's own page to where the program had it"),
    needed("get_rseq_conf", "programs with restartable sequences (every recent C library)"),
    needed("clone3_set_tid", "giving processes their numbers back"),
    useful("openat2", "opening paths without leaving the root"),
    useful("seccomp_suspend", "programs under a seccomp filter"),
    useful("seccomp_filters", "programs under a seccomp filter"),
    useful("fdinfo_lock", "programs with file locks"),
    useful("aio_remap", "programs with asynchronous I/O (databases)"),
    useful("timerfd", "programs with timer descriptors"),
    useful("timer_cr_ids", "programs with POSIX timers, restored fast"),
    useful("kcmp_epoll", "programs with epoll (most servers)"),
    useful("tcp_half_closed", "half-closed TCP connections"),
    useful("sk_unix_file", "Unix sockets bound to files"),
    useful("sockopt_buf_lock", "keeping the sizes of socket buffers"),
    useful("ipv6_freebind", "IPv6 sockets bound to addresses not there yet"),
    useful("net_diag_raw", "raw sockets"),
    useful("memfd_hugetlb", "memory files on huge pages"),
    useful("overlayfs_maps", "mapped files on overlay file systems (container images)"),
    useful("pidfd_store", "tracking processes without mistaking a reused number"),
    useful("ns_pid", "naming processes in other PID namespaces"),
    useful("pagemap_scan", "finding a program's pages fast"),
    useful("pagemap_scan_guard_pages", "programs with guard regions (recent C libraries)"),
    useful("breakpoints", "stopping restored processes at the right instruction fast"),
    useful("timens", "clocks that go on instead of jumping"),
    useful("uffd", "restoring before all memory is there (lazy)"),
    useful("uffd-noncoop", "lazy restore of programs that fork or remap"),
    aside("mem_dirty_track", "CRIU's own incremental dumps; Torpor's do without, by content"),
    useful("userns", "programs with user namespaces"),
    useful("cgroupns", "programs with control-group namespaces"),
    useful("move_mount_set_group", "restoring mount namespaces (containers)"),
    useful("external_net_ns", "network namespaces kept by somebody else (pods)"),
    useful("sk_ns", "sockets of other network namespaces"),
    useful("nsid", "connected network namespaces"),
    useful("link_nsid", "network links between namespaces"),
    useful("newifindex", "network links with chosen numbers"),
    useful("nftables", "dumping nftables rules of a network namespace"),
    useful("network_lock_nftables", "locking the network without iptables"),
    aside("has_ipt_legacy", "iptables of the old kind"),
    useful("loginuid", "login ids (audit)"),
    useful("autofs", "autofs mounts"),
    useful("tun", "tun devices"),
    useful("tun_ns", "tun devices in network namespaces"),
    useful("compat_cr", "32-bit programs"),
    aside("apparmor_stacking", "stacked AppArmor namespaces"),
];

pub(super) fn rows(finding: &CriuFinding) -> Vec<Row> {
    let CriuFinding::There { features, check, .. } = finding else { return Vec::new() };
    if !check.passed && features.iter().all(|found| !found.trial.passed && found.trial.said == check.said) {
        // Forty-five times the same refusal says nothing more than once.
        let row = Row::new("feature", Topic::Feature, "features");
        return vec![row.skip("not asked: CRIU's check does not run (see above)")];
    }
    features
        .iter()
        .filter_map(|found| FEATURES.iter().find(|feature| feature.name == found.name).zip(Some(found)))
        .map(|(feature, found)| {
            let row = Row::new(format!("feature.{}", feature.name), Topic::Feature, feature.name);
            if found.trial.passed {
                return row.ok(feature.purpose);
            }
            if !found.known {
                return row.skip("this CRIU does not know it");
            }
            let said = if found.trial.said.is_empty() { "missing" } else { &found.trial.said };
            let text = format!("{said} (for: {})", feature.purpose);
            let remedy = remedy(feature.name);
            match feature.weight {
                Weight::Needed => row.fail(text, remedy),
                Weight::Useful => row.warn(text, remedy),
                Weight::Aside => row.skip(text),
            }
        })
        .collect()
}

fn remedy(name: &str) -> &'static str {
    match name {
        "timens" => {
            "a kernel with CONFIG_TIME_NS=y (5.6 or newer); else programs see monotonic time jump on another machine"
        }
        "uffd" | "uffd-noncoop" => {
            "a kernel with CONFIG_USERFAULTFD=y, and CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1; else restores load all memory first"
        }
        "compat_cr" => "a kernel with CONFIG_IA32_EMULATION=y, if 32-bit programs matter",
        "network_lock_nftables" | "nftables" => {
            "install nftables, and load the kernel's nf_tables modules on the machine"
        }
        "overlayfs_maps" => "kernel 6.8 or newer, for programs that map files of their image writable",
        "pagemap_scan" | "pagemap_scan_guard_pages" => {
            "kernel 6.7 or newer (guard regions: 6.13); else freezing takes longer"
        }
        "move_mount_set_group" => "kernel 5.15 or newer",
        "clone3_set_tid" => "kernel 5.5 or newer, and CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
        "seccomp_suspend" | "seccomp_filters" => "CAP_SYS_ADMIN, and no seccomp filter on Torpor itself",
        _ => "a newer kernel, or more privileges: compare with the rows on privileges below",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Status, findings};
    use super::*;

    #[test]
    fn every_feature_of_criu_is_here_once() {
        let mut names: Vec<_> = FEATURES.iter().map(|feature| feature.name).collect();
        assert_eq!(names.len(), 45);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 45);
    }

    #[test]
    fn a_criu_that_cannot_check_is_told_once() {
        let mut finding = findings::tests::perfect().criu;
        if let CriuFinding::There { features, check, .. } = &mut finding {
            *check = super::super::CriuTrial { passed: false, said: "needs a capability".into() };
            features.iter_mut().for_each(|found| found.trial = check.clone());
        }
        let rows = rows(&finding);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].status, Status::Skip);
    }

    #[test]
    fn a_missing_feature_weighs_what_it_is_for() {
        let table = [
            ("clone3_set_tid", true, Status::Fail),
            ("timens", true, Status::Warn),
            ("has_ipt_legacy", true, Status::Skip),
            ("pagemap_scan_guard_pages", false, Status::Skip),
        ];
        for (name, known, status) in table {
            let mut finding = findings::tests::perfect().criu;
            if let CriuFinding::There { features, .. } = &mut finding {
                let found = features.iter_mut().find(|found| found.name == name).unwrap();
                found.trial.passed = false;
                found.known = known;
            }
            let rows = rows(&finding);
            let row = rows.iter().find(|row| row.title == name).unwrap();
            assert_eq!(row.status, status, "{name}");
        }
    }
}
