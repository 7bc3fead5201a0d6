//! Tables: text with a header that names its columns, in commas or tabs.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::fault::{Fault, quoted};
use super::limits::LINE_BYTES_MAX;
use crate::units::exact;

pub(super) struct Table<'a> {
    reader: csv::Reader<Bounded<'a>>,
    columns: Vec<String>,
    record: StringRecord,
}

/// A row of a table, and the line that it begins on.
pub(super) struct Row<'a> {
    pub(super) line: u64,
    fields: &'a StringRecord,
}

impl<'a> Table<'a> {
    /// Reads the header, which is in what the reader has at hand. Fields are parted by tabs where the header has tabs and no
    /// commas. `None` where there is nothing at all.
    pub(super) fn new(reader: &'a mut dyn BufRead) -> Result<Option<Self>, Fault> {
        let head = reader.fill_buf()?;
        let head = head.split(|byte| matches!(byte, b'\n' | b'\r')).find(|line| !line.trim_ascii().is_empty());
        let is_tabbed = head.is_some_and(|head| head.contains(&b'\t') && !head.contains(&b','));
        let mut builder = ReaderBuilder::new();
        builder.delimiter(if is_tabbed { b'\t' } else { b',' }).has_headers(false).flexible(true);
        let mut table = Self {
            reader: builder.from_reader(Bounded::new(reader)),
            columns: Vec::new(),
            record: StringRecord::new(),
        };
        let Some(header) = table.next()? else { return Ok(None) };
        let columns = header.fields.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
        table.columns = columns;
        Ok(Some(table))
    }

    /// The names of the columns.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Where the first column of one of these names is.
    pub(super) fn place(&self, names: &[&str]) -> Option<usize> {
        self.columns.iter().position(|column| names.contains(&&**column))
    }

    /// Returns the next row that is not empty, or `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Row<'_>>, Fault> {
        let line = loop {
            let begin = self.reader.position().byte();
            self.reader.get_mut().forget_lines_before(begin);
            let read = self.reader.read_record(&mut self.record);
            // Empty lines are passed over before a row, so it begins where the first line does that is not.
            let line = self.reader.get_mut().row_line();
            if !read.map_err(|error| fault(error, line))? {
                return Ok(None);
            }
            if self.record.len() > 1 || self.record.iter().any(|field| !field.trim().is_empty()) {
                break line;
            }
        };
        if !self.columns.is_empty() && self.record.len() != self.columns.len() {
            let (expected, found) = (self.columns.len(), self.record.len());
            let what = format!("expected {expected} fields, as in the header, found {found}");
            return Err(Fault::line(line, what));
        }
        Ok(Some(Row { line, fields: &self.record }))
    }
}

impl<'a> Row<'a> {
    /// A field as it is.
    pub(super) fn text(&self, place: usize) -> &'a str {
        self.fields.get(place).unwrap_or("")
    }

    /// A field without blanks around it.
    pub(super) fn field(&self, place: usize) -> &'a str {
        self.text(place).trim()
    }

    pub(super) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::line(self.line, what)
    }

    /// The row as an error shows it.
    pub(super) fn shown(&self) -> String {
        quoted(&self.fields.iter().collect::<Vec<_>>().join(","))
    }
}

fn fault(error: csv::Error, line: u64) -> Fault {
    match error.into_kind() {
        ErrorKind::Io(error) => error.into(),
        ErrorKind::Utf8 { err, .. } => Fault::line(line, format!("expected text in UTF-8: {err}")),
        // None of the others comes of reading rows of any length.
        kind => Fault::line(line, format!("expected a table, found {kind:?}")),
    }
}

/// A text whose rows are of a length that rows have, so that a quote without an end does not fill the memory; and where its
/// lines begin.
struct Bounded<'a> {
    reader: &'a mut dyn BufRead,
    /// Bytes read.
    at: u64,
    /// The number of the line that is being read, and whether it is empty so far.
    line: u64,
    is_empty: bool,
    /// Place and number of the lines that are not empty, from the row on that is being read.
    begins: VecDeque<(u64, u64)>,
}

impl<'a> Bounded<'a> {
    fn new(reader: &'a mut dyn BufRead) -> Self {
        Self { reader, at: 0, line: 1, is_empty: true, begins: VecDeque::new() }
    }

    fn forget_lines_before(&mut self, byte: u64) {
        while self.begins.front().is_some_and(|(begin, _)| *begin < byte) {
            self.begins.pop_front();
        }
    }

    /// Returns the number of the first line of the row, or of the last line of all where there is no row.
    fn row_line(&self) -> u64 {
        self.begins.front().map_or(self.line, |(_, line)| *line)
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.begins.front().is_some_and(|(begin, _)| self.at - begin > LINE_BYTES_MAX) {
            let (line, most) = (self.row_line(), exact(LINE_BYTES_MAX));
            return Err(io::Error::other(format!("line {line}: expected a row of at most {most}, found a longer one")));
        }
        let read = self.reader.read(to)?;
        for byte in &to[..read] {
            if matches!(byte, b'\n' | b'\r') {
                self.line += u64::from(*byte == b'\n');
                self.is_empty = true;
            } else if std::mem::take(&mut self.is_empty) {
                self.begins.push_back((self.at, self.line));
            }
            self.at += 1;
        }
        Ok(read)
    }
}
