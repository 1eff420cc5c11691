//! What a registry wants to see before it lets somebody in (RFC 9110, section 11; distribution, `docs/content/spec/auth/token.md`).

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A name and a password.
    Basic,
    /// A token from a server.
    Bearer {
        /// The server's address.
        realm: String,
        /// What the registry is called there.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads the header `WWW-Authenticate`.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameters = parameters(rest);
        let find =
            |key: &str| parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        Some(Self::Bearer { realm: find("realm")?, service: find("service") })
    }
}

/// Pairs of a name and a value, which may be quoted.
fn parameters(mut rest: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let after = after.trim_start();
        let mut value = String::new();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut characters = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                    _ => value.push(character),
                }
            }
            rest = &quoted[end..];
        } else {
            let end = after.find(',').unwrap_or(after.len());
            value.push_str(after[..end].trim());
            rest = &after[end..];
        }
        found.push((name, value));
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_registries_ask_for() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        for (header, challenge) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            (r#"bearer service=x, Realm = "h""#, bearer("h", Some("x"))),
            (r#"Bearer realm=http://h/t"#, bearer("http://h/t", None)),
            (r#"Bearer realm="a\"b"#, bearer("a\"b", None)),
            ("Bearer", None),
            ("Negotiate", None),
        ] {
            assert_eq!(Challenge::parse(header), challenge, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_taken(header in ".{0,200}") {
            let _ = Challenge::parse(&format!("Bearer {header}"));
        }
    }
}
