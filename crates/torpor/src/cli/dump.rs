//! Flags about a dump of containers and plain processes: what a checkpoint is told, and what `torpor check` is asked with.

use std::path::PathBuf;

use clap::ValueEnum;
use torpor_criu::options::{ExpertOption, Tcp};
use torpor_node::container::dump::Wishes;

/// The flags.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// What happens to TCP connections.
    #[arg(long, value_name = "WORD", default_value = "fail")]
    pub(super) tcp: Connections,
    /// Unix sockets may have peers outside.
    #[arg(long)]
    pub(super) ext_unix_sockets: bool,
    /// A terminal or session may be somebody else's.
    #[arg(long)]
    pub(super) shell_job: bool,
    /// A directory with CRIU's plugins for graphics processors, which only root may be able to change; without it none is loaded.
    #[arg(long, value_name = "DIR")]
    pub(super) criu_plugins: Option<PathBuf>,
    /// An option of CRIU's own, as KEY or KEY=VALUE.
    #[arg(long, value_name = "OPTION")]
    criu_option: Vec<ExpertOption>,
}

/// What happens to TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Connections {
    /// A container that has some is refused.
    Fail,
    /// They are closed at the restore.
    Close,
    /// They are kept; the restore must have the same address.
    Established,
}

impl Connections {
    /// What CRIU is told.
    pub(super) fn option(self) -> Tcp {
        match self {
            Connections::Fail => Tcp::Fail,
            Connections::Close => Tcp::Close,
            Connections::Established => Tcp::Established,
        }
    }
}

impl Args {
    /// The first flag that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            ("--tcp", self.tcp != Connections::Fail),
            ("--ext-unix-sockets", self.ext_unix_sockets),
            ("--shell-job", self.shell_job),
            ("--criu-plugins", self.criu_plugins.is_some()),
            ("--criu-option", !self.criu_option.is_empty()),
        ];
        given.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    /// Whether an option of CRIU's own was given.
    pub(super) fn has_options(&self) -> bool {
        !self.criu_option.is_empty()
    }

    /// What a dump is to be like.
    pub(super) fn wishes(&self, leave_running: bool) -> Wishes {
        Wishes {
            tcp: self.tcp.option(),
            external_unix: self.ext_unix_sockets,
            shell_job: self.shell_job,
            expert_options: self.criu_option.clone(),
            ..Wishes::usual(leave_running)
        }
    }
}
