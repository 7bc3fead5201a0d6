//! Which format it is, and where in the file something is wrong.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::limits::{FILE_BYTES_MAX, UNPACKED_BYTES_FREE, UNPACKED_TIMES_MAX};
use super::{Trace, lifetimes, rmm, text, torch};
use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Where something is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// From 1.
    Line(usize),
    /// From 0.
    Byte(usize),
    /// Not at one place.
    Whole,
}

/// What is wrong: what was expected, and what is there.
#[derive(Debug)]
pub(super) struct Fault {
    place: Place,
    what: String,
}

impl Fault {
    pub(super) fn line(line: usize, what: impl Into<String>) -> Self {
        Self { place: Place::Line(line), what: what.into() }
    }

    pub(super) fn byte(byte: usize, what: impl Into<String>) -> Self {
        Self { place: Place::Byte(byte), what: what.into() }
    }

    pub(super) fn whole(what: impl Into<String>) -> Self {
        Self { place: Place::Whole, what: what.into() }
    }

    fn of(self, name: &str) -> Error {
        let Self { place, what } = self;
        Error::new(ErrorKind::File, format!("{name}: {place}{what}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}: "),
            Self::Byte(byte) => write!(f, "byte {byte}: "),
            Self::Whole => Ok(()),
        }
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<Trace>> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    // A device or a pipe has no length to ask for.
    let file = File::open(path).map_err(|error| failed(&name, error))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(&name, error))?;
    parse(&bytes, &name)
}

/// What the system says.
pub(super) fn failed(name: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::File, name).with_source(error)
}

pub(super) fn parse(bytes: &[u8], name: &str) -> Result<Vec<Trace>> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault::whole(format!("it is over {}", exact(FILE_BYTES_MAX))).of(name));
    }
    let unpacked;
    let (bytes, plain_name) = if bytes.starts_with(&GZIP_MAGIC) {
        unpacked = unpack(bytes).map_err(|fault| fault.of(name))?;
        (&*unpacked, name.strip_suffix(".gz").unwrap_or(name))
    } else {
        (bytes, name)
    };
    traces(bytes, plain_name).map_err(|fault| fault.of(name))
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let packed_bytes = bytes.len() as u64;
    let most_bytes = (UNPACKED_TIMES_MAX * packed_bytes + UNPACKED_BYTES_FREE).min(FILE_BYTES_MAX);
    let mut unpacked = Vec::new();
    let mut decoder = MultiGzDecoder::new(bytes).take(most_bytes + 1);
    decoder.read_to_end(&mut unpacked).map_err(|error| {
        Fault::whole(format!("expected gzip to its end, which breaks after {} unpacked bytes: {error}", unpacked.len()))
    })?;
    if unpacked.len() as u64 > most_bytes {
        return Err(Fault::whole(format!(
            "{} of gzip unpack to more than {}, which no trace does",
            exact(packed_bytes),
            exact(most_bytes)
        )));
    }
    Ok(unpacked)
}

/// The content says what it is, and the file's name where it does not.
fn traces(bytes: &[u8], name: &str) -> Result<Vec<Trace>, Fault> {
    let stem = stem(name);
    if bytes.starts_with(b"PK\x03\x04") {
        return Err(Fault::byte(
            0,
            "expected a trace, found a zip archive (a snapshot is saved by pickle.dump, not by torch.save)",
        ));
    }
    // From protocol 2 on a pickle begins with its number, and no text does.
    if bytes.first() == Some(&0x80) || name.ends_with(".pickle") || name.ends_with(".pkl") {
        return torch::read(bytes, &stem);
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => return Err(Fault::byte(error.valid_up_to(), "expected text in UTF-8, a gzip file or a pickle")),
    };
    let first = text.lines().next().unwrap_or("");
    let trace = if rmm::is_header(first) {
        rmm::read(text, &stem)?
    } else if lifetimes::is_header(first) {
        lifetimes::read(text, &stem)?
    } else if name.ends_with(".csv") {
        return Err(Fault::line(
            1,
            format!("expected the columns {} or {}, found {}", rmm::HEADER, lifetimes::HEADER, quoted(first)),
        ));
    } else {
        text::read(text, &stem)?
    };
    Ok(vec![trace])
}

/// A name for a trace that has none: the file's, without folder and what it ends in.
fn stem(name: &str) -> String {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let known = [".trace", ".txt", ".csv", ".pickle", ".pkl"];
    known.iter().find_map(|end| file.strip_suffix(end)).unwrap_or(file).to_owned()
}

/// Text from a file as an error shows it: in quotes, cut off, nothing unprintable.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_SHOWN: usize = 60;
    match text.char_indices().nth(CHARS_SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
