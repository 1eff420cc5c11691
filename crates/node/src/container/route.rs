//! The runtime's own commands: to clean up behind a container that was ended, to checkpoint where our own way is not
//! wanted, and to restore.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use torpor_criu::options::Tcp;

use super::ContainerError;
use super::deserted;
use super::dump::Wishes;
use super::enclosure::Enclosure;
use super::orphan;
use super::state::{Container, Flavor};
use crate::oci_runtime::remains::let_go_of_root;
use crate::order::Expired;
use crate::sys::process;

/// Where runtimes are looked for besides `PATH`.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of what a runtime says is kept, in bytes.
const SAID: usize = 4096;
/// How often it is looked whether a runtime has ended.
const LOOK: Duration = Duration::from_millis(10);

/// What a runtime is told about a container that it restores.
#[derive(Debug, Clone)]
pub(super) struct Start<'a> {
    pub(super) id: &'a str,
    pub(super) bundle: &'a Path,
    pub(super) root: Option<&'a Path>,
    pub(super) images: &'a Path,
    pub(super) work: &'a Path,
    pub(super) detach: bool,
    pub(super) pid_file: Option<&'a Path>,
    pub(super) tcp_established: bool,
    pub(super) external_unix: bool,
    pub(super) shell_job: bool,
}

/// An OCI runtime's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    program: PathBuf,
    flavor: Flavor,
}

