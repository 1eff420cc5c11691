//! Bytes of programs as text.

use std::fmt::Write;

/// Bytes as text: what is no UTF-8, and zero bytes, as `\xNN`.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for (index, part) in chunk.valid().split('\0').enumerate() {
            if index > 0 {
                escape(&mut text, b"\0");
            }
            text.push_str(part);
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The strings of an area in which each ends with a zero byte. What follows the last zero byte is a string, too.
pub(super) fn split(area: &[u8]) -> Vec<&[u8]> {
    if area.is_empty() {
        return Vec::new();
    }
    area.strip_suffix(&[0]).unwrap_or(area).split(|byte| *byte == 0).collect()
}

/// Strings on one line, those with blanks in quotes, as a shell would take them. A program that wrote a title over its
/// arguments leaves one string and empty ones behind it: then it is the title.
#[must_use]
pub fn command_line(arguments: &[String]) -> String {
    if let [title, _, rest @ ..] = arguments
        && !rest.is_empty()
        && arguments[1..].iter().all(String::is_empty)
    {
        return title.clone();
    }
    let quoted = arguments.iter().map(|argument| {
        let plain = |c: char| c.is_alphanumeric() || "-_=./:,@%+^[]{}~*?!#".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.clone()
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_escaped() {
        assert_eq!(text(b"caf\xc3\xa9 \xff\xfe\0x"), "café \\xff\\xfe\\x00x");
    }

    #[test]
    fn areas_are_split_at_zero_bytes() {
        assert_eq!(split(b"a\0\0b\0"), [&b"a"[..], b"", b"b"]);
        assert_eq!(split(b"a\0b"), [&b"a"[..], b"b"]);
        assert_eq!(split(b"\0"), [b""]);
        assert_eq!(split(b""), [&b""[..]; 0]);
    }

    #[test]
    fn command_lines_can_be_typed_again() {
        let line = |arguments: &[&str]| {
            command_line(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(line(&["sh", "-c", "echo 'a b'", ""]), r"sh -c 'echo '\''a b'\''' ''");
        assert_eq!(line(&["redis-server *:6379", "", "", ""]), "redis-server *:6379");
    }
}
