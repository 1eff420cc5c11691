//! Whether a container can go on at its target: what is there against what would come. The source decides, before anything is frozen.

use super::message::{Offer, Site};
use crate::machine::Kernel;
use crate::restore::check;

/// Why a container cannot go on at its target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The machine, its processor, or its CRIU.
    #[error("{0}")]
    Machine(check::Misfit),
    /// An older kernel, which may lack what the program has found here.
    #[error("the container runs on Linux {here}, and Linux {there} there is older")]
    Kernel {
        /// The source's.
        here: String,
        /// The target's.
        there: String,
    },
    /// Too little memory.
    #[error("the container has {needed} bytes of memory, and {free} are free there")]
    Memory {
        /// What it has.
        needed: u64,
        /// What is free.
        free: u64,
    },
    /// Too little room for what is sent.
    #[error("up to {needed} bytes are kept there until the container runs, and there is room for {free}")]
    Room {
        /// What it may take.
        needed: u64,
        /// What is free.
        free: u64,
    },
}

impl Unfit {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Unfit::Machine(misfit) => misfit.remedy(),
            Unfit::Kernel { .. } => {
                "move it to a machine whose kernel is as new; where it uses nothing that the older one lacks, say --older-kernel"
                    .to_owned()
            }
            Unfit::Memory { .. } => "free memory there, or move it to another machine".to_owned(),
            Unfit::Room { .. } => "make room there, or name a larger disk by --room of `torpor receive`".to_owned(),
        }
    }
}

/// Holds what is at the target against what would come. It is there twice for a while: as it was sent, and as images.
///
/// # Errors
/// The first thing that does not fit.
pub fn check(offer: &Offer, site: &Site, older_kernel: bool) -> Result<(), Unfit> {
    check::machine(&offer.machine, &site.machine).map_err(Unfit::Machine)?;
    check::criu(offer.criu, site.criu).map_err(Unfit::Machine)?;
    if !older_kernel && is_older(&site.machine.kernel, &offer.machine.kernel) {
        let release = |kernel: &Kernel| kernel.release.clone();
        let (here, there) = (release(&offer.machine.kernel), release(&site.machine.kernel));
        return Err(Unfit::Kernel { here, there });
    }
    if site.memory < offer.memory {
        return Err(Unfit::Memory { needed: offer.memory, free: site.memory });
    }
    let needed = offer.memory.saturating_mul(2);
    if site.room < needed {
        return Err(Unfit::Room { needed, free: site.room });
    }
    Ok(())
}

/// Only major and minor count: what a program can see does not change within one. A release that tells no version is no reason.
fn is_older(kernel: &Kernel, than: &Kernel) -> bool {
    matches!((kernel.version(), than.version()), (Some(one), Some(other)) if one < other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Engine;
    use crate::container::adoption::Outline;
    use crate::machine::Machine;
    use crate::migration::message::VERSION;

    const MEMORY: u64 = 1 << 30;

    fn both() -> (Offer, Site) {
        let mut machine = Machine::read();
        machine.kernel.release = "6.12.4-amd64".to_owned();
        let offer = Offer {
            version: VERSION,
            id: "web".to_owned(),
            engine: Engine::None,
            name: None,
            outline: Outline::default(),
            machine: machine.clone(),
            criu: 40200,
            external: Vec::new(),
            memory: MEMORY,
        };
        let site =
            Site { machine, criu: 40201, runtime: "runc".to_owned(), memory: MEMORY, room: 2 * MEMORY };
        (offer, site)
    }

    #[test]
    fn a_target_like_the_source_fits_and_what_it_lacks_is_told_with_a_remedy() {
        let (offer, site) = both();
        assert_eq!(check(&offer, &site, false), Ok(()));
        type Change = fn(&mut Site);
        let cases: [(Change, &str, &str); 6] = [
            (
                |site| site.machine.kernel.release = "6.1.0".to_owned(),
                "Linux 6.1.0 there is older",
                "--older-kernel",
            ),
            (|site| site.machine.kernel.architecture = "riscv64".to_owned(), "riscv64", "of the kind"),
            (|site| site.machine.cpu.features.clear(), "processor lacks", "--cpu-baseline"),
            (|site| site.criu = 40100, "CRIU 4.1.0 here is older", "CRIU 4.2.0 or newer"),
            (|site| site.memory = MEMORY - 1, "1073741823 are free there", "free memory"),
            (|site| site.room = MEMORY, "room for 1073741824", "--room"),
        ];
        for (change, said, remedy) in cases {
            let mut site = site.clone();
            change(&mut site);
            let unfit = check(&offer, &site, false).unwrap_err();
            assert!(unfit.to_string().contains(said), "{unfit}");
            assert!(unfit.remedy().contains(remedy), "{}", unfit.remedy());
        }
    }

    #[test]
    fn only_major_and_minor_of_a_kernel_count_and_it_may_be_allowed_to_be_older() {
        for (there, fits) in [
            ("6.12.1", true),
            ("6.12.4-amd64", true),
            ("6.13.0", true),
            ("7.0.1", true),
            ("6.11.9", false),
            ("5.15.0-1-generic", false),
            ("odd", true),
        ] {
            let (offer, mut site) = both();
            site.machine.kernel.release = there.to_owned();
            assert_eq!(check(&offer, &site, false).is_ok(), fits, "{there}");
            assert_eq!(check(&offer, &site, true), Ok(()), "{there}");
        }
    }
}
