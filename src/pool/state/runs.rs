//! Free runs of the slabs that are there, for an arena.

use super::{Home, Slot, State};
use crate::pool::Priority;
use crate::sync::Arc;
use crate::units::round_down;

/// An arena is of so many runs at most.
const RUNS_MAX: usize = 128;

impl<S> State<S> {
    /// The bytes of the longest free runs, the longest first, until they have so many bytes together and some to spare. `None` if
    /// all of them have less than these bytes.
    pub(in crate::pool) fn free_runs(&self, bytes: u64, alignment_bytes: u64) -> Option<Vec<u64>> {
        // Blocks do not fill them to the end.
        let wanted_bytes = bytes.saturating_add(bytes / 2);
        let mut sum_bytes = 0u64;
        let mut sizes = Vec::new();
        for (run_bytes, ..) in self.runs().into_iter().take(RUNS_MAX) {
            let run_bytes = round_down(run_bytes, alignment_bytes);
            if sum_bytes >= wanted_bytes || run_bytes == 0 {
                break;
            }
            sum_bytes = sum_bytes.saturating_add(run_bytes);
            sizes.push(run_bytes);
        }
        (sum_bytes >= bytes).then_some(sizes)
    }

    /// Takes a free run of what is reserved for each of these, which are an offset and its bytes. They count as cached. `None` if
    /// there are not as many, if requests wait for memory, or if too little would be left: one of `beside` parts of their bytes,
    /// or of what the program held most beside what it holds now, if that is more.
    pub(in crate::pool) fn take_runs(&mut self, runs: &[(u64, u64)], beside: u64) -> Option<Vec<Home<S>>> {
        let bytes: u64 = runs.iter().map(|run| run.1).sum();
        // What the largest step so far took, beside what is held now.
        let most_bytes = self.books.stats().used_peak_bytes.saturating_sub(self.books.used_bytes());
        let beside_bytes = bytes.max(most_bytes) / beside;
        if self.closed
            || !self.line.is_empty()
            || self.open_bytes(Priority::Normal) < bytes.saturating_add(beside_bytes)
        {
            return None;
        }
        // The longest first, each from the shortest that is long enough.
        let mut order: Vec<usize> = (0..runs.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(runs[*index].1));
        let mut free = self.runs();
        let mut places: Vec<(usize, Slot, u64, u64)> = Vec::new();
        for index in order {
            let bytes = runs[index].1;
            let found = free.iter().rposition(|(run_bytes, ..)| *run_bytes >= bytes)?;
            let (_, slot, offset) = free.remove(found);
            places.push((index, slot, offset, bytes));
        }
        places.sort_unstable();
        let homes = places.into_iter().map(|(_, slot, offset, bytes)| {
            let extent = self.space_mut(slot).alloc_at(offset, bytes).expect("the run is free");
            self.settle_slot(slot);
            self.books.take_listed(extent.bytes());
            Home { slab: Arc::clone(&self.entry(slot).slab), extent }
        });
        Some(homes.collect())
    }

    /// The bytes, slabs and offsets of all free runs, the longest first.
    fn runs(&self) -> Vec<(u64, Slot, u64)> {
        let of_slot = |slot: &Slot| {
            let slot = *slot;
            self.entry(slot).space.free_runs().map(move |run| (run.end - run.start, slot, run.start))
        };
        let mut runs: Vec<_> = self.order.iter().flat_map(of_slot).collect();
        runs.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        runs
    }
}
