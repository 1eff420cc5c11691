//! Graphics processors and the like, whose state only a plugin of CRIU's captures.
//!
//! A plugin is code that runs with CRIU's privileges, so none is loaded unless whoever runs the machine names a directory of plugins that
//! only root can write. Then a program may use devices for which there is one, with its driver: CRIU 4.2 has `cuda_plugin.so` (NVIDIA; its
//! `plugins/cuda/README.md`) and `amdgpu_plugin.so` (AMD; `plugins/amdgpu/README.md`). What was used is recorded, and a restore needs the
//! same plugin, driver and models. The record stands among CRIU's images, so that every form of a checkpoint has it: a directory, an archive, a
//! store, an image.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::ContainerError;

/// The file among CRIU's images that tells what was used; none where that is nothing.
pub const RECORD: &str = "accelerators.json";
/// The largest that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
}

impl Vendor {
    const ALL: [Vendor; 2] = [Vendor::Nvidia, Vendor::Amd];

    /// Whose device a path is, where a plugin could capture it.
    #[must_use]
    pub fn of_device(path: &Path) -> Option<Vendor> {
        let text = path.to_str()?;
        match text {
            // Its memory shared between processes, and its parts, are what the plugin cannot capture.
            _ if text.starts_with("/dev/nvidia-uvm-tools") || text.starts_with("/dev/nvidia-caps/") => None,
            _ if text.starts_with("/dev/nvidia") => Some(Vendor::Nvidia),
            _ if text == "/dev/kfd" || text.starts_with("/dev/dri/renderD") => Some(Vendor::Amd),
            _ => None,
        }
    }

    /// The plugin's file.
    #[must_use]
    pub fn plugin(self) -> &'static str {
        match self {
            Vendor::Nvidia => "cuda_plugin.so",
            Vendor::Amd => "amdgpu_plugin.so",
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Vendor::Nvidia => "NVIDIA",
            Vendor::Amd => "AMD",
        })
    }
}

/// Why a directory of plugins is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// It, or something in it, cannot be looked at.
    #[error("cannot look at {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else could put code there.
    #[error("{} can be changed by others than root", path.display())]
    Distrusted {
        /// The file or directory.
        path: PathBuf,
    },
}

impl PluginError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            PluginError::Read { .. } => {
                "name the directory in which CRIU's plugins are, such as /usr/lib/criu"
            }
            PluginError::Distrusted { .. } => {
                "give it and the directories above it to root, and take write permission from group and others"
            }
        }
    }
}

/// Plugins that may be loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugins {
    directory: PathBuf,
    found: Vec<(Vendor, String)>,
}

impl Plugins {
    /// Those in a directory that root alone can change, like all above it.
    ///
    /// # Errors
    /// It cannot be trusted, or read.
    pub fn trusted(directory: &Path) -> Result<Plugins, PluginError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PluginError::Read { path: path.clone(), source }
        };
        let directory = directory.canonicalize().map_err(failed(directory))?;
        let mut checked: Vec<PathBuf> = directory.ancestors().map(Path::to_owned).collect();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed(&directory))? {
            let path = entry.map_err(failed(&directory))?.path();
            // CRIU loads every file that ends so, whatever its name.
            if path.extension().is_some_and(|end| end == "so") {
                checked.push(path.canonicalize().map_err(failed(&path))?);
            }
        }
        for path in checked {
            let metadata = path.metadata().map_err(failed(&path))?;
            if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
                return Err(PluginError::Distrusted { path });
            }
        }
        for vendor in Vendor::ALL {
            let path = directory.join(vendor.plugin());
            match std::fs::read(&path) {
                Ok(bytes) => found.push((vendor, blake3::hash(&bytes).to_hex()[..32].to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&path)(error)),
            }
        }
        Ok(Plugins { directory, found })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The plugin of a vendor, by what tells it from another version.
    fn of(&self, vendor: Vendor) -> Option<&str> {
        self.found.iter().find(|(known, _)| *known == vendor).map(|(_, digest)| digest.as_str())
    }
}

