//! JSON of the container runtime interface as the messages that runtimes read: configurations of pods and containers as crictl takes them
//! and as containerd tells them.
//!
//! Names and numbers: kubernetes/cri-api, `pkg/apis/runtime/v1/api.proto`. Names count without underscores and case, for there are files with
//! `logDirectory` and with `log_directory`. What Windows alone has is not known here.

use serde_json::Value;

use Holds::{Flag, Map, Number, OneOf, Sub, Text};

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    number: u64,
    name: &'static str,
    repeated: bool,
    holds: Holds,
}

/// What a field holds.
#[derive(Debug)]
enum Holds {
    Text,
    Number,
    Flag,
    /// Text by text.
    Map,
    /// A word, whose number is its place.
    OneOf(&'static [&'static str]),
    Sub(Message),
}

/// The fields of a message.
pub(super) type Message = &'static [Field];

const fn one(number: u64, name: &'static str, holds: Holds) -> Field {
    Field { number, name, repeated: false, holds }
}

const fn many(number: u64, name: &'static str, holds: Holds) -> Field {
    Field { number, name, repeated: true, holds }
}

/// `PodSandboxConfig`.
pub(super) const POD: Message = &[
    one(1, "metadata", Sub(POD_METADATA)),
    one(2, "hostname", Text),
    one(3, "log_directory", Text),
    one(4, "dns_config", Sub(DNS)),
    many(5, "port_mappings", Sub(PORT)),
    one(6, "labels", Map),
    one(7, "annotations", Map),
    one(8, "linux", Sub(POD_LINUX)),
];

/// `ContainerConfig`.
pub(super) const CONTAINER: Message = &[
    one(1, "metadata", Sub(&[one(1, "name", Text), one(2, "attempt", Number)])),
    one(2, "image", Sub(IMAGE)),
    many(3, "command", Text),
    many(4, "args", Text),
    one(5, "working_dir", Text),
    many(6, "envs", Sub(&[one(1, "key", Text), one(2, "value", Text)])),
    many(7, "mounts", Sub(MOUNT)),
    many(8, "devices", Sub(DEVICE)),
    one(9, "labels", Map),
    one(10, "annotations", Map),
    one(11, "log_path", Text),
    one(12, "stdin", Flag),
    one(13, "stdin_once", Flag),
    one(14, "tty", Flag),
    one(15, "linux", Sub(CONTAINER_LINUX)),
    many(17, "CDI_devices", Sub(&[one(1, "name", Text)])),
    // The words are many, and those who have them give the number.
    one(18, "stop_signal", Number),
];

const POD_METADATA: Message =
    &[one(1, "name", Text), one(2, "uid", Text), one(3, "namespace", Text), one(4, "attempt", Number)];
const DNS: Message = &[many(1, "servers", Text), many(2, "searches", Text), many(3, "options", Text)];
const PORT: Message = &[
    one(1, "protocol", OneOf(&["TCP", "UDP", "SCTP"])),
    one(2, "container_port", Number),
    one(3, "host_port", Number),
    one(4, "host_ip", Text),
];
const POD_LINUX: Message = &[
    one(1, "cgroup_parent", Text),
    one(2, "security_context", Sub(POD_SECURITY)),
    one(3, "sysctls", Map),
    one(4, "overhead", Sub(RESOURCES)),
    one(5, "resources", Sub(RESOURCES)),
];
const POD_SECURITY: Message = &[
    one(1, "namespace_options", Sub(NAMESPACES)),
    one(2, "selinux_options", Sub(SELINUX)),
    one(3, "run_as_user", Sub(INTEGER)),
    one(4, "readonly_rootfs", Flag),
    many(5, "supplemental_groups", Number),
    one(6, "privileged", Flag),
    one(7, "seccomp_profile_path", Text),
    one(8, "run_as_group", Sub(INTEGER)),
    one(9, "seccomp", Sub(PROFILE)),
    one(10, "apparmor", Sub(PROFILE)),
    one(11, "supplemental_groups_policy", OneOf(&["Merge", "Strict"])),
];
const CONTAINER_LINUX: Message =
    &[one(1, "resources", Sub(RESOURCES)), one(2, "security_context", Sub(CONTAINER_SECURITY))];
