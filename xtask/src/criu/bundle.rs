//! The private CRIU on disk: unpacking its packages under one prefix and leaving out what it never loads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Offer;
use crate::chore;

/// Written last: a prefix without it, or with another content, is not whole.
const RECORD: &str = "PACKAGES";

/// Runs CRIU by the loader and libraries of the prefix it lies in, wherever that was moved.
const LAUNCHER: &str = r#"#!/bin/sh
prefix=$(dirname "$(dirname "$(readlink -f "$0")")")
exec "$prefix/usr/lib64/ld-linux-x86-64.so.2" --library-path "$prefix/usr/lib/x86_64-linux-gnu" \
    "$prefix/usr/sbin/criu" "$@"
"#;

/// The file to start in a prefix.
pub(crate) fn executable(prefix: &Path) -> PathBuf {
    prefix.join("bin/criu")
}

/// Whether `prefix` holds exactly these packages.
pub(crate) fn holds(prefix: &Path, offers: &[Offer]) -> bool {
    fs::read_to_string(prefix.join(RECORD)).is_ok_and(|found| found == record(offers))
}

/// Unpacks `files` so that `prefix` appears whole or not at all.
pub(crate) fn unpack(files: &[PathBuf], offers: &[Offer], prefix: &Path) -> Result<()> {
    let parent = prefix.parent().unwrap_or(Path::new("."));
    let staging = parent.join(format!(".criu-unpacking-{}", std::process::id()));
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::create_dir_all(&staging).with_context(|| format!("cannot create {}", staging.display()))?;
    for file in files {
        chore::capture(Command::new("dpkg-deb").arg("-x").arg(file).arg(&staging))?;
    }
    trim(&staging)?;
    let launcher = executable(&staging);
    fs::create_dir_all(staging.join("bin"))?;
    fs::write(&launcher, LAUNCHER)?;
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755))?;
    fs::write(staging.join(RECORD), record(offers))?;
    if prefix.exists() {
        fs::remove_dir_all(prefix).with_context(|| format!("cannot replace {}", prefix.display()))?;
    }
    fs::rename(&staging, prefix).with_context(|| format!("cannot move to {}", prefix.display()))
}

/// Leaves out what a running CRIU never reads; the licences stay.
fn trim(root: &Path) -> Result<()> {
    const UNUSED: &[&str] = &[
        "etc",
        "usr/bin",
        "usr/include",
        "usr/lib/x86_64-linux-gnu/gconv",
        "usr/libexec",
        "usr/lib/tmpfiles.d",
    ];
    for unused in UNUSED {
        let path = root.join(unused);
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        }
    }
    let share = root.join("usr/share");
    for entry in fs::read_dir(&share)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name != "doc") {
            fs::remove_dir_all(&path)?;
        }
    }
    for package in fs::read_dir(share.join("doc"))? {
        let package = package?;
        if !package.file_type()?.is_dir() {
            continue; // a link to the licence of the package it belongs to
        }
        for file in fs::read_dir(package.path())? {
            let file = file?;
            if file.file_name() != "copyright" {
                if file.file_type()?.is_dir() {
                    fs::remove_dir_all(file.path())?;
                } else {
                    fs::remove_file(file.path())?;
                }
            }
        }
    }
    Ok(())
}

fn record(offers: &[Offer]) -> String {
    offers.iter().map(|offer| format!("{}  {}  {}\n", offer.sha256, offer.package, offer.version)).collect()
}
