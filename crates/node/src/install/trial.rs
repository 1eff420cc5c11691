//! Engines asked, by their own commands, what they make of a configuration before it is put into its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::site::Site;
use super::{InstallError, containerd, crio, docker};

/// The directory that files to be tried are in, below the prefix.
const DIRECTORY: &str = ".trial";

/// A configuration to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trial {
    /// containerd's.
    Containerd {
        /// The configuration.
        main: String,
        /// The file of our own that it imports.
        drop_in: Option<String>,
        /// The handler's program.
        runtime: PathBuf,
    },
    /// CRI-O's file of our own.
    Crio(String),
    /// Docker's.
    Docker(String),
}

/// A directory of the machine for files that are tried. It goes when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    here: PathBuf,
    on_machine: PathBuf,
    /// Directories above that were made for it, the lowest first.
    above: Vec<PathBuf>,
}

impl Place {
    fn make(site: &Site) -> Result<Place, InstallError> {
        let on_machine = site.prefix.join(DIRECTORY);
        let here = site.on_machine(&on_machine);
        let above =
            here.ancestors().skip(1).take_while(|above| !above.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(&here).map_err(InstallError::place(&here))?;
        Ok(Place { here, on_machine, above })
    }

    /// Writes a file there. Returns its path as the machine has it.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<PathBuf, String> {
        fs::write(self.here.join(name), content).map_err(|error| error.to_string())?;
        Ok(self.on_machine.join(name))
    }

    /// Copies the files of a directory of the machine there.
    pub(super) fn copy_from(&self, directory: &Path) -> Result<(), String> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| error.to_string())?,
        };
        for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), self.here.join(entry.file_name())).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Itself, as the machine has it.
    pub(super) fn path(&self) -> &Path {
        &self.on_machine
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.here);
        for directory in &self.above {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Trial {
    /// Tries it.
    ///
    /// # Errors
    /// The engine does not take it.
    pub(super) fn run(&self, site: &Site) -> Result<(), InstallError> {
        let place = Place::make(site)?;
        let (engine, taken) = match self {
            Trial::Containerd { main, drop_in, runtime } => {
                ("containerd", containerd::try_out(site, &place, (main, drop_in.as_deref()), runtime))
            }
            Trial::Crio(drop_in) => ("CRI-O", crio::try_out(site, &place, drop_in)),
            Trial::Docker(config) => ("Docker", docker::try_out(site, &place, config)),
        };
        taken.map_err(|said| InstallError::Refused { engine, said })
    }
}
