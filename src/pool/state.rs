//! What the pool's lock protects: slabs with their spaces, what waits for the device, and the counters.
//!
//! Everything here is bookkeeping. Nothing calls the backend: slabs are created and dropped by [`super::alloc`],
//! outside the lock.

use super::labels::{LabelId, Labels};
use super::{Limits, Placement, SlabPolicy, Stats};
use crate::backend::{Backend, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::space::{Extent, Space};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering};

/// A backend's slab, shared by the pool and the blocks in it.
pub(crate) struct Slab<S> {
    /// Never used twice in a process.
    pub(crate) serial: u64,
    pub(crate) bytes: u64,
    pub(crate) memory: S,
}

impl<S> Slab<S> {
    pub(super) fn new(bytes: u64, memory: S) -> Self {
        static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);
        Self { serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed), bytes, memory }
    }
}

/// Index of a slab in its pool; used again after the slab is gone.
pub(super) type Slot = u32;

struct Entry<S> {
    slab: Arc<Slab<S>>,
    space: Space,
}

/// A place found for a block.
pub(super) struct Grant<S> {
    pub(super) slot: Slot,
    pub(super) slab: Arc<Slab<S>>,
    pub(super) extent: Extent,
    pub(super) label_id: LabelId,
    pub(super) label: Arc<str>,
}

/// A slab that goes back to the device once `point` has passed. Its bytes stay reserved until the memory is dropped.
struct Leaving<S> {
    slab: Arc<Slab<S>>,
    point: Point,
}

/// A block that nobody owns, whose memory others may still use.
struct Retired {
    slot: Slot,
    extent: Extent,
    holds: Vec<Arc<AtomicBool>>,
}

pub(super) struct State<S> {
    entries: Vec<Option<Entry<S>>>,
    /// The occupied slots, fullest first: slabs in use by free bytes, then the empty ones.
    order: Vec<Slot>,
    leaving: Vec<Leaving<S>>,
    retired: Vec<Retired>,
    pub(super) labels: Labels,
    /// Slabs and staging, those leaving included.
    pub(super) reserved_bytes: u64,
    /// Of slabs that are being created.
    pub(super) booked_bytes: u64,
    pub(super) closed: bool,
    used_bytes: u64,
    live_bytes: u64,
    retired_bytes: u64,
    leaving_bytes: u64,
    /// Threads that are dropping the memory of slabs from `take_left`.
    burials: usize,
    /// Counts, peaks and the constants; the rest is filled in by `stats`.
    totals: Stats,
    alignment_bytes: u64,
    placement: Placement,
    policy: SlabPolicy,
}

impl<S> State<S> {
    pub(super) fn new(
        budget_bytes: u64,
        staging_bytes: u64,
        limits: &Limits,
        placement: Placement,
        policy: SlabPolicy,
    ) -> Self {
        let totals = Stats { budget_bytes, staging_bytes, reserved_peak_bytes: staging_bytes, ..Stats::default() };
        Self {
            entries: Vec::new(),
            order: Vec::new(),
            leaving: Vec::new(),
            retired: Vec::new(),
            labels: Labels::new(),
            reserved_bytes: staging_bytes,
            booked_bytes: 0,
            closed: false,
            used_bytes: 0,
            live_bytes: 0,
            retired_bytes: 0,
            leaving_bytes: 0,
            burials: 0,
            totals,
            alignment_bytes: limits.alignment_bytes,
            placement,
            policy,
        }
    }

