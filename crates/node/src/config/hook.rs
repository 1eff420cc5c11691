//! What a hook does, as it is configured.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::choice::OnHookFailure;
use super::error::ValueError;
use super::quantity::{self, Signal, show_duration};

/// How long a hook may take when it says nothing.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookConfig {
    /// What it does.
    #[serde(flatten)]
    pub action: HookAction,
    /// How long it may take before it is stopped and counts as failed.
    #[serde(serialize_with = "as_duration")]
    pub timeout: Duration,
    /// What its failure means.
    pub on_failure: OnHookFailure,
}

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HookAction {
    /// Runs a command, found by `PATH`.
    Command(Vec<String>),
    /// Makes an HTTP request; an answer from 200 to 299 is success.
    Http {
        /// `GET` or `POST`.
        method: Method,
        /// Where to.
        url: String,
    },
    /// Sends the program a signal.
    Signal(Signal),
}

/// The method of a hook's HTTP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// GET.
    Get,
    /// POST, with a JSON body that says what happens.
    Post,
}

impl HookConfig {
    /// One hook or a list of them.
    ///
    /// # Errors
    /// Where one is neither a text nor a mapping with one action.
    pub fn list(value: &Value) -> Result<Vec<HookConfig>, ValueError> {
        match value {
            Value::Array(entries) => entries.iter().map(HookConfig::one).collect(),
            other => Ok(vec![HookConfig::one(other)?]),
        }
    }

    /// A mapping, or a text: a URL is a POST, `signal:USR1` a signal, what begins with `{` a mapping in YAML, and
    /// anything else a command for the shell.
    fn one(value: &Value) -> Result<HookConfig, ValueError> {
        match value {
            Value::String(text) => HookConfig::text(text),
            Value::Object(entries) => HookConfig::mapping(entries),
            other => {
                Err(ValueError::Kind { expected: "a command, URL, signal or mapping", found: kind(other) })
            }
        }
    }

    fn text(text: &str) -> Result<HookConfig, ValueError> {
        let trimmed = text.trim();
        if trimmed.starts_with('{') {
            let value: Value = serde_saphyr::from_str(trimmed)
                .map_err(|error| ValueError::Hook { problem: error.to_string() })?;
            return match value {
                Value::Object(entries) => HookConfig::mapping(&entries),
                other => Err(ValueError::Kind { expected: "a mapping", found: kind(&other) }),
            };
        }
        let action = if trimmed.starts_with("http://") || trimmed.starts_with("https://") {
            HookAction::Http { method: Method::Post, url: trimmed.to_owned() }
        } else if let Some(signal) = trimmed.strip_prefix("signal:") {
            HookAction::Signal(Signal::parse(signal)?)
        } else {
            shell(trimmed)?
        };
        Ok(HookConfig { action, timeout: DEFAULT_TIMEOUT, on_failure: OnHookFailure::Fail })
    }

    fn mapping(entries: &serde_json::Map<String, Value>) -> Result<HookConfig, ValueError> {
        let mut actions = Vec::new();
        let mut timeout = DEFAULT_TIMEOUT;
        let mut on_failure = OnHookFailure::Fail;
        for (key, value) in entries {
            match key.as_str() {
                "command" => actions.push(command(value)?),
                "http" => actions.push(http(value)?),
                "signal" => actions.push(HookAction::Signal(Signal::parse(&scalar(value)?)?)),
                "timeout" => timeout = quantity::duration(&scalar(value)?)?,
                "onFailure" => on_failure = word(&scalar(value)?)?,
                other => return Err(ValueError::Hook { problem: format!("unknown key {other}") }),
            }
        }
        if timeout.is_zero() {
            return Err(ValueError::Zero);
        }
        let [action] = <[HookAction; 1]>::try_from(actions).map_err(|actions| ValueError::Hook {
            problem: format!("it has {} of command, http and signal", actions.len()),
        })?;
        Ok(HookConfig { action, timeout, on_failure })
    }
}

fn word(text: &str) -> Result<OnHookFailure, ValueError> {
    OnHookFailure::from_word(text)
        .ok_or_else(|| ValueError::Word { found: text.to_owned(), allowed: OnHookFailure::WORDS })
}

fn shell(text: &str) -> Result<HookAction, ValueError> {
    if text.is_empty() {
        return Err(ValueError::Hook { problem: "its command is empty".into() });
    }
    Ok(HookAction::Command(vec!["/bin/sh".into(), "-c".into(), text.into()]))
}

