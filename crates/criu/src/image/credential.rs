//! What a task may do: credentials and seccomp filters (CRIU `images/creds.proto`, `images/seccomp.proto`).

use prost::Message;

use super::records;

/// The kernel's names of capabilities, in the order of their numbers (capabilities(7), `include/uapi/linux/capability.h`).
pub const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Credentials.
#[derive(Clone, PartialEq, Message)]
pub struct Creds {
    /// Real user.
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    /// Real group.
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    /// Effective user.
    #[prost(uint32, required, tag = "3")]
    pub euid: u32,
    /// Effective group.
    #[prost(uint32, required, tag = "4")]
    pub egid: u32,
    /// Saved user.
    #[prost(uint32, required, tag = "5")]
    pub suid: u32,
    /// Saved group.
    #[prost(uint32, required, tag = "6")]
    pub sgid: u32,
    /// User for access to files.
    #[prost(uint32, required, tag = "7")]
    pub fsuid: u32,
    /// Group for access to files.
    #[prost(uint32, required, tag = "8")]
    pub fsgid: u32,
    /// Inheritable capabilities, 32 in each word, lowest first.
    #[prost(uint32, repeated, packed = "false", tag = "9")]
    pub cap_inh: Vec<u32>,
    /// Permitted capabilities.
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    pub cap_prm: Vec<u32>,
    /// Effective capabilities.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub cap_eff: Vec<u32>,
    /// Bounding set.
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    pub cap_bnd: Vec<u32>,
    /// Secure bits, as in capabilities(7).
    #[prost(uint32, required, tag = "13")]
    pub secbits: u32,
    /// Supplementary groups.
    #[prost(uint32, repeated, packed = "false", tag = "14")]
    pub groups: Vec<u32>,
    /// AppArmor profile or SELinux label.
    #[prost(string, optional, tag = "15")]
    pub lsm_profile: Option<String>,
    /// SELinux label for new sockets.
    #[prost(string, optional, tag = "16")]
    pub lsm_sockcreate: Option<String>,
    /// Non-zero once `PR_SET_NO_NEW_PRIVS` was called.
    #[prost(uint32, optional, tag = "18")]
    pub no_new_privs: Option<u32>,
    /// Ambient capabilities (since CRIU 4.1).
    #[prost(uint32, repeated, packed = "false", tag = "19")]
    pub cap_amb: Vec<u32>,
}

/// A set of capabilities as one number, bit *n* for capability *n*.
#[must_use]
pub fn capability_set(words: &[u32]) -> u64 {
    words.iter().take(2).enumerate().fold(0, |set, (index, word)| set | u64::from(*word) << (32 * index))
}

/// `seccomp.img`: every filter, each process pointing to its last.
#[derive(Clone, PartialEq, Message)]
pub struct SeccompFilters {
    /// The filters; a filter's place in the list is its number.
    #[prost(message, repeated, tag = "1")]
    pub seccomp_filters: Vec<SeccompFilter>,
}

/// One seccomp filter.
#[derive(Clone, PartialEq, Message)]
pub struct SeccompFilter {
    /// The program, eight bytes for each instruction.
    #[prost(bytes = "vec", required, tag = "1")]
    pub filter: Vec<u8>,
    /// The filter installed before it.
    #[prost(uint32, optional, tag = "2")]
    pub prev: Option<u32>,
    /// Flags of seccomp(2).
    #[prost(uint32, optional, tag = "3")]
    pub flags: Option<u32>,
}

records! { SeccompFilters => Seccomp }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_numbered_across_words() {
        assert_eq!(capability_set(&[1 << 21, 1 << 8]), 1 << 21 | 1 << 40);
        assert_eq!(capability_set(&[]), 0);
    }
}
