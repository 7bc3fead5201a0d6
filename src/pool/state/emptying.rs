//! Slabs whose blocks can all move to others, and the places that are there for them.

use super::moves::PIECES_MAX;
use super::{Home, Slot, State};
use crate::pool::{Priority, Request, SlabPolicy};
use crate::space::{Extent, Space};
use crate::sync::Arc;

/// A new slab for the blocks of another has at most this part of its bytes: else the copy gains too little.
const NEW_SLAB_PART: u64 = 2;

impl<S> State<S> {
    /// Returns the slabs that have as many idle bytes as a request takes: first those that have them in one run for certain once
    /// all their blocks have moved, and of these the one that holds fewest bytes.
    pub(in crate::pool) fn slots_with_idle(&self, request: &Request) -> Vec<Slot> {
        let least_bytes = self.sizes.least_for(request).unwrap_or(u64::MAX);
        let mut slots = self.slots_by_use(|_, space| space.bytes() - space.used_bytes() >= least_bytes);
        slots.sort_by_cached_key(|slot| self.entry(*slot).space.compacted_bytes(PIECES_MAX) < least_bytes);
        slots
    }

    /// Returns the slabs that hold nothing but what is lent, those that hold fewest bytes first. `lent` has the slab of each block,
    /// and its bytes.
    pub(in crate::pool) fn slots_of_lent(&self, lent: &[(Slot, u64)]) -> Vec<Slot> {
        let mut lent_bytes = vec![0; self.entries.len()];
        lent.iter().for_each(|(slot, bytes)| lent_bytes[*slot as usize] += bytes);
        self.slots_by_use(|slot, space| !space.is_empty() && space.used_bytes() == lent_bytes[slot as usize])
    }

    fn slots_by_use(&self, suits: impl Fn(Slot, &Space) -> bool) -> Vec<Slot> {
        let all = self.entries.iter().flatten().map(|entry| (entry.slab.slot, &entry.space));
        let mut slots: Vec<Slot> = all.filter(|(slot, space)| suits(*slot, space)).map(|(slot, _)| slot).collect();
        slots.sort_unstable_by_key(|slot| (self.entry(*slot).space.used_bytes(), *slot));
        slots
    }

    /// Takes places for all blocks of a slab in others that are in use, fullest first; or none. If `is_to_fuller`, only in those that
    /// hold as many bytes or more. Each block is its bytes asked and what it holds. Until they are there the places count as
    /// cached.
    pub(in crate::pool) fn reserve_elsewhere(
        &mut self,
        from: Slot,
        blocks: &[(u64, Extent)],
        is_to_fuller: bool,
    ) -> Option<Vec<Home<S>>> {
        let least_bytes = if is_to_fuller { self.entry(from).space.used_bytes() } else { 1 };
        let suits = |slot: &Slot| *slot != from && self.entry(*slot).space.used_bytes() >= least_bytes;
        let others: Vec<Slot> = self.slots_with(1).filter(suits).collect();
        let asked_bytes: u64 = blocks.iter().map(|(bytes, _)| bytes).sum();
        let idle_bytes = |slot: &Slot| self.entry(*slot).space.bytes() - self.entry(*slot).space.used_bytes();
        if others.iter().map(idle_bytes).sum::<u64>() < asked_bytes {
            return None;
        }
        self.reserve_in(&others, blocks)
    }

    /// Takes places for all blocks of a slab in the smallest empty one that has room for them, if it is small enough beside that.
    pub(in crate::pool) fn reserve_in_small(&mut self, from: Slot, blocks: &[(u64, Extent)]) -> Option<Vec<Home<S>>> {
        let most_bytes = self.entry(from).space.bytes() / NEW_SLAB_PART;
        let asked_bytes: u64 = blocks.iter().map(|(bytes, _)| bytes).sum();
        let space_of = |slot: &Slot| &self.entry(*slot).space;
        let suits = |space: &Space| space.is_empty() && (asked_bytes..=most_bytes).contains(&space.bytes());
        let mut slots: Vec<Slot> = self.empty_slots().into_iter().filter(|slot| suits(space_of(slot))).collect();
        slots.sort_unstable_by_key(|slot| (space_of(slot).bytes(), *slot));
        slots.into_iter().find_map(|slot| self.reserve_in(&[slot], blocks))
    }

