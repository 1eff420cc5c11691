//! A message as a tree of values: every field that the [`Schema`] names, in the order of the wire, and the
//! bytes of those it does not.

use std::borrow::Cow;

use super::schema::{Field, Label, Schema, Type};
use crate::wire::{self, Value as WireValue, WireError, parse_varint, put_field, put_varint};

/// Deepest nesting of messages. Control groups and AppArmor's name spaces nest as deep as people made them; nothing else has more
/// than five levels.
const DEPTH: usize = 40;

/// Most values in one entry: fifteen for each mapping of a process, so a process with a quarter of a million.
const VALUES: usize = 4 << 20;

/// Why bytes are not a message of a certain schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// They are no message at all.
    #[error("{message}: {source}")]
    Wire {
        /// The message that cannot be read: the entry or one inside it.
        message: &'static str,
        /// What is wrong.
        source: WireError,
    },
    /// Messages lie inside each other deeper than any program needs.
    #[error("{message} lies more than {limit} messages deep")]
    TooDeep {
        /// The message.
        message: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The entry holds more values than any program needs.
    #[error("{message} holds more than {limit} values")]
    TooMany {
        /// The message.
        message: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// A message taken apart.
#[derive(Debug, Clone)]
pub struct Tree {
    schema: &'static Schema,
    fields: Vec<(&'static Field, Value)>,
    unknown: Vec<u8>,
}

/// What one field holds.
#[derive(Debug, Clone)]
pub enum Value {
    /// A number without sign.
    Unsigned(u64),
    /// A number with sign, or one that may have a name.
    Signed(i64),
    /// True or false.
    Flag(bool),
    /// Bytes or text; text of hostile images need not be UTF-8.
    Bytes(Vec<u8>),
    /// A message.
    Message(Tree),
}

impl Tree {
    /// An empty message.
    #[must_use]
    pub fn new(schema: &'static Schema) -> Self {
        Self { schema, fields: Vec::new(), unknown: Vec::new() }
    }

    /// Takes a message apart.
    ///
    /// # Errors
    ///
    /// When the bytes are no message, or those of a nested message are none, or there is more of either than any program needs.
    pub fn parse(schema: &'static Schema, bytes: &[u8]) -> Result<Self, TreeError> {
        parse(schema, bytes, DEPTH, &mut VALUES.clone())
    }

    /// What the message consists of.
    #[must_use]
    pub fn schema(&self) -> &'static Schema {
        self.schema
    }

    /// The fields with their values, in the order of the wire; repeated ones occur once for each value.
    #[must_use]
    pub fn fields(&self) -> &[(&'static Field, Value)] {
        &self.fields
    }

    /// The encoded fields that the schema does not know, one after the other.
    #[must_use]
    pub fn unknown(&self) -> &[u8] {
        &self.unknown
    }

    /// Adds a value at the end.
    pub fn push(&mut self, field: &'static Field, value: Value) {
        self.fields.push((field, value));
    }

    /// Adds encoded fields that the schema does not know.
    pub fn push_unknown(&mut self, encoded: &[u8]) {
        self.unknown.extend_from_slice(encoded);
    }

    /// All values of the field with this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.fields.iter().filter(move |(field, _)| field.name == name).map(|(_, value)| value)
    }

    /// The value of the field with this name; of several the last counts, as the encoding demands.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().rfind(|(field, _)| field.name == name).map(|(_, value)| value)
    }

    /// The number in the field with this name, zero if it has none.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.get(name).map_or(0, Value::number)
    }

    /// The text in the field with this name, empty if it has none. Bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self, name: &str) -> Cow<'_, str> {
        match self.get(name) {
            Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes),
            _ => Cow::Borrowed(""),
        }
    }

    /// The message in the field with this name.
    #[must_use]
    pub fn message(&self, name: &str) -> Option<&Tree> {
        self.get(name).and_then(Value::message)
    }

    /// All messages in the repeated field with this name.
    pub fn messages(&self, name: &str) -> impl Iterator<Item = &Tree> {
        self.all(name).filter_map(Value::message)
    }

    /// The message as CRIU would encode it: fields in the order of their numbers, repeated ones not packed, integers as short as
    /// possible, and unknown fields last.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        let mut order: Vec<usize> = (0..self.fields.len()).collect();
        order.sort_by_key(|index| self.fields[*index].0.number);
        for (place, index) in order.iter().enumerate() {
            let (field, value) = &self.fields[*index];
            let next = order.get(place + 1).map(|next| self.fields[*next].0.number);
            if field.label != Label::Repeated && next == Some(field.number) {
                continue;
            }
            value.encode(field, out);
        }
        out.extend_from_slice(&self.unknown);
    }
}

