//! Names of images.

use std::fmt;
use std::str::FromStr;

use super::RegistryError;
use crate::oci::Digest;

/// The registry that names without a host mean.
const DOCKER: &str = "docker.io";

/// The name of an image in a registry: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`; without a host, Docker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
    wanted: String,
}

impl Reference {
    /// The registry, with its port where it has one.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host that answers for it.
    pub(super) fn server(&self) -> &str {
        if self.host == DOCKER { "registry-1.docker.io" } else { &self.host }
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest, where there is one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the registry is asked for: the digest, or the tag, which is `latest` where none is given.
    #[must_use]
    pub fn tag_or_digest(&self) -> &str {
        &self.wanted
    }

    /// Whether the registry is on this machine.
    pub(super) fn is_local(&self) -> bool {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        name == "localhost"
            || name == "[::1]"
            || name.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let refused = || RegistryError::Reference { text: text.chars().take(300).collect() };
        let rest = text.strip_prefix("docker://").unwrap_or(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::try_from(digest.to_owned()).map_err(|_| refused())?)),
            None => (rest, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
            _ => (rest, None),
        };
        let (host, repository) = match rest.split_once('/') {
            Some((host, repository)) if host.contains(['.', ':']) || host == "localhost" => {
                (host, repository.to_owned())
            }
            Some(_) => (DOCKER, rest.to_owned()),
            None => (DOCKER, format!("library/{rest}")),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let is_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let fits = !host.is_empty()
            && host.chars().all(is_host)
            && repository.len() <= 255
            && repository.split('/').all(|part| {
                part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_name)
            })
            && tag.is_none_or(|tag| {
                (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']) && tag.chars().all(is_tag)
            });
        if !fits {
            return Err(refused());
        }
        let wanted = digest.as_ref().map_or_else(|| tag.unwrap_or("latest").to_owned(), ToString::to_string);
        let tag = tag.map(str::to_owned);
        Ok(Self { host: host.to_owned(), repository, tag, digest, wanted })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        for (text, host, repository, wanted) in [
            ("docker://localhost:5000/a/b:v1", "localhost:5000", "a/b", "v1"),
            ("quay.io/shop/web", "quay.io", "shop/web", "latest"),
            ("alpine", "docker.io", "library/alpine", "latest"),
            ("shop/web:1", "docker.io", "shop/web", "1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (reference.host(), reference.repository(), reference.tag_or_digest()),
                (host, repository, wanted)
            );
        }
        let digest = Digest::of(b"").to_string();
        let pinned: Reference = format!("quay.io/web:1@{digest}").parse().unwrap();
        assert_eq!(
            (pinned.tag_or_digest(), pinned.to_string()),
            (&digest[..], format!("quay.io/web:1@{digest}"))
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "quay.io/",
            "quay.io/../x",
            "quay.io/A",
            "quay.io/a:",
            "quay.io/a:../b",
            "a@sha256:1",
            "ho st.x/a",
            "quay.io/a?b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn registries_on_this_machine() {
        for (host, local) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("quay.io", false),
            ("127.0.0.1.evil.org", false),
        ] {
            assert_eq!(format!("{host}/a").parse::<Reference>().unwrap().is_local(), local, "{host}");
        }
    }
}
