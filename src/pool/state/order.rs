//! The slabs that have room, fullest first, so that a request finds the first one that may serve it without a look at the others.
//!
//! ```text
//!   levels[1]   best of 16 chunks     best of 16 chunks          offers: what the better of them serves
//!   levels[0]   o o o o o o o o o o   o o o o
//!               | | |
//!   chunks      [item item item] [item item] ...                 items in order: key, and offer of the slab
//! ```
//!
//! A slab all of whose bytes are held serves nothing: it is in no chunk. A chunk that is full becomes two, and one that is empty
//! goes. So a change costs a part of a chunk and its offers up to the top, and a search about as much.

use super::Slot;
use crate::pool::tables::{keep_small, vec_bytes};
use crate::space::{Offer, Space};

/// Items of a chunk at most.
const CHUNK: usize = 16;
/// Chunks, or offers of a level, that one offer of the next level is for.
const FAN: usize = 16;

/// Where a slab is in the order: slabs in use before empty ones, those with fewest unassigned bytes before others; ties by slot, so
/// that placement is deterministic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u128);

impl Key {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self(u128::MAX);
    /// All empty slabs are from here on.
    pub(super) const FIRST_EMPTY: Self = Self(1 << 127);

    #[inline]
    pub(super) fn of(slot: Slot, space: &Space) -> Self {
        let unassigned_bytes = space.bytes() - space.used_bytes();
        Self(u128::from(space.is_empty()) << 127 | u128::from(unassigned_bytes) << Slot::BITS | u128::from(slot))
    }

    /// Returns the first key of empty slabs of so many bytes or more.
    pub(super) fn of_empty(slab_bytes: u64) -> Self {
        Self(Self::FIRST_EMPTY.0 | u128::from(slab_bytes) << Slot::BITS)
    }

    /// Returns the first key behind this one.
    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub(super) fn slot(self) -> Slot {
        self.0 as Slot
    }

    pub(super) fn is_empty(self) -> bool {
        self >= Self::FIRST_EMPTY
    }

    pub(super) fn unassigned_bytes(self) -> u64 {
        ((self.0 & !Self::FIRST_EMPTY.0) >> Slot::BITS) as u64
    }
}

/// A slab as it was when the order was last told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Item {
    key: Key,
    offer: Offer,
}

/// What all slabs have together, as they were when the order was last told of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) unassigned_bytes: u64,
    pub(super) empty_bytes: u64,
}

#[cfg_attr(test, derive(Clone))]
#[derive(Debug, Default)]
pub(super) struct Order {
    /// By slot. The default where there is no slab.
    items: Vec<Item>,
    sums: Sums,
    chunks: Vec<Vec<Item>>,
    /// By chunk: no key in it is lower, and all in those before are. The first is [`Key::FIRST`].
    firsts: Vec<Key>,
    /// The best offers: of each chunk; of each [`FAN`] of those; and so on, up to a level of at most [`FAN`].
    levels: Vec<Vec<Offer>>,
}

impl Order {
    /// Notes how full a slab is now, and what it serves.
    #[inline]
    pub(super) fn set(&mut self, slot: Slot, space: &Space) {
        self.replace(slot, Item { key: Key::of(slot, space), offer: space.offer() });
    }

