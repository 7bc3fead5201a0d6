//! Lifetimes as a table: a header that names the columns, then a line for each buffer.

use std::fmt::Display;
use std::io::{BufRead, Write};

use super::fault::{Fault, quoted};
use super::source::Source;
use super::table::{Row, Table};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Lifetime, Lifetimes, Plan};

const ID: [&str; 3] = ["id", "buffer", "buffer_id"];
const LOWER: [&str; 3] = ["lower", "begin", "start"];
const UPPER: [&str; 2] = ["upper", END];
const SIZE: [&str; 1] = ["size"];

/// The first time after `upper` is `upper`; that after `end` is one later.
const END: &str = "end";

const ALIGNMENT: &str = "alignment";
const GAPS: &str = "gaps";

/// What is not read: a place that was found, and one that was wished for.
const UNREAD: [&str; 2] = ["offset", "hint"];

/// Reads lifetimes from a table in commas or tabs, gzipped or not, as MiniMalloc has it. The columns may stand in any
/// order.
///
/// | column | what |
/// | --- | --- |
/// | `id`, `buffer` or `buffer_id` | any text; two rows may have the same |
/// | `lower`, `begin` or `start` | the first time at which the buffer is live |
/// | `upper` | the first time after that at which it is not |
/// | `end`, in the place of `upper` | the last time at which it is |
/// | `size` | bytes |
/// | `alignment` (optional) | a power of two: [`Lifetimes::aligns`] |
/// | `gaps` (optional) | intervals such as `3-6 8-9@0:64` in which the buffer is not needed. Here it stays live in them: a plan keeps its place, and is right for MiniMalloc too |
/// | `offset`, `hint` (optional) | not read |
///
/// Times and gaps are whole numbers and may be negative: then the clock starts at the least of the times, so that
/// lifetimes count up from 0. A field may be in quotes. Empty lines are passed over. `name` is what errors call the file.
///
/// # Errors
/// [`ErrorKind::File`] names the file, the line, and what was expected there: a column that is missing, unknown or
/// there twice, a line with too few or too many fields, a number that is none, a lifetime that ends before it begins,
/// times that lie 2^64 or more apart, a row over 1 MiB, text that is not UTF-8, and whatever the reader fails with.
pub fn read_csv(reader: impl BufRead, name: &str) -> Result<Lifetimes<String>> {
    read(reader).map_err(|fault| fault.of(name))
}

fn read(reader: impl BufRead) -> Result<Lifetimes<String>, Fault> {
    let mut source = Source::new(reader)?;
    source.head()?;
    let (lifetimes, _) = Reader::new(&mut *source.reader)?.read()?;
    Ok(lifetimes)
}

/// Writes lifetimes with the offsets that a plan has for them, as CSV with the columns `id,lower,upper,size,offset`, and
/// `alignment` before the last where a buffer needs one. [`read_csv`] reads the same lifetimes from it.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a plan for another number of lifetimes, and [`ErrorKind::File`] with what the writer fails with.
pub fn write_csv<Id: Display>(writer: impl Write, lifetimes: &Lifetimes<Id>, plan: &Plan) -> Result<()> {
    if plan.offsets.len() != lifetimes.len() {
        let message = format!("a plan for {} lifetimes is no plan for {}", plan.offsets.len(), lifetimes.len());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let mut writer = csv::Writer::from_writer(writer);
    let is_aligned = lifetimes.aligns().iter().any(|align| *align != 1);
    let mut write = || {
        for name in ["id", "lower", "upper", "size"].into_iter().chain(is_aligned.then_some(ALIGNMENT)) {
            writer.write_field(name)?;
        }
        writer.write_record(["offset"])?;
        let rows = lifetimes.ids().iter().zip(lifetimes.iter()).zip(lifetimes.aligns());
        for (((id, lifetime), align), offset) in rows.zip(&plan.offsets) {
            writer.write_field(id.to_string())?;
            for number in
                [lifetime.lower, lifetime.upper, lifetime.bytes].into_iter().chain(is_aligned.then_some(*align))
            {
                writer.write_field(number.to_string())?;
            }
            writer.write_record([offset.to_string()])?;
        }
        writer.flush().map_err(csv::Error::from)
    };
    write().map_err(|error| Error::new(ErrorKind::File, "writing a plan failed").with_source(error))
}

/// Where each column is.
struct Columns {
    id: usize,
    lower: usize,
    upper: usize,
    size: usize,
    alignment: Option<usize>,
    gaps: Option<usize>,
    /// Upper ends are the last times, not the first after them.
    is_end: bool,
}

pub(super) struct Reader<'a> {
    table: Table<'a>,
    columns: Columns,
}

