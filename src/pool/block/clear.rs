//! What is in the way of a block that grows and may be in no use, and how it goes home.

use crate::backend::Backend;
use crate::error::Result;
use crate::pool::Shared;
use crate::pool::state::{Denied, First, Home};
use crate::space::Obstacle;

/// What may be in no use, and is in the way of a block that grows.
#[derive(Clone, Copy)]
enum Idle {
    /// A block without an owner, whose holds may be over.
    Retired,
    /// One that is to be zeroed, if no other thread does so now.
    Dirty,
    /// Pieces and runs in free lists.
    Listed,
    Arena,
    /// Memory that an expanding slab has elsewhere, of free pages.
    Spare,
    /// Bytes that count as held, wherever they are.
    Bytes,
}

impl<B: Backend> Shared<B> {
    /// Takes the pages behind a place. Idle memory goes home that is in the way, of each kind once; no other does, so that a growth
    /// in vain costs a planned step no arena.
    ///
    /// # Errors
    /// As [`reserve_behind`](Self::reserve_behind).
    pub(super) fn clear_behind(
        &self,
        home: &Home<B::Slab>,
        bytes: u64,
    ) -> Result<std::result::Result<Home<B::Slab>, Denied>> {
        let mut has_tried = [false; 6];
        loop {
            let reserved = self.reserve_behind(home, bytes)?;
            let Err(denied) = reserved else { return Ok(reserved) };
            let mut kinds = self.idle_of(&denied).into_iter().flatten();
            let Some(idle) = kinds.find(|idle| !has_tried[*idle as usize]) else {
                return Ok(Err(denied));
            };
            has_tried[idle as usize] = true;
            match idle {
                Idle::Retired => self.settle_completed(),
                Idle::Dirty => drop(self.zero_all()),
                Idle::Listed => {
                    self.empty_lists();
                    self.state().gather();
                }
                Idle::Arena => self.give_idle_arena(),
                Idle::Spare => self.give_back_behind(home, bytes),
                Idle::Bytes => {
                    self.gather();
                    self.zero_all();
                    if self.is_expanding() {
                        self.give_back_behind(home, bytes);
                    }
                }
            }
        }
    }

    /// Returns what may be in no use of what is in the way, what costs least first.
    #[cold]
    fn idle_of(&self, denied: &Denied) -> [Option<Idle>; 2] {
        let (is_cut, First { place, retired_bytes, is_dirty }) = match denied {
            Denied::Obstacle { obstacle: Obstacle::Pages { is_cut, .. }, first } => (*is_cut, *first),
            Denied::Short { may_come_home: true, .. } => return [Some(Idle::Bytes), None],
            Denied::Memory { .. } => return [Some(Idle::Spare), Some(Idle::Bytes)],
            _ => return [None; 2],
        };
        let is_in_arena = || {
            let runs = if self.shards.signs.has_arena() { self.shards.planner().idle_runs() } else { Vec::new() };
            runs.iter().any(|(slot, run)| *slot == place.0 && run.range().contains(&place.1))
        };
        let idle = match is_cut {
            _ if is_dirty => Some(Idle::Dirty),
            _ if retired_bytes.is_some() => Some(Idle::Retired),
            Some(true) => Some(Idle::Listed),
            _ if is_in_arena() => Some(Idle::Arena),
            // Not known: too many runs are cut.
            None => Some(Idle::Listed),
            Some(false) if self.shards.has_runs() => Some(Idle::Listed),
            Some(false) => None,
        };
        [idle, None]
    }
}
