//! What the pool's lock protects: slabs with their spaces, what waits for the device, and the counters.
//!
//! Everything here is bookkeeping. Nothing calls the backend: slabs are created and dropped by [`super::grow`],
//! outside the lock.

mod moves;
mod retire;
mod runs;
mod serve;

use self::retire::Leaving;
pub(super) use self::retire::{Holds, Retired};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::books::Books;
use crate::pool::line::Line;
use crate::pool::planned::Signs;
use crate::pool::record::Record;
use crate::pool::shards::{LIST_BYTES, REFILL, Tally};
use crate::pool::wait::Seat;
use crate::pool::{Limits, Placement, Priority, Request, SlabPolicy, Stats};
use crate::space::{Extent, Space};
use crate::sync::{Arc, AtomicBool, Ordering, ThreadId};
use crate::units::round_up;

/// A backend's slab, shared by the pool and the blocks in it.
pub(crate) struct Slab<S> {
    /// Never used twice in a process.
    pub(crate) serial: u64,
    /// Where it is in its pool.
    slot: Slot,
    pub(crate) bytes: u64,
    pub(crate) memory: S,
}

impl<S> Slab<S> {
    pub(super) fn new(bytes: u64, memory: S) -> Self {
        static NEXT_SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self { serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed), slot: Slot::MAX, bytes, memory }
    }
}

/// Index of a slab in its pool; used again after the slab is gone.
pub(super) type Slot = u32;

struct Entry<S> {
    slab: Arc<Slab<S>>,
    space: Space,
}

/// A place in a slab that is out of its space: a block's, or one that waits in a free list.
pub(super) struct Home<S> {
    pub(super) slab: Arc<Slab<S>>,
    pub(super) extent: Extent,
}

impl<S> Home<S> {
    /// Which slab of the pool, and where in it.
    pub(super) fn place(&self) -> (Slot, u64) {
        (self.slab.slot, self.extent.offset())
    }
}

pub(super) struct State<S> {
    entries: Vec<Option<Entry<S>>>,
    /// The occupied slots, fullest first: slabs in use by free bytes, then the empty ones.
    order: Vec<Slot>,
    leaving: Vec<Leaving<S>>,
    retired: Vec<Retired<S>>,
    line: Line<Arc<Seat<S>>>,
    books: Books,
    /// Slabs and staging, those leaving included.
    reserved_bytes: u64,
    /// Of slabs that are being created.
    booked_bytes: u64,
    leaving_bytes: u64,
    /// All that was ever given back to the backend.
    returned_bytes: u64,
    /// The threads that are dropping the memory of slabs from `take_left`.
    burials: Vec<ThreadId>,
    closed: bool,
    /// For the shards: idle memory belongs in the spaces.
    direct: &'static AtomicBool,
    signs: &'static Signs,
    /// As the pool was opened.
    has_free_lists: bool,
    /// There is no handle of the pool.
    orphaned: bool,
    /// What is asked for, for whoever wants to know.
    pub(super) record: Option<Box<Record>>,
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

/// What a pool is opened with, as far as its books need it.
pub(super) struct Opening<'a> {
    pub(super) budget_bytes: u64,
    pub(super) staging_bytes: u64,
    pub(super) reserve_bytes: u64,
    pub(super) limits: &'a Limits,
    pub(super) placement: Placement,
    pub(super) policy: SlabPolicy,
    pub(super) direct: &'static AtomicBool,
    pub(super) signs: &'static Signs,
    pub(super) has_free_lists: bool,
}

impl<S> State<S> {
    pub(super) fn new(opening: &Opening) -> Self {
        let state = Self {
            entries: Vec::new(),
            order: Vec::new(),
            leaving: Vec::new(),
            retired: Vec::new(),
            line: Line::new(),
            books: Books::new(opening.budget_bytes, opening.staging_bytes),
            reserved_bytes: opening.staging_bytes,
            booked_bytes: 0,
            leaving_bytes: 0,
            returned_bytes: 0,
            burials: Vec::new(),
            closed: false,
            direct: opening.direct,
            signs: opening.signs,
            has_free_lists: opening.has_free_lists,
            record: None,
            orphaned: false,
            reserve_bytes: opening.reserve_bytes,
            alignment_bytes: opening.limits.alignment_bytes,
            granule_bytes: opening.limits.granule_bytes,
            placement: opening.placement,
            policy: opening.policy,
        };
        state.direct_if_need_be();
        state
    }

