//! CRIU's log: any bytes have lines and a diagnosis.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use torpor_criu::diagnosis::{Operation, diagnose};
use torpor_criu::log::Log;

fuzz_target!(|input: (u16, &[u8])| {
    let (limit, bytes) = input;
    let log = Log::read_tail(Cursor::new(bytes), limit.into()).expect("memory can be read");
    for line in log.lines() {
        assert!(line.text.ends_with(line.message));
    }
    for operation in [Operation::Checkpoint, Operation::Restore] {
        assert!(!diagnose(operation, &log).cause.is_empty());
    }
});
