//! Which packages make up the private CRIU: the file that pins them, and what to do when the mirror moved on.

use std::fmt;

use anyhow::{Result, bail};

use crate::apt::Offer;

/// A pinned package that the mirror has in another version, or not at all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Departed {
    package: String,
    pinned: String,
    offered: Option<String>,
}

impl fmt::Display for Departed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.offered {
            Some(version) => write!(f, "{} {}: the mirror has {version}", self.package, self.pinned),
            None => write!(f, "{} {}: the mirror has none", self.package, self.pinned),
        }
    }
}

/// Reads the lock file: `sha256 package version` on a line, comments after `#`.
pub(crate) fn parse(text: &str) -> Result<Vec<Offer>> {
    let mut pins = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<_> = line.split_whitespace().collect();
        let [sha256, package, version] = words[..] else {
            bail!("line {}: expected `sha256 package version`", number + 1);
        };
        if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            bail!("line {}: `{sha256}` is not a SHA-256 in hexadecimal", number + 1);
        }
        pins.push(Offer {
            package: package.to_owned(),
            version: version.to_owned(),
            sha256: sha256.to_ascii_lowercase(),
        });
    }
    if !pins.iter().any(|pin| pin.package == "criu") {
        bail!("no package `criu` is pinned");
    }
    Ok(pins)
}

/// The lock file's text for `offers`, with the comment that heads `old`.
pub(crate) fn write(old: &str, offers: &[Offer]) -> String {
    let heading = old.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n"));
    let lines =
        offers.iter().map(|offer| format!("{}  {}  {}\n", offer.sha256, offer.package, offer.version));
    heading.chain(lines).collect()
}

/// What to download: the pins as they are, or with `newest` what the mirror offers of each.
///
/// # Errors
/// The packages that the mirror lacks in the version wanted (with `newest`, in any).
pub(crate) fn choose(pinned: &[Offer], offered: &[Offer], newest: bool) -> Result<Vec<Offer>, Vec<Departed>> {
    let mut chosen = Vec::new();
    let mut departed = Vec::new();
    for pin in pinned {
        let offer = offered.iter().find(|offer| offer.package == pin.package);
        match offer {
            Some(offer) if newest => chosen.push(offer.clone()),
            Some(offer) if offer.version == pin.version => chosen.push(pin.clone()),
            other => departed.push(Departed {
                package: pin.package.clone(),
                pinned: pin.version.clone(),
                offered: other.map(|offer| offer.version.clone()),
            }),
        }
    }
    if departed.is_empty() { Ok(chosen) } else { Err(departed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(package: &str, version: &str) -> Offer {
        Offer { package: package.into(), version: version.into(), sha256: "a".repeat(64) }
    }

    #[test]
    fn the_projects_own_lock_file_reads_and_writes_back() {
        let text = include_str!("../../criu-packages.lock");
        let pins = parse(text).unwrap();
        assert!(pins.len() > 20);
        assert_eq!(write(text, &pins), text);
    }

    #[test]
    fn a_malformed_line_is_named() {
        assert!(parse("abc criu 1").unwrap_err().to_string().contains("line 1"));
        assert!(parse("# none\n").unwrap_err().to_string().contains("criu"));
    }

    #[test]
    fn a_pin_that_left_the_mirror_is_reported_not_replaced() {
        let pinned = [offer("criu", "4.2.1-1"), offer("libnet9", "1.3")];
        let offered = [offer("criu", "4.3-1"), offer("libnet9", "1.3")];
        let departed = choose(&pinned, &offered, false).unwrap_err();
        assert_eq!(departed.len(), 1);
        assert_eq!(departed[0].to_string(), "criu 4.2.1-1: the mirror has 4.3-1");
        assert_eq!(choose(&pinned, &offered, true).unwrap(), offered);
        assert_eq!(choose(&pinned, &pinned, false).unwrap(), pinned);
    }

    #[test]
    fn a_package_that_is_gone_cannot_be_replaced() {
        let departed = choose(&[offer("libold", "1")], &[], true).unwrap_err();
        assert_eq!(departed[0].to_string(), "libold 1: the mirror has none");
    }
}
