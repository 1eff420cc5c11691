//! Who processes act as, what they may do, and how much they may use.

use torpor_criu::image::credential::{CAPABILITIES, Creds, capability_set};
use torpor_criu::image::process::Core;

use super::Misfit;
use super::grant::Grant;

/// Names of limits in the order of their numbers (getrlimit(2)).
const LIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// Numbers of the scheduling policies that go before all others (sched(7)): FIFO, RR, DEADLINE.
const REAL_TIME: [u32; 3] = [1, 2, 6];

/// One thread.
pub(super) fn thread(thread: u32, core: &Core, grant: &Grant, all: &mut Vec<Misfit>) {
    let Some(own) = &core.thread_core else { return };
    if let Some(creds) = &own.creds {
        identities(thread, creds, grant, all);
        capabilities(thread, creds, grant, all);
        // One that has another is given the right one when it is restored. One that has none would stay without.
        let confined = |(_, label): (_, &str)| label != "unconfined";
        if grant.security_label().is_some_and(confined) && creds.lsm_profile.is_none() {
            all.push(Misfit::Unconfined { thread });
        }
        if grant.no_new_privileges && creds.no_new_privs.unwrap_or(0) == 0 {
            all.push(Misfit::NewPrivileges { thread });
        }
    }
    if !grant.may("sys_nice") {
        if own.sched_policy.is_some_and(|policy| REAL_TIME.contains(&policy)) {
            all.push(Misfit::Priority { process: thread, what: "a real-time scheduling policy" });
        }
        if own.sched_nice.is_some_and(|nice| nice < 0) {
            all.push(Misfit::Priority { process: thread, what: "a negative nice value" });
        }
    }
}

/// Users and groups. Others than at the start take the capability to change them.
fn identities(thread: u32, creds: &Creds, grant: &Grant, all: &mut Vec<Misfit>) {
    if !grant.may("setuid") {
        for id in [creds.uid, creds.euid, creds.suid, creds.fsuid] {
            if id != grant.uid {
                all.push(Misfit::User { thread, kind: "user", id });
                break;
            }
        }
    }
    if !grant.may("setgid") {
        let own = [creds.gid, creds.egid, creds.sgid, creds.fsgid];
        let granted = |id: &u32| *id == grant.gid || grant.groups.contains(id);
        if let Some(id) = own.iter().chain(&creds.groups).find(|id| !granted(id)) {
            all.push(Misfit::User { thread, kind: "group", id: *id });
        }
    }
}

/// The five sets.
fn capabilities(thread: u32, creds: &Creds, grant: &Grant, all: &mut Vec<Misfit>) {
    let given = grant.capabilities;
    let attainable = grant.attainable();
    for (set, words, granted) in [
        ("bounding", &creds.cap_bnd, given.bounding),
        ("permitted", &creds.cap_prm, attainable),
        ("effective", &creds.cap_eff, attainable),
        ("inheritable", &creds.cap_inh, given.inheritable | attainable),
        ("ambient", &creds.cap_amb, given.ambient | attainable),
    ] {
        // More words than there are capabilities for would be passed over.
        let surplus = words.iter().skip(2).any(|word| *word != 0);
        let beyond = capability_set(words) & !granted;
        if beyond != 0 || surplus {
            all.push(Misfit::Capabilities { thread, set, beyond: names(beyond) });
        }
    }
}

fn names(set: u64) -> Vec<String> {
    let name = |number: usize| match CAPABILITIES.get(number) {
        Some(name) => (*name).to_owned(),
        None => format!("capability {number}"),
    };
    (0..64).filter(|number| set & (1 << number) != 0).map(name).collect()
}

/// One process: its limits.
pub(super) fn process(process: u32, core: &Core, grant: &Grant, all: &mut Vec<Misfit>) {
    let Some(task) = &core.tc else { return };
    if grant.may("sys_resource") {
        return;
    }
    let limits = task.rlimits.as_ref().map(|limits| limits.rlimits.as_slice()).unwrap_or_default();
    for granted in &grant.limits {
        let number = LIMITS.iter().position(|name| *name == granted.kind);
        let Some(asked) = number.and_then(|number| limits.get(number)) else { continue };
        let most = asked.max.max(asked.cur);
        if most > granted.hard {
            let limit = granted.kind.clone();
            all.push(Misfit::Limit { process, limit, asked: most, granted: granted.hard });
        }
    }
    if let (Some(least), Some(asked)) = (grant.oom_score_adj, task.oom_score_adj)
        && asked < least
    {
        all.push(Misfit::Priority { process, what: "a lower oom_score_adj than is granted" });
    }
}

#[cfg(test)]
mod tests {
    use torpor_criu::image::process::{Rlimit, Rlimits, Task, Thread};

    use super::*;

