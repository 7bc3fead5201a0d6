//! What a pool must say of itself: what is held and where, as one thread knows that made all the calls.

use std::collections::BTreeMap;

use tensorpool::{Backend, Block, Holder, Stats};

use super::pool_requests::{LABELS, Setup};

/// A block's place: the slab's serial number, and the first byte.
pub type Place = (u64, u64);

/// Fails with these words and values unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+));
        }
    };
}
pub(super) use ensure;

/// What the books know of a block, also when it is not in the program's hands.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// `None` for zero bytes.
    pub place: Option<Place>,
    pub bytes: u64,
    pub held_bytes: u64,
    pub label: usize,
    /// It was asked for with high priority.
    pub is_high: bool,
    /// What was asked for.
    pub align_bytes: u64,
}

impl Facts {
    pub fn of<B: Backend>(block: &Block<B>, label: usize, is_high: bool, align_bytes: u64) -> Self {
        let place = place_of(block);
        let is_aligned = place.is_none_or(|(_, offset)| offset.is_multiple_of(align_bytes));
        assert!(is_aligned, "{block:?} is not at a multiple of {align_bytes}");
        Self { place, bytes: block.bytes(), held_bytes: block.bytes_held(), label, is_high, align_bytes }
    }
}

/// How exactly the pool's numbers are known.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Slabs may be on their way to a device that is not done, and freed blocks may wait to be zeroed.
    pub retired_is_least: bool,
    /// Futures were served that the program has not looked at, for so many bytes and blocks at most.
    pub unseen: Option<(u64, u64)>,
    /// Requests in line, those not counted that may have left it.
    pub waiting: u64,
}

/// The books of a program.
#[derive(Debug)]
pub struct Books {
    pub live_bytes: u64,
    pub used_bytes: u64,
    pub blocks: u64,
    allocations: u64,
    /// So many more may have been handed out and taken back before the program saw them.
    allocations_unseen: u64,
    /// Of blocks that are dropped, and still used.
    pub retired_bytes: u64,
    /// Of blocks of high priority, dropped ones that are still used among them.
    pub high_bytes: u64,
    live_peak_bytes: u64,
    used_peak_bytes: u64,
    /// Something may have been handed out and taken back before the program saw it.
    peaks_are_least: bool,
    /// All places that no other block may have, with their bytes, and whether those are of high priority.
    occupied: BTreeMap<Place, (u64, bool)>,
    /// Bytes and blocks of each label.
    labels: [(u64, u64); LABELS],
    /// The largest budget so far.
    budget_peak_bytes: u64,
    /// What may be reserved, and what may be in use with staging: the budget, or what it was when that was lowered, and then only
    /// less.
    reserved_most_bytes: u64,
    used_most_bytes: u64,
}