    /// Refuses requests to a pool that is closed.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed { Err(Error::new(ErrorKind::Closed, "the pool is closed")) } else { Ok(()) }
    }

    /// What may still be reserved.
    pub(super) fn left_bytes(&self) -> u64 {
        self.totals.budget_bytes - self.reserved_bytes - self.booked_bytes
    }

    pub(super) fn slab_count(&self) -> usize {
        self.order.len()
    }

    /// Steps 1 and 2: an idle piece of the class, else a place in a slab, fullest slab first.
    pub(super) fn take(&mut self, bytes: u64, label: &str) -> Option<Grant<S>> {
        if self.policy == SlabPolicy::PerBlock {
            return None;
        }
        let cached = self.find(|space| space.alloc_cached(bytes));
        let (index, extent) = cached.or_else(|| self.find(|space| space.alloc(bytes)))?;
        Some(self.grant(index, extent, bytes, label))
    }

    fn find(&mut self, mut alloc: impl FnMut(&mut Space) -> Option<Extent>) -> Option<(usize, Extent)> {
        let entries = &mut self.entries;
        let mut slots = self.order.iter().enumerate();
        slots.find_map(|(index, slot)| {
            let entry = entries[*slot as usize].as_mut().expect("a slot in the order is occupied");
            alloc(&mut entry.space).map(|extent| (index, extent))
        })
    }

    /// Adds a new slab and takes the first block from it. `None` only if the slab is too small for it.
    pub(super) fn add_slab(&mut self, slab: Slab<S>, first: Option<(u64, &str)>) -> Option<Grant<S>> {
        self.reserved_bytes += slab.bytes;
        self.totals.reserved_peak_bytes = self.totals.reserved_peak_bytes.max(self.reserved_bytes);
        let space = Space::new(slab.bytes, self.alignment_bytes, self.placement);
        let entry = Entry { slab: Arc::new(slab), space };
        let slot = match self.entries.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.entries.push(None);
                self.entries.len() - 1
            }
        };
        self.entries[slot] = Some(entry);
        self.order.push(slot as Slot);
        let index = self.settle(self.order.len() - 1);
        let (bytes, label) = first?;
        let extent = self.space_mut(slot as Slot).alloc(bytes)?;
        Some(self.grant(index, extent, bytes, label))
    }

    fn grant(&mut self, index: usize, extent: Extent, bytes: u64, label: &str) -> Grant<S> {
        let slot = self.order[index];
        self.settle(index);
        self.used_bytes += extent.bytes();
        self.live_bytes += bytes;
        let totals = &mut self.totals;
        totals.blocks += 1;
        totals.allocations += 1;
        totals.used_peak_bytes = totals.used_peak_bytes.max(self.used_bytes);
        totals.live_peak_bytes = totals.live_peak_bytes.max(self.live_bytes);
        let (label_id, label) = self.labels.add(label, extent.bytes());
        let slab = Arc::clone(&self.entry(slot).slab);
        Grant { slot, slab, extent, label_id, label }
    }

    /// Takes back a block of `bytes` asked, at once if no hold is left on it.
    pub(super) fn give(&mut self, slot: Slot, extent: Extent, bytes: u64, label: LabelId, holds: Vec<Arc<AtomicBool>>) {
        self.used_bytes -= extent.bytes();
        self.live_bytes -= bytes;
        self.totals.blocks -= 1;
        self.labels.remove(label, extent.bytes());
        if holds.iter().all(|done| done.load(Ordering::Acquire)) {
            self.release(slot, extent);
        } else {
            self.retired_bytes += extent.bytes();
            self.retired.push(Retired { slot, extent, holds });
        }
    }

    fn release(&mut self, slot: Slot, extent: Extent) {
        self.space_mut(slot).release(extent);
        let index = self.order.iter().position(|other| *other == slot).expect("an occupied slot is in the order");
        self.settle(index);
    }

    /// Retired blocks that nobody uses any more go home. Whether there were any.
    pub(super) fn release_retired(&mut self) -> bool {
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition(|retired| retired.holds.iter().all(|done| done.load(Ordering::Acquire)));
        self.retired = waiting;
        let any = !done.is_empty();
        for retired in done {
            self.retired_bytes -= retired.extent.bytes();
            self.release(retired.slot, retired.extent);
        }
        any
    }

    /// Step 3: retired blocks that nobody uses any more, and idle pieces, go home.
    pub(super) fn gather(&mut self) {
        self.release_retired();
        for entry in self.entries.iter_mut().flatten() {
            entry.space.gather();
        }
    }

    pub(super) fn empty_bytes(&self) -> u64 {
        self.entries.iter().flatten().filter(|entry| entry.space.is_empty()).map(|entry| entry.slab.bytes).sum()
    }

    pub(super) fn leaving_bytes(&self) -> u64 {
        self.leaving_bytes
    }

    /// Starts to give empty slabs back: they leave once `point` has passed. It must be the last one recorded *now*, asked
    /// with the lock held: a slab may have become empty a moment ago, after work recorded a moment before that.
    pub(super) fn detach_empty(&mut self, point: Point) {
        let entries = &mut self.entries;
        let (leaving, leaving_bytes) = (&mut self.leaving, &mut self.leaving_bytes);
        self.order.retain(|slot| {
            let entry = &mut entries[*slot as usize];
            match entry.take_if(|entry| entry.space.is_empty()) {
                Some(Entry { slab, .. }) => {
                    *leaving_bytes += slab.bytes;
                    leaving.push(Leaving { slab, point });
                    false
                }
                None => true,
            }
        });
    }

    /// Whether anything here can change without a call of the pool.
    pub(super) fn waits_for_device(&self) -> bool {
        !self.leaving.is_empty() || !self.retired.is_empty()
    }

    /// The point after which every leaving slab may go.
    pub(super) fn last_leaving_point(&self) -> Option<Point> {
        self.leaving.iter().map(|leaving| leaving.point).max()
    }

    /// The slabs whose point has passed, for the caller to drop. Their bytes stay reserved until `buried`.
    pub(super) fn take_left(&mut self, completed: Point) -> Vec<Arc<Slab<S>>> {
        let (left, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leaving).into_iter().partition(|leaving| leaving.point <= completed);
        self.leaving = waiting;
        self.burials += usize::from(!left.is_empty());
        left.into_iter().map(|leaving| leaving.slab).collect()
    }

    /// Whether bytes are about to be given back without any more waiting for the device.
    pub(super) fn is_burying(&self) -> bool {
        self.burials > 0
    }

    /// The memory of slabs from `take_left` is gone.
    pub(super) fn buried(&mut self, bytes: u64) {
        self.burials -= 1;
        self.leaving_bytes -= bytes;
        self.reserved_bytes -= bytes;
    }

    pub(super) fn failed(&mut self) {
        self.totals.failures += 1;
    }

    pub(super) fn reset_peaks(&mut self) {
        self.totals.live_peak_bytes = self.live_bytes;
        self.totals.used_peak_bytes = self.used_bytes;
        self.totals.reserved_peak_bytes = self.reserved_bytes;
    }

    pub(super) fn stats(&self) -> Stats {
        let spaces = || self.entries.iter().flatten().map(|entry| &entry.space);
        Stats {
            reserved_bytes: self.reserved_bytes,
            live_bytes: self.live_bytes,
            used_bytes: self.used_bytes,
            cached_bytes: spaces().map(Space::cached_bytes).sum(),
            retired_bytes: self.retired_bytes + self.leaving_bytes,
            free_bytes: spaces().map(Space::free_bytes).sum(),
            largest_free_run_bytes: spaces().map(Space::largest_free_run_bytes).max().unwrap_or(0),
            metadata_bytes: spaces().map(|space| space.metadata_bytes() as u64).sum(),
            slabs: self.order.len() as u64,
            ..self.totals
        }
    }

    /// Panics if the books do not balance: a defect of this crate.
    pub(super) fn check(&self) {
        let stats = self.stats();
        let parts =
            stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
        assert_eq!(parts, stats.reserved_bytes, "the parts do not add up: {stats:?}");
        assert!(stats.reserved_bytes + self.booked_bytes <= stats.budget_bytes, "over the budget: {stats:?}");
        assert!(stats.live_bytes <= stats.used_bytes, "more live than used: {stats:?}");
        let held: u64 = self.labels.holders().iter().map(|holder| holder.bytes).sum();
        assert_eq!(held, stats.used_bytes, "the labels do not add up: {stats:?}");
        assert!(self.order.is_sorted_by_key(|slot| self.fullness(*slot)), "slabs are out of order");
        assert_eq!(self.order.len(), self.entries.iter().flatten().count());
        for entry in self.entries.iter().flatten() {
            assert_eq!(entry.space.bytes(), entry.slab.bytes);
            entry.space.check();
        }
    }

    /// Moves the slab at this index of the order to where its fullness belongs; returns its new index.
    fn settle(&mut self, mut index: usize) -> usize {
        let key = self.fullness(self.order[index]);
        while index > 0 && self.fullness(self.order[index - 1]) > key {
            self.order.swap(index - 1, index);
            index -= 1;
        }
        while index + 1 < self.order.len() && self.fullness(self.order[index + 1]) < key {
            self.order.swap(index, index + 1);
            index += 1;
        }
        index
    }

    /// Slabs in use first, those with fewest unassigned bytes before others; ties by slot, so that placement is
    /// deterministic.
    fn fullness(&self, slot: Slot) -> (bool, u64, Slot) {
        let space = &self.entry(slot).space;
        (space.is_empty(), space.bytes() - space.used_bytes(), slot)
    }

    fn entry(&self, slot: Slot) -> &Entry<S> {
        self.entries[slot as usize].as_ref().expect("the slot of a block is occupied")
    }

    fn space_mut(&mut self, slot: Slot) -> &mut Space {
        &mut self.entries[slot as usize].as_mut().expect("the slot of a block is occupied").space
    }
}

/// `State` needs no backend, only its slabs; this ties the two for signatures.
pub(super) type StateOf<B> = State<<B as Backend>::Slab>;
