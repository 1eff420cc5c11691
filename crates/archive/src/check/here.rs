//! Would it restore here?

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use torpor_criu::image::cpu::CpuInfo;
use torpor_criu::image::pagemap::PagemapEntry;
use torpor_criu::image::process::{Core, Inventory, LsmType, Machine, TreeEntry};
use torpor_criu::image::{ImageReader, Kind, Limits, Record};

use super::Finding;
use super::pages::page_size_of;
use crate::{Checkpoint, engine};

/// A machine, as far as it matters for a restore.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// The version of CRIU there, as it writes it itself (40201 is 4.2.1); none where there is none.
    pub criu: Option<u32>,
    /// Major and minor version of the kernel.
    pub kernel: Option<(u32, u32)>,
    /// As `uname -m` prints it.
    pub architecture: String,
    /// The size of a page, in bytes.
    pub page_size: u64,
    /// Features of the processor, by the kernel's names.
    pub cpu_features: Vec<String>,
    /// Security modules in force, by the kernel's names.
    pub security_modules: Vec<String>,
    /// Memory in all, in bytes.
    pub memory: Option<u64>,
    /// Memory that can be had without swapping, in bytes.
    pub memory_available: Option<u64>,
    /// File names of the plugins that CRIU would find.
    pub plugins: Vec<String>,
}

/// Where CRIU packages put plugins.
pub const PLUGIN_DIRECTORIES: [&str; 3] = ["/usr/lib/criu", "/usr/lib64/criu", "/usr/local/lib/criu"];

/// What a checkpoint asks of a machine.
#[derive(Debug, Clone, Default)]
struct Needs {
    inventory: Option<Inventory>,
    architecture: Option<&'static str>,
    /// The oldest CRIU that can read it, and why.
    criu: Option<(u32, &'static str)>,
    page_size: u64,
    /// Features of the processor it was made on, where they were recorded.
    cpu_features: Option<Vec<String>>,
    memory: u64,
    connections: usize,
}

/// Whether a checkpoint would restore on a machine. `exists` tells whether a path is there.
#[must_use]
pub fn here(checkpoint: &Checkpoint, site: &Site, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let needs = Needs::of(checkpoint);
    let mut findings = vec![
        criu(&needs, site),
        architecture(&needs, site),
        page_size(&needs, site),
        processor(&needs, site),
        memory(&needs, site),
        security(&needs, site),
    ];
    findings.extend(plugins(&needs, site));
    findings.extend(connections(&needs));
    findings.extend(mounts(checkpoint, exists));
    findings.extend(image(checkpoint));
    findings
}

impl Needs {
    fn of(checkpoint: &Checkpoint) -> Self {
        let inventory: Option<Inventory> = first(checkpoint, Kind::Inventory, 0);
        let tree: Option<TreeEntry> = first(checkpoint, Kind::ProcessTree, 0);
        let core: Option<Core> = tree.and_then(|root| first(checkpoint, Kind::Core, root.pid.into()));
        let layer = checkpoint.layers().first();
        let images = || layer.into_iter().flat_map(|layer| checkpoint.images(layer));
        let manifest = engine::document(checkpoint, crate::source::MANIFEST).ok().flatten();
        let features = manifest.as_ref().and_then(|manifest| {
            let features = manifest.pointer("/facts/machine/cpu/features").and_then(Value::as_array)?;
            Some(features.iter().filter_map(|feature| feature.as_str().map(str::to_owned)).collect())
        });
        let by_criu = || {
            let recorded: CpuInfo = first(checkpoint, Kind::CpuInfo, 0)?;
            Some(recorded.x86.first()?.features().into_iter().map(str::to_owned).collect())
        };
        Self {
            architecture: core.and_then(|core| architecture_of(core.mtype)),
            criu: match &manifest {
                None => oldest_criu(checkpoint, inventory.as_ref()),
                // A restore from a store writes pagemaps for the CRIU that reads them.
                Some(manifest) => manifest
                    .pointer("/facts/criu/version")
                    .and_then(Value::as_u64)
                    .and_then(|version| u32::try_from(version).ok())
                    .map(|version| (version, "a newer one made the checkpoint")),
            },
            page_size: page_size_of(checkpoint),
            cpu_features: features.or_else(by_criu),
            memory: checkpoint
                .layers()
                .iter()
                .flat_map(|layer| checkpoint.images(layer))
                .filter(|(name, _)| name.kind == Kind::Pages)
                .fold(0, |sum: u64, (_, entry)| sum.saturating_add(entry.size)),
            connections: images().filter(|(name, _)| name.kind == Kind::TcpStream).count(),
            inventory,
        }
    }
}

/// The first message of an image, if it can be read.
fn first<M: Record>(checkpoint: &Checkpoint, kind: Kind, id: u64) -> Option<M> {
    let entry = checkpoint.image(checkpoint.layers().first()?, kind, id)?;
    ImageReader::new(kind, checkpoint.body(entry), Limits::default()).ok()?.next_message().ok()?
}

fn architecture_of(number: i32) -> Option<&'static str> {
    Some(match Machine::try_from(number).ok()? {
        Machine::X86_64 => "x86_64",
        Machine::Arm => "arm",
        Machine::Aarch64 => "aarch64",
        Machine::Ppc64 => "ppc64le",
        Machine::S390 => "s390x",
        Machine::Mips => "mips64",
        Machine::Loongarch64 => "loongarch64",
        Machine::Riscv64 => "riscv64",
        Machine::Unknown => return None,
    })
}

