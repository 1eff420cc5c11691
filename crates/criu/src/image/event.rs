//! Open files that tell of events (CRIU `images/eventfd.proto`, `eventpoll.proto`, `signalfd.proto`, `timerfd.proto`, `fsnotify.proto`,
//! `fh.proto`, `pidfd.proto`).

use prost::Message;

/// An event counter.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct EventFd {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Its count.
    #[prost(uint64, required, tag = "4")]
    pub counter: u64,
}

/// An event poll.
#[derive(Clone, PartialEq, Message)]
pub struct EventPoll {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// What it waits for.
    #[prost(message, repeated, tag = "4")]
    pub tfd: Vec<EventPollTarget>,
}

/// A descriptor that an event poll waits for.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct EventPollTarget {
    /// The poll's id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The descriptor.
    #[prost(uint32, required, tag = "2")]
    pub tfd: u32,
    /// Events, as in epoll_ctl(2).
    #[prost(uint32, required, tag = "3")]
    pub events: u32,
    /// What the program stored with it.
    #[prost(uint64, required, tag = "4")]
    pub data: u64,
}

/// A signal descriptor.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SignalFd {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Signals it delivers.
    #[prost(uint64, required, tag = "4")]
    pub sigmask: u64,
}

/// A timer descriptor.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TimerFd {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Clock, as in clock_gettime(2).
    #[prost(uint32, required, tag = "4")]
    pub clockid: u32,
    /// Expirations not read.
    #[prost(uint64, required, tag = "5")]
    pub ticks: u64,
    /// Flags, as in timerfd_settime(2).
    #[prost(uint32, required, tag = "6")]
    pub settime_flags: u32,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "7")]
    pub vsec: u64,
    /// Time left, nanoseconds.
    #[prost(uint64, required, tag = "8")]
    pub vnsec: u64,
    /// Interval, seconds.
    #[prost(uint64, required, tag = "9")]
    pub isec: u64,
    /// Interval, nanoseconds.
    #[prost(uint64, required, tag = "10")]
    pub insec: u64,
}

/// An inotify descriptor.
#[derive(Clone, PartialEq, Message)]
pub struct Inotify {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// What it watches.
    #[prost(message, repeated, tag = "5")]
    pub wd: Vec<InotifyWatch>,
}

/// A watch.
#[derive(Clone, PartialEq, Message)]
pub struct InotifyWatch {
    /// The descriptor's id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The inode watched.
    #[prost(uint64, required, tag = "2")]
    pub i_ino: u64,
    /// Events, as in inotify(7).
    #[prost(uint32, required, tag = "3")]
    pub mask: u32,
    /// The device of the inode.
    #[prost(uint32, required, tag = "5")]
    pub s_dev: u32,
    /// The watch's number.
    #[prost(uint32, required, tag = "6")]
    pub wd: u32,
    /// How a restore finds the inode.
    #[prost(message, required, tag = "7")]
    pub f_handle: FileHandle,
}

/// How an inode is found again.
#[derive(Clone, PartialEq, Message)]
pub struct FileHandle {
    /// Bytes of the handle.
    #[prost(uint32, required, tag = "1")]
    pub bytes: u32,
    /// The handle's type.
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// Its path, where CRIU found one.
    #[prost(string, optional, tag = "4")]
    pub path: Option<String>,
    /// Its mount.
    #[prost(uint32, optional, tag = "5")]
    pub mnt_id: Option<u32>,
}

/// A process descriptor.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PidFd {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Its inode; those of one process have the same.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    /// The process, -1 if it had ended.
    #[prost(int32, required, tag = "4")]
    pub nspid: i32,
}
