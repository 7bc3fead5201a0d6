//! The pool's counters: what is held, what is idle, what went before.
//!
//! The free lists of the shards tell what changed in them a little later ([`Tally`]). Until then a block that went out of
//! a list, or into one, is counted as it was before: the parts still add up, and a peak is off by no more than what the
//! lists hold. It is exact as long as one thread is at work.

use super::Stats;
use super::shards::Tally;

/// A pool is steady that has served as many requests without a new peak as before it, and these more; at most so many.
const STEADY_LEAST: u64 = if cfg!(loom) { 1 } else { 256 };
const STEADY_MOST: u64 = 4096;

/// The part of the budget that the free runs of a shard may take, however little was ever used. A peak that grows by less grows little.
const LISTS_PART: u64 = 64;

/// The part of the budget that may be committed beside lists, more than was ever used: two threads fill their lists.
const BESIDE_PART: u64 = 32;

/// A sum of bytes that parts are added to and taken from.
///
/// Taking more than is in it is a defect of this crate, which wrapping arithmetic would turn into nearly 2^64 bytes of
/// budget. The sum stays at 0 instead and remembers that it is wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    bytes: u64,
    is_wrong: bool,
}

impl Sum {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, is_wrong: false }
    }

    #[inline]
    pub(super) fn bytes(self) -> u64 {
        self.bytes
    }

    pub(super) fn is_wrong(self) -> bool {
        self.is_wrong
    }

    #[inline]
    pub(super) fn add(&mut self, bytes: u64) {
        self.set(self.bytes.checked_add(bytes), u64::MAX);
    }

    #[inline]
    pub(super) fn take(&mut self, bytes: u64) {
        self.set(self.bytes.checked_sub(bytes), 0);
    }

    #[inline]
    fn set(&mut self, bytes: Option<u64>, otherwise: u64) {
        self.is_wrong |= bytes.is_none();
        self.bytes = bytes.unwrap_or(otherwise);
    }
}

#[cfg_attr(test, derive(Clone))]
#[derive(Debug)]
pub(super) struct Books {
    /// Bytes that are out of the spaces: held by callers, or in the shards' lists.
    out: Sum,
    /// Those in the lists. Signed, as the next: a block may go out of one shard and be told of by another first.
    listed_bytes: i64,
    live_bytes: i64,
    blocks: i64,
    /// Out of the spaces, with no owner.
    retired: Sum,
    /// What requests of high priority have of both, in a pool with a reserve.
    high: Sum,
    /// The budget without staging.
    open_bytes: u64,
    /// Allocations when the peak of what is used or reserved last grew by more than a little.
    grown_at: u64,
    /// Each of these peaks when that last grew by more than a little.
    used_grown_bytes: u64,
    reserved_grown_bytes: u64,
    /// Counts and peaks, staging and the budget.
    totals: Stats,
}

