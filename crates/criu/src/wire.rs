//! Protocol Buffers at the level of the wire: read a message into its fields, change one, write it back.
//!
//! CRIU's images gain fields with every release. A decoder generated from one release's definitions drops what it does not know,
//! so an image that has to be changed is changed here instead: every field that was not touched, known or not, in whatever order
//! and with whatever encoding it had, comes out byte for byte as it went in.
//!
//! The format is the one of the [Protocol Buffers encoding](https://protobuf.dev/programming-guides/encoding/). Groups, which
//! CRIU never used, are refused.

use std::borrow::Cow;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("field at offset {offset} is cut short")]
    Truncated {
        /// Where the field starts, in bytes from the start of the message.
        offset: usize,
    },
    /// A variable-length integer has more than 64 bits.
    #[error("integer at offset {offset} has more than 64 bits")]
    Overlong {
        /// Where the field starts, in bytes from the start of the message.
        offset: usize,
    },
    /// A field has number zero or one beyond 2^29 - 1.
    #[error("field at offset {offset} has the impossible number {number}")]
    FieldNumber {
        /// Where the field starts, in bytes from the start of the message.
        offset: usize,
        /// The number it claims.
        number: u64,
    },
    /// A field has a wire type that is not handled (groups) or does not exist.
    #[error("field {number} at offset {offset} has wire type {wire_type}, which images do not use")]
    WireType {
        /// Where the field starts, in bytes from the start of the message.
        offset: usize,
        /// The field's number.
        number: u32,
        /// The wire type it claims.
        wire_type: u8,
    },
    /// A field that should hold one type holds another.
    #[error("field {number} is not {expected}")]
    Mismatch {
        /// The field's number.
        number: u32,
        /// What was expected there.
        expected: &'static str,
    },
}

/// What one field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0: every integer that is not of fixed size, booleans and enumerations.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: strings, bytes, nested messages and packed repeated numbers.
    Bytes(Cow<'a, [u8]>),
    /// Wire type 5.
    Fixed32(u32),
}

/// One field of a message, in the place where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    number: u32,
    value: Value<'a>,
    /// The bytes it was read from, until it is changed.
    original: Option<&'a [u8]>,
}

impl<'a> Field<'a> {
    /// The bytes the field was read from, key included; `None` once it was changed.
    #[must_use]
    pub fn original(&self) -> Option<&'a [u8]> {
        self.original
    }

    /// The field's number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What the field holds.
    #[must_use]
    pub fn value(&self) -> &Value<'_> {
        &self.value
    }
}

/// A message as the list of its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message<'a> {
    fields: Vec<Field<'a>>,
}

