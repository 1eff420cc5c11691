//! What the node's operator says about `torpor-runtime`: the file `/etc/torpor/runtime.yaml`.
//!
//! Nothing in it comes from a pod. A pod names a checkpoint; where checkpoints are kept is said here.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use torpor_store::{Credentials, KeyError};

/// Where the file is.
pub const PATH: &str = "/etc/torpor/runtime.yaml";
/// The variable that names another.
pub const VARIABLE: &str = "TORPOR_RUNTIME_CONFIG";
/// The variable that names the real runtime, whatever the file says.
pub const RUNTIME_VARIABLE: &str = "TORPOR_RUNTIME";

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The real runtime: a path, or a name to look for. By default runc, and where that is not there, crun.
    pub runtime: Option<PathBuf>,
    /// Stores in which checkpoints are looked for, in order.
    pub stores: Vec<Store>,
    /// The CRIU that restores: an executable, or the prefix of a private one. By default the one that came with Torpor,
    /// or the runtime's own.
    pub criu: Option<PathBuf>,
    /// A directory with plugins of CRIU's, which only root may be able to change. None are loaded without.
    pub plugins: Option<PathBuf>,
    /// Where checkpoints are laid out while they are restored, as large as the memory of what is restored; and where it is
    /// remembered what was restored.
    pub state: PathBuf,
    /// Where it is kept which containers were restored, for as long as they are there.
    pub run: PathBuf,
    /// Files with public keys whose permits are believed ([`crate::permit`]).
    pub trusted_keys: Vec<PathBuf>,
}

/// A store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Store {
    /// The directory, as a path or as `file:///PATH`.
    pub url: String,
    /// The first line of this file is the passphrase of an encrypted store.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
    /// The file with the key of an encrypted store.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

impl Store {
    /// The directory, where the URL names one.
    #[must_use]
    pub fn directory(&self) -> Option<PathBuf> {
        let path = self.url.strip_prefix("file://").unwrap_or(&self.url);
        Some(PathBuf::from(path)).filter(|path| path.is_absolute())
    }

    /// What opens it.
    ///
    /// # Errors
    /// A file that is named cannot be read.
    pub fn credentials(&self) -> Result<Credentials, KeyError> {
        Ok(match (&self.passphrase_file, &self.key_file) {
            (Some(path), _) => Credentials::from_passphrase_file(path)?,
            (None, Some(path)) => Credentials::from_key_file(path)?,
            (None, None) => Credentials::None,
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            runtime: None,
            stores: vec![Store {
                url: "file:///var/lib/torpor".to_owned(),
                passphrase_file: None,
                key_file: None,
            }],
            criu: None,
            plugins: None,
            state: PathBuf::from("/var/lib/torpor-runtime"),
            run: PathBuf::from("/run/torpor/runtime"),
            trusted_keys: Vec::new(),
        }
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not say what it should.
    #[error("{} is no configuration of torpor-runtime", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
}

impl SettingsError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            SettingsError::Read { .. } => "make it readable for root, or remove it",
            SettingsError::Parse { .. } => "see docs/runtime.md for what may stand in it",
        }
    }
}

impl Settings {
    /// Reads the file that the environment names, or the usual one. One that is not there says nothing.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn load() -> Result<Settings, SettingsError> {
        let path = std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(PATH), PathBuf::from);
        let mut settings = Settings::read(&path)?;
        if let Some(runtime) = std::env::var_os(RUNTIME_VARIABLE).filter(|runtime| !runtime.is_empty()) {
            settings.runtime = Some(PathBuf::from(runtime));
        }
        Ok(settings)
    }

    fn read(path: &Path) -> Result<Settings, SettingsError> {
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Ok(Settings::default()),
            Ok(text) => Settings::parse(&text)
                .map_err(|source| SettingsError::Parse { path: path.to_owned(), source: Box::new(source) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(source) => Err(SettingsError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str) -> Result<Settings, serde_saphyr::Error> {
        serde_saphyr::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_otherwise() {
        let text = "runtime: crun\nstores:\n  - url: file:///srv/torpor\n    keyFile: /etc/torpor/key\n";
        let settings = Settings::parse(text).unwrap();
        assert_eq!(settings.runtime.as_deref(), Some(Path::new("crun")));
        assert_eq!(settings.stores[0].url, "file:///srv/torpor");
        assert_eq!(settings.stores[0].key_file.as_deref(), Some(Path::new("/etc/torpor/key")));
        assert_eq!(settings.run, Settings::default().run);
    }

    #[test]
    fn a_store_is_a_directory_by_its_whole_path() {
        let directory =
            |url: &str| Store { url: url.to_owned(), passphrase_file: None, key_file: None }.directory();
        assert_eq!(directory("file:///srv/a").as_deref(), Some(Path::new("/srv/a")));
        assert_eq!(directory("/srv/a").as_deref(), Some(Path::new("/srv/a")));
        for url in ["srv/a", "s3://bucket/a", "file://srv/a"] {
            assert_eq!(directory(url), None, "{url}");
        }
    }

    #[test]
    fn no_file_is_as_good_as_an_empty_one() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(Settings::read(&place.path().join("none")).unwrap(), Settings::default());
        let empty = place.path().join("empty");
        std::fs::write(&empty, "\n").unwrap();
        assert_eq!(Settings::read(&empty).unwrap(), Settings::default());
    }

    #[test]
    fn a_word_that_is_not_known_is_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("runtime.yaml");
        std::fs::write(&path, "store: file:///a\n").unwrap();
        let error = Settings::read(&path).unwrap_err();
        assert!(
            matches!(&error, SettingsError::Parse { source, .. } if source.to_string().contains("store"))
        );
    }
}
