//! Quoted-printable text, as Python's `quopri` writes it: the names of Unix sockets, in which any byte may occur.

/// Longest line of the output.
const LINE: usize = 76;

/// Bytes as ASCII text. What is not printable is written as `=XX`; lines longer than 76 characters are broken by `=` at their end.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut line = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        let dot_alone = byte == b'.' && line == 0 && matches!(next, None | Some(b'\n' | b'\r' | 0));
        let blank_at_end = matches!(byte, b' ' | b'\t') && next.is_none();
        let control = byte < 33 && !matches!(byte, b'\r' | b'\n' | b'\t' | b' ');
        if byte > 126 || byte == b'=' || dot_alone || blank_at_end || control {
            if line + 3 >= LINE {
                out.push_str("=\n");
                line = 0;
            }
            push_hex(&mut out, byte);
            line += 3;
            at += 1;
        } else if byte == b'\n' || (byte == b'\r' && next == Some(b'\n')) {
            // A blank at the end of a line would get lost.
            if let Some(blank @ (' ' | '\t')) = out.chars().last() {
                out.pop();
                push_hex(&mut out, blank as u8);
            }
            out.push('\n');
            line = 0;
            at += if byte == b'\r' { 2 } else { 1 };
        } else {
            if next.is_some_and(|next| next != b'\n') && line + 1 >= LINE {
                out.push_str("=\n");
                line = 0;
            }
            out.push(char::from(byte));
            line += 1;
            at += 1;
        }
    }
    out
}

fn push_hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('=');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// The bytes of quoted-printable text. What is no escape stays as it is.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit =
        |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'=' {
            out.push(bytes[at]);
            at += 1;
        } else if let (Some(high), Some(low)) = (digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            out.push(high << 4 | low);
            at += 3;
        } else if bytes[at + 1..].starts_with(b"\n") {
            at += 2;
        } else if bytes[at + 1..].starts_with(b"\r\n") {
            at += 3;
        } else {
            out.push(b'=');
            at += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_written_as_python_does() {
        let long = [b'x'; 80];
        for (bytes, text) in [
            (&b""[..], ""),
            (b"/run/a.sock", "/run/a.sock"),
            (b"\0abstract\0", "=00abstract=00"),
            (b"/run/a b\0", "/run/a b=00"),
            (b"a=b ", "a=3Db=20"),
            (b"a \nb", "a=20\nb"),
            ("é".as_bytes(), "=C3=A9"),
            (b".", "=2E"),
            (&long, &format!("{}=\n{}", "x".repeat(75), "x".repeat(5))),
        ] {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text), bytes, "{text}");
        }
    }

    proptest! {
        #[test]
        fn all_but_line_ends_survive(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assume!(!bytes.contains(&b'\r'));
            prop_assert_eq!(decode(&encode(&bytes)), bytes);
        }
    }
}
