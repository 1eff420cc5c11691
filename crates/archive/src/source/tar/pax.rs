//! The records that describe an entry: `LENGTH KEY=VALUE`, each ended by a line feed.

use std::collections::HashMap;

use super::header::HeaderProblem;

/// Most records.
const MAX_RECORDS: usize = 1024;

/// Takes records apart.
pub(super) fn parse(mut records: &[u8]) -> Result<HashMap<String, Vec<u8>>, HeaderProblem> {
    let mut parsed = HashMap::new();
    while !records.is_empty() {
        let (key, value, rest) = record(records).ok_or(HeaderProblem::Records)?;
        parsed.insert(key, value.to_owned());
        if parsed.len() > MAX_RECORDS {
            return Err(HeaderProblem::Records);
        }
        records = rest;
    }
    Ok(parsed)
}

fn record(records: &[u8]) -> Option<(String, &[u8], &[u8])> {
    let blank = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&records[..blank]).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((String::from_utf8_lossy(&record[..equals]).into_owned(), &record[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_say_their_length() {
        let parsed = parse(b"12 path=a b\n16 size=1234567\n").unwrap();
        assert_eq!(parsed["path"], b"a b");
        assert_eq!(parsed["size"], b"1234567");
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for records in [&b"99 path=a\n"[..], b"0 path=a\n", b"3 path=a\n", b"path=a\n", b"10 path=a "] {
            assert_eq!(parse(records), Err(HeaderProblem::Records));
        }
    }

    proptest! {
        #[test]
        fn takes_any_bytes_without_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
