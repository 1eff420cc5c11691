//! Something that runs on this machine, by a word.

use std::str::FromStr;

use torpor_node::container::{Query, Roots};

use super::Exit;
use super::failure::{self, Failure};

/// How a process is named.
const PROCESS: &str = "pid:";

/// What is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Process(i32),
    Containers(Query),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        match Target::parse(text) {
            Ok(Some(target)) => Ok(target),
            Ok(None) => {
                Err("write pid:NUMBER, container:ID-OR-NAME or pod:NAMESPACE/POD[/CONTAINER]".to_owned())
            }
            Err(failure) => Err(failure.message),
        }
    }
}

impl Target {
    /// The first process of a container is that container, whose runtime must be able to take it back.
    pub(crate) fn resolve(&self, roots: &Roots) -> Target {
        match self {
            Target::Process(pid) => match roots.containers().into_iter().find(|one| one.init == *pid) {
                Some(found) => Target::Containers(Query::Container(found.id)),
                None => Target::Process(*pid),
            },
            Target::Containers(query) => Target::Containers(query.clone()),
        }
    }

    /// The target that a word names; none where it names a source. A path may begin with `./` to be none.
    ///
    /// # Errors
    /// Where it begins as a target does and names none.
    pub(crate) fn parse(text: &str) -> Result<Option<Target>, Failure> {
        if let Some(number) = text.strip_prefix(PROCESS) {
            let pid = number.parse().ok().filter(|pid| *pid > 0);
            return pid.map(|pid| Some(Target::Process(pid))).ok_or_else(|| {
                let message = format!("{text:?} names no process");
                Failure::new(Exit::Usage, message, "write pid:NUMBER, with the PID on this machine")
            });
        }
        if !text.starts_with("container:") && !text.starts_with("pod:") {
            return Ok(None);
        }
        text.parse().map(|query| Some(Target::Containers(query))).map_err(|error| {
            let remedy = "or put ./ before it, if it is a path";
            Failure::new(Exit::Usage, failure::sentence(&anyhow::Error::new(error)), remedy)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_known_by_its_prefix() {
        let containers = |text: &str| Some(Target::Containers(text.parse().unwrap()));
        for (text, target) in [
            ("pid:7", Some(Target::Process(7))),
            ("container:web", containers("container:web")),
            ("pod:shop/web-0", containers("pod:shop/web-0")),
            ("shop/web", None),
            ("./pid:7", None),
            ("store:pid", None),
        ] {
            assert_eq!(Target::parse(text).unwrap(), target, "{text}");
        }
        for text in ["pid:", "pid:0", "pid:x", "container:", "pod:web"] {
            assert_eq!(Target::parse(text).unwrap_err().exit, Exit::Usage, "{text}");
        }
    }
}