impl<'a> Message<'a> {
    /// Reads the fields of one message. Nested messages stay bytes until they are asked for.
    ///
    /// # Errors
    ///
    /// When the bytes are no sequence of fields.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        Ok(Self { fields: fields(bytes).collect::<Result<_, _>>()? })
    }

    /// The fields in their order.
    pub fn fields(&self) -> impl Iterator<Item = &Field<'a>> {
        self.fields.iter()
    }

    /// Whether a field of this number is there.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.fields.iter().any(|field| field.number == number)
    }

    /// The integer in a field that is not repeated; of several the last counts, as the encoding demands.
    ///
    /// # Errors
    ///
    /// When the field holds something else.
    pub fn varint(&self, number: u32) -> Result<Option<u64>, WireError> {
        match self.last(number).map(|field| &field.value) {
            None => Ok(None),
            Some(Value::Varint(value)) => Ok(Some(*value)),
            Some(_) => Err(WireError::Mismatch { number, expected: "an integer" }),
        }
    }

    /// An integer that has to fit 32 bits; bits above are dropped, as every decoder does.
    ///
    /// # Errors
    ///
    /// When the field holds something else.
    pub fn u32(&self, number: u32) -> Result<Option<u32>, WireError> {
        Ok(self.varint(number)?.map(|value| value as u32))
    }

    /// The bytes of a field that is not repeated; of several the last counts.
    ///
    /// # Errors
    ///
    /// When the field holds something else.
    pub fn bytes(&self, number: u32) -> Result<Option<&[u8]>, WireError> {
        match self.last(number).map(|field| &field.value) {
            None => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(WireError::Mismatch { number, expected: "bytes" }),
        }
    }

    /// A nested message; of several the last counts.
    ///
    /// # Errors
    ///
    /// When the field holds something else, or bytes that are no message.
    pub fn message(&self, number: u32) -> Result<Option<Message<'_>>, WireError> {
        self.bytes(number)?.map(Message::parse).transpose()
    }

    /// All values of a repeated integer, written one by one or packed.
    ///
    /// # Errors
    ///
    /// When one of the fields holds something else.
    pub fn varints(&self, number: u32) -> Result<Vec<u64>, WireError> {
        let mut values = Vec::new();
        for field in self.fields.iter().filter(|field| field.number == number) {
            match &field.value {
                Value::Varint(value) => values.push(*value),
                Value::Bytes(packed) => {
                    let mut at = 0;
                    while at < packed.len() {
                        let (value, next) = parse_varint(packed, at, at)?;
                        values.push(value);
                        at = next;
                    }
                }
                _ => return Err(WireError::Mismatch { number, expected: "integers" }),
            }
        }
        Ok(values)
    }

    /// Sets an integer: in the place of the last field of this number, or at the end. A field that already holds the value is left
    /// as it is.
    pub fn set_varint(&mut self, number: u32, value: u64) {
        self.set(number, Value::Varint(value));
    }

    /// Sets bytes, a string or an encoded message: in the place of the last field of this number, or at the end.
    pub fn set_bytes(&mut self, number: u32, bytes: Vec<u8>) {
        self.set(number, Value::Bytes(Cow::Owned(bytes)));
    }

    /// Sets all values of a repeated integer, where the first of them stood, and packed if that one was. Values that are already
    /// there are left as they are.
    pub fn set_varints(&mut self, number: u32, values: &[u64]) {
        if self.varints(number).is_ok_and(|present| present == values) {
            return;
        }
        let first = self.fields.iter().position(|field| field.number == number);
        let packed = first.is_some_and(|index| matches!(self.fields[index].value, Value::Bytes(_)));
        self.remove(number);
        let at = first.unwrap_or(self.fields.len());
        if packed {
            let mut bytes = Vec::new();
            for value in values {
                put_varint(&mut bytes, *value);
            }
            let value = Value::Bytes(Cow::Owned(bytes));
            self.fields.insert(at, Field { number, value, original: None });
        } else {
            let fields =
                values.iter().map(|value| Field { number, value: Value::Varint(*value), original: None });
            self.fields.splice(at..at, fields);
        }
    }

    /// Removes every field of this number and tells whether there was one.
    pub fn remove(&mut self, number: u32) -> bool {
        let before = self.fields.len();
        self.fields.retain(|field| field.number != number);
        self.fields.len() != before
    }

    /// Changes a nested message in its place. Nothing happens when it is absent. What `change` returned comes back.
    ///
    /// # Errors
    ///
    /// When the field holds no message, or `change` fails; the message is then left as it was.
    pub fn edit<T, E: From<WireError>>(
        &mut self,
        number: u32,
        change: impl FnOnce(&mut Message<'_>) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let Some(field) = self.fields.iter_mut().rfind(|field| field.number == number) else {
            return Ok(None);
        };
        let Value::Bytes(bytes) = &field.value else {
            return Err(WireError::Mismatch { number, expected: "a message" }.into());
        };
        let mut nested = Message::parse(bytes)?;
        let result = change(&mut nested)?;
        let encoded = nested.encode();
        if encoded != bytes.as_ref() {
            field.value = Value::Bytes(Cow::Owned(encoded));
            field.original = None;
        }
        Ok(Some(result))
    }

    /// The message as bytes: what was not changed is written exactly as it was read.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in &self.fields {
            match field.original {
                Some(original) => out.extend_from_slice(original),
                None => put_field(&mut out, field.number, &field.value),
            }
        }
        out
    }

    fn last(&self, number: u32) -> Option<&Field<'a>> {
        self.fields.iter().rfind(|field| field.number == number)
    }

    fn set(&mut self, number: u32, value: Value<'a>) {
        match self.fields.iter_mut().rfind(|field| field.number == number) {
            Some(field) if field.value == value => {}
            Some(field) => {
                field.value = value;
                field.original = None;
            }
            None => self.fields.push(Field { number, value, original: None }),
        }
    }
}

/// The fields of a message one by one, without keeping them. After an error there are no more.
pub(crate) fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<Field<'_>, WireError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < bytes.len()).then(|| {
            let parsed = parse_field(bytes, at);
            at = parsed.as_ref().map_or(bytes.len(), |(_, next)| *next);
            parsed.map(|(field, _)| field)
        })
    })
}

const LARGEST_FIELD_NUMBER: u64 = (1 << 29) - 1;

fn parse_field(bytes: &[u8], start: usize) -> Result<(Field<'_>, usize), WireError> {
    let (key, at) = parse_varint(bytes, start, start)?;
    let wire_type = (key & 7) as u8;
    let number = key >> 3;
    if number == 0 || number > LARGEST_FIELD_NUMBER {
        return Err(WireError::FieldNumber { offset: start, number });
    }
    let number = number as u32;
    let truncated = WireError::Truncated { offset: start };
    let (value, next) = match wire_type {
        0 => {
            let (value, next) = parse_varint(bytes, at, start)?;
            (Value::Varint(value), next)
        }
        1 => {
            let raw = bytes[at..].first_chunk::<8>().ok_or(truncated)?;
            (Value::Fixed64(u64::from_le_bytes(*raw)), at + 8)
        }
        2 => {
            let (length, at) = parse_varint(bytes, at, start)?;
            let length = usize::try_from(length).map_err(|_| truncated.clone())?;
            let body = bytes[at..].get(..length).ok_or(truncated)?;
            (Value::Bytes(Cow::Borrowed(body)), at + length)
        }
        5 => {
            let raw = bytes[at..].first_chunk::<4>().ok_or(truncated)?;
            (Value::Fixed32(u32::from_le_bytes(*raw)), at + 4)
        }
        wire_type => return Err(WireError::WireType { offset: start, number, wire_type }),
    };
    Ok((Field { number, value, original: Some(&bytes[start..next]) }, next))
}