fn positive(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl Books {
    pub(super) fn new(budget_bytes: u64, staging_bytes: u64) -> Self {
        let totals = Stats {
            budget_bytes,
            staging_bytes,
            reserved_peak_bytes: staging_bytes,
            reserved_total_bytes: staging_bytes,
            ..Stats::default()
        };
        let (out, retired, high) = (Sum::default(), Sum::default(), Sum::default());
        let open_bytes = budget_bytes.saturating_sub(staging_bytes);
        Self {
            out,
            listed_bytes: 0,
            live_bytes: 0,
            blocks: 0,
            retired,
            high,
            open_bytes,
            grown_at: 0,
            used_grown_bytes: 0,
            reserved_grown_bytes: 0,
            totals,
        }
    }

    /// Enters what a shard has to tell.
    pub(super) fn fold(&mut self, tally: Tally) {
        let out_bytes = self.out.bytes();
        let used_most = out_bytes as i64 - self.listed_bytes - tally.cached_bytes_least;
        self.used_most(positive(used_most).min(out_bytes));
        let totals = &mut self.totals;
        totals.live_peak_bytes = totals.live_peak_bytes.max(positive(self.live_bytes + tally.live_bytes_most));
        totals.allocations += tally.allocations;
        totals.allocations_from_lists += tally.allocations - tally.allocations_planned;
        totals.allocations_planned += tally.allocations_planned;
        self.live_bytes += tally.live_bytes;
        self.listed_bytes += tally.cached_bytes;
        self.blocks += tally.allocations as i64 - tally.frees as i64;
    }

    /// Returns whether no peak has grown for as long as it took to come there. A long run need not wait as long again.
    #[inline]
    pub(super) fn is_steady(&self) -> bool {
        self.totals.allocations.saturating_sub(self.grown_at) >= (self.grown_at + STEADY_LEAST).min(STEADY_MOST)
    }

    /// The pool is not steady, as if a peak had grown.
    pub(super) fn disturb(&mut self) {
        self.grown_at = self.totals.allocations;
    }

    /// Returns what the free runs of a shard may come to: as much as was ever used, at least a part of the budget. 0 where more than a
    /// third of the budget was used, or less than half is left now; while there are none yet, two thirds.
    #[inline]
    pub(super) fn spare_for_lists(&self, are_some: bool) -> u64 {
        let used_most_bytes = self.open_bytes / 3;
        let left_least = if are_some { self.open_bytes / 2 } else { self.open_bytes - used_most_bytes };
        let is_ample = self.totals.used_peak_bytes <= used_most_bytes && self.left_bytes() >= left_least;
        if is_ample { self.totals.used_peak_bytes.max(self.open_bytes / LISTS_PART) } else { 0 }
    }

    /// Returns what may be reserved before free runs have to leave the lists, staging included: a part of the budget more than was ever
    /// used.
    pub(super) fn reserved_bytes_beside_lists(&self) -> u64 {
        let more_bytes = self.totals.staging_bytes + self.open_bytes / BESIDE_PART;
        self.totals.used_peak_bytes.saturating_add(more_bytes)
    }

    fn used_most(&mut self, used_bytes: u64) {
        if used_bytes > self.totals.used_peak_bytes {
            self.totals.used_peak_bytes = used_bytes;
            if used_bytes - self.used_grown_bytes > self.open_bytes / LISTS_PART {
                self.used_grown_bytes = used_bytes;
                self.disturb();
            }
        }
    }

    /// An extent has left its space.
    pub(super) fn take(&mut self, held_bytes: u64) {
        self.out.add(held_bytes);
    }

    /// It was taken for a request of high priority. It counts until it is back in its space.
    pub(super) fn take_high(&mut self, held_bytes: u64) {
        self.high.add(held_bytes);
    }

    pub(super) fn put_back_high(&mut self, held_bytes: u64) {
        self.high.take(held_bytes);
    }

    /// An extent has left its space for a list.
    pub(super) fn take_listed(&mut self, held_bytes: u64) {
        self.take(held_bytes);
        self.list(held_bytes);
    }

    /// An extent that has left its space is nobody's for now.
    pub(super) fn list(&mut self, held_bytes: u64) {
        self.listed_bytes += held_bytes as i64;
    }

    /// And is somebody's again, or on its way home.
    pub(super) fn unlist(&mut self, held_bytes: u64) {
        self.listed_bytes -= held_bytes as i64;
    }

    /// And is back.
    pub(super) fn put_back(&mut self, held_bytes: u64) {
        self.out.take(held_bytes);
    }

    /// Blocks of so many bytes asked, in all, have been handed out.
    pub(super) fn granted(&mut self, blocks: usize, bytes: u64) {
        self.blocks += blocks as i64;
        self.live_bytes += bytes as i64;
        self.totals.allocations += blocks as u64;
        self.used_most(self.used_bytes());
        self.totals.live_peak_bytes = self.totals.live_peak_bytes.max(positive(self.live_bytes));
    }

    /// A block has grown in place, by so many bytes asked. What it took for that is not listed any more.
    pub(super) fn grew(&mut self, bytes: u64) {
        self.totals.resizes += 1;
        self.live_bytes += bytes as i64;
        self.used_most(self.used_bytes());
        self.totals.live_peak_bytes = self.totals.live_peak_bytes.max(positive(self.live_bytes));
    }

    /// A block has shrunk in place, by so many bytes asked.
    pub(super) fn shrank(&mut self, bytes: u64) {
        self.totals.resizes += 1;
        self.live_bytes -= bytes as i64;
    }

    /// A block has moved, perhaps to larger pages.
    pub(super) fn moved(&mut self) {
        self.used_most(self.used_bytes());
    }

    /// As [`granted`](Self::granted), undone before anybody saw it: only the peaks remember.
    pub(super) fn revoked(&mut self, blocks: usize, bytes: u64) {
        self.freed(blocks, bytes);
        self.totals.allocations = self.totals.allocations.saturating_sub(blocks as u64);
    }

    /// Blocks of so many bytes asked, in all, have no owner any more.
    pub(super) fn freed(&mut self, blocks: usize, bytes: u64) {
        self.blocks -= blocks as i64;
        self.live_bytes -= bytes as i64;
    }

    /// The memory of a block without an owner is still used by others.
    pub(super) fn retire(&mut self, held_bytes: u64) {
        self.put_back(held_bytes);
        self.retired.add(held_bytes);
    }

    /// And now it is not.
    pub(super) fn unretire(&mut self, held_bytes: u64) {
        self.retired.take(held_bytes);
    }

    /// So many bytes more are reserved than before.
    pub(super) fn reserved(&mut self, more_bytes: u64, reserved_bytes: u64) {
        self.totals.reserved_total_bytes = self.totals.reserved_total_bytes.saturating_add(more_bytes);
        if reserved_bytes > self.totals.reserved_peak_bytes {
            self.totals.reserved_peak_bytes = reserved_bytes;
            let before_bytes = self.reserved_grown_bytes.max(self.reserved_bytes_beside_lists());
            if reserved_bytes > before_bytes.saturating_add(self.open_bytes / LISTS_PART) {
                self.reserved_grown_bytes = reserved_bytes;
                self.disturb();
            }
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        positive(self.out.bytes() as i64 - self.listed_bytes).min(self.out.bytes())
    }

    pub(super) fn blocks(&self) -> u64 {
        positive(self.blocks)
    }

    /// What of the budget is neither out, nor retired, nor staging.
    pub(super) fn left_bytes(&self) -> u64 {
        self.open_bytes.saturating_sub(self.gone_bytes())
    }

    /// The same once so many bytes are back in their spaces.
    pub(super) fn left_bytes_after(&self, back_bytes: u64) -> u64 {
        self.open_bytes.saturating_sub(self.gone_bytes().saturating_sub(back_bytes))
    }

    /// What of the budget is neither used nor retired nor staging: also what lies in lists and arenas.
    pub(super) fn unused_bytes(&self) -> u64 {
        self.open_bytes.saturating_sub(self.used_bytes().saturating_add(self.retired_bytes()))
    }

    /// What lies in lists and arenas, or is a place that a block moves to.
    pub(super) fn listed_bytes(&self) -> u64 {
        self.out.bytes() - self.used_bytes()
    }

    pub(super) fn retired_bytes(&self) -> u64 {
        self.retired.bytes()
    }

    /// Out of the spaces, with or without an owner.
    pub(super) fn gone_bytes(&self) -> u64 {
        self.out.bytes().saturating_add(self.retired.bytes())
    }

    pub(super) fn high_bytes(&self) -> u64 {
        self.high.bytes()
    }

    /// Whether no sum was ever found to be wrong.
    pub(super) fn are_right(&self) -> bool {
        ![self.out, self.retired, self.high].into_iter().any(Sum::is_wrong) && self.high_bytes() <= self.gone_bytes()
    }

    pub(super) fn budget_bytes(&self) -> u64 {
        self.totals.budget_bytes
    }

    /// The budget without staging.
    pub(super) fn open_bytes(&self) -> u64 {
        self.open_bytes
    }

    /// Changes the budget. Returns what it was.
    pub(super) fn set_budget(&mut self, bytes: u64) -> u64 {
        self.open_bytes = bytes.saturating_sub(self.totals.staging_bytes);
        std::mem::replace(&mut self.totals.budget_bytes, bytes)
    }

    /// The counters that nothing else depends on.
    pub(super) fn totals(&mut self) -> &mut Stats {
        &mut self.totals
    }

    pub(super) fn reset_peaks(&mut self, reserved_bytes: u64) {
        self.totals.live_peak_bytes = positive(self.live_bytes);
        self.totals.used_peak_bytes = self.used_bytes();
        self.used_grown_bytes = self.used_grown_bytes.min(self.used_bytes());
        self.reserved_grown_bytes = self.reserved_grown_bytes.min(reserved_bytes);
        self.totals.reserved_peak_bytes = reserved_bytes;
    }

    /// What is known here; the rest is for the caller to fill in, who adds what is idle in the spaces to `cached_bytes`.
    pub(super) fn stats(&self) -> Stats {
        let used_bytes = self.used_bytes();
        Stats {
            live_bytes: positive(self.live_bytes),
            used_bytes,
            cached_bytes: self.listed_bytes(),
            retired_bytes: self.retired.bytes(),
            blocks: self.blocks(),
            ..self.totals
        }
    }

    /// Panics if the counters contradict each other while no other thread is at work: a defect of this crate.
    pub(super) fn check(&self) {
        assert!(self.are_right(), "more was taken back than was given out: {self:?}");
        assert!((0..=self.out.bytes() as i64).contains(&self.listed_bytes), "lists hold more than is out: {self:?}");
        assert!(self.live_bytes >= 0 && self.blocks >= 0, "less than nothing is held: {self:?}");
        assert!(positive(self.live_bytes) <= self.used_bytes(), "more live than used: {self:?}");
    }
}