/// The oldest CRIU that understands what is there (CRIU's `images/pagemap.proto`, `images/inventory.proto`).
fn oldest_criu(checkpoint: &Checkpoint, inventory: Option<&Inventory>) -> Option<(u32, &'static str)> {
    if has_wide_pagemaps(checkpoint) {
        return Some((40_200, "its pagemaps count pages in a field that CRIU has since 4.2"));
    }
    let inventory = inventory?;
    if inventory.allow_uprobes == Some(true) {
        return Some((40_200, "it has mappings of uprobes, which CRIU knows since 4.2"));
    }
    if inventory.plugins_entry.as_ref().is_some_and(|entry| !entry.plugins.is_empty()) {
        return Some((40_100, "it names the plugins it needs, which CRIU knows since 4.1"));
    }
    None
}

fn has_wide_pagemaps(checkpoint: &Checkpoint) -> bool {
    let Some(layer) = checkpoint.layers().first() else { return false };
    let maps = checkpoint.images(layer).filter(|(name, _)| name.kind == Kind::Pagemap);
    for (name, entry) in maps {
        let reader = ImageReader::new(name.kind, checkpoint.body(entry), Limits::default());
        let Ok(mut reader) = reader else { continue };
        // The first entry is a head.
        if !matches!(reader.next_entry(), Ok(Some(_))) {
            continue;
        }
        if let Ok(Some(range)) = reader.next_message::<PagemapEntry>() {
            return range.nr_pages.is_some() && range.compat_nr_pages == 0;
        }
    }
    false
}

/// A version as people write it.
fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

fn criu(needs: &Needs, site: &Site) -> Finding {
    let (topic, question) = ("criu", "is there a CRIU that can restore it?");
    let Some(here) = site.criu else {
        return Finding::no(topic, question, "there is no CRIU", "`torpor doctor` tells how to get one");
    };
    if let Some((oldest, why)) = needs.criu
        && here / 100 < oldest / 100
    {
        let reason = format!("CRIU {} is too old: {why}", version(here));
        return Finding::no(topic, question, reason, format!("bring CRIU {} or newer here", version(oldest)));
    }
    // Since Linux 6.13 older ones do not start (checkpoint-restore/criu#2588).
    if site.kernel.is_some_and(|kernel| kernel >= (6, 13)) && here < 40_100 {
        let reason = format!("CRIU {} does not work on kernels from 6.13 on", version(here));
        return Finding::no(topic, question, reason, "bring CRIU 4.1 or newer here");
    }
    Finding::yes(topic, question, format!("CRIU {} is here", version(here)))
}

fn architecture(needs: &Needs, site: &Site) -> Finding {
    let (topic, question) = ("architecture", "is it for processors of this kind?");
    match needs.architecture {
        None => Finding::unknown(topic, question, "the images do not tell"),
        Some(architecture) if architecture == site.architecture => {
            Finding::yes(topic, question, architecture)
        }
        Some(architecture) => {
            let reason = format!("it is for {architecture}, and this machine is {}", site.architecture);
            Finding::no(topic, question, reason, "restore it on a node of the kind it was made on")
        }
    }
}

fn page_size(needs: &Needs, site: &Site) -> Finding {
    let (topic, question) = ("page-size", "are pages as large here?");
    if needs.memory == 0 {
        return Finding::unknown(topic, question, "there are no pages to tell by");
    }
    if needs.page_size == site.page_size {
        return Finding::yes(topic, question, format!("{} bytes", site.page_size));
    }
    let reason = format!("it has pages of {} bytes, and this machine of {}", needs.page_size, site.page_size);
    Finding::no(topic, question, reason, "restore it on a node of the kind it was made on")
}

