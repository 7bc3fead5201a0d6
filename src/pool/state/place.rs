//! Places for requests: in which slab, in which order, and past which waiters.

use super::slots::Slabs;
use super::{Home, State};
use crate::error::RefusedBy;
use crate::pool::line::{Need, Ticket};
use crate::pool::shards::{LIST_BYTES, REFILL};
use crate::pool::sizes::Least;
use crate::pool::{Fallback, Priority, Request, SlabPolicy};
use crate::space::{Cost, Extent, Space};
use crate::sync::Arc;

/// Why requests were not served.
pub(in crate::pool) enum Short {
    /// Waiters are before them.
    Turn,
    /// One of them has no place.
    Of(Lack),
}

/// What a batch lacks.
pub(in crate::pool) struct Lack {
    /// The request that has no place.
    pub(in crate::pool) index: usize,
    /// What all requests take: as they were placed, and at least for the others.
    pub(in crate::pool) needed_bytes: u64,
    pub(in crate::pool) refused_by: RefusedBy,
    /// So much is left for them, but not in one run.
    pub(in crate::pool) is_left: bool,
}

/// Which places a request may get in an expanding slab; in any other all pages have memory.
#[derive(Clone, Copy, Debug)]
pub(in crate::pool) enum Memory {
    /// The place that is its own, if that has memory. A request that may not grow gets any place that has.
    Committed,
    /// The place that is its own, with or without memory.
    Anywhere,
    /// The end of the highest hole, with or without memory.
    High,
    /// Any place that costs no more than this.
    Cheap(Cost),
    /// Any place that has memory.
    Elsewhere,
}

impl Memory {
    #[inline]
    pub(in crate::pool) fn alloc(self, space: &mut Space, request: &Request, open_bytes: u64) -> Option<Extent> {
        match self {
            Self::Committed if request.may(Fallback::Grow) => space.alloc_aligned(request.bytes, request.align_bytes),
            _ => self.alloc_seldom(space, request, open_bytes),
        }
    }

    /// At most `open_bytes` bytes, if there is a choice.
    #[cold]
    fn alloc_seldom(self, space: &mut Space, request: &Request, open_bytes: u64) -> Option<Extent> {
        let Request { bytes, align_bytes, .. } = *request;
        match self {
            Self::Committed | Self::Elsewhere => {
                let own = space.alloc_aligned(bytes, align_bytes);
                let open = own.filter(|extent| extent.bytes() <= open_bytes);
                if open.is_none() {
                    own.into_iter().for_each(|extent| space.release(extent));
                }
                open.or_else(|| space.alloc_elsewhere(bytes, align_bytes, open_bytes))
                    .or_else(|| own.and_then(|_| space.alloc_aligned(bytes, align_bytes)))
            }
            Self::Anywhere => space.alloc_anywhere(bytes, align_bytes),
            Self::High => space.alloc_high(bytes, align_bytes),
            Self::Cheap(most) => space.alloc_cheap(bytes, align_bytes, Cost { extent_bytes: open_bytes, ..most }),
        }
    }

    /// In whole pages.
    fn alloc_pages(self, space: &mut Space, bytes: u64, open_bytes: u64) -> Option<Extent> {
        let within = |most: Cost| Cost { extent_bytes: open_bytes, ..most };
        match self {
            Self::Committed => space.alloc_pages(bytes),
            Self::Elsewhere => {
                space.alloc_pages(bytes).or_else(|| space.alloc_run_cheap(bytes, 1, within(Cost::NOTHING)))
            }
            Self::Anywhere => space.alloc_pages_anywhere(bytes),
            Self::High => space.alloc_run_high(bytes, 1),
            Self::Cheap(most) => space.alloc_run_cheap(bytes, 1, within(most)),
        }
    }
}

impl<S> State<S> {
    /// Serves a request that is not in line, before any fallback: an idle piece of the class, else a place in a slab,
    /// fullest slab first. `None` also if others are before it.
    pub(in crate::pool) fn take(&mut self, request: &Request) -> Option<Home<S>> {
        let requests = std::slice::from_ref(request);
        if !self.may_be_served(requests) {
            return None;
        }
        let home = self.place(request, Memory::Committed).ok()?;
        self.granted(std::slice::from_ref(&home), requests);
        self.passed();
        Some(home)
    }

