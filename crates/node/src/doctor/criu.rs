//! Rows about CRIU itself.

use super::{CriuFinding, Row, Topic};
use crate::criu_bundle::OLDEST;

pub(super) fn rows(finding: &CriuFinding) -> Vec<Row> {
    let row = Row::new("criu.version", Topic::Criu, "CRIU");
    let (path, place, version, check) = match finding {
        CriuFinding::Missing { message, remedy } => return vec![row.fail(message, remedy)],
        CriuFinding::There { path, place, version, check, .. } => (path, place, version, check),
    };
    let found = format!("{version}, {place}: {}", path.display());
    let version = if *version < OLDEST {
        row.fail(
            format!("{found} is older than {OLDEST}"),
            "install a newer CRIU, or bring the private one: `cargo xtask criu` in the source tree, or the directory \
             /opt/torpor/criu of Torpor's image",
        )
    } else {
        row.ok(found)
    };
    let row = Row::new("criu.check", Topic::Criu, "criu check");
    let check = if check.passed {
        row.ok(&check.said)
    } else {
        row.fail(
            if check.said.is_empty() { "failed without a word" } else { &check.said },
            "see the failing rows below; `criu check -v4` says more",
        )
    };
    vec![version, check]
}

#[cfg(test)]
mod tests {
    use super::super::{Status, findings};
    use super::*;
    use crate::criu_bundle::CriuVersion;

    #[test]
    fn an_old_criu_and_a_failed_check_are_failures() {
        let mut finding = findings::tests::perfect().criu;
        if let CriuFinding::There { version, check, .. } = &mut finding {
            *version = CriuVersion { major: 3, minor: 17, patch: 1 };
            check.passed = false;
            check.said.clear();
        }
        let rows = rows(&finding);
        assert_eq!([rows[0].status, rows[1].status], [Status::Fail; 2]);
        assert!(rows[0].found.contains("3.17.1"));
    }
}
