//! What the pool's lock protects: slabs with their spaces, what waits for the device, and the counters.
//!
//! Everything here is bookkeeping. Nothing calls the backend: slabs are created and dropped by [`super::alloc`],
//! outside the lock.

use super::labels::{LabelId, Labels};
use super::line::Line;
use super::wait::Seat;
use super::{Limits, Placement, Priority, Request, SlabPolicy, Stats};
use crate::backend::{Backend, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::space::{Extent, Space};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering};
use crate::units::round_up;

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
    pub(super) line: Line<Arc<Seat<S>>>,
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
    /// Kept for requests of high priority.
    reserve_bytes: u64,
    alignment_bytes: u64,
    granule_bytes: u64,
    placement: Placement,
    policy: SlabPolicy,
}

/// Why not all requests of a batch were served.
pub(super) enum Short {
    /// Others in line are before them.
    Turn,
    /// There is no room for the request of this index.
    Of(usize),
}

impl<S> State<S> {
    pub(super) fn new(
        budget_bytes: u64,
        staging_bytes: u64,
        reserve_bytes: u64,
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
            line: Line::new(),
            reserved_bytes: staging_bytes,
            booked_bytes: 0,
            closed: false,
            used_bytes: 0,
            live_bytes: 0,
            retired_bytes: 0,
            leaving_bytes: 0,
            burials: 0,
            totals,
            reserve_bytes,
            alignment_bytes: limits.alignment_bytes,
            granule_bytes: limits.granule_bytes,
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

    /// Steps 1 and 2 for a request that is not in line: an idle piece of the class, else a place in a slab, fullest slab
    /// first. `None` also if others are before it.
    pub(super) fn take(&mut self, request: &Request) -> Option<Grant<S>> {
        if !self.line.may_be_passed() {
            return None;
        }
        let grant = self.take_any(request)?;
        self.line.passed();
        Some(grant)
    }

    /// As `take`, for all requests of a batch or none.
    pub(super) fn take_all(&mut self, requests: &[Request]) -> Result<Vec<Grant<S>>, Short> {
        if !self.line.may_be_passed() {
            return Err(Short::Turn);
        }
        let grants = self.take_batch(requests).map_err(Short::Of)?;
        self.line.passed();
        Ok(grants)
    }

    fn take_batch(&mut self, requests: &[Request]) -> Result<Vec<Grant<S>>, usize> {
        let totals = self.totals;
        let mut grants = Vec::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate().filter(|(_, request)| request.bytes > 0) {
            match self.take_any(request) {
                Some(grant) => grants.push(grant),
                None => {
                    self.take_back(grants, requests);
                    self.totals = totals;
                    return Err(index);
                }
            }
        }
        Ok(grants)
    }

    /// Takes back what was granted to the requests, or to the first of them.
    pub(super) fn take_back(&mut self, grants: Vec<Grant<S>>, requests: &[Request]) {
        for (grant, request) in grants.into_iter().zip(requests.iter().filter(|request| request.bytes > 0)) {
            self.give(grant.slot, grant.extent, request.bytes, grant.label_id, Vec::new());
        }
    }

    fn take_any(&mut self, request: &Request) -> Option<Grant<S>> {
        let bytes = request.bytes;
        let (index, extent) = if self.policy == SlabPolicy::PerBlock {
            let slab_bytes = round_up(bytes, self.granule_bytes)?;
            self.find(|space| space.alloc(bytes), |entry| entry.slab.bytes == slab_bytes && entry.space.is_empty())?
        } else {
            let cached = self.find(|space| space.alloc_cached(bytes), |_| true);
            cached.or_else(|| self.find(|space| space.alloc(bytes), |_| true))?
        };
        let slot = self.order[index];
        if !self.may_use(extent.bytes(), request.priority) {
            self.space_mut(slot).release(extent);
            return None;
        }
        Some(self.grant(index, extent, bytes, &request.label))
    }

    /// Whether a request of this priority may have so many bytes more, by the reserve.
    pub(super) fn may_use(&self, bytes: u64, priority: Priority) -> bool {
        let left_bytes = self.totals.budget_bytes - self.totals.staging_bytes - self.used_bytes - self.retired_bytes;
        priority == Priority::High || left_bytes.saturating_sub(self.reserve_bytes) >= bytes
    }

    /// What of the reserve is closed to this priority.
    pub(super) fn reserve_bytes(&self, priority: Priority) -> u64 {
        if priority == Priority::High { 0 } else { self.reserve_bytes }
    }

    /// Serves those in line who can be served now, each in turn; the caller wakes them without the lock.
    pub(super) fn serve(&mut self) -> Vec<Arc<Seat<S>>> {
        let mut served = Vec::new();
        if self.line.is_empty() {
            return served;
        }
        self.gather();
        // Each that is served may let others come to be due.
        while let Some((ticket, seat, grants)) = self.line.candidates().into_iter().find_map(|ticket| {
            let seat = Arc::clone(self.line.get(ticket)?);
            let grants = self.take_batch(&seat.requests).ok()?;
            Some((ticket, seat, grants))
        }) {
            self.line.serve(ticket);
            self.totals.allocations_waited += grants.len() as u64;
            seat.settle(Ok(grants));
            served.push(seat);
        }
        served
    }

    /// The request of a waiter that there is no room for now. `None` if there is room for all, or he need not wait.
    pub(super) fn short_of<'a>(&mut self, seat: &'a Seat<S>) -> Option<&'a Request> {
        if seat.is_settled() {
            return None;
        }
        let totals = self.totals;
        match self.take_batch(&seat.requests) {
            Ok(grants) => {
                self.take_back(grants, &seat.requests);
                self.totals = totals;
                None
            }
            Err(index) => Some(&seat.requests[index]),
        }
    }

    /// Those in line who may be served, in turn.
    pub(super) fn candidates(&self) -> Vec<Arc<Seat<S>>> {
        self.line.candidates().into_iter().filter_map(|ticket| self.line.get(ticket).cloned()).collect()
    }

    fn find(
        &mut self,
        mut alloc: impl FnMut(&mut Space) -> Option<Extent>,
        suits: impl Fn(&Entry<S>) -> bool,
    ) -> Option<(usize, Extent)> {
        let entries = &mut self.entries;
        let mut slots = self.order.iter().enumerate();
        slots.find_map(|(index, slot)| {
            let entry = entries[*slot as usize].as_mut().expect("a slot in the order is occupied");
            if !suits(entry) {
                return None;
            }
            alloc(&mut entry.space).map(|extent| (index, extent))
        })
    }

    /// Adds a new slab.
    pub(super) fn add_slab(&mut self, slab: Slab<S>) {
        self.reserved_bytes += slab.bytes;
        self.totals.reserved_peak_bytes = self.totals.reserved_peak_bytes.max(self.reserved_bytes);
        // A slab of one block is as large as the block, whatever a buddy system would make of it.
        let placement = if self.policy == SlabPolicy::PerBlock { Placement::Exact } else { self.placement };
        let space = Space::new(slab.bytes, self.alignment_bytes, placement);
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
        self.settle(self.order.len() - 1);
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

    pub(super) fn timed_out(&mut self) {
        self.totals.failures += 1;
        self.totals.timeouts += 1;
    }

    /// Allocations that were served after steps 3, 4 or 5.
    pub(super) fn count(&mut self, blocks: usize, grown: bool, gave_back: bool) {
        let counter = match (gave_back, grown) {
            (true, _) => &mut self.totals.allocations_given_back,
            (_, true) => &mut self.totals.allocations_grown,
            _ => &mut self.totals.allocations_gathered,
        };
        *counter += blocks as u64;
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
            waiting: self.line.len() as u64,
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
