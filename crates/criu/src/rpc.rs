//! The messages of CRIU's RPC interface.
//!
//! Declared here from the names and field numbers of the interface (CRIU 4.2, `images/rpc.proto`, and the fields
//! that its development branch adds for 4.3). Each message is one datagram on a `SOCK_SEQPACKET` socket.

mod opts;

pub use opts::{CgroupRoot, ExtMountMap, InheritFd, JoinNamespace, Opts, UnixSk, VethPair};

use prost::Message;

/// What a request asks for, and what a response answers (`criu_req_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RequestKind {
    /// Only in responses: CRIU could not make sense of the request.
    Empty = 0,
    /// Dump a process tree.
    Dump = 1,
    /// Restore a process tree.
    Restore = 2,
    /// Check what the kernel offers.
    Check = 3,
    /// Dump memory only; more pre-dumps or the final dump follow on the same socket.
    PreDump = 4,
    /// Start a page server in the background.
    PageServer = 5,
    /// A notification, and the answer to it.
    Notify = 6,
    /// Write `cpuinfo.img`.
    CpuinfoDump = 7,
    /// Hold `cpuinfo.img` against this machine.
    CpuinfoCheck = 8,
    /// Ask for single features.
    FeatureCheck = 9,
    /// Ask for the version.
    Version = 10,
    /// Wait for a child of CRIU's.
    WaitPid = 11,
    /// Start a page server as CRIU's child.
    PageServerChld = 12,
    /// One pre-dump, after which CRIU ends.
    SinglePreDump = 13,
}

impl std::fmt::Display for RequestKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty request",
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::Check => "check",
            Self::PreDump => "pre-dump",
            Self::PageServer => "page server",
            Self::Notify => "notification",
            Self::CpuinfoDump => "cpuinfo dump",
            Self::CpuinfoCheck => "cpuinfo check",
            Self::FeatureCheck => "feature check",
            Self::Version => "version",
            Self::WaitPid => "wait for pid",
            Self::PageServerChld => "page server child",
            Self::SinglePreDump => "single pre-dump",
        })
    }
}

/// How CRIU treats control groups (`criu_cg_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CgroupMode {
    /// Leave control groups alone.
    Ignore = 0,
    /// Restore none, but require them to be there.
    None = 1,
    /// Restore properties of groups that exist.
    Props = 2,
    /// Restore what does not exist.
    Soft = 3,
    /// Always restore.
    Full = 4,
    /// Fail if a group exists.
    Strict = 5,
    /// What CRIU does by itself.
    Default = 6,
}

/// How CRIU keeps packets from the program while its connections are saved (`criu_network_lock_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum NetworkLock {
    /// Rules by `iptables-restore`; slow (about 0.1 s) and needs the programs.
    Iptables = 1,
    /// Rules by nftables.
    Nftables = 2,
    /// None: the caller locks, or nothing needs to be.
    Skip = 3,
}

/// How a pre-dump reads memory (`criu_pre_dump_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum PreDumpMode {
    /// Pages are gifted through pipes from within the task.
    Splice = 1,
    /// Pages are read from outside by `process_vm_readv`.
    VmRead = 2,
}

/// How 4.3 compresses pages (`criu_compress_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CompressMode {
    /// Not at all.
    Off = 0,
    /// Page by page.
    Page = 1,
    /// By regions of several pages.
    Region = 2,
}

/// A page server's address (`criu_page_server_info`): where CRIU connects, or what it answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PageServerInfo {
    /// Host or address.
    #[prost(string, optional, tag = "1")]
    pub address: Option<String>,
    /// TCP port.
    #[prost(int32, optional, tag = "2")]
    pub port: Option<i32>,
    /// The page server's process.
    #[prost(int32, optional, tag = "3")]
    pub pid: Option<i32>,
    /// A connected socket, by its number within CRIU.
    #[prost(int32, optional, tag = "4")]
    pub fd: Option<i32>,
}

/// One datagram to CRIU (`criu_req`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// What is asked for.
    #[prost(enumeration = "RequestKind", required, tag = "1")]
    pub kind: i32,
    /// Options, for most kinds.
    #[prost(message, optional, boxed, tag = "2")]
    pub opts: Option<Box<Opts>>,
    /// The answer to a notification.
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
    /// CRIU stays for another request (version, feature check, cpuinfo, page server).
    #[prost(bool, optional, tag = "4")]
    pub keep_open: Option<bool>,
    /// The features asked for.
    #[prost(message, optional, tag = "5")]
    pub features: Option<Features>,
    /// The process to wait for.
    #[prost(uint32, optional, tag = "6")]
    pub pid: Option<u32>,
}

/// One datagram from CRIU (`criu_resp`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// What is answered; [`RequestKind::Notify`] for a notification.
    #[prost(enumeration = "RequestKind", required, tag = "1")]
    pub kind: i32,
    /// Whether it was done.
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    /// Answer to a dump.
    #[prost(message, optional, tag = "3")]
    pub dump: Option<DumpResponse>,
    /// Answer to a restore.
    #[prost(message, optional, tag = "4")]
    pub restore: Option<RestoreResponse>,
    /// A notification.
    #[prost(message, optional, tag = "5")]
    pub notify: Option<Notify>,
    /// Answer to a page server request.
    #[prost(message, optional, tag = "6")]
    pub ps: Option<PageServerInfo>,
    /// The error number CRIU put on a failure: `ESRCH`, `EEXIST`, `EBADRQC` and few more.
    #[prost(int32, optional, tag = "7")]
    pub cr_errno: Option<i32>,
    /// Answer to a feature check.
    #[prost(message, optional, tag = "8")]
    pub features: Option<Features>,
    /// The first error line of CRIU's log.
    #[prost(string, optional, tag = "9")]
    pub cr_errmsg: Option<String>,
    /// Answer to a version request.
    #[prost(message, optional, tag = "10")]
    pub version: Option<Version>,
    /// Answer to a wait: the raw wait status.
    #[prost(int32, optional, tag = "11")]
    pub status: Option<i32>,
}

