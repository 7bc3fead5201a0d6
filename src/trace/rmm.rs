//! The log of RMM's `logging_resource_adaptor`: `Thread,Time,Action,Pointer,Size,Stream`.
//!
//! `allocate` is written after the block is there and `free` before it is gone, so the order of the lines is an order of
//! events; an `allocate failure` has no pointer.

use std::io::BufRead;

use super::addresses::{Ends, Entry, add};
use super::fault::Fault;
use super::table::Table;
use super::{Trace, TraceBuilder};

pub(super) const HEADER: &str = "Thread,Time,Action,Pointer,Size,Stream";

pub(super) fn is_header(line: &str) -> bool {
    let mut columns = line.split([',', '\t']).map(|column| column.trim().trim_matches('"'));
    columns.any(|column| column == "Action") && line.contains("Pointer") && line.contains("Size")
}

pub(super) fn read(reader: &mut dyn BufRead, stem: &str) -> Result<Trace, Fault> {
    let missing = |name: &str| Fault::line(1, format!("expected the columns {HEADER}, and {name} is not there"));
    let mut table = Table::new(reader)?.ok_or_else(|| missing("Action"))?;
    let column = |name: &str| table.place(&[name]).ok_or_else(|| missing(name));
    let (action, pointer, size) = (column("Action")?, column("Pointer")?, column("Size")?);
    let (mut entries, mut places) = (Vec::new(), Vec::new());
    while let Some(row) = table.next()? {
        let entry = entry(row.field(action), row.field(pointer), row.field(size));
        let entry = entry.ok_or_else(|| {
            let expected = "expected allocate, free or allocate failure, an address and a size";
            row.fault(format!("{expected} in the columns of line 1, found {}", row.shown()))
        })?;
        // Nothing was allocated where nothing was asked for, though it has a line.
        if !matches!(entry, Entry::Alloc { bytes: 0, .. } | Entry::Free { bytes: 0, .. }) {
            entries.push(entry);
            places.push(row.line);
        }
    }
    let mut builder = TraceBuilder::new(stem);
    builder.header("trace", stem);
    builder.header("framework", "RMM");
    add(&mut builder, entries.iter().copied(), &Ends::default())
        .map_err(|(entry, what)| Fault::line(places.get(entry).copied().unwrap_or(1), what))?;
    Ok(builder.finish())
}

fn entry(action: &str, pointer: &str, size: &str) -> Option<Entry> {
    let bytes = size.parse().ok()?;
    Some(match action {
        "allocate" => Entry::Alloc { address: address(pointer)?, bytes },
        "free" | "deallocate" => Entry::Free { address: address(pointer)?, bytes },
        "allocate failure" => Entry::Failure { bytes },
        _ => return None,
    })
}

/// As C prints a pointer: always in base 16, with or without the sign of it.
fn address(text: &str) -> Option<u64> {
    match text {
        "(nil)" => Some(0),
        _ => u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok(),
    }
}
