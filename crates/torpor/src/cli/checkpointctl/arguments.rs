//! Flags as Go programs take them.

use std::ffi::OsString;

/// Turns `--flag=true` into `--flag`, and leaves `--flag=false` out: flags that are on or off take a value there. What is
/// none of the `commands` is a plugin's, whose flags are its own.
pub(super) fn normalized(arguments: Vec<OsString>, commands: &[String]) -> Vec<OsString> {
    let command =
        arguments.iter().skip(1).filter_map(|word| word.to_str()).find(|word| !word.starts_with('-'));
    if command.is_some_and(|command| !commands.iter().any(|known| known == command)) {
        return arguments;
    }
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
            normalized(
                words(&[
                    "c",
                    "show",
                    "--all=true",
                    "--files=false",
                    "--format=json",
                    "--stats=maybe",
                    "a=true"
                ]),
                &["show".to_owned()]
            ),
            words(&["c", "show", "--all", "--format=json", "--stats=maybe", "a=true"])
        );
        let plugin = words(&["c", "greet", "--all=true"]);
        assert_eq!(normalized(plugin.clone(), &["show".to_owned()]), plugin);
    }
}
