//! How long it takes to look into an archive of Podman's, against checkpointctl, and in how much memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::figures::{self, Figure};
use crate::{chore, lab, workspace};

/// Starts a program and tells its greatest memory in KiB.
const PEAK: &str = "import resource, subprocess, sys; \
    status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; \
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)";
/// What is searched for.
const NEEDLE: &str = "needle-in-haystack!";
/// The most memory that is promised, in MiB.
const MOST_MEMORY: f64 = 64.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fail where a promise is not met.
    #[arg(long)]
    check: bool,
    /// How often each is run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The worker's memory, in MiB; promises are about 1024.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1024])]
    sizes: Vec<u32>,
    /// The checkpointctl to compare with [default: Debian's, on the lab host].
    #[arg(long, value_name = "FILE")]
    checkpointctl: Option<PathBuf>,
}

/// What is asked of an archive.
#[derive(Debug, Clone, Copy)]
struct Job {
    name: &'static str,
    words: &'static [&'static str],
    /// At most this part of checkpointctl's time is promised at 1 GiB plain.
    limit: Option<f64>,
    /// The directory of the archive is asked, not the archive.
    of_directory: bool,
}

const JOBS: [Job; 4] = [
    Job { name: "show", words: &["show"], limit: Some(0.05), of_directory: false },
    Job { name: "inspect", words: &["inspect", "--all"], limit: Some(0.05), of_directory: false },
    Job { name: "list", words: &["list"], limit: None, of_directory: true },
    Job {
        name: "search",
        words: &["memparse", "-p", "1", "-s", NEEDLE],
        limit: Some(1.0 / 3.0),
        of_directory: false,
    },
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    mib: u32,
    archive: &'static str,
    job: &'static str,
    torpor_ms: f64,
    checkpointctl_ms: f64,
    /// The greatest memory of ours, in MiB.
    peak_mib: f64,
}

/// Both programs, as the words that start them.
struct Programs {
    torpor: Vec<PathBuf>,
    checkpointctl: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let root = super::on_lab_hosts()?;
    let directory = workspace::target().join("bench/inspect");
    fs::create_dir_all(&directory)?;
    let programs = programs(args, &root, &directory)?;
    let (mut measured, mut figures) = (Vec::new(), Vec::new());
    for &mib in &args.sizes {
        let place = directory.join(mib.to_string());
        for (kind, compression) in [("tar", "none"), ("tar.zst", "zstd")] {
            // One to a directory, so that a list reads one.
            let archive = place.join(kind).join(format!("checkpoint-worker.{kind}"));
            if !archive.exists() {
                chore::step(&format!("making an archive of {mib} MiB, {kind}"));
                lab::podman(&root, &place, mib, compression)?;
                fs::create_dir_all(place.join(kind))?;
                fs::rename(place.join("made").join(format!("podman.{kind}")), &archive)?;
            }
            for job in &JOBS {
                let row = measure(&programs, job, mib, kind, &archive, args.runs)?;
                let promised = mib == 1024 && kind == "tar";
                let title = format!("{} at {mib} MiB, {kind}", job.name);
                figures.push(Figure {
                    title: format!("{title}: time / checkpointctl's"),
                    ratio: row.torpor_ms / row.checkpointctl_ms,
                    limit: job.limit.filter(|_| promised),
                });
                figures.push(Figure {
                    title: format!("{title}: memory / 64 MiB"),
                    ratio: row.peak_mib / MOST_MEMORY,
                    limit: Some(1.0),
                });
                measured.push(row);
            }
            let written = files_written(&programs, &archive)?;
            figures.push(Figure {
                title: format!("files written at {mib} MiB, {kind}"),
                ratio: written as f64,
                limit: Some(0.0),
            });
        }
    }
    println!(
        "\n  {:>5}  {:<8} {:<8} {:>10} {:>14} {:>9}",
        "MiB", "archive", "job", "torpor", "checkpointctl", "memory"
    );
    for row in &measured {
        println!(
            "  {:>5}  {:<8} {:<8} {:>7.1} ms {:>11.1} ms {:>5.1} MiB",
            row.mib, row.archive, row.job, row.torpor_ms, row.checkpointctl_ms, row.peak_mib
        );
    }
    figures::conclude("inspect", &measured, &figures, args.check)
}

