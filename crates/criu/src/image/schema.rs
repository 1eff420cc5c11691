//! Every message of CRIU 4.2, in one declarative table.
//!
//! Each row is a field: its number, its name, whether it is required (`!`), optional (`?`) or repeated (`*`), its type, and how it is
//! shown to people. The names are CRIU's own, since they are what people find in its JSON, its sources and its error messages.
//! The table says nothing that the wire does not need: a [`Tree`](super::Tree) keeps what it does not know.
//!
//! Facts from CRIU 4.2, `images/*.proto` and `lib/pycriu/images/pb2dict.py`.

mod checkpoint;
mod event;
mod file;
mod ipc;
mod memory;
mod namespace;
mod network;
mod process;
mod registers;
mod security;
mod service;
mod socket;
mod terminal;
mod words;

pub use words::Word;

/// What a message consists of.
#[derive(Debug)]
pub struct Schema {
    /// The name CRIU gives it.
    pub name: &'static str,
    /// Its fields, in the order of their numbers.
    pub fields: &'static [Field],
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// How often it occurs.
    pub label: Label,
    /// What it holds.
    pub holds: Type,
    /// How it is shown to people.
    pub shown: Shown,
}

/// How often a field occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Once.
    Required,
    /// Once or not at all.
    Optional,
    /// Any number of times.
    Repeated,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// 32 bits without sign.
    U32,
    /// 64 bits without sign.
    U64,
    /// 32 bits with sign; a negative number takes ten bytes.
    I32,
    /// 64 bits with sign.
    I64,
    /// 32 bits with sign, zigzag.
    S32,
    /// 64 bits with sign, zigzag.
    S64,
    /// 64 bits without sign, always eight bytes.
    X64,
    /// True or false.
    Flag,
    /// UTF-8.
    Text,
    /// Anything.
    Bytes,
    /// A number with a name.
    OneOf(&'static Enumeration),
    /// A message.
    Message(&'static Schema),
}

/// Numbers with names.
#[derive(Debug)]
pub struct Enumeration {
    /// The name CRIU gives it.
    pub name: &'static str,
    /// What there is to choose from.
    pub values: &'static [(i32, &'static str)],
}

/// How a field is shown to people (`crit show`, `crit decode --pretty`).
#[derive(Debug, Clone, Copy)]
pub enum Shown {
    /// As it is.
    Plain,
    /// In hexadecimal, and so is every number below it.
    Hex,
    /// As the names of its bits; what has no name stays a number.
    Flags(&'static [Word]),
    /// As a word, if it has one.
    Words(&'static [Word]),
    /// As an IP address: one number for IPv4, four for IPv6, in network byte order.
    Address,
    /// As major and minor number of a device, the minor in the lower 20 bits.
    Device,
    /// As major and minor number of a device, as the C library encodes them.
    OldDevice,
    /// Bytes as quoted-printable text, for people and programs alike.
    Quoted,
}

impl Schema {
    /// The field of this number.
    #[must_use]
    pub fn field(&self, number: u32) -> Option<&'static Field> {
        self.fields.binary_search_by_key(&number, |field| field.number).ok().map(|index| &self.fields[index])
    }

    /// The field of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl Enumeration {
    /// The name of a number.
    #[must_use]
    pub fn name_of(&self, number: i32) -> Option<&'static str> {
        self.values.iter().find(|(value, _)| *value == number).map(|(_, name)| *name)
    }

    /// The number of a name.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(_, value)| *value == name).map(|(value, _)| *value)
    }
}

/// The message of this name.
#[must_use]
pub fn message(name: &str) -> Option<&'static Schema> {
    all().find(|schema| schema.name == name)
}

/// Every message there is.
pub fn all() -> impl Iterator<Item = &'static Schema> {
    [
        checkpoint::ALL,
        event::ALL,
        file::ALL,
        ipc::ALL,
        memory::ALL,
        namespace::ALL,
        network::ALL,
        process::ALL,
        registers::ALL,
        security::ALL,
        service::ALL,
        socket::ALL,
        terminal::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
}