fn command(value: &Value) -> Result<HookAction, ValueError> {
    match value {
        Value::Array(words) => {
            let words: Vec<String> = words.iter().map(scalar).collect::<Result<_, _>>()?;
            match words.first() {
                Some(program) if !program.is_empty() => Ok(HookAction::Command(words)),
                _ => Err(ValueError::Hook { problem: "its command is empty".into() }),
            }
        }
        other => shell(scalar(other)?.trim()),
    }
}

fn http(value: &Value) -> Result<HookAction, ValueError> {
    let (method, url) = match value {
        Value::Object(entries) => {
            let mut method = Method::Post;
            let mut url = None;
            for (key, value) in entries {
                match key.as_str() {
                    "url" => url = Some(scalar(value)?),
                    "method" => {
                        method = match scalar(value)?.to_ascii_uppercase().as_str() {
                            "GET" => Method::Get,
                            "POST" => Method::Post,
                            _ => {
                                return Err(ValueError::Word {
                                    found: scalar(value)?,
                                    allowed: &["GET", "POST"],
                                });
                            }
                        }
                    }
                    other => return Err(ValueError::Hook { problem: format!("unknown key http.{other}") }),
                }
            }
            (method, url.ok_or_else(|| ValueError::Hook { problem: "http.url is missing".into() })?)
        }
        other => (Method::Post, scalar(other)?),
    };
    check_url(&url)?;
    Ok(HookAction::Http { method, url })
}

/// Whether `url` is one Torpor can ask.
pub(super) fn check_url(url: &str) -> Result<(), ValueError> {
    let problem = match url.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() && !rest.starts_with('/') => return Ok(()),
        Some(("http" | "https", _)) => "the host is missing",
        _ => "it begins with neither http:// nor https://",
    };
    Err(ValueError::Url { found: url.to_owned(), problem })
}

/// The text of a YAML scalar.
pub(super) fn scalar(value: &Value) -> Result<String, ValueError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => Err(ValueError::Kind { expected: "one value", found: kind(other) }),
    }
}

/// What kind of YAML value it is, in words.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
        other => format!("{other}"),
    }
}

fn as_duration<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show_duration(*value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn hook(action: HookAction) -> HookConfig {
        HookConfig { action, timeout: DEFAULT_TIMEOUT, on_failure: OnHookFailure::Fail }
    }

    #[test]
    fn short_and_long_forms() {
        let save = || HookAction::Command(vec!["/bin/sh".into(), "-c".into(), "redis-cli save".into()]);
        let post = |url: &str| HookAction::Http { method: Method::Post, url: url.into() };
        for (written, meant) in [
            (json!("redis-cli save"), hook(save())),
            (json!({"command": "redis-cli save"}), hook(save())),
            (json!({"command": ["a", "b c"]}), hook(HookAction::Command(vec!["a".into(), "b c".into()]))),
            (json!("http://localhost:1/x"), hook(post("http://localhost:1/x"))),
            (json!({"http": "http://localhost:1/x"}), hook(post("http://localhost:1/x"))),
            (
                json!({"http": {"method": "get", "url": "http://h/"}}),
                hook(HookAction::Http { method: Method::Get, url: "http://h/".into() }),
            ),
            (json!("signal:USR1"), hook(HookAction::Signal(Signal::parse("USR1").unwrap()))),
            (
                json!("{signal: HUP, timeout: 1m, onFailure: ignore}"),
                HookConfig {
                    action: HookAction::Signal(Signal::parse("HUP").unwrap()),
                    timeout: Duration::from_secs(60),
                    on_failure: OnHookFailure::Ignore,
                },
            ),
        ] {
            assert_eq!(HookConfig::list(&written), Ok(vec![meant]), "{written}");
        }
    }

    #[test]
    fn what_is_no_hook_is_refused() {
        for (written, message) in [
            (json!(""), "its command is empty"),
            (json!({"command": []}), "its command is empty"),
            (json!({"command": "a", "signal": "HUP"}), "it has 2 of command, http and signal"),
            (json!({"timeout": "1s"}), "it has 0 of command, http and signal"),
            (json!({"comand": "a"}), "unknown key comand"),
            (json!({"command": "a", "timeout": "0s"}), "more than nothing"),
            (json!({"http": "ftp://x"}), "neither http:// nor https://"),
            (json!({"http": {}}), "http.url is missing"),
            (json!({"signal": "NOPE"}), "is no signal"),
            (json!({"command": "a", "onFailure": "explode"}), "none of fail, ignore"),
            (json!(7), "is expected"),
        ] {
            let error = HookConfig::list(&written).unwrap_err().to_string();
            assert!(error.contains(message), "{written}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_hook_or_refused(text in "\\PC{0,40}") {
            let _ = HookConfig::list(&Value::String(text));
        }
    }
}
