//! Messages with gaps.

/// What the `*` of a pattern stand for in a text, or `None` if it does not match. The pattern may start and end anywhere in the text;
/// a last `*` takes the rest.
pub(super) fn captures<'t>(pattern: &str, text: &'t str) -> Option<Vec<&'t str>> {
    let mut pieces = pattern.split('*');
    let first = pieces.next()?;
    let mut rest = &text[text.find(first)? + first.len()..];
    let mut found = Vec::new();
    for piece in pieces {
        let end = if piece.is_empty() { rest.len() } else { rest.find(piece)? };
        found.push(rest[..end].trim());
        rest = &rest[end + piece.len()..];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_are_what_stands_between_the_pieces() {
        let cases: [(&str, &str, Option<&[&str]>); 6] = [
            ("open file * on *: no", "Can't open file a b on c: no such", Some(&["a b", "c"])),
            ("open file *", "Can't open file /x", Some(&["/x"])),
            ("abc", "xabcx", Some(&[])),
            ("a*b", "a", None),
            ("a*b", "ba", None),
            ("*: gone", "file: gone", Some(&["file"])),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(captures(pattern, text).as_deref(), expected, "{pattern} in {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_searched_without_panic(pattern in "[a*é]{0,12}", text in "\\PC{0,40}") {
            let _ = captures(&pattern, &text);
        }
    }
}
