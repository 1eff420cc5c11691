//! What `torpor-runtime` adds to the creation of a container that is not restored.
//!
//! The real runtime is a program that ends at once: creating a container takes tens of milliseconds and varies by more than
//! what is to be measured.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::figures::{self, Figure};
use crate::{chore, workspace};

/// What is promised, in milliseconds.
const PROMISED: f64 = 5.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fail where a promise is not met.
    #[arg(long)]
    check: bool,
    /// How often each is run.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The binary to measure [default: one built for release].
    #[arg(long, value_name = "FILE")]
    torpor: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    bare_ms: f64,
    torpor_ms: f64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let torpor = match &args.torpor {
        Some(torpor) => torpor.canonicalize()?,
        None => {
            chore::step("building for release");
            chore::run(chore::cargo().args(["build", "--release", "--quiet", "-p", "torpor"]))?;
            workspace::target().join("release/torpor")
        }
    };
    let directory = workspace::target().join("bench/runtime");
    fs::create_dir_all(directory.join("bundle/rootfs"))?;
    fs::write(directory.join("bundle/config.json"), configuration().to_string())?;
    let link = directory.join("torpor-runtime");
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(torpor, &link)?;
    let real = Path::new("/bin/true");
    chore::step("creating nothing, in turns");
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        bare.push(timed(real, real, &directory)?);
        ours.push(timed(&link, real, &directory)?);
    }
    let measured = Measurement { bare_ms: figures::median(&bare), torpor_ms: figures::median(&ours) };
    let added = measured.torpor_ms - measured.bare_ms;
    println!(
        "\n  {:.2} ms without, {:.2} ms with, {added:.2} ms added",
        measured.bare_ms, measured.torpor_ms
    );
    let figure =
        Figure { title: "added to a create / 5 ms".to_owned(), ratio: added / PROMISED, limit: Some(1.0) };
    figures::conclude("runtime", &[measured], &[figure], args.check)
}

/// How long a `create` takes, in milliseconds.
fn timed(program: &Path, real: &Path, directory: &Path) -> Result<f64> {
    let mut command = Command::new(program);
    command
        .args(["--root", "/run/containerd/runc/k8s.io", "--log"])
        .arg(directory.join("log.json"))
        .args(["--log-format", "json", "create", "--bundle"])
        .arg(directory.join("bundle"))
        .args(["--pid-file", "init.pid", "0123456789abcdef"])
        .env("TORPOR_RUNTIME", real)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    ensure!(status.success(), "{} fails", program.display());
    Ok(took)
}

/// As large as that of a container in a cluster.
fn configuration() -> Value {
    let env: Vec<String> = (0..80).map(|n| format!("SERVICE_{n}_PORT=tcp://10.96.0.{n}:443")).collect();
    let mounts: Vec<Value> = (0..24)
        .map(|n| {
            let source = format!("/var/lib/kubelet/pods/0123/volumes/kubernetes.io~projected/{n}");
            json!({"destination": format!("/mnt/{n}"), "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro"]})
        })
        .collect();
    let calls: Vec<String> = (0..400).map(|n| format!("call_{n}")).collect();
    json!({
        "ociVersion": "1.2.0", "process": {"args": ["/bin/server"], "env": env, "cwd": "/"},
        "root": {"path": "rootfs"}, "mounts": mounts,
        "annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-namespace": "shop"},
        "linux": {"namespaces": [{"type": "pid"}], "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": calls, "action": "SCMP_ACT_ALLOW"}]}},
    })
}
