//! Which store a command works on, and what opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use torpor_store::{Backend, Credentials, LocalBackend, Repository};

use super::Exit;
use super::failure::Failure;

/// The store a machine has if nothing else is said.
pub(crate) const DEFAULT_STORE: &str = "file:///var/lib/torpor";

/// Flags of every command that works on a store.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Store")]
#[group(skip)]
pub(crate) struct Args {
    /// The store: a directory, as a path or as file:///PATH.
    #[arg(long, value_name = "URL", env = "TORPOR_STORE", default_value = DEFAULT_STORE)]
    pub(crate) store: String,
    /// Read the passphrase of an encrypted store from this file's first line.
    #[arg(long, value_name = "FILE", env = "TORPOR_PASSPHRASE_FILE", conflicts_with = "key_file")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Open an encrypted store with this key file.
    #[arg(long, value_name = "FILE", env = "TORPOR_KEY_FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

impl Args {
    /// Whether nobody asked for a store, and there is none.
    pub(crate) fn is_absent(&self) -> bool {
        self.store == DEFAULT_STORE
            && directory(&self.store).is_ok_and(|path| !path.join("torpor-store").exists())
    }

    /// Opens the store, which must exist.
    pub(crate) fn open(&self) -> anyhow::Result<Repository> {
        let backend = backend(&self.store)?;
        let credentials = credentials(self.passphrase_file.as_deref(), self.key_file.as_deref())?;
        Ok(Repository::open(backend, &credentials)?)
    }
}

/// What opens a store, from the files that are given.
pub(crate) fn credentials(passphrase: Option<&Path>, key: Option<&Path>) -> anyhow::Result<Credentials> {
    Ok(match (passphrase, key) {
        (Some(path), _) => Credentials::from_passphrase_file(path)?,
        (None, Some(path)) => Credentials::from_key_file(path)?,
        (None, None) => Credentials::None,
    })
}

/// The place a store's URL names.
pub(crate) fn backend(url: &str) -> Result<Arc<dyn Backend>, Failure> {
    Ok(Arc::new(LocalBackend::new(directory(url)?)))
}

/// Where holders on this machine show that they live, in a store that is a directory.
pub(crate) fn signs(url: &str) -> Option<PathBuf> {
    directory(url).ok().map(|store| store.join("holders"))
}

/// The directory that a store's URL names.
pub(crate) fn directory(url: &str) -> Result<PathBuf, Failure> {
    let refused = |message: String, remedy: &str| Err(Failure::new(Exit::Usage, message, remedy));
    let Some((scheme, rest)) = url.split_once("://") else {
        if url.is_empty() {
            return refused("the store's URL is empty".to_owned(), "give a directory with --store");
        }
        return Ok(PathBuf::from(url));
    };
    match scheme {
        "file" => {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return refused(
                    format!("{url} names a host, or a path that is not absolute"),
                    "write file:///PATH, with three slashes, or a plain path",
                );
            }
            match unescape(path) {
                Some(path) => Ok(PathBuf::from(path)),
                None => refused(format!("{url} has a broken %-escape"), "write a literal % as %25"),
            }
        }
        "s3" | "gs" | "az" => refused(
            format!("{url}: this release keeps stores in directories only"),
            "mount a shared volume, and give its path with --store",
        ),
        _ => {
            refused(format!("{url}: unknown kind of store {scheme:?}"), "write file:///PATH, or a plain path")
        }
    }
}

/// A path with its %-escapes replaced, or none if one is broken.
fn unescape(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_path_or_a_file_url() {
        for (url, path) in [
            ("/var/lib/torpor", "/var/lib/torpor"),
            ("keep", "keep"),
            ("file:///var/lib/torpor", "/var/lib/torpor"),
            ("file://localhost/a%20b", "/a b"),
        ] {
            assert_eq!(directory(url).unwrap(), Path::new(path), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_with_a_remedy() {
        for url in [
            "",
            "file://keep",
            "file:///a%2",
            "file:///a%+1",
            "s3://bucket/x",
            "ftp://host/x",
            "file:///a%00",
        ] {
            let refused = directory(url).unwrap_err();
            assert!(refused.remedy.is_some() && refused.exit == Exit::Usage, "{url}");
        }
    }
}