    /// A slab is gone.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.replace(slot, Item::default());
    }

    fn replace(&mut self, slot: Slot, new: Item) {
        let index = slot as usize;
        if index >= self.items.len() {
            self.items.resize(index + 1, Item::default());
        }
        let old = std::mem::replace(&mut self.items[index], new);
        if old == new {
            return;
        }
        self.count(old.key, new.key);
        match (old.offer.is_nothing(), new.offer.is_nothing()) {
            (false, false) => self.change(old, new),
            (false, true) => self.take_out(self.chunk_of(old.key), old),
            (true, false) => self.put_in(new),
            (true, true) => {}
        }
    }

    fn count(&mut self, old: Key, new: Key) {
        let empty_bytes = |key: Key| if key.is_empty() { key.unassigned_bytes() } else { 0 };
        let Sums { unassigned_bytes: all, empty_bytes: empty } = &mut self.sums;
        *all = *all - old.unassigned_bytes() + new.unassigned_bytes();
        *empty = *empty - empty_bytes(old) + empty_bytes(new);
    }

    pub(super) fn sums(&self) -> Sums {
        self.sums
    }

    /// Returns the first slab from this key on that offers what is `wanted`. Of several slabs any offers something `wanted` if, and
    /// only if, the best of their offers is.
    #[inline]
    pub(super) fn first(&self, from: Key, wanted: impl Fn(Offer) -> bool) -> Option<Key> {
        let mut chunk = 0;
        if from > Key::FIRST {
            chunk = self.chunk_of(from);
            let items = self.chunks.get(chunk)?;
            let start = items.partition_point(|item| item.key < from);
            if let Some(item) = items[start..].iter().find(|item| wanted(item.offer)) {
                return Some(item.key);
            }
            chunk += 1;
        }
        let chunk = self.next_chunk(chunk, &wanted)?;
        self.chunks[chunk].iter().find(|item| wanted(item.offer)).map(|item| item.key)
    }

    /// Returns the first chunk from this one on with an item that is wanted.
    fn next_chunk(&self, chunk: usize, wanted: impl Fn(Offer) -> bool) -> Option<usize> {
        let (mut level, mut at) = (0, chunk);
        let found = loop {
            let offers = self.levels.get(level)?;
            if at >= offers.len() {
                return None;
            }
            let is_top = level + 1 == self.levels.len();
            if !is_top && at.is_multiple_of(FAN) {
                (level, at) = (level + 1, at / FAN);
                continue;
            }
            let end = if is_top { offers.len() } else { (at / FAN + 1) * FAN };
            if let Some(found) = first_in(offers, at, end, &wanted) {
                break found;
            }
            if is_top {
                return None;
            }
            (level, at) = (level + 1, at / FAN + 1);
        };
        (0..level).rev().try_fold(found, |at, level| first_in(&self.levels[level], at * FAN, (at + 1) * FAN, &wanted))
    }

    /// Returns all keys from this one on, in order.
    pub(super) fn keys(&self, from: Key, wanted: impl Fn(Offer) -> bool) -> impl Iterator<Item = Key> {
        std::iter::successors(self.first(from, &wanted), move |key| self.first(key.next(), &wanted))
    }

    /// Returns the key of the last slab that has room.
    pub(super) fn last(&self) -> Option<Key> {
        self.chunks.last()?.last().map(|item| item.key)
    }

    /// Returns the last key before this one.
    pub(super) fn last_before(&self, key: Key) -> Option<Key> {
        let chunk = self.chunk_of(key);
        let items = self.chunks.get(chunk)?;
        let index = items.partition_point(|item| item.key < key);
        let before = || self.chunks[..chunk].last()?.last();
        items[..index].last().or_else(before).map(|item| item.key)
    }

    /// Returns what the best of all slabs offers.
    pub(super) fn best(&self) -> Offer {
        self.levels.last().map_or(Offer::default(), |offers| best_of(offers.iter().copied()))
    }

    #[inline]
    fn chunk_of(&self, key: Key) -> usize {
        self.firsts.partition_point(|first| *first <= key).saturating_sub(1)
    }

    /// Changes an item, and moves it to where its new key belongs.
    fn change(&mut self, old: Item, new: Item) {
        let chunk = self.chunk_of(old.key);
        let is_in_chunk =
            self.firsts[chunk] <= new.key && self.firsts.get(chunk + 1).is_none_or(|next| new.key < *next);
        if !is_in_chunk {
            self.take_out(chunk, old);
            return self.put_in(new);
        }
        let items = &mut self.chunks[chunk];
        let from = items.partition_point(|item| item.key < old.key);
        let to = items.partition_point(|item| item.key < new.key);
        if from < to {
            items[from..to].rotate_left(1);
            items[to - 1] = new;
        } else {
            items[to..=from].rotate_right(1);
            items[to] = new;
        }
        self.raise(chunk, new.offer);
        self.lower(chunk, old.offer);
    }

    fn take_out(&mut self, chunk: usize, item: Item) {
        let items = &mut self.chunks[chunk];
        items.remove(items.partition_point(|other| other.key < item.key));
        // The last chunk stays, so that a slab that has room in turn and has none costs no allocation.
        if items.is_empty() && self.chunks.len() > 1 {
            self.chunks.remove(chunk);
            // Its keys are the chunk's before it, or those of the second one are the first one's.
            self.firsts.remove(chunk.max(1));
            self.levels[0].remove(chunk);
            self.rebuild();
        } else {
            self.lower(chunk, item.offer);
        }
    }

    fn put_in(&mut self, item: Item) {
        if self.chunks.is_empty() {
            self.chunks.push(Vec::with_capacity(CHUNK));
            self.firsts.push(Key::FIRST);
            self.levels.push(vec![Offer::default()]);
        }
        let mut chunk = self.chunk_of(item.key);
        if self.chunks[chunk].len() == CHUNK {
            self.split(chunk);
            chunk = self.chunk_of(item.key);
        }
        let items = &mut self.chunks[chunk];
        items.insert(items.partition_point(|other| other.key < item.key), item);
        self.raise(chunk, item.offer);
    }

    /// Makes two chunks of one.
    #[cold]
    fn split(&mut self, chunk: usize) {
        let mut upper = Vec::with_capacity(CHUNK);
        upper.extend(self.chunks[chunk].drain(CHUNK / 2..));
        self.levels[0][chunk] = best_of(self.chunks[chunk].iter().map(|item| item.offer));
        self.levels[0].insert(chunk + 1, best_of(upper.iter().map(|item| item.offer)));
        self.firsts.insert(chunk + 1, upper[0].key);
        self.chunks.insert(chunk + 1, upper);
        self.rebuild();
    }

    /// Computes all levels above the first.
    #[cold]
    fn rebuild(&mut self) {
        let mut level = 0;
        while self.levels[level].len() > FAN {
            let above = self.levels[level].chunks(FAN).map(|offers| best_of(offers.iter().copied())).collect();
            level += 1;
            self.levels.truncate(level);
            self.levels.push(above);
        }
        self.levels.truncate(level + 1);
    }

    /// A chunk offers this too.
    #[inline]
    fn raise(&mut self, chunk: usize, offer: Offer) {
        let mut at = chunk;
        for offers in &mut self.levels {
            let best = offers[at].or(offer);
            if best == offers[at] {
                return;
            }
            offers[at] = best;
            at /= FAN;
        }
    }

    /// A chunk does not offer this any more, unless another item does.
    #[inline]
    fn lower(&mut self, chunk: usize, offer: Offer) {
        if offer.classes == 0 && offer.most_bytes < self.levels[0][chunk].most_bytes {
            return;
        }
        let mut best = best_of(self.chunks[chunk].iter().map(|item| item.offer));
        let mut at = chunk;
        for level in 0..self.levels.len() {
            let offers = &mut self.levels[level];
            if best == offers[at] {
                return;
            }
            offers[at] = best;
            at /= FAN;
            best = best_of(offers[at * FAN..].iter().take(FAN).copied());
        }
    }

    /// Forgets slots from this one on, which have no slab.
    pub(super) fn forget(&mut self, slots: usize) {
        self.items.truncate(slots);
        keep_small(&mut self.items);
        keep_small(&mut self.chunks);
        keep_small(&mut self.firsts);
        self.levels.iter_mut().for_each(keep_small);
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        let of_chunks: u64 = self.chunks.iter().map(vec_bytes).sum();
        let of_levels: u64 = self.levels.iter().map(vec_bytes).sum();
        let tables = vec_bytes(&self.items) + vec_bytes(&self.firsts);
        tables + vec_bytes(&self.chunks) + of_chunks + vec_bytes(&self.levels) + of_levels
    }

    /// Panics unless the order is that of these slabs.
    pub(super) fn check<'a>(&self, slabs: impl Iterator<Item = (Slot, &'a Space)>) {
        let mut items: Vec<Item> =
            slabs.map(|(slot, space)| Item { key: Key::of(slot, space), offer: space.offer() }).collect();
        let mut sums = Sums::default();
        for item in &items {
            assert_eq!(self.items[item.key.slot() as usize], *item, "a slab has changed untold");
            sums.unassigned_bytes += item.key.unassigned_bytes();
            sums.empty_bytes += if item.key.is_empty() { item.key.unassigned_bytes() } else { 0 };
        }
        assert_eq!(self.sums, sums);
        items.retain(|item| !item.offer.is_nothing());
        items.sort_unstable_by_key(|item| item.key);
        assert!(self.chunks.iter().flatten().eq(&items), "slabs are out of order");
        assert_eq!(self.firsts.len(), self.chunks.len());
        for (chunk, items) in self.chunks.iter().enumerate() {
            assert!(items.iter().all(|item| self.chunk_of(item.key) == chunk) && items.len() <= CHUNK);
        }
        let mut below: Vec<Offer> =
            self.chunks.iter().map(|items| best_of(items.iter().map(|item| item.offer))).collect();
        for offers in &self.levels {
            assert_eq!(*offers, below, "the best offers");
            below = offers.chunks(FAN).map(|offers| best_of(offers.iter().copied())).collect();
        }
    }
}

fn best_of(offers: impl Iterator<Item = Offer>) -> Offer {
    offers.fold(Offer::default(), Offer::or)
}

/// Returns the first place from `start` to `end`, which may be beyond the last, whose offer is wanted.
#[inline]
fn first_in(offers: &[Offer], start: usize, end: usize, wanted: impl Fn(Offer) -> bool) -> Option<usize> {
    (start..end.min(offers.len())).find(|at| wanted(offers[*at]))
}
