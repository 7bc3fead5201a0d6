//! Planned steps: a step that repeats is served at offsets that were found ahead of time.
//!
//! ```text
//!   Pool::follow_plan, Pool::auto_plan ──► PlannedSteps, while there is one:
//!
//!   alloc ──► Planner ──► Cursor: the schedule's next entry? its predecessors back? ──► a place of the arena
//!                │           └─ no: the pool serves it, and it is counted
//!                └─ Auto: what a step asks for is written down (Learner), planned (crate::plan), followed (Schedule)
//! ```
//!
//! The arena is a run of the pool like any other, or several; what of it no block has counts as cached. It goes home when memory
//! is short and nothing in it is in use, and is taken again when the next step begins. One that the pool has learned goes home in
//! any case for a request that would fail.
//!
//! The schedule and the cursor are the plan's (`crate::plan`). Files, lowest first: `learn` (a step that is written down), `late`
//! (blocks of arenas that are gone), `arena`, `expect` (whether the next step may be relied on), `auto` (which schedule next),
//! `report`, `planner` (the step), `signs`; here what an allocation and a free do; `arenas`, how an arena comes and goes; and
//! `steps`, the public side.
//!
//! The planner's latch is the innermost lock: nothing else is locked, nor anything dropped that could end the pool, while it
//! is held.

mod arena;
mod arenas;
mod auto;
mod expect;
mod late;
mod learn;
mod planner;
mod report;
mod signs;
mod steps;

use self::arena::Rest;
pub(super) use self::learn::At;
use self::planner::Held;
pub(super) use self::planner::{Planner, at};
pub use self::report::{Deviation, PlanReport};
use self::signs::Sign;
pub(super) use self::signs::Signs;
pub use self::steps::PlannedSteps;
use super::block::IdleBlock;
use super::labels::LabelId;
use super::shards::Shards;
use super::state::{Holds, Home, StateOf};
use super::zero::Zeroed;
use super::{Block, Priority, Request, Shared};
use crate::backend::Backend;
use crate::error::Result;
use crate::sync::{Arc, LatchGuard, ThreadId, this_thread};

impl<B: Backend> Shards<B> {
    /// Tells all threads what the planner does from now on. Every change of that ends here.
    fn show(&self, planner: &mut Planner<B>) {
        let learns = planner.learner().is_some();
        self.signs.set(
            Sign::STEPS.when(planner.is_on())
                | Sign::LOOKS.when(planner.looks())
                | Sign::AUTO.when(planner.is_auto())
                | Sign::LEARNS.when(learns)
                | Sign::ARENA.when(planner.has_arena() || planner.has_left()),
        );
    }
}

impl<B: Backend> Shared<B> {
    /// An allocation while steps are planned.
    #[inline(never)]
    pub(super) fn alloc_in_step(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        let mut began = None;
        if self.may_be_planned(request) && self.may_pass(request) {
            self.backend.check()?;
            let mut planner = self.shards.planner();
            if planner.is_due() {
                planner = self.next_step(planner);
            }
            if let Some(descriptor) = planner.take(request.bytes, self) {
                drop(planner);
                self.pass();
                if request.zeroed || !request.label.is_none() || self.shards.signs.is_recording() {
                    return self.planned_with_care(descriptor, request);
                }
                // Built where the caller wants it, and not moved: half of what an allocation costs here would be moves.
                return Ok(Block::of(descriptor, request.bytes, LabelId::NONE));
            }
            began = Some(planner.began());
            self.do_without(planner);
        }
        self.alloc_beside(request, began)
    }

    /// Serves a request for which the plan has no place.
    #[inline(never)]
    fn alloc_beside(self: &Arc<Self>, request: &Request, began: Option<u64>) -> Result<Block<B>> {
        let block = self.alloc_in_pool(request)?;
        self.write_down(&block, began);
        Ok(block)
    }

    /// A planned block that has a label, is recorded, or zeroed.
    #[inline(never)]
    fn planned_with_care(&self, descriptor: IdleBlock<B>, request: &Request) -> Result<Block<B>> {
        if self.shards.signs.is_recording()
            && let Some(home) = descriptor.home()
        {
            self.state().record_alloc(home, request);
        }
        let block = Block::unfilled(descriptor, request);
        // The block owns its place before this runs the caller's writer.
        self.make_room_in_record();
        block.filled(request)
    }

    /// Returns whether the request is looked for in a plan. One that may use a reserve is not, where steps plan themselves: the
    /// reserve counts blocks, and does not see the places of an arena.
    #[inline]
    fn may_be_planned(&self, request: &Request) -> bool {
        let Request { bytes, align_bytes, priority, .. } = *request;
        let may_use_reserve = priority == Priority::High && self.reserve_bytes > 0 && self.shards.signs.are_auto();
        bytes > 0 && align_bytes.is_power_of_two() && align_bytes <= self.limits.alignment_bytes && !may_use_reserve
    }

