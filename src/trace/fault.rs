//! What is wrong with a file, and where.

use std::{fmt, io};

use crate::error::{Error, ErrorKind};

/// Where something is wrong.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// From 1.
    Line(u64),
    /// From 0, of the unpacked content.
    Byte(u64),
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
    pub(super) fn line(line: u64, what: impl Into<String>) -> Self {
        Self { place: Place::Line(line), what: what.into() }
    }

    pub(super) fn byte(byte: u64, what: impl Into<String>) -> Self {
        Self { place: Place::Byte(byte), what: what.into() }
    }

    pub(super) fn whole(what: impl Into<String>) -> Self {
        Self { place: Place::Whole, what: what.into() }
    }

    pub(super) fn of(self, name: &str) -> Error {
        let Self { place, what } = self;
        Error::new(ErrorKind::File, format!("{name}: {place}{what}"))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::whole(error.to_string())
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

/// Returns text from a file as an error shows it: in quotes, cut off, nothing unprintable.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_SHOWN: usize = 60;
    match text.char_indices().nth(CHARS_SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
