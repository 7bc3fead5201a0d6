//! Holds: they keep a block's memory from being used again, also once the block is dropped.
//!
//! Few blocks have any. So their counts are in a table of the pool, and a block has one bit that says whether to look there.

use std::collections::HashMap;

use crate::pool::planned::At;
use crate::pool::state::Holds;
use crate::pool::tables::{ARC_BYTES, keep_small_map, map_bytes};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// Keeps a block's memory from being used again; see [`Block::hold`](crate::Block::hold). Dropping it ends the hold.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    /// The pool's count of blocks that cannot move.
    kept_blocks: Arc<AtomicUsize>,
}

impl Hold {
    /// One hold more.
    pub(super) fn new(holds: &Holds, kept_blocks: &Arc<AtomicUsize>) -> Self {
        holds.fetch_add(1, Ordering::Relaxed);
        kept_blocks.fetch_add(1, Ordering::Relaxed);
        Self { holds: Arc::clone(holds), kept_blocks: Arc::clone(kept_blocks) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.fetch_sub(1, Ordering::Release);
        self.kept_blocks.fetch_sub(1, Ordering::Release);
    }
}

/// The holds on blocks that have an owner.
pub(in crate::pool) struct HoldTable(Mutex<HashMap<At, Holds>>);

impl HoldTable {
    pub(in crate::pool) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Returns the holds on the block at this place, none at first.
    pub(super) fn of(&self, at: At) -> Holds {
        Arc::clone(lock(&self.0).entry(at).or_default())
    }

    /// Takes the holds of the block at this place, which loses its owner, or moves.
    pub(super) fn take(&self, at: At) -> Option<Holds> {
        let mut table = lock(&self.0);
        let holds = table.remove(&at);
        keep_small_map(&mut table);
        holds
    }

    pub(in crate::pool) fn metadata_bytes(&self) -> u64 {
        let table = lock(&self.0);
        map_bytes(&table) + (table.len() * (ARC_BYTES + size_of::<AtomicUsize>())) as u64
    }
}

/// What a block was asked for with, and the bit that says whether it has [holds](HoldTable).
pub(super) struct Asked(AtomicU64);

/// No block has so many bytes: a slab has fewer.
const HAS_HOLDS: u64 = 1 << 63;
const _: () = assert!(crate::space::SLAB_BYTES_MAX < HAS_HOLDS);

impl Asked {
    #[inline(always)]
    pub(super) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    #[inline(always)]
    fn word(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Bytes asked for.
    #[inline(always)]
    pub(super) fn bytes(&self) -> u64 {
        self.word() & !HAS_HOLDS
    }

    #[inline(always)]
    pub(super) fn has_holds(&self) -> bool {
        self.word() >= HAS_HOLDS
    }

    /// A hold was given out.
    pub(super) fn hold(&self) {
        self.0.fetch_or(HAS_HOLDS, Ordering::Relaxed);
    }

    /// The block is in the table no more.
    pub(super) fn forget_holds(&mut self) {
        self.set(self.bytes(), false);
    }

    /// The block has so many bytes from now on.
    pub(super) fn resize(&mut self, bytes: u64) {
        self.set(bytes, self.has_holds());
    }

    fn set(&mut self, bytes: u64, has_holds: bool) {
        self.0.store(bytes | if has_holds { HAS_HOLDS } else { 0 }, Ordering::Relaxed);
    }
}