    /// Serves all requests of a batch as [`take`](Self::take) does, or none.
    pub(in crate::pool) fn take_all(&mut self, requests: &[Request]) -> Result<Vec<Home<S>>, Short> {
        self.take_all_in(requests, Memory::Committed)
    }

    /// As [`take_all`](Self::take_all), in any places that have memory.
    pub(in crate::pool) fn take_all_elsewhere(&mut self, requests: &[Request]) -> Result<Vec<Home<S>>, Short> {
        self.take_all_in(requests, Memory::Elsewhere)
    }

    fn take_all_in(&mut self, requests: &[Request], memory: Memory) -> Result<Vec<Home<S>>, Short> {
        if !self.may_be_served(requests) {
            return Err(Short::Turn);
        }
        let homes = self.take_batch(requests, memory).map_err(Short::Of)?;
        self.passed();
        Ok(homes)
    }

    /// Returns whether requests that are not in line may be served before the waiters that are due.
    pub(in crate::pool) fn may_be_served(&self, requests: &[Request]) -> bool {
        let Some(due) = self.line.due_priority() else { return true };
        due < Priority::High && self.may_pass_due(requests)
    }

    /// Returns whether these requests may be served past the waiter that is due and arrived first.
    ///
    /// Requests of high priority may, as far as the reserve goes, if that waiter is of another priority. It loses no byte by
    /// that. But once as many bytes are left as it needs, only their places are in its way: then it goes first.
    pub(in crate::pool) fn may_pass_due(&self, requests: &[Request]) -> bool {
        let Some((ticket, priority, _)) = self.line.first_due(Need::Room) else { return true };
        priority < Priority::High
            && requests.iter().all(|request| request.priority == Priority::High)
            && Least::new(&self.sizes, requests).bytes <= self.closed_bytes(Priority::Normal)
            && self.lacks_bytes(ticket)
    }

    /// Returns whether fewer bytes are left than the waiter takes that is due and arrived first.
    pub(super) fn first_due_lacks_bytes(&self) -> bool {
        self.line.first_due(Need::Room).is_some_and(|(ticket, ..)| self.lacks_bytes(ticket))
    }

    /// Returns whether fewer bytes are left than this waiter takes at least.
    pub(super) fn lacks_bytes(&self, ticket: Ticket) -> bool {
        self.line.get(ticket).is_some_and(|seat| !self.are_left(seat.requests()))
    }

    /// A request that was not in line has been served.
    pub(in crate::pool) fn passed(&mut self) {
        if !self.line.is_empty() {
            self.line.passed();
        }
    }

    pub(super) fn take_batch(&mut self, requests: &[Request], memory: Memory) -> Result<Vec<Home<S>>, Lack> {
        let homes = self.place_all(requests, memory)?;
        self.granted(&homes, requests);
        Ok(homes)
    }

    /// Homes for all of the requests that are not of zero bytes have been found.
    #[inline]
    pub(super) fn granted(&mut self, homes: &[Home<S>], requests: &[Request]) {
        if requests.iter().any(|request| request.for_the_pool) {
            homes.iter().for_each(|home| self.books.list(home.extent.bytes()));
            return;
        }
        self.books.granted(homes.len(), bytes_of(requests));
        let served = requests.iter().filter(|request| request.bytes > 0);
        homes.iter().zip(served).for_each(|(home, request)| self.record_alloc(home, request));
    }

    /// Takes idle pieces of the class of a small block that was just placed out of their spaces, as many as a list takes.
    pub(in crate::pool) fn take_idle(&mut self, bytes: u64, placed: &Home<S>) -> Vec<Home<S>> {
        let (held_bytes, mut homes) = (placed.extent.bytes(), Vec::new());
        let most = if placed.extent.is_piece() { REFILL.min((LIST_BYTES / held_bytes) as usize) } else { 0 };
        let class_bit = self.class_bit(bytes, 1);
        while homes.len() < most
            && let Some((slot, extent)) =
                self.find(Slabs::Any, |offer| offer.classes & class_bit != 0, |space| space.alloc_cached(bytes))
        {
            // The same size in every slab that has such a class.
            debug_assert_eq!(extent.bytes(), held_bytes);
            let slab = Arc::clone(&self.entry(slot).slab);
            self.settle(slot);
            self.books.take_listed(held_bytes);
            homes.push(Home { slab, extent });
        }
        homes
    }

