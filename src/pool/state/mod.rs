//! What the pool's lock protects: slabs with their spaces, what waits for the device, and the counters.
//!
//! Everything here is bookkeeping. Nothing calls the backend: slabs are created and dropped by [`super::grow`],
//! outside the lock.

mod audit;
mod budget;
mod emptying;
mod expand;
mod in_place;
mod moves;
mod next_slab;
mod order;
#[cfg(test)]
mod order_tests;
mod place;
mod retire;
mod room;
mod runs;
mod serve;
#[cfg(test)]
mod serve_tests;
mod slots;
mod tables;

use std::collections::BTreeSet;
use std::time::Instant;

pub(super) use self::expand::Expansion;
pub(super) use self::in_place::{Denied, First};
pub(super) use self::next_slab::NextSlab;
pub(super) use self::place::{Memory, Short, by_size};

use self::order::Order;
pub(super) use self::retire::{Holds, Leaving, Retired};
pub(super) use self::room::{Room, Terms};
pub(super) use self::serve::{Candidate, Growth, Look, Served};
use self::serve::{Chances, Waiters};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::books::{Books, Sum};
use crate::pool::idle::Activity;
use crate::pool::planned::Signs;
use crate::pool::record::Record;
use crate::pool::shards::Tally;
use crate::pool::sizes::SlabSizes;
use crate::pool::{Request, SlabPolicy, Stats};
use crate::space::{Extent, Mark, Space};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, ThreadId};

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
    /// The slot is in `State::unmerged`.
    is_unmerged: bool,
}

/// A place in a slab that is out of its space: a block's, or one that waits in a free list.
#[repr(C)]
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
    /// How many of these are there, and their bytes.
    slabs: usize,
    slab_bytes: u64,
    /// The other slots, which are used again.
    vacant: BTreeSet<Slot>,
    /// The slabs that have room, fullest first. It is not told of a slab that has the table of slabs for itself.
    order: Order,
    /// Slabs that may have idle buddies, as far as the order is told of them.
    unmerged: BTreeSet<Slot>,
    leaving: Vec<Leaving<S>>,
    retired: Vec<Retired<S>>,
    line: Waiters<S>,
    /// What a slab might do for the line when that was last tried in vain.
    grown_in_vain: Option<(Chances, Instant)>,
    books: Books,
    /// Slabs and staging, those leaving included.
    reserved: Sum,
    /// What is reserved above the budget since that was lowered. It only falls: nothing more is reserved meanwhile.
    over_bytes: u64,
    /// Returns the bytes of slabs that are being created.
    booked: Sum,
    leaving_sum: Sum,
    /// Of slabs from `take_left`, whose memory is being dropped.
    burying: Sum,
    /// Of spare memory from `take_left`, which is being given back.
    decommitting: Sum,
    /// The threads that are dropping slabs, or giving spare memory back.
    burials: Vec<ThreadId>,
    /// The threads that are zeroing retired places, and wait for no other thread.
    zeroing: Vec<ThreadId>,
    /// All that was ever given back to the backend.
    returned_bytes: u64,
    /// What was counted when the pool was last found to be at work, and when that was.
    pub(super) idle_since: Option<(Activity, Instant)>,
    /// See [`set_divided`](Self::set_divided).
    is_divided: bool,
    /// The counters contradict each other: nothing more is reserved.
    is_wrong: bool,
    /// That was logged.
    is_told: bool,
    closed: bool,
    /// For the shards: idle memory belongs in the spaces.
    direct: &'static AtomicBool,
    /// For the shards: what their free runs may come to.
    runs_bytes_most: &'static AtomicU64,
    has_runs: &'static AtomicBool,
    /// How often runs have begun to go into lists.
    run_turns: u64,
    /// Threads that bring runs home, or look for what they want there.
    run_bringers: usize,
    signs: &'static Signs,
    /// As the pool was opened.
    has_free_lists: bool,
    /// There is no handle of the pool.
    orphaned: bool,
    /// What is asked for, for whoever wants to know.
    pub(super) record: Option<Box<Record>>,
    /// Kept for requests of high priority.
    reserve_bytes: u64,
    sizes: SlabSizes,
}

/// What a pool is opened with, as far as its books need it.
pub(super) struct Opening {
    pub(super) budget_bytes: u64,
    pub(super) staging_bytes: u64,
    pub(super) reserve_bytes: u64,
    pub(super) sizes: SlabSizes,
    pub(super) direct: &'static AtomicBool,
    pub(super) runs_bytes_most: &'static AtomicU64,
    pub(super) has_runs: &'static AtomicBool,
    pub(super) signs: &'static Signs,
    pub(super) has_free_lists: bool,
}

