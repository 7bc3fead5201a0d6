//! A file's content as a stream: unpacked as it is read, and line by line.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::fault::Fault;
use super::limits::{LINE_BYTES_MAX, UNPACKED_BYTES_FREE, UNPACKED_TIMES_MAX};
use crate::units::exact;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Room between the file and its reader.
const BUFFER_BYTES: usize = 64 << 10;

/// What is looked at to tell a format.
const HEAD_BYTES_MAX: u64 = 4096;

/// A file's content.
pub(super) struct Source<'a> {
    pub(super) reader: Box<dyn BufRead + 'a>,
    pub(super) is_packed: bool,
}

impl<'a> Source<'a> {
    /// Unpacks the content if its first bytes say that it is packed.
    pub(super) fn new(reader: impl BufRead + 'a) -> io::Result<Self> {
        let mut reader: Box<dyn BufRead + 'a> = Box::new(reader);
        let head = take(&mut reader, GZIP_MAGIC.len() as u64)?;
        let is_packed = head == GZIP_MAGIC;
        let whole = Cursor::new(head).chain(reader);
        let reader: Box<dyn BufRead + 'a> = match is_packed {
            true => Box::new(BufReader::with_capacity(BUFFER_BYTES, Unpacked::new(whole))),
            false => Box::new(whole),
        };
        Ok(Self { reader, is_packed })
    }

    /// Everything up to the end of the first line that is not blank, but little more than a header has. It stays in the reader,
    /// which gives it out as one piece.
    pub(super) fn head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        let mut bounded = (&mut *self.reader).take(HEAD_BYTES_MAX);
        while bounded.read_until(b'\n', &mut head)? > 0 && head.trim_ascii().is_empty() {}
        let rest = std::mem::replace(&mut self.reader, Box::new(io::empty()));
        self.reader = Box::new(Cursor::new(head.clone()).chain(rest));
        Ok(head)
    }
}

/// The first bytes, fewer only at the end.
fn take(reader: &mut dyn BufRead, bytes: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(bytes).read_to_end(&mut head)?;
    Ok(head)
}

/// Gzip, whose content is refused where it grows to more than any trace does.
struct Unpacked<R> {
    decoder: MultiGzDecoder<Counted<R>>,
    bytes: u64,
}

impl<R: BufRead> Unpacked<R> {
    fn new(reader: R) -> Self {
        Self { decoder: MultiGzDecoder::new(Counted { reader, bytes: 0 }), bytes: 0 }
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(to).map_err(|error| {
            let expected = "expected gzip to its end, which breaks after";
            io::Error::new(error.kind(), format!("{expected} {} unpacked bytes: {error}", self.bytes))
        })?;
        self.bytes += read as u64;
        let packed_bytes = self.decoder.get_ref().bytes;
        let most_bytes = UNPACKED_TIMES_MAX.saturating_mul(packed_bytes).saturating_add(UNPACKED_BYTES_FREE);
        if self.bytes > most_bytes {
            let (packed, most) = (exact(packed_bytes), exact(most_bytes));
            return Err(io::Error::other(format!("{packed} of gzip unpack to more than {most}, which no trace does")));
        }
        Ok(read)
    }
}

/// Counts what is taken.
struct Counted<R> {
    reader: R,
    bytes: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(to)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.bytes += amount as u64;
        self.reader.consume(amount);
    }
}

/// The lines of a text.
pub(super) struct Lines<'a> {
    reader: &'a mut dyn BufRead,
    /// The number of the line that was read last, from 1.
    pub(super) number: u64,
    /// Where in the text that line begins.
    begin_bytes: u64,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead) -> Self {
        Self { reader, number: 0, begin_bytes: 0, line: Vec::new() }
    }

    /// The next line without its end, or `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<&str>, Fault> {
        self.begin_bytes += self.line.len() as u64;
        self.line.clear();
        self.number += 1;
        (&mut *self.reader).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.len() as u64 > LINE_BYTES_MAX {
            let most = exact(LINE_BYTES_MAX);
            return Err(Fault::line(self.number, format!("expected a line of at most {most}, found a longer one")));
        }
        let line = std::str::from_utf8(&self.line).map_err(|error| {
            let place = self.begin_bytes + error.valid_up_to() as u64;
            Fault::byte(place, "expected text in UTF-8, a gzip file or a pickle")
        })?;
        let line = if self.number == 1 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        let line = line.strip_suffix('\n').unwrap_or(line);
        Ok(Some(line.strip_suffix('\r').unwrap_or(line)))
    }
}
