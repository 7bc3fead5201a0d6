//! Planned steps: a step that repeats is served at offsets that were found ahead of time, in one run of the pool.
//!
//! ```text
//!   Pool::follow_plan, Pool::auto_plan ──► PlannedSteps, while there is one:
//!
//!   alloc ──► Planner ──► Cursor: the schedule's next entry? its predecessors back? ──► a place of the arena
//!                │           └─ no: the pool serves it, and it is counted
//!                └─ Auto: what a step asks for is written down (Learner), planned (crate::plan), followed (Schedule)
//! ```
//!
//! The arena is a run of the pool like any other; what of it no block has counts as cached. It goes home when memory is
//! short and nothing in it is in use, and is taken again when the next step begins.
//!
//! The schedule and the cursor are the plan's (`crate::plan`). Files, lowest first: `learn` (a step that is written
//! down), `auto` (which schedule next), `report`, `planner` (the arena), `signs`; here what an allocation and a free
//! do, and how an arena comes and goes; and `steps`, the public side.
//!
//! The planner's latch is the innermost lock: nothing else is locked, nor anything dropped that could end the pool, while it
//! is held.

mod arena;
mod auto;
mod expect;
mod late;
mod learn;
mod planner;
mod report;
mod signs;
mod steps;

use std::time::Duration;

use self::arena::{Arena, Layout, Rest};
use self::auto::Next;
use self::late::Late;
pub(super) use self::learn::At;
use self::learn::Learned;
use self::planner::{Held, Mode};
pub(super) use self::planner::{Planner, at};
pub use self::report::{Deviation, PlanReport};
use self::signs::Sign;
pub(super) use self::signs::Signs;
pub use self::steps::PlannedSteps;
use super::grow::span_of;
use super::shards::{PoolHome, Shards, Tally};
use super::state::Holds;
use super::{Block, Fallback, Request, Shared, SlabPolicy};
use crate::backend::Backend;
use crate::error::{ErrorKind, Result};
use crate::sync::{Arc, LatchGuard};
use crate::units::{round_down, round_up};

impl<B: Backend> Shards<B> {
    /// Every change of the planner's mode ends here, and every change of its arena.
    fn show(&self, planner: &mut Planner<B>) {
        let is_learning = planner.learner().is_some();
        self.signs.set(Sign::STEPS.when(planner.is_on()) | Sign::LOOKS.when(planner.looks()) | Sign::LEARNS.when(is_learning) | Sign::ARENA.when(planner.has_arena()));
    }
}

impl<B: Backend> Shared<B> {
    /// An allocation while steps are planned.
    #[inline(never)]
    pub(super) fn alloc_in_step(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        if self.may_be_planned(request) && self.may_pass(request) {
            self.backend.check()?;
            let mut planner = self.shards.planner();
            if planner.is_due() {
                planner = self.next_step(planner);
            }
            if let Some((ties, extent)) = planner.take(request.bytes, self) {
                drop(planner);
                self.pass();
                if request.zeroed || !request.label.is_empty() || self.shards.signs.is_recording() {
                    return self.planned_with_care(ties.with(extent), request);
                }
                // Built where the caller wants it, and not moved: half of what an allocation costs here would be moves.
                return Ok(Block::bare(ties.with(extent), request.bytes));
            }
            self.do_without(planner);
        }
        self.alloc_beside(request)
    }

    /// What is not planned.
    #[inline(never)]
    fn alloc_beside(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        let block = self.alloc_in_pool(request)?;
        self.write_down(&block);
        Ok(block)
    }

    /// A planned block that has a label, is recorded, or zeroed.
    #[inline(never)]
    fn planned_with_care(&self, place: PoolHome<B>, request: &Request) -> Result<Block<B>> {
        if self.shards.signs.is_recording() {
            let has_much_recorded = {
                let mut state = self.state();
                state.record_alloc(&place.home, request);
                state.has_much_recorded()
            };
            if has_much_recorded {
                self.hand_on_record();
            }
        }
        Block::planned(place, request).filled(request)
    }

    #[inline]
    fn may_be_planned(&self, request: &Request) -> bool {
        let Request { bytes, align_bytes, .. } = *request;
        bytes > 0 && align_bytes.is_power_of_two() && align_bytes <= self.limits.alignment_bytes
    }

