//! What others may have of an arena, for the errors of requests that find no room.

use super::super::arena::Arena;
use super::Planner;
use crate::backend::Backend;
use crate::pool::state::Slot;
use crate::space::Extent;

impl<B: Backend> Planner<B> {
    pub(in crate::pool) fn arena_bytes(&self) -> u64 {
        self.arena.as_ref().map_or(0, Arena::bytes)
    }

    /// Bytes of the arena that no block has.
    pub(in crate::pool) fn arena_idle_bytes(&self) -> u64 {
        self.arena.as_ref().map_or(0, |arena| arena.idle_bytes(self.cursor.as_ref()))
    }

    /// Returns the runs of the arena that would be free if it were given up now.
    #[cold]
    pub(in crate::pool) fn idle_runs(&self) -> Vec<(Slot, Extent)> {
        let page_bytes = |slab_bytes| self.pages.of(slab_bytes);
        self.arena.as_ref().map_or_else(Vec::new, |arena| arena.idle_runs(self.cursor.as_ref(), page_bytes))
    }

    /// Returns whether no block is in an arena, nor in what is left of one: all can move.
    pub(in crate::pool) fn keeps_no_block(&self) -> bool {
        self.arena.is_none() && self.late.is_empty() && self.held.is_empty()
    }
}
