//! Control groups (CRIU `images/cgroup.proto`).

use prost::Message;

use super::records;

/// `cgroup.img`.
#[derive(Clone, PartialEq, Message)]
pub struct Cgroups {
    /// Which groups go together: tasks and the inventory point to one of these.
    #[prost(message, repeated, tag = "1")]
    pub sets: Vec<CgroupSet>,
    /// The hierarchies, with the directories CRIU makes again.
    #[prost(message, repeated, tag = "2")]
    pub controllers: Vec<Hierarchy>,
}

/// One group of each hierarchy.
#[derive(Clone, PartialEq, Message)]
pub struct CgroupSet {
    /// The id tasks point to.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The groups.
    #[prost(message, repeated, tag = "2")]
    pub ctls: Vec<Membership>,
}

/// A group of one hierarchy.
#[derive(Clone, PartialEq, Message)]
pub struct Membership {
    /// The controllers of version 1, as `cpu,cpuacct` or `name=systemd`; empty for version 2.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// The group's path.
    #[prost(string, required, tag = "2")]
    pub path: String,
    /// How much of the path, in bytes, is outside the cgroup namespace.
    #[prost(uint32, optional, tag = "3")]
    pub cgns_prefix: Option<u32>,
}

/// A hierarchy.
#[derive(Clone, PartialEq, Message)]
pub struct Hierarchy {
    /// Its controllers.
    #[prost(string, repeated, tag = "1")]
    pub cnames: Vec<String>,
    /// The top directories of the groups.
    #[prost(message, repeated, tag = "2")]
    pub dirs: Vec<CgroupDirectory>,
    /// Threads may be in groups of their own.
    #[prost(bool, optional, tag = "3")]
    pub is_threaded: Option<bool>,
}

/// A group's directory.
#[derive(Clone, PartialEq, Message)]
pub struct CgroupDirectory {
    /// Its name, below its parent's.
    #[prost(string, required, tag = "1")]
    pub dir_name: String,
    /// Groups below it.
    #[prost(message, repeated, tag = "2")]
    pub children: Vec<CgroupDirectory>,
    /// Its settings.
    #[prost(message, repeated, tag = "3")]
    pub properties: Vec<CgroupProperty>,
}

/// A setting of a group.
#[derive(Clone, PartialEq, Message)]
pub struct CgroupProperty {
    /// The file, as `memory.limit_in_bytes`.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// What is in it.
    #[prost(string, required, tag = "2")]
    pub value: String,
}

records! { Cgroups => Cgroup }
