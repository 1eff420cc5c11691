//! What of a machine's own files a container has mounted, by its OCI configuration.

use serde_json::Value;

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound<'a> {
    /// Where the container has it.
    pub(crate) at: &'a str,
    /// Where it comes from.
    pub(crate) from: &'a str,
    /// How it is mounted.
    pub(crate) options: Vec<&'a str>,
}

/// All bind mounts of a configuration, in its order.
pub(crate) fn all(config: &Value) -> Vec<Bound<'_>> {
    let mut all = Vec::new();
    for mount in config["mounts"].as_array().into_iter().flatten() {
        let word = |key: &str| mount[key].as_str().unwrap_or_default();
        let options: Vec<&str> =
            mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if word("type") == "bind" || options.iter().any(|option| option.ends_with("bind")) {
            all.push(Bound { at: word("destination"), from: word("source"), options });
        }
    }
    all
}