const CONTAINER_SECURITY: Message = &[
    one(1, "capabilities", Sub(CAPABILITIES)),
    one(2, "privileged", Flag),
    one(3, "namespace_options", Sub(NAMESPACES)),
    one(4, "selinux_options", Sub(SELINUX)),
    one(5, "run_as_user", Sub(INTEGER)),
    one(6, "run_as_username", Text),
    one(7, "readonly_rootfs", Flag),
    many(8, "supplemental_groups", Number),
    one(9, "apparmor_profile", Text),
    one(10, "seccomp_profile_path", Text),
    one(11, "no_new_privs", Flag),
    one(12, "run_as_group", Sub(INTEGER)),
    many(13, "masked_paths", Text),
    many(14, "readonly_paths", Text),
    one(15, "seccomp", Sub(PROFILE)),
    one(16, "apparmor", Sub(PROFILE)),
    one(17, "supplemental_groups_policy", OneOf(&["Merge", "Strict"])),
];
const CAPABILITIES: Message = &[
    many(1, "add_capabilities", Text),
    many(2, "drop_capabilities", Text),
    many(3, "add_ambient_capabilities", Text),
];
const RESOURCES: Message = &[
    one(1, "cpu_period", Number),
    one(2, "cpu_quota", Number),
    one(3, "cpu_shares", Number),
    one(4, "memory_limit_in_bytes", Number),
    one(5, "oom_score_adj", Number),
    one(6, "cpuset_cpus", Text),
    one(7, "cpuset_mems", Text),
    many(8, "hugepage_limits", Sub(&[one(1, "page_size", Text), one(2, "limit", Number)])),
    one(9, "unified", Map),
    one(10, "memory_swap_limit_in_bytes", Number),
];
const MODES: &[&str] = &["POD", "CONTAINER", "NODE", "TARGET"];
const NAMESPACES: Message = &[
    one(1, "network", OneOf(MODES)),
    one(2, "pid", OneOf(MODES)),
    one(3, "ipc", OneOf(MODES)),
    one(4, "target_id", Text),
    one(
        5,
        "userns_options",
        Sub(&[one(1, "mode", OneOf(MODES)), many(2, "uids", Sub(IDS)), many(3, "gids", Sub(IDS))]),
    ),
];
const IDS: Message = &[one(1, "host_id", Number), one(2, "container_id", Number), one(3, "length", Number)];
const SELINUX: Message =
    &[one(1, "user", Text), one(2, "role", Text), one(3, "type", Text), one(4, "level", Text)];
const INTEGER: Message = &[one(1, "value", Number)];
const PROFILE: Message = &[
    one(1, "profile_type", OneOf(&["RuntimeDefault", "Unconfined", "Localhost"])),
    one(2, "localhost_ref", Text),
];
const IMAGE: Message = &[
    one(1, "image", Text),
    one(2, "annotations", Map),
    one(18, "user_specified_image", Text),
    one(19, "runtime_handler", Text),
    one(20, "image_ref", Text),
];
const MOUNT: Message = &[
    one(1, "container_path", Text),
    one(2, "host_path", Text),
    one(3, "readonly", Flag),
    one(4, "selinux_relabel", Flag),
    one(
        5,
        "propagation",
        OneOf(&["PROPAGATION_PRIVATE", "PROPAGATION_HOST_TO_CONTAINER", "PROPAGATION_BIDIRECTIONAL"]),
    ),
    many(6, "uidMappings", Sub(IDS)),
    many(7, "gidMappings", Sub(IDS)),
    one(8, "recursive_read_only", Flag),
    one(9, "image", Sub(IMAGE)),
    one(10, "image_sub_path", Text),
];
const DEVICE: Message =
    &[one(1, "container_path", Text), one(2, "host_path", Text), one(3, "permissions", Text)];

/// What of a document is no part of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The interface has no such field.
    #[error("the container runtime interface has no field {field}")]
    Unknown {
        /// The field, with those it is in.
        field: String,
    },
    /// The field holds something else.
    #[error("{field} has to be {wanted}")]
    Mismatch {
        /// The field, with those it is in.
        field: String,
        /// What it holds.
        wanted: String,
    },
}

/// A document as a message.
///
/// # Errors
/// Something of it has no place there.
pub(super) fn encode(message: Message, document: &Value) -> Result<Vec<u8>, MessageError> {
    let mut bytes = Vec::new();
    write(message, document, "", &mut bytes)?;
    Ok(bytes)
}

/// The same name is the same text.
fn plain(name: &str) -> String {
    name.chars().filter(|letter| *letter != '_').flat_map(char::to_lowercase).collect()
}

fn write(message: Message, document: &Value, at: &str, out: &mut Vec<u8>) -> Result<(), MessageError> {
    let mismatch = || MessageError::Mismatch {
        field: if at.is_empty() { "the document" } else { at }.to_owned(),
        wanted: "an object".to_owned(),
    };
    for (name, value) in document.as_object().ok_or_else(mismatch)? {
        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let known = message.iter().find(|field| plain(field.name) == plain(name));
        let field = known.ok_or_else(|| MessageError::Unknown { field: at.clone() })?;
        match value {
            Value::Null => {}
            Value::Array(values) if field.repeated => {
                for value in values {
                    field.write(value, &at, out)?;
                }
            }
            _ if field.repeated => {
                return Err(MessageError::Mismatch { field: at, wanted: "a list".to_owned() });
            }
            value => field.write(value, &at, out)?,
        }
    }
    Ok(())
}

