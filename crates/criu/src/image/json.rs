//! JSON as `crit` writes it: objects keep the order of their members, integers have up to 64 bits, and there are no fractions.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// Nothing.
    Null,
    /// True or false.
    Flag(bool),
    /// An integer.
    Number(i128),
    /// Text.
    Text(String),
    /// Values in their order.
    List(Vec<Json>),
    /// Values with names, in their order.
    Object(Vec<(Cow<'static, str>, Json)>),
}

impl Json {
    /// The member of an object; `None` for what is no object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Self::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The list, if it is one.
    #[must_use]
    pub fn list(&self) -> Option<&[Json]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// What kind of value it is, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// Whether both mean the same: the order of an object's members does not count.
    #[must_use]
    pub fn means_the_same(&self, other: &Json) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.means_the_same(b))
            }
            (Self::Object(a), Self::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, value)| other.get(key).is_some_and(|found| value.means_the_same(found)))
            }
            _ => self == other,
        }
    }
}

/// How JSON is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// On one line, with a blank after each colon and comma.
    Line,
    /// One value a line, each level four blanks deeper.
    Lines,
}

impl Layout {
    /// Starts a line `depth` levels deep; nothing where all is one line.
    pub(super) fn line(self, depth: usize, out: &mut dyn Write) -> io::Result<()> {
        if self == Self::Lines {
            write!(out, "\n{:1$}", "", depth * 4)?;
        }
        Ok(())
    }

    /// What stands between two values.
    pub(super) fn comma(self) -> &'static str {
        if self == Self::Lines { "," } else { ", " }
    }
}

impl Json {
    /// Writes the value as Python's `json` module does, in ASCII only, `depth` levels deep in what surrounds it.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn write(&self, layout: Layout, depth: usize, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Null => out.write_all(b"null"),
            Self::Flag(true) => out.write_all(b"true"),
            Self::Flag(false) => out.write_all(b"false"),
            Self::Number(number) => write!(out, "{number}"),
            Self::Text(text) => write_text(text, out),
            Self::List(list) if list.is_empty() => out.write_all(b"[]"),
            Self::List(list) => {
                out.write_all(b"[")?;
                for (index, value) in list.iter().enumerate() {
                    if index > 0 {
                        out.write_all(layout.comma().as_bytes())?;
                    }
                    layout.line(depth + 1, out)?;
                    value.write(layout, depth + 1, out)?;
                }
                layout.line(depth, out)?;
                out.write_all(b"]")
            }
            Self::Object(members) if members.is_empty() => out.write_all(b"{}"),
            Self::Object(members) => {
                out.write_all(b"{")?;
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.write_all(layout.comma().as_bytes())?;
                    }
                    layout.line(depth + 1, out)?;
                    write_text(key, out)?;
                    out.write_all(b": ")?;
                    value.write(layout, depth + 1, out)?;
                }
                layout.line(depth, out)?;
                out.write_all(b"}")
            }
        }
    }
}

/// Text in quotes; what is not printable ASCII is escaped.
fn write_text(text: &str, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"\"")?;
    let mut plain = 0;
    for (at, character) in text.char_indices() {
        if matches!(character, ' '..='~' if character != '"' && character != '\\') {
            continue;
        }
        out.write_all(&text.as_bytes()[plain..at])?;
        plain = at + character.len_utf8();
        match character {
            '"' => out.write_all(b"\\\"")?,
            '\\' => out.write_all(b"\\\\")?,
            '\n' => out.write_all(b"\\n")?,
            '\r' => out.write_all(b"\\r")?,
            '\t' => out.write_all(b"\\t")?,
            '\u{8}' => out.write_all(b"\\b")?,
            '\u{c}' => out.write_all(b"\\f")?,
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
    }
    out.write_all(&text.as_bytes()[plain..])?;
    out.write_all(b"\"")
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Vec::new();
        self.write(Layout::Line, 0, &mut line).map_err(|_| fmt::Error)?;
        f.write_str(&String::from_utf8_lossy(&line))
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => match (u64::try_from(*number), i64::try_from(*number)) {
                (Ok(number), _) => serializer.serialize_u64(number),
                (_, Ok(number)) => serializer.serialize_i64(number),
                _ => serializer.serialize_i128(*number),
            },
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => {
                let mut written = serializer.serialize_seq(Some(list.len()))?;
                for value in list {
                    written.serialize_element(value)?;
                }
                written.end()
            }
            Self::Object(members) => {
                let mut written = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    written.serialize_entry(key, value)?;
                }
                written.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without fractions")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Flag(flag))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members: Vec<(Cow<'static, str>, Json)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Json>()? {
            members.push((key.into(), value));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(json: &Json, layout: Layout) -> String {
        let mut out = Vec::new();
        json.write(layout, 0, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_is_laid_out_as_python_does() {
        let json: Json =
            serde_json::from_str(r#"{"b": [1, -2, 18446744073709551615], "a": {}, "c": [], "d": true}"#)
                .unwrap();
        assert_eq!(
            written(&json, Layout::Line),
            r#"{"b": [1, -2, 18446744073709551615], "a": {}, "c": [], "d": true}"#
        );
        assert_eq!(
            written(&json, Layout::Lines),
            "{\n    \"b\": [\n        1,\n        -2,\n        18446744073709551615\n    ],\n    \"a\": {},\n    \
             \"c\": [],\n    \"d\": true\n}"
        );
    }

    #[test]
    fn text_is_written_in_ascii() {
        let json = Json::Text("a\"\\\n\u{0}\u{7f}é\u{1f600}".into());
        assert_eq!(written(&json, Layout::Line), r#""a\"\\\n\u0000\u007f\u00e9\ud83d\ude00""#);
    }

    #[test]
    fn the_order_of_members_does_not_count() {
        let json = |text| serde_json::from_str::<Json>(text).unwrap();
        assert!(
            json(r#"{"a": 1, "b": [{"c": 2, "d": 3}]}"#)
                .means_the_same(&json(r#"{"b": [{"d": 3, "c": 2}], "a": 1}"#))
        );
        assert!(!json(r#"{"a": [1, 2]}"#).means_the_same(&json(r#"{"a": [2, 1]}"#)));
    }

    #[test]
    fn fractions_are_refused() {
        assert!(serde_json::from_str::<Json>("[1.5]").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(text in "\\PC*", number in any::<i64>()) {
            let json = Json::Object(vec![(text.clone().into(), Json::List(vec![Json::Text(text), Json::Number(number.into())]))]);
            for layout in [Layout::Line, Layout::Lines] {
                prop_assert_eq!(&serde_json::from_str::<Json>(&written(&json, layout)).unwrap(), &json);
            }
        }
    }
}