    /// Whether no waiter is to be served before: what goes out of an arena is kept from waiters as any other memory.
    #[inline]
    fn may_pass(&self, request: &Request) -> bool {
        !self.shards.signs.is_wanted() || self.state().may_be_served(std::slice::from_ref(request))
    }

    /// A place goes out: those in line are passed, as by any other request.
    #[inline]
    fn pass(&self) {
        if self.shards.signs.is_wanted() {
            self.state().passed();
        }
    }

    /// The plan has nothing for an allocation. From here on the step may be written down, and do without an arena.
    #[cold]
    fn do_without(&self, mut planner: LatchGuard<'_, Planner<B>>) {
        let rest = planner.take_rest().unwrap_or_else(Rest::new);
        self.unlock(planner, rest);
    }

    /// As [`Pool::alloc_all`], while steps are planned: those that have places get them, all others are served together.
    #[cold]
    pub(super) fn alloc_all_in_step(
        self: &Arc<Self>,
        requests: &[Request],
        others: impl FnOnce(&[Request]) -> Result<Vec<Block<B>>>,
    ) -> Result<Vec<Block<B>>> {
        // What can never be served takes no places, and its error is of the whole batch.
        self.check_batch(requests)?;
        let began = self.shards.planner().began();
        let write_down = |block: &Block<B>, request| {
            let is_of_step = self.may_be_planned(request);
            self.write_down(block, is_of_step.then_some(began));
        };
        let planned: Vec<Option<Block<B>>> =
            requests.iter().map(|request| self.alloc_planned(request)).collect::<Result<_>>()?;
        let rest: Vec<Request> = requests
            .iter()
            .zip(&planned)
            .filter(|(_, block)| block.is_none())
            .map(|(request, _)| request.clone())
            .collect();
        let blocks = match rest.len() {
            0 => Vec::new(),
            count if count == requests.len() => others(&rest)?,
            _ => match self.rest_of_batch(&rest) {
                Ok(Some(blocks)) => blocks,
                none_or_error => {
                    // A batch that waits, or fails, holds no place that keeps the arena from others.
                    let count = planned.iter().flatten().count() as u64;
                    drop(planned);
                    self.revoke_planned(count, began);
                    none_or_error?;
                    let blocks = others(requests)?;
                    blocks.iter().zip(requests).for_each(|(block, request)| write_down(block, request));
                    return Ok(blocks);
                }
            },
        };
        blocks.iter().zip(&rest).for_each(|(block, request)| write_down(block, request));
        let mut blocks = blocks.into_iter();
        Ok(planned.into_iter().filter_map(|block| block.or_else(|| blocks.next())).collect())
    }

    /// Takes so many planned blocks back before the caller sees them, of the planned steps that began then: only the peaks
    /// remember.
    fn revoke_planned(&self, count: u64, began: u64) {
        self.fold_planned();
        let revoke = |counter: &mut u64| *counter = counter.saturating_sub(count);
        {
            let mut planner = self.shards.planner();
            if planner.began() == began {
                revoke(&mut planner.report.allocations_planned);
                planner.revoked(count);
            }
        }
        let mut state = self.state();
        revoke(&mut state.totals().allocations);
        revoke(&mut state.totals().allocations_planned);
    }

