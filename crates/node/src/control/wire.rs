//! Lines of JSON, with limits for whoever sends them.

use std::io::{self, BufRead, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::VERSION;

/// Longest line, in bytes. A request has a hundred; a status has a name, a failure and some numbers.
pub(super) const LONGEST_LINE: u64 = 64 << 10;

/// A message and the version of the protocol it is in.
#[derive(Debug, Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    message: T,
}

/// Why a line is no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("the connection ended without an answer")]
    End,
    #[error("a line has more than {LONGEST_LINE} bytes")]
    TooLong,
    #[error("the other side speaks version {0} of the protocol, this one version {VERSION}")]
    Version(u32),
    #[error("it is no message of the control protocol")]
    Json(#[source] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one message.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<T, LineError> {
    let mut line = Vec::new();
    from.take(LONGEST_LINE + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(LineError::End);
    }
    if line.len() as u64 > LONGEST_LINE {
        return Err(LineError::TooLong);
    }
    parse(&line)
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, LineError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    // The version alone first: a newer message may have another form.
    let Version { version } = serde_json::from_slice(line).map_err(LineError::Json)?;
    if version != VERSION {
        return Err(LineError::Version(version));
    }
    serde_json::from_slice::<Versioned<T>>(line).map(|versioned| versioned.message).map_err(LineError::Json)
}

/// Writes one message.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Versioned { version: VERSION, message })?;
    line.push(b'\n');
    to.write_all(&line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Outcome, PhaseReply, Reply, Request};
    use super::*;

    #[test]
    fn requests_in_words() {
        for (line, request) in [
            (
                r#"{"version":1,"request":"checkpoint"}"#,
                Request::Checkpoint { leave_running: false, template: false },
            ),
            (
                r#"{"version":1,"request":"checkpoint","leaveRunning":true,"template":true,"more":1}"#,
                Request::Checkpoint { leave_running: true, template: true },
            ),
            (r#"{"request":"status","version":1}"#, Request::Status),
            (r#"{"version":1,"request":"wait"}"#, Request::Wait),
        ] {
            assert_eq!(parse::<Request>(line.as_bytes()).unwrap(), request, "{line}");
        }
        for (line, message) in [
            ("", "no message"),
            ("{}", "no message"),
            (r#"{"version":1}"#, "no message"),
            (r#"{"version":2,"request":"dance"}"#, "version 2"),
            (r#"{"version":1,"request":"dance"}"#, "no message"),
            (r#"{"version":1,"request":"checkpoint","leaveRunning":"yes"}"#, "no message"),
        ] {
            let error = parse::<Request>(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn replies_come_back_as_they_were() {
        for reply in [
            Reply::Phase(PhaseReply { phase: "freeze".into(), elapsed_ms: 3 }),
            Reply::Outcome(Outcome::Ready),
            Reply::Outcome(Outcome::refused("no")),
            Reply::Outcome(Outcome::Failed { message: "a".into(), remedy: Some("b".into()) }),
            Reply::Outcome(Outcome::Done {
                name: "web/app".into(),
                generation: 3,
                suspended: true,
                phases: vec![("check".into(), 1.5)],
            }),
        ] {
            let mut line = Vec::new();
            write(&mut line, &reply).unwrap();
            assert_eq!(read::<Reply>(&mut line.as_slice()).unwrap(), reply);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut endless = io::BufReader::new(io::repeat(b'['));
        assert!(matches!(read::<Request>(&mut endless), Err(LineError::TooLong)));
        let deep = [b'['; 10_000];
        assert!(matches!(read::<Request>(&mut deep.as_slice()), Err(LineError::Json(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read::<Request>(&mut bytes.as_slice());
            let _ = read::<Reply>(&mut bytes.as_slice());
        }
    }
}
