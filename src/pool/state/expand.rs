//! An expanding slab: places that have no memory yet, and free memory that goes.

use std::ops::Range;

use super::place::Memory;
use super::retire::Leaving;
use super::{Home, Slab, Slot, State};
use crate::backend::Point;
use crate::error::Result;
use crate::pool::{Request, SlabPolicy};
use crate::space::{Cost, Extent};
use crate::sync::Arc;

/// Places for requests, and what has to be committed for them.
pub(in crate::pool) struct Expansion<S> {
    pub(in crate::pool) homes: Vec<Home<S>>,
    /// Whole granules, each once.
    pub(in crate::pool) missing: Vec<(Arc<Slab<S>>, Range<u64>)>,
    /// The other pages of these granules, and pieces of pages that were cut for the requests, until the memory has come.
    rest: Vec<Home<S>>,
}

impl<S> Expansion<S> {
    pub(in crate::pool) fn bytes(&self) -> u64 {
        self.missing.iter().map(|(_, range)| range.end - range.start).sum()
    }

    /// Returns the missing range that a byte is in.
    fn missing_at(&self, slot: Slot, at: u64) -> Option<&Range<u64>> {
        let behind = self.missing.partition_point(|(slab, range)| (slab.slot, range.start) <= (slot, at));
        let (slab, range) = self.missing.get(behind.checked_sub(1)?)?;
        (slab.slot == slot && range.contains(&at)).then_some(range)
    }
}

/// What may be committed for requests, and what is to be.
struct Plan {
    left_bytes: u64,
    /// That may go back for them: without what their places take of it.
    spare_bytes: u64,
    /// Whether there was any at first: then what is kept of it counts, even where nothing is left of it.
    may_return: bool,
    missing: Vec<(Slot, Range<u64>)>,
}

impl Plan {
    fn most(&self) -> Cost {
        let Self { left_bytes, spare_bytes, may_return, .. } = *self;
        Cost { missing_bytes: left_bytes, kept_bytes: spare_bytes, may_return, ..Cost::NOTHING }
    }

    fn pay(&mut self, cost: Cost) {
        self.spare_bytes = self.spare_bytes.saturating_sub(cost.kept_bytes);
        let back_bytes = cost.missing_bytes.saturating_sub(self.left_bytes);
        self.left_bytes = self.left_bytes.saturating_sub(cost.missing_bytes);
        self.spare_bytes = self.spare_bytes.saturating_sub(back_bytes);
    }
}

impl<S> State<S> {
    /// Adds a slab that is a range of addresses, without memory.
    pub(in crate::pool) fn add_range(&mut self, slab: Slab<S>) {
        self.enter(slab);
    }

    pub(in crate::pool) fn is_expanding(&self) -> bool {
        self.sizes.policy == SlabPolicy::Expanding
    }

    /// Takes places for requests where memory can be brought within the budget. `None` if there are none. Once nothing more
    /// can go back for them, they take any places that have memory.
    ///
    /// What they lack counts as reserved from now on. No other request gets a page of it before [`expanded`](Self::expanded).
    ///
    /// # Errors
    /// As [`book`](Self::book).
    pub(in crate::pool) fn begin_expansion(
        &mut self,
        requests: &[Request],
        is_last: bool,
    ) -> Result<Option<Expansion<S>>> {
        let left_bytes = self.left_bytes();
        match self.expansion(requests, left_bytes, 0, is_last) {
            Some(expansion) => self.begin(expansion).map(Some),
            None => Ok(None),
        }
    }

    /// As [`begin_expansion`](Self::begin_expansion), for so many free bytes behind a block.
    pub(in crate::pool) fn begin_behind(&mut self, home: &Home<S>, bytes: u64) -> Result<Option<Expansion<S>>> {
        let left_bytes = self.left_bytes();
        match self.expansion_behind(home, bytes, left_bytes, 0) {
            Some(expansion) => self.begin(expansion).map(Some),
            None => Ok(None),
        }
    }

    fn begin(&mut self, mut expansion: Expansion<S>) -> Result<Expansion<S>> {
        let bytes = expansion.bytes();
        if bytes == 0 {
            return Ok(expansion);
        }
        if let Err(error) = self.claim(bytes) {
            self.put_back(expansion.homes);
            return Err(error);
        }
        for (slab, range) in &expansion.missing {
            self.space_mut(slab.slot).commit(range);
        }
        for Home { slab, extent } in &expansion.homes {
            let space = self.space_mut(slab.slot);
            let mut rest = Vec::new();
            // Only at its ends does an extent share granules with others.
            for at in [extent.offset(), extent.range().end - 1] {
                if let Some(range) = expansion.missing_at(slab.slot, at) {
                    rest.extend(space.take_free_beside(*extent, range));
                    rest.extend(space.take_idle_beside(*extent));
                }
            }
            for extent in rest {
                self.books.take_listed(extent.bytes());
                expansion.rest.push(Home { slab: Arc::clone(slab), extent });
            }
            self.settle(slab.slot);
        }
        Ok(expansion)
    }

