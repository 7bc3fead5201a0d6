//! Free runs of the slabs that are there, for an arena.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Home, Slot, State};
use crate::pool::Priority;
use crate::sync::Arc;
use crate::units::round_down;

/// An arena is of so many runs at most.
const RUNS_MAX: usize = 128;

/// So many free runs are looked at for each run of an arena, with the pool's lock held: 0.1 ms at most.
const RUNS_LOOKED_AT: usize = 1024;

impl<S> State<S> {
    /// The bytes of the longest free runs, the longest first, until they have so many bytes together and some to spare. `None` if
    /// all of them have less than these bytes.
    pub(in crate::pool) fn free_runs(&self, bytes: u64, alignment_bytes: u64) -> Option<Vec<u64>> {
        let mut longest: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
        for slot in self.slots_with(1) {
            let (space, mut from) = (&self.entry(slot).space, 0);
            // Once there are enough, only a longer one counts: all others are skipped.
            let least = |longest: &BinaryHeap<Reverse<u64>>| match longest.peek() {
                Some(Reverse(shortest)) if longest.len() >= RUNS_MAX => shortest + 1,
                _ => 1,
            };
            while let Some(run) = space.free_run_from(from, least(&longest)) {
                from = run.end;
                longest.push(Reverse(run.end - run.start));
                if longest.len() > RUNS_MAX {
                    longest.pop();
                }
            }
        }
        // Blocks do not fill them to the end.
        let wanted_bytes = bytes.saturating_add(bytes / 2);
        let mut sum_bytes = 0u64;
        let mut sizes = Vec::new();
        for Reverse(run_bytes) in longest.into_sorted_vec() {
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
    /// there are not as many, if requests or a lowered budget wait for memory, or if too little would be left: one of `beside` parts of
    /// their bytes, or of what the program held most beside what it holds now, if that is more.
    pub(in crate::pool) fn take_runs(&mut self, runs: &[(u64, u64)], beside: u64) -> Option<Vec<Home<S>>> {
        let bytes: u64 = runs.iter().map(|run| run.1).sum();
        // What the largest step so far took, beside what is held now.
        let most_bytes = self.books.stats().used_peak_bytes.saturating_sub(self.books.used_bytes());
        let beside_bytes = bytes.max(most_bytes) / beside;
        if self.closed
            || !self.line.is_empty()
            || self.over_bytes > 0
            || self.open_bytes(Priority::Normal) < bytes.saturating_add(beside_bytes)
        {
            return None;
        }
        // The longest first, each from the shortest that is long enough.
        let mut order: Vec<usize> = (0..runs.len()).collect();
        order.sort_by_key(|index| Reverse(runs[*index].1));
        let mut homes: Vec<Option<Home<S>>> = runs.iter().map(|_| None).collect();
        for index in order {
            let Some((slot, offset)) = self.shortest_run(runs[index].1) else { break };
            let extent = self.space_mut(slot).alloc_at(offset, runs[index].1).expect("the run is free");
            self.settle(slot);
            self.books.take_listed(extent.bytes());
            homes[index] = Some(Home { slab: Arc::clone(&self.entry(slot).slab), extent });
        }
        if homes.iter().any(Option::is_none) {
            homes.into_iter().flatten().for_each(|home| self.unreserve(home, false));
            return None;
        }
        homes.into_iter().collect()
    }

    /// Returns the slab and the offset of the shortest free run of at least so many bytes, the last of those that are alike. Of more than
    /// [`RUNS_LOOKED_AT`] that are long enough, the others are not looked at.
    fn shortest_run(&self, bytes: u64) -> Option<(Slot, u64)> {
        let of_slot = |slot: Slot| {
            let (space, mut from) = (&self.entry(slot).space, 0);
            std::iter::from_fn(move || {
                let run = space.free_run_from(from, bytes)?;
                from = run.end;
                Some((run.end - run.start, slot, run.start))
            })
        };
        let mut shortest: Option<(u64, Slot, u64)> = None;
        for found in self.slots_with(bytes).flat_map(of_slot).take(RUNS_LOOKED_AT) {
            if shortest.is_none_or(|(run_bytes, ..)| found.0 <= run_bytes) {
                shortest = Some(found);
            }
        }
        shortest.map(|(_, slot, offset)| (slot, offset))
    }
}
