//! How a failed command tells what went wrong, and what to do about it.

use super::Exit;

/// Prints `error` to standard error as `error: …`, with `help: …` below where a remedy is known, and
/// returns the exit code that goes with it.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    eprintln!("error: {}", sentence(error));
    if let Some(remedy) = remedy(error) {
        eprintln!("help: {remedy}");
    }
    exit(error)
}

/// The whole chain of causes in one line, leaving out a cause that its parent has already quoted.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// An error of the command line itself, with its exit code and remedy.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong, in lower case.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
    /// What the process ends with.
    pub(crate) exit: Exit,
}

impl Failure {
    /// A failure with a remedy.
    pub(crate) fn new(exit: Exit, message: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure { message: message.into(), remedy: Some(remedy.into()), exit }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The first remedy known to an error in the chain. Each library error with a remedy has its line here.
fn remedy(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>().and_then(|failure| failure.remedy.clone()))
}

/// The exit code of the first error in the chain that has one of its own.
fn exit(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Failure>().map(|failure| failure.exit))
        .unwrap_or(Exit::Failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("disk is full").context("cannot write pack 1: disk is full");
        assert_eq!(sentence(&error), "cannot write pack 1: disk is full");
        let error = anyhow::anyhow!("disk is full").context("cannot write pack 1");
        assert_eq!(sentence(&error), "cannot write pack 1: disk is full");
    }

    #[test]
    fn remedy_and_exit_code_survive_context() {
        let error = anyhow::Error::new(Failure::new(Exit::NotFound, "no store", "start a program first"))
            .context("cannot list");
        assert_eq!(remedy(&error).as_deref(), Some("start a program first"));
        assert_eq!(exit(&error), Exit::NotFound);
    }
}