    /// Takes places for requests, largest first, for which so much may be committed, and so much of it only if spare memory goes
    /// back.
    fn expansion(
        &mut self,
        requests: &[Request],
        left_bytes: u64,
        spare_bytes: u64,
        is_last: bool,
    ) -> Option<Expansion<S>> {
        // From the end all of them are next to each other, in an empty slab.
        let tries: &[Memory] = if is_last { &[Memory::Anywhere, Memory::High] } else { &[Memory::Anywhere] };
        tries.iter().find_map(|first| {
            self.plan(left_bytes, spare_bytes, |state, plan| {
                state.place_each(requests, |state, request| {
                    let home = state.place(request, *first).ok().and_then(|home| state.pay(home, plan));
                    if home.is_some() || !is_last {
                        return home;
                    }
                    let cheap = state.place(request, Memory::Cheap(plan.most())).ok()?;
                    state.pay(cheap, plan)
                })
            })
        })
    }

    fn expansion_behind(
        &mut self,
        home: &Home<S>,
        bytes: u64,
        left_bytes: u64,
        spare_bytes: u64,
    ) -> Option<Expansion<S>> {
        self.plan(left_bytes, spare_bytes, |state, plan| {
            let slot = home.slab.slot;
            let extent = state.space_mut(slot).take_behind_anywhere(home.extent, bytes)?;
            state.settle(slot);
            state.books.take(extent.bytes());
            let behind = Home { slab: Arc::clone(&home.slab), extent };
            state.pay(behind, plan).map(|behind| vec![behind])
        })
    }

    /// Takes places within a plan.
    fn plan(
        &mut self,
        left_bytes: u64,
        spare_bytes: u64,
        place: impl FnOnce(&mut Self, &mut Plan) -> Option<Vec<Home<S>>>,
    ) -> Option<Expansion<S>> {
        let mut plan = Plan { left_bytes, spare_bytes, may_return: spare_bytes > 0, missing: Vec::new() };
        let homes = place(self, &mut plan);
        // What comes is there once it has come: no other thread may take it before.
        plan.missing.iter().for_each(|(slot, range)| self.space_mut(*slot).uncommit(range));
        let homes = homes?;
        plan.missing.sort_unstable_by_key(|(slot, range)| (*slot, range.start));
        let mut missing: Vec<(Arc<Slab<S>>, Range<u64>)> = Vec::with_capacity(plan.missing.len());
        for (slot, range) in plan.missing {
            match missing.last_mut() {
                Some((slab, last)) if slab.slot == slot && range.start == last.end => last.end = range.end,
                _ => missing.push((Arc::clone(&self.entry(slot).slab), range)),
            }
        }
        Some(Expansion { homes, missing, rest: Vec::new() })
    }

    /// Keeps a place if what it lacks is within the plan. The granules that it meets count as committed for the others.
    fn pay(&mut self, home: Home<S>, plan: &mut Plan) -> Option<Home<S>> {
        let slot = home.slab.slot;
        let cost = self.entry(slot).space.cost(home.extent);
        if !cost.is_within(plan.most()) {
            self.put_back_one(home);
            return None;
        }
        plan.pay(cost);
        let space = self.space_mut(slot);
        let ranges: Vec<_> = space.missing(home.extent).collect();
        for range in ranges {
            space.commit(&range);
            plan.missing.push((slot, range));
        }
        Some(home)
    }

    /// All memory has come. The places are to be [granted](Self::granted).
    pub(in crate::pool) fn expanded(&mut self, expansion: Expansion<S>) -> Vec<Home<S>> {
        self.books.reserved(expansion.bytes(), self.reserved.bytes());
        self.unlist(expansion.rest);
        expansion.homes
    }

    /// Memory has come for so many of the missing ranges, and for no other.
    pub(in crate::pool) fn not_expanded(&mut self, expansion: Expansion<S>, ranges: usize) {
        let mut came_bytes = expansion.bytes();
        self.unlist(expansion.rest);
        self.put_back(expansion.homes);
        for (slab, range) in expansion.missing.into_iter().skip(ranges) {
            let bytes = range.end - range.start;
            came_bytes -= bytes;
            self.reserved.take(bytes);
            self.space_mut(slab.slot).uncommit(&range);
        }
        self.books.reserved(came_bytes, self.reserved.bytes());
    }

    /// The backend has kept a span of missing memory. None of the places, nor of the memory, is used again.
    pub(in crate::pool) fn lose(&mut self, expansion: &Expansion<S>) {
        self.books.reserved(expansion.bytes(), self.reserved.bytes());
        expansion.homes.iter().for_each(|home| self.books.list(home.extent.bytes()));
    }

    fn unlist(&mut self, homes: Vec<Home<S>>) {
        for home in homes {
            self.books.unlist(home.extent.bytes());
            self.put_back_one(home);
        }
    }