fn processor(needs: &Needs, site: &Site) -> Finding {
    let (topic, question) = ("processor", "has the processor what the program may use?");
    let Some(features) = &needs.cpu_features else {
        return Finding::unknown(topic, question, "the processor it was made on was not recorded");
    };
    let lacking: Vec<_> =
        features.iter().filter(|feature| !site.cpu_features.contains(feature)).map(String::as_str).collect();
    if lacking.is_empty() {
        return Finding::yes(topic, question, format!("all {} features are here", features.len()));
    }
    let reason = format!("it lacks {}", lacking.join(", "));
    Finding::no(topic, question, reason, "restore it on a node with these features")
}

fn memory(needs: &Needs, site: &Site) -> Finding {
    let (topic, question) = ("memory", "is there enough memory?");
    let reason = |there: u64| {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        format!("it has {} MiB of pages, and there are {} MiB", mebibytes(needs.memory), mebibytes(there))
    };
    match (site.memory, site.memory_available) {
        (Some(all), _) if needs.memory > all => {
            Finding::no(topic, question, reason(all), "restore it on a node with more memory")
        }
        (_, Some(free)) if needs.memory <= free => Finding::yes(topic, question, reason(free)),
        (_, Some(free)) => Finding::no(
            topic,
            question,
            reason(free) + " free now",
            "end something else first, or use another node",
        ),
        _ => Finding::unknown(topic, question, "how much there is cannot be told"),
    }
}

fn security(needs: &Needs, site: &Site) -> Finding {
    let (topic, question) = ("security-module", "is the security module in force that it was under?");
    let recorded = needs.inventory.as_ref().and_then(|inventory| inventory.lsmtype);
    let wanted = match recorded.map(LsmType::try_from) {
        None | Some(Ok(LsmType::NoLsm)) => return Finding::yes(topic, question, "it was under none"),
        Some(Ok(LsmType::Selinux)) => "selinux",
        Some(Ok(LsmType::Apparmor)) => "apparmor",
        Some(Err(_)) => return Finding::unknown(topic, question, "it was under one that is not known here"),
    };
    if site.security_modules.iter().any(|module| module == wanted) {
        return Finding::yes(topic, question, wanted);
    }
    let reason = format!("it was under {wanted}, which is not in force here");
    Finding::no(topic, question, reason, format!("restore it on a node with {wanted}"))
}

fn plugins(needs: &Needs, site: &Site) -> Option<Finding> {
    let (topic, question) = ("plugins", "are the plugins of CRIU there that it needs?");
    let wanted = &needs.inventory.as_ref()?.plugins_entry.as_ref()?.plugins;
    if wanted.is_empty() {
        return None;
    }
    // CRIU names them as the plugin calls itself; the file is that name, or begins with it.
    let is_there = |name: &str| {
        let name = name.to_lowercase();
        let name = name.trim_end_matches(".so").trim_end_matches("_plugin");
        site.plugins.iter().any(|file| file.to_lowercase().starts_with(name))
    };
    let missing: Vec<_> = wanted.iter().map(String::as_str).filter(|name| !is_there(name)).collect();
    if missing.is_empty() {
        return Some(Finding::yes(topic, question, wanted.join(", ")));
    }
    let reason = format!("{} not in {}", missing.join(", "), PLUGIN_DIRECTORIES.join(", "));
    Some(Finding::no(topic, question, reason, "install CRIU's plugins here"))
}

fn connections(needs: &Needs) -> Option<Finding> {
    let (topic, question) = ("connections", "can its TCP connections go on?");
    let reason = match needs.connections {
        0 => return None,
        1 => "it has one connection".to_owned(),
        count => format!("it has {count} connections"),
    };
    let reason =
        format!("{reason}: those that lead outside go on only where the container has the same address");
    Some(
        Finding::unknown(topic, question, reason).with_remedy("close them at the restore (CRIU's tcp-close)"),
    )
}