impl Value {
    /// The number it is, or zero.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self {
            Self::Unsigned(number) => *number,
            Self::Signed(number) => *number as u64,
            Self::Flag(flag) => u64::from(*flag),
            Self::Bytes(_) | Self::Message(_) => 0,
        }
    }

    /// The message it is.
    #[must_use]
    pub fn message(&self) -> Option<&Tree> {
        match self {
            Self::Message(tree) => Some(tree),
            _ => None,
        }
    }

    fn encode(&self, field: &Field, out: &mut Vec<u8>) {
        let number = field.number;
        let wire = match (self, field.holds) {
            (Self::Message(tree), _) => {
                put_varint(out, u64::from(number) << 3 | 2);
                let encoded = tree.encode();
                put_varint(out, encoded.len() as u64);
                out.extend_from_slice(&encoded);
                return;
            }
            (Self::Bytes(bytes), _) => WireValue::Bytes(Cow::Borrowed(bytes)),
            (_, Type::X64) => WireValue::Fixed64(self.number()),
            (Self::Signed(signed), Type::S32 | Type::S64) => {
                WireValue::Varint(((signed << 1) ^ (signed >> 63)) as u64)
            }
            _ => WireValue::Varint(self.number()),
        };
        put_field(out, number, &wire);
    }
}

fn parse(schema: &'static Schema, bytes: &[u8], depth: usize, budget: &mut usize) -> Result<Tree, TreeError> {
    let message = schema.name;
    if depth == 0 {
        return Err(TreeError::TooDeep { message, limit: DEPTH });
    }
    let mut tree = Tree::new(schema);
    for found in wire::fields(bytes) {
        let found = found.map_err(|source| TreeError::Wire { message, source })?;
        let mut take = |count: usize| {
            *budget = budget.checked_sub(count).ok_or(TreeError::TooMany { message, limit: VALUES })?;
            Ok(())
        };
        take(1)?;
        let field = schema.field(found.number());
        match (field, field.map(|field| field.holds), found.value()) {
            (Some(field), Some(Type::Message(nested)), WireValue::Bytes(bytes)) => {
                tree.push(field, Value::Message(parse(nested, bytes, depth - 1, budget)?));
            }
            (Some(field), Some(Type::Bytes | Type::Text), WireValue::Bytes(bytes)) => {
                tree.push(field, Value::Bytes(bytes.to_vec()));
            }
            (Some(field), Some(Type::X64), WireValue::Fixed64(number)) => {
                tree.push(field, Value::Unsigned(*number));
            }
            (Some(field), Some(holds), WireValue::Varint(number)) if is_varint(holds) => {
                tree.push(field, scalar(holds, *number));
            }
            (Some(field), Some(holds), WireValue::Bytes(packed)) if field.label == Label::Repeated => {
                // Every value takes a byte without the top bit, so that they can be counted before they take memory.
                take(packed.iter().filter(|byte| **byte < 0x80).count())?;
                match unpack(holds, packed) {
                    Some(values) => {
                        tree.fields.extend(values.into_iter().map(|value| (field, value)));
                    }
                    None => tree.unknown.extend_from_slice(found.original().unwrap_or_default()),
                }
            }
            _ => tree.unknown.extend_from_slice(found.original().unwrap_or_default()),
        }
    }
    Ok(tree)
}