/// What a program uses of one vendor's, or what is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accelerators {
    /// Whose.
    pub vendor: Vendor,
    /// What tells the plugin from another version.
    pub plugin: String,
    /// The driver's version.
    pub driver: String,
    /// The models, in order.
    pub devices: Vec<String>,
}

impl Accelerators {
    /// The content of [`RECORD`].
    #[must_use]
    pub fn record(used: &[Accelerators]) -> Option<String> {
        (!used.is_empty()).then(|| serde_json::to_value(used).unwrap_or_default().to_string())
    }

    /// What images in a directory say that was used.
    ///
    /// # Errors
    /// The record cannot be read, or is none.
    pub fn recorded(images: &Path) -> io::Result<Vec<Accelerators>> {
        let mut bytes = Vec::new();
        match File::open(images.join(RECORD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?.take(LARGEST).read_to_end(&mut bytes)?,
        };
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// What of a vendor's is on this machine, without a plugin: the driver's version, and models.
#[must_use]
pub fn driver(vendor: Vendor) -> Option<(String, Vec<String>)> {
    driver_below(Path::new("/"), vendor)
}

fn driver_below(root: &Path, vendor: Vendor) -> Option<(String, Vec<String>)> {
    let text = |path: &Path| std::fs::read_to_string(path).ok();
    let below = |path: &str| {
        let entries = std::fs::read_dir(root.join(path)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let (version, mut devices) = match vendor {
        Vendor::Nvidia => {
            let version = text(&root.join("proc/driver/nvidia/version"))?;
            let version = version.lines().next()?.split_ascii_whitespace().find(|word| is_version(word))?;
            let models = below("proc/driver/nvidia/gpus").into_iter().filter_map(|gpu| {
                let said = text(&gpu.join("information"))?;
                said.lines().find_map(|line| line.strip_prefix("Model:").map(|model| model.trim().to_owned()))
            });
            (version.to_owned(), models.collect::<Vec<_>>())
        }
        Vendor::Amd => {
            let module = text(&root.join("sys/module/amdgpu/version"));
            let kernel = || text(&root.join("proc/sys/kernel/osrelease"));
            // A driver that came with the kernel has its version.
            root.join("sys/module/amdgpu").exists().then_some(())?;
            let models = below("sys/class/kfd/kfd/topology/nodes").into_iter().filter_map(|node| {
                let said = text(&node.join("properties"))?;
                let is = |name: &str| {
                    said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
                };
                // One without such units is the main processor.
                is("simd_count ").filter(|count| *count > 0)?;
                Some(format!("gfx {}", is("gfx_target_version ")?))
            });
            (module.or_else(kernel)?.trim().to_owned(), models.collect())
        }
    };
    devices.sort();
    Some((version, devices))
}

fn is_version(word: &str) -> bool {
    let mut parts = word.split('.').peekable();
    parts.peek().is_some_and(|first| first.len() >= 3)
        && word.contains('.')
        && parts.all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Why a device cannot be captured here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// There is no plugin for it, or none that is trusted.
    Plugin,
    /// Its driver is not there.
    Driver,
}

/// What of `plugins` is needed for a vendor's devices.
///
/// # Errors
/// What is not there.
pub fn needed(
    vendor: Vendor,
    plugins: Option<&Plugins>,
    driver: impl Fn(Vendor) -> Option<(String, Vec<String>)>,
) -> Result<Accelerators, Lack> {
    let plugin = plugins.and_then(|plugins| plugins.of(vendor)).ok_or(Lack::Plugin)?;
    let (driver, devices) = driver(vendor).filter(|(_, devices)| !devices.is_empty()).ok_or(Lack::Driver)?;
    Ok(Accelerators { vendor, plugin: plugin.to_owned(), driver, devices })
}

/// Holds what was used against plugins, driver and devices here. Returns whose devices they are.
///
/// # Errors
/// They are not here as they were.
pub(crate) fn fit(
    recorded: &[Accelerators],
    plugins: Option<&Plugins>,
) -> Result<Vec<Vendor>, ContainerError> {
    let misfits = misfits(recorded, |vendor| needed(vendor, plugins, driver));
    match misfits.is_empty() {
        true => Ok(recorded.iter().map(|one| one.vendor).collect()),
        false => Err(ContainerError::Accelerators { misfits }),
    }
}

/// The same with what images in a directory say, and plugins in another.
///
/// # Errors
/// They are not here as they were, the record cannot be read, or the plugins not trusted.
pub(crate) fn images_fit(images: &Path, plugins: Option<&Path>) -> Result<Vec<Vendor>, ContainerError> {
    let recorded = Accelerators::recorded(images).map_err(ContainerError::place(&images.join(RECORD)))?;
    if recorded.is_empty() {
        return Ok(Vec::new());
    }
    fit(&recorded, plugins.map(Plugins::trusted).transpose()?.as_ref())
}

/// What does not fit of what a checkpoint was made with.
fn misfits(recorded: &[Accelerators], here: impl Fn(Vendor) -> Result<Accelerators, Lack>) -> Vec<String> {
    let mut misfits = Vec::new();
    for was in recorded {
        let vendor = was.vendor;
        let is = match here(vendor) {
            Ok(is) => is,
            Err(Lack::Plugin) => {
                misfits.push(format!("there is no trusted {}", vendor.plugin()));
                continue;
            }
            Err(Lack::Driver) => {
                misfits.push(format!("there is no driver or device of {vendor}'s"));
                continue;
            }
        };
        if is.plugin != was.plugin {
            misfits.push(format!("{} is another version", vendor.plugin()));
        }
        if is.driver != was.driver {
            misfits.push(format!("{vendor}'s driver is {}, and was {}", is.driver, was.driver));
        }
        if is.devices != was.devices {
            let (is, was) = (is.devices.join(", "), was.devices.join(", "));
            misfits.push(format!("{vendor}'s devices are {is}, and were {was}"));
        }
    }
    misfits
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_device_is_its_vendors_where_a_plugin_captures_it() {
        for (path, vendor) in [
            ("/dev/nvidia0", Some(Vendor::Nvidia)),
            ("/dev/nvidiactl", Some(Vendor::Nvidia)),
            ("/dev/nvidia-uvm", Some(Vendor::Nvidia)),
            ("/dev/nvidia-caps/nvidia-cap1", None),
            ("/dev/kfd", Some(Vendor::Amd)),
            ("/dev/dri/renderD128", Some(Vendor::Amd)),
            ("/dev/dri/card0", None),
            ("/dev/fuse", None),
        ] {
            assert_eq!(Vendor::of_device(Path::new(path)), vendor, "{path}");
        }
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn drivers_tell_their_version_and_models() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(driver_below(root, Vendor::Nvidia), None);
        assert_eq!(driver_below(root, Vendor::Amd), None);
        let said = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 04:05:06 UTC 2025\nGCC version: 12\n";
        write(root, "proc/driver/nvidia/version", said);
        for (bus, model) in [("0000:65:00.0", "NVIDIA H100"), ("0000:17:00.0", "NVIDIA A100")] {
            write(
                root,
                &format!("proc/driver/nvidia/gpus/{bus}/information"),
                &format!("Model: \t\t {model}\nIRQ:  1\n"),
            );
        }
        let models = vec!["NVIDIA A100".to_owned(), "NVIDIA H100".to_owned()];
        assert_eq!(driver_below(root, Vendor::Nvidia), Some(("570.86.15".to_owned(), models)));
        write(root, "sys/module/amdgpu/version", "6.10.5\n");
        write(root, "sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 8\nsimd_count 0\n");
        let gpu = "simd_count 304\ngfx_target_version 90402\n";
        write(root, "sys/class/kfd/kfd/topology/nodes/1/properties", gpu);
        let found = Some(("6.10.5".to_owned(), vec!["gfx 90402".to_owned()]));
        assert_eq!(driver_below(root, Vendor::Amd), found);
    }

    fn plugins() -> Plugins {
        Plugins { directory: "/p".into(), found: vec![(Vendor::Nvidia, "one".to_owned())] }
    }

    #[test]
    fn a_device_needs_a_plugin_and_a_driver() {
        let driver = |_| Some(("570".to_owned(), vec!["H100".to_owned()]));
        let all = needed(Vendor::Nvidia, Some(&plugins()), driver).unwrap();
        assert_eq!((all.plugin.as_str(), all.driver.as_str()), ("one", "570"));
        assert_eq!(needed(Vendor::Amd, Some(&plugins()), driver), Err(Lack::Plugin));
        assert_eq!(needed(Vendor::Nvidia, None, driver), Err(Lack::Plugin));
        assert_eq!(needed(Vendor::Nvidia, Some(&plugins()), |_| None), Err(Lack::Driver));
        let none = |_| Some(("570".to_owned(), Vec::new()));
        assert_eq!(needed(Vendor::Nvidia, Some(&plugins()), none), Err(Lack::Driver));
    }

    #[test]
    fn a_restore_needs_the_same() {
        let was = Accelerators {
            vendor: Vendor::Nvidia,
            plugin: "one".into(),
            driver: "570".into(),
            devices: vec!["H100".into()],
        };
        let with = |change: fn(&mut Accelerators)| {
            let mut is = was.clone();
            change(&mut is);
            misfits(std::slice::from_ref(&was), move |_| Ok(is.clone())).join("; ")
        };
        assert_eq!(with(|_| {}), "");
        assert_eq!(with(|is| is.plugin = "two".into()), "cuda_plugin.so is another version");
        assert_eq!(with(|is| is.driver = "580".into()), "NVIDIA's driver is 580, and was 570");
        let two = with(|is| is.devices.push("H100".into()));
        assert_eq!(two, "NVIDIA's devices are H100, H100, and were H100");
        let lacks = |lack: Lack| misfits(std::slice::from_ref(&was), move |_| Err(lack.clone())).join("; ");
        assert_eq!(lacks(Lack::Plugin), "there is no trusted cuda_plugin.so");
        assert_eq!(lacks(Lack::Driver), "there is no driver or device of NVIDIA's");
        assert!(misfits(&[], |_| Err(Lack::Plugin)).is_empty());
    }

    #[test]
    fn what_was_used_stands_among_the_images() {
        let images = tempfile::tempdir().unwrap();
        let held = || images_fit(images.path(), None);
        assert_eq!(Accelerators::record(&[]), None);
        assert!(held().unwrap().is_empty());
        let used = Accelerators {
            vendor: Vendor::Amd,
            plugin: "one".into(),
            driver: "6.10".into(),
            devices: vec!["gfx 90402".into()],
        };
        let path = images.path().join(RECORD);
        std::fs::write(&path, Accelerators::record(std::slice::from_ref(&used)).unwrap()).unwrap();
        assert_eq!(Accelerators::recorded(images.path()).unwrap(), [used]);
        let told = held().unwrap_err();
        assert!(
            matches!(&told, ContainerError::Accelerators { misfits } if misfits == &["there is no trusted amdgpu_plugin.so"]),
            "{told}"
        );
        std::fs::write(&path, "[1]").unwrap();
        assert!(matches!(held(), Err(ContainerError::Place { path: told, .. }) if told == path));
    }

    #[test]
    fn a_directory_that_others_can_write_is_not_trusted() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("plugins");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("cuda_plugin.so"), "code").unwrap();
        // The temporary directory itself is everybody's.
        assert!(matches!(Plugins::trusted(&directory), Err(PluginError::Distrusted { .. })));
        assert!(matches!(Plugins::trusted(&place.path().join("none")), Err(PluginError::Read { .. })));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let Ok(own) = tempfile::Builder::new().prefix("torpor-plugins").tempdir_in("/root") else { return };
        let directory = own.path();
        let allow = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        allow(directory, 0o755);
        std::fs::write(directory.join("cuda_plugin.so"), "code").unwrap();
        allow(&directory.join("cuda_plugin.so"), 0o644);
        let plugins = Plugins::trusted(directory).unwrap();
        assert!(plugins.of(Vendor::Nvidia).is_some() && plugins.of(Vendor::Amd).is_none());
        std::fs::write(directory.join("other.so"), "code").unwrap();
        allow(&directory.join("other.so"), 0o666);
        assert!(matches!(Plugins::trusted(directory), Err(PluginError::Distrusted { .. })));
    }
}
