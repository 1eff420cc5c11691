//! Flags as Go programs take them.

use std::ffi::OsString;

/// Turns `--flag=true` into `--flag`, and leaves `--flag=false` out: flags that are on or off take a value there.
pub(super) fn normalized(arguments: Vec<OsString>) -> Vec<OsString> {
    const SWITCHES: [&str; 11] = [
        "--all",
        "--files",
        "--help",
        "--metadata",
        "--mounts",
        "--ps-tree",
        "--ps-tree-cmd",
        "--ps-tree-env",
        "--show-unchanged",
        "--sockets",
        "--stats",
    ];
    let normal = |argument: OsString| {
        let Some((flag, value)) = argument.to_str().and_then(|text| text.split_once('=')) else {
            return Some(argument);
        };
        if !SWITCHES.contains(&flag) {
            return Some(argument);
        }
        match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(flag.into()),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => None,
            _ => Some(argument),
        }
    };
    arguments.into_iter().filter_map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_take_values() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            normalized(words(&[
                "c",
                "--all=true",
                "--files=false",
                "--format=json",
                "--stats=maybe",
                "a=true"
            ])),
            words(&["c", "--all", "--format=json", "--stats=maybe", "a=true"])
        );
    }
}
