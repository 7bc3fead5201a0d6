//! The table of slabs: which slot a slab gets, and in which order slabs are looked at.
//!
//! One slab is the rule. It needs no order, so as long as it is alone nothing is kept of how full it is.

use super::order::Key;
use super::{Entry, Slab, Slot, State};
use crate::pool::SlabPolicy;
use crate::space::{Extent, Offer, Space};
use crate::sync::Arc;

/// Which slabs a request is placed in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slabs {
    Any,
    /// Empty ones of so many bytes.
    Empty(u64),
}

impl<S> State<S> {
    /// Puts a new slab into the lowest slot that is vacant.
    pub(super) fn enter(&mut self, mut slab: Slab<S>) {
        let space = self.sizes.space(slab.bytes);
        let slot = self.vacant_slot();
        (self.slabs, self.slab_bytes) = (self.slabs + 1, self.slab_bytes + slab.bytes);
        slab.slot = slot;
        self.entries[slot as usize] = Some(Entry { slab: Arc::new(slab), space, is_unmerged: false });
        if self.entries.len() == 2 {
            // The order was not told of the first one.
            self.settle(0);
        }
        self.settle(slot);
    }

    fn vacant_slot(&mut self) -> Slot {
        self.vacant.pop_first().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as Slot - 1
        })
    }

    /// Takes a slab out of the table.
    pub(super) fn take_entry(&mut self, slot: Slot) -> Option<Entry<S>> {
        let entry = self.entries.get_mut(slot as usize)?.take()?;
        (self.slabs, self.slab_bytes) = (self.slabs - 1, self.slab_bytes - entry.slab.bytes);
        self.order.remove(slot);
        self.vacant.insert(slot);
        self.unmerged.remove(&slot);
        Some(entry)
    }

    /// Returns whether the table has one slot: then the order is told of no slab.
    #[inline]
    pub(super) fn is_single(&self) -> bool {
        self.entries.len() == 1
    }

    /// Notes how full a slab is, if there are others, and what it may serve. Due after every change of its space.
    #[inline]
    pub(super) fn settle(&mut self, slot: Slot) {
        if !self.is_single() {
            self.settle_among_others(slot);
        }
    }

    fn settle_among_others(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        self.order.set(slot, &entry.space);
        if !entry.is_unmerged && entry.space.may_gather() {
            entry.is_unmerged = true;
            self.unmerged.insert(slot);
        }
    }

    /// Takes an extent of the fullest slab that has one, where `wanted` says what a slab must offer at least.
    #[inline]
    pub(super) fn find(
        &mut self,
        slabs: Slabs,
        wanted: impl Fn(Offer) -> bool,
        mut alloc: impl FnMut(&mut Space) -> Option<Extent>,
    ) -> Option<(Slot, Extent)> {
        if let [entry] = &mut self.entries[..] {
            let Entry { slab, space, .. } = entry.as_mut()?;
            if let Slabs::Empty(bytes) = slabs
                && (slab.bytes != bytes || !space.is_empty())
            {
                return None;
            }
            return alloc(space).map(|extent| (0, extent));
        }
        let (mut from, end) = match slabs {
            Slabs::Any => (Key::FIRST, Key::LAST),
            Slabs::Empty(bytes) => (Key::of_empty(bytes), Key::of_empty(bytes.saturating_add(1))),
        };
        loop {
            let key = self.order.first(from, &wanted).filter(|key| *key < end)?;
            let slot = key.slot();
            if let Some(extent) = alloc(self.space_mut(slot)) {
                return Some((slot, extent));
            }
            // What was given back at once may be in smaller pieces now.
            self.settle(slot);
            from = key.next();
        }
    }

    /// Returns the slabs that may have a place for so many bytes, fullest first.
    pub(super) fn slots_with(&self, bytes: u64) -> impl Iterator<Item = Slot> {
        let only = if let [Some(_)] = self.entries[..] { Some(0) } else { None };
        let keys = (!self.is_single()).then(|| self.order.keys(Key::FIRST, move |offer| offer.most_bytes >= bytes));
        only.into_iter().chain(keys.into_iter().flatten().map(Key::slot))
    }

    /// Returns the empty slabs, smallest first.
    pub(super) fn empty_slots(&self) -> Vec<Slot> {
        match &self.entries[..] {
            [Some(entry)] if entry.space.is_empty() => vec![0],
            [_] => Vec::new(),
            _ => self.order.keys(Key::FIRST_EMPTY, |_| true).map(Key::slot).collect(),
        }
    }

    /// Returns the bytes of all slabs, and of what is held in them.
    pub(super) fn slab_bytes(&self) -> (u64, u64) {
        match &self.entries[..] {
            [entry] => entry.iter().map(|entry| (entry.space.committed_bytes(), entry.space.used_bytes())).next(),
            _ => Some((self.slab_bytes, self.slab_bytes.saturating_sub(self.order.sums().unassigned_bytes))),
        }
        .unwrap_or((0, 0))
    }

    /// Returns the most bytes that no caller has of one slab.
    pub(super) fn most_unassigned_bytes(&self) -> u64 {
        if let [entry] = &self.entries[..] {
            return entry.iter().map(|entry| entry.space.committed_bytes() - entry.space.used_bytes()).sum();
        }
        let keys = [self.order.last(), self.order.last_before(Key::FIRST_EMPTY)];
        keys.into_iter().flatten().map(Key::unassigned_bytes).max().unwrap_or(0)
    }

    /// Returns the most of what slabs have, each of which has at most as much as it offers. Of several slabs only those are asked that
    /// may have more than those before.
    pub(super) fn most_of_slabs(&self, of: impl Fn(&Space) -> u64) -> u64 {
        if let [entry] = &self.entries[..] {
            return entry.iter().map(|entry| of(&entry.space)).sum();
        }
        let offered_bytes = self.order.best().most_bytes;
        // The best first: it is most likely to have the most.
        let best = self.order.first(Key::FIRST, |offer| offer.most_bytes >= offered_bytes);
        let (mut most_bytes, mut from) = (best.map_or(0, |key| of(&self.entry(key.slot()).space)), Key::FIRST);
        while let Some(key) = self.order.first(from, |offer| offer.most_bytes > most_bytes) {
            most_bytes = most_bytes.max(of(&self.entry(key.slot()).space));
            from = key.next();
        }
        most_bytes
    }

    /// Returns the bytes of empty slabs; in an expanding slab at most so much is spare.
    pub(in crate::pool) fn empty_bytes(&self) -> u64 {
        match &self.entries[..] {
            [Some(entry)] if entry.space.is_expanding() => entry.space.free_bytes(),
            [Some(entry)] if entry.space.is_empty() => entry.slab.bytes,
            [_] => 0,
            _ => self.order.sums().empty_bytes,
        }
    }

    /// Returns a bound of the largest request that a slab has room for.
    pub(super) fn room_bytes(&self) -> u64 {
        let is_per_block = self.sizes.policy == SlabPolicy::PerBlock;
        match &self.entries[..] {
            [Some(Entry { space, .. })] if !is_per_block => space.most_bytes_bound(),
            [Some(Entry { space, .. })] if space.is_empty() => space.bytes(),
            [_] => 0,
            _ if is_per_block => self.order.last().filter(|key| key.is_empty()).map_or(0, Key::unassigned_bytes),
            _ => self.order.best().most_bytes,
        }
    }

    /// Joins the idle buddies of all slabs.
    pub(super) fn merge(&mut self) {
        if let [entry] = &mut self.entries[..] {
            entry.iter_mut().for_each(|entry| {
                entry.space.gather();
            });
            return;
        }
        for slot in std::mem::take(&mut self.unmerged) {
            let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            entry.is_unmerged = false;
            entry.space.gather();
            self.settle(slot);
        }
    }
}