impl<S> State<S> {
    pub(super) fn new(opening: &Opening) -> Self {
        let state = Self {
            entries: Vec::new(),
            slabs: 0,
            slab_bytes: 0,
            vacant: BTreeSet::new(),
            order: Order::default(),
            unmerged: BTreeSet::new(),
            leaving: Vec::new(),
            retired: Vec::new(),
            line: Waiters::new(),
            grown_in_vain: None,
            books: Books::new(opening.budget_bytes, opening.staging_bytes),
            reserved: Sum::new(opening.staging_bytes),
            over_bytes: 0,
            booked: Sum::default(),
            leaving_sum: Sum::default(),
            burying: Sum::default(),
            decommitting: Sum::default(),
            burials: Vec::new(),
            zeroing: Vec::new(),
            returned_bytes: 0,
            idle_since: None,
            is_divided: false,
            is_wrong: false,
            is_told: false,
            closed: false,
            direct: opening.direct,
            runs_bytes_most: opening.runs_bytes_most,
            has_runs: opening.has_runs,
            run_turns: 0,
            run_bringers: 0,
            signs: opening.signs,
            has_free_lists: opening.has_free_lists,
            record: None,
            orphaned: false,
            reserve_bytes: opening.reserve_bytes,
            sizes: opening.sizes,
        };
        // The shards may have been another pool's.
        state.runs_bytes_most.store(0, Ordering::Relaxed);
        state.has_runs.store(false, Ordering::Relaxed);
        state.direct_if_need_be();
        state
    }

    /// Free lists would keep memory from those in line, hand a reserve's bytes to any request, keep a slab of one block, or one that a
    /// lowered budget has no room for, and keep a pool alive that has no owner. What goes through them is not recorded; and beside
    /// planned steps, which have an arena instead, their counters would come in another order.
    pub(super) fn direct_if_need_be(&self) {
        let is_direct = !self.has_free_lists
            || self.closed
            || self.orphaned
            || self.record.is_some()
            || self.signs.has_arena()
            || self.reserve_bytes > 0
            || self.over_bytes > 0
            || self.sizes.policy == SlabPolicy::PerBlock
            || !self.line.is_empty();
        self.direct.store(is_direct, Ordering::Relaxed);
        if is_direct {
            self.runs_bytes_most.store(0, Ordering::Relaxed);
        }
        self.signs.set_wanted(!self.line.is_empty() || self.over_bytes > 0);
    }

    /// Decides whether free runs go into the lists of the shards, which keep memory from other requests, and blocks from the places
    /// that they would have: only while the pool is steady, and memory ample. Returns whether the lists are to be emptied.
    #[inline]
    pub(super) fn look_at_room(&mut self) -> bool {
        let before = self.runs_bytes_most.load(Ordering::Relaxed);
        let is_ample = self.run_bringers == 0
            && self.books.is_steady()
            && self.slab_count() == 1
            && !self.direct.load(Ordering::Relaxed)
            && !self.gives_back_at_once();
        let bytes_most = if is_ample { self.books.spare_for_lists(before > 0) } else { 0 };
        if bytes_most != before {
            if before == 0 {
                self.run_turns += 1;
                self.has_runs.store(true, Ordering::Relaxed);
            }
            self.runs_bytes_most.store(bytes_most, Ordering::Relaxed);
        }
        bytes_most == 0 && self.has_runs.load(Ordering::Relaxed)
    }

    /// A request finds no place, or a slab is to be created, or memory committed: no runs go into lists until the thread that brings them
    /// home has called [`runs_were_home`](Self::runs_were_home). Returns in which turn that is, for [`runs_are_home`](Self::runs_are_home).
    pub(super) fn list_no_runs(&mut self) -> u64 {
        self.run_bringers += 1;
        self.runs_bytes_most.store(0, Ordering::Relaxed);
        self.run_turns
    }

    /// A thread that brought runs home has looked for what it wants. If it was not served by them, no runs go into lists until the pool
    /// is steady again.
    pub(super) fn runs_were_home(&mut self, is_served: bool) {
        self.run_bringers -= 1;
        if !is_served {
            self.books.disturb();
        }
    }

