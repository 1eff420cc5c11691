//! JSON as a message: in either style, in any order of members.

use std::net::IpAddr;

use super::super::json::Json;
use super::super::quoted;
use super::super::schema::{Field, Label, Schema, Shown, Type, Word};
use super::super::tree::{Tree, Value};
use super::{UNKNOWN, from_base64};
use crate::wire::{self, WireError};

/// Why JSON is not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// A member has a name that is no field.
    #[error("{message} has no field {field}")]
    NoSuchField {
        /// The message.
        message: &'static str,
        /// The name.
        field: String,
    },
    /// A field that every message of its kind has is absent.
    #[error("{message} needs the field {field}")]
    Missing {
        /// The message.
        message: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A value is of another type.
    #[error("{field} is {found} where {expected} belongs")]
    Mismatch {
        /// The field or message.
        field: &'static str,
        /// What is there.
        found: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// A number is too large for its field, or negative where it cannot be.
    #[error("{field} cannot be {number}")]
    Range {
        /// The field.
        field: &'static str,
        /// The number.
        number: i128,
    },
    /// A text stands for no value of its field.
    #[error("{field} cannot be {text:?}")]
    Text {
        /// The field.
        field: &'static str,
        /// The text.
        text: String,
    },
    /// What should be encoded fields is something else.
    #[error("{UNKNOWN} of {message} holds no encoded fields: {source}")]
    Encoding {
        /// The message.
        message: &'static str,
        /// What is wrong.
        source: WireError,
    },
    /// Bytes are not base64.
    #[error("{field} is not base64")]
    Base64 {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: base64::DecodeError,
    },
}

impl JsonError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoSuchField { .. } => {
                "check the spelling; fields of newer releases of CRIU go, encoded, into _unknown"
            }
            Self::Missing { .. } => "add the field: CRIU refuses the image without it",
            Self::Mismatch { .. }
            | Self::Range { .. }
            | Self::Text { .. }
            | Self::Encoding { .. }
            | Self::Base64 { .. } => "decode a real image of this kind to see what the field looks like",
        }
    }
}

/// A message from JSON. Members named `extra`, and those that begin with `_`, are none of its fields and passed over, but for
/// `_unknown`.
///
/// # Errors
///
/// When the JSON is not such a message.
pub fn tree_of(schema: &'static Schema, json: &Json) -> Result<Tree, JsonError> {
    let Json::Object(members) = json else {
        return Err(JsonError::Mismatch { field: schema.name, found: json.name(), expected: "an object" });
    };
    let mut tree = Tree::new(schema);
    for (name, value) in members {
        match schema.named(name) {
            Some(field) => read_field(&mut tree, field, value)?,
            None if name == UNKNOWN => {
                let encoded = match value {
                    Json::Text(text) => bytes(UNKNOWN, text)?,
                    other => {
                        let found = other.name();
                        return Err(JsonError::Mismatch { field: UNKNOWN, found, expected: "text" });
                    }
                };
                if let Some(source) = wire::fields(&encoded).find_map(Result::err) {
                    return Err(JsonError::Encoding { message: schema.name, source });
                }
                tree.push_unknown(&encoded);
            }
            None if name == "extra" || name.starts_with('_') => {}
            None => {
                return Err(JsonError::NoSuchField {
                    message: schema.name,
                    field: name.clone().into_owned(),
                });
            }
        }
    }
    let missing = |field: &&Field| field.label == Label::Required && tree.get(field.name).is_none();
    match schema.fields.iter().find(missing) {
        Some(field) => Err(JsonError::Missing { message: schema.name, field: field.name }),
        None => Ok(tree),
    }
}

fn read_field(tree: &mut Tree, field: &'static Field, json: &Json) -> Result<(), JsonError> {
    if field.label != Label::Repeated {
        let value = read_value(field, json)?;
        tree.push(field, value);
        return Ok(());
    }
    let Json::List(list) = json else {
        return Err(JsonError::Mismatch { field: field.name, found: json.name(), expected: "a list" });
    };
    for json in list {
        match (field.shown, json) {
            (Shown::Address, Json::Text(text)) if text.contains(['.', ':']) => {
                for number in address(field, text)? {
                    tree.push(field, Value::Unsigned(number.into()));
                }
            }
            _ => {
                let value = read_value(field, json)?;
                tree.push(field, value);
            }
        }
    }
    Ok(())
}

