//! Free runs of one shard, by size: a step asks for the same sizes again and again, and where sizes vary a run serves that is a little
//! larger.
//!
//! ```text
//!   bytes held ──► set: an eighth of a power of two ──► up to SET_RUNS runs of about that size
//! ```
//!
//! A list keeps memory from requests of other sizes. So runs come here only while memory is ample (`State::look_at_room`), and
//! all leave before a request finds no room, before a slab is created, and before more than a little memory is committed.

use crate::backend::Backend;
use crate::pool::block::IdleBlock;
use crate::pool::tables::vec_bytes;

/// Sets in a shard, a power of two: each power of two of sizes has [`PARTS`] of them, and shares them with its 65,536-fold.
const SETS: usize = 128;

/// Bits of a word.
const WORD: usize = u64::BITS as usize;

/// Sets of one power of two of sizes.
const PARTS: usize = 8;

/// What a set holds at most: a layer's tensors of one size.
const SET_RUNS: usize = if cfg!(loom) { 2 } else { 16 };

/// A run serves a request that asks for so much less, as a part of the request.
const WASTE_PART: u64 = 4;

/// A run and the bytes that it holds, so that a look at a set reads nothing else.
type Entry<B> = (u64, IdleBlock<B>);

/// The free runs of a shard. Takes no memory before the first run comes.
pub(super) struct Runs<B: Backend> {
    /// The run that came last is the last of its set.
    sets: Option<Box<[Vec<Entry<B>>; SETS]>>,
    /// The sets that may not be empty, a bit each. A search clears the bits of those that are.
    filled: [u64; SETS / WORD],
    /// The bytes of all runs.
    bytes: u64,
}

/// Returns the set of a size: the power of two, and the three bits below its first.
#[inline(always)]
fn set_of(held_bytes: u64) -> usize {
    let bits = (held_bytes | PARTS as u64).ilog2();
    let part = (held_bytes >> (bits - PARTS.ilog2())) as usize % PARTS;
    (bits as usize * PARTS + part) % SETS
}

impl<B: Backend> Runs<B> {
    pub(super) fn new() -> Self {
        Self { sets: None, filled: [0; SETS / WORD], bytes: 0 }
    }

    /// Takes a run for `bytes` bytes: of those that hold `exact_bytes` the one that came last, else the smallest that holds a little more.
    /// 0 `exact_bytes` are no size of a run.
    #[inline(always)]
    pub(super) fn take(&mut self, bytes: u64, exact_bytes: u64) -> Option<IdleBlock<B>> {
        let sets = self.sets.as_mut()?;
        let own = set_of(exact_bytes);
        // Most often a step asks for what it freed last.
        if let Some((held_bytes, run)) = sets[own].pop_if(|run| run.0 == exact_bytes) {
            self.bytes -= held_bytes;
            return Some(run);
        }
        self.take_other(bytes, exact_bytes)
    }

    /// As [`take`](Self::take), where it is not the last of its set.
    fn take_other(&mut self, bytes: u64, exact_bytes: u64) -> Option<IdleBlock<B>> {
        if exact_bytes == 0 || self.filled == [0; SETS / WORD] {
            return None;
        }
        let own = set_of(exact_bytes);
        match self.set(own).iter().rposition(|run| run.0 == exact_bytes) {
            Some(index) => self.take_at(own, index),
            None => self.take_larger(bytes),
        }
    }

    fn set(&self, index: usize) -> &[Entry<B>] {
        self.sets.as_ref().map_or(&[], |sets| &sets[index])
    }

    /// Takes the smallest run for `bytes` bytes that is not too large.
    fn take_larger(&mut self, bytes: u64) -> Option<IdleBlock<B>> {
        let most_bytes = bytes + bytes / WASTE_PART;
        let first = set_of(bytes);
        let others = (set_of(most_bytes) + SETS - first) % SETS;
        // The first set is the lowest bit, and those above it follow.
        let filled = self.filled.iter().rev().fold(0, |filled, word| filled << WORD | u128::from(*word));
        let mut filled = filled.rotate_right(first as u32) & (u128::MAX >> (SETS - 1 - others));
        while filled != 0 {
            let set = (first + filled.trailing_zeros() as usize) % SETS;
            filled &= filled - 1;
            let serving = self.set(set).iter().enumerate().filter(|(_, run)| (bytes..=most_bytes).contains(&run.0));
            if let Some((index, _)) = serving.min_by_key(|(_, run)| run.0) {
                return self.take_at(set, index);
            }
            if self.set(set).is_empty() {
                self.filled[set / WORD] &= !(1 << (set % WORD));
            }
        }
        None
    }