macro_rules! messages {
    ($($message:ident {
        $($number:literal $name:ident $label:tt $type:ident $(($of:ident))? $(as $shown:ident $(($words:ident))?)?;)*
    })+) => {
        $(
            // CRIU's own names, so that they can be searched for.
            #[allow(non_upper_case_globals)]
            pub(super) static $message: $crate::image::schema::Schema = $crate::image::schema::Schema {
                name: stringify!($message),
                fields: &[$($crate::image::schema::Field {
                    number: $number,
                    name: stringify!($name),
                    label: $crate::image::schema::label!($label),
                    holds: $crate::image::schema::holds!($type $($of)?),
                    shown: $crate::image::schema::shown!($($shown $($words)?)?),
                }),*],
            };
        )+
        pub(super) static ALL: &[&$crate::image::schema::Schema] = &[$(&$message),+];
    };
}
use messages;

macro_rules! enumerations {
    ($($enumeration:ident { $($number:literal $name:ident;)+ })+) => {
        $(
            // CRIU's own names, so that they can be searched for.
            #[allow(non_upper_case_globals)]
            pub(super) static $enumeration: $crate::image::schema::Enumeration = $crate::image::schema::Enumeration {
                name: stringify!($enumeration),
                values: &[$(($number, stringify!($name))),+],
            };
        )+
    };
}
use enumerations;

macro_rules! label {
    (!) => {
        $crate::image::schema::Label::Required
    };
    (?) => {
        $crate::image::schema::Label::Optional
    };
    (*) => {
        $crate::image::schema::Label::Repeated
    };
}
use label;

macro_rules! holds {
    (u32) => {
        $crate::image::schema::Type::U32
    };
    (u64) => {
        $crate::image::schema::Type::U64
    };
    (i32) => {
        $crate::image::schema::Type::I32
    };
    (i64) => {
        $crate::image::schema::Type::I64
    };
    (s32) => {
        $crate::image::schema::Type::S32
    };
    (s64) => {
        $crate::image::schema::Type::S64
    };
    (x64) => {
        $crate::image::schema::Type::X64
    };
    (flag) => {
        $crate::image::schema::Type::Flag
    };
    (text) => {
        $crate::image::schema::Type::Text
    };
    (bytes) => {
        $crate::image::schema::Type::Bytes
    };
    (one_of $of:ident) => {
        $crate::image::schema::Type::OneOf(&$of)
    };
    (message $of:ident) => {
        $crate::image::schema::Type::Message(&$of)
    };
}
use holds;

macro_rules! shown {
    () => {
        $crate::image::schema::Shown::Plain
    };
    (hex) => {
        $crate::image::schema::Shown::Hex
    };
    (flags $words:ident) => {
        $crate::image::schema::Shown::Flags($words)
    };
    (words $words:ident) => {
        $crate::image::schema::Shown::Words($words)
    };
    (address) => {
        $crate::image::schema::Shown::Address
    };
    (device) => {
        $crate::image::schema::Shown::Device
    };
    (old_device) => {
        $crate::image::schema::Shown::OldDevice
    };
    (quoted) => {
        $crate::image::schema::Shown::Quoted
    };
}
use shown;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn fields_are_in_order_and_names_are_unique() {
        let mut names = BTreeSet::new();
        for schema in all() {
            assert!(names.insert(schema.name), "{} is there twice", schema.name);
            assert!(schema.fields.is_sorted_by(|a, b| a.number < b.number), "{}", schema.name);
            let fields: BTreeSet<_> = schema.fields.iter().map(|field| field.name).collect();
            assert_eq!(fields.len(), schema.fields.len(), "{}", schema.name);
            for field in schema.fields {
                assert!(!matches!(field.shown, Shown::Address) || field.label == Label::Repeated);
                assert!(!matches!(field.shown, Shown::Quoted) || matches!(field.holds, Type::Bytes));
            }
        }
    }

    #[test]
    fn every_message_that_is_referred_to_is_listed() {
        for schema in all() {
            for field in schema.fields {
                if let Type::Message(nested) = field.holds {
                    assert!(
                        message(nested.name).is_some_and(|found| std::ptr::eq(found, nested)),
                        "{}",
                        nested.name
                    );
                }
            }
        }
    }
}
