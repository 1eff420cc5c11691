//! Numbers as checkpointctl writes them.

use super::super::output;

/// Microseconds, to five digits: `669 µs`, `282.21 ms`, `1.5 s`.
pub(super) fn duration(microseconds: u64) -> String {
    if microseconds < 1000 {
        return format!("{microseconds} µs");
    }
    let (value, unit) = match microseconds {
        ..1_000_000 => (microseconds as f64 / 1e3, "ms"),
        _ => (microseconds as f64 / 1e6, "s"),
    };
    let before_the_point = (value.log10().floor() as usize) + 1;
    let text = format!("{value:.*}", 5usize.saturating_sub(before_the_point));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// Bytes of files, as `13.9 MiB`.
pub(super) fn size(bytes: u64) -> String {
    output::bytes(bytes)
}

/// Bytes of a socket's buffer, as `3.8 MB`; a kilobyte is 1024 bytes here, too.
pub(super) fn buffer(bytes: u32) -> String {
    output::bytes(u64::from(bytes)).replace("iB", "B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_five_digits() {
        for (microseconds, text) in [
            (0, "0 µs"),
            (669, "669 µs"),
            (2838, "2.838 ms"),
            (27_798, "27.798 ms"),
            (100_000, "100 ms"),
            (101_390, "101.39 ms"),
            (282_206, "282.21 ms"),
            (1_500_000, "1.5 s"),
            (10_000_000, "10 s"),
            (123_456_789, "123.46 s"),
        ] {
            assert_eq!(duration(microseconds), text);
        }
    }

    #[test]
    fn sizes_of_files_and_of_buffers() {
        assert_eq!(size(14_602_240), "13.9 MiB");
        assert_eq!(size(161), "161 B");
        assert_eq!(buffer(16384), "16.0 KB");
        assert_eq!(buffer(0), "0 B");
    }
}