impl Field {
    fn write(&self, value: &Value, at: &str, out: &mut Vec<u8>) -> Result<(), MessageError> {
        let mismatch =
            |wanted: &str| MessageError::Mismatch { field: at.to_owned(), wanted: wanted.to_owned() };
        match &self.holds {
            Text => self.bytes(value.as_str().ok_or_else(|| mismatch("a text"))?.as_bytes(), out),
            Flag => self.varint(u64::from(value.as_bool().ok_or_else(|| mismatch("true or false"))?), out),
            Number => self.varint(number(value).ok_or_else(|| mismatch("a whole number"))?, out),
            OneOf(words) => {
                let same =
                    |word: &str| words.iter().position(|known| known.eq_ignore_ascii_case(word.trim()));
                let place = match value.as_str() {
                    Some(word) => same(word).and_then(|place| u64::try_from(place).ok()),
                    None => number(value),
                };
                let wanted = || mismatch(&format!("one of {}", words.join(", ")));
                self.varint(place.ok_or_else(wanted)?, out);
            }
            Map => {
                for (key, value) in value.as_object().ok_or_else(|| mismatch("an object"))? {
                    let value = value.as_str().ok_or_else(|| MessageError::Mismatch {
                        field: format!("{at}.{key}"),
                        wanted: "a text".to_owned(),
                    })?;
                    let mut pair = Vec::new();
                    one(1, "key", Text).bytes(key.as_bytes(), &mut pair);
                    one(2, "value", Text).bytes(value.as_bytes(), &mut pair);
                    self.bytes(&pair, out);
                }
            }
            Sub(message) => {
                let mut inner = Vec::new();
                write(message, value, at, &mut inner)?;
                self.bytes(&inner, out);
            }
        }
        Ok(())
    }

    fn varint(&self, value: u64, out: &mut Vec<u8>) {
        varint(self.number << 3, out);
        varint(value, out);
    }

    fn bytes(&self, bytes: &[u8], out: &mut Vec<u8>) {
        varint(self.number << 3 | 2, out);
        varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

/// A number as it stands, or as a text, as numbers of 64 bits are written in JSON of messages.
fn number(value: &Value) -> Option<u64> {
    let text = value.as_str();
    let signed = value.as_i64().or_else(|| text?.parse().ok());
    signed.map(i64::cast_unsigned).or_else(|| value.as_u64()).or_else(|| text?.parse().ok())
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message as _;
    use serde_json::json;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Pod {
        #[prost(message, optional, tag = "1")]
        metadata: Option<PodMetadata>,
        #[prost(string, tag = "3")]
        log_directory: String,
        #[prost(message, repeated, tag = "5")]
        ports: Vec<Port>,
        #[prost(btree_map = "string, string", tag = "6")]
        labels: BTreeMap<String, String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct PodMetadata {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(uint32, tag = "4")]
        attempt: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Port {
        #[prost(int32, tag = "1")]
        protocol: i32,
        #[prost(int32, tag = "3")]
        host: i32,
    }

    #[test]
    fn either_way_to_write_names_words_and_numbers_is_understood() {
        let labels = json!({"app": "web"});
        for document in [
            json!({"metadata": {"name": "web", "attempt": 2}, "log_directory": "/logs", "labels": labels,
                "port_mappings": [{"protocol": 1, "host_port": -1}, {}], "dns_config": null}),
            json!({"metadata": {"name": "web", "attempt": "2"}, "logDirectory": "/logs", "labels": labels,
                "portMappings": [{"protocol": "udp", "hostPort": "-1"}, {}]}),
        ] {
            let pod = Pod::decode(&*encode(POD, &document).unwrap()).unwrap();
            let expected = Pod {
                metadata: Some(PodMetadata { name: "web".into(), attempt: 2 }),
                log_directory: "/logs".into(),
                ports: vec![Port { protocol: 1, host: -1 }, Port::default()],
                labels: BTreeMap::from([("app".into(), "web".into())]),
            };
            assert_eq!(pod, expected);
        }
    }

    #[test]
    fn what_has_no_place_is_named() {
        for (document, said) in [
            (json!({"metadat": {}}), "the container runtime interface has no field metadat"),
            (
                json!({"linux": {"security_context": {"privilegd": true}}}),
                "the container runtime interface has no field linux.security_context.privilegd",
            ),
            (json!({"tty": "yes"}), "tty has to be true or false"),
            (json!({"args": "x"}), "args has to be a list"),
            (json!({"metadata": []}), "metadata has to be an object"),
            (json!({"labels": {"a": 1}}), "labels.a has to be a text"),
            (
                json!({"linux": {"security_context": {"namespace_options": {"pid": "HOST"}}}}),
                "linux.security_context.namespace_options.pid has to be one of POD, CONTAINER, NODE, TARGET",
            ),
            (json!(7), "the document has to be an object"),
        ] {
            assert_eq!(encode(CONTAINER, &document).unwrap_err().to_string(), said);
        }
    }

    proptest! {
        #[test]
        fn any_document_is_a_message_or_an_error(text in r#"\{("(metadata|mounts|labels|args|tty|linux)":(\{"name":"x"\}|\[\{\}\]|"7"|-1|true|null),)*"image":\{\}\}"#) {
            if let Ok(document) = serde_json::from_str(&text) {
                let _ = encode(CONTAINER, &document);
                let _ = encode(POD, &document);
            }
        }
    }
}
