//! `torpor install-node`: binaries below a prefix, and a handler in the engines that are there.

use std::path::PathBuf;

use torpor_node::criu_bundle;
use torpor_node::install::{self, InstallError, Plan, Site, Wanted};

use super::{Exit, output};

/// Set this node up: binaries, and a handler `torpor` in containerd, CRI-O and Docker
///
/// Nothing that runs is touched, and nothing is changed twice. `torpor uninstall-node` puts everything back.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where everything goes.
    #[arg(long, value_name = "DIR", default_value = install::PREFIX)]
    prefix: PathBuf,
    /// Where the node's root directory is, when this runs in a container.
    #[arg(long, value_name = "DIR", default_value = "/")]
    machine: PathBuf,
    /// The directory of a private CRIU that is to go with it; by default the one that came with this Torpor.
    #[arg(long, value_name = "DIR")]
    private_criu: Option<PathBuf>,
    /// Let engines checkpoint containers by their own interfaces, too.
    #[arg(long)]
    enable_checkpointing: bool,
    /// Tell what would be changed, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the RuntimeClass for the cluster, and change nothing.
    #[arg(long, conflicts_with = "dry_run")]
    runtime_class: bool,
    #[command(flatten)]
    output: output::Args,
}

/// Sets the node up.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.runtime_class {
        print!("{}", install::runtime_class());
        return Ok(Exit::Success);
    }
    let wanted = Wanted {
        site: Site { machine: args.machine.clone(), prefix: args.prefix.clone() },
        binary: std::env::current_exe()?,
        criu: args.private_criu.clone().or_else(bundled),
        checkpointing: args.enable_checkpointing,
    };
    let plan = Plan::of(&wanted)?;
    if !args.dry_run {
        plan.apply(&wanted)?;
    }
    args.output.print(&plan, told)?;
    Ok(Exit::Success)
}

/// The directory of the CRIU that came with this Torpor.
fn bundled() -> Option<PathBuf> {
    let found = criu_bundle::find(None).ok()?;
    let came_along = matches!(found.place, criu_bundle::Place::Installed | criu_bundle::Place::Build);
    let program = found.program.path().to_owned();
    came_along.then(|| Some(program.parent()?.parent()?.to_owned())).flatten()
}

fn told(plan: &Plan) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        text += &format!("{change}\n");
    }
    if plan.changes.is_empty() {
        text += "everything is there already\n";
    }
    for note in &plan.notes {
        text += &format!("-> {note}\n");
    }
    text
}

/// Flags of the way back.
pub(crate) mod back {
    use super::{Exit, InstallError, PathBuf, Site, install, output};

    /// Put everything back that `torpor install-node` has changed
    ///
    /// A file that somebody has changed since is left as it is, and named.
    #[derive(Debug, clap::Args)]
    pub(crate) struct Args {
        /// Where everything is.
        #[arg(long, value_name = "DIR", default_value = install::PREFIX)]
        prefix: PathBuf,
        /// Where the node's root directory is, when this runs in a container.
        #[arg(long, value_name = "DIR", default_value = "/")]
        machine: PathBuf,
        /// Also where containers run under the handler. Their engine can neither stop nor remove them then.
        #[arg(long)]
        force: bool,
        /// Tell what would be changed, and change nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: output::Args,
    }

    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Done {
        done: Vec<String>,
        left: Vec<PathBuf>,
    }

    /// Puts everything back.
    pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
        let site = Site { machine: args.machine.clone(), prefix: args.prefix.clone() };
        let prefix = site.here();
        let Some(ledger) = install::Ledger::read(&prefix)? else {
            return Err(InstallError::NotInstalled { prefix }.into());
        };
        if !args.force {
            install::check_unused(&site)?;
        }
        let done = Done { done: ledger.told(), left: ledger.changed_since() };
        if !args.dry_run {
            ledger.put_back(&prefix)?;
        }
        args.output.print(&done, |done| {
            let left = done
                .left
                .iter()
                .map(|path| format!("-> {} was changed since, and is left\n", path.display()));
            done.done.iter().map(|line| format!("{line}\n")).chain(left).collect()
        })?;
        Ok(Exit::Success)
    }
}