    /// Places for requests have their memory now.
    pub(in crate::pool) fn grant(&mut self, homes: &[Home<S>], requests: &[Request]) {
        self.granted(homes, requests);
        self.passed();
    }

    /// Starts to give so much spare memory back, or all there is, once `point` has passed.
    pub(super) fn detach_spare(&mut self, bytes: u64, point: Point) {
        let mut left_bytes = bytes;
        for slot in 0..self.entries.len() as Slot {
            let extents = self.space_mut(slot).take_spare(left_bytes);
            let taken_bytes = extents.iter().map(|extent| extent.bytes()).sum();
            left_bytes = left_bytes.saturating_sub(taken_bytes);
            self.spare_leaves(slot, extents, point);
        }
    }

    /// Starts to give all spare memory back that is around a place which was freed just now.
    pub(in crate::pool) fn detach_spare_around(&mut self, (slot, extent): (Slot, Extent), point: Point) {
        let extents = self.space_mut(slot).take_spare_around(extent);
        self.spare_leaves(slot, extents, point);
    }

    /// Returns whether there are places for requests where memory can be brought, with spare memory on its way back or without.
    pub(super) fn has_expansion(&mut self, requests: &[Request], may_return: bool) -> bool {
        let spare_bytes: u64 = self.entries.iter().flatten().map(|entry| entry.space.spare_bytes()).sum();
        let leaving_bytes = if may_return { self.leaving_bytes() } else { 0 };
        let left_bytes = self.left_bytes_after(leaving_bytes);
        let back_bytes = if may_return { self.left_bytes_after(leaving_bytes + spare_bytes) - left_bytes } else { 0 };
        match self.expansion(requests, left_bytes, back_bytes, true) {
            Some(expansion) => {
                self.put_back(expansion.homes);
                true
            }
            None => false,
        }
    }

    /// Starts to give as much spare memory back as requests need that have no place within the budget: none if all of it is not
    /// enough. Returns whether it is. Where the backend has denied them memory, as much goes as they lack.
    pub(in crate::pool) fn detach_spare_for(&mut self, requests: &[Request], is_denied: bool, point: Point) -> bool {
        self.detach_for(is_denied, point, |state, left_bytes, spare_bytes| {
            state.expansion(requests, left_bytes, spare_bytes, true)
        })
    }

    /// The same, for so many free bytes behind a block.
    pub(in crate::pool) fn detach_spare_behind(&mut self, home: &Home<S>, bytes: u64, point: Point) {
        self.detach_for(false, point, |state, left_bytes, spare_bytes| {
            state.expansion_behind(home, bytes, left_bytes, spare_bytes)
        });
    }

    fn detach_for(
        &mut self,
        is_denied: bool,
        point: Point,
        expand: impl FnOnce(&mut Self, u64, u64) -> Option<Expansion<S>>,
    ) -> bool {
        let leaving_bytes = self.leaving_bytes();
        let possible_bytes = self.left_bytes_after(leaving_bytes);
        let spare_bytes: u64 = self.entries.iter().flatten().map(|entry| entry.space.spare_bytes()).sum();
        // Above a budget that was lowered, spare memory goes back for that first.
        let for_requests_bytes = self.left_bytes_after(leaving_bytes + spare_bytes) - possible_bytes;
        let Some(expansion) = expand(self, possible_bytes, for_requests_bytes) else { return false };
        let there_bytes = if is_denied { 0 } else { possible_bytes };
        let lacking_bytes = expansion.bytes().saturating_sub(there_bytes);
        let over_bytes = if lacking_bytes > 0 { spare_bytes - for_requests_bytes } else { 0 };
        self.detach_spare(lacking_bytes + over_bytes, point);
        self.put_back(expansion.homes);
        true
    }

    fn spare_leaves(&mut self, slot: Slot, extents: Vec<Extent>, point: Point) {
        let slab = Arc::clone(&self.entry(slot).slab);
        for extent in extents {
            self.leaving_sum.add(extent.bytes());
            self.leaving.push(Leaving { slab: Arc::clone(&slab), spare: Some(extent), point });
        }
        self.settle(slot);
    }

    /// Spare memory from [`take_left`](Self::take_left) has gone, or is still there.
    pub(in crate::pool) fn decommitted(&mut self, slab: Arc<Slab<S>>, extent: Extent, is_gone: bool) {
        let (slot, bytes) = (slab.slot, extent.bytes());
        // The pool has the slab until it ends.
        drop(slab);
        self.decommitting.take(bytes);
        if is_gone {
            self.unreserve_bytes(bytes);
            self.returned_bytes += bytes;
            self.space_mut(slot).decommit(extent);
        }
        self.release(slot, extent);
    }

    /// Spare memory from [`take_left`](Self::take_left) may be another's: it is never used again.
    pub(in crate::pool) fn lost_spare(&mut self, extent: Extent) {
        self.decommitting.take(extent.bytes());
        self.books.take_listed(extent.bytes());
    }
}