    /// Every list was emptied since [`list_no_runs`](Self::list_no_runs). In a later turn others may have come.
    pub(super) fn runs_are_home(&mut self, turn: u64) {
        if self.run_turns == turn {
            self.has_runs.store(false, Ordering::Relaxed);
        }
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

    /// Of slabs that are being created.
    pub(super) fn booked_bytes(&self) -> u64 {
        self.booked.bytes()
    }

    /// What may still be reserved.
    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes_after(0)
    }

    /// A pool of [`SlabPolicy::Single`] has slabs of single requests, or is whole again.
    pub(super) fn set_divided(&mut self, is_divided: bool) {
        self.is_divided = is_divided;
    }

    /// Returns whether a pool of [`SlabPolicy::Single`] has slabs, none of which is of a single request.
    pub(super) fn has_whole_slabs(&self) -> bool {
        self.slab_count() > 0 && !self.is_divided
    }

    /// Returns whether an empty slab goes back as soon as it is empty: no other request is to have it, or the budget has no room for it.
    pub(super) fn gives_back_at_once(&self) -> bool {
        self.sizes.policy == SlabPolicy::PerBlock || self.is_divided | (self.over_bytes > 0)
    }

    pub(super) fn largest_slab_bytes(&self) -> u64 {
        self.entries.iter().flatten().map(|entry| entry.slab.bytes).max().unwrap_or(0)
    }

    pub(super) fn slab_count(&self) -> usize {
        self.slabs
    }

    /// Enters what a shard has to tell.
    pub(super) fn fold(&mut self, tally: Tally) {
        self.books.fold(tally);
    }

    /// Homes that nobody holds go back to their spaces.
    pub(super) fn put_back(&mut self, homes: impl IntoIterator<Item = Home<S>>) {
        homes.into_iter().for_each(|home| self.put_back_one(home));
    }

    fn put_back_one(&mut self, home: Home<S>) {
        let Home { slab, extent } = home;
        let slot = slab.slot;
        self.books.put_back(extent.bytes());
        if extent.is_marked(Mark::High) {
            self.books.put_back_high(extent.bytes());
        }
        // With the lock held: once a slab is empty, nobody but the pool has it.
        drop(slab);
        self.release(slot, extent);
    }

    /// Adds a new slab, whose bytes were booked.
    pub(super) fn add_slab(&mut self, slab: Slab<S>) {
        self.booked.take(slab.bytes);
        self.reserved.add(slab.bytes);
        self.books.reserved(slab.bytes, self.reserved.bytes());
        self.enter(slab);
    }

    #[inline]
    fn release(&mut self, slot: Slot, extent: Extent) {
        self.space_mut(slot).release(extent);
        self.settle(slot);
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
        self.books.reset_peaks(self.reserved.bytes());
    }

    /// Bytes that callers hold, and in how many blocks.
    pub(super) fn held(&self) -> (u64, u64) {
        (self.books.used_bytes(), self.books.blocks())
    }

    pub(super) fn stats(&self) -> Stats {
        Stats { metadata_bytes: self.metadata_bytes(), ..self.numbers() }
    }

    /// Returns the [`stats`](Self::stats) without what the tables have in memory, which takes time to sum.
    pub(super) fn numbers(&self) -> Stats {
        let idle_bytes: u64 = self.entries.iter().flatten().map(|entry| entry.space.cached_bytes()).sum();
        let (slab_bytes, held_bytes) = self.slab_bytes();
        let books = self.books.stats();
        let ranges = self.entries.iter().flatten().filter(|entry| entry.space.is_expanding());
        Stats {
            policy: self.sizes.policy,
            address_bytes: ranges.map(|entry| entry.slab.bytes).sum(),
            reserved_bytes: self.reserved.bytes(),
            // What is on its way counts as reserved, and is in the peak once it has come.
            reserved_peak_bytes: books.reserved_peak_bytes.max(self.reserved.bytes()),
            cached_bytes: books.cached_bytes + idle_bytes,
            retired_bytes: books.retired_bytes + self.leaving_bytes(),
            free_bytes: slab_bytes - held_bytes - idle_bytes,
            largest_free_run_bytes: self.largest_free_run_bytes(),
            slabs: self.slabs as u64,
            waiting: self.line.len() as u64,
            ..books
        }
    }

    /// The longest run of free pages. Of addresses that have no memory, as much of it counts as the budget leaves.
    fn largest_free_run_bytes(&self) -> u64 {
        let of_space = |space: &Space| {
            let most_bytes = if space.is_expanding() { space.free_bytes() + self.left_bytes() } else { u64::MAX };
            space.largest_free_run_bytes().min(most_bytes)
        };
        self.most_of_slabs(of_space)
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