    /// Returns homes for all requests that are not of zero bytes, in their order. They are placed largest first, so that their
    /// order does not decide whether there is room.
    pub(super) fn place_all(&mut self, requests: &[Request], memory: Memory) -> Result<Vec<Home<S>>, Lack> {
        let order = by_size(requests);
        let mut homes: Vec<(usize, Home<S>)> = Vec::with_capacity(order.len());
        for (place, index) in order.iter().enumerate() {
            match self.place(&requests[*index], memory) {
                Ok(home) => homes.push((*index, home)),
                Err(refused_bytes) => {
                    let placed_bytes = homes.iter().map(|(_, home)| home.extent.bytes()).sum();
                    let lack = self.lack(requests, &order[place..], placed_bytes, refused_bytes);
                    self.put_back(homes.into_iter().map(|(_, home)| home));
                    return Err(lack);
                }
            }
        }
        homes.sort_unstable_by_key(|(index, _)| *index);
        Ok(homes.into_iter().map(|(_, home)| home).collect())
    }

    /// Returns homes for all requests that are not of zero bytes, in their order: those that `place` finds, largest first.
    pub(super) fn place_each(
        &mut self,
        requests: &[Request],
        mut place: impl FnMut(&mut Self, &Request) -> Option<Home<S>>,
    ) -> Option<Vec<Home<S>>> {
        let mut homes: Vec<(usize, Home<S>)> = Vec::new();
        for index in by_size(requests) {
            let Some(home) = place(self, &requests[index]) else {
                self.put_back(homes.into_iter().map(|(_, home)| home));
                return None;
            };
            homes.push((index, home));
        }
        homes.sort_unstable_by_key(|(index, _)| *index);
        Some(homes.into_iter().map(|(_, home)| home).collect())
    }

    /// Returns which of the requests have no place beside the others, largest first.
    pub(in crate::pool) fn lacking(&mut self, requests: &[Request]) -> Vec<usize> {
        let (mut homes, mut lacking) = (Vec::new(), Vec::new());
        for index in by_size(requests) {
            match self.place(&requests[index], Memory::Committed) {
                Ok(home) => homes.push(home),
                Err(_) => lacking.push(index),
            }
        }
        self.put_back(homes);
        lacking
    }

    /// Returns what is lacking once some requests are placed. The first of the others has no place, or only one of
    /// `refused_bytes`, which is more than is open to it.
    fn lack(&self, requests: &[Request], others: &[usize], placed_bytes: u64, refused_bytes: Option<u64>) -> Lack {
        let index = others[0];
        let mut least = Least::new(&self.sizes, others.iter().map(|index| &requests[*index]));
        if let Some(bytes) = refused_bytes {
            least.replace(&self.sizes, &requests[index], bytes);
        }
        let may_grow = requests.iter().all(|request| request.may(Fallback::Grow));
        let refused_by = self.lacks(least, may_grow, requests[index].bytes, || self.idle());
        let is_left = match refused_by {
            RefusedBy::Slabs => may_grow || least.bytes <= self.idle().bytes,
            RefusedBy::Kept | RefusedBy::Fragmentation => true,
            _ => false,
        };
        Lack { index, needed_bytes: placed_bytes.saturating_add(least.bytes), refused_by, is_left }
    }

