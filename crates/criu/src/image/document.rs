//! Whole images as JSON and back: `{"magic": "CORE", "entries": [ … ]}`, as `crit` has it.
//!
//! What comes back is the image byte for byte. Where JSON alone cannot carry that, members beginning with `_` do:
//!
//! | member | of | holds |
//! |---|---|---|
//! | `_version` | the image | 1, for images of the time before there were two numbers in front |
//! | `_unknown` | any message | fields of a newer CRIU, encoded (base64) |
//! | `_raw` | an entry | the encoded message (base64), where CRIU would encode it otherwise |
//! | `_extra` | an entry | the payload (base64), where its padding is not zero |
//!
//! `_raw` and `_extra` count only as long as the entry is as it was decoded: once it is changed, it is encoded anew.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use super::format::{Format, Whole, identify};
use super::framing::{COMMON_MAGIC, SERVICE_MAGIC};
use super::json::{Json, Layout};
use super::payload::{self, PayloadError};
use super::presentation::{JsonError, Style, base64, from_base64, json_of, tree_of};
use super::tree::Tree;
use super::{Framing, ImageError, ImageReader, ImageWriter, Limits};

const RAW: &str = "_raw";
const RAW_PAYLOAD: &str = "_extra";
const PAYLOAD: &str = "extra";
const VERSION: &str = "_version";

/// What becomes of payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payloads {
    /// They are there.
    Whole,
    /// Only their size is told; the image cannot be encoded again.
    Measured,
}

/// An image on its way to JSON, entry by entry.
#[derive(Debug)]
pub struct Decoder<R> {
    format: &'static Format,
    reader: ImageReader<Whole<R>>,
    style: Style,
    payloads: Payloads,
    index: u64,
}

impl<R: Read> Decoder<R> {
    /// Starts with an image of any kind that has entries.
    ///
    /// # Errors
    ///
    /// When the input is no such image.
    pub fn new(input: R, style: Style, payloads: Payloads, limits: Limits) -> Result<Self, ImageError> {
        let (format, input) = identify(input)?;
        let reader = ImageReader::new(format.kind, input, limits)?;
        Ok(Self { format, reader, style, payloads, index: 0 })
    }

    /// What the image is.
    pub fn format(&self) -> &'static Format {
        self.format
    }

    /// Whether the image is of the time when there was one number in front.
    pub fn is_version_one(&self) -> bool {
        self.reader.head().len() == 4 && self.format.kind.description().framing != Framing::Magic
    }

    /// The next entry as JSON.
    ///
    /// # Errors
    ///
    /// When the image is cut short, damaged, or larger than the limits allow.
    pub fn next_entry(&mut self) -> Result<Option<Json>, ImageError> {
        let (kind, index) = (self.format.kind, self.index);
        let Some(entry) = self.reader.next_entry()? else { return Ok(None) };
        let tree = Tree::parse(self.format.schema(index), entry.message)
            .map_err(|source| ImageError::Tree { kind, offset: entry.offset, source })?;
        self.index += 1;
        let mut json = json_of(&tree, self.style);
        let Json::Object(members) = &mut json else { return Ok(Some(json)) };
        if self.payloads == Payloads::Measured {
            members.extend(
                payload::measured(kind, index, &tree, entry.extra).map(|size| (PAYLOAD.into(), size)),
            );
            return Ok(Some(json));
        }
        let shown = payload::json(kind, index, &tree, entry.extra);
        if payload::bytes(kind, index, &tree, shown.as_ref()).as_deref() != Ok(entry.extra) {
            members.push((RAW_PAYLOAD.into(), Json::Text(base64(entry.extra))));
        }
        members.extend(shown.map(|shown| (Cow::from(PAYLOAD), shown)));
        if tree_of(tree.schema(), &json).map(|tree| tree.encode()).as_deref() != Ok(entry.message)
            && let Json::Object(members) = &mut json
        {
            members.push((RAW.into(), Json::Text(base64(entry.message))));
        }
        Ok(Some(json))
    }
}

/// Why an image could not be written as JSON.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The output failed.
    #[error("the JSON cannot be written")]
    Output(#[source] io::Error),
}

/// Writes what is left of an image as a JSON document, without a line end, and returns how many entries it had.
///
/// # Errors
///
/// When the image is damaged or the output fails; the JSON is then incomplete.
pub fn write_json<R: Read>(
    decoder: &mut Decoder<R>,
    layout: Layout,
    out: &mut dyn Write,
) -> Result<u64, DecodeError> {
    let mut written = |decoder: &Decoder<R>, entry: Option<&Json>, count: u64| {
        if count == 0 {
            out.write_all(b"{")?;
            layout.line(1, out)?;
            write!(out, "\"magic\": \"{}\"{}", decoder.format.magic, layout.comma())?;
            layout.line(1, out)?;
            if decoder.is_version_one() {
                write!(out, "\"{VERSION}\": 1{}", layout.comma())?;
                layout.line(1, out)?;
            }
            out.write_all(b"\"entries\": [")?;
        }
        match entry {
            Some(entry) => {
                if count > 0 {
                    out.write_all(layout.comma().as_bytes())?;
                }
                layout.line(2, out)?;
                entry.write(layout, 2, out)
            }
            None => {
                if count > 0 {
                    layout.line(1, out)?;
                }
                out.write_all(b"]")?;
                layout.line(0, out)?;
                out.write_all(b"}")
            }
        }
    };
    let mut count = 0;
    loop {
        let entry = decoder.next_entry()?;
        written(decoder, entry.as_ref(), count).map_err(DecodeError::Output)?;
        if entry.is_none() {
            return Ok(count);
        }
        count += 1;
    }
}

