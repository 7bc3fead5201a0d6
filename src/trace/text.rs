//! The text format, as [`super`] describes it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::fault::{Fault, quoted};
use super::parse::failed;
use super::source::Lines;
use super::{Event, Trace, TraceBuilder};
use crate::error::Result;

/// Keys of the header that follow from the events.
const COUNTED: [&str; 4] = ["events", "allocations", "frees", "max_live_bytes"];

pub(super) fn read(text: &mut dyn BufRead, stem: &str) -> Result<Trace, Fault> {
    let mut reader = Reader { builder: TraceBuilder::new(stem), ids: HashMap::new() };
    let mut lines = Lines::new(text);
    while let Some(line) = lines.next()? {
        let read = reader.line(line);
        read.map_err(|what| Fault::line(lines.number, what))?;
    }
    let trace = reader.builder.finish();
    check_counts(&trace)?;
    Ok(trace)
}

struct Reader {
    builder: TraceBuilder,
    /// Of the blocks alive: the file's ids and ours.
    ids: HashMap<u64, u32>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("a ") {
            self.alloc(rest, line)
        } else if let Some(rest) = line.strip_prefix("f ") {
            self.free(rest, line)
        } else if let Some(rest) = line.strip_prefix('#') {
            self.comment(rest, line)
        } else if line.trim().is_empty() {
            Ok(())
        } else {
            Err(format!("expected \"a <id> <bytes> [<label>]\", \"f <id>\" or \"# ...\", found {}", quoted(line)))
        }
    }

    fn alloc(&mut self, rest: &str, line: &str) -> Result<(), String> {
        let expected = || format!("expected \"a <id> <bytes> [<label>]\", found {}", quoted(line));
        let (id, rest) = word(rest);
        let (bytes, label) = word(rest);
        let (id, bytes) = number(id).zip(number(bytes)).ok_or_else(expected)?;
        if self.ids.contains_key(&id) {
            return Err(format!("expected the id of no block that is alive, found {id}, which is"));
        }
        let our_id = self.builder.alloc(bytes, &unescaped(label)).map_err(|error| error.to_string())?;
        self.ids.insert(id, our_id);
        Ok(())
    }

    fn free(&mut self, rest: &str, line: &str) -> Result<(), String> {
        let id = number(rest.trim_end()).ok_or_else(|| format!("expected \"f <id>\", found {}", quoted(line)))?;
        let our_id = self.ids.remove(&id);
        let our_id =
            our_id.ok_or_else(|| format!("expected the id of a block that is alive, found {id}, which is not"))?;
        self.builder.free(our_id).map_err(|error| error.to_string())
    }

    /// What older readers skip, or know.
    fn comment(&mut self, rest: &str, line: &str) -> Result<(), String> {
        let rest = rest.trim_start();
        if let Some((key, value)) = rest.split_once(':').filter(|(key, _)| is_key(key)) {
            self.builder.header(key, value.trim());
        } else if let Some(step) = rest.strip_prefix("step ") {
            let step = number(step.trim_end());
            self.builder.step(step.ok_or_else(|| format!("expected \"# step N\", found {}", quoted(line)))?);
        } else if let Some(failure) = rest.strip_prefix("failure ") {
            let (bytes, label) = word(failure);
            let expected = || format!("expected \"# failure <bytes> [<label>]\", found {}", quoted(line));
            self.builder.failure(number(bytes).ok_or_else(expected)?, &unescaped(label));
        }
        Ok(())
    }
}

/// The text up to a space, and what comes after it.
fn word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c))
}

pub(super) fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescaped(text: &str) -> String {
    let mut label = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let meant = match (c, chars.peek()) {
            ('\\', Some('\\')) => Some('\\'),
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some('r')) => Some('\r'),
            _ => None,
        };
        if meant.is_some() {
            chars.next();
        }
        label.push(meant.unwrap_or(c));
    }
    label
}

fn counted(trace: &Trace, key: &str) -> u64 {
    match key {
        "events" => trace.allocations() + trace.frees(),
        "allocations" => trace.allocations(),
        "frees" => trace.frees(),
        _ => trace.live_peak_bytes(),
    }
}

fn check_counts(trace: &Trace) -> Result<(), Fault> {
    for key in COUNTED {
        let Some(says) = trace.header_of(key) else { continue };
        let found = counted(trace, key);
        if number(says) != Some(found) {
            let what =
                format!("the header says {key}: {}, but the file comes to {found}: is it cut off?", quoted(says));
            return Err(Fault::whole(what));
        }
    }
    Ok(())
}

/// The header is as it was read, with the name and the counts where they are not in it.
pub(super) fn write(trace: &Trace) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let value = value.replace(['\n', '\r'], " ");
        // Writing to a string does not fail.
        let _ = writeln!(text, "# {key}: {}", value.trim());
    };
    if trace.header_of("trace").is_none() {
        line("trace", &trace.name);
    }
    for (key, value) in trace.header.iter().filter(|(key, _)| is_key(key)) {
        // Counts that were told before the last event are not true any more.
        let counted = COUNTED.contains(&&**key).then(|| counted(trace, key).to_string());
        line(key, counted.as_deref().unwrap_or(value));
    }
    for key in COUNTED.iter().filter(|key| trace.header_of(key).is_none()) {
        line(key, &counted(trace, key).to_string());
    }
    for event in &trace.events {
        let _ = match *event {
            Event::Alloc { id, bytes, label } => match trace.label(label) {
                "" => writeln!(text, "a {id} {bytes}"),
                label => writeln!(text, "a {id} {bytes} {}", escaped(label)),
            },
            Event::Free { id } => writeln!(text, "f {id}"),
            Event::Step { number } => writeln!(text, "# step {number}"),
            Event::Failure { bytes, label } => match trace.label(label) {
                "" => writeln!(text, "# failure {bytes}"),
                label => writeln!(text, "# failure {bytes} {}", escaped(label)),
            },
        };
    }
    text
}

pub(super) fn write_file(trace: &Trace, path: &Path) -> Result<()> {
    let text = write(trace);
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let bytes = if packed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish())
    } else {
        Ok(text.into_bytes())
    };
    bytes.and_then(|bytes| std::fs::write(path, bytes)).map_err(|error| failed(&path.display().to_string(), error))
}
