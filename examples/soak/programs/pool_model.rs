//! What a pool must say of itself: what is held and where, as one thread knows that made all the calls.

use std::collections::{BTreeMap, BTreeSet};

use tensorpool::{Backend, Block, Holder, Stats};

use super::pool_requests::{LABELS, Setup};

/// A block's place: the slab's serial number, and the first byte.
pub type Place = (u64, u64);

/// The books of a program.
#[derive(Debug, Default)]
pub struct Books {
    pub live_bytes: u64,
    pub used_bytes: u64,
    pub blocks: u64,
    pub allocations: u64,
    /// Of blocks that are dropped, and still used.
    pub retired_bytes: u64,
    /// Of blocks of high priority, dropped ones that are still used among them.
    pub high_bytes: u64,
    high_places: BTreeSet<Place>,
    live_peak_bytes: u64,
    used_peak_bytes: u64,
    /// Something may have been handed out and taken back before anybody saw it.
    peaks_are_least: bool,
    /// All places that nobody else may have, with their bytes.
    occupied: BTreeMap<Place, u64>,
    /// Bytes and blocks of each label.
    labels: [(u64, u64); LABELS],
}

impl Books {
    /// A block was handed out.
    pub fn add<B: Backend>(&mut self, block: &Block<B>, label: usize, is_high: bool, alignment_bytes: u64) {
        let (bytes, held_bytes) = (block.bytes(), block.bytes_held());
        let Some(place) = place_of(block) else {
            return assert_eq!((bytes, held_bytes), (0, 0), "a block of no slab");
        };
        assert!(bytes > 0 && held_bytes >= bytes, "{block:?}");
        assert_eq!(place.1 % alignment_bytes, 0, "{block:?} is not aligned");
        self.occupy(place, held_bytes);
        if is_high {
            self.high_places.insert(place);
            self.high_bytes += held_bytes;
        }
        self.live_bytes += bytes;
        self.used_bytes += held_bytes;
        self.blocks += 1;
        self.allocations += 1;
        self.labels[label].0 += held_bytes;
        self.labels[label].1 += 1;
        self.live_peak_bytes = self.live_peak_bytes.max(self.live_bytes);
        self.used_peak_bytes = self.used_peak_bytes.max(self.used_bytes);
    }

    /// A block is about to be dropped. Its place is free, unless it is retired: then until [`vacate`](Self::vacate).
    pub fn remove<B: Backend>(&mut self, block: &Block<B>, label: usize, is_retired: bool) {
        let Some(place) = place_of(block) else { return };
        let held_bytes = block.bytes_held();
        self.live_bytes -= block.bytes();
        self.used_bytes -= held_bytes;
        self.blocks -= 1;
        self.labels[label].0 -= held_bytes;
        self.labels[label].1 -= 1;
        if is_retired {
            self.retired_bytes += held_bytes;
        } else {
            assert_eq!(self.leave(place), held_bytes);
        }
    }

    /// The last hold on a retired block has ended.
    pub fn vacate(&mut self, place: Place) {
        self.retired_bytes -= self.leave(place);
    }

    fn leave(&mut self, place: Place) -> u64 {
        let held_bytes = self.occupied.remove(&place).expect("an occupied place");
        if self.high_places.remove(&place) {
            self.high_bytes -= held_bytes;
        }
        held_bytes
    }

    fn occupy(&mut self, place: Place, held_bytes: u64) {
        let (serial, offset) = place;
        let end = offset + held_bytes;
        if let Some((before, bytes)) = self.occupied.range(..place).next_back() {
            assert!(before.0 != serial || before.1 + bytes <= offset, "{before:?} of {bytes} bytes reaches {place:?}");
        }
        if let Some((after, bytes)) = self.occupied.range(place..).next() {
            assert!(after.0 != serial || after.1 >= end, "{place:?} to {end} reaches {after:?} of {bytes} bytes");
        }
        self.occupied.insert(place, held_bytes);
    }

    /// A call failed that may have handed blocks out and taken them back.
    pub fn peaks_may_be_more(&mut self) {
        self.peaks_are_least = true;
    }

    pub fn reset_peaks(&mut self) {
        (self.live_peak_bytes, self.used_peak_bytes) = (self.live_bytes, self.used_bytes);
        self.peaks_are_least = false;
    }

    /// Compares everything that the pool counts. `is_late`: slabs may be on their way to a device that is not done.
    pub fn compare(&self, stats: &Stats, setup: &Setup, is_late: bool) {
        let parts_bytes =
            stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
        assert_eq!(parts_bytes, stats.reserved_bytes, "the parts: {stats:?}");
        assert!(stats.reserved_bytes <= stats.reserved_peak_bytes, "{stats:?}");
        assert!(stats.reserved_peak_bytes <= stats.budget_bytes, "over the budget: {stats:?}");
        assert_eq!((stats.budget_bytes, stats.staging_bytes), (setup.budget_bytes, setup.staging_bytes));
        let ours = (self.live_bytes, self.used_bytes, self.blocks, self.allocations, 0);
        let its = (stats.live_bytes, stats.used_bytes, stats.blocks, stats.allocations, stats.waiting);
        assert_eq!(ours, its, "live, used, blocks, allocations and waiting: {stats:?}");
        if is_late {
            assert!(stats.retired_bytes >= self.retired_bytes, "{} are retired: {stats:?}", self.retired_bytes);
        } else {
            assert_eq!(stats.retired_bytes, self.retired_bytes, "retired: {stats:?}");
        }
        let ours = (self.live_peak_bytes, self.used_peak_bytes);
        let its = (stats.live_peak_bytes, stats.used_peak_bytes);
        if self.peaks_are_least {
            assert!(its.0 >= ours.0 && its.1 >= ours.1, "peaks of {ours:?}: {stats:?}");
        } else {
            assert_eq!(ours, its, "peaks: {stats:?}");
        }
    }

    /// Compares what each label holds.
    pub fn compare_holders(&self, holders: &[Holder], setup: &Setup) {
        let mut ours: Vec<_> = (0..LABELS)
            .filter(|label| self.labels[*label].1 > 0)
            .map(|label| (setup.labels[label].as_str(), self.labels[label].0, self.labels[label].1))
            .collect();
        ours.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let its: Vec<_> = holders.iter().map(|holder| (holder.label.as_str(), holder.bytes, holder.blocks)).collect();
        assert_eq!(ours, its, "holders");
    }
}

/// Where a block is; `None` for one of zero bytes.
pub fn place_of<B: Backend>(block: &Block<B>) -> Option<Place> {
    Some((block.slab()?, block.offset()))
}
