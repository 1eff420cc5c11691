//! A checkpoint at a glance.

use serde::Serialize;
use torpor_criu::image::Kind;
use torpor_criu::image::process::{Inventory, LsmType, Machine};

use super::images::Images;
use super::processes::Found;
use crate::source::EntryKind;

/// A checkpoint at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The processor it needs, as `x86_64`.
    pub architecture: String,
    /// The process at the root of the tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// How many processes there are.
    pub processes: usize,
    /// Their threads.
    pub threads: usize,
    /// How many of the processes had ended, and were not yet waited for.
    pub ended: usize,
    /// How much there is of what.
    pub sizes: Sizes,
    /// What CRIU recorded about the dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criu: Option<Criu>,
}

/// The process at the root of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Root {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// How much there is of what, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    /// Everything.
    pub total: u64,
    /// Pages of memory.
    pub pages: u64,
    /// Pages of memory in parents.
    pub parent_pages: u64,
    /// Memory of graphics processors.
    pub gpu_pages: u64,
    /// CRIU's other images.
    pub images: u64,
    /// What was changed in the container's file system.
    pub root_fs_diff: u64,
    /// Everything else.
    pub other: u64,
    /// How many dumps there are on top of each other.
    pub layers: usize,
    /// How many files it consists of.
    pub entries: usize,
}

/// What CRIU recorded about the dump.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Criu {
    /// The version of the images' format.
    pub image_version: u32,
    /// `none`, `selinux`, `apparmor`, or the number that stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsm: Option<String>,
    /// TCP connections were closed.
    pub tcp_closed: bool,
    /// `iptables`, `nftables`, `none`, or the number that stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_lock: Option<String>,
    /// Plugins that took part.
    pub plugins: Vec<String>,
    /// How long the machine had been up, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_us: Option<u64>,
    /// Probes in programs were allowed.
    pub uprobes: bool,
}

pub(super) fn summary(images: &Images<'_>, inventory: Option<&Inventory>, processes: &[Found]) -> Summary {
    let machine = processes.iter().find_map(Found::machine);
    Summary {
        architecture: architecture(machine).to_owned(),
        root: processes.first().map(|root| Root { pid: root.pid(), name: root.process().name }),
        processes: processes.len(),
        threads: processes.iter().filter(|found| found.lives()).map(|found| 1 + found.threads.len()).sum(),
        ended: processes.iter().filter(|found| !found.lives()).count(),
        sizes: sizes(images),
        criu: inventory.map(criu),
    }
}

fn architecture(machine: Option<Machine>) -> &'static str {
    match machine {
        Some(Machine::X86_64) => "x86_64",
        Some(Machine::Arm) => "arm",
        Some(Machine::Aarch64) => "aarch64",
        Some(Machine::Ppc64) => "ppc64le",
        Some(Machine::S390) => "s390x",
        Some(Machine::Mips) => "mips64",
        Some(Machine::Loongarch64) => "loongarch64",
        Some(Machine::Riscv64) => "riscv64",
        Some(Machine::Unknown) | None => "unknown",
    }
}

fn criu(inventory: &Inventory) -> Criu {
    Criu {
        image_version: inventory.img_version,
        lsm: inventory.lsmtype.map(|number| match LsmType::try_from(number) {
            Ok(LsmType::NoLsm) => "none".to_owned(),
            Ok(LsmType::Selinux) => "selinux".to_owned(),
            Ok(LsmType::Apparmor) => "apparmor".to_owned(),
            Err(_) => number.to_string(),
        }),
        tcp_closed: inventory.tcp_close == Some(true),
        network_lock: inventory.network_lock_method.map(|method| match method {
            0 => "iptables".to_owned(),
            1 => "nftables".to_owned(),
            2 => "none".to_owned(),
            other => other.to_string(),
        }),
        plugins: inventory.plugins_entry.as_ref().map(|entry| entry.plugins.clone()).unwrap_or_default(),
        uptime_us: inventory.dump_uptime,
        uprobes: inventory.allow_uprobes == Some(true),
    }
}

fn sizes(images: &Images<'_>) -> Sizes {
    let checkpoint = images.checkpoint();
    let mut sizes = Sizes { layers: checkpoint.layers().len(), ..Sizes::default() };
    for entry in checkpoint.entries().iter().filter(|entry| entry.kind == EntryKind::File) {
        sizes.total += entry.size;
        sizes.entries += 1;
        if entry.name == "rootfs-diff.tar" {
            sizes.root_fs_diff += entry.size;
        }
    }
    for (depth, layer) in checkpoint.layers().iter().enumerate() {
        for (name, entry) in checkpoint.images(layer) {
            match name.kind {
                Kind::Pages if depth == 0 => sizes.pages += entry.size,
                Kind::Pages => sizes.parent_pages += entry.size,
                _ => sizes.images += entry.size,
            }
        }
        let gpu = format!("{}amdgpu-pages-", layer.prefix);
        let of_gpu = checkpoint.entries().iter().filter(|entry| entry.name.starts_with(&gpu));
        sizes.gpu_pages += of_gpu.map(|entry| entry.size).sum::<u64>();
    }
    let known = [sizes.pages, sizes.parent_pages, sizes.gpu_pages, sizes.images, sizes.root_fs_diff];
    sizes.other = sizes.total.saturating_sub(known.iter().sum());
    sizes
}
