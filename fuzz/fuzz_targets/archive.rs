//! Archives of any compression, which is found by how the input begins: what can be read at any place and what passes by
//! agree, nothing takes more than the limits, and all that is built on them takes whatever is in there.
#![no_main]

use std::io::Cursor;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use torpor_archive::source::{Limits, open_bytes, open_stream};
use torpor_archive::{Checkpoint, check, engine};

fuzz_target!(|archive: &[u8]| {
    let limits = Limits { unpacked: Some(8 << 20), window: 8 << 20, kept: 64 << 10, ..Limits::default() };
    let piped = open_stream("-".to_owned(), Box::new(Cursor::new(archive.to_vec())), &limits, None);
    let opened = open_bytes("-".to_owned(), Arc::new(archive.to_vec()), &limits, None);
    let (piped, opened) = match (piped, opened) {
        (Ok(piped), Ok(opened)) => (piped, opened),
        (Err(_), Err(_)) => return,
        (piped, opened) => panic!("{piped:?} {opened:?}"),
    };
    assert_eq!(piped.entries(), opened.entries());
    for entry in opened.entries() {
        // Backwards too: the last byte first.
        if let Some(last) = entry.size.checked_sub(1) {
            let _ = opened.read_at(entry, last, &mut [0]);
        }
        let mut body = vec![0; entry.size.min(1 << 16) as usize];
        if opened.read_at(entry, 0, &mut body).is_ok() && body.len() as u64 == entry.size {
            if let Some(digest) = opened.digest(entry) {
                assert_eq!(digest.0, *blake3::hash(&body).as_bytes());
            }
        }
    }
    if let Ok(checkpoint) = Checkpoint::new(opened) {
        let _ = check::whole(&checkpoint);
        let _ = engine::container(&checkpoint);
        let _ = engine::changes(&checkpoint);
    }
});
