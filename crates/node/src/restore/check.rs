//! The check before a restore: does what the manifest tells fit this machine and container?
//!
//! A table of pure decisions: what was, and what is here. The first misfit refuses the generation.

use std::fmt;

use crate::capabilities::Capabilities;
use crate::config::AllowChanged;
use crate::facts::Facts;
use crate::machine::Machine;
use crate::volumes::Changed;

/// What there is to restore on.
#[derive(Debug)]
pub struct Site<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// What this process may do.
    pub capabilities: Capabilities,
    /// Differences that were declared harmless.
    pub allowed: &'a [AllowChanged],
}

/// Why a generation does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// Another architecture.
    Architecture {
        /// What it was.
        was: String,
        /// What it is.
        is: String,
    },
    /// Pages of another size.
    PageSize {
        /// What it was, in bytes.
        was: u64,
        /// What it is, in bytes.
        is: u64,
    },
    /// The processor lacks features that the program may have found.
    Cpu {
        /// Which, by the kernel's names.
        lacking: Vec<String>,
    },
    /// An older CRIU than the one that made the images.
    Criu {
        /// The version that made them.
        was: u32,
        /// The version here.
        is: u32,
    },
    /// Namespaces of its own cannot be made here.
    Namespaces,
    /// Connections were captured and cannot be put back without `CAP_NET_ADMIN`.
    NoRepair,
    /// A file outside of the checkpoint that the program had open is another one now.
    Volume(Box<Changed>),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Architecture { was, is } => write!(f, "it was made on {was}, and this machine is {is}"),
            Misfit::PageSize { was, is } => {
                write!(f, "it was made with pages of {was} bytes, and this machine has {is}")
            }
            Misfit::Cpu { lacking } => {
                write!(f, "this machine's processor lacks what the program may use: {}", lacking.join(", "))
            }
            Misfit::Criu { was, is } => write!(
                f,
                "it was made by CRIU {}, and CRIU {} here is older",
                CriuVersion(*was),
                CriuVersion(*is)
            ),
            Misfit::Namespaces => {
                f.write_str("the program has IPC or time namespaces of its own, which cannot be made here")
            }
            Misfit::NoRepair => {
                f.write_str("it holds TCP connections, which cannot be put back without CAP_NET_ADMIN")
            }
            Misfit::Volume(changed) => write!(f, "{changed}"),
        }
    }
}

impl Misfit {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Misfit::Architecture { .. } | Misfit::PageSize { .. } => {
                "restore it on a node of the kind it was made on".to_owned()
            }
            Misfit::Cpu { .. } => "restore it on a node with these features, or start the program with \
                                   --cpu-baseline so that it keeps to what all nodes have"
                .to_owned(),
            Misfit::Criu { was, .. } => {
                format!("bring CRIU {} or newer here: `torpor doctor` tells how", CriuVersion(*was))
            }
            Misfit::Namespaces => "give Torpor CAP_SYS_ADMIN, as it had at the checkpoint".to_owned(),
            Misfit::NoRepair => "give Torpor CAP_NET_ADMIN, as it had at the checkpoint".to_owned(),
            Misfit::Volume(_) => {
                "put the file back as it was, or accept the change with --allow-changed volume".to_owned()
            }
        }
    }
}

/// A version as people write it, from CRIU's number (40201 is 4.2.1).
struct CriuVersion(u32);

impl fmt::Display for CriuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CriuVersion(number) = self;
        write!(f, "{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }
}

/// Holds the version of CRIU that made the images against the one here, as numbers; only major and minor count.
///
/// # Errors
/// [`Misfit::Criu`].
pub(crate) fn criu(was: u32, is: u32) -> Result<(), Misfit> {
    if was / 100 > is / 100 { Err(Misfit::Criu { was, is }) } else { Ok(()) }
}

/// Holds the machine of a checkpoint against another.
///
/// # Errors
/// The first misfit.
pub fn machine(was: &Machine, is: &Machine) -> Result<(), Misfit> {
    if was.kernel.architecture != is.kernel.architecture {
        return Err(Misfit::Architecture {
            was: was.kernel.architecture.clone(),
            is: is.kernel.architecture.clone(),
        });
    }
    if was.page_size != is.page_size {
        return Err(Misfit::PageSize { was: was.page_size, is: is.page_size });
    }
    let lacking: Vec<String> = is.cpu.lacks(&was.cpu).into_iter().map(str::to_owned).collect();
    if !lacking.is_empty() {
        return Err(Misfit::Cpu { lacking });
    }
    Ok(())
}

/// Holds the facts of a checkpoint against the place where it should run.
///
/// # Errors
/// The first misfit.
pub fn check(facts: &Facts, site: &Site<'_>, volumes: Vec<Changed>) -> Result<(), Misfit> {
    machine(&facts.machine, site.machine)?;
    if (facts.namespaces.ipc || facts.namespaces.time) && !site.capabilities.has("sys_admin") {
        return Err(Misfit::Namespaces);
    }
    if facts.tcp.inside > 0 && !site.capabilities.has("net_admin") {
        return Err(Misfit::NoRepair);
    }
    if let Some(changed) = volumes.into_iter().next()
        && !site.allowed.contains(&AllowChanged::Volume)
    {
        return Err(Misfit::Volume(Box::new(changed)));
    }
    Ok(())
}
