//! A pickle's bytes as a stream, each with its place.

use std::io::{BufRead, ErrorKind};

use crate::trace::fault::Fault;

/// What is kept of a line: more than any number or word has.
const LINE_BYTES_KEPT: usize = 64;

pub(super) struct Bytes<'a> {
    reader: &'a mut dyn BufRead,
    /// Read, and given out up to `next`.
    buffer: Box<[u8]>,
    next: usize,
    end: usize,
    /// Where in the file `buffer` begins.
    begin: u64,
}

/// The bytes up to a line feed.
pub(super) struct Line {
    kept: [u8; LINE_BYTES_KEPT],
    len: usize,
    /// Where there was no room for all of it.
    is_cut_off: bool,
}

impl Line {
    /// The line, or nothing if it is longer than any that is looked at.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.is_cut_off { &[] } else { &self.kept[..self.len] }
    }

    /// The first of it, whatever its length.
    pub(super) fn beginning(&self) -> &[u8] {
        &self.kept[..self.len]
    }
}

impl<'a> Bytes<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead) -> Self {
        Self { reader, buffer: vec![0; 1 << 16].into(), next: 0, end: 0, begin: 0 }
    }

    /// Where in the file the next byte is.
    pub(super) fn at(&self) -> u64 {
        self.begin + self.next as u64
    }

    /// Reads on, and says whether there is more. Everything read before is given out.
    fn fill(&mut self) -> Result<bool, Fault> {
        self.begin += self.end as u64;
        (self.next, self.end) = (0, 0);
        loop {
            match self.reader.read(&mut self.buffer) {
                Ok(read) => {
                    self.end = read;
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next byte, or `None` at the end.
    fn byte(&mut self) -> Result<Option<u8>, Fault> {
        if self.next == self.end && !self.fill()? {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(self.buffer[self.next - 1]))
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        if let Some(taken) = self.buffer[self.next..self.end].first_chunk() {
            array = *taken;
            self.next += N;
        } else {
            self.take(N as u64, &mut array, what)?;
        }
        Ok(array)
    }

    /// Goes over `len` bytes, and keeps the first of them in `kept`. How many those are.
    pub(super) fn take(&mut self, len: u64, kept: &mut [u8], what: &str) -> Result<usize, Fault> {
        let begin = self.at();
        let (mut left, mut kept_len) = (len, 0);
        while left > 0 {
            if self.next == self.end && !self.fill()? {
                return Err(Fault::byte(begin, format!("expected {what}, and the file ends")));
            }
            let part = ((self.end - self.next) as u64).min(left) as usize;
            let part_kept = part.min(kept.len() - kept_len);
            kept[kept_len..kept_len + part_kept].copy_from_slice(&self.buffer[self.next..self.next + part_kept]);
            kept_len += part_kept;
            self.next += part;
            left -= part as u64;
        }
        Ok(kept_len)
    }

    /// Reads up to a line feed.
    pub(super) fn line(&mut self, what: &str) -> Result<Line, Fault> {
        let begin = self.at();
        let mut line = Line { kept: [0; LINE_BYTES_KEPT], len: 0, is_cut_off: false };
        loop {
            match self.byte()? {
                Some(b'\n') => return Ok(line),
                Some(byte) if line.len < LINE_BYTES_KEPT => {
                    line.kept[line.len] = byte;
                    line.len += 1;
                }
                Some(_) => line.is_cut_off = true,
                None => return Err(Fault::byte(begin, format!("expected {what}, and the file ends"))),
            }
        }
    }
}