    /// Whether nobody in line is to be served before: what goes out of an arena is kept from them as any other memory.
    #[inline]
    fn may_pass(&self, request: &Request) -> bool {
        !self.shards.signs.is_waited_for() || self.state().may_be_served(request.priority)
    }

    /// A place goes out: those in line are passed, as by any other request.
    #[inline]
    fn pass(&self) {
        if self.shards.signs.is_waited_for() {
            self.state().passed();
        }
    }

    /// The plan has nothing for an allocation. From here on the step may be written down, and do without an arena.
    #[cold]
    fn do_without(&self, mut planner: LatchGuard<'_, Planner<B>>) {
        let rest = planner.take_rest();
        self.shards.show(&mut planner);
        drop(planner);
        rest.into_iter().for_each(|rest| self.end_arenas(rest));
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
        let planned: Vec<Option<Block<B>>> =
            requests.iter().map(|request| self.alloc_planned(request)).collect::<Result<_>>()?;
        let rest: Vec<Request> = requests
            .iter()
            .zip(&planned)
            .filter(|(_, block)| block.is_none())
            .map(|(request, _)| request.clone())
            .collect();
        let rest = match rest.len() {
            0 => Vec::new(),
            count if count == requests.len() => others(&rest)?,
            _ => match self.rest_of_batch(&rest) {
                Ok(Some(blocks)) => blocks,
                none_or_error => {
                    // Who waits, or fails, holds no place that keeps the arena from anybody.
                    let count = planned.iter().flatten().count() as u64;
                    drop(planned);
                    self.revoke_planned(count);
                    none_or_error?;
                    let blocks = others(requests)?;
                    blocks.iter().for_each(|block| self.write_down(block));
                    return Ok(blocks);
                }
            },
        };
        rest.iter().for_each(|block| self.write_down(block));
        let mut rest = rest.into_iter();
        Ok(planned.into_iter().filter_map(|block| block.or_else(|| rest.next())).collect())
    }

    /// So many planned blocks were taken back before anybody saw them: only the peaks remember.
    fn revoke_planned(&self, count: u64) {
        self.fold_planned();
        let revoke = |counter: &mut u64| *counter = counter.saturating_sub(count);
        revoke(&mut self.shards.planner().report.allocations_planned);
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
        let Some((ties, extent)) = planner.take(request.bytes, self) else {
            self.do_without(planner);
            return Ok(None);
        };
        drop(planner);
        self.pass();
        self.planned_with_care(ties.with(extent), request).map(Some)
    }

    /// A block of the pool was allocated.
    fn write_down(&self, block: &Block<B>) {
        if self.shards.signs.is_learning()
            && let Some(at) = block.at()
            && let Some(learner) = self.shards.planner().learner()
        {
            learner.alloc(block.bytes(), at);
        }
    }

