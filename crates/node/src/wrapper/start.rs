//! The start: what the record offers is restored, or the program begins fresh.

use torpor_store::lineage::{self, Decision, Reason, Wish};

use super::WrapperError;
use super::program::{self, Kept, Running};
use crate::capabilities::Capabilities;
use crate::children::Children;
use crate::config::{AfterCrash, AllowChanged, OnRestoreFailure};
use crate::cpu_baseline;
use crate::facts::{self, Facts};
use crate::hooks::{self, Occasion, Point};
use crate::phase::{Phase, Phases};
use crate::process_tree;
use crate::restore::{self, Restoration, RestoreError, Site};
use crate::status::Status;
use crate::streams::{self, Streams};
use crate::volumes;

/// Restores what may be restored, newest first; else starts fresh, if that is wanted.
pub(super) fn start(kept: &Kept, children: &Children) -> Result<Running, WrapperError> {
    let mut wish = wish(kept);
    let mut last_error = None;
    loop {
        let mut phases = Phases::begin(Phase::Find);
        let offer = kept.epoch.offer(&wish)?;
        for passed in &offer.passed_over {
            tracing::info!(generation = passed.number, because = %passed.because, "passed over");
        }
        match offer.decision {
            Decision::Fresh { because } => return fresh(kept, children, &because),
            Decision::Fail { because } => {
                return Err(WrapperError::NotRestored { because, source: last_error.map(Box::new) });
            }
            Decision::Restore { number, kind, because, .. } => {
                tracing::info!(generation = number, %kind, %because, "restoring");
                match restore(kept, children, number, &mut phases) {
                    Ok(running) => return Ok(running),
                    Err(error) => {
                        report(number, &error);
                        wish.refused.insert(number, sentence(&error));
                        last_error = Some(error);
                    }
                }
            }
        }
    }
}

fn wish(kept: &Kept) -> Wish {
    let config = &kept.config;
    let allows = |what| config.allow_changed.contains(&what);
    let mut program = kept.program.clone();
    if allows(AllowChanged::Command) {
        program.command = None;
    }
    if allows(AllowChanged::Executable) {
        program.executable = None;
    }
    if allows(AllowChanged::Image) {
        program.image = None;
    }
    Wish {
        program,
        after_crash: match config.after_crash {
            AfterCrash::Fresh => lineage::AfterCrash::Fresh,
            AfterCrash::Last => lineage::AfterCrash::Last,
            AfterCrash::Fail => lineage::AfterCrash::Fail,
        },
        on_restore_failure: match config.on_restore_failure {
            OnRestoreFailure::Fresh => lineage::OnRestoreFailure::Fresh,
            OnRestoreFailure::Fail => lineage::OnRestoreFailure::Fail,
        },
        no_restore: config.no_restore,
        allow_changed: false,
        templates: true,
        refused: std::collections::BTreeMap::new(),
    }
}

/// Says once what failed and why, with the lines of CRIU's log.
fn report(number: u64, error: &RestoreError) {
    tracing::error!(generation = number, error = sentence(error), remedy = error.remedy(), "cannot restore");
    for line in error.log_lines() {
        tracing::error!("criu: {line}");
    }
}

fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn restore(
    kept: &Kept,
    children: &Children,
    number: u64,
    phases: &mut Phases,
) -> Result<Running, RestoreError> {
    let _helpers = children.helpers_run();
    let record = kept.epoch.record()?;
    let id = record.generation(number).map(|generation| generation.manifest);
    let manifest = kept.repository.manifest(id.ok_or(RestoreError::Gone { number })?)?;
    phases.enter(Phase::Check);
    let mut facts = Facts::parse(&manifest.description().facts)?;
    let volumes = volumes::compare(&facts.volumes)?;
    let site = Site {
        machine: &kept.machine,
        capabilities: Capabilities::effective(),
        allowed: &kept.config.allow_changed,
    };
    restore::check::check(&facts, &site, volumes).map_err(RestoreError::Misfit)?;
    let unread = match facts.unread_input.take() {
        Some(unread) if !Streams::still_have(&facts.streams, &unread) => {
            kept.repository.read_image(&manifest, streams::UNREAD)?
        }
        _ => Vec::new(),
    };
    let mut streams = Streams::in_place_of(&facts.streams, unread)?;

    kept.epoch.record_attempt(number)?;
    let listen_remap = kept.listen_remap();
    let restoration = Restoration {
        repository: &kept.repository,
        manifest: &manifest,
        facts: &facts,
        criu: &kept.criu,
        expert_options: &kept.expert_options,
        default_config: kept.default_config(),
        mounts: &kept.mounts,
        selection: &kept.selection,
        listen_remap: &listen_remap,
        external_unix: kept.sockets.external_unix,
        staging: &kept.staging,
        leave_stopped: kept.config.leave_stopped,
    };
    let status =
        facts.status.clone().restored(&kept.instance, kept.epoch.number(), number, jiff::Timestamp::now());
    let others = process_tree::of(std::process::id() as i32);
    let restored = restoration.restore(&streams, phases, &mut || {
        // The program may look at once; and from here on it is this epoch that runs it.
        status.write(&kept.config.status_file)?;
        Ok(kept.epoch.record_restored(number)?)
    });
    let restored = match restored {
        Ok(restored) => restored,
        Err(error) => {
            kept.epoch.record_failed(number, &sentence(&error))?;
            return Err(error);
        }
    };
    if let Some(master) = restored.terminal {
        streams.adopt_terminal(master).map_err(RestoreError::Stream)?;
    }
    streams.release().map_err(RestoreError::Stream)?;
    facts.status = status;
    facts.streams = streams.after_restore(&facts.streams);
    if !kept.config.leave_stopped
        && let Err(error) = hooks::run(
            Point::PostRestore,
            &kept.config.hooks,
            &occasion(kept, restored.root, Some(number), "go-on", "restored", None),
            None,
        )
    {
        // As one that CRIU could not restore: nothing of it is left, and its files are as they were.
        process_tree::end_all_but(&others);
        drop(restored.before);
        kept.epoch.record_failed(number, &sentence(&error))?;
        return Err(error.into());
    }
    restored.before.release();
    tracing::info!(generation = number, %phases, "restored");
    ready(kept, restored.root, Some(number), "restored");
    Ok(Running { root: restored.root, streams, facts, predecessor: Some(manifest), files: restored.files })
}