fn read_value(field: &'static Field, json: &Json) -> Result<Value, JsonError> {
    let mismatch = |expected| JsonError::Mismatch { field: field.name, found: json.name(), expected };
    match (field.holds, json) {
        (Type::Message(schema), _) => Ok(Value::Message(tree_of(schema, json)?)),
        (Type::Flag, Json::Flag(flag)) => Ok(Value::Flag(*flag)),
        (Type::Flag, Json::Number(number @ 0..=1)) => Ok(Value::Flag(*number == 1)),
        (Type::Flag, _) => Err(mismatch("true or false")),
        (Type::Text, Json::Text(text)) => Ok(Value::Bytes(text.clone().into_bytes())),
        (Type::Bytes, Json::Text(text)) if matches!(field.shown, Shown::Quoted) => {
            Ok(Value::Bytes(quoted::decode(text)))
        }
        (Type::Bytes, Json::Text(text)) => Ok(Value::Bytes(bytes(field.name, text)?)),
        (Type::Text | Type::Bytes, _) => Err(mismatch("text")),
        (_, Json::Number(number)) => in_range(field, *number),
        (_, Json::Text(text)) => in_range(field, number(field, text)?),
        _ => Err(mismatch("a number")),
    }
}

fn bytes(field: &'static str, text: &str) -> Result<Vec<u8>, JsonError> {
    from_base64(text).map_err(|source| JsonError::Base64 { field, source })
}

fn in_range(field: &'static Field, number: i128) -> Result<Value, JsonError> {
    let value = match field.holds {
        Type::U32 => u32::try_from(number).ok().map(|number| Value::Unsigned(number.into())),
        Type::U64 | Type::X64 => u64::try_from(number).ok().map(Value::Unsigned),
        Type::I32 | Type::S32 | Type::OneOf(_) => {
            i32::try_from(number).ok().map(|number| Value::Signed(number.into()))
        }
        Type::I64 | Type::S64 => i64::try_from(number).ok().map(Value::Signed),
        Type::Flag | Type::Text | Type::Bytes | Type::Message(_) => None,
    };
    value.ok_or(JsonError::Range { field: field.name, number })
}

/// The number a text stands for: by the field's words, or written in decimal or hexadecimal.
fn number(field: &'static Field, text: &str) -> Result<i128, JsonError> {
    let unknown = || JsonError::Text { field: field.name, text: text.to_owned() };
    if let Type::OneOf(enumeration) = field.holds
        && let Some(number) = enumeration.number_of(text)
    {
        return Ok(number.into());
    }
    match field.shown {
        Shown::Flags(words) => {
            text.split('|').map(str::trim).filter(|part| !part.is_empty()).try_fold(0, |all, part| {
                let bits = word(words, part).or_else(|| literal(part)).ok_or_else(unknown)?;
                Ok(all | bits)
            })
        }
        Shown::Words(words) => word(words, text).or_else(|| literal(text)).ok_or_else(unknown),
        Shown::Device | Shown::OldDevice if text.contains(':') => {
            let (major, minor) = text.split_once(':').ok_or_else(unknown)?;
            let part = |text: &str| text.trim().parse::<u32>().map_err(|_| unknown());
            let (major, minor) = (u64::from(part(major)?), u64::from(part(minor)?));
            let device = match field.shown {
                Shown::OldDevice => {
                    (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor & 0xff | (minor & !0xff) << 12
                }
                _ if minor >> 20 == 0 => major << 20 | minor,
                _ => return Err(unknown()),
            };
            Ok(device.into())
        }
        _ => literal(text).ok_or_else(unknown),
    }
}

fn word(words: &[Word], name: &str) -> Option<i128> {
    words.iter().find(|word| word.name == name).map(|word| word.value.into())
}

/// A number as Python's `int(…, 0)` reads it: decimal, or with a prefix that tells its base.
fn literal(text: &str) -> Option<i128> {
    let (negative, digits) = match text.trim().strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.trim()),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        _ => (10, digits),
    };
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -number } else { number })
}

/// The numbers of an address, in network byte order.
fn address(field: &'static Field, text: &str) -> Result<Vec<u32>, JsonError> {
    let address: IpAddr =
        text.parse().map_err(|_| JsonError::Text { field: field.name, text: text.to_owned() })?;
    let octets = match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    };
    Ok(octets.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect())
}
