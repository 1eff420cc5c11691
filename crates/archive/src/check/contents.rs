//! The place and its bytes.

use super::{Fault, Finding};
use crate::Checkpoint;
use crate::source::{Assurance, EntryKind, Remark, SourceError};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// Whether the place ends where it should.
pub(super) fn ending(checkpoint: &Checkpoint) -> Finding {
    let (topic, question) = ("ending", "does it end where it should?");
    let remarks = checkpoint.source().remarks();
    match remarks.first() {
        None => Finding::yes(topic, question, "nothing is missing at its end, and nothing follows it"),
        Some(remark @ Remark::NoEnd { .. }) => {
            Finding::no(topic, question, remark.to_string(), "copy it again from where it was made")
        }
        Some(remark) => Finding::no(
            topic,
            question,
            remark.to_string(),
            "what belongs to it can be used; what follows may be of another container: delete the old file before \
             a checkpoint is written over it",
        ),
    }
}

/// Whether every body can be read, and whether what is read is what was written.
pub(super) fn readable(checkpoint: &Checkpoint) -> [Finding; 2] {
    let (topic, question) = ("readable", "can all of it be read?");
    let (mut faults, mut bytes, mut files) = (Vec::new(), 0, 0u64);
    for entry in checkpoint.entries() {
        if entry.kind != EntryKind::File {
            continue;
        }
        files += 1;
        bytes += entry.size;
        // What was read when the index was made was checked then.
        if checkpoint.source().digest(entry).is_some() {
            continue;
        }
        let mut chunk = vec![0; CHUNK.min(entry.size as usize)];
        let mut at = 0;
        while at < entry.size {
            let length = chunk.len().min((entry.size - at) as usize);
            if let Err(error) = checkpoint.source().read_at(entry, at, &mut chunk[..length]) {
                let offset = match &error {
                    SourceError::Store { offset, .. } | SourceError::Compressed { offset, .. } => *offset,
                    _ => at,
                };
                faults.push(Fault {
                    entry: entry.name.clone(),
                    offset: Some(offset),
                    problem: sentence(&error),
                });
                break;
            }
            at += length as u64;
        }
    }
    if let Err(error) = checkpoint.source().verify() {
        faults.push(Fault {
            entry: checkpoint.source().name().to_owned(),
            offset: None,
            problem: sentence(&error),
        });
    }
    let read = Finding::of_faults(topic, question, format!("{files} files with {bytes} bytes"), faults);
    let (topic, question) = ("contents", "is it what was written?");
    let contents = match checkpoint.source().assurance() {
        _ if read.answer == super::Answer::No => {
            Finding::no(topic, question, "not all of it can be read", "use another copy")
        }
        Assurance::Digests(what) => Finding::yes(topic, question, format!("it has the {what}")),
        Assurance::Checksums(compression) => {
            Finding::yes(topic, question, format!("the checksums of its {compression} stream are right"))
        }
        Assurance::None => {
            Finding::unknown(topic, question, "contents cannot be verified without a digest").with_remedy(
                "keep checkpoints in a store, in an image, or compressed with a checksum, and damage will show",
            )
        }
    };
    [read, contents]
}

/// An error with its causes.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
