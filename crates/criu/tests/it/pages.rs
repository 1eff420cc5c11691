//! The page server against streams that no CRIU would send.

use std::io::Write;

use proptest::prelude::*;
use torpor_criu::page_server::{PageServer, PageServerError, Served, socket_pair};

use crate::Counted;

fn long(command: u32, pages: u64, vaddr: u64, destination: u64) -> Vec<u8> {
    let fields = [u64::from(command), pages, vaddr, destination];
    fields.into_iter().flat_map(u64::to_ne_bytes).collect()
}

fn serve(stream: &[u8]) -> (Result<Served, PageServerError>, Counted) {
    let pair = socket_pair(1 << 20).unwrap();
    let mut sink = Counted::default();
    let mut criu = std::fs::File::from(pair.criu);
    let served = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The server hangs up on what it refuses.
            let _ = criu.write_all(stream);
            let _ = rustix::net::shutdown(&criu, rustix::net::Shutdown::Write);
        });
        PageServer::new(&pair.ours).serve(&mut sink)
    });
    (served, sink)
}

/// The message with its cause.
fn why(error: &PageServerError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

const OPEN2: u32 = 4;
const ID: u64 = 7 << 8 | 1;

#[test]
fn hostile_streams_are_refused_by_field() {
    let open = long(OPEN2, 0, 0, ID);
    let add = 4 << 16 | 6;
    for (stream, error) in [
        (vec![], "criu's page stream ended early, while the first header was awaited"),
        (open[..20].to_vec(), "criu's page stream ended early, while the first header was awaited"),
        (long(add, 1, 0, ID), "criu's page stream is not valid: command: 0x40006 cannot be the first"),
        (
            long(OPEN2, 0, 0, 7 << 8 | 9),
            "criu's page stream is not valid: destination: 0x709 is neither a process nor shared memory",
        ),
        (
            [open.clone(), long(99, 0, 0, ID)].concat(),
            "criu's page stream is not valid: command: 0x63 is not known",
        ),
        (
            [open.clone(), long(7, 1, 0, 7)].concat(),
            "criu's page stream is not valid: command: get is not for a server that receives",
        ),
        (
            [open.clone(), long(8 << 16 | 6, 1, 0, ID)].concat(),
            "criu's page stream is not valid: flags: 0x8 are not known or contradict each other",
        ),
        (
            [open.clone(), long(add, 1, 0x1001, ID)].concat(),
            "criu's page stream is not valid: address: 0x1001 is not at the start of a page",
        ),
        (
            [open.clone(), long(add, 0, 0x1000, ID)].concat(),
            "criu's page stream is not valid: pages: a run of none",
        ),
        (
            [open.clone(), long(add, 1, 0x10000, 8 << 8 | 1)].concat(),
            "criu's page stream is not valid: destination: process 8 is not open",
        ),
        (
            [open.clone(), long(add, u64::MAX, 0x10000, ID)].concat(),
            &format!(
                "criu's page stream is not valid: pages: {} pages at 0x10000 go beyond the address space",
                u64::MAX
            ),
        ),
        (
            [open, long(add, 1 << 40, 0x10000, ID)].concat(),
            "criu's page stream ended early, while pages was awaited",
        ),
    ] {
        let (served, sink) = serve(&stream);
        assert_eq!(why(&served.unwrap_err()), error);
        assert!(!sink.closed);
    }
}

#[test]
fn a_dump_that_fails_before_any_page_still_closes() {
    for length in [24, 32] {
        let mut close = long(0x1024, 0, 0, 0);
        close.truncate(length);
        let (served, sink) = serve(&close);
        assert_eq!(served.unwrap(), Served::default());
        assert!(sink.closed);
    }
}

#[test]
fn a_server_takes_one_pre_dump_after_the_other() {
    let pair = socket_pair(1 << 20).unwrap();
    let mut criu = std::fs::File::from(pair.criu);
    let round = [long(OPEN2, 0, 0, ID), long(2, 3, 0x10000, ID), long(0x1024, 0, 0, 0)].concat();
    let mut server = PageServer::new(&pair.ours);
    for _ in 0..2 {
        let mut sink = Counted::default();
        criu.write_all(&round).unwrap();
        assert_eq!(server.serve(&mut sink).unwrap().holes, 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_stream_does_harm(
        commands in proptest::collection::vec((0_u32..12, 0_u32..9, 0_u64..4, 0_u64..4, 0_u64..4), 0..12),
        rest in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut stream = long(OPEN2, 0, 0, ID);
        for (command, flags, pages, page, id) in commands {
            stream.extend(long(flags << 16 | command, pages, page * 4096, id << 8 | 1));
        }
        stream.extend(rest);
        let (served, sink) = serve(&stream);
        prop_assert_eq!(served.is_ok(), sink.closed);
    }
}
