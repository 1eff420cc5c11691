//! `torpor checkpoint --route cri|kubelet`: an archive that the container's engine makes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use torpor_node::container::archive::{self, KUBELETS, Placement};
use torpor_node::container::cri::Cri;
use torpor_node::container::kubelet::{self, Credentials, Kubelet, Trust};
use torpor_node::container::state::PodPlace;
use torpor_node::container::{Container, ContainerError, Query, Roots};

use super::Took;
use super::container::{Made, milliseconds};
use crate::cli::Exit;
use crate::cli::convert;
use crate::cli::failure::Failure;

/// Flags of the routes through engines.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Engines")]
#[group(skip)]
pub(super) struct Args {
    /// Make an archive, as a file or in a directory: that of --layout, or the engine's own with --route cri or kubelet.
    #[arg(long, value_name = "PATH", requires = "target")]
    pub(super) export: Option<PathBuf>,
    /// The engine that is to restore the archive.
    #[arg(long, value_name = "ENGINE", requires = "export", conflicts_with = "images")]
    pub(super) layout: Option<convert::Engine>,
    /// The runtime's socket, where it is not the usual one of containerd or CRI-O.
    #[arg(long, value_name = "FILE", requires = "target")]
    cri_socket: Option<PathBuf>,
    /// The kubelet's address.
    #[arg(long, value_name = "URL", default_value = kubelet::URL, requires = "target")]
    kubelet: String,
    /// Ask the kubelet as the bearer of the token in this file.
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with = "kubelet_certificate")]
    kubelet_token_file: Option<PathBuf>,
    /// Ask the kubelet as the holder of this certificate, in PEM.
    #[arg(long, value_name = "FILE", requires_all = ["target", "kubelet_key"])]
    kubelet_certificate: Option<PathBuf>,
    /// The certificate's key, in PEM.
    #[arg(long, value_name = "FILE", requires = "kubelet_certificate")]
    kubelet_key: Option<PathBuf>,
    /// The authority that signed the kubelet's own certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "target")]
    kubelet_ca: Option<PathBuf>,
    /// Believe whoever answers as the kubelet: many kubelets sign their certificates themselves.
    #[arg(long, requires = "target", conflicts_with = "kubelet_ca")]
    kubelet_insecure: bool,
}

impl Args {
    /// Without the engine, it must be said whose layout an archive is to have.
    pub(super) fn refuse(&self) -> Result<(), Failure> {
        match (&self.export, self.layout) {
            (None, _) | (Some(_), Some(_)) => Ok(()),
            (Some(_), None) => {
                let message = "it was not said which engine is to restore the archive";
                let remedy = "say so with --layout, or have the engine make it with --route cri";
                Err(Failure::new(Exit::Usage, message, remedy))
            }
        }
    }

    /// Where the archive goes.
    fn placement(&self, place: &PodPlace) -> anyhow::Result<Placement> {
        let wanted = self.export.as_deref().unwrap_or(Path::new(KUBELETS));
        Ok(Placement::new(&std::path::absolute(wanted)?, place, jiff::Timestamp::now())?)
    }

    /// Where the directory of a whole pod goes: `--export` where that is not there yet or empty, or else in it, named as the kubelet
    /// names such, but of a moment in nanoseconds.
    fn pods_place(&self, namespace: &str, pod: &str) -> anyhow::Result<PathBuf> {
        let wanted = std::path::absolute(self.export.as_deref().unwrap_or(Path::new(KUBELETS)))?;
        let is_full = std::fs::read_dir(&wanted).is_ok_and(|mut entries| entries.next().is_some());
        let name = archive::directory_name(namespace, pod, jiff::Timestamp::now());
        Ok(if is_full || self.export.is_none() { wanted.join(name) } else { wanted })
    }

