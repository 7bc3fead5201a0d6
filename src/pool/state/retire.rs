//! What waits for the device, or to be zeroed: blocks without an owner, and slabs on their way back.

use super::order::Order;
use super::{Entry, Home, Slab, Slot, State};
use crate::backend::Point;
use crate::pool::tables::keep_small;
use crate::space::Extent;
use crate::sync::{Arc, AtomicUsize, Ordering, ThreadId};

/// A slab, or spare memory of one, that goes back to the device once `point` has passed. Its bytes stay reserved until the memory
/// is gone.
pub(in crate::pool) struct Leaving<S> {
    pub(in crate::pool) slab: Arc<Slab<S>>,
    /// The part of an expanding slab.
    pub(in crate::pool) spare: Option<Extent>,
    pub(super) point: Point,
}

impl<S> Leaving<S> {
    pub(in crate::pool) fn bytes(&self) -> u64 {
        self.spare.map_or(self.slab.bytes, Extent::bytes)
    }
}

/// A block that nobody owns, whose memory others may still use, or shall not see as it is.
pub(in crate::pool) struct Retired<S> {
    pub(in crate::pool) home: Home<S>,
    holds: Option<Holds>,
    /// It is to be zeroed before it goes home.
    is_dirty: bool,
}

impl<S> Retired<S> {
    pub(super) fn new(home: Home<S>, holds: Option<Holds>, is_dirty: bool) -> Self {
        Self { home, holds, is_dirty }
    }

    /// A place that is to be zeroed before it goes home.
    pub(super) fn dirty(home: Home<S>) -> Self {
        Self { home, holds: None, is_dirty: true }
    }

    /// Returns whether no hold keeps it any more, and zeroing does.
    pub(super) fn waits_to_be_zeroed(&self) -> bool {
        self.is_dirty && self.is_over()
    }

    fn is_over(&self) -> bool {
        self.holds.as_ref().is_none_or(|holds| holds.load(Ordering::Acquire) == 0)
    }
}

/// How many [holds](crate::Hold) on a block are not over.
pub(in crate::pool) type Holds = Arc<AtomicUsize>;

impl<S> State<S> {
    /// Takes back a block of `bytes` asked, at once if no hold is left on it and it is not to be zeroed first.
    pub(in crate::pool) fn give(&mut self, home: Home<S>, bytes: u64, holds: Option<Holds>, is_dirty: bool) {
        self.books.freed(1, bytes);
        self.record_free(&home);
        self.give_back(Retired { home, holds, is_dirty });
    }

    /// Takes back what has no owner any more: at once, or when the holds are over and it is zeroed.
    pub(super) fn give_back(&mut self, retired: Retired<S>) {
        if retired.is_over() && !retired.is_dirty {
            self.put_back_one(retired.home);
        } else {
            self.books.retire(retired.home.extent.bytes());
            self.retired.push(retired);
        }
    }

    /// Retired blocks that nobody uses any more go home. Whether there were any.
    pub(in crate::pool) fn release_retired(&mut self) -> bool {
        let over: Vec<_> = self.retired.extract_if(.., |retired| retired.is_over() && !retired.is_dirty).collect();
        keep_small(&mut self.retired);
        let any = !over.is_empty();
        over.into_iter().for_each(|retired| self.unretire(retired));
        any
    }

    /// A block of `bytes` asked, of an extent that the pool divides itself, has no owner any more, but others use it.
    pub(in crate::pool) fn retire_listed(&mut self, bytes: u64, held_bytes: u64) {
        self.books.freed(1, bytes);
        self.books.retire(held_bytes);
    }

    /// And now they do not: it is nobody's.
    pub(in crate::pool) fn unretire_listed(&mut self, held_bytes: u64) {
        self.books.unretire(held_bytes);
        self.books.take_listed(held_bytes);
    }

    fn unretire(&mut self, retired: Retired<S>) {
        let held_bytes = retired.home.extent.bytes();
        self.books.unretire(held_bytes);
        self.books.take(held_bytes);
        self.put_back_one(retired.home);
    }

    /// Takes out the retired blocks that are in no use any more, to be zeroed without the lock. They stay retired until they are
    /// [told](Self::zeroed) to be. Until [`has_zeroed`](Self::has_zeroed) others may wait for the `thread`, if one is given.
    pub(in crate::pool) fn take_dirty(&mut self, thread: Option<ThreadId>) -> Vec<Retired<S>> {
        let dirty: Vec<_> = self.retired.extract_if(.., |retired| retired.is_over() && retired.is_dirty).collect();
        keep_small(&mut self.retired);
        if !dirty.is_empty() {
            self.zeroes(thread);
        }
        dirty
    }

    /// The thread zeroes places from now on, until [`has_zeroed`](Self::has_zeroed). It is not said of one that may wait itself.
    pub(in crate::pool) fn zeroes(&mut self, thread: Option<ThreadId>) {
        self.zeroing.extend(thread);
    }

    /// The places that the thread had are free, or kept for later.
    pub(in crate::pool) fn has_zeroed(&mut self, thread: ThreadId) {
        if let Some(index) = self.zeroing.iter().position(|other| *other == thread) {
            self.zeroing.swap_remove(index);
        }
    }

