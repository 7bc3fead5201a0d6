//! The log of RMM's `logging_resource_adaptor`: `Thread,Time,Action,Pointer,Size,Stream`.
//!
//! `allocate` is written after the block is there and `free` before it is gone, so the order of the lines is an order of
//! events; an `allocate failure` has no pointer.

use super::addresses::{Entry, Log};
use super::parse::{Fault, quoted};
use super::{Trace, TraceBuilder};

pub(super) const HEADER: &str = "Thread,Time,Action,Pointer,Size,Stream";

pub(super) fn is_header(line: &str) -> bool {
    let mut columns = line.split(',').map(str::trim);
    columns.any(|column| column == "Action") && line.contains("Pointer") && line.contains("Size")
}

pub(super) fn read(text: &str, stem: &str) -> Result<Trace, Fault> {
    let mut lines = text.lines().enumerate();
    let columns: Vec<&str> = lines.next().map_or("", |(_, header)| header).split(',').map(str::trim).collect();
    let column = |name: &str| {
        let missing = || Fault::line(1, format!("expected the columns {HEADER}, and {name} is not there"));
        columns.iter().position(|column| *column == name).ok_or_else(missing)
    };
    let (action, pointer, size) = (column("Action")?, column("Pointer")?, column("Size")?);
    let (mut log, mut places) = (Log::default(), Vec::new());
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let of = |column: usize| fields.get(column).copied().unwrap_or("");
        let entry = entry(of(action), of(pointer), of(size));
        let entry = entry.ok_or_else(|| {
            let expected = "expected allocate, free or allocate failure, an address and a size";
            Fault::line(index + 1, format!("{expected} in the columns of line 1, found {}", quoted(line)))
        })?;
        // Nothing was allocated where nothing was asked for, though it has a line.
        if !matches!(entry, Entry::Alloc { bytes: 0, .. } | Entry::Free { bytes: 0, .. }) {
            log.entries.push(entry);
            places.push(index + 1);
        }
    }
    let mut builder = TraceBuilder::new(stem);
    builder.header("trace", stem);
    builder.header("framework", "RMM");
    log.trace(builder).map_err(|(entry, what)| Fault::line(places.get(entry).copied().unwrap_or(1), what))
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
