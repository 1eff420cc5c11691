//! Whom a program in an image runs as (OCI image specification, `config.md`, `User`).

use std::path::PathBuf;

/// A user, by numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home directory, where the image's list of users has one.
    pub home: Option<PathBuf>,
}

impl User {
    /// Finds `USER` or `USER:GROUP`, names or numbers, in an image's `/etc/passwd` and `/etc/group`. None where one of the names is
    /// not there. Nothing means root.
    #[must_use]
    pub fn find(wanted: &str, passwd: &str, group: &str) -> Option<User> {
        let (name, own_group) = match wanted.trim().split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (wanted.trim(), None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let number: Option<u32> = name.parse().ok();
        let entry = lines(passwd).find(|fields| match number {
            Some(number) => fields.get(2).and_then(|uid| uid.parse().ok()) == Some(number),
            None => fields.first() == Some(&name),
        });
        let field = |at: usize| entry.as_ref().and_then(|fields| fields.get(at).copied());
        let uid = number.or_else(|| field(2)?.parse().ok())?;
        let gid = match own_group {
            Some(group_name) => match group_name.parse() {
                Ok(gid) => gid,
                Err(_) => {
                    lines(group).find(|fields| fields.first() == Some(&group_name))?.get(2)?.parse().ok()?
                }
            },
            None => field(3).and_then(|gid| gid.parse().ok()).unwrap_or(0),
        };
        let member = |fields: &Vec<&str>| {
            let members = fields.get(3).copied().unwrap_or_default();
            field(0).is_some_and(|name| members.split(',').any(|member| member == name))
        };
        // Whoever names a group wants that one alone.
        let groups = match own_group {
            Some(_) => Vec::new(),
            None => lines(group).filter(member).filter_map(|fields| fields.get(2)?.parse().ok()).collect(),
        };
        Some(User { uid, gid, groups, home: field(5).filter(|home| !home.is_empty()).map(PathBuf::from) })
    }
}

fn lines(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(':').collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:root,web\nssl:x:41:web\n";

    #[test]
    fn users_are_names_or_numbers() {
        let found = |wanted: &str| {
            let user = User::find(wanted, PASSWD, GROUP)?;
            Some((user.uid, user.gid, user.groups, user.home.map(|home| home.display().to_string())))
        };
        let home = |path: &str| Some(path.to_owned());
        assert_eq!(found(""), Some((0, 0, vec![40], home("/root"))));
        assert_eq!(found("web"), Some((33, 34, vec![40, 41], home("/srv"))));
        assert_eq!(found("33"), Some((33, 34, vec![40, 41], home("/srv"))));
        assert_eq!(found("web:logs"), Some((33, 40, vec![], home("/srv"))));
        assert_eq!(found("1000"), Some((1000, 0, vec![], None)));
        assert_eq!(found("1000:1001"), Some((1000, 1001, vec![], None)));
        assert_eq!(found("nobody"), None);
        assert_eq!(found("web:nobody"), None);
    }

    proptest! {
        #[test]
        fn any_table_is_taken(wanted in ".{0,20}", passwd in ".{0,200}", group in ".{0,200}") {
            let _ = User::find(&wanted, &passwd, &group);
        }
    }
}