    /// Returns whether other threads are zeroing retired places, so that this thread may wait for them.
    pub(in crate::pool) fn is_zeroing_for(&self, thread: ThreadId) -> bool {
        !self.zeroing.is_empty() && !self.zeroing.contains(&thread)
    }

    /// A block from `take_dirty` has been zeroed, or could not be for the time being.
    pub(in crate::pool) fn zeroed(&mut self, retired: Retired<S>, is_done: bool) {
        if is_done { self.unretire(retired) } else { self.retired.push(retired) }
    }

    /// `Fallback::Reclaim`: retired blocks that are no longer in use, and idle pieces, go home.
    pub(in crate::pool) fn gather(&mut self) {
        self.release_retired();
        self.merge();
    }

    /// Of slabs and spare memory that are on their way back, or being given back.
    pub(in crate::pool) fn leaving_bytes(&self) -> u64 {
        self.leaving_sum.bytes() + self.burying.bytes() + self.decommitting.bytes()
    }

    /// Returns the parts of expanding slabs that leave, whose memory is there until the device is done with it.
    pub(super) fn leaving_spare(&self) -> impl Iterator<Item = (Slot, Extent)> + '_ {
        self.leaving.iter().filter_map(|leaving| Some((leaving.slab.slot, leaving.spare?)))
    }

    /// Starts to give empty slabs back, and spare memory, as long as more than `bytes` bytes stay reserved: they leave once `point`
    /// has passed. It must be the last one recorded *now*, asked with the lock held: a slab may have become empty a moment ago, after
    /// work recorded a moment before that.
    pub(in crate::pool) fn detach_down_to(&mut self, bytes: u64, point: Point) {
        let mut surplus_bytes = self.reserved.bytes().saturating_sub(self.leaving_bytes()).saturating_sub(bytes);
        if self.is_expanding() {
            return self.detach_spare(surplus_bytes, point);
        }
        for slot in self.empty_slots() {
            // Where nothing is to stay, all go: the counters may be wrong.
            if bytes > 0 && surplus_bytes == 0 {
                break;
            }
            let Some(Entry { slab, .. }) = self.take_entry(slot) else { continue };
            surplus_bytes = surplus_bytes.saturating_sub(slab.bytes);
            self.leaving_sum.add(slab.bytes);
            self.leaving.push(Leaving { slab, spare: None, point });
        }
        self.forget_slots();
    }

    /// Whether anything here can change without a call of the pool.
    pub(in crate::pool) fn waits_for_device(&self) -> bool {
        !self.leaving.is_empty() || !self.retired.is_empty()
    }

    /// The point after which every leaving slab may go.
    pub(in crate::pool) fn last_leaving_point(&self) -> Option<Point> {
        self.leaving.iter().map(|leaving| leaving.point).max()
    }

    /// The slabs and the spare memory whose point has passed, for the caller to drop, or to give back. Their bytes stay reserved
    /// until the caller says that they are gone. Until [`has_buried`](Self::has_buried) others may wait for the `thread`.
    pub(in crate::pool) fn take_left(&mut self, completed: Point, thread: ThreadId) -> Vec<Leaving<S>> {
        let left: Vec<_> = self.leaving.extract_if(.., |leaving| leaving.point <= completed).collect();
        keep_small(&mut self.leaving);
        for leaving in &left {
            self.leaving_sum.take(leaving.bytes());
            let sum = if leaving.spare.is_some() { &mut self.decommitting } else { &mut self.burying };
            sum.add(leaving.bytes());
        }
        if !left.is_empty() {
            self.burials.push(thread);
        }
        left
    }

    /// Takes out all slabs, for a pool that ends.
    pub(in crate::pool) fn take_slabs(&mut self) -> Vec<Arc<Slab<S>>> {
        self.order = Order::default();
        (self.slabs, self.slab_bytes) = (0, 0);
        self.vacant.clear();
        self.unmerged.clear();
        self.retired.clear();
        let leaving = self.leaving.drain(..).map(|leaving| leaving.slab);
        self.entries.drain(..).flatten().map(|entry| entry.slab).chain(leaving).collect()
    }

    /// Whether bytes are about to be given back by others, so that this thread may wait for them.
    pub(in crate::pool) fn is_burying_for(&self, thread: ThreadId) -> bool {
        !self.burials.is_empty() && !self.burials.contains(&thread)
    }

    /// All bytes that were ever given back to the backend.
    pub(in crate::pool) fn returned_bytes(&self) -> u64 {
        self.returned_bytes
    }

    /// The memory of a slab from `take_left` is gone.
    pub(in crate::pool) fn buried(&mut self, bytes: u64) {
        self.burying.take(bytes);
        self.unreserve_bytes(bytes);
        self.returned_bytes += bytes;
    }

    /// The thread has given back what it had from `take_left`.
    pub(in crate::pool) fn has_buried(&mut self, thread: ThreadId) {
        if let Some(index) = self.burials.iter().position(|other| *other == thread) {
            self.burials.swap_remove(index);
        }
    }
}