    /// The blocks of a batch that have no places, as far as there is room for all of them now.
    fn rest_of_batch(self: &Arc<Self>, requests: &[Request]) -> Result<Option<Vec<Block<B>>>> {
        match self.attempt(requests, requests.iter().all(|request| request.wait.is_none()))? {
            Ok(homes) => self.blocks(homes, requests).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// A block at a planned place, if there is one for the request.
    fn alloc_planned(self: &Arc<Self>, request: &Request) -> Result<Option<Block<B>>> {
        if !self.may_be_planned(request) || !self.may_pass(request) {
            return Ok(None);
        }
        self.backend.check()?;
        let mut planner = self.shards.planner();
        if planner.is_due() {
            planner = self.next_step(planner);
        }
        let Some(descriptor) = planner.take(request.bytes, self) else {
            self.do_without(planner);
            return Ok(None);
        };
        drop(planner);
        self.pass();
        self.planned_with_care(descriptor, request).map(Some)
    }

    /// Writes a block of the pool down. It is part of a step if it was looked for in the planned steps that `began` then, and
    /// these go on.
    fn write_down(&self, block: &Block<B>, began: Option<u64>) {
        if self.shards.signs.is_learning()
            && let Some(at) = block.at()
        {
            let mut planner = self.shards.planner();
            let is_of_step = began == Some(planner.began());
            match planner.learner() {
                Some(learner) if is_of_step => learner.alloc(block.bytes(), at),
                Some(learner) => learner.alloc_beside(block.bytes()),
                None => {}
            }
        }
    }

    /// Blocks of the pool were allocated that are looked for in no plan.
    pub(super) fn write_down_beside(&self, blocks: &[Block<B>]) {
        if self.shards.signs.is_learning()
            && let Some(learner) = self.shards.planner().learner()
        {
            blocks.iter().for_each(|block| learner.alloc_beside(block.bytes()));
        }
    }

    /// A block of the pool is about to be freed.
    #[cold]
    pub(super) fn write_down_free(&self, at: At, bytes: u64) {
        if let Some(learner) = self.shards.planner().learner() {
            learner.free(at, bytes);
        }
    }

    /// A block of the pool has grown or shrunk in place.
    pub(super) fn write_down_resize(&self, at: At, from: u64, to: u64) {
        if self.shards.signs.is_learning()
            && let Some(learner) = self.shards.planner().learner()
        {
            learner.resized(at, from, to, self.limits.alignment_bytes);
        }
    }

    /// A block of the pool has moved, and the place that it left is not yet free.
    pub(super) fn write_down_move(&self, from: At, to: At) {
        if self.shards.signs.is_learning()
            && let Some(learner) = self.shards.planner().learner()
        {
            learner.moved(from, to);
        }
    }

    /// Frees the arena's blocks without an owner that no hold keeps any more. Zeroing them may wait for the stream if it
    /// `may_block`. Returns whether there were any.
    pub(super) fn end_holds(&self, may_block: bool) -> bool {
        if !self.shards.planner().holds_any() {
            return false;
        }
        // As in `zero_retired`: a request that finds no room waits for this thread, unless this thread waits itself.
        let thread = (!may_block).then(this_thread);
        let (over, mut any) = self.end_clean_holds(thread);
        let has_zeroed = !over.is_empty();
        for held in over {
            match self.zero(&held.home, may_block) {
                Zeroed::Done => {
                    any = true;
                    let mut state = self.state();
                    self.end_hold(&mut state, &mut self.shards.planner(), held.home);
                }
                Zeroed::Later => self.shards.planner().hold(Held { holds: None, ..held }),
            }
        }
        if let Some(thread) = thread
            && has_zeroed
        {
            self.state().has_zeroed(thread);
            self.gone.notify_all();
        }
        // Behind the last of them: this runs code of others, and what is still to do must not be lost if it unwinds.
        if any {
            self.unlock(self.shards.planner(), Rest::new());
        }
        any
    }

    /// Frees those that need no zeroing, with the pool's lock held: no request finds them gone and not yet back. Returns the others,
    /// which the thread zeroes next, and whether there were any.
    fn end_clean_holds(&self, thread: Option<ThreadId>) -> (Vec<Held<B>>, bool) {
        let mut state = self.state();
        let mut planner = self.shards.planner();
        let (dirty, clean): (Vec<_>, Vec<_>) = planner.take_over().into_iter().partition(|held| held.is_dirty);
        let any = !clean.is_empty();
        clean.into_iter().for_each(|held| self.end_hold(&mut state, &mut planner, held.home));
        if !dirty.is_empty() {
            state.zeroes(thread);
        }
        (dirty, any)
    }

    fn end_hold(&self, state: &mut StateOf<B>, planner: &mut Planner<B>, home: Home<B::Slab>) {
        state.unretire_listed(home.extent.bytes());
        planner.end_hold(home);
        self.shards.show(planner);
    }
}

/// A block of the arena comes back.
pub(super) fn give<B: Backend>(descriptor: IdleBlock<B>, bytes: u64, holds: Option<Holds>, is_dirty: bool) {
    let shards = descriptor.shared().shards;
    if shards.signs.is_recording()
        && let Some(home) = descriptor.home()
    {
        descriptor.shared().state().record_free(home);
    }
    if holds.is_none() && !is_dirty {
        let rest = {
            let mut planner = shards.planner();
            // A waiter that joined the line before has looked at the arena, or looks at it after this.
            let is_wanted = shards.signs.is_wanted();
            let rest = planner.give(descriptor, bytes, is_wanted);
            if rest.is_some() {
                shards.show(&mut planner);
            }
            rest
        };
        if let Some(rest) = rest {
            end(rest);
        }
        return;
    }
    let (Some(home), shared) = descriptor.into_parts() else { return };
    let held_bytes = home.extent.bytes();
    // Before anybody sees that the hold is over, and says so.
    let mut state = shared.state();
    let tally = {
        let mut planner = shared.shards.planner();
        planner.hold(Held { home, holds, is_dirty });
        planner.tally()
    };
    state.fold(tally);
    state.retire_listed(bytes, held_bytes);
}

#[cold]
fn end<B: Backend>(mut rest: Rest<B>) {
    if let Some(shared) = rest.pools.pop() {
        shared.end_arenas(rest);
    }
}
