//! The name a program's checkpoints are kept under: workload, container and, where there are several, the slot.

use std::fmt;
use std::str::FromStr;

/// Longest name, in bytes.
pub const MAX_NAME: usize = 240;
/// Longest part between two slashes, and longest slot, in bytes.
pub const MAX_PART: usize = 63;
/// Most parts a name has.
pub const MAX_PARTS: usize = 4;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing, or nothing between two slashes or after the colon.
    #[error("{name:?} has an empty part; write `workload/container` or `workload/container:slot`")]
    Empty {
        /// The text as given.
        name: String,
    },
    /// Too long for a path.
    #[error("{name:?} is too long: a name has at most {MAX_NAME} bytes, each part at most {MAX_PART}")]
    TooLong {
        /// The text as given, cut short.
        name: String,
    },
    /// Too many slashes.
    #[error("{name:?} has {parts} parts; a name has at most {MAX_PARTS}")]
    TooManyParts {
        /// The text as given.
        name: String,
        /// How many parts it has.
        parts: usize,
    },
    /// A character that is not safe in paths, keys and shells.
    #[error(
        "{name:?} contains {character:?}; parts of a name consist of letters, digits, '.', '_' and '-' and begin \
         with a letter or digit"
    )]
    Character {
        /// The text as given.
        name: String,
        /// The first character that is not allowed where it stands.
        character: char,
    },
    /// What follows `@` is no number of a generation.
    #[error("{text:?} is no generation; write `NAME@NUMBER`, such as `web/app@3`")]
    Generation {
        /// What follows the `@`.
        text: String,
    },
}

impl NameError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            NameError::Generation { .. } => "`torpor ls NAME` lists the generations of a name",
            _ => "choose a name such as `web/app`, with letters, digits, '.', '_' and '-'",
        }
    }
}

/// A name: one to four parts joined by slashes (`workload/container`), then, where several run under it, a colon
/// and a slot (`workload/container:2`).
///
/// Every part begins with a letter or digit and goes on with letters, digits, `.`, `_` and `-`, so a name is safe
/// as a path, an object key and a word in a shell.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    base: String,
    slot: Option<String>,
}

impl Name {
    /// The name without its slot.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The slot: the ordinal of a StatefulSet's pod, or what a replica was given when it claimed one.
    #[must_use]
    pub fn slot(&self) -> Option<&str> {
        self.slot.as_deref()
    }

    /// This name in the given slot.
    ///
    /// # Errors
    /// Where `slot` has characters or a length that a name does not take.
    pub fn in_slot(&self, slot: &str) -> Result<Name, NameError> {
        format!("{}:{slot}", self.base).parse()
    }

    /// Whether `pattern` is this name, or this name is in a slot of it, or lies below it.
    #[must_use]
    pub fn is_within(&self, pattern: &Name) -> bool {
        if self == pattern {
            return true;
        }
        pattern.slot.is_none()
            && (self.base == pattern.base
                || self.base.strip_prefix(&pattern.base).is_some_and(|rest| rest.starts_with('/')))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)?;
        match &self.slot {
            Some(slot) => write!(f, ":{slot}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong { name: text.chars().take(40).collect::<String>() + "…" });
        }
        let (base, slot) = match text.split_once(':') {
            Some((base, slot)) => (base, Some(slot)),
            None => (text, None),
        };
        for part in base.split('/').chain(slot) {
            check_part(text, part)?;
        }
        let parts = base.split('/').count();
        if parts > MAX_PARTS {
            return Err(NameError::TooManyParts { name: text.to_owned(), parts });
        }
        Ok(Name { base: base.to_owned(), slot: slot.map(str::to_owned) })
    }
}

/// Whether `part` of `name` is allowed.
fn check_part(name: &str, part: &str) -> Result<(), NameError> {
    let mut characters = part.chars();
    let Some(first) = characters.next() else {
        return Err(NameError::Empty { name: name.to_owned() });
    };
    let refused = (!first.is_ascii_alphanumeric())
        .then_some(first)
        .or_else(|| characters.find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))));
    if let Some(character) = refused {
        return Err(NameError::Character { name: name.to_owned(), character });
    }
    if part.len() > MAX_PART {
        return Err(NameError::TooLong { name: name.to_owned() });
    }
    Ok(())
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A name, or one generation of it: `NAME` or `NAME@NUMBER`, as people type it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The name.
    pub name: Name,
    /// The generation's number, if one is meant.
    pub generation: Option<u64>,
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Reference, NameError> {
        let Some((name, number)) = text.split_once('@') else {
            return Ok(Reference { name: text.parse()?, generation: None });
        };
        let generation = number
            .parse()
            .ok()
            .filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))
            .ok_or_else(|| NameError::Generation { text: number.chars().take(40).collect() })?;
        Ok(Reference { name: name.parse()?, generation: Some(generation) })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            Some(generation) => write!(f, "{}@{generation}", self.name),
            None => self.name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_people_give() {
        for text in ["redis", "web/app", "shop/web-0/app", "web/app:2", "a/b/c/d:x7k2p", "My_Job.v1.2"] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_safe_in_a_path_and_says_what_is_allowed() {
        for (text, reason) in [
            ("", "empty part"),
            ("web//app", "empty part"),
            ("web/app:", "empty part"),
            ("/web", "empty part"),
            ("..", "'.'"),
            ("web/../app", "'.'"),
            ("-rf", "'-'"),
            ("web app", "' '"),
            ("web\0", "'\\0'"),
            ("wéb", "'é'"),
            ("web/app:2:3", "':'"),
            ("web@3", "'@'"),
            ("a/b/c/d/e", "5 parts"),
        ] {
            let error = text.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert!("x".repeat(MAX_PART + 1).parse::<Name>().is_err());
        assert!("x/".repeat(400).parse::<Name>().is_err());
    }

    #[test]
    fn a_slot_belongs_to_its_name() {
        let name: Name = "web/app".parse().unwrap();
        let slot = name.in_slot("2").unwrap();
        assert_eq!((slot.base(), slot.slot()), ("web/app", Some("2")));
        assert!(slot.is_within(&name) && slot.is_within(&slot) && !name.is_within(&slot));
        assert!(name.is_within(&"web".parse().unwrap()));
        assert!(!name.is_within(&"we".parse().unwrap()));
    }

    #[test]
    fn a_generation_follows_an_at_sign() {
        let reference: Reference = "web/app:2@14".parse().unwrap();
        assert_eq!((reference.name.slot(), reference.generation), (Some("2"), Some(14)));
        assert_eq!("web".parse::<Reference>().unwrap().generation, None);
        for text in ["web@", "web@-1", "web@+1", "web@x", "web@99999999999999999999999", "@3"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_name_that_parses_is_a_relative_path_without_surprises(text in "[ -~]{0,40}|.{0,20}") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(&name.to_string(), &text);
                prop_assert!(std::path::Path::new(name.base())
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_))));
            }
            let _ = text.parse::<Reference>();
        }
    }
}