    /// Returns the bytes of a new slab that has just room for all blocks of another, if it is small enough beside that, and if as much
    /// of a reserve would be left as before.
    pub(in crate::pool) fn new_slab_for(&self, from: Slot, blocks: &[(u64, Extent)]) -> Option<u64> {
        // A pool of one slab reserves no other.
        if matches!(self.sizes.policy, SlabPolicy::Single | SlabPolicy::PerBlock | SlabPolicy::Expanding) {
            return None;
        }
        let most_bytes = (self.entry(from).space.bytes() / NEW_SLAB_PART).min(self.left_bytes());
        let mut slab_bytes: u64 = blocks.iter().map(|(bytes, _)| bytes).sum();
        // Twice: pages grow with the slab, and so do roundings.
        for _ in 0..2 {
            if slab_bytes > most_bytes {
                return None;
            }
            let page_bytes = self.sizes.page_bytes(slab_bytes);
            let in_pages = |(bytes, _): &(u64, Extent)| bytes.checked_next_multiple_of(page_bytes);
            let sum = |sum: u64, bytes: Option<u64>| sum.checked_add(bytes?);
            slab_bytes = blocks.iter().map(in_pages).try_fold(0, sum)?;
        }
        let slab_bytes = self.sizes.slab(self.sizes.least(slab_bytes, 1)?);
        let mut space = (1..=most_bytes).contains(&slab_bytes).then(|| self.sizes.space(slab_bytes))?;
        let taken = by_size(blocks)
            .into_iter()
            .map(|index| space.alloc_moved(blocks[index].0, blocks[index].1.align_bytes()).map(Extent::bytes));
        let taken_bytes = taken.sum::<Option<u64>>()?;
        (taken_bytes <= self.bytes_to_move(blocks)).then_some(slab_bytes)
    }

    /// Takes places for all blocks of a slab in the one that was added last, which is empty.
    pub(in crate::pool) fn reserve_in_empty(&mut self, bytes: u64, blocks: &[(u64, Extent)]) -> Option<Vec<Home<S>>> {
        let slot = self.empty_slots().into_iter().find(|slot| self.entry(*slot).space.bytes() == bytes)?;
        self.reserve_in(&[slot], blocks)
    }

    /// Takes a place for each block, in the first of these slabs that has one.
    fn reserve_in(&mut self, slots: &[Slot], blocks: &[(u64, Extent)]) -> Option<Vec<Home<S>>> {
        let most_bytes = self.bytes_to_move(blocks);
        let mut places: Vec<Option<Home<S>>> = blocks.iter().map(|_| None).collect();
        let mut taken_bytes = 0;
        for index in by_size(blocks) {
            let found = slots.iter().find_map(|slot| {
                let (bytes, old) = blocks[index];
                let extent = self.space_mut(*slot).alloc_moved(bytes, old.align_bytes())?;
                Some((*slot, extent))
            });
            let Some((slot, extent)) = found else { break };
            self.settle(slot);
            self.books.take_listed(extent.bytes());
            taken_bytes += extent.bytes();
            places[index] = Some(Home { slab: Arc::clone(&self.entry(slot).slab), extent });
        }
        if taken_bytes <= most_bytes && places.iter().all(Option::is_some) {
            return places.into_iter().collect();
        }
        places.into_iter().flatten().for_each(|home| self.unreserve(home, false));
        None
    }

    /// Returns the most bytes that new places of these blocks may have. Both places of a block are out until it has moved. Afterwards
    /// as much of a reserve must be left as before.
    fn bytes_to_move(&self, blocks: &[(u64, Extent)]) -> u64 {
        let held_bytes: u64 = blocks.iter().map(|(_, extent)| extent.bytes()).sum();
        held_bytes.saturating_add(self.open_bytes(Priority::Normal))
    }

    /// Returns whether a slab may have room for a request of so many bytes, of some priority. Memory may come to an expanding one.
    pub(in crate::pool) fn may_have_room(&self, slot: Slot, bytes: u64) -> bool {
        let space = &self.entry(slot).space;
        space.is_expanding() || space.most_bytes() >= bytes
    }
}

/// Returns the indexes of the blocks, largest first.
fn by_size(blocks: &[(u64, Extent)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(blocks[*index].0));
    order
}