fn fresh(kept: &Kept, children: &Children, because: &Reason) -> Result<Running, WrapperError> {
    if kept.config.program.is_empty() {
        return Err(WrapperError::NoProgram { because: because.clone() });
    }
    tracing::info!(%because, "starting fresh");
    kept.epoch.record_fresh(&because.to_string())?;
    let status = Status::fresh(
        &kept.epoch.name().to_string(),
        &kept.instance,
        kept.epoch.number(),
        jiff::Timestamp::now(),
    );
    status.write(&kept.config.status_file)?;
    let mut streams = Streams::of_torpor()?;
    let launched = program::launch(&kept.config, &streams, Vec::new())?.start()?;
    if !launched.namespaces.time && kept.config.time_namespace != crate::config::Namespace::Off {
        tracing::warn!(
            "no time namespace without CAP_SYS_ADMIN and CAP_SYS_TIME: after a restore on a machine with another uptime the program \
             will see its monotonic clock jump"
        );
    }
    if kept.config.capabilities == crate::config::Capabilities::Drop
        && !Capabilities::effective().has("setpcap")
    {
        tracing::warn!(
            "without CAP_SETPCAP the program keeps the capabilities that were granted for Torpor's sake"
        );
    }
    let streams_kinds = streams.kinds.clone();
    streams.release().map_err(WrapperError::Wait)?;
    let facts = Facts {
        version: facts::VERSION,
        torpor: env!("CARGO_PKG_VERSION").to_owned(),
        command: kept.config.program.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        program: kept.program.clone(),
        tree: facts::Tree { root: launched.pid, pids: vec![launched.pid] },
        namespaces: launched.namespaces,
        streams: streams_kinds,
        unread_input: None,
        tcp: facts::Tcp { captured: false, close_outside: true, inside: 0 },
        addresses: Vec::new(),
        criu: facts::Criu { version: 0, options: Vec::new(), own_configuration: false },
        volumes: Vec::new(),
        machine: cpu_baseline::machine(&kept.machine, kept.config.cpu_baseline),
        status,
    };
    let _helpers = children.helpers_run();
    ready(kept, launched.pid, None, "fresh");
    Ok(Running { root: launched.pid, streams, facts, predecessor: None, files: Vec::new() })
}

/// Tells those who wait for the program to run; their failure is theirs.
fn ready(kept: &Kept, root: i32, generation: Option<u64>, kind: &str) {
    let occasion = occasion(kept, root, generation, "go-on", kind, None);
    if let Err(error) = hooks::run(Point::OnAppReady, &kept.config.hooks, &occasion, None) {
        tracing::warn!(error = sentence(&error), "an onAppReady hook failed");
    }
}

pub(super) fn occasion(
    kept: &Kept,
    root: i32,
    generation: Option<u64>,
    phase: &str,
    kind: &str,
    outcome: Option<&str>,
) -> Occasion {
    Occasion {
        name: kept.epoch.name().to_string(),
        epoch: kept.epoch.number(),
        instance: kept.instance.clone(),
        generation,
        phase: phase.to_owned(),
        kind: kind.to_owned(),
        outcome: outcome.map(str::to_owned),
        program_pid: root,
        status_file: kept.config.status_file.clone(),
    }
}