pub(crate) fn parse_varint(bytes: &[u8], mut at: usize, field: usize) -> Result<(u64, usize), WireError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(at).ok_or(WireError::Truncated { offset: field })?;
        at += 1;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value, at));
        }
    }
    Err(WireError::Overlong { offset: field })
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_field(out: &mut Vec<u8>, number: u32, value: &Value<'_>) {
    let key = u64::from(number) << 3;
    match value {
        Value::Varint(value) => {
            put_varint(out, key);
            put_varint(out, *value);
        }
        Value::Fixed64(value) => {
            put_varint(out, key | 1);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Bytes(bytes) => {
            put_varint(out, key | 2);
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        Value::Fixed32(value) => {
            put_varint(out, key | 5);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Field 1 = 5 with a needlessly long encoding, field 2 = "ab", field 900 (unknown) = 1, field 3 = {1: 7}.
    const SAMPLE: &[u8] =
        &[0x08, 0x85, 0x80, 0x00, 0x12, 2, b'a', b'b', 0xa0, 0x38, 0x01, 0x1a, 2, 0x08, 0x07];

    #[test]
    fn untouched_fields_keep_their_bytes_even_when_encoded_oddly() {
        let mut message = Message::parse(SAMPLE).unwrap();
        assert_eq!(message.encode(), SAMPLE);

        message.set_bytes(2, b"xyz".to_vec());
        assert_eq!(
            message.encode(),
            [0x08, 0x85, 0x80, 0x00, 0x12, 3, b'x', b'y', b'z', 0xa0, 0x38, 0x01, 0x1a, 2, 0x08, 0x07]
        );
    }

    #[test]
    fn setting_the_value_that_is_there_changes_nothing() {
        let mut message = Message::parse(SAMPLE).unwrap();
        message.set_varint(1, 5);
        message.set_bytes(2, b"ab".to_vec());
        message.set_varints(900, &[1]);
        message
            .edit(3, |nested| {
                nested.set_varint(1, 7);
                Ok::<_, WireError>(())
            })
            .unwrap();
        assert_eq!(message.encode(), SAMPLE);
    }

    #[test]
    fn a_nested_message_is_changed_in_its_place() {
        let mut message = Message::parse(SAMPLE).unwrap();
        let old = message
            .edit(3, |nested| {
                let old = nested.u32(1)?;
                nested.set_varint(1, 300);
                Ok::<_, WireError>(old)
            })
            .unwrap();
        assert_eq!(old, Some(Some(7)));
        assert!(message.encode().ends_with(&[0x1a, 3, 0x08, 0xac, 0x02]));
    }

    #[test]
    fn repeated_integers_are_read_packed_and_unpacked_and_written_as_found() {
        let unpacked = [0x08, 1, 0x08, 2, 0x10, 9];
        let mut message = Message::parse(&unpacked).unwrap();
        assert_eq!(message.varints(1).unwrap(), [1, 2]);
        message.set_varints(1, &[3, 4, 5]);
        assert_eq!(message.encode(), [0x08, 3, 0x08, 4, 0x08, 5, 0x10, 9]);

        let packed = [0x0a, 2, 1, 2, 0x10, 9];
        let mut message = Message::parse(&packed).unwrap();
        assert_eq!(message.varints(1).unwrap(), [1, 2]);
        message.set_varints(1, &[300]);
        assert_eq!(message.encode(), [0x0a, 2, 0xac, 2, 0x10, 9]);
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let cases: [(&[u8], WireError); 6] = [
            (&[0x08], WireError::Truncated { offset: 0 }),
            (&[0x08, 1, 0x12, 9, 0], WireError::Truncated { offset: 2 }),
            (&[0x09, 0, 0, 0], WireError::Truncated { offset: 0 }),
            (&[0x00, 0], WireError::FieldNumber { offset: 0, number: 0 }),
            (&[0x0b], WireError::WireType { offset: 0, number: 1, wire_type: 3 }),
            (
                &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
                WireError::Overlong { offset: 0 },
            ),
        ];
        for (bytes, error) in cases {
            assert_eq!(Message::parse(bytes), Err(error), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_written_back_unchanged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn an_edit_changes_its_field_and_no_other(
            values in proptest::collection::vec((1u32..40, any::<u64>()), 1..20),
            changed in 1u32..40,
            new in any::<u64>(),
        ) {
            let mut bytes = Vec::new();
            for (number, value) in &values {
                put_field(&mut bytes, *number, &Value::Varint(*value));
            }
            let mut message = Message::parse(&bytes).unwrap();
            message.set_varint(changed, new);
            let written = message.encode();
            let again = Message::parse(&written).unwrap();
            prop_assert_eq!(again.varint(changed).unwrap(), Some(new));
            for number in (1..40).filter(|number| *number != changed) {
                prop_assert_eq!(again.varints(number).unwrap(), Message::parse(&bytes).unwrap().varints(number).unwrap());
            }
        }
    }
}
