//! Free runs of one shard, by size: a step asks for the same sizes again and again.
//!
//! ```text
//!   bytes held ──► set, by a hash ──► one size, and up to SET_RUNS runs of it
//! ```
//!
//! A list keeps memory from requests of other sizes. So runs come here only while memory is ample (`State::look_at_room`), and
//! all leave before a request finds no room, before a slab is created, and before memory is committed.

use crate::backend::Backend;
use crate::pool::block::IdleBlock;
use crate::pool::tables::{boxes_bytes, vec_bytes};

/// Sets in a shard, a power of two. Recorded training steps use 30 to 120 sizes.
const SETS: usize = if cfg!(loom) { 2 } else { 128 };

/// What a set holds at most: a layer's tensors of one size.
const SET_RUNS: usize = if cfg!(loom) { 2 } else { 16 };

/// Runs of one size.
struct Set<B: Backend> {
    held_bytes: u64,
    runs: Vec<IdleBlock<B>>,
}

/// The free runs of a shard. Takes no memory before the first run comes.
pub(super) struct Runs<B: Backend> {
    sets: Vec<Set<B>>,
    /// The bytes of all runs.
    bytes: u64,
}

/// Returns the set of a size. Sizes are multiples of a page: a product's high bits depend on all of theirs.
#[inline(always)]
fn set_of(held_bytes: u64) -> usize {
    (held_bytes.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SETS.trailing_zeros())) as usize
}

impl<B: Backend> Runs<B> {
    pub(super) fn new() -> Self {
        Self { sets: Vec::new(), bytes: 0 }
    }

    /// Takes the run of exactly so many bytes that came last.
    #[inline(always)]
    pub(super) fn take(&mut self, held_bytes: u64) -> Option<IdleBlock<B>> {
        let set = self.sets.get_mut(set_of(held_bytes))?;
        if set.held_bytes != held_bytes {
            return None;
        }
        let run = set.runs.pop()?;
        self.bytes -= held_bytes;
        Some(run)
    }

    /// Returns whether a run of so many bytes comes into a set that has room for it, and all runs stay within `bytes_most`.
    #[inline(always)]
    pub(super) fn has_room(&self, held_bytes: u64, bytes_most: u64) -> bool {
        let set = self.sets.get(set_of(held_bytes));
        self.bytes + held_bytes <= bytes_most
            && set.is_some_and(|set| set.held_bytes == held_bytes && set.runs.len() < SET_RUNS)
    }

    /// Puts a run of so many bytes in. Returns it if its set has no room.
    #[inline(always)]
    pub(super) fn give(&mut self, held_bytes: u64, run: IdleBlock<B>) -> Result<(), IdleBlock<B>> {
        let Some(set) = self.sets.get_mut(set_of(held_bytes)) else { return Err(run) };
        self.bytes += held_bytes;
        set.runs.push(run);
        Ok(())
    }

    /// Makes [room](Self::has_room). Returns what had to leave: another size in the set, the older half of a full one, or all runs
    /// if they came to more than `bytes_most`. Sizes that no request asks for any more go that way.
    #[cold]
    pub(super) fn make_room(&mut self, held_bytes: u64, bytes_most: u64) -> Vec<IdleBlock<B>> {
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, || Set { held_bytes: 0, runs: Vec::new() });
        }
        let mut leaving = Vec::new();
        let set = &mut self.sets[set_of(held_bytes)];
        if set.held_bytes != held_bytes {
            leaving.append(&mut set.runs);
            set.held_bytes = held_bytes;
        } else if set.runs.len() >= SET_RUNS {
            leaving.extend(set.runs.drain(..SET_RUNS / 2));
        }
        self.bytes -= bytes_of(&leaving);
        if self.bytes.saturating_add(held_bytes) > bytes_most {
            leaving.append(&mut self.take_all());
        }
        leaving
    }

    /// Takes all runs out.
    pub(super) fn take_all(&mut self) -> Vec<IdleBlock<B>> {
        self.bytes = 0;
        let mut leaving = Vec::new();
        self.sets.iter_mut().for_each(|set| leaving.append(&mut set.runs));
        leaving
    }

    /// Returns the memory of the sets.
    pub(super) fn metadata_bytes(&self) -> u64 {
        vec_bytes(&self.sets) + self.sets.iter().map(|set| boxes_bytes(&set.runs)).sum::<u64>()
    }
}

/// Returns what the places hold.
pub(super) fn bytes_of<B: Backend>(places: &[IdleBlock<B>]) -> u64 {
    places.iter().map(|place| place.bytes_held()).sum()
}