impl Runtime {
    /// The program of a flavor: the one that is named, or the first in `PATH`.
    ///
    /// # Errors
    /// There is none.
    pub fn find(flavor: Flavor, named: Option<&Path>) -> Result<Runtime, ContainerError> {
        let found = |program| Ok(Runtime { program, flavor });
        if let Some(path) = named.filter(|path| path.components().count() > 1) {
            return found(path.to_owned());
        }
        let name = named.map_or(flavor.program(), |name| name.to_str().unwrap_or(flavor.program()));
        let searched = match std::env::var("PATH") {
            Ok(path) if !path.is_empty() => format!("{path}:{SEARCH}"),
            _ => SEARCH.to_owned(),
        };
        match std::env::split_paths(&searched)
            .map(|directory| directory.join(name))
            .find(|path| path.is_file())
        {
            Some(program) => found(program),
            None => Err(ContainerError::NoRuntime { program: name.to_owned(), searched }),
        }
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whose command line it has.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Refuses an ID that a container has already. One that has ended, and of which the runtime still knows, is removed.
    pub(crate) fn has_not(&self, root: Option<&Path>, id: &str) -> Result<(), ContainerError> {
        let path = self.root_or_usual(root).join(id);
        if !path.join(self.flavor.state_file()).exists() {
            return Ok(());
        }
        if self.status(root, id)?.is_some_and(|status| status == "stopped") {
            tracing::warn!(id, "a container of this ID had ended and was still known; it is removed");
            self.forget(root, id, None);
            return Ok(());
        }
        Err(ContainerError::Exists { id: id.to_owned(), path })
    }

    /// What it says of a container that it knows.
    fn status(&self, root: Option<&Path>, id: &str) -> Result<Option<String>, ContainerError> {
        #[derive(serde::Deserialize)]
        struct State {
            status: String,
        }
        let mut command = self.command(&self.root_or_usual(root));
        let output = command.args(["state", id]).stdin(Stdio::null()).output();
        let output = output.map_err(ContainerError::place(&self.program))?;
        let state = serde_json::from_slice::<State>(&output.stdout).ok();
        Ok(state.map(|state| state.status))
    }

    /// Whether it knows of a container that has not ended.
    pub(super) fn has_whole(&self, root: Option<&Path>, id: &str) -> bool {
        let known = self.root_or_usual(root).join(id).exists();
        known && matches!(self.status(root, id), Ok(Some(status)) if status != "stopped")
    }

    /// Removes what it knows of a container that is no more, if it knows anything, and what a restore that was killed has left in its bundle.
    pub(crate) fn forget(&self, root: Option<&Path>, id: &str, bundle: Option<&Path>) {
        let root = self.root_or_usual(root);
        let state = root.join(id);
        if let Some(bundle) = bundle {
            orphan::outlast(bundle, id);
        }
        // The runtime would remove the files of the container.
        let_go_of_root(&state, bundle);
        if !state.exists() {
            return;
        }
        let mut command = self.command(&root);
        command.args(["delete", "--force", id]);
        if let Err(error) = self.run(command, "delete", None) {
            tracing::warn!(id, %error, "the runtime still knows the container");
        }
    }

    fn root_or_usual(&self, root: Option<&Path>) -> PathBuf {
        root.map_or_else(|| Path::new("/run").join(self.flavor.program()), Path::to_owned)
    }

    /// Removes the state of a container that has ended.
    ///
    /// # Errors
    /// The runtime fails.
    pub fn delete(&self, container: &Container) -> Result<(), ContainerError> {
        let_go_of_root(&container.root.join(&container.id), None);
        let mut command = self.command(&container.root);
        command.args(["delete", "--force", &container.id]);
        self.run(command, "delete", None)
    }

    /// Has the runtime make the checkpoint, into the directory `images`. It does not outlive us, and `look` is told its PID again and
    /// again while it is at work.
    ///
    /// # Errors
    /// The runtime fails, or its time is over.
    pub fn checkpoint(
        &self,
        container: &Container,
        images: &Path,
        wishes: &Wishes,
        timeout: Option<Duration>,
        look: &mut dyn FnMut(i32),
    ) -> Result<(), ContainerError> {
        let mut command = self.command(&container.root);
        command.args(checkpoint_arguments(&container.id, images, wishes));
        // What it would make after our end nobody would put in its place.
        process::ends_with_us(&mut command);
        self.watched(command, "checkpoint", timeout, look)
    }

    /// Has it restore a container, in control groups of its own at `places`. Returns the exit code, where it was waited for.
    pub(super) fn restore(
        &self,
        start: &Start<'_>,
        places: &[PathBuf],
    ) -> Result<Option<i32>, ContainerError> {
        let failed = |source: io::Error| ContainerError::Place { path: self.program.clone(), source };
        let mut command = Command::new(&self.program);
        command.args(restore_arguments(start));
        let enclosure = Enclosure::around(&mut command, places);
        let leave = || {
            if let Some(enclosure) = enclosure {
                enclosure.leave();
            }
        };
        if !start.detach {
            let child = command.spawn().map_err(failed)?;
            let code = super::restore::wait(child.id() as i32)?;
            // What failed before the container ran left no code of its own.
            return match code == 0 || started(start.work) {
                true => {
                    leave();
                    Ok(Some(code))
                }
                false => Err(self.failure("restore", "see above")),
            };
        }
        // A container that runs on has our output: nobody could wait for its end. So what the runtime says goes there.
        let ended =
            command.stdin(Stdio::inherit()).spawn().and_then(|mut runtime| deserted::wait(&mut runtime));
        if !ended.map_err(failed)?.success() {
            return Err(self.failure("restore", "see above"));
        }
        leave();
        Ok(None)
    }

    fn failure(&self, action: &'static str, said: &str) -> ContainerError {
        ContainerError::Runtime { program: self.program.clone(), action, said: said.to_owned() }
    }

    fn command(&self, root: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(root);
        command
    }

    /// Runs it to its end, or ends it when its time is over.
    fn run(
        &self,
        command: Command,
        action: &'static str,
        timeout: Option<Duration>,
    ) -> Result<(), ContainerError> {
        self.watched(command, action, timeout, &mut |_| {})
    }

    fn watched(
        &self,
        mut command: Command,
        action: &'static str,
        timeout: Option<Duration>,
        look: &mut dyn FnMut(i32),
    ) -> Result<(), ContainerError> {
        let failed = |source: io::Error| ContainerError::Place { path: self.program.clone(), source };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let said = child.stderr.take();
        let listener = std::thread::spawn(move || said.map(ending).unwrap_or_default());
        let status = wait(&mut child, timeout, look).map_err(failed)?;
        let said = listener.join().unwrap_or_default();
        match status {
            None => Err(Expired.into()),
            Some(status) if status.success() => Ok(()),
            Some(_) => Err(ContainerError::Runtime { program: self.program.clone(), action, said }),
        }
    }
}

/// Whether CRIU says that its restore was successful.
pub(super) fn started(work: &Path) -> bool {
    let log = std::fs::read(work.join("restore.log")).unwrap_or_default();
    String::from_utf8_lossy(&log).contains("Restore finished successfully")
}

fn restore_arguments(start: &Start<'_>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(root) = start.root {
        arguments.extend(["--root".into(), root.into()]);
    }
    arguments.extend(["restore".into(), "--file-locks".into()]);
    let paths = [
        ("--bundle", Some(start.bundle)),
        ("--image-path", Some(start.images)),
        ("--work-path", Some(start.work)),
        ("--pid-file", start.pid_file),
    ];
    for (flag, path) in paths {
        if let Some(path) = path {
            arguments.extend([flag.into(), path.into()]);
        }
    }
    for (wanted, flag) in [
        (start.detach, "--detach"),
        (start.tcp_established, "--tcp-established"),
        (start.external_unix, "--ext-unix-sk"),
        (start.shell_job, "--shell-job"),
    ] {
        if wanted {
            arguments.push(flag.into());
        }
    }
    arguments.push(start.id.into());
    arguments
}