impl Books {
    /// Those of a pool that has nothing yet.
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            live_bytes: 0,
            used_bytes: 0,
            blocks: 0,
            allocations: 0,
            allocations_unseen: 0,
            retired_bytes: 0,
            high_bytes: 0,
            live_peak_bytes: 0,
            used_peak_bytes: 0,
            peaks_are_least: false,
            occupied: BTreeMap::new(),
            labels: Default::default(),
            budget_peak_bytes: budget_bytes,
            reserved_most_bytes: budget_bytes,
            used_most_bytes: budget_bytes,
        }
    }

    /// The budget has changed, and these are the pool's numbers just after that.
    pub fn set_budget(&mut self, stats: &Stats) {
        self.budget_peak_bytes = self.budget_peak_bytes.max(stats.budget_bytes);
        (self.reserved_most_bytes, self.used_most_bytes) = (u64::MAX, u64::MAX);
        self.bound(stats);
    }

    /// What was above the budget only falls.
    fn bound(&mut self, stats: &Stats) {
        let most = |now_bytes: u64, most_bytes: u64| now_bytes.min(most_bytes).max(stats.budget_bytes);
        self.reserved_most_bytes = most(stats.reserved_bytes, self.reserved_most_bytes);
        self.used_most_bytes = most(stats.used_bytes + stats.staging_bytes, self.used_most_bytes);
    }

    /// The largest budget that there was.
    pub fn budget_peak_bytes(&self) -> u64 {
        self.budget_peak_bytes
    }

    /// A block was handed out.
    pub fn add(&mut self, facts: &Facts, alignment_bytes: u64) {
        let Facts { bytes, held_bytes, label, is_high, .. } = *facts;
        let Some(place) = facts.place else {
            return assert_eq!((bytes, held_bytes), (0, 0), "a block of no slab");
        };
        assert!(bytes > 0 && held_bytes >= bytes, "{facts:?}");
        assert_eq!(place.1 % alignment_bytes, 0, "{facts:?} is not aligned");
        self.occupy(place, (held_bytes, is_high));
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
    pub fn remove(&mut self, facts: &Facts, is_retired: bool) {
        let Facts { bytes, held_bytes, label, .. } = *facts;
        let Some(place) = facts.place else { return };
        self.live_bytes -= bytes;
        self.used_bytes -= held_bytes;
        self.blocks -= 1;
        self.labels[label].0 -= held_bytes;
        self.labels[label].1 -= 1;
        if is_retired {
            self.retired_bytes += held_bytes;
        } else {
            assert_eq!(self.leave(place).0, held_bytes);
        }
    }

    /// A block has grown or shrunk. What it has left behind is retired, if it `is_held`: then that is a place.
    pub fn resize(&mut self, before: &Facts, after: &Facts, is_held: bool) -> Option<Place> {
        let place = before.place?;
        assert!(after.bytes > 0 && after.held_bytes >= after.bytes, "{after:?}");
        self.leave(place);
        self.occupy(place, (after.held_bytes, after.is_high));
        self.live_bytes = self.live_bytes - before.bytes + after.bytes;
        self.used_bytes = self.used_bytes - before.held_bytes + after.held_bytes;
        let of_label = &mut self.labels[before.label].0;
        *of_label = *of_label - before.held_bytes + after.held_bytes;
        self.live_peak_bytes = self.live_peak_bytes.max(self.live_bytes);
        self.used_peak_bytes = self.used_peak_bytes.max(self.used_bytes);
        let left_bytes = before.held_bytes.saturating_sub(after.held_bytes);
        if left_bytes == 0 || !is_held {
            return None;
        }
        let left = (place.0, place.1 + after.held_bytes);
        self.occupy(left, (left_bytes, before.is_high));
        self.retired_bytes += left_bytes;
        Some(left)
    }

    /// The last hold on a retired block has ended.
    pub fn vacate(&mut self, place: Place) {
        self.retired_bytes -= self.leave(place).0;
    }

    /// Blocks have moved, all at once: what each was, and what it is.
    pub fn move_all(&mut self, moves: &[(Facts, Facts)]) {
        for (before, _) in moves {
            self.leave(before.place.expect("a block of some bytes"));
        }
        for (before, after) in moves {
            self.occupy(after.place.expect("a block of some bytes"), (after.held_bytes, after.is_high));
            self.used_bytes = self.used_bytes - before.held_bytes + after.held_bytes;
            let of_label = &mut self.labels[before.label].0;
            *of_label = *of_label - before.held_bytes + after.held_bytes;
        }
        // One after the other: more may have been used in between.
        let is_same = moves.iter().all(|(before, after)| before.held_bytes == after.held_bytes);
        self.used_peak_bytes = self.used_peak_bytes.max(self.used_bytes);
        self.peaks_are_least |= !is_same;
    }

    fn leave(&mut self, place: Place) -> (u64, bool) {
        let (held_bytes, is_high) = self.occupied.remove(&place).expect("an occupied place");
        self.high_bytes -= if is_high { held_bytes } else { 0 };
        (held_bytes, is_high)
    }

    fn occupy(&mut self, place: Place, (held_bytes, is_high): (u64, bool)) {
        let (serial, offset) = place;
        let end = offset + held_bytes;
        if let Some((before, (bytes, _))) = self.occupied.range(..place).next_back() {
            assert!(before.0 != serial || before.1 + bytes <= offset, "{before:?} of {bytes} bytes reaches {place:?}");
        }
        if let Some((after, (bytes, _))) = self.occupied.range(place..).next() {
            assert!(after.0 != serial || after.1 >= end, "{place:?} to {end} reaches {after:?} of {bytes} bytes");
        }
        self.high_bytes += if is_high { held_bytes } else { 0 };
        self.occupied.insert(place, (held_bytes, is_high));
    }

    /// So many blocks may have been handed out and taken back before the program saw them.
    pub fn may_have_had(&mut self, blocks: usize) {
        self.allocations_unseen += blocks as u64;
        self.peaks_are_least = true;
    }

    /// So many were handed out so far, those included that the program has not seen.
    pub fn allocations_are(&mut self, allocations: u64) {
        self.allocations = allocations;
        self.allocations_unseen = 0;
    }

    /// The pool has reset its peaks; to what is known now, or to what is not known.
    pub fn reset_peaks(&mut self, are_known: bool) {
        (self.live_peak_bytes, self.used_peak_bytes) =
            if are_known { (self.live_bytes, self.used_bytes) } else { (0, 0) };
        self.peaks_are_least = !are_known;
    }

    /// Compares everything that the pool counts; says what differs.
    pub fn compare(&mut self, stats: &Stats, setup: &Setup, known: Known) -> Result<(), String> {
        let parts_bytes =
            stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
        ensure!(parts_bytes == stats.reserved_bytes, "the parts are {parts_bytes}: {stats:?}");
        ensure!(stats.reserved_bytes <= stats.reserved_peak_bytes, "over the peak: {stats:?}");
        ensure!(stats.reserved_peak_bytes <= self.budget_peak_bytes, "over the budget: {stats:?}");
        let most = (self.reserved_most_bytes, self.used_most_bytes);
        ensure!(stats.reserved_bytes <= most.0, "reserved above the budget, beyond {}: {stats:?}", most.0);
        ensure!(
            stats.used_bytes + stats.staging_bytes <= most.1,
            "in use above the budget, beyond {}: {stats:?}",
            most.1
        );
        self.bound(stats);
        let (ours, its) = ((setup.budget_bytes, setup.staging_bytes), (stats.budget_bytes, stats.staging_bytes));
        ensure!(ours == its, "budget and staging of {ours:?}: {stats:?}");
        self.compare_held(stats, known)?;
        let retired_bytes = self.retired_bytes;
        let is_right =
            stats.retired_bytes == retired_bytes || known.retired_is_least && stats.retired_bytes >= retired_bytes;
        ensure!(is_right, "{retired_bytes} are retired, {known:?}: {stats:?}");
        let ours = (self.live_peak_bytes, self.used_peak_bytes);
        let its = (stats.live_peak_bytes, stats.used_peak_bytes);
        if self.peaks_are_least || known.unseen.is_some() {
            ensure!(its.0 >= ours.0 && its.1 >= ours.1, "peaks of {ours:?} at least: {stats:?}");
        } else {
            ensure!(ours == its, "peaks of {ours:?}: {stats:?}");
        }
        Ok(())
    }

    fn compare_held(&self, stats: &Stats, known: Known) -> Result<(), String> {
        let ours = (self.live_bytes, self.used_bytes, self.blocks);
        let its = (stats.live_bytes, stats.used_bytes, stats.blocks);
        let (bytes, blocks) = known.unseen.unwrap_or((0, 0));
        match known.unseen {
            None => {
                ensure!(ours == its, "live, used and blocks of {ours:?}: {stats:?}");
                ensure!(stats.waiting == known.waiting, "{} are waiting: {stats:?}", known.waiting);
            }
            Some(_) => {
                let is_right = (ours.0..=ours.0.saturating_add(bytes)).contains(&its.0)
                    && its.1 >= ours.1
                    && (ours.2..=ours.2 + blocks).contains(&its.2);
                ensure!(is_right, "live, used and blocks of {ours:?}, {known:?}: {stats:?}");
            }
        }
        let allocations = self.allocations..=self.allocations + self.allocations_unseen + blocks;
        ensure!(allocations.contains(&stats.allocations), "{allocations:?} allocations: {stats:?}");
        Ok(())
    }

    /// Compares what each label holds.
    pub fn compare_holders(&self, holders: &[Holder], setup: &Setup) -> Result<(), String> {
        let mut ours: Vec<_> = (0..LABELS)
            .filter(|label| self.labels[*label].1 > 0)
            .map(|label| (setup.labels[label].as_str(), self.labels[label].0, self.labels[label].1))
            .collect();
        ours.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let its: Vec<_> = holders.iter().map(|holder| (holder.label.as_str(), holder.bytes, holder.blocks)).collect();
        ensure!(ours == its, "holders {ours:?}: {its:?}");
        Ok(())
    }
}

/// Where a block is; `None` for one of zero bytes.
pub fn place_of<B: Backend>(block: &Block<B>) -> Option<Place> {
    Some((block.slab()?, block.offset()))
}