    fn take_at(&mut self, set: usize, index: usize) -> Option<IdleBlock<B>> {
        let runs = &mut self.sets.as_mut()?[set];
        let (held_bytes, run) = runs.remove(index);
        self.bytes -= held_bytes;
        Some(run)
    }

    /// Returns whether a run of so many bytes comes into a set that has room for it, and all runs stay within `bytes_most`.
    #[inline(always)]
    pub(super) fn has_room(&self, held_bytes: u64, bytes_most: u64) -> bool {
        let set = self.sets.as_ref().map(|sets| &sets[set_of(held_bytes)]);
        self.bytes + held_bytes <= bytes_most && set.is_some_and(|set| set.len() < SET_RUNS)
    }

    /// Puts a run of so many bytes in. Returns it if its set is not there.
    #[inline(always)]
    pub(super) fn give(&mut self, held_bytes: u64, run: IdleBlock<B>) -> Result<(), IdleBlock<B>> {
        let index = set_of(held_bytes);
        let Some(sets) = &mut self.sets else { return Err(run) };
        self.bytes += held_bytes;
        self.filled[index / WORD] |= 1 << (index % WORD);
        sets[index].push((held_bytes, run));
        Ok(())
    }

    /// Makes [room](Self::has_room). Returns what had to leave: the older half of a full set, the older half of each set if all runs came
    /// to more than `bytes_most`, or all runs if that is not enough. Sizes that no request asks for any more go that way.
    #[cold]
    pub(super) fn make_room(&mut self, held_bytes: u64, bytes_most: u64) -> Vec<IdleBlock<B>> {
        self.sets.get_or_insert_with(|| Box::new(std::array::from_fn(|_| Vec::new())));
        let mut leaving = Vec::new();
        let set = set_of(held_bytes);
        if self.set(set).len() >= SET_RUNS {
            self.halve(set, &mut leaving);
        }
        if self.bytes.saturating_add(held_bytes) > bytes_most {
            (0..SETS).for_each(|set| self.halve(set, &mut leaving));
        }
        if self.bytes.saturating_add(held_bytes) > bytes_most {
            leaving.append(&mut self.take_all());
        }
        leaving
    }

    /// Moves the older half of a set to those that leave.
    fn halve(&mut self, set: usize, leaving: &mut Vec<IdleBlock<B>>) {
        let Some(sets) = &mut self.sets else { return };
        let (runs, bytes) = (&mut sets[set], &mut self.bytes);
        leaving.extend(runs.drain(..runs.len().div_ceil(2)).map(|(held_bytes, run)| {
            *bytes -= held_bytes;
            run
        }));
    }

    /// Takes the older half of each set out.
    pub(super) fn take_half(&mut self) -> Vec<IdleBlock<B>> {
        let mut leaving = Vec::new();
        (0..SETS).for_each(|set| self.halve(set, &mut leaving));
        leaving
    }

    /// Takes all runs out.
    pub(super) fn take_all(&mut self) -> Vec<IdleBlock<B>> {
        (self.filled, self.bytes) = ([0; SETS / WORD], 0);
        self.sets
            .iter_mut()
            .flat_map(|sets| sets.iter_mut())
            .flat_map(|set| set.drain(..))
            .map(|(_, run)| run)
            .collect()
    }

    /// Returns the memory of the sets, and of what is in them.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let of_set =
            |set: &Vec<Entry<B>>| vec_bytes(set) + set.iter().map(|(_, run)| size_of_val(&**run) as u64).sum::<u64>();
        let of_sets = |sets: &[Vec<Entry<B>>; SETS]| size_of_val(sets) as u64 + sets.iter().map(of_set).sum::<u64>();
        self.sets.as_deref().map_or(0, of_sets)
    }
}

/// Returns what the places hold.
pub(super) fn bytes_of<B: Backend>(places: &[IdleBlock<B>]) -> u64 {
    places.iter().map(|place| place.bytes_held()).sum()
}