    fn kubelet(&self) -> Kubelet {
        let credentials = match (&self.kubelet_token_file, &self.kubelet_certificate, &self.kubelet_key) {
            (Some(token), ..) => Credentials::Token(token.clone()),
            (None, Some(certificate), Some(key)) => {
                Credentials::Certificate { certificate: certificate.clone(), key: key.clone() }
            }
            _ => Credentials::None,
        };
        let trust = match &self.kubelet_ca {
            Some(authority) => Trust::Authority(authority.clone()),
            None if self.kubelet_insecure => Trust::Blind,
            None => Trust::Public,
        };
        Kubelet { url: self.kubelet.clone(), credentials, trust }
    }
}

/// Through the runtime's CRI.
pub(super) fn by_cri(query: &Query, args: &super::Args, roots: &Roots) -> anyhow::Result<Made> {
    runs_on(args)?;
    let engine = &args.engine;
    let find = |by| Cri::find(engine.cri_socket.as_deref(), Some(by)).map_err(ContainerError::from);
    let containers = roots.find_all(query)?;
    if let (Query::Pod { namespace, pod, container: None }, [first, _, ..]) = (query, containers.as_slice()) {
        let wanted = engine.pods_place(namespace, pod)?;
        let since = Instant::now();
        archive::pod_by_cri(&find(&first.engine)?, &containers, &wanted, args.wrapper.timeout)?;
        return Ok(made(format!("{namespace}/{pod}"), &wanted, since));
    }
    let container = roots.find(query)?;
    let cri = find(&container.engine)?;
    let placement = engine.placement(&place(&container))?;
    let since = Instant::now();
    let archive = archive::by_cri(&cri, &container, placement, args.wrapper.timeout)?;
    Ok(made(container.id, &archive, since))
}

/// Through the kubelet of this or another node.
pub(super) fn by_kubelet(query: &Query, args: &super::Args, roots: &Roots) -> anyhow::Result<Made> {
    runs_on(args)?;
    let engine = &args.engine;
    let place = match query {
        Query::Pod { namespace, pod, container: Some(container) } => {
            PodPlace { namespace: namespace.clone(), pod: pod.clone(), container: container.clone() }
        }
        query => {
            let container = roots.find(query)?;
            container.pod().ok_or_else(|| {
                let message = format!("{query} belongs to no pod, so the kubelet knows nothing of it");
                Failure::new(Exit::Usage, message, "leave --route out")
            })?
        }
    };
    let since = Instant::now();
    let archive = archive::by_kubelet(&engine.kubelet(), &place, args.wrapper.timeout)?;
    let archive = match engine.export {
        Some(_) => archive::take_from_kubelet(&archive, engine.placement(&place)?)?,
        None => archive::keep_from_kubelet(&archive, &place, jiff::Timestamp::now())?.unwrap_or_else(|| {
            tracing::info!(kubelet = engine.kubelet, "the archive is on the node of that kubelet");
            archive
        }),
    };
    Ok(made(format!("{}/{}/{}", place.namespace, place.pod, place.container), &archive, since))
}

/// An engine lets the container run on in any case.
fn runs_on(args: &super::Args) -> Result<(), Failure> {
    if args.leave_running {
        return Ok(());
    }
    let message = "a checkpoint by the engine does not end the container";
    Err(Failure::new(Exit::Usage, message, "say --leave-running, or leave --route out"))
}

/// The container's place, as far as it is in a pod.
pub(super) fn place(container: &Container) -> PodPlace {
    container.pod().unwrap_or_else(|| PodPlace {
        namespace: "none".to_owned(),
        pod: "none".to_owned(),
        container: container.names.first().unwrap_or(&container.id).clone(),
    })
}

fn made(container: String, archive: &Path, since: Instant) -> Made {
    let took = Took { phase: "capture".to_owned(), milliseconds: milliseconds(since.elapsed()) };
    Made {
        container: Some(container),
        process: None,
        checkpoint: archive.display().to_string(),
        suspended: false,
        frozen_milliseconds: None,
        phases: vec![took],
    }
}