/// Mounts that come from outside the container.
fn mounts(checkpoint: &Checkpoint, exists: impl Fn(&Path) -> bool) -> Option<Finding> {
    let (topic, question) = ("mounts", "is there what is mounted from outside?");
    let binds = engine::binds(checkpoint).ok()?;
    let required: BTreeSet<_> = binds.iter().map(|bind| bind.source.clone()).collect();
    let missing: Vec<_> = required.iter().filter(|path| !exists(Path::new(path))).cloned().collect();
    if !missing.is_empty() {
        let reason = format!("the engine wants {}, and this machine has none", missing.join(", "));
        return Some(Finding::no(topic, question, reason, "make these paths, or mount something else there"));
    }
    let mounted: BTreeSet<_> = engine::mounts(checkpoint)
        .ok()?
        .into_iter()
        .filter(|mount| mount.kind == "bind" && mount.source.starts_with('/'))
        .map(|mount| mount.source)
        .collect();
    let all = mounted.len();
    if all == 0 && required.is_empty() {
        return None;
    }
    let absent: Vec<_> = mounted.into_iter().filter(|path| !exists(Path::new(path))).collect();
    Some(if absent.is_empty() {
        Finding::yes(topic, question, format!("all {} paths are here", all.max(required.len())))
    } else {
        let reason = format!(
            "{} of {all} paths are not here, {} for one: the engine may make them for the container",
            absent.len(),
            absent[0]
        );
        Finding::unknown(topic, question, reason)
    })
}

fn image(checkpoint: &Checkpoint) -> Option<Finding> {
    let (topic, question) = ("image", "is the image there that it was started from?");
    let image = engine::container(checkpoint).ok()?.image?;
    let name = image.name.or(image.id)?;
    Some(Finding::unknown(topic, question, format!("only the engine knows whether it has {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Answer;

    fn site() -> Site {
        Site {
            criu: Some(40_201),
            kernel: Some((6, 18)),
            architecture: "x86_64".to_owned(),
            page_size: 4096,
            cpu_features: vec!["avx2".to_owned()],
            security_modules: vec!["apparmor".to_owned()],
            memory: Some(8 << 30),
            memory_available: Some(4 << 30),
            plugins: vec!["cuda_plugin.so".to_owned()],
        }
    }

    fn needs() -> Needs {
        Needs { architecture: Some("x86_64"), page_size: 4096, memory: 1 << 30, ..Needs::default() }
    }

    #[test]
    fn the_version_of_criu_decides() {
        let wide = Needs { criu: Some((40_200, "why")), ..needs() };
        for (needs, criu_here, kernel, answer) in [
            (&wide, Some(40_201), (6, 18), Answer::Yes),
            (&wide, Some(40_200), (6, 18), Answer::Yes),
            (&wide, Some(40_101), (6, 1), Answer::No),
            (&needs(), Some(31_900), (6, 1), Answer::Yes),
            (&needs(), Some(31_900), (6, 13), Answer::No),
            (&needs(), None, (6, 1), Answer::No),
        ] {
            let site = Site { criu: criu_here, kernel: Some(kernel), ..site() };
            assert_eq!(criu(needs, &site).answer, answer, "{criu_here:?} on {kernel:?}");
        }
    }

    #[test]
    fn what_the_machine_lacks_is_named() {
        let features = |features: &[&str]| Needs {
            cpu_features: Some(features.iter().map(|feature| (*feature).to_owned()).collect()),
            ..needs()
        };
        assert_eq!(processor(&features(&["avx2"]), &site()).answer, Answer::Yes);
        assert_eq!(processor(&features(&["avx512f", "avx2"]), &site()).reason, "it lacks avx512f");
        assert_eq!(processor(&needs(), &site()).answer, Answer::Unknown);
        let huge = Needs { memory: 5 << 30, ..needs() };
        assert_eq!(memory(&huge, &site()).answer, Answer::No);
        assert_eq!(memory(&needs(), &site()).answer, Answer::Yes);
        let arm = Needs { architecture: Some("aarch64"), ..needs() };
        assert_eq!(architecture(&arm, &site()).answer, Answer::No);
    }

    #[test]
    fn plugins_and_security_modules_are_those_the_inventory_names() {
        let inventory = |lsm: Option<i32>, plugins: &[&str]| Needs {
            inventory: Some(Inventory {
                lsmtype: lsm,
                plugins_entry: Some(torpor_criu::image::process::Plugins {
                    plugins: plugins.iter().map(|name| (*name).to_owned()).collect(),
                }),
                ..Inventory::default()
            }),
            ..needs()
        };
        assert_eq!(plugins(&inventory(None, &["cuda_plugin"]), &site()).unwrap().answer, Answer::Yes);
        assert_eq!(plugins(&inventory(None, &["amdgpu_plugin"]), &site()).unwrap().answer, Answer::No);
        assert!(plugins(&inventory(None, &[]), &site()).is_none());
        assert_eq!(security(&inventory(Some(2), &[]), &site()).answer, Answer::Yes);
        assert_eq!(security(&inventory(Some(1), &[]), &site()).answer, Answer::No);
    }
}