impl<'a> Reader<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead) -> Result<Self, Fault> {
        let Some(table) = Table::new(reader)? else {
            return Err(Fault::line(1, "expected a header id,lower,upper,size, found the end of the file"));
        };
        let columns = Columns::of(&table).map_err(|found| {
            Fault::line(1, format!("expected a header with id, lower, upper and size, found {found}"))
        })?;
        Ok(Self { table, columns })
    }

    /// The lifetimes, and the line that each is on.
    pub(super) fn read(mut self) -> Result<(Lifetimes<String>, Vec<u64>), Fault> {
        let (mut rows, mut lines) = (Vec::new(), Vec::new());
        let (mut first, mut last) = (i128::MAX, i128::MIN);
        while let Some(row) = self.table.next()? {
            let Columns { id, size, .. } = self.columns;
            let (lower, upper) = self.columns.times(&row)?;
            (first, last) = (first.min(lower), last.max(upper));
            // With times below 0 all of them are moved, once the least of them is known.
            if last - first.min(0) > i128::from(u64::MAX) {
                return Err(row.fault(format!("expected times less than 2^64 apart, found {first} and {last}")));
            }
            let lifetime = Lifetime::new(lower as u64, upper as u64, bytes(&row, size)?);
            rows.push((row.text(id).to_owned(), lifetime, self.columns.align_bytes(&row)?));
            lines.push(row.line);
        }
        let mut lifetimes = Lifetimes::new();
        let moved = |time: u64| time.wrapping_sub(first.min(0) as u64);
        for (id, Lifetime { lower, upper, bytes }, align_bytes) in rows {
            lifetimes.push_aligned(id, Lifetime::new(moved(lower), moved(upper), bytes), align_bytes);
        }
        Ok((lifetimes, lines))
    }
}

impl Columns {
    fn of(table: &Table<'_>) -> Result<Self, String> {
        let known = [&ID[..], &LOWER, &UPPER, &SIZE, &[ALIGNMENT], &[GAPS], &[UNREAD[0]], &[UNREAD[1]]];
        for names in known {
            let mut those = table.columns().iter().filter(|column| names.contains(&&***column));
            if let (Some(first), Some(second)) = (those.next(), those.next()) {
                return Err(if first == second {
                    format!("{first} twice")
                } else {
                    format!("both {first} and {second}")
                });
            }
        }
        if let Some(other) = table.columns().iter().find(|column| !known.concat().contains(&&***column)) {
            return Err(format!("a column {}", quoted(other)));
        }
        let place = |names: &[&str]| table.place(names).ok_or_else(|| format!("no {}", names[0]));
        Ok(Self {
            id: place(&ID)?,
            lower: place(&LOWER)?,
            upper: place(&UPPER)?,
            size: place(&SIZE)?,
            alignment: table.place(&[ALIGNMENT]),
            gaps: table.place(&[GAPS]),
            is_end: table.place(&[END]).is_some(),
        })
    }

    /// When a row's buffer is live.
    fn times(&self, row: &Row<'_>) -> Result<(i128, i128), Fault> {
        let (lower, upper) = (time(row, self.lower, "lower")?, time(row, self.upper, "upper")?);
        let after = upper + i128::from(self.is_end);
        if lower > after {
            return Err(row.fault(format!("expected an upper of at least lower, {lower}, found {upper}")));
        }
        for gap in self.gaps.map_or("", |gaps| row.field(gaps)).split_ascii_whitespace() {
            let interval = interval(gap);
            if !interval.is_some_and(|(begin, end)| lower <= begin && end <= upper) {
                let what = format!("expected gaps such as 3-6 within {lower}-{upper}, found {}", quoted(gap));
                return Err(row.fault(what));
            }
        }
        Ok((lower, after))
    }

    fn align_bytes(&self, row: &Row<'_>) -> Result<u64, Fault> {
        let Some(text) = self.alignment.map(|place| row.field(place)) else { return Ok(1) };
        let align_bytes = text.parse().ok().filter(|align: &u64| align.is_power_of_two());
        align_bytes.ok_or_else(|| row.fault(format!("expected a power of two for alignment, found {}", quoted(text))))
    }
}

/// A gap: times with a line between them, and maybe which bytes it is of.
fn interval(gap: &str) -> Option<(i128, i128)> {
    let (times, window) = gap.split_once('@').map_or((gap, None), |(times, window)| (times, Some(window)));
    if let Some(window) = window {
        let (begin, end) = window.split_once(':')?;
        begin.parse::<u64>().ok().filter(|begin| end.parse().is_ok_and(|end: u64| *begin <= end))?;
    }
    // The line after a first digit is no sign.
    let line = times.char_indices().skip(1).find(|(_, c)| *c == '-')?.0;
    let (begin, end) = (whole(&times[..line])?, whole(&times[line + 1..])?);
    (begin <= end).then_some((begin, end))
}

/// Digits, with or without a minus: `parse` alone would take a plus too.
fn whole(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn time(row: &Row<'_>, place: usize, column: &str) -> Result<i128, Fault> {
    let text = row.field(place);
    let time = whole(text).filter(|time| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(time));
    time.ok_or_else(|| {
        row.fault(format!("expected a whole number from -2^63 to 2^64 - 1 for {column}, found {}", quoted(text)))
    })
}

fn bytes(row: &Row<'_>, place: usize) -> Result<u64, Fault> {
    let text = row.field(place);
    let bytes = whole(text).and_then(|bytes| u64::try_from(bytes).ok());
    bytes.ok_or_else(|| {
        row.fault(format!("expected a whole number from 0 to 2^64 - 1 for size, found {}", quoted(text)))
    })
}
