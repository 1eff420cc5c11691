//! Namespaces: what the configuration keeps apart from the machine stays apart.

use torpor_criu::image::process::Ids;

use super::grant::Grant;
use super::{Claim, Misfit, has_ended};

/// A kind of namespace as the specification calls it, and its number among what a process shares.
type Kind = (&'static str, fn(&Ids) -> Option<u32>);

const KINDS: [Kind; 8] = [
    ("pid", |ids| ids.pid_ns_id),
    ("network", |ids| ids.net_ns_id),
    ("ipc", |ids| ids.ipc_ns_id),
    ("uts", |ids| ids.uts_ns_id),
    ("mount", |ids| ids.mnt_ns_id),
    ("user", |ids| ids.user_ns_id),
    ("cgroup", |ids| ids.cgroup_ns_id),
    ("time", |ids| ids.time_ns_id),
];

/// Holds each process's namespaces against those of the configuration. Equal numbers are one namespace, and what is not said is
/// the machine's.
pub(super) fn check(claim: &Claim, grant: &Grant, all: &mut Vec<Misfit>) {
    let machine = claim.machine.unwrap_or_default();
    for (process, ids, core) in &claim.processes {
        if has_ended(core) {
            continue;
        }
        let ids = ids.unwrap_or_default();
        for (kind, of) in KINDS {
            let is_machines = of(&ids).unwrap_or(0) == of(&machine).unwrap_or(0);
            if grant.has_namespace(kind) && is_machines {
                all.push(Misfit::Namespace { process: *process, kind });
            }
        }
    }
    let granted = |ranges: &[torpor_criu::image::namespace::IdRange], wanted: &[(u32, u32, u32)]| {
        ranges.iter().map(|range| (range.first, range.lower_first, range.count)).eq(wanted.iter().copied())
    };
    let fits = match grant.has_namespace("user") {
        false => claim.users.is_empty(),
        true => {
            claim.users.len() == 1
                && granted(&claim.users[0].uid_map, &grant.uid_map)
                && granted(&claim.users[0].gid_map, &grant.gid_map)
        }
    };
    if !fits {
        all.push(Misfit::Users);
    }
}

#[cfg(test)]
mod tests {
    use torpor_criu::image::namespace::{IdRange, UserNamespace};
    use torpor_criu::image::process::{Core, Task};

    use super::*;

    fn grant(kinds: &[&str]) -> Grant {
        let kinds: Vec<_> = kinds.iter().map(|kind| serde_json::json!({"type": kind})).collect();
        let map = serde_json::json!([{"containerID": 0, "hostID": 1000, "size": 9}]);
        let linux = serde_json::json!({"namespaces": kinds, "uidMappings": map, "gidMappings": map});
        Grant::parse(serde_json::json!({"linux": linux}).to_string().as_bytes()).unwrap()
    }

    fn ids(network: Option<u32>, mount: Option<u32>) -> Ids {
        Ids { net_ns_id: network, mnt_ns_id: mount, ..Ids::default() }
    }

    fn told(machine: Option<Ids>, own: Option<Ids>, state: u32, grant: &Grant) -> Vec<String> {
        let core = Core { tc: Some(Task { task_state: state, ..Task::default() }), ..Core::default() };
        let claim = Claim { machine, processes: vec![(1, own, core)], ..Claim::default() };
        let mut all = Vec::new();
        check(&claim, grant, &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_kept_apart_stays_apart() {
        let both = grant(&["network", "mount"]);
        let machine = Some(ids(Some(1), Some(2)));
        assert!(told(machine, Some(ids(Some(3), Some(4))), 1, &both).is_empty());
        assert_eq!(
            told(machine, Some(ids(Some(1), Some(4))), 1, &both),
            ["process 1 is in the machine's network namespace"]
        );
        assert!(told(machine, Some(ids(Some(1), Some(4))), 1, &grant(&["mount"])).is_empty());
        assert_eq!(told(None, Some(ids(None, None)), 1, &both).len(), 2, "what is not said is the machine's");
        assert_eq!(told(None, None, 1, &both).len(), 2);
        assert!(told(machine, None, 6, &both).is_empty(), "a zombie is nowhere");
    }

    #[test]
    fn user_namespaces_are_those_that_are_granted() {
        let range = |lower_first| IdRange { first: 0, lower_first, count: 9 };
        let users = |lower| UserNamespace { uid_map: vec![range(lower)], gid_map: vec![range(lower)] };
        let fits = |users: Vec<UserNamespace>, grant: &Grant| {
            let mut all = Vec::new();
            check(&Claim { users, ..Claim::default() }, grant, &mut all);
            all.is_empty()
        };
        assert!(fits(vec![], &grant(&[])));
        assert!(!fits(vec![users(1000)], &grant(&[])));
        assert!(fits(vec![users(1000)], &grant(&["user"])));
        assert!(!fits(vec![users(0)], &grant(&["user"])));
        assert!(!fits(vec![users(1000), users(0)], &grant(&["user"])));
        assert!(!fits(vec![], &grant(&["user"])));
    }
}
