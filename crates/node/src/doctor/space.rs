//! Rows about where checkpoints go.

use super::{Directory, Findings, Row, StoreFinding, Topic};

/// With less, not even a small program fits.
const LEAST: u64 = 64 << 20;

pub(super) fn rows(findings: &Findings) -> Vec<Row> {
    let directories = findings.directories.iter().map(|directory| space(directory, findings.memory));
    directories.chain(findings.store.as_ref().map(store)).collect()
}

fn space(directory: &Directory, memory: u64) -> Row {
    let row = Row::new(
        format!("space.{}", directory.purpose),
        Topic::Space,
        format!("space ({})", directory.purpose),
    );
    let path = directory.path.display();
    let remedy = format!("make room in {path}, or choose another directory");
    if !directory.writable {
        return row
            .fail(format!("{path} cannot be written"), "run as its owner, or choose another directory");
    }
    match &directory.free {
        Err(why) => row.warn(format!("{path}: {why}"), remedy),
        Ok(free) if *free < LEAST => row.fail(format!("{path}: {} free", size(*free)), remedy),
        Ok(free) if *free < memory / 2 => row.warn(
            format!(
                "{path}: {} free, with {} of memory: a large program may not fit",
                size(*free),
                size(memory)
            ),
            remedy,
        ),
        Ok(free) => row.ok(format!("{path}: {} free", size(*free))),
    }
}

fn store(finding: &StoreFinding) -> Row {
    let row = Row::new("store", Topic::Space, "store");
    match &finding.opened {
        Ok(what) => row.ok(format!("{}: {what}", finding.url)),
        Err((message, remedy)) => row.fail(format!("{}: {message}", finding.url), remedy),
    }
}

fn size(bytes: u64) -> String {
    if bytes >= 10 << 30 { format!("{} GiB", bytes >> 30) } else { format!("{} MiB", bytes >> 20) }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn space_is_judged_against_the_memory_that_may_have_to_fit() {
        let memory = 8 << 30;
        for (free, writable, status) in [
            (Ok(100 << 30), true, Status::Ok),
            (Ok(1 << 30), true, Status::Warn),
            (Ok(1 << 20), true, Status::Fail),
            (Ok(100 << 30), false, Status::Fail),
            (Err("odd".to_owned()), true, Status::Warn),
        ] {
            let directory = Directory { purpose: "store", path: "/s".into(), free, writable };
            assert_eq!(space(&directory, memory).status, status, "{directory:?}");
        }
    }

    #[test]
    fn sizes_are_in_the_unit_that_reads_well() {
        assert_eq!(size(100 << 20), "100 MiB");
        assert_eq!(size(200 << 30), "200 GiB");
    }
}