/// Why JSON is no image. Entries are counted from 0.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The JSON is no object with a magic and entries.
    #[error("no image: it has no {member}")]
    Member {
        /// What is missing.
        member: &'static str,
    },
    /// The magic is of no kind.
    #[error("no image: its magic {name:?} is not known")]
    Magic {
        /// Its name.
        name: String,
    },
    /// An entry is not the message it should be.
    #[error("entry {index}: {source}")]
    Entry {
        /// Its place.
        index: u64,
        /// What is wrong.
        source: JsonError,
    },
    /// An entry's payload does not fit it.
    #[error("entry {index}: {source}")]
    Payload {
        /// The entry's place.
        index: u64,
        /// What is wrong.
        source: PayloadError,
    },
    /// The output failed.
    #[error("the image cannot be written")]
    Output(#[source] io::Error),
}

impl EncodeError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Member { .. } | Self::Magic { .. } => {
                "give it what `torpor image decode` or `crit decode` has written"
            }
            Self::Entry { source, .. } => source.remedy(),
            Self::Payload { source, .. } => source.remedy(),
            Self::Output(_) => "check that there is room, and that the place can be written",
        }
    }
}

/// Writes the image that a JSON document describes.
///
/// # Errors
///
/// When the JSON is none that [`write_json`] or `crit` would write, or the output fails.
pub fn encode<W: Write>(json: &Json, output: W) -> Result<W, EncodeError> {
    let name = json.get("magic").and_then(Json::text).ok_or(EncodeError::Member { member: "magic" })?;
    let format = Format::named(name).ok_or_else(|| EncodeError::Magic { name: name.to_owned() })?;
    let entries =
        json.get("entries").and_then(Json::list).ok_or(EncodeError::Member { member: "entries" })?;
    let row = format.kind.description();
    let mut head = Vec::new();
    if json.get(VERSION) != Some(&Json::Number(1)) {
        match row.framing {
            Framing::Common => head.extend(COMMON_MAGIC.to_le_bytes()),
            Framing::Service => head.extend(SERVICE_MAGIC.to_le_bytes()),
            Framing::Magic | Framing::Raw => {}
        }
    }
    head.extend(row.magic.to_le_bytes());
    let mut writer = ImageWriter::with_head(&head, output).map_err(EncodeError::Output)?;
    for (index, entry) in (0..).zip(entries) {
        let (message, payload) = encode_entry(format, index, entry)?;
        writer.entry(&message, &payload).map_err(EncodeError::Output)?;
    }
    Ok(writer.into_inner())
}

/// One entry's message and payload.
fn encode_entry(format: &Format, index: u64, json: &Json) -> Result<(Vec<u8>, Vec<u8>), EncodeError> {
    let schema = format.schema(index);
    let failed = |source| EncodeError::Entry { index, source };
    let original = raw(json, RAW).map_err(failed)?.filter(|original| {
        Tree::parse(schema, original).is_ok_and(|tree| {
            [Style::Plain, Style::Pretty]
                .into_iter()
                .any(|style| json_of(&tree, style).means_the_same(&bare(json)))
        })
    });
    let (tree, message) = match original {
        Some(original) => {
            let parsed = Tree::parse(schema, &original);
            (parsed.unwrap_or_else(|_| Tree::new(schema)), original)
        }
        None => {
            let tree = tree_of(schema, json).map_err(failed)?;
            let message = tree.encode();
            (tree, message)
        }
    };
    let shown = json.get(PAYLOAD);
    let original = raw(json, RAW_PAYLOAD).map_err(failed)?;
    let payload = match original {
        Some(original) if payload::json(format.kind, index, &tree, &original).as_ref() == shown => original,
        _ => payload::bytes(format.kind, index, &tree, shown)
            .map_err(|source| EncodeError::Payload { index, source })?,
    };
    Ok((message, payload))
}

/// The bytes in a member that begins with `_`.
fn raw(json: &Json, member: &'static str) -> Result<Option<Vec<u8>>, JsonError> {
    match json.get(member) {
        None => Ok(None),
        Some(Json::Text(text)) => {
            from_base64(text).map(Some).map_err(|source| JsonError::Base64 { field: member, source })
        }
        Some(other) => Err(JsonError::Mismatch { field: member, found: other.name(), expected: "text" }),
    }
}

/// An entry without what is not in its message.
fn bare(json: &Json) -> Json {
    match json {
        Json::Object(members) => Json::Object(
            members
                .iter()
                .filter(|(name, _)| ![RAW, RAW_PAYLOAD, PAYLOAD].contains(&name.as_ref()))
                .cloned()
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
