//! Credentials, filters and profiles (CRIU 4.2: `images/creds.proto`, `images/seccomp.proto`, `images/apparmor.proto`).

use super::messages;

messages! {
    creds_entry {
        1 uid! u32;
        2 gid! u32;
        3 euid! u32;
        4 egid! u32;
        5 suid! u32;
        6 sgid! u32;
        7 fsuid! u32;
        8 fsgid! u32;
        9 cap_inh* u32;
        10 cap_prm* u32;
        11 cap_eff* u32;
        12 cap_bnd* u32;
        13 secbits! u32;
        14 groups* u32;
        15 lsm_profile? text;
        16 lsm_sockcreate? text;
        17 apparmor_data? bytes;
        18 no_new_privs? u32;
        19 cap_amb* u32;
    }
    seccomp_filter {
        1 filter! bytes;
        2 prev? u32;
        3 flags? u32;
    }
    seccomp_entry {
        1 seccomp_filters* message(seccomp_filter);
    }
    aa_policy {
        1 name! text;
        2 blob! bytes;
    }
    aa_namespace {
        1 name! text;
        2 policies* message(aa_policy);
        3 namespaces* message(aa_namespace);
    }
    apparmor_entry {
        1 namespaces* message(aa_namespace);
    }
}