    /// Takes a place for one request. `Err` has the size of the smallest place that was found and is larger than what is open to
    /// the request.
    pub(super) fn place(&mut self, request: &Request, memory: Memory) -> Result<Home<S>, Option<u64>> {
        if request.for_the_pool {
            return self.place_for_the_pool(request, memory).ok_or(None);
        }
        let (bytes, open_bytes) = (request.bytes, self.open_bytes(request.priority));
        let mut refused_bytes: Option<u64> = None;
        let mut if_open = |space: &mut Space, extent: Extent| {
            if extent.bytes() <= open_bytes {
                return Some(extent);
            }
            refused_bytes = Some(refused_bytes.map_or(extent.bytes(), |least| least.min(extent.bytes())));
            space.release(extent);
            None
        };
        let found = if self.sizes.policy == SlabPolicy::PerBlock {
            let slab_bytes = self.sizes.least_for(request).ok_or(None)?;
            let alloc = |space: &mut Space| memory.alloc(space, request, open_bytes);
            self.find(
                Slabs::Empty(slab_bytes),
                |_| true,
                |space| alloc(space).and_then(|extent| if_open(space, extent)),
            )
        } else {
            let class_bit = self.class_bit(bytes, request.align_bytes);
            let cached = self.find(
                Slabs::Any,
                |offer| offer.classes & class_bit != 0,
                |space| {
                    space.alloc_cached_aligned(bytes, request.align_bytes).and_then(|extent| if_open(space, extent))
                },
            );
            cached.or_else(|| {
                self.find(
                    Slabs::Any,
                    |offer| offer.most_bytes >= bytes,
                    |space| memory.alloc(space, request, open_bytes).and_then(|extent| if_open(space, extent)),
                )
            })
        };
        let (slot, extent) = found.ok_or(refused_bytes)?;
        let is_high = self.reserve_bytes > 0 && request.priority == Priority::High;
        self.settle(slot);
        self.books.take(extent.bytes());
        if is_high {
            self.books.take_high(extent.bytes());
        }
        Ok(Home { slab: Arc::clone(&self.entry(slot).slab), extent: extent.marked(is_high) })
    }

    /// Takes whole pages for what is no request of the program's.
    #[cold]
    fn place_for_the_pool(&mut self, request: &Request, memory: Memory) -> Option<Home<S>> {
        let open_bytes = self.open_bytes(request.priority);
        let slabs = match self.sizes.policy {
            SlabPolicy::PerBlock => Slabs::Empty(self.sizes.least_for(request)?),
            _ => Slabs::Any,
        };
        let alloc = |space: &mut Space| {
            let extent = memory.alloc_pages(space, request.bytes, open_bytes)?;
            if extent.bytes() > open_bytes {
                space.release(extent);
                return None;
            }
            Some(extent)
        };
        let (slot, extent) = self.find(slabs, |offer| offer.most_bytes >= request.bytes, alloc)?;
        self.settle(slot);
        self.books.take(extent.bytes());
        Some(Home { slab: Arc::clone(&self.entry(slot).slab), extent })
    }

    /// Returns the bit of the class that an idle piece for a request is of, whatever slab it is in.
    #[inline]
    fn class_bit(&self, bytes: u64, align_bytes: u64) -> u64 {
        Space::class_bit(bytes, align_bytes, self.sizes.pages.alignment_bytes)
    }

    /// Returns what of the reserve is closed to this priority: the part that requests of high priority do not have already.
    pub(in crate::pool) fn closed_bytes(&self, priority: Priority) -> u64 {
        if priority == Priority::High { 0 } else { self.reserve_bytes.saturating_sub(self.books.high_bytes()) }
    }

    /// Returns what a request of this priority may have, wherever it is.
    pub(in crate::pool) fn open_bytes(&self, priority: Priority) -> u64 {
        self.books.left_bytes().saturating_sub(self.closed_bytes(priority))
    }

    /// Returns whether as many bytes are left as the requests take at least, in whatever runs.
    pub(in crate::pool) fn are_left(&self, requests: &[Request]) -> bool {
        self.is_left(Least::new(&self.sizes, requests))
    }

    /// Returns whether so much is left, in slabs and of the budget.
    fn is_left(&self, least: Least) -> bool {
        least.is_left(self.books.left_bytes(), self.closed_bytes(Priority::Normal))
    }
}

/// Returns the indices of the requests that are not of zero bytes, largest first.
pub(in crate::pool) fn by_size(requests: &[Request]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..requests.len()).filter(|index| requests[*index].bytes > 0).collect();
    order.sort_by_key(|index| {
        let Request { bytes, align_bytes, priority, .. } = requests[*index];
        // A buddy system takes powers of two.
        let held_bytes = bytes.checked_next_power_of_two().unwrap_or(u64::MAX);
        std::cmp::Reverse((held_bytes.max(align_bytes), bytes, priority))
    });
    order
}

pub(super) fn bytes_of(requests: &[Request]) -> u64 {
    requests.iter().map(|request| request.bytes).sum()
}
