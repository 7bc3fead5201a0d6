//! A schedule: what a step allocates, in order, and where in an arena each block goes.
//!
//! A plan promises that blocks whose places overlap are never live together *as long as the program frees what it freed when
//! it was recorded*. Whoever hands out memory cannot take that for granted: before a place goes out again, every block that
//! had a part of it must be back. An entry lists its direct *predecessors* for that: whoever had any of its bytes last before it.
//! There are few of them (1.05 to 1.65 an entry on the recorded runs, and fewer than three on any: seen from above, stacked
//! rectangles are a planar graph),
//! and those before them were looked at when they went out themselves; [`Cursor`](super::cursor::Cursor) says how.

use std::collections::BTreeMap;
use std::fmt;

use super::{BYTES_MAX, Lifetime, Options, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{exact, round_up, thousands};

/// Entries are counted in 32 bits, of which the highest numbers mean something else.
const ENTRIES_MAX: usize = 1 << 31;

/// One allocation of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Bytes asked for, never 0.
    pub(crate) bytes: u64,
    /// Bytes of its place, and where that is in the arena; none if the pool is to serve it.
    pub(crate) held_bytes: u64,
    pub(crate) offset: u64,
    /// Where its predecessors begin. They end where those of the next entry begin.
    before: u32,
}

impl Entry {
    /// Whether it has a place in the arena.
    pub(crate) fn is_placed(&self) -> bool {
        self.held_bytes > 0
    }

    fn end(&self) -> u64 {
        self.offset + self.held_bytes
    }

    pub(crate) fn overlaps(&self, other: &(u64, u64)) -> bool {
        self.offset < other.1 && other.0 < self.end()
    }

    pub(crate) fn range(&self) -> (u64, u64) {
        (self.offset, self.end())
    }
}

/// What a step allocates, in order, and where in an arena each block goes. [`Cursor`](super::Cursor) follows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    /// And one more at the end, whose predecessors would begin where the last one's end.
    entries: Vec<Entry>,
    predecessors: Vec<u32>,
    height_bytes: u64,
}

impl Schedule {
    /// The allocations of a plan in the order of their beginnings. Those of no bytes are left out: they take nothing, and nobody
    /// asks for them here.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the plan is none for these lifetimes, or not aligned to `align_bytes`, or has no block;
    /// [`ErrorKind::Alignment`] if that is no power of two; [`ErrorKind::TooLarge`] for more than 2^31 of them, or a plan higher
    /// than 2^62 bytes.
    pub fn new(lifetimes: &[Lifetime], plan: &Plan, align_bytes: u64) -> Result<Self> {
        let (height_bytes, _) = plan.check_places(lifetimes, &Options::new().align(align_bytes))?;
        if height_bytes > u128::from(BYTES_MAX) {
            let message = format!("a plan of {height_bytes} bytes: it has at most 2^62");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let mut order: Vec<usize> = (0..lifetimes.len()).filter(|index| lifetimes[*index].bytes > 0).collect();
        if order.len() > ENTRIES_MAX {
            let message = format!("{} allocations in a planned step: it has at most 2^31", order.len());
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        order.sort_by_key(|index| lifetimes[*index].lower);
        let entry = |index: &usize| {
            let Lifetime { lower, upper, bytes } = lifetimes[*index];
            // Whoever is never live has no place. The sum was seen to fit when the plan was checked.
            let held_bytes = if lower < upper { round_up(bytes, align_bytes).unwrap_or(0) } else { 0 };
            Entry { bytes, held_bytes, offset: plan.offsets[*index], before: 0 }
        };
        let mut schedule =
            Self { entries: order.iter().map(entry).collect(), predecessors: Vec::new(), height_bytes: 0 };
        schedule.link();
        if schedule.height_bytes == 0 {
            return Err(Error::new(ErrorKind::Invalid, "a plan without a single block"));
        }
        Ok(schedule)
    }

    /// Finds everybody's predecessors, in a sweep over the step that remembers who had which bytes last.
    fn link(&mut self) {
        // By where they begin: the end of the range, and whose it was.
        let mut last: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
        for index in 0..self.entries.len() {
            self.entries[index].before = self.predecessors.len() as u32;
            let (start, end) = self.entries[index].range();
            if start == end {
                continue;
            }
            let first =
                last.range(..=start).next_back().filter(|(_, (end, _))| *end > start).map_or(start, |(at, _)| *at);
            let mut owners = Vec::new();
            let met: Vec<(u64, (u64, u32))> = last.range(first..end).map(|(at, part)| (*at, *part)).collect();
            for (at, (until, owner)) in met {
                last.remove(&at);
                if at < start {
                    last.insert(at, (start, owner));
                }
                if until > end {
                    last.insert(end, (until, owner));
                }
                owners.push(owner);
            }
            owners.sort_unstable();
            owners.dedup();
            self.predecessors.append(&mut owners);
            last.insert(start, (end, index as u32));
            self.height_bytes = self.height_bytes.max(end);
        }
        let before = self.predecessors.len() as u32;
        self.entries.push(Entry { bytes: 0, held_bytes: 0, offset: 0, before });
    }

    /// How many allocations it has.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - 1
    }

    /// The entries, and one of no bytes behind them.
    #[inline]
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Who had bytes of this entry's place last before it.
    #[inline]
    pub(crate) fn predecessors(&self, index: usize) -> &[u32] {
        let (start, end) = (self.entries[index].before, self.entries[index + 1].before);
        &self.predecessors[start as usize..end as usize]
    }

    /// Bytes of the largest allocation.
    pub(crate) fn largest_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).max().unwrap_or(0)
    }

    /// Bytes of the arena that it needs.
    pub fn height_bytes(&self) -> u64 {
        self.height_bytes
    }

    /// The end of the highest block that ends at `end` or before.
    pub(crate) fn end_before(&self, end: u64) -> u64 {
        self.entries.iter().map(Entry::end).filter(|other| *other <= end).max().unwrap_or(0)
    }

    pub(crate) fn metadata_bytes(&self) -> u64 {
        (self.entries.capacity() * size_of::<Entry>() + self.predecessors.capacity() * size_of::<u32>()) as u64
    }
}

impl fmt::Debug for Schedule {
    /// Without the entries, which may be many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({} allocations in {})", thousands(self.len() as u64), exact(self.height_bytes))
    }
}
