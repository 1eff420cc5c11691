//! The page-server stream: whatever arrives, the server ends, and takes no more pages than were sent.
#![no_main]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use torpor_criu::page_server::{PageFlags, PageServer, PageSink, PagemapId};

/// Less than a socket's buffer, so that all of it can be sent before anything is read.
const MOST: usize = 32 << 10;

fuzz_target!(|input: (bool, &[u8])| {
    let (parent, stream) = input;
    let stream = &stream[..stream.len().min(MOST)];
    let (ours, mut criu) = UnixStream::pair().expect("sockets can be made");
    criu.write_all(stream).expect("the buffer takes it");
    criu.shutdown(Shutdown::Write).expect("the socket is connected");
    let mut sink = Counting { parent, bytes: 0 };
    let served = PageServer::new(&ours).serve(&mut sink);
    assert!(sink.bytes <= stream.len());
    if let Ok(served) = served {
        assert!(served.pages <= sink.bytes as u64);
    }
});

struct Counting {
    parent: bool,
    bytes: usize,
}

impl PageSink for Counting {
    fn open(&mut self, _: PagemapId) -> io::Result<bool> {
        Ok(self.parent)
    }

    fn has_parent(&mut self, _: PagemapId) -> io::Result<bool> {
        Ok(self.parent)
    }

    fn pages(&mut self, _: PagemapId, _: u64, _: PageFlags, _: u64, body: &mut dyn Read) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match body.read(&mut buffer)? {
                0 => return Ok(()),
                count => self.bytes += count,
            }
        }
    }

    fn hole(&mut self, _: PagemapId, _: u64, _: PageFlags, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}