    /// Free lists would keep memory from those in line, hand a reserve's bytes to anybody, keep a slab of one block, and
    /// keep a pool alive that nobody has. What goes through them is not recorded; and beside planned steps, which have an
    /// arena instead, their counters would come in another order.
    pub(super) fn direct_if_need_be(&self) {
        let is_direct = !self.has_free_lists
            || self.closed
            || self.orphaned
            || self.record.is_some()
            || self.signs.has_arena()
            || self.reserve_bytes > 0
            || self.policy == SlabPolicy::PerBlock
            || !self.line.is_empty();
        self.direct.store(is_direct, Ordering::Relaxed);
        self.signs.set_waited_for(!self.line.is_empty());
    }

    /// Refuses requests to a pool that is closed.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed { Err(Error::new(ErrorKind::Closed, "the pool is closed")) } else { Ok(()) }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.direct_if_need_be();
    }

    /// Begins a record or ends it; the one that was there.
    pub(super) fn set_record(&mut self, record: Option<Box<Record>>) -> Option<Box<Record>> {
        let before = std::mem::replace(&mut self.record, record);
        self.signs.set_recording(self.record.is_some());
        self.direct_if_need_be();
        before
    }

    pub(super) fn set_orphaned(&mut self, orphaned: bool) {
        self.orphaned = orphaned;
        self.direct_if_need_be();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// What may still be reserved.
    pub(super) fn left_bytes(&self) -> u64 {
        self.books.budget_bytes() - self.reserved_bytes - self.booked_bytes
    }

    pub(super) fn book(&mut self, bytes: u64) {
        self.booked_bytes += bytes;
    }

    pub(super) fn unbook(&mut self, bytes: u64) {
        self.booked_bytes -= bytes;
    }

    pub(super) fn slab_count(&self) -> usize {
        self.order.len()
    }

    /// Enters what a shard has to tell.
    pub(super) fn fold(&mut self, tally: Tally) {
        self.books.fold(tally);
    }

    /// Serves a request that is not in line, before any fallback: an idle piece of the class, else a place in a slab,
    /// fullest slab first. `None` also if others are before it.
    pub(super) fn take(&mut self, request: &Request) -> Option<Home<S>> {
        if !self.may_be_served(request.priority) {
            return None;
        }
        let home = self.place(request)?;
        self.granted(std::slice::from_ref(&home), std::slice::from_ref(request));
        self.passed();
        Some(home)
    }

    /// As `take`, for all requests of a batch or none.
    pub(super) fn take_all(&mut self, requests: &[Request]) -> Result<Vec<Home<S>>, Short> {
        let priority = requests.iter().map(|request| request.priority).min().unwrap_or_default();
        if !self.may_be_served(priority) {
            return Err(Short::Turn);
        }
        let homes = self.take_batch(requests).map_err(Short::Of)?;
        self.passed();
        Ok(homes)
    }

    /// Whether somebody of this priority may be served before who is due: nobody is, or those who are could not have what is
    /// left.
    pub(super) fn may_be_served(&self, priority: Priority) -> bool {
        match self.line.due_priority() {
            None => true,
            Some(due) => due < Priority::High && priority == Priority::High && self.is_reserve_left_alone(),
        }
    }

    /// Whether nothing but the reserve is left.
    fn is_reserve_left_alone(&self) -> bool {
        self.reserve_bytes > 0 && self.books.left_bytes() <= self.reserve_bytes
    }

    /// A request that was not in line has been served.
    pub(super) fn passed(&mut self) {
        if self.line.may_be_passed() {
            self.line.passed();
        }
    }

    fn take_batch(&mut self, requests: &[Request]) -> Result<Vec<Home<S>>, usize> {
        let homes = self.place_all(requests)?;
        self.granted(&homes, requests);
        Ok(homes)
    }

    /// Homes for all of the requests that are not of zero bytes have been found.
    #[inline]
    fn granted(&mut self, homes: &[Home<S>], requests: &[Request]) {
        if requests.iter().any(|request| request.for_the_pool) {
            homes.iter().for_each(|home| self.books.list(home.extent.bytes()));
            return;
        }
        self.books.granted(homes.len(), bytes_of(requests));
        let served = requests.iter().filter(|request| request.bytes > 0);
        homes.iter().zip(served).for_each(|(home, request)| self.record_alloc(home, request));
    }

    /// Idle pieces of the class of a small block that was just placed, as many as a list takes: out of their spaces, with
    /// nobody to hold them.
    pub(super) fn take_idle(&mut self, bytes: u64, placed: &Home<S>) -> Vec<Home<S>> {
        let (held_bytes, mut homes) = (placed.extent.bytes(), Vec::new());
        let most = if placed.extent.is_piece() { REFILL.min((LIST_BYTES / held_bytes) as usize) } else { 0 };
        while homes.len() < most
            && let Some((index, extent)) = self.find(|space| space.alloc_cached(bytes), |_| true)
        {
            // The same size in every slab that has such a class.
            debug_assert_eq!(extent.bytes(), held_bytes);
            let slab = Arc::clone(&self.entry(self.order[index]).slab);
            self.settle(index);
            self.books.take_listed(held_bytes);
            homes.push(Home { slab, extent });
        }
        homes
    }

    /// Takes back what was granted to the requests and nobody has seen.
    pub(super) fn take_back(&mut self, homes: Vec<Home<S>>, requests: &[Request]) {
        self.books.revoked(homes.len(), bytes_of(requests));
        homes.iter().for_each(|home| self.record_free(home));
        self.put_back(homes);
    }

    /// Homes for all requests that are not of zero bytes, or the index of one that has none.
    fn place_all(&mut self, requests: &[Request]) -> Result<Vec<Home<S>>, usize> {
        let mut homes = Vec::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate().filter(|(_, request)| request.bytes > 0) {
            match self.place(request) {
                Some(home) => homes.push(home),
                None => {
                    self.put_back(homes);
                    return Err(index);
                }
            }
        }
        Ok(homes)
    }

    fn place(&mut self, request: &Request) -> Option<Home<S>> {
        let bytes = request.bytes;
        let (index, extent) = if self.policy == SlabPolicy::PerBlock {
            let slab_bytes = round_up(bytes, self.granule_bytes)?;
            self.find(|space| space.alloc(bytes), |entry| entry.slab.bytes == slab_bytes && entry.space.is_empty())?
        } else {
            let cached = self.find(|space| space.alloc_cached(bytes), |_| true);
            let for_the_pool = request.for_the_pool;
            let alloc = |space: &mut Space| if for_the_pool { space.alloc_uncounted(bytes) } else { space.alloc(bytes) };
            cached.or_else(|| self.find(alloc, |_| true))?
        };
        let slot = self.order[index];
        if !self.may_use(extent.bytes(), request.priority) {
            self.space_mut(slot).release(extent);
            return None;
        }
        self.settle(index);
        self.books.take(extent.bytes());
        Some(Home { slab: Arc::clone(&self.entry(slot).slab), extent })
    }

    /// Whether a slab of so many bytes would be more than was ever reserved.
    pub(super) fn would_be_more_than_ever(&mut self, bytes: u64) -> bool {
        self.reserved_bytes.saturating_add(bytes) > self.totals().reserved_peak_bytes
    }

    /// Homes that nobody holds go back to their spaces.
    pub(super) fn put_back(&mut self, homes: impl IntoIterator<Item = Home<S>>) {
        homes.into_iter().for_each(|home| self.put_back_one(home));
    }

    fn put_back_one(&mut self, home: Home<S>) {
        let Home { slab, extent } = home;
        let slot = slab.slot;
        self.books.put_back(extent.bytes());
        // With the lock held: once a slab is empty, nobody but the pool has it.
        drop(slab);
        self.release(slot, extent);
    }

    /// Whether a request of this priority may have so many bytes more, by the reserve.
    pub(super) fn may_use(&self, bytes: u64, priority: Priority) -> bool {
        self.books.left_bytes().saturating_sub(self.reserve_bytes(priority)) >= bytes
    }

    /// What of the reserve is closed to this priority.
    pub(super) fn reserve_bytes(&self, priority: Priority) -> u64 {
        if priority == Priority::High { 0 } else { self.reserve_bytes }
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

    /// Adds a new slab, whose bytes were booked.
    pub(super) fn add_slab(&mut self, mut slab: Slab<S>) {
        self.booked_bytes -= slab.bytes;
        self.reserved_bytes += slab.bytes;
        self.books.reserved(self.reserved_bytes);
        // A slab of one block is as large as the block, whatever a buddy system would make of it.
        let placement = if self.policy == SlabPolicy::PerBlock { Placement::Exact } else { self.placement };
        let space = Space::new(slab.bytes, self.alignment_bytes, placement);
        let slot = match self.entries.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.entries.push(None);
                self.entries.len() - 1
            }
        };
        slab.slot = slot as Slot;
        self.entries[slot] = Some(Entry { slab: Arc::new(slab), space });
        self.order.push(slot as Slot);
        self.settle(self.order.len() - 1);
    }

    fn release(&mut self, slot: Slot, extent: Extent) {
        self.space_mut(slot).release(extent);
        self.settle_slot(slot);
    }

    fn settle_slot(&mut self, slot: Slot) {
        let index = self.order.iter().position(|other| *other == slot).expect("an occupied slot is in the order");
        self.settle(index);
    }

    /// The counters that nothing else depends on.
    pub(super) fn totals(&mut self) -> &mut Stats {
        self.books.totals()
    }

    pub(super) fn timed_out(&mut self, requests: &[Request]) {
        self.failed(requests);
        self.totals().timeouts += 1;
    }

    pub(super) fn reset_peaks(&mut self) {
        self.books.reset_peaks(self.reserved_bytes);
    }

    /// Bytes that callers hold, and in how many blocks.
    pub(super) fn held(&self) -> (u64, u64) {
        (self.books.used_bytes(), self.books.blocks())
    }

    pub(super) fn stats(&self) -> Stats {
        let spaces = || self.entries.iter().flatten().map(|entry| &entry.space);
        let books = self.books.stats();
        Stats {
            reserved_bytes: self.reserved_bytes,
            cached_bytes: books.cached_bytes + spaces().map(Space::cached_bytes).sum::<u64>(),
            retired_bytes: books.retired_bytes + self.leaving_bytes,
            free_bytes: spaces().map(Space::free_bytes).sum(),
            largest_free_run_bytes: spaces().map(Space::largest_free_run_bytes).max().unwrap_or(0),
            metadata_bytes: spaces().map(|space| space.metadata_bytes() as u64).sum::<u64>()
                + self.record.as_ref().map_or(0, |record| record.metadata_bytes()),
            slabs: self.order.len() as u64,
            waiting: self.line.len() as u64,
            ..books
        }
    }

    /// Panics if the books do not balance: a defect of this crate.
    pub(super) fn check(&self) {
        let stats = self.stats();
        let parts =
            stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
        assert_eq!(parts, stats.reserved_bytes, "the parts do not add up: {stats:?}");
        assert!(stats.reserved_bytes + self.booked_bytes <= stats.budget_bytes, "over the budget: {stats:?}");
        self.books.check();
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

fn bytes_of(requests: &[Request]) -> u64 {
    requests.iter().map(|request| request.bytes).sum()
}