    /// A block of the pool is about to be freed.
    #[cold]
    pub(super) fn write_down_free(&self, at: At, bytes: u64) {
        if let Some(learner) = self.shards.planner().learner() {
            learner.free(at, bytes);
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

    /// A step ends and another begins. Plans and reserves without the planner: others are served by the pool meanwhile, may
    /// begin a step of their own, or end planned steps. Whoever comes back to another step than the one that it began changes
    /// nothing.
    fn next_step<'a>(self: &'a Arc<Self>, mut planner: LatchGuard<'a, Planner<B>>) -> LatchGuard<'a, Planner<B>> {
        planner.end_step();
        let mut next = planner.begin_step();
        let number = planner.number();
        if let Next::Plan(shape, step) = next {
            self.shards.show(&mut planner);
            drop(planner);
            let schedule = auto::plan(&step, self.limits.alignment_bytes, &[]);
            planner = self.shards.planner();
            let is_late = planner.number() != number;
            next = match &mut planner.mode {
                Mode::Auto(auto) if !is_late => auto.planned(shape, schedule),
                _ => return planner,
            };
        }
        let rest = match next {
            Next::Follow(layouts) => {
                let mut layout = planner.arena_for(&layouts);
                if layout.is_none() && planner.may_ask_for_an_arena() {
                    let (rest, step) = (planner.leave_arena(), planner.learned_step());
                    self.shards.show(&mut planner);
                    drop(planner);
                    self.end_arenas(rest);
                    let arena = match step {
                        None => layouts.first().and_then(|layout| Some((layout.clone(), self.take_arena(layout).ok()?))),
                        Some((step, beside)) => self.take_runs(&layouts, &step, beside),
                    };
                    planner = self.shards.planner();
                    if planner.number() != number {
                        drop(planner);
                        arena.into_iter().for_each(|(_, arena)| self.refuse_arena(arena));
                        return self.shards.planner();
                    }
                    planner.asked_for_an_arena(arena.is_some());
                    if let Some((for_layout, arena)) = arena {
                        planner.set_arena_for(&for_layout, arena);
                        layout = Some(for_layout);
                    }
                }
                planner.serve(layout.as_ref())
            }
            _ => planner.leave_arena(),
        };
        self.shards.show(&mut planner);
        drop(planner);
        self.end_arenas(rest);
        self.arena_has_come();
        self.shards.planner()
    }

    /// While there is an arena nothing goes through free lists; what they have counted so far is told before.
    fn arena_has_come(&self) {
        self.state().direct_if_need_be();
        self.fold_shards();
    }

    /// Memory for a plan that the program brings: a run of the pool, in a slab of its own if need be.
    fn take_arena(&self, layout: &Layout) -> Result<Arena<B>> {
        let bytes = layout.schedule.height_bytes();
        let least_bytes = self.slab_bytes_least(bytes).unwrap_or(u64::MAX);
        if least_bytes > self.limits.slab.bytes {
            return Err(self.too_large(bytes, least_bytes, self.limits.slab));
        }
        self.backend.check()?;
        // What is in a free list is some caller's size, and would be counted as a block.
        let request = Request::bytes(bytes).label("arena of planned steps").without(Fallback::Oversized).for_the_pool();
        {
            let state = self.state();
            state.check_open()?;
            let most_bytes = self.budget_bytes - self.staging_bytes - state.reserve_bytes(request.priority);
            if least_bytes > round_down(most_bytes, self.limits.granule_bytes) {
                let requests = std::slice::from_ref(&request);
                return Err(self.shortage(&state, requests, ErrorKind::OverBudget, Duration::ZERO));
            }
        }
        // From what is reserved already, if that will do; else what is idle makes room for it first.
        let modest = request.clone().without(Fallback::Grow);
        let homes = match self.attempt(std::slice::from_ref(&modest), true)? {
            Ok(homes) => homes,
            Err(_) => {
                self.trim();
                self.attempt(std::slice::from_ref(&request), true)??
            }
        };
        Ok(Arena::new(layout, homes))
    }

    /// Memory for a plan that was learned: free runs of the slabs that are there, one if there is one that is long enough, and only
    /// where as much as a part of them stays free. So nothing is reserved for it, and whoever needs the memory finds it as it was.
    fn take_runs(&self, layouts: &[Layout], step: &[Learned], beside: u64) -> Option<(Layout, Arena<B>)> {
        let take = |layout: &Layout| {
            let homes = self.state().take_runs(&layout.runs, beside)?;
            Some((layout.clone(), Arena::new(layout, homes)))
        };
        if let Some(taken) = layouts.iter().find_map(take) {
            return Some(taken);
        }
        let height_bytes = layouts.first()?.schedule.height_bytes();
        let mut sizes = self.state().free_runs(height_bytes, self.limits.alignment_bytes)?;
        // What has no room in them comes behind.
        sizes.push(round_up(height_bytes, self.limits.alignment_bytes)?);
        let schedule = auto::plan(step, self.limits.alignment_bytes, &sizes).ok()?;
        sizes.pop();
        take(&Layout::in_runs(schedule, &sizes)?)
    }

    /// An arena that nobody wants goes home.
    fn refuse_arena(&self, arena: Arena<B>) {
        self.end_arenas(arena.leave(None, &mut Late::default(), |_| 1));
    }

    /// What a planner has done with goes home.
    fn end_arenas(&self, rest: Rest<B>) {
        let Rest { arenas, pools } = rest;
        drop(pools);
        if arenas.is_empty() {
            return;
        }
        // Of the blocks that are back in them.
        let tally = self.shards.tally_planned();
        let seats = {
            let mut state = self.state();
            state.fold(tally);
            for home in arenas {
                state.fold(Tally { cached_bytes: -(home.extent.bytes() as i64), ..Tally::default() });
                state.put_back([home]);
            }
            // If that was the arena, and no block is in it.
            state.direct_if_need_be();
            if self.policy == SlabPolicy::PerBlock {
                state.detach_empty(self.backend.recorded());
            }
            state.serve()
        };
        super::wait::wake(seats);
        if self.policy == SlabPolicy::PerBlock {
            self.settle_completed();
        }
    }

    /// Memory is wanted elsewhere: an arena that nobody has a block of goes home. For whoever waits in line, one of steps that
    /// plan themselves goes in any case.
    pub(super) fn give_idle_arena(&self) {
        if self.shards.signs.has_arena() {
            self.end_holds();
            let rest = {
                let mut planner = self.shards.planner();
                let rest = if self.shards.signs.is_waited_for() && planner.is_auto() { planner.dissolve_arena() } else { planner.leave_idle_arena() };
                self.shards.show(&mut planner);
                rest
            };
            self.end_arenas(rest);
        }
    }

    /// A request finds no room: the arena of steps that plan themselves is given up. False if there is none.
    #[cold]
    pub(super) fn dissolve_arena(&self) -> bool {
        if !self.shards.signs.has_arena() {
            return false;
        }
        let rest = {
            let mut planner = self.shards.planner();
            let rest = planner.dissolve_arena();
            self.shards.show(&mut planner);
            rest
        };
        let any = !rest.arenas.is_empty();
        self.end_arenas(rest);
        any
    }

    /// A request has failed: steps no longer plan themselves.
    #[cold]
    pub(super) fn planning_failed(&self) {
        if self.shards.signs.looks() {
            let mut planner = self.shards.planner();
            planner.failed();
            self.shards.show(&mut planner);
        }
    }

    /// No more planned steps.
    pub(super) fn end_planning(&self) {
        let rest = {
            let mut planner = self.shards.planner();
            let rest = planner.end();
            self.shards.show(&mut planner);
            rest
        };
        self.fold_planned();
        self.end_arenas(rest);
        self.state().direct_if_need_be();
    }

    /// Blocks of the arena without an owner go home, as far as nobody uses them any more.
    pub(super) fn end_holds(&self) {
        let over = {
            let mut planner = self.shards.planner();
            if planner.holds_any() { planner.take_over() } else { return }
        };
        for held in over {
            let home = &held.home;
            let held_bytes = home.extent.bytes();
            let mut span = span_of(home);
            if held.is_dirty && !self.backend.zero_if_free(&home.slab.memory, &mut span, held_bytes).unwrap_or(false) {
                self.shards.planner().hold(Held { holds: None, ..held });
                continue;
            }
            self.state().unretire_listed(held_bytes);
            let rest = self.shards.planner().end_hold(held.home);
            self.end_arenas(rest);
        }
    }
}

/// A block of the arena comes back.
pub(super) fn give<B: Backend>(place: PoolHome<B>, bytes: u64, holds: Option<Holds>, is_dirty: bool) {
    let shards = place.shared.shards;
    if shards.signs.is_recording() {
        place.shared.state().record_free(&place.home);
    }
    if !shards.signs.has_arena() {
        let shared = Arc::clone(&place.shared);
        give_back(place, bytes, holds, is_dirty);
        // Nobody else asks for it any more.
        return shared.fold_planned();
    }
    give_back(place, bytes, holds, is_dirty);
}

#[inline]
fn give_back<B: Backend>(place: PoolHome<B>, bytes: u64, holds: Option<Holds>, is_dirty: bool) {
    if holds.is_none() && !is_dirty {
        let shards = place.shared.shards;
        let rest = {
            let mut planner = shards.planner();
            // Who joined the line before has looked at the arena, or looks at it after this.
            let is_wanted = shards.signs.is_waited_for();
            let rest = planner.give(place, bytes, is_wanted);
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
    let shared = Arc::clone(&place.shared);
    let held_bytes = place.home.extent.bytes();
    // Before anybody sees that the hold is over, and says so.
    let mut state = shared.state();
    let tally = {
        let mut planner = shared.shards.planner();
        planner.hold(Held { home: place.home, holds, is_dirty });
        planner.tally()
    };
    state.fold(tally);
    state.retire_listed(bytes, held_bytes);
}

#[cold]
fn end<B: Backend>(rest: Rest<B>) {
    if let Some(shared) = rest.pools.first().map(Arc::clone) {
        shared.end_arenas(rest);
    }
}
