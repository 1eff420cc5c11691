//! The real runtime, which does everything that is not about a restored container.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::container::Flavor;

/// Where runtimes are looked for besides `PATH`.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The runtimes that are looked for where none is named.
const NAMES: [&str; 2] = ["runc", "crun"];

/// Why there is no real runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RealError {
    /// None is found.
    #[error("there is no {} in {searched}", names.join(" or "))]
    None {
        /// What was looked for.
        names: Vec<String>,
        /// Where.
        searched: String,
    },
    /// It cannot be started.
    #[error("cannot run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl RealError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            RealError::None { .. } => {
                "install runc or crun, or name one as `runtime` in /etc/torpor/runtime.yaml"
            }
            RealError::Run { .. } => "see that it is executable and of this architecture",
        }
    }
}

/// The program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Real {
    /// Its path.
    pub program: PathBuf,
    /// Whose command line and state it has.
    pub flavor: Flavor,
}

/// What tells one file from another.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some((found.dev(), found.ino()))
}

impl Real {
    /// The one that is configured, or the first that there is. This program itself never is, under whichever name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(configured: Option<&Path>) -> Result<Real, RealError> {
        let path = std::env::var("PATH").unwrap_or_default();
        let searched = if path.is_empty() { SEARCH.to_owned() } else { format!("{path}:{SEARCH}") };
        Real::find_in(configured, searched, identity(Path::new("/proc/self/exe")))
    }

    fn find_in(
        configured: Option<&Path>,
        searched: String,
        itself: Option<Identity>,
    ) -> Result<Real, RealError> {
        let usable = |path: &PathBuf| identity(path).is_some_and(|found| Some(found) != itself);
        let names: Vec<String> = match configured {
            Some(name) => vec![name.display().to_string()],
            None => NAMES.map(str::to_owned).to_vec(),
        };
        for name in &names {
            let found = if name.contains('/') {
                Some(PathBuf::from(name)).filter(usable)
            } else {
                std::env::split_paths(&searched).map(|directory| directory.join(name)).find(usable)
            };
            if let Some(program) = found {
                let flavor = flavor(&program);
                return Ok(Real { program, flavor });
            }
        }
        Err(RealError::None { names, searched })
    }

    /// Becomes the real runtime, with these words. Returns only where that fails.
    #[must_use]
    pub fn exec(&self, words: &[OsString]) -> RealError {
        let source = Command::new(&self.program).args(words).exec();
        RealError::Run { program: self.program.clone(), source }
    }

    /// The directory of states that it uses for root where none is named.
    #[must_use]
    pub fn usual_root(&self) -> &'static Path {
        Path::new(match self.flavor {
            Flavor::Runc => "/run/runc",
            Flavor::Crun => "/run/crun",
        })
    }
}

/// By the program's name, with links followed where the name itself says nothing.
fn flavor(program: &Path) -> Flavor {
    let says =
        |path: &Path, word: &str| path.file_name().is_some_and(|name| name.to_string_lossy().contains(word));
    let resolved = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    if says(program, "crun") || (!says(program, "runc") && says(&resolved, "crun")) {
        Flavor::Crun
    } else {
        Flavor::Runc
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn machine(programs: &[&str]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for program in programs {
            std::fs::write(place.path().join(program), "").unwrap();
        }
        place
    }

    fn find(
        place: &Path,
        configured: Option<&str>,
        itself: Option<&str>,
    ) -> Result<(String, Flavor), RealError> {
        let itself = itself.and_then(|name| identity(&place.join(name)));
        let searched = place.display().to_string();
        let real = Real::find_in(configured.map(Path::new), searched, itself)?;
        Ok((real.program.file_name().unwrap().to_string_lossy().into_owned(), real.flavor))
    }

    #[test]
    fn runc_goes_before_crun_and_what_is_named_before_both() {
        let place = machine(&["runc", "crun", "runc-1.4", "torpor"]);
        let at = place.path();
        let found = |name: &str, flavor| (name.to_owned(), flavor);
        assert_eq!(find(at, None, None).unwrap(), found("runc", Flavor::Runc));
        assert_eq!(find(at, Some("crun"), None).unwrap(), found("crun", Flavor::Crun));
        let path = at.join("runc-1.4");
        assert_eq!(find(at, path.to_str(), None).unwrap(), found("runc-1.4", Flavor::Runc));
        let lacking = find(at, Some("youki"), None).unwrap_err();
        assert!(lacking.to_string().contains("youki"), "{lacking}");
    }

    #[test]
    fn it_is_never_this_program_under_another_name() {
        let place = machine(&["crun", "torpor"]);
        symlink("torpor", place.path().join("runc")).unwrap();
        let found = find(place.path(), None, Some("torpor")).unwrap();
        assert_eq!(found, ("crun".to_owned(), Flavor::Crun));
        assert!(find(place.path(), Some("runc"), Some("torpor")).is_err());
    }

    #[test]
    fn a_link_tells_the_flavor_by_what_it_leads_to() {
        let place = machine(&["crun"]);
        symlink("crun", place.path().join("runtime")).unwrap();
        assert_eq!(flavor(&place.path().join("runtime")), Flavor::Crun);
        assert_eq!(flavor(&place.path().join("none")), Flavor::Runc);
    }
}
