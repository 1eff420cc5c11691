//! A message as JSON and back, as `crit` of CRIU 4.2 has it (`lib/pycriu/images/pb2dict.py`): the fields that are there, in the order
//! of their numbers, by name; bytes as base64 in lines of 76 characters; values of an enumeration by name. Made for people
//! ([`Style::Pretty`]), addresses, flags and the like are text. Both forms can be read back.
//!
//! `crit` drops fields that it does not know; here they are kept as `_unknown`.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::json::Json;
use super::quoted;
use super::schema::{Field, Label, Shown, Type, Word};
use super::tree::{Tree, Value};

mod reading;

pub use reading::{JsonError, tree_of};

/// The member that holds what the schema does not know.
pub(super) const UNKNOWN: &str = "_unknown";

/// For whom JSON is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For programs: numbers are numbers.
    Plain,
    /// For people: numbers have the form that suits the field.
    Pretty,
}

/// A message as JSON.
#[must_use]
pub fn json_of(tree: &Tree, style: Style) -> Json {
    object(tree, style, false)
}

/// `hex` is inherited: below a message that is shown in hexadecimal all numbers are.
fn object(tree: &Tree, style: Style, hex: bool) -> Json {
    let mut order: Vec<&(&'static Field, Value)> = tree.fields().iter().collect();
    order.sort_by_key(|(field, _)| field.number);
    let mut members: Vec<(Cow<'static, str>, Json)> = Vec::new();
    for values in order.chunk_by(|(a, _), (b, _)| a.number == b.number) {
        let Some((field, last)) = values.last() else { continue };
        let hex = hex || matches!(field.shown, Shown::Hex);
        let json = match field.label {
            Label::Repeated => match address(field, style, values) {
                Some(address) => Json::List(vec![address]),
                None => {
                    Json::List(values.iter().map(|(_, value)| single(field, value, style, hex)).collect())
                }
            },
            Label::Required | Label::Optional => single(field, last, style, hex),
        };
        members.push((field.name.into(), json));
    }
    if !tree.unknown().is_empty() {
        members.push((UNKNOWN.into(), Json::Text(base64(tree.unknown()))));
    }
    Json::Object(members)
}

fn single(field: &Field, value: &Value, style: Style, hex: bool) -> Json {
    match value {
        Value::Message(tree) => object(tree, style, hex),
        Value::Flag(flag) => Json::Flag(*flag),
        Value::Bytes(bytes) => Json::Text(match (field.holds, field.shown) {
            (Type::Text, _) => String::from_utf8_lossy(bytes).into_owned(),
            (_, Shown::Quoted) => quoted::encode(bytes),
            _ => base64(bytes),
        }),
        Value::Unsigned(number) => shown(field, i128::from(*number), style, hex),
        Value::Signed(number) => {
            let name = match field.holds {
                Type::OneOf(enumeration) => {
                    i32::try_from(*number).ok().and_then(|it| enumeration.name_of(it))
                }
                _ => None,
            };
            match name {
                Some(name) => Json::Text(name.into()),
                None => shown(field, i128::from(*number), style, hex),
            }
        }
    }
}

fn shown(field: &Field, number: i128, style: Style, hex: bool) -> Json {
    let is_enumeration = matches!(field.holds, Type::OneOf(_));
    if style == Style::Plain || is_enumeration {
        return Json::Number(number);
    }
    if hex {
        let sign = if number < 0 { "-" } else { "" };
        return Json::Text(format!("{sign}{:#x}", number.unsigned_abs()));
    }
    let bits = number as u64;
    match field.shown {
        Shown::Device => Json::Text(format!("{}:{}", bits >> 20, bits & 0xf_ffff)),
        Shown::OldDevice => Json::Text(format!("{}:{}", major(bits), minor(bits))),
        Shown::Flags(words) => Json::Text(flags(bits, words)),
        Shown::Words(words) => match words.iter().find(|word| word.value == bits) {
            Some(word) => Json::Text(word.name.into()),
            None => Json::Number(number),
        },
        Shown::Plain | Shown::Hex | Shown::Address | Shown::Quoted => Json::Number(number),
    }
}

/// The names of the bits that are set, and what remains as a number.
fn flags(bits: u64, words: &[Word]) -> String {
    let mut names: Vec<String> =
        words.iter().filter(|word| bits & word.value != 0).map(|word| word.name.to_owned()).collect();
    let rest = bits & !words.iter().fold(0, |all, word| all | word.value);
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names.join(" | ")
}

/// The major number of a device as the C library encodes it.
fn major(device: u64) -> u64 {
    (device >> 8) & 0xfff | (device >> 32) & 0xffff_f000
}

/// The minor number of a device as the C library encodes it.
fn minor(device: u64) -> u64 {
    device & 0xff | (device >> 12) & 0xffff_ff00
}

/// One or four numbers as an address; `None` where there are other than that, or a program will read it.
fn address(field: &Field, style: Style, values: &[&(&'static Field, Value)]) -> Option<Json> {
    if style == Style::Plain || !matches!(field.shown, Shown::Address) {
        return None;
    }
    let octets: Vec<u8> =
        values.iter().flat_map(|(_, value)| (value.number() as u32).to_le_bytes()).collect();
    let address = match (<[u8; 4]>::try_from(octets.as_slice()), <[u8; 16]>::try_from(octets.as_slice())) {
        (Ok(four), _) => IpAddr::V4(Ipv4Addr::from(four)),
        (_, Ok(six)) => IpAddr::V6(Ipv6Addr::from(six)),
        _ => return None,
    };
    Some(Json::Text(address.to_string()))
}

/// Base64 in lines of 76 characters, each of them ended, as Python's `encodebytes` does.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(57) * 77);
    for line in bytes.chunks(57) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text
}

/// The bytes of base64, with line ends anywhere.
pub(super) fn from_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let packed: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(packed)
}

#[cfg(test)]
pub(in crate::image) mod tests;
