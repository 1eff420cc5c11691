//! What was given for each setting, and where: flags before variables before the configuration file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ConfigError;
use super::setting::{SETTINGS, Setting, Shape, nearest};

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag,
    /// In the environment.
    Variable,
    /// In a configuration file.
    File(PathBuf),
}

/// Names a setting the way the person who gave it wrote it: `--grace`, `TORPOR_GRACE`, `grace in /etc/…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    setting: &'static Setting,
    origin: Option<Origin>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(Origin::Flag) => write!(f, "--{}", self.setting.flag()),
            Some(Origin::Variable) => f.write_str(&self.setting.variable()),
            Some(Origin::File(path)) => write!(f, "{} in {}", self.setting.key, path.display()),
            None => f.write_str(self.setting.key),
        }
    }
}

/// What was given, as it was written. Nothing is understood yet beyond which setting it belongs to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Given {
    /// What the environment gives: each `TORPOR_…` variable of a setting that is not empty. A variable that is
    /// nearly one is returned as a warning.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> (Given, Vec<Warning>) {
        let names: Vec<(String, &'static Setting)> =
            SETTINGS.iter().map(|setting| (setting.variable(), setting)).collect();
        let mut given = Given::default();
        let mut warnings = Vec::new();
        for (name, text) in variables {
            if let Some((_, setting)) = names.iter().find(|(known, _)| *known == name) {
                if !text.is_empty() {
                    given.values.insert(setting.key, (from_text(setting, &text), Origin::Variable));
                }
            } else if name.starts_with("TORPOR_")
                && !OTHER_VARIABLES.contains(&name.as_str())
                && let Some(meant) = nearest(&name, names.iter().map(|(known, _)| known.as_str()))
            {
                warnings.push(Warning::Variable { name, nearest: meant.to_owned() });
            }
        }
        (given, warnings)
    }

    /// Records what was typed for a flag: the texts in order, none for a switch.
    pub fn flag(&mut self, setting: &'static Setting, texts: Vec<String>) {
        let value = match (setting.shape, texts.as_slice()) {
            (Shape::Switch, []) => Value::Bool(true),
            (Shape::Many(_) | Shape::ManyWords(_) | Shape::Hook, _) => {
                Value::Array(texts.into_iter().map(Value::String).collect())
            }
            (_, _) => texts.into_iter().next_back().map_or(Value::Null, Value::String),
        };
        self.values.insert(setting.key, (value, Origin::Flag));
    }

    /// What a configuration file gives.
    ///
    /// # Errors
    /// Where `text` is no YAML mapping, or, in Torpor's own dialect, has a key that is no setting.
    pub fn from_file(
        path: &Path,
        text: &str,
        dialect: Dialect,
    ) -> Result<(Given, Vec<Warning>), ConfigError> {
        let document: Value = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_saphyr::from_str(text)
                .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?
        };
        let entries = match document {
            Value::Null => serde_json::Map::new(),
            Value::Object(entries) => entries,
            _ => return Err(ConfigError::NotMapping { path: path.to_owned() }),
        };
        let mut given = Given::default();
        let mut warnings = Vec::new();
        for (key, value) in entries {
            let Some(setting) = Setting::find(&key) else {
                let meant = nearest(&key, SETTINGS.iter().map(|setting| setting.key)).map(str::to_owned);
                match dialect {
                    Dialect::Torpor => {
                        return Err(ConfigError::UnknownKey { path: path.to_owned(), key, nearest: meant });
                    }
                    Dialect::Crik => {
                        warnings.push(Warning::Key { path: path.to_owned(), key, nearest: meant });
                        continue;
                    }
                }
            };
            if !value.is_null() {
                given.values.insert(setting.key, (value, Origin::File(path.to_owned())));
            }
        }
        Ok((given, warnings))
    }

    /// This, and `weaker` where this says nothing.
    #[must_use]
    pub fn or(mut self, weaker: Given) -> Given {
        for (key, value) in weaker.values {
            self.values.entry(key).or_insert(value);
        }
        self
    }

    /// What was given for `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).map(|(value, _)| value)
    }

    /// Whether `key` was given on the command line.
    pub(super) fn is_flag(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some((_, Origin::Flag)))
    }

    /// Where `key` was given.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }

    /// Where `key` was given, for messages.
    pub(super) fn place(&self, key: &str) -> Place {
        let setting = Setting::find(key).unwrap_or(&SETTINGS[0]);
        Place { setting, origin: self.values.get(key).map(|(_, origin)| origin.clone()) }
    }
}

/// Variables that begin like a setting's and are none.
const OTHER_VARIABLES: &[&str] = &[
    "TORPOR_LOG",
    "TORPOR_LOG_FORMAT",
    "TORPOR_CONFIG_PATH",
    "TORPOR_POD_NAME",
    "TORPOR_CONTAINER_NAME",
    "TORPOR_RUNTIME_DIR",
    "TORPOR_TIMEOUT",
];

/// A value of the environment: several values are separated by commas, or written as a YAML list in brackets.
fn from_text(setting: &Setting, text: &str) -> Value {
    match setting.shape {
        Shape::Many(_) | Shape::ManyWords(_) if !text.trim_start().starts_with('[') => Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| Value::String(part.to_owned()))
                .collect(),
        ),
        Shape::Many(_) | Shape::ManyWords(_) => {
            serde_saphyr::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
        }
        _ => Value::String(text.to_owned()),
    }
}

/// Whose configuration file it is. Crik's four keys are Torpor's too, so both may use every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Torpor's own: an unknown key is an error.
    Torpor,
    /// crik's: an unknown key, which crik ignores silently, is a warning.
    Crik,
}

/// Something in the configuration that is probably not what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// An unknown key in crik's configuration file.
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// A variable that is nearly one of a setting.
    Variable {
        /// The variable.
        name: String,
        /// The one that was probably meant.
        nearest: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Key { path, key, nearest } => {
                write!(f, "ignoring the unknown key {key} in {}", path.display())?;
                nearest.as_ref().map_or(Ok(()), |nearest| write!(f, "; did you mean {nearest}?"))
            }
            Warning::Variable { name, nearest } => {
                write!(f, "ignoring the variable {name}; did you mean {nearest}?")
            }
        }
    }
}