/// The end of a program, or none where it had to be killed because its time was over.
fn wait(
    child: &mut Child,
    timeout: Option<Duration>,
    look: &mut dyn FnMut(i32),
) -> io::Result<Option<ExitStatus>> {
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        look(child.id() as i32);
        std::thread::sleep(LOOK);
    }
}

/// The end of what a program says, in one line.
fn ending(mut said: impl Read) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; SAID];
    while let Ok(length @ 1..) = said.read(&mut buffer) {
        bytes.extend(&buffer[..length]);
        let surplus = bytes.len().saturating_sub(SAID);
        bytes.drain(..surplus);
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}

fn checkpoint_arguments(id: &str, images: &Path, wishes: &Wishes) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["checkpoint".into()];
    for flag in ["--image-path", "--work-path"] {
        arguments.extend([flag.into(), images.into()]);
    }
    for (wanted, flag) in [
        (wishes.leave_running, "--leave-running"),
        (wishes.tcp == Tcp::Established, "--tcp-established"),
        (wishes.external_unix, "--ext-unix-sk"),
        (wishes.file_locks, "--file-locks"),
        (wishes.shell_job, "--shell-job"),
    ] {
        if wanted {
            arguments.push(flag.into());
        }
    }
    arguments.push(id.into());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_told_what_was_wished_for() {
        let wishes = Wishes { tcp: Tcp::Established, ..Wishes::usual(true) };
        let words = checkpoint_arguments("one", Path::new("/i"), &wishes);
        let expected = [
            "checkpoint",
            "--image-path",
            "/i",
            "--work-path",
            "/i",
            "--leave-running",
            "--tcp-established",
            "--file-locks",
            "one",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn a_restore_says_where_everything_is() {
        let start = Start {
            id: "one",
            bundle: Path::new("/b"),
            root: Some(Path::new("/r")),
            images: Path::new("/i"),
            work: Path::new("/w"),
            detach: true,
            pid_file: None,
            tcp_established: true,
            external_unix: false,
            shell_job: false,
        };
        let words: Vec<_> =
            restore_arguments(&start).into_iter().map(|word| word.into_string().unwrap()).collect();
        let expected = "--root /r restore --file-locks --bundle /b --image-path /i --work-path /w --detach --tcp-established one";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn a_runtime_is_the_one_that_is_named_or_in_the_path() {
        let named = Runtime::find(Flavor::Crun, Some(Path::new("/opt/crun"))).unwrap();
        assert_eq!((named.program(), named.flavor()), (Path::new("/opt/crun"), Flavor::Crun));
        assert!(Runtime::find(Flavor::Runc, Some(Path::new("true"))).unwrap().program().ends_with("true"));
        assert!(matches!(
            Runtime::find(Flavor::Runc, Some(Path::new("no-such"))),
            Err(ContainerError::NoRuntime { .. })
        ));
    }

    #[test]
    fn a_runtime_that_takes_too_long_is_ended() {
        let slow = Runtime { program: "/bin/sleep".into(), flavor: Flavor::Runc };
        let mut command = Command::new("/bin/sleep");
        command.arg("1000");
        let error = slow.run(command, "checkpoint", Some(Duration::from_millis(20))).unwrap_err();
        assert!(matches!(error, ContainerError::Expired(_)));
    }

    #[test]
    fn the_last_line_is_what_it_said() {
        assert_eq!(ending(&b"level=info\nlevel=error msg=x\n\n"[..]), "level=error msg=x");
        assert_eq!(ending(&b""[..]), "it said nothing");
    }
}
