//! Lifetimes, as MiniMalloc's instances have them: `id,lower,upper,size`. A buffer of `size` bytes is alive from `lower` up
//! to, and not at, `upper`.

use super::parse::{Fault, quoted};
use super::{Trace, TraceBuilder};

pub(super) const HEADER: &str = "id,lower,upper,size";

struct Lifetime<'a> {
    id: &'a str,
    lower: u64,
    upper: u64,
    bytes: u64,
}

pub(super) fn is_header(line: &str) -> bool {
    let columns: Vec<&str> = line.split(',').map(str::trim).collect();
    ["lower", "upper", "size"].iter().all(|name| columns.contains(name))
}

/// The ids become labels. At one time frees come before allocations, both in the order of the file.
pub(super) fn read(text: &str, stem: &str) -> Result<Trace, Fault> {
    let lifetimes = lifetimes(text)?;
    // Time, whether it begins then, and which.
    let mut changes: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * lifetimes.len());
    for (index, (_, lifetime)) in lifetimes.iter().enumerate() {
        changes.push((lifetime.lower, true, index));
        changes.push((lifetime.upper, false, index));
    }
    changes.sort_unstable();
    let mut builder = TraceBuilder::new(stem);
    builder.header("trace", stem);
    builder.step(1);
    let mut ids = vec![0; lifetimes.len()];
    for (_, begins, index) in changes {
        let (line, lifetime) = &lifetimes[index];
        let done = if begins {
            builder.alloc(lifetime.bytes, lifetime.id).map(|id| ids[index] = id)
        } else {
            builder.free(ids[index])
        };
        done.map_err(|error| Fault::line(*line, error.to_string()))?;
    }
    Ok(builder.finish())
}

/// With the lines they are on.
fn lifetimes(text: &str) -> Result<Vec<(usize, Lifetime<'_>)>, Fault> {
    let mut lines = text.lines().enumerate();
    let columns: Vec<&str> = lines.next().map_or("", |(_, header)| header).split(',').map(str::trim).collect();
    let place = |name: &str| columns.iter().position(|column| *column == name);
    let places = [place("id"), place("lower"), place("upper"), place("size")];
    let mut lifetimes = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [id, lower, upper, size] = places.map(|place| place.and_then(|place| fields.get(place)).copied());
        let number = |field: Option<&str>| field.and_then(|field| field.parse::<u64>().ok());
        let found = || quoted(line);
        let (Some(lower), Some(upper), Some(bytes)) = (number(lower), number(upper), number(size)) else {
            let what = format!("expected whole numbers for lower, upper and size, found {}", found());
            return Err(Fault::line(index + 1, what));
        };
        if lower >= upper {
            let what = format!("expected upper to be after lower, found {lower} to {upper} in {}", found());
            return Err(Fault::line(index + 1, what));
        }
        lifetimes.push((index + 1, Lifetime { id: id.unwrap_or(""), lower, upper, bytes }));
    }
    Ok(lifetimes)
}
