//! Addresses, kinds and protections as they are typed.

use std::ops::Range;

use torpor_archive::memory::{MappingKind, Protection};

/// `START-END` or `START+LENGTH`.
pub(super) fn parse(text: &str) -> Result<Range<u64>, String> {
    let range = if let Some((start, length)) = text.split_once('+') {
        let start = address(start)?;
        let end = start.checked_add(self::length(length)?);
        start..end.ok_or_else(|| format!("`{text}` goes beyond the last address"))?
    } else if let Some((start, end)) = text.split_once('-') {
        address(start)?..address(end)?
    } else {
        return Err("write START-END or START+LENGTH, such as 7f00a000+64K".to_owned());
    };
    if range.is_empty() {
        return Err(format!("`{text}` is empty"));
    }
    Ok(range)
}

/// An address, in hexadecimal.
fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("`{text}` is no address in hexadecimal"))
}

/// A length: decimal, with K, M or G; hexadecimal after `0x`.
fn length(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no length: write for example 4096, 64K or 0x1000");
    if text.starts_with("0x") {
        return address(text);
    }
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(wrong)
}

/// A kind of mappings; `anon` will do for `anonymous`.
pub(super) fn kind(text: &str) -> Result<MappingKind, String> {
    if text == "anon" {
        return Ok(MappingKind::Anonymous);
    }
    MappingKind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
        let names: Vec<_> = MappingKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("the kinds are {}", names.join(", "))
    })
}

/// Letters of `rwx`, and `-`, which says nothing.
pub(super) fn protection(text: &str) -> Result<Protection, String> {
    let mut protection = Protection::default();
    for letter in text.chars() {
        match letter {
            'r' => protection.read = true,
            'w' => protection.write = true,
            'x' => protection.execute = true,
            '-' => {}
            _ => return Err("the letters are r, w and x".to_owned()),
        }
    }
    Ok(protection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood_or_refused() {
        for (text, range) in [
            ("1000-2000", 0x1000..0x2000),
            ("0x7f00a000-0x7f00b000", 0x7f00_a000..0x7f00_b000),
            ("1000+16", 0x1000..0x1010),
            ("1000+0x10", 0x1000..0x1010),
            ("1000+4K", 0x1000..0x2000),
        ] {
            assert_eq!(parse(text), Ok(range), "{text}");
        }
        for text in
            ["", "1000", "2000-1000", "1000+0", "x-y", "1000+", "ffffffffffffffff+2", "1+99999999999G"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_kind_is_known_by_its_name() {
        for kind_of in MappingKind::ALL {
            assert_eq!(kind(kind_of.name()), Ok(kind_of));
        }
        assert_eq!(kind("anon"), Ok(MappingKind::Anonymous));
        assert!(kind("foo").is_err());
    }
}
