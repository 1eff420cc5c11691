//! The raw bytes behind an entry's message, as JSON and back (`crit` calls them `extra`).
//!
//! Most are base64. The queues of a TCP connection are two of them, `inq` and `outq`; semaphores are a list of numbers; the messages of
//! a System V queue are a list in which each message is followed by its body (CRIU 4.2, `lib/pycriu/images/images.py`).

use super::json::Json;
use super::presentation::{JsonError, Style, base64, from_base64, json_of, tree_of};
use super::schema;
use super::tree::Tree;
use super::{Extra, Kind};

/// Why a payload does not fit its message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It has another shape than payloads of its kind.
    #[error("extra is {found} where {expected} belongs")]
    Shape {
        /// What is there.
        found: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// It is no base64: perhaps it was left out when the image was decoded.
    #[error("{part} is not base64")]
    Base64 {
        /// The payload, or the part of it.
        part: &'static str,
        /// What is wrong.
        source: base64::DecodeError,
    },
    /// It has another size than the message says.
    #[error("{part} has {found} {unit} where the entry says {expected}")]
    Size {
        /// The payload, or the part of it.
        part: &'static str,
        /// How much there is.
        found: u64,
        /// How much there should be.
        expected: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// A queued message is none.
    #[error(transparent)]
    Message(#[from] JsonError),
}

impl PayloadError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Base64 { .. } => "decode the image without --nopl: what is left out cannot be put back",
            Self::Size { .. } => "change the size in the entry together with the payload",
            Self::Shape { .. } => "decode a real image of this kind to see what its payload looks like",
            Self::Message(error) => error.remedy(),
        }
    }
}

/// Whether an entry of this kind has a payload, even an empty one.
fn has_payload(kind: Kind, index: u64, tree: &Tree) -> bool {
    match kind.description().extra {
        Extra::None => false,
        Extra::RemovedFile => index > 0 || tree.number("chunks") == 0,
        _ => true,
    }
}

/// A payload as JSON; `None` where an entry has none.
pub(super) fn json(kind: Kind, index: u64, tree: &Tree, payload: &[u8]) -> Option<Json> {
    if !has_payload(kind, index, tree) {
        return None;
    }
    Some(match kind.description().extra {
        Extra::Semaphores => {
            let (values, _) = payload.as_chunks::<2>();
            let count = tree.number("nsems") as usize;
            Json::List(
                values
                    .iter()
                    .take(count)
                    .map(|value| Json::Number(u16::from_le_bytes(*value).into()))
                    .collect(),
            )
        }
        Extra::MessageQueue => Json::List(
            queued(payload)
                .flat_map(|(tree, body)| [json_of(&tree, Style::Plain), Json::Text(base64(body))])
                .collect(),
        ),
        Extra::SharedSegment => {
            let size = payload.len().min(usize::try_from(tree.number("size")).unwrap_or(usize::MAX));
            Json::Text(base64(&payload[..size]))
        }
        Extra::Sum(_) if kind == Kind::TcpStream => {
            let (incoming, outgoing) = payload.split_at(payload.len().min(tree.number("inq_len") as usize));
            Json::Object(vec![
                ("inq".into(), Json::Text(base64(incoming))),
                ("outq".into(), Json::Text(base64(outgoing))),
            ])
        }
        _ => Json::Text(base64(payload)),
    })
}

/// How large a payload is, in place of itself.
pub(super) fn measured(kind: Kind, index: u64, tree: &Tree, payload: &[u8]) -> Option<Json> {
    if !has_payload(kind, index, tree) || kind == Kind::RemovedFile {
        return None;
    }
    let size = match kind.description().extra {
        Extra::Semaphores => tree.number("nsems") * 2,
        Extra::SharedSegment => tree.number("size"),
        Extra::MessageQueue => {
            queued(payload).map(|(tree, body)| (tree.encode().len() + body.len()) as u64).sum()
        }
        _ => payload.len() as u64,
    };
    Some(Json::Text(format!("... <{}>", rounded(size))))
}

/// A size as `crit` shows it: whole, or with one place after the point.
fn rounded(size: u64) -> String {
    let mut number = size as f64;
    for unit in ["", "K", "M", "G", "T", "P", "E"] {
        if number < 1024.0 {
            let places = if number.fract() == 0.0 { 0 } else { 1 };
            return format!("{number:.places$}{unit}B");
        }
        number /= 1024.0;
    }
    format!("{number:.1}ZB")
}

/// The messages of a System V queue with their bodies, as far as they can be read.
fn queued(payload: &[u8]) -> impl Iterator<Item = (Tree, &[u8])> {
    let schema = schema::message("ipc_msg");
    let mut rest = payload;
    std::iter::from_fn(move || {
        let (size, after) = rest.split_first_chunk()?;
        let (message, after) = after.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        let tree = Tree::parse(schema?, message).ok()?;
        let size = tree.number("msize") as usize;
        let (body, after) = after.split_at_checked(size.checked_next_multiple_of(8)?)?;
        rest = after;
        Some((tree, &body[..size]))
    })
}

