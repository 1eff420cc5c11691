//! Debian's package manager with directories and a sources list of its own: reads another suite's packages
//! without touching the system's, and without being root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::chore;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package manager whose lists, cache and status are under one directory.
#[derive(Debug)]
pub(crate) struct Apt {
    dir: PathBuf,
}

/// What a suite offers of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
}

impl Apt {
    /// Prepares directories for `suite` of `mirror` below `dir`.
    pub(crate) fn open(dir: &Path, mirror: &str, suite: &str) -> Result<Apt> {
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: install the package debian-archive-keyring");
        }
        for sub in ["lists/partial", "cache/archives/partial", "debs"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("cannot create {}", sub.display()))?;
        }
        fs::write(dir.join("status"), "")?;
        fs::write(dir.join("sources.list"), format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        Ok(Apt { dir: dir.to_path_buf() })
    }

    /// Fetches the suite's list of packages.
    pub(crate) fn update(&self) -> Result<()> {
        chore::capture(self.command("apt-get").arg("update"))
            .context("cannot read Debian's list of packages")?;
        Ok(())
    }

    /// What the suite offers of `packages`, the newest of each; a package it no longer has is left out.
    pub(crate) fn offers(&self, packages: &[&str]) -> Result<Vec<Offer>> {
        // One that is gone makes the command fail though it shows the others.
        let shown =
            chore::output(self.command("apt-cache").args(["show", "--no-all-versions"]).args(packages))?;
        Ok(parse_offers(&String::from_utf8_lossy(&shown.stdout)))
    }

    /// Downloads exactly this offer and returns the file's path. Its digest is not checked here.
    pub(crate) fn download(&self, offer: &Offer) -> Result<PathBuf> {
        let file = self.file_of(offer);
        let wanted = format!("{}={}", offer.package, offer.version);
        chore::capture(
            self.command("apt-get").args(["download", "-q"]).arg(&wanted).current_dir(self.dir.join("debs")),
        )
        .with_context(|| format!("cannot download {wanted}"))?;
        if !file.is_file() {
            bail!("downloading {wanted} left no {}", file.display());
        }
        Ok(file)
    }

    /// Where the file of `offer` is, or will be.
    pub(crate) fn file_of(&self, offer: &Offer) -> PathBuf {
        // apt escapes the colon of an epoch in file names.
        let version = offer.version.replace(':', "%3a");
        self.dir.join("debs").join(format!("{}_{version}_amd64.deb", offer.package))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = self.dir.display();
        let mut options = vec![
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            "Dir::Etc::preferencesparts=-".to_owned(),
            format!("Dir::State={dir}"),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::State::status={dir}/status"),
            format!("Dir::Cache={dir}/cache"),
            "APT::Architecture=amd64".to_owned(),
            "APT::Default-Release=".to_owned(),
            "APT::Update::Post-Invoke-Success::=/bin/true".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // Desktop catalogues are a third of the download and nothing here reads them.
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        if chore::is_root() {
            // The sandbox user may not be able to enter the build directory.
            options.push("APT::Sandbox::User=root".to_owned());
        }
        for option in options {
            command.arg("-o").arg(option);
        }
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// The Debian mirror this machine's package manager uses, else the one debootstrap would.
pub(crate) fn machine_mirror() -> Result<String> {
    let mut listed = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        listed.extend(parts.filter_map(|part| part.ok().map(|part| part.path())));
    }
    listed.sort();
    for path in listed {
        let mirror = match path.extension().and_then(|kind| kind.to_str()) {
            Some("sources" | "list") => {
                fs::read_to_string(&path).ok().and_then(|text| mirror_in_sources(&text))
            }
            _ => None,
        };
        if let Some(mirror) = mirror {
            return Ok(mirror);
        }
    }
    fs::read_to_string("/usr/sbin/debootstrap")
        .ok()
        .and_then(|script| mirror_in_debootstrap(&script))
        .context(
            "no mirror of Debian's packages in /etc/apt/sources.list or /etc/apt/sources.list.d; \
         name one with --mirror, or install debootstrap, which knows one",
        )
}

/// The first mirror of Debian's main archive in the text of a sources file, of either style.
fn mirror_in_sources(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter(|line| line.starts_with("deb ") || line.to_ascii_lowercase().starts_with("uris:"))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with("/debian"))
        .map(str::to_owned)
}

/// The default mirror that debootstrap's script assigns.
fn mirror_in_debootstrap(script: &str) -> Option<String> {
    script
        .lines()
        .filter_map(|line| line.trim().strip_prefix("DEF_MIRROR="))
        .map(|value| value.trim_matches('"').trim_end_matches('/').to_owned())
        .find(|mirror| mirror.ends_with("/debian"))
}

fn parse_offers(text: &str) -> Vec<Offer> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    text.split("\n\n")
        .filter_map(|stanza| {
            Some(Offer {
                package: field(stanza, "Package:")?,
                version: field(stanza, "Version:")?,
                sha256: field(stanza, "SHA256:")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_read_from_both_styles_of_sources() {
        let deb822 =
            "Types: deb\n# http://old.example/debian\nURIs: http://mirror.example/debian/\nSuites: x\n";
        assert_eq!(mirror_in_sources(deb822).as_deref(), Some("http://mirror.example/debian"));
        let one_line = "deb [arch=amd64] https://mirror.example/debian bookworm main\n";
        assert_eq!(mirror_in_sources(one_line).as_deref(), Some("https://mirror.example/debian"));
        let others =
            "deb http://mirror.example/debian-security x main\ndeb http://mirror.example/ubuntu x main\n";
        assert_eq!(mirror_in_sources(others), None);
    }

    #[test]
    fn debootstraps_default_mirror_is_found() {
        let script = "if x; then\n    DEF_MIRROR=\"http://mirror.example/debian\"\nfi\n";
        assert_eq!(mirror_in_debootstrap(script).as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn offers_are_read_from_stanzas() {
        let text = "Package: criu\nVersion: 4.2.1-1\nSHA256: ab\nDescription: x\n\nPackage: odd\n\n";
        let criu = Offer { package: "criu".into(), version: "4.2.1-1".into(), sha256: "ab".into() };
        assert_eq!(parse_offers(text), [criu]);
    }
}
