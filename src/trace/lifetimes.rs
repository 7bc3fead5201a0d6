//! A trace of lifetimes: a buffer is alive from its `lower` up to, and not at, its `upper`.

use std::io::BufRead;

use super::csv::Reader;
use super::fault::Fault;
use super::{Trace, TraceBuilder};

pub(super) const HEADER: &str = "id,lower,upper,size";

pub(super) fn is_header(line: &str) -> bool {
    let columns: Vec<&str> = line.split([',', '\t']).map(|column| column.trim().trim_matches('"')).collect();
    let has_one = |names: &[&str]| names.iter().any(|name| columns.contains(name));
    has_one(&["size"]) && has_one(&["lower", "begin", "start"]) && has_one(&["upper", "end"])
}

/// The ids become labels. At one time frees come before allocations, both in the order of the file. A buffer that is never
/// live needs no memory and is left out.
pub(super) fn read(reader: &mut dyn BufRead, stem: &str) -> Result<Trace, Fault> {
    let (lifetimes, lines) = Reader::new(reader)?.read()?;
    // Time, whether it begins then, and which.
    let mut changes: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * lifetimes.len());
    for (index, lifetime) in lifetimes.iter().enumerate().filter(|(_, lifetime)| lifetime.lower < lifetime.upper) {
        changes.push((lifetime.lower, true, index));
        changes.push((lifetime.upper, false, index));
    }
    changes.sort_unstable();
    let mut builder = TraceBuilder::new(stem);
    builder.header("trace", stem);
    builder.step(1);
    let mut ids = vec![0; lifetimes.len()];
    for (_, begins, index) in changes {
        let done = match begins {
            true => builder.alloc(lifetimes[index].bytes, &lifetimes.ids()[index]).map(|id| ids[index] = id),
            false => builder.free(ids[index]),
        };
        done.map_err(|error| Fault::line(lines[index], error.to_string()))?;
    }
    Ok(builder.finish())
}