/// Torpor under checkpointctl's name, and checkpointctl. Debian's runs with the lab root's own libraries.
fn programs(args: &Args, root: &Path, directory: &Path) -> Result<Programs> {
    let link = directory.join("checkpointctl");
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(workspace::target().join("release/torpor"), &link)?;
    let checkpointctl = match &args.checkpointctl {
        Some(program) => vec![program.clone()],
        None => {
            let libraries = root.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
            let loader = fs::read_dir(root.join("usr/lib64"))
                .into_iter()
                .flatten()
                .chain(fs::read_dir(root.join("usr/lib"))?)
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .find(|path| {
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"))
                })
                .context("the lab root has no loader")?;
            vec![loader, "--library-path".into(), libraries, root.join("usr/bin/checkpointctl")]
        }
    };
    Ok(Programs { torpor: vec![link], checkpointctl })
}

fn measure(
    programs: &Programs,
    job: &Job,
    mib: u32,
    kind: &'static str,
    archive: &Path,
    runs: u32,
) -> Result<Measurement> {
    chore::step(&format!("{} of {mib} MiB, {kind}, in turns", job.name));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours.push(timed(&programs.torpor, job, archive)?);
        theirs.push(timed(&programs.checkpointctl, job, archive)?);
    }
    Ok(Measurement {
        mib,
        archive: kind,
        job: job.name,
        torpor_ms: figures::median(&ours),
        checkpointctl_ms: figures::median(&theirs),
        peak_mib: peak(&programs.torpor, job, archive)?,
    })
}

/// The words of a job for a program.
fn words(program: &[PathBuf], job: &Job, archive: &Path) -> Vec<PathBuf> {
    let subject = if job.of_directory { archive.parent().unwrap_or(archive) } else { archive };
    let given = job.words.iter().map(PathBuf::from);
    program.iter().cloned().chain(given).chain([subject.to_owned()]).collect()
}

fn timed(program: &[PathBuf], job: &Job, archive: &Path) -> Result<f64> {
    let words = words(program, job, archive);
    // checkpointctl 1.3 fails now and then for no reason that lies in the archive.
    for _ in 0..10 {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        if command.status()?.success() {
            return Ok(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    bail!("{} {} fails", words[0].display(), job.name)
}

/// The greatest memory of a job, in MiB.
fn peak(program: &[PathBuf], job: &Job, archive: &Path) -> Result<f64> {
    let mut python = Command::new("python3");
    python.arg("-c").arg(PEAK).args(words(program, job, archive));
    let said = chore::capture(&mut python)?;
    let kib: f64 = said.trim().parse().with_context(|| format!("python3 said {said:?}"))?;
    Ok(kib / 1024.0)
}

/// How many files all jobs together open for writing, or make.
fn files_written(programs: &Programs, archive: &Path) -> Result<usize> {
    let trace = archive.with_extension("trace");
    let mut written = 0;
    for job in &JOBS {
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-qq",
            "-e",
            "trace=open,openat,openat2,creat,mkdir,mkdirat,rename,renameat2",
            "-o",
        ]);
        strace.arg(&trace).args(words(&programs.torpor, job, archive));
        chore::capture(&mut strace)?;
        written += fs::read_to_string(&trace)?.lines().filter(|line| writes(line)).count();
    }
    fs::remove_file(trace)?;
    Ok(written)
}

/// Whether a line of strace's tells of a file that may be written. Devices are none.
fn writes(line: &str) -> bool {
    let makes =
        ["creat(", "mkdir(", "mkdirat(", "rename(", "renameat2("].iter().any(|call| line.contains(call));
    let opens = ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag));
    (makes || opens) && !line.contains("\"/dev/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_for_writing_counts() {
        for (line, counts) in [
            ("12 openat(AT_FDCWD, \"/a.tar\", O_RDONLY|O_CLOEXEC) = 3", false),
            ("12 openat(AT_FDCWD, \"/tmp/x\", O_RDWR|O_CREAT, 0600) = 3", true),
            ("12 openat(AT_FDCWD, \"/dev/null\", O_RDWR) = 3", false),
            ("12 mkdir(\"/tmp/x\", 0700) = 0", true),
        ] {
            assert_eq!(writes(line), counts, "{line}");
        }
    }

    #[test]
    fn a_list_is_of_the_directory() {
        let words = |job| words(&["c".into()], job, Path::new("/d/a.tar"));
        assert_eq!(words(&JOBS[0]), ["c", "show", "/d/a.tar"].map(PathBuf::from));
        assert_eq!(words(&JOBS[2]), ["c", "list", "/d"].map(PathBuf::from));
    }
}
