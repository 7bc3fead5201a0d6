//! Which format a file has. The content says it, and the file's name where the content does not.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::fault::{Fault, quoted};
use super::source::Source;
use super::{Trace, kineto, lifetimes, rmm, text, torch};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn read(path: &Path) -> Result<Vec<Trace>> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| failed(&name, error))?;
    parse(BufReader::new(file), &name)
}

/// Wraps what the system says of a file.
pub(super) fn failed(name: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::File, name).with_source(error)
}

pub(super) fn parse(reader: impl BufRead, name: &str) -> Result<Vec<Trace>> {
    traces(reader, name).map_err(|fault| fault.of(name))
}

fn traces(reader: impl BufRead, name: &str) -> Result<Vec<Trace>, Fault> {
    let mut source = Source::new(reader)?;
    let name = if source.is_packed { name.strip_suffix(".gz").unwrap_or(name) } else { name };
    let head = source.head()?;
    let reader = &mut *source.reader;
    let stem = stem(name);
    if head.is_empty() {
        return Err(Fault::whole("the file is empty"));
    }
    if head.starts_with(b"PK\x03\x04") {
        return Err(Fault::byte(
            0,
            "expected a trace, found a zip archive (a snapshot is saved by pickle.dump, not by torch.save)",
        ));
    }
    // From protocol 2 on a pickle begins with its number, and no text does.
    if head.first() == Some(&0x80) || name.ends_with(".pickle") || name.ends_with(".pkl") {
        return torch::read(reader, &stem);
    }
    if head.trim_ascii_start().starts_with(b"{") || name.ends_with(".json") {
        return kineto::read(reader, &stem);
    }
    let first = String::from_utf8_lossy(&head);
    let first = first.trim_start_matches('\u{feff}').trim();
    let trace = if rmm::is_header(first) {
        rmm::read(reader, &stem)?
    } else if lifetimes::is_header(first) {
        lifetimes::read(reader, &stem)?
    } else if name.ends_with(".csv") || name.ends_with(".tsv") {
        let expected = format!("expected the columns {} or {}", rmm::HEADER, lifetimes::HEADER);
        return Err(Fault::line(1, format!("{expected}, found {}", quoted(first))));
    } else {
        text::read(reader, &stem)?
    };
    Ok(vec![trace])
}

/// Names a trace that has no name of its own: as the file, without folder and ending.
fn stem(name: &str) -> String {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let known = [".trace", ".txt", ".csv", ".tsv", ".pickle", ".pkl", ".json"];
    known.iter().find_map(|end| file.strip_suffix(end)).unwrap_or(file).to_owned()
}
