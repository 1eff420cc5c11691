//! Why a checkpoint cannot be read.

use std::io;

use torpor_store::ReadError;

use super::compression::Compression;
use super::tar::{HeaderProblem, NameProblem};

/// Why a checkpoint cannot be read. Offsets count bytes of the archive, after decompression.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The place itself cannot be read.
    #[error("cannot read {place}")]
    Place {
        /// The place.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An entry cannot be read.
    #[error("cannot read {entry} in {place}")]
    Entry {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An entry ends before what should be in it.
    #[error("{entry} in {place} has {size} bytes, and {wanted} are needed")]
    Short {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
        /// The bytes it has.
        size: u64,
        /// The bytes that were asked for.
        wanted: u64,
    },
    /// An entry is larger than anything of its kind should be.
    #[error("{entry} in {place} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
        /// The bytes it has.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// There are more entries than a checkpoint should have.
    #[error("{place} has more than {limit} entries")]
    TooMany {
        /// The place.
        place: String,
        /// The limit.
        limit: usize,
    },
    /// The names of entries take more room than those of a checkpoint should.
    #[error("the names of the entries in {place} have more than {limit} bytes")]
    TooLongNames {
        /// The place.
        place: String,
        /// The limit.
        limit: usize,
    },
    /// Images refer to parents in a circle, or to more of them than there can be.
    #[error("{place} has more than {limit} generations of images")]
    TooDeep {
        /// The place.
        place: String,
        /// The limit.
        limit: usize,
    },
    /// Nothing in it is an image of CRIU's.
    #[error("{place} holds no checkpoint")]
    NoImages {
        /// The place.
        place: String,
    },
    /// It is nothing that a checkpoint can be in.
    #[error("{place} is neither an archive nor a directory of images")]
    NoArchive {
        /// The place.
        place: String,
    },
    /// A header of the archive makes no sense.
    #[error("{place} is damaged at byte {offset}{}: {problem}", after(last))]
    Header {
        /// The place.
        place: String,
        /// Where the header starts.
        offset: u64,
        /// The entry before it, empty where there is none.
        last: String,
        /// What is wrong.
        problem: HeaderProblem,
    },
    /// An entry has a name that no checkpoint has.
    #[error("{place} has an entry {entry:?} at byte {offset}: {problem}")]
    Name {
        /// The place.
        place: String,
        /// The name, cut where it is long.
        entry: String,
        /// Where its header starts.
        offset: u64,
        /// What is wrong.
        problem: NameProblem,
    },
    /// Two entries have the same name.
    #[error("{place} has two entries {entry}, the second with its body at byte {offset}")]
    Duplicate {
        /// The place.
        place: String,
        /// The name.
        entry: String,
        /// Where the second one's body starts.
        offset: u64,
    },
    /// The archive ends inside an entry.
    #[error("{place} is cut short at byte {end}: {entry} should go on to byte {wanted}")]
    Truncated {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
        /// Where the archive ends.
        end: u64,
        /// Where the entry should end.
        wanted: u64,
    },
    /// An entry leaves out parts of its body in a way that is not supported.
    #[error("{entry} in {place}, with its header at byte {offset}, is a sparse entry")]
    Sparse {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
        /// Where its header starts.
        offset: u64,
    },
    /// The compressed stream is damaged.
    #[error("the {compression} stream of {place} is damaged at byte {offset}{}", inside(entry))]
    Compressed {
        /// The place.
        place: String,
        /// How it is compressed.
        compression: Compression,
        /// The entry it was in, empty where it was in none.
        entry: String,
        /// How many bytes came out before.
        offset: u64,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// The archive unpacks to more than it may.
    #[error("{place} unpacks to more than {limit} bytes, from {packed} compressed ones{}", inside(entry))]
    Bomb {
        /// The place.
        place: String,
        /// The entry it was in, empty where it was in none.
        entry: String,
        /// Compressed bytes so far.
        packed: u64,
        /// The limit.
        limit: u64,
    },
    /// The archive cannot be unpacked within the memory there is for it.
    #[error("{place} looks back more than {limit} bytes, which takes that much memory to unpack")]
    Window {
        /// The place.
        place: String,
        /// The limit.
        limit: u64,
    },
    /// A document of an image makes no sense.
    #[error("{entry} in {place} is no document of an image")]
    Document {
        /// The place.
        place: String,
        /// The document.
        entry: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// Something in an image is referred to in a way that cannot be followed.
    #[error("{place} refers to {digest:?}, which is no SHA-256 digest")]
    NoDigest {
        /// The place.
        place: String,
        /// What stands there.
        digest: String,
    },
    /// A part of an image is not what its digest says.
    #[error("{entry} in {place} is damaged: its digest is {found}, and should be {expected}")]
    Digest {
        /// The place.
        place: String,
        /// The part.
        entry: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A layout has no image of this name.
    #[error("{place} has no image {reference:?}")]
    NoReference {
        /// The place.
        place: String,
        /// The name.
        reference: String,
    },
    /// There are several checkpoints where one is wanted.
    #[error("{place} holds the checkpoints of several containers: {}", containers.join(", "))]
    Several {
        /// The place.
        place: String,
        /// What they are called.
        containers: Vec<String>,
    },
    /// The body of something that has none was asked for.
    #[error("{entry} in {place} is no file, and is not followed or opened")]
    NoBody {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
    },
    /// The body was in a stream, and has passed.
    #[error("{entry} has passed in {place}, and was too large to be kept")]
    Passed {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
    },
    /// Something in a store cannot be read.
    #[error("cannot read {entry} of {place} at byte {offset}")]
    Store {
        /// The generation.
        place: String,
        /// What was read.
        entry: String,
        /// Where in it.
        offset: u64,
        /// What the store said.
        #[source]
        source: Box<ReadError>,
    },
}

fn after(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!(", after {last}") }
}

fn inside(entry: &str) -> String {
    if entry.is_empty() { String::new() } else { format!(", in {entry}") }
}

impl SourceError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Place { .. } | Self::Entry { .. } => "check the path, and that you may read it",
            Self::Short { .. }
            | Self::Header { .. }
            | Self::Document { .. }
            | Self::NoDigest { .. }
            | Self::Digest { .. }
            | Self::Truncated { .. }
            | Self::Compressed { .. } => "the checkpoint is damaged: use another copy",
            Self::TooLarge { .. }
            | Self::TooMany { .. }
            | Self::TooLongNames { .. }
            | Self::TooDeep { .. }
            | Self::Name { .. }
            | Self::Duplicate { .. } => "it is damaged, or made to do harm: use another copy",
            Self::NoImages { .. } | Self::NoArchive { .. } => {
                "give an archive that an engine made, or a directory with CRIU's images"
            }
            Self::Sparse { .. } => "make the archive anew without sparse entries (tar's --sparse)",
            Self::Bomb { .. } => "if you trust it, allow more with --max-unpacked, or unpack it first",
            Self::Window { .. } => {
                "if there is memory for it, allow more with --max-window, or unpack it first"
            }
            Self::NoReference { .. } => "look into its index.json for the names there are",
            Self::Several { .. } => "name one of them: SOURCE//CONTAINER",
            Self::NoBody { .. } => "look at the archive with tar: a checkpoint has plain files only",
            Self::Passed { .. } => "give the archive as a file rather than through a pipe",
            Self::Store { source, .. } => source.remedy(),
        }
    }
}
