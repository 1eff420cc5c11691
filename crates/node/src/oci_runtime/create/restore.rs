//! The real runtime's `restore`, and what makes it take the container for one that waits for its start.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use rustix::fs::{FileType, Mode};
use torpor_criu::diagnosis::Operation;

use super::super::criu::{self, Annotated};
use super::super::error::RuntimeError;
use super::super::hooks::{Point, Subject};
use super::super::images::Prepared;
use super::super::record::{Record, Stage};
use super::super::remains::{self, Remains};
use super::super::{kept_log, wake};
use super::Making;
use crate::container::enclosure::Enclosure;
use crate::container::{ContainerError, Flavor, deserted};
use crate::process_tree;
use crate::sys::process;

/// CRIU's name for its log of a restore, which runtimes use too.
const LOG: &str = "restore.log";

impl Making<'_> {
    /// Has the real runtime make the container from images that fit, stopped before its first instruction.
    pub(in crate::oci_runtime) fn run(
        &self,
        checkpoint: &str,
        room: &Path,
        prepared: &Prepared,
        options: &[(String, String)],
    ) -> Result<Record, RuntimeError> {
        let call = self.call;
        let place = call.record(&self.new.id);
        let directory = place.directory();
        let here = RuntimeError::place(directory);
        let program = crate::criu_bundle::find(call.settings.criu.as_deref())?.program;
        let found = criu::provide(&directory.join("bin"), &program).map_err(&here)?;
        let configuration = directory.join("criu.conf");
        let bound = remains::bound(call.real.flavor, &self.grant.mounts, &self.own_groups);
        let told = criu::configuration(options, prepared, &bound, true);
        std::fs::write(&configuration, told).map_err(&here)?;
        let work = room.join("work");
        std::fs::create_dir_all(&work).map_err(RuntimeError::place(&work))?;
        let own_pid_file = room.join("pid");
        let pid_file = self.new.pid_file.as_deref().unwrap_or(&own_pid_file);

        let config = self.new.configuration();
        let annotated = Annotated::new(&config, self.config, &configuration);
        let annotated = annotated.map_err(RuntimeError::place(&config))?;
        let mut command = Command::new(&call.real.program);
        command
            .args(self.words(room, &work, pid_file, prepared.label.as_deref()))
            .env("PATH", found.path)
            .env(criu::VARIABLE, found.words);
        match call.settings.plugins.as_deref().filter(|_| prepared.plugins) {
            Some(plugins) => command.env(criu::PLUGINS, plugins),
            None => command.env_remove(criu::PLUGINS),
        };
        // Nobody would clean up behind a runtime that goes on without us, and we do behind one that is killed.
        process::ends_with_us(&mut command);
        process::become_subreaper().map_err(&here)?;
        let enclosure = Enclosure::around(&mut command, &self.enclosure);
        let ended = command.spawn().and_then(|mut runtime| deserted::wait(&mut runtime));
        let status = ended.map_err(RuntimeError::place(&call.real.program))?;
        drop(annotated);
        if let Some(enclosure) = enclosure.filter(|_| status.success()) {
            enclosure.leave();
        }
        if !status.success() {
            self.clean_up();
            let log = kept_log::keep(&call.settings.state, &self.new.id, &work.join(LOG));
            let error = ContainerError::Runtime {
                program: call.real.program.clone(),
                action: "restore",
                said: status.to_string(),
            };
            return Err(RuntimeError::Container {
                checkpoint: checkpoint.to_owned(),
                source: Box::new(error.with_log(&work.join(LOG), Operation::Restore)),
                log: log.ok(),
            });
        }
        let usual = criu::usual(call.real.flavor);
        let finished = self.waiting(checkpoint, room, pid_file, prepared).and_then(|record| {
            adjust_score(record.pid, self.grant.oom_score_adj);
            if call.real.flavor == Flavor::Crun {
                let (id, pid, bundle) = (&self.new.id, record.pid, &self.bundle);
                Subject { id, pid, bundle, config: self.config }.run(Point::CreateRuntime)?;
            }
            std::fs::write(&configuration, criu::afterwards(self.config, usual)).map_err(&here)?;
            place.write(&record).map_err(&here)?;
            Ok(record)
        });
        finished.inspect_err(|_| self.clean_up())
    }

    /// Makes the runtime believe that the container waits for its start, which is true.
    fn waiting(
        &self,
        checkpoint: &str,
        room: &Path,
        pid_file: &Path,
        prepared: &Prepared,
    ) -> Result<Record, RuntimeError> {
        let failed = RuntimeError::place(pid_file);
        let text = std::fs::read_to_string(pid_file).map_err(&failed)?;
        let pid: i32 = text.trim().parse().map_err(|_| failed(std::io::ErrorKind::InvalidData.into()))?;
        let fifo = wake::fifo(self.call.root(), &self.new.id);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o622), 0)
            .map_err(|errno| RuntimeError::place(&fifo)(errno.into()))?;
        Ok(Record {
            stage: Stage::Created,
            checkpoint: checkpoint.to_owned(),
            pid,
            started: process_tree::started(pid).unwrap_or_default(),
            stopped: prepared.stopped.clone(),
            // It goes with this process, or where that is killed just now, with the container.
            room: room.to_owned(),
            state: self.call.root().join(&self.new.id),
            bundle: self.bundle.clone(),
            ..Record::default()
        })
    }

    /// Removes what the runtime has made of a container that could not be restored.
    fn clean_up(&self) {
        let remains = Remains {
            real: &self.call.real,
            root: self.call.line.global.root.as_deref(),
            state: &self.call.root().join(&self.new.id),
            bundle: &self.bundle,
            id: &self.new.id,
            groups: &self.groups,
        };
        remains.take_away();
    }

    fn words(&self, room: &Path, work: &Path, pid_file: &Path, label: Option<&str>) -> Vec<OsString> {
        let mut words = self.call.line.global.words.clone();
        words.extend(["restore".into(), "--detach".into()]);
        let images = room.join("images");
        let paths = [
            ("--bundle", Some(self.bundle.as_path())),
            ("--image-path", Some(images.as_path())),
            ("--work-path", Some(work)),
            ("--pid-file", Some(pid_file)),
            ("--console-socket", self.new.console_socket.as_deref()),
        ];
        for (flag, path) in paths {
            if let Some(path) = path {
                words.extend([flag.into(), path.into()]);
            }
        }
        if self.new.no_pivot && self.call.real.flavor == Flavor::Runc {
            words.push("--no-pivot".into());
        }
        if let Some(label) = label {
            words.extend(["--lsm-profile".into(), label.into()]);
        }
        words.push(OsString::from(&self.new.id));
        words
    }
}

/// Gives processes the score by which the kernel chooses whom to kill that the container is to have: images have what it had where it
/// was before. Processes that the program has made others keep theirs.
fn adjust_score(init: i32, granted: Option<i32>) {
    let path = |pid: i32| format!("/proc/{pid}/oom_score_adj");
    let score = |pid: i32| std::fs::read_to_string(path(pid)).ok()?.trim().parse::<i32>().ok();
    let (Some(granted), Some(old)) = (granted, score(init)) else { return };
    for pid in process_tree::of(init).into_iter().filter(|pid| old != granted && score(*pid) == Some(old)) {
        if let Err(error) = std::fs::write(path(pid), granted.to_string()) {
            tracing::warn!(%error, pid, old, granted, "oom_score_adj stays what it was");
        }
    }
}