    fn grant(json: &str) -> Grant {
        Grant::parse(format!(r#"{{"process": {json}}}"#).as_bytes()).unwrap()
    }

    const ORDINARY: &str = r#"{"user": {"uid": 1000, "gid": 1000, "additionalGids": [5]},
        "capabilities": {"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}}"#;
    const HELD_DOWN: &str = r#"{"user": {"uid": 0}, "noNewPrivileges": true,
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SETUID"], "permitted": ["CAP_CHOWN"]}}"#;
    const ROOT: &str = r#"{"user": {"uid": 0},
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"], "permitted": ["CAP_CHOWN"]}}"#;

    fn core(change: impl FnOnce(&mut Creds)) -> Core {
        let mut creds = Creds {
            uid: 1000,
            euid: 1000,
            suid: 1000,
            fsuid: 1000,
            gid: 1000,
            egid: 1000,
            sgid: 1000,
            fsgid: 1000,
            ..Creds::default()
        };
        change(&mut creds);
        Core { thread_core: Some(Thread { creds: Some(creds), ..Thread::default() }), ..Core::default() }
    }

    fn told(core: &Core, json: &str) -> Vec<String> {
        let mut all = Vec::new();
        thread(1, core, &grant(json), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nobody_acts_as_somebody_else_without_the_capability() {
        assert!(told(&core(|_| {}), ORDINARY).is_empty());
        assert!(told(&core(|creds| creds.groups = vec![5, 1000]), ORDINARY).is_empty());
        assert_eq!(told(&core(|creds| creds.euid = 0), ORDINARY), ["thread 1 acts as user 0"]);
        assert_eq!(told(&core(|creds| creds.fsgid = 0), ORDINARY), ["thread 1 acts as group 0"]);
        assert_eq!(told(&core(|creds| creds.groups = vec![5, 6]), ORDINARY), ["thread 1 acts as group 6"]);
        assert!(told(&core(|creds| creds.groups = vec![5, 6]), ROOT).is_empty());
        // A program that belongs to root cannot help where nobody gains privileges.
        let told = told(&core(|creds| creds.no_new_privs = Some(1)), HELD_DOWN);
        assert!(told.contains(&"thread 1 acts as user 1000".to_owned()), "{told:?}");
    }

    #[test]
    fn each_set_of_capabilities_stays_within_what_can_be_had() {
        type Set = fn(&mut Creds) -> &mut Vec<u32>;
        let sets: [(&str, Set); 5] = [
            ("bounding", |creds| &mut creds.cap_bnd),
            ("permitted", |creds| &mut creds.cap_prm),
            ("effective", |creds| &mut creds.cap_eff),
            ("inheritable", |creds| &mut creds.cap_inh),
            ("ambient", |creds| &mut creds.cap_amb),
        ];
        for (name, set) in sets {
            assert!(told(&core(|creds| *set(creds) = vec![1, 0]), ORDINARY).is_empty());
            // CAP_SYS_ADMIN, and one that has no name yet.
            let beyond = core(|creds| *set(creds) = vec![1 | 1 << 21, 1 << 31]);
            assert_eq!(
                told(&beyond, ORDINARY),
                [format!("thread 1 has sys_admin, capability 63 in its {name} set")]
            );
            assert_eq!(told(&core(|creds| *set(creds) = vec![0, 0, 1]), ORDINARY).len(), 1, "a third word");
        }
        // With no_new_privs, what only the bounding set has is never had.
        let setuid = core(|creds| {
            creds.no_new_privs = Some(1);
            (creds.uid, creds.euid, creds.suid, creds.fsuid) = (0, 0, 0, 0);
            (creds.gid, creds.egid, creds.sgid, creds.fsgid) = (0, 0, 0, 0);
            creds.cap_prm = vec![1 << 7];
            creds.cap_bnd = vec![1 << 7];
        });
        assert_eq!(told(&setuid, HELD_DOWN), ["thread 1 has setuid in its permitted set"]);
        assert!(told(&setuid, ROOT).is_empty());
    }

    #[test]
    fn whoever_must_not_gain_privileges_does_not() {
        let plain = core(|creds| (creds.uid, creds.euid, creds.suid, creds.fsuid) = (0, 0, 0, 0));
        assert!(told(&plain, HELD_DOWN).contains(&"thread 1 lacks no_new_privs".to_owned()));
    }

    #[test]
    fn whoever_is_confined_stays_so() {
        let json = r#"{"user": {"uid": 1000, "gid": 1000}, "apparmorProfile": "cri-containerd.apparmor.d"}"#;
        assert_eq!(told(&core(|_| {}), json), ["thread 1 is under no security profile"]);
        assert!(told(&core(|creds| creds.lsm_profile = Some("docker-default".into())), json).is_empty());
        assert!(told(&core(|_| {}), &json.replace("cri-containerd.apparmor.d", "unconfined")).is_empty());
    }

    #[test]
    fn nobody_goes_before_others() {
        let hurried = |policy, nice| Core {
            thread_core: Some(Thread { sched_policy: policy, sched_nice: nice, ..Thread::default() }),
            ..Core::default()
        };
        assert!(told(&hurried(Some(0), Some(5)), ORDINARY).is_empty());
        assert_eq!(told(&hurried(Some(1), None), ORDINARY), ["process 1 has a real-time scheduling policy"]);
        assert_eq!(told(&hurried(None, Some(-1)), ORDINARY), ["process 1 has a negative nice value"]);
    }

    #[test]
    fn limits_that_are_set_hold() {
        let json = r#"{"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}], "oomScoreAdj": 900}"#;
        let core = |cur, max, oom| {
            let mut rlimits = vec![Rlimit { cur: u64::MAX, max: u64::MAX }; 16];
            rlimits[7] = Rlimit { cur, max };
            Core {
                tc: Some(Task {
                    rlimits: Some(Rlimits { rlimits }),
                    oom_score_adj: Some(oom),
                    ..Task::default()
                }),
                ..Core::default()
            }
        };
        let told = |core: &Core| {
            let mut all = Vec::new();
            process(1, core, &grant(json), &mut all);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(told(&core(20, 20, 900)).is_empty());
        assert_eq!(told(&core(10, 21, 900)), ["process 1 has limit RLIMIT_NOFILE of 21, and 20 is granted"]);
        assert_eq!(
            told(&core(0, u64::MAX, 900)),
            ["process 1 has no limit RLIMIT_NOFILE, and 20 is granted"]
        );
        assert_eq!(told(&core(1, 1, -1000)), ["process 1 has a lower oom_score_adj than is granted"]);
    }
}
