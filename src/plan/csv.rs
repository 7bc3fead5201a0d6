//! Lifetimes as text: a header that names the columns `id`, `lower`, `upper` and `size`, then a line for each buffer.

use std::collections::HashMap;
use std::io::{BufRead, Read, Write};

use super::{Lifetime, Lifetimes, Plan};
use crate::error::{Error, ErrorKind, Result};

/// A longer line is no line of such a file: it would only fill the memory.
const LINE_BYTES_MAX: u64 = 1 << 16;

/// The columns that must be there, in any order. `offset` may be there too, as in a file that [`write_csv`] wrote, and
/// is not read.
const COLUMNS: [&str; 4] = ["id", "lower", "upper", "size"];

/// Reads lifetimes from CSV: a header with `id`, `lower`, `upper` and `size` in any order, then one buffer a line, live
/// in `[lower, upper)`. Ids are any text without a comma; the other fields are whole numbers from 0 to 2^64 - 1. Empty
/// lines are passed over.
///
/// `name` is what errors call the file.
///
/// # Errors
///
/// Names the file, the line, and what was expected there: a column that is missing or unknown, a line with too few or
/// too many fields, a number that is none, a lifetime that ends before it begins, an id that was there before, a line
/// over 64 KiB, text that is not UTF-8, and whatever the reader fails with.
pub fn read_csv(reader: impl BufRead, name: &str) -> Result<Lifetimes<String>> {
    let mut lines = Lines { reader, name, number: 0, bytes: Vec::new() };
    let columns = match lines.next()? {
        Some(header) => columns(header).map_err(|problem| lines.error(&problem))?,
        None => return Err(lines.error("expected a header id,lower,upper,size, found the end of the file")),
    };
    let mut lifetimes = Lifetimes::new();
    let mut line_of = HashMap::new();
    while let Some(line) = lines.next()? {
        let (id, lifetime) = row(line, &columns).map_err(|problem| lines.error(&problem))?;
        if let Some(before) = line_of.insert(id.clone(), lines.number) {
            return Err(lines.error(&format!("expected an id of its own, found {id:?}, which line {before} has")));
        }
        lifetimes.push(id, lifetime);
    }
    Ok(lifetimes)
}

/// Writes lifetimes with the offsets that a plan has for them, as CSV with the columns `id,lower,upper,size,offset`.
///
/// # Errors
///
/// What the writer fails with, and a plan for another number of lifetimes.
pub fn write_csv<Id: std::fmt::Display>(mut writer: impl Write, lifetimes: &Lifetimes<Id>, plan: &Plan) -> Result<()> {
    if plan.offsets.len() != lifetimes.len() {
        let message = format!("a plan for {} lifetimes is no plan for {}", plan.offsets.len(), lifetimes.len());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let mut write = || {
        writeln!(writer, "id,lower,upper,size,offset")?;
        for ((id, lifetime), offset) in lifetimes.ids().iter().zip(lifetimes.iter()).zip(&plan.offsets) {
            let Lifetime { lower, upper, bytes } = lifetime;
            writeln!(writer, "{id},{lower},{upper},{bytes},{offset}")?;
        }
        writer.flush()
    };
    write().map_err(|error: std::io::Error| Error::new(ErrorKind::Invalid, "writing a plan failed").with_source(error))
}

/// Where each of `COLUMNS` is in a line, and how many fields a line has.
struct Columns {
    places: [usize; 4],
    count: usize,
}

fn columns(header: &str) -> Result<Columns, String> {
    let expected = |found: &str| format!("expected a header with id, lower, upper and size, found {found}");
    let names: Vec<&str> = header.trim_start_matches('\u{feff}').split(',').map(str::trim).collect();
    for (place, name) in names.iter().enumerate() {
        if !COLUMNS.contains(name) && *name != "offset" {
            return Err(expected(&format!("a column {:?}", shortened(name))));
        }
        if names[..place].contains(name) {
            return Err(expected(&format!("{name} twice")));
        }
    }
    let mut places = [0; 4];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        *place = names.iter().position(|name| *name == column).ok_or_else(|| expected(&format!("no {column}")))?;
    }
    Ok(Columns { places, count: names.len() })
}

fn row(line: &str, columns: &Columns) -> Result<(String, Lifetime), String> {
    let count = line.split(',').count();
    if count != columns.count {
        return Err(format!("expected {} fields, found {count}", columns.count));
    }
    let field = |place: usize| line.split(',').nth(columns.places[place]).unwrap_or("").trim();
    let number = |place: usize| {
        let text = field(place);
        text.parse::<u64>().map_err(|_| {
            format!("expected a whole number from 0 to 2^64 - 1 for {}, found {:?}", COLUMNS[place], shortened(text))
        })
    };
    let (lower, upper, bytes) = (number(1)?, number(2)?, number(3)?);
    if lower > upper {
        return Err(format!("expected an upper of at least lower, {lower}, found {upper}"));
    }
    Ok((field(0).to_owned(), Lifetime { lower, upper, bytes }))
}

/// The beginning of a text that may be long.
fn shortened(text: &str) -> String {
    if text.chars().nth(40).is_some() { text.chars().take(40).chain(['…']).collect() } else { text.to_owned() }
}

/// The lines of a file that are not empty.
struct Lines<'a, R> {
    reader: R,
    name: &'a str,
    number: u64,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<'_, R> {
    fn next(&mut self) -> Result<Option<&str>> {
        loop {
            self.bytes.clear();
            self.number += 1;
            let read = self.reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.bytes);
            if let Err(error) = read {
                return Err(self.error("expected text, found an error").with_source(error));
            }
            if self.bytes.is_empty() {
                return Ok(None);
            }
            if self.bytes.len() as u64 > LINE_BYTES_MAX {
                return Err(
                    self.error(&format!("expected a line of at most {LINE_BYTES_MAX} bytes, found a longer one"))
                );
            }
            if !self.bytes.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(&self.bytes) {
            Ok(line) => Ok(Some(line.trim())),
            Err(error) => {
                let message = format!("expected UTF-8 text, found other bytes after the first {}", error.valid_up_to());
                Err(self.error(&message))
            }
        }
    }

    fn error(&self, problem: &str) -> Error {
        Error::new(ErrorKind::Invalid, format!("{}, line {}: {problem}", self.name, self.number))
    }
}
