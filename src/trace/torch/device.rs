//! What a snapshot says of one device's memory, and the trace that it comes to.

use std::fmt;

use super::pickle::{AnnotationRow, EntryRow};
use super::words::Word;
use crate::trace::addresses::{Ends, Entry, add, with_steps};
use crate::trace::fault::Fault;
use crate::trace::{RESERVED_PEAK, Trace, TraceBuilder, history};

/// A device's memory, or the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Memory {
    /// The number may be -1, where PyTorch knew none.
    Device(i64),
    /// The host's, which devices can copy from.
    Pinned,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(index) => write!(f, "device {index}"),
            Self::Pinned => f.write_str("pinned host memory"),
        }
    }
}

/// What a device's entries and segments say.
#[derive(Default)]
pub(super) struct Device {
    /// The oldest first.
    pub(super) entries: Vec<EntryRow>,
    pub(super) annotations: Vec<AnnotationRow>,
    /// Address and bytes.
    pub(super) alive_at_end: Vec<(u64, u64)>,
    pub(super) reserved_at_end_bytes: i128,
    pub(super) has_segments: bool,
}

impl Device {
    /// Whether there is anything to make a trace of.
    pub(super) fn has_something(&self) -> bool {
        !self.entries.is_empty() || !self.alive_at_end.is_empty()
    }

    pub(super) fn trace(mut self, name: &str, memory: Memory) -> Result<Trace, Fault> {
        let mut builder = TraceBuilder::new(name);
        builder.header("trace", name);
        builder.header("framework", "torch, from a memory snapshot");
        match memory {
            Memory::Device(index) => builder.header("device", &index.to_string()),
            Memory::Pinned => builder.header("device", "pinned host memory"),
        }
        let steps = self.steps();
        let ends = Ends { alive: std::mem::take(&mut self.alive_at_end), is_all: self.has_segments };
        let entries = with_steps(&self.entries, &steps, |row| row.time_us, entry);
        let lacks = add(&mut builder, entries, &ends)
            .map_err(|(entry, what)| Fault::whole(format!("{memory}, allocation or free {entry}: {what}")))?;
        let reserved_peak_bytes = self.reserved_peak_bytes();
        // With less than was alive, the history lacks what PyTorch reserved.
        if reserved_peak_bytes >= builder.live_bytes().1.max(1) {
            builder.header(RESERVED_PEAK, &reserved_peak_bytes.to_string());
        }
        match self.entries.is_empty() {
            true => history::tell_none(&mut builder),
            false => history::tell(&mut builder, &lacks),
        }
        Ok(builder.finish())
    }

    /// The most that was reserved at any time, as it follows from what was reserved at the end.
    fn reserved_peak_bytes(&self) -> u64 {
        let mut bytes = self.reserved_at_end_bytes;
        let mut peak_bytes = bytes;
        for entry in self.entries.iter().rev() {
            match entry.action {
                Word::SegmentAlloc | Word::SegmentMap => bytes -= i128::from(entry.bytes),
                Word::SegmentFree | Word::SegmentUnmap => bytes += i128::from(entry.bytes),
                _ => {}
            }
            peak_bytes = peak_bytes.max(bytes);
        }
        u64::try_from(peak_bytes).unwrap_or(0)
    }

    /// When steps end: with the optimizer's own step, or else before its gradients are zeroed. Each time is the last of the
    /// step's entries.
    fn steps(&self) -> Vec<i64> {
        let ends = |name, is_end| {
            let those = self.annotations.iter().filter(move |row| row.name == name && row.is_end == is_end);
            those.map(|row| row.time_us)
        };
        let mut steps: Vec<i64> = ends(Word::OptimizerStep, true).collect();
        if steps.is_empty() {
            steps = ends(Word::ZeroGrad, false).map(|start| start.saturating_sub(1)).collect();
        }
        steps.sort_unstable();
        steps
    }
}

fn entry(row: &EntryRow) -> Option<Entry> {
    let EntryRow { address, bytes, .. } = *row;
    match row.action {
        Word::Alloc => Some(Entry::Alloc { address, bytes }),
        Word::FreeCompleted => Some(Entry::Free { address, bytes }),
        Word::Oom => Some(Entry::Failure { bytes }),
        Word::SegmentFree | Word::SegmentUnmap => Some(Entry::Gone { address, bytes }),
        _ => None,
    }
}