fn is_varint(holds: Type) -> bool {
    !matches!(holds, Type::X64 | Type::Text | Type::Bytes | Type::Message(_))
}

/// A number as the type of its field has it: bits beyond are dropped, as every decoder does.
fn scalar(holds: Type, number: u64) -> Value {
    let unzigzag = |number: u64| (number >> 1) as i64 ^ -((number & 1) as i64);
    match holds {
        Type::U32 => Value::Unsigned(u64::from(number as u32)),
        Type::I32 | Type::OneOf(_) => Value::Signed(i64::from(number as i32)),
        Type::I64 => Value::Signed(number as i64),
        Type::S32 => Value::Signed(unzigzag(u64::from(number as u32))),
        Type::S64 => Value::Signed(unzigzag(number)),
        Type::Flag => Value::Flag(number != 0),
        Type::U64 | Type::X64 | Type::Text | Type::Bytes | Type::Message(_) => Value::Unsigned(number),
    }
}

/// The values of a packed field; `None` where the bytes are no such values.
fn unpack(holds: Type, packed: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    if matches!(holds, Type::X64) {
        let (chunks, rest) = packed.as_chunks::<8>();
        return rest
            .is_empty()
            .then(|| chunks.iter().map(|chunk| Value::Unsigned(u64::from_le_bytes(*chunk))).collect());
    }
    if !is_varint(holds) {
        return None;
    }
    let mut at = 0;
    while at < packed.len() {
        let (number, next) = parse_varint(packed, at, at).ok()?;
        values.push(scalar(holds, number));
        at = next;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::schema::{all, message};
    use super::*;

    #[test]
    fn what_is_known_is_named_and_what_is_not_is_kept() {
        // A process with two threads, and field 900 of a newer CRIU.
        let bytes = [0x08, 1, 0x10, 0, 0x18, 1, 0x20, 1, 0x28, 1, 0x28, 2, 0xa0, 0x38, 1];
        let tree = Tree::parse(message("pstree_entry").unwrap(), &bytes).unwrap();
        assert_eq!(tree.number("pid"), 1);
        assert_eq!(tree.all("threads").map(Value::number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(tree.unknown(), [0xa0, 0x38, 1]);
        assert_eq!(tree.encode(), bytes);
    }

    #[test]
    fn numbers_of_every_type_survive() {
        // fd is zigzag: -1 is 1.
        let vma = message("vma_entry").unwrap();
        let tree = Tree::parse(vma, &[0x40, 1]).unwrap();
        assert!(matches!(tree.get("fd"), Some(Value::Signed(-1))));
        assert_eq!(tree.encode(), [0x40, 1]);
        // A negative int32 takes ten bytes.
        let lock = message("file_lock_entry").unwrap();
        let bytes = [0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let tree = Tree::parse(lock, &bytes).unwrap();
        assert!(matches!(tree.get("pid"), Some(Value::Signed(-1))));
        assert_eq!(tree.encode(), bytes);
    }

    #[test]
    fn packed_numbers_are_read() {
        let tree = Tree::parse(message("pstree_entry").unwrap(), &[0x2a, 2, 7, 8]).unwrap();
        assert_eq!(tree.all("threads").map(Value::number).collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let schema = message("cgroup_dir_entry").unwrap();
        let mut bytes = Vec::new();
        for _ in 0..100 {
            let mut outer = vec![0x12];
            put_varint(&mut outer, bytes.len() as u64);
            outer.extend(&bytes);
            bytes = outer;
        }
        assert!(matches!(Tree::parse(schema, &bytes), Err(TreeError::TooDeep { .. })));
    }

    proptest! {
        #[test]
        fn garbage_ends_in_an_error_or_a_tree(choice in any::<usize>(), bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let schema = all().nth(choice % all().count()).unwrap();
            if let Ok(tree) = Tree::parse(schema, &bytes) {
                let again = Tree::parse(schema, &tree.encode()).unwrap();
                prop_assert_eq!(again.encode(), tree.encode());
            }
        }
    }
}
