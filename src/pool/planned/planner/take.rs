//! What an allocation and a free do to the step that is under way.

use super::super::arena::Rest;
use super::super::report::Deviation;
use super::{Mode, Planner};
use crate::backend::Backend;
use crate::plan::Found;
use crate::pool::Shared;
use crate::pool::block::IdleBlock;
use crate::pool::state::{Holds, Home};
use crate::pool::tables::keep_small;
use crate::sync::{Arc, Ordering};

/// So many allocations of a step that plans itself may be served beside its arena. With one more it is another step.
const STRAYS_MAX: u32 = 1;

/// A block of the arena without an owner. Others may still use its memory, or shall not see it as it is.
pub(in crate::pool) struct Held<B: Backend> {
    pub(in crate::pool) home: Home<B::Slab>,
    pub(in crate::pool) holds: Option<Holds>,
    pub(in crate::pool) is_dirty: bool,
}

impl<B: Backend> Held<B> {
    fn is_over(&self) -> bool {
        self.holds.as_ref().is_none_or(|holds| holds.load(Ordering::Acquire) == 0)
    }
}

impl<B: Backend> Planner<B> {
    /// The descriptor of a place for so many bytes, if the schedule has one.
    #[inline(always)]
    pub(in crate::pool::planned) fn take(&mut self, bytes: u64, shared: &Arc<Shared<B>>) -> Option<IdleBlock<B>> {
        if let Mode::Auto(auto) = &mut self.mode {
            auto.count();
        }
        let index = match &mut self.cursor {
            Some(cursor) if self.serves => match cursor.take_next(bytes) {
                Some(Found::Place(index)) => index,
                found => self.take_other(found, bytes)?,
            },
            _ => {
                self.pass_over(bytes);
                return None;
            }
        };
        let (Some(arena), Some(cursor)) = (&mut self.arena, &self.cursor) else { return None };
        let place = cursor.place(index);
        self.tally.alloc(bytes, place.1);
        Some(arena.place(place, index, shared))
    }

    /// Serves nothing: no schedule is followed.
    #[inline]
    fn pass_over(&mut self, bytes: u64) {
        self.report.allocations_unplanned += u64::from(self.step.is_abandoned);
        if let Mode::Auto(auto) = &mut self.mode {
            auto.see(bytes);
        }
    }

    #[cold]
    fn take_other(&mut self, found: Option<Found>, bytes: u64) -> Option<u32> {
        match found.or_else(|| self.deviates(bytes))? {
            Found::Place(index) => Some(index),
            Found::Blocked => {
                self.step.blocked = true;
                self.report.allocations_blocked += 1;
                self.strays();
                None
            }
            Found::Different => {
                self.strays();
                None
            }
            Found::Kept => None,
        }
    }

    /// Looks for an allocation that is not the next one of the schedule.
    #[cold]
    fn deviates(&mut self, bytes: u64) -> Option<Found> {
        let cursor = self.cursor.as_mut()?;
        let expected_bytes = cursor.expected_bytes();
        let allocation = cursor.met() + self.step.unplanned;
        self.report.last_deviation = Some(Deviation { step: self.report.steps, allocation, bytes, expected_bytes });
        // A step that begins with another allocation than expected is another step.
        let is_other = matches!(self.mode, Mode::Auto(_)) && cursor.out() == 0;
        let found = if is_other { Found::Different } else { cursor.search(bytes) };
        if found == Found::Different {
            self.step.unplanned += 1;
            self.report.allocations_unplanned += 1;
        } else {
            self.report.allocations_reordered += 1;
        }
        if is_other {
            self.abandon();
            return None;
        }
        Some(found)
    }

    /// An allocation is served beside the arena that was not planned to be: a step that plans itself is another one if there is
    /// a second.
    fn strays(&mut self) {
        self.step.strays += 1;
        if self.is_auto() && self.step.strays > STRAYS_MAX {
            self.abandon();
        }
    }

    /// Leaves the rest of this step to the pool.
    fn abandon(&mut self) {
        self.step.is_abandoned = true;
        self.rest = Some(self.give_up_arena());
    }

    /// What is to be dropped after a call of [`take`](Self::take).
    pub(in crate::pool::planned) fn take_rest(&mut self) -> Option<Rest<B>> {
        self.rest.take()
    }

    /// A place is back and in no use; the arena goes home with the last of them if it `is_wanted`. What is to be dropped
    /// comes back.
    #[inline]
    pub(in crate::pool::planned) fn give(
        &mut self,
        descriptor: IdleBlock<B>,
        bytes: u64,
        is_wanted: bool,
    ) -> Option<Rest<B>> {
        self.tally.free(bytes, descriptor.bytes_held());
        let home = descriptor.home()?;
        let Some((part, offset)) = self.arena.as_mut().and_then(|arena| arena.find(home)) else {
            let (home, shared) = descriptor.into_parts();
            return Some(self.put_back_late(home?, Some(shared)));
        };
        let index = home.extent.index();
        part.keep(descriptor);
        self.put_back(index, offset, is_wanted)
    }

    /// Takes a place of the arena back. The arena goes home with the last of them if it `is_wanted`.
    #[inline]
    fn put_back(&mut self, index: u32, offset: u64, is_wanted: bool) -> Option<Rest<B>> {
        let cursor = self.cursor.as_mut().expect("an arena is there for a schedule");
        cursor.put_back(index, offset);
        if is_wanted && cursor.out() == 0 { Some(self.leave_idle_arena()) } else { None }
    }

    /// Into an arena that is gone.
    #[cold]
    fn put_back_late(&mut self, home: Home<B::Slab>, shared: Option<Arc<Shared<B>>>) -> Rest<B> {
        let mut rest = Rest::new();
        rest.pools.extend(shared);
        if let Some(Some(extent)) = self.late.put_back(&home) {
            self.left.homes.push(Home { slab: home.slab, extent });
        }
        self.left.is_due = true;
        rest
    }

    /// A place is back, but others still use it, or it is to be zeroed.
    pub(in crate::pool::planned) fn hold(&mut self, held: Held<B>) {
        self.held.push(held);
    }

    pub(in crate::pool::planned) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes out the places that are in no use any more.
    pub(in crate::pool::planned) fn take_over(&mut self) -> Vec<Held<B>> {
        let over = self.held.extract_if(.., |held| held.is_over()).collect();
        keep_small(&mut self.held);
        over
    }

    /// Takes a held place back that is in no use any more and zeroed if it must be. It kept no pool alive.
    pub(in crate::pool::planned) fn end_hold(&mut self, home: Home<B::Slab>) {
        let found = self.arena.as_mut().and_then(|arena| arena.find(&home)).map(|(_, offset)| offset);
        let rest = match found {
            Some(offset) => self.put_back(home.extent.index(), offset, false),
            None => Some(self.put_back_late(home, None)),
        };
        debug_assert!(rest.is_none_or(|rest| rest.pools.is_empty()));
    }
}
