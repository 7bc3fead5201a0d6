//! Logs of addresses: what PyTorch and RMM write down, where an address names a block from its allocation to its free, and
//! the log may begin when many blocks are already alive, and lack some of what happened.

use std::collections::{BTreeMap, HashMap};

use super::TraceBuilder;
use crate::error::{Error, Result};

/// A line of such a log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    Alloc {
        address: u64,
        bytes: u64,
    },
    Free {
        address: u64,
        bytes: u64,
    },
    Failure {
        bytes: u64,
    },
    /// A step ends here, and the next begins.
    Step,
    /// The range goes back to the system: no block is in it.
    Gone {
        address: u64,
        bytes: u64,
    },
}

/// What a log's writer says beside the entries.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Address and bytes of blocks that are alive at the end.
    pub(super) alive: Vec<(u64, u64)>,
    /// Whether no other block is.
    pub(super) is_all: bool,
}

/// How much of what happened the log lacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lacks {
    /// Blocks that were alive before the first entry, and their bytes.
    pub(super) blocks_before: u64,
    pub(super) bytes_before: u64,
    /// Blocks that must have been freed, though no entry says so.
    pub(super) freed_unseen: u64,
    /// Frees of blocks that are not alive.
    pub(super) frees_left_out: u64,
    /// Blocks that are alive at the end, though the entries say otherwise.
    pub(super) allocated_unseen: u64,
}

/// The blocks alive: address to bytes and id.
type Alive = BTreeMap<u64, (u64, u32)>;

/// Adds the blocks that must have been alive before, by address, and then the entries.
///
/// A block was freed unseen if another is allocated where it is, if its memory goes back to the system, or if it is not
/// among the blocks of the end. A free of a block that is not alive is left out. A block of the end that the entries do not
/// leave alive was allocated unseen, at the end. All three are counted in the header: several threads write one log, and
/// allocators that are reset write nothing.
///
/// # Errors
/// The same as of [`TraceBuilder::alloc`], with the index of the entry.
pub(super) fn add(
    builder: &mut TraceBuilder,
    entries: impl Iterator<Item = Entry> + Clone,
    ends: &Ends,
) -> Result<Lacks, (usize, String)> {
    let at = |index| move |error: Error| (index, error.to_string());
    let mut lacks = Lacks::default();
    let mut alive = Alive::new();
    for (address, bytes) in alive_before(entries.clone(), ends) {
        lacks.freed_unseen += alloc(builder, &mut alive, address, bytes).map_err(at(0))?;
        lacks.blocks_before += 1;
    }
    lacks.bytes_before = builder.live_bytes().0;
    // The recording begins: what was alive stands before its first step.
    let (mut step, mut is_begun, mut has_ended) = (1, false, false);
    builder.step(step);
    for (index, entry) in entries.enumerate() {
        if let Entry::Step = entry {
            has_ended = is_begun;
            continue;
        }
        is_begun = true;
        // A step in which nothing happens is none.
        if std::mem::take(&mut has_ended) {
            step += 1;
            builder.step(step);
        }
        match entry {
            Entry::Alloc { address, bytes } => {
                lacks.freed_unseen += alloc(builder, &mut alive, address, bytes).map_err(at(index))?;
            }
            Entry::Free { address, .. } => match alive.remove(&address) {
                Some((_, id)) => builder.free(id).map_err(at(index))?,
                None => lacks.frees_left_out += 1,
            },
            Entry::Failure { bytes } => builder.failure(bytes, ""),
            Entry::Gone { address, bytes } => {
                lacks.freed_unseen += clear(builder, &mut alive, address, bytes).map_err(at(index))?;
            }
            Entry::Step => {}
        }
    }
    if ends.is_all {
        let mut unseen = ends.alive.clone();
        unseen.retain(|(address, _)| alive.remove(address).is_none());
        lacks.freed_unseen += alive.len() as u64;
        lacks.allocated_unseen = unseen.len() as u64;
        alive.into_values().try_for_each(|(_, id)| builder.free(id)).map_err(at(0))?;
        unseen.into_iter().try_for_each(|(_, bytes)| builder.alloc(bytes, "").map(drop)).map_err(at(0))?;
    }
    let counts = [
        ("freed_unseen", lacks.freed_unseen),
        ("frees_left_out", lacks.frees_left_out),
        ("allocated_unseen", lacks.allocated_unseen),
    ];
    for (key, count) in counts {
        if count > 0 {
            builder.header(key, &count.to_string());
        }
    }
    Ok(lacks)
}

/// Puts the ends of steps between a log's rows, which are in the order of their times: each before the first row that is later.
pub(super) fn with_steps<R, T: PartialOrd>(
    rows: &[R],
    ends: &[T],
    time_of: fn(&R) -> T,
    entry_of: fn(&R) -> Option<Entry>,
) -> impl Iterator<Item = Entry> + Clone {
    let mut ended = 0;
    rows.iter().flat_map(move |row| {
        let before = ended;
        // By halves: another device may have had all of these steps.
        ended += ends[ended..].partition_point(|end| *end < time_of(row));
        [(ended > before).then_some(Entry::Step), entry_of(row)].into_iter().flatten()
    })
}

/// Allocates a block; returns how many others that were in its place were freed unseen.
fn alloc(builder: &mut TraceBuilder, alive: &mut Alive, address: u64, bytes: u64) -> Result<u64> {
    let freed = clear(builder, alive, address, bytes)?;
    alive.insert(address, (bytes, builder.alloc(bytes, "")?));
    Ok(freed)
}

/// Frees all blocks that have a part of the range; returns how many those are.
fn clear(builder: &mut TraceBuilder, alive: &mut Alive, address: u64, bytes: u64) -> Result<u64> {
    // A block without bytes has its address all the same.
    let last = |begin: u64, bytes: u64| begin.saturating_add(bytes.max(1) - 1);
    let range = ..=last(address, bytes);
    let mut freed = 0;
    while let Some((begin, (bytes, id))) = alive.range(range).next_back().map(|(begin, block)| (*begin, *block)) {
        if last(begin, bytes) < address {
            break;
        }
        alive.remove(&begin);
        builder.free(id)?;
        freed += 1;
    }
    Ok(freed)
}

/// Returns what is freed before it is allocated, and what is alive at the end and in no entry.
fn alive_before(entries: impl Iterator<Item = Entry>, ends: &Ends) -> Vec<(u64, u64)> {
    let mut before = HashMap::new();
    for entry in entries {
        match entry {
            Entry::Alloc { address, .. } => before.entry(address).or_insert(None),
            Entry::Free { address, bytes } => before.entry(address).or_insert(Some(bytes)),
            Entry::Failure { .. } | Entry::Step | Entry::Gone { .. } => continue,
        };
    }
    for (address, bytes) in &ends.alive {
        before.entry(*address).or_insert(Some(*bytes));
    }
    let mut before: Vec<_> =
        before.into_iter().filter_map(|(address, bytes)| bytes.map(|bytes| (address, bytes))).collect();
    before.sort_unstable();
    before
}