impl Response {
    /// Reads one datagram.
    ///
    /// # Errors
    /// The datagram is not a response.
    pub fn from_datagram(datagram: &[u8]) -> Result<Self, prost::DecodeError> {
        Self::decode(datagram)
    }
}

/// Answer to a dump (`criu_dump_resp`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct DumpResponse {
    /// Set when a process that dumped itself reads this after its restore.
    #[prost(bool, optional, tag = "1")]
    pub restored: Option<bool>,
}

/// Answer to a restore (`criu_restore_resp`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct RestoreResponse {
    /// The root of the restored tree, as CRIU sees it.
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

/// A notification (`criu_notify`).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Notify {
    /// The event's name, such as `post-dump`.
    #[prost(string, optional, tag = "1")]
    pub script: Option<String>,
    /// The root of the tree, with `setup-namespaces` and `post-restore`.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}

/// Single features (`criu_features`): true asks in a request and affirms in a response.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Features {
    /// The kernel tracks changed pages (soft-dirty), which a pre-dump needs.
    #[prost(bool, optional, tag = "1")]
    pub mem_track: Option<bool>,
    /// Pages can be delivered on demand (non-cooperative user faults).
    #[prost(bool, optional, tag = "2")]
    pub lazy_pages: Option<bool>,
    /// `pidfd_open` and `pidfd_getfd` are there.
    #[prost(bool, optional, tag = "3")]
    pub pidfd_store: Option<bool>,
    /// CRIU can compress pages (4.3).
    #[prost(bool, optional, tag = "4")]
    pub mem_compression: Option<bool>,
}

impl Features {
    /// Asks for everything there is to ask for.
    pub const ALL: Self = Self {
        mem_track: Some(true),
        lazy_pages: Some(true),
        pidfd_store: Some(true),
        mem_compression: Some(true),
    };
}

/// CRIU's version (`criu_version`).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Version {
    /// 4 in 4.2.1.
    #[prost(int32, required, tag = "1")]
    pub major: i32,
    /// 2 in 4.2.1.
    #[prost(int32, required, tag = "2")]
    pub minor: i32,
    /// The commit it was built from, where known.
    #[prost(string, optional, tag = "3")]
    pub gitid: Option<String>,
    /// 1 in 4.2.1.
    #[prost(int32, optional, tag = "4")]
    pub sublevel: Option<i32>,
    /// A fourth number.
    #[prost(int32, optional, tag = "5")]
    pub extra: Option<i32>,
    /// The release's name.
    #[prost(string, optional, tag = "6")]
    pub name: Option<String>,
}

impl Version {
    /// Major, minor and sublevel, for comparisons.
    #[must_use]
    pub fn numbers(&self) -> (i32, i32, i32) {
        (self.major, self.minor, self.sublevel())
    }

    /// CRIU's way to write a version as one number: 40201 is 4.2.1.
    #[must_use]
    pub fn number(&self) -> u32 {
        let (major, minor, sublevel) = self.numbers();
        (major * 10_000 + minor * 100 + sublevel).unsigned_abs()
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if let Some(sublevel) = self.sublevel {
            write!(f, ".{sublevel}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_version_request_is_two_fields() {
        let request =
            Request { kind: RequestKind::Version as i32, keep_open: Some(true), ..Request::default() };
        assert_eq!(request.encode_to_vec(), [0x08, 10, 0x20, 1]);
    }

    #[test]
    fn the_required_images_descriptor_is_sent_even_when_it_is_zero() {
        let opts = Opts { images_dir_fd: 0, ..Opts::default() };
        assert_eq!(opts.encode_to_vec(), [0x08, 0]);
        assert_eq!(Opts::default().images_dir_fd, -1);
    }

    #[test]
    fn a_response_of_criu_4_2_1_is_read() {
        let datagram = [0x08, 10, 0x10, 1, 0x52, 6, 0x08, 4, 0x10, 2, 0x20, 1];
        let response = Response::from_datagram(&datagram).unwrap();
        assert!(response.success);
        assert_eq!(response.version.unwrap().to_string(), "4.2.1");
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_or_refused(datagram in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Response::from_datagram(&datagram);
            let _ = Request::decode(&datagram[..]);
        }

        #[test]
        fn a_response_survives_the_wire(success: bool, errno: Option<i32>, message: Option<String>, pid: i32) {
            let response = Response {
                kind: RequestKind::Restore as i32,
                success,
                restore: Some(RestoreResponse { pid }),
                cr_errno: errno,
                cr_errmsg: message,
                ..Response::default()
            };
            prop_assert_eq!(Response::from_datagram(&response.encode_to_vec()).unwrap(), response);
        }
    }
}
