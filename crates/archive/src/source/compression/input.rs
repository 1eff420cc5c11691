//! What a decoder reads from: buffered, counted, and to be looked at before it is taken.

use std::io::{self, BufRead, Read};

use super::Below;

/// Bytes of the buffer.
const BUFFER: usize = 128 << 10;

/// A buffered reader that knows how much was taken from it.
pub(super) struct Input<'a> {
    from: Box<dyn Read + Send + 'a>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    consumed: u64,
}

impl<'a> Input<'a> {
    /// Reads from `from`, the first byte of which is that of this number.
    pub(super) fn new(from: Box<dyn Read + Send + 'a>, consumed: u64) -> Self {
        Self { from, buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0, consumed }
    }

    /// Bytes that were taken.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The next bytes, as many as wanted unless the input ends before.
    pub(super) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if self.end - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < wanted && self.refill()? > 0 {}
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + wanted)])
    }

    /// Takes bytes without looking at them.
    pub(super) fn pass(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let there = self.fill_buf()?.len();
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = bytes.min(there as u64);
            self.consume(taken as usize);
            bytes -= taken;
        }
        Ok(())
    }

    fn refill(&mut self) -> io::Result<usize> {
        loop {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::other(Below(error))),
            }
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let length = there.len().min(into.len());
        into[..length].copy_from_slice(&there[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.refill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.consumed += bytes as u64;
    }
}