/// The bytes of a payload; none where the entry has no payload.
pub(super) fn bytes(
    kind: Kind,
    index: u64,
    tree: &Tree,
    json: Option<&Json>,
) -> Result<Vec<u8>, PayloadError> {
    if !has_payload(kind, index, tree) {
        return Ok(Vec::new());
    }
    // `crit` accepts an entry without the member for an empty payload.
    let empty = Json::Text(String::new());
    let json = json.unwrap_or(&empty);
    match kind.description().extra {
        Extra::Semaphores => semaphores(tree, json),
        Extra::MessageQueue => messages(tree, json),
        Extra::SharedSegment if tree.number("in_pagemaps") != 0 => Ok(Vec::new()),
        Extra::SharedSegment => {
            let mut segment = decoded("extra", json)?;
            check_size("extra", segment.len(), tree.number("size"))?;
            segment.resize(segment.len().next_multiple_of(4), 0);
            Ok(segment)
        }
        Extra::Sum(_) if kind == Kind::TcpStream => {
            let queue = |name: &'static str, length: &str| {
                let bytes = decoded(name, json.get(name).unwrap_or(&empty))?;
                check_size(name, bytes.len(), tree.number(length))?;
                Ok::<_, PayloadError>(bytes)
            };
            Ok([queue("inq", "inq_len")?, queue("outq", "outq_len")?].concat())
        }
        Extra::Sum(fields) => {
            let bytes = decoded("extra", json)?;
            let named =
                |number: &u32| tree.schema().field(*number).map_or(0, |field| tree.number(field.name));
            check_size("extra", bytes.len(), fields.iter().map(named).sum())?;
            Ok(bytes)
        }
        Extra::RemovedFile => {
            let bytes = decoded("extra", json)?;
            if index > 0 {
                check_size("extra", bytes.len(), tree.number("len"))?;
            }
            Ok(bytes)
        }
        Extra::None => Ok(Vec::new()),
    }
}

fn semaphores(tree: &Tree, json: &Json) -> Result<Vec<u8>, PayloadError> {
    let list = json.list().unwrap_or_default();
    check_count(list.len(), tree.number("nsems"), "semaphores")?;
    let mut bytes = Vec::new();
    for value in list {
        let Json::Number(number @ 0..=0xffff) = value else {
            return Err(PayloadError::Shape { found: value.name(), expected: "a number below 65536" });
        };
        bytes.extend((*number as u16).to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    Ok(bytes)
}

fn messages(tree: &Tree, json: &Json) -> Result<Vec<u8>, PayloadError> {
    let list = json.list().unwrap_or_default();
    check_count(list.len() / 2, tree.number("qnum"), "messages")?;
    let mut bytes = Vec::new();
    let (pairs, rest) = list.as_chunks::<2>();
    if let Some(odd) = rest.first() {
        return Err(PayloadError::Shape { found: odd.name(), expected: "a message with its body" });
    }
    for [message, body] in pairs {
        let schema = schema::message("ipc_msg")
            .ok_or(PayloadError::Shape { found: message.name(), expected: "a message" })?;
        let message = tree_of(schema, message)?;
        let body = decoded("the body of a message", body)?;
        check_size("the body of a message", body.len(), message.number("msize"))?;
        let encoded = message.encode();
        bytes.extend((encoded.len() as u32).to_le_bytes());
        bytes.extend(encoded);
        bytes.extend(body);
        let end = bytes.len() + padding(message.number("msize"));
        bytes.resize(end, 0);
    }
    Ok(bytes)
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(8) - size) as usize
}

fn decoded(part: &'static str, json: &Json) -> Result<Vec<u8>, PayloadError> {
    let text = json.text().ok_or(PayloadError::Shape { found: json.name(), expected: "base64" })?;
    from_base64(text).map_err(|source| PayloadError::Base64 { part, source })
}

fn check_size(part: &'static str, found: usize, expected: u64) -> Result<(), PayloadError> {
    let found = found as u64;
    if found == expected { Ok(()) } else { Err(PayloadError::Size { part, found, expected, unit: "bytes" }) }
}

fn check_count(found: usize, expected: u64, unit: &'static str) -> Result<(), PayloadError> {
    let found = found as u64;
    let part = "extra";
    if found == expected { Ok(()) } else { Err(PayloadError::Size { part, found, expected, unit }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_crit_shows_them() {
        for (size, text) in [(0, "0B"), (1023, "1023B"), (1024, "1KB"), (1536, "1.5KB"), (3 << 20, "3MB")] {
            assert_eq!(rounded(size), text);
        }
    }
}
