//! How arenas come and go.

use std::time::Duration;

use super::arena::{Arena, Layout, Rest};
use super::auto::{self, Next};
use super::late::Late;
use super::learn::Learned;
use super::planner::{Mode, Planner, Wish};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::shards::Tally;
use crate::pool::{Fallback, Request, Shared};
use crate::sync::{Arc, LatchGuard, caught};
use crate::units::round_up;

impl<B: Backend> Shared<B> {
    /// Ends a step and begins the next. Plans, and takes an arena, without the planner: other threads are served by the pool
    /// meanwhile, may begin a step of their own, or end planned steps. A thread that comes back to another step than the one
    /// that it began changes nothing.
    pub(super) fn next_step<'a>(
        self: &'a Arc<Self>,
        mut planner: LatchGuard<'a, Planner<B>>,
    ) -> LatchGuard<'a, Planner<B>> {
        let mut had_arena = planner.has_arena();
        planner.end_step();
        let mut next = planner.begin_step();
        let number = planner.number();
        if let Next::Plan(shape, step) = next {
            self.shards.show(&mut planner);
            drop(planner);
            let schedule = auto::plan(&step, self.limits.alignment_bytes, &[]);
            planner = self.shards.planner();
            if planner.number() != number {
                return planner;
            }
            next = planner.planned(shape, schedule);
        }
        if let Next::Follow(layouts) = &mut next
            && !planner.has_arena_for(layouts)
            && planner.may_ask_for_an_arena()
        {
            let (rest, wish) = (planner.leave_arena(), planner.wish());
            had_arena = false;
            self.shards.show(&mut planner);
            drop(planner);
            self.end_arenas(rest);
            let arena = self.arena_for(layouts, wish);
            planner = self.shards.planner();
            if planner.number() != number {
                drop(planner);
                arena.into_iter().for_each(|(arena, _)| self.refuse_arena(arena));
                return self.shards.planner();
            }
            layouts.extend(arena.as_ref().and_then(|(_, layout)| layout.clone()));
            planner.asked_for_an_arena(arena);
        }
        let rest = planner.serve(&next);
        self.shards.show(&mut planner);
        if rest.is_empty() && planner.has_arena() == had_arena {
            return planner;
        }
        drop(planner);
        self.end_arenas(rest);
        self.arena_has_come();
        self.shards.planner()
    }

    /// Begins planned steps.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the pool's steps are planned already.
    pub(super) fn begin_planning(&self, mode: Mode) -> Result<LatchGuard<'_, Planner<B>>> {
        let mut planner = self.shards.planner();
        if planner.is_on() {
            let message = "the pool's steps are planned already: there is a PlannedSteps that was not dropped";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        planner.begin(mode, self.limits.alignment_bytes);
        self.shards.show(&mut planner);
        Ok(planner)
    }

    /// Serves the step of this number from an arena for the program's plan. Another thread may have begun a step of its own
    /// meanwhile, with an arena of its own.
    pub(super) fn serve_from(&self, arena: Arena<B>, number: u64, layout: Layout) {
        let mut planner = self.shards.planner();
        if planner.number() != number {
            drop(planner);
            return self.refuse_arena(arena);
        }
        planner.set_arena(arena);
        let rest = planner.serve(&Next::Follow(vec![layout]));
        self.shards.show(&mut planner);
        drop(planner);
        self.end_arenas(rest);
        self.arena_has_come();
    }

    /// Takes an arena for one of these layouts, and makes another layout of the step if none has room.
    fn arena_for(&self, layouts: &[Layout], wish: Wish) -> Option<(Arena<B>, Option<Layout>)> {
        let Wish::Learned { step, beside } = wish else {
            return self.take_arena(layouts.first()?).ok().map(|arena| (arena, None));
        };
        let take = |layout: &Layout| Some(Arena::new(layout, self.state().take_runs(&layout.runs, beside)?));
        if let Some(arena) = layouts.iter().find_map(take) {
            return Some((arena, None));
        }
        let layout = self.layout_in_runs(layouts.first()?.schedule.height_bytes(), &step?)?;
        take(&layout).map(|arena| (arena, Some(layout)))
    }

    /// Plans a step in the free runs that there are.
    fn layout_in_runs(&self, height_bytes: u64, step: &[Learned]) -> Option<Layout> {
        let align_bytes = self.limits.alignment_bytes;
        let mut sizes = self.state().free_runs(height_bytes, align_bytes)?;
        // What has no room in them comes behind.
        sizes.push(round_up(height_bytes, align_bytes)?);
        let schedule = auto::plan(step, align_bytes, &sizes).ok()?;
        sizes.pop();
        Layout::in_runs(schedule, &sizes)
    }

    /// While there is an arena nothing goes through free lists; what they have counted so far is told before.
    pub(super) fn arena_has_come(&self) {
        self.state().direct_if_need_be();
        self.fold_shards();
    }

    /// Memory for a plan that the program brings: a run of the pool, in a slab of its own if need be.
    pub(super) fn take_arena(&self, layout: &Layout) -> Result<Arena<B>> {
        let bytes = layout.schedule.height_bytes();
        self.check_slab(bytes)?;
        self.backend.check()?;
        // What is in a free list is some caller's size, and would be counted as a block.
        let request = Request::bytes(bytes).label("arena of planned steps").without(Fallback::Oversized).for_the_pool();
        {
            let state = self.state();
            state.check_open()?;
            let requests = std::slice::from_ref(&request);
            if self.is_over_budget(requests) {
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

    /// An arena that came too late goes home.
    pub(super) fn refuse_arena(&self, arena: Arena<B>) {
        self.end_arenas(arena.leave(None, &mut Late::default(), |_| 1));
    }

    /// What a planner has done with goes home.
    pub(super) fn end_arenas(&self, rest: Rest<B>) {
        let Rest { arenas, pools, has_left } = rest;
        drop(pools);
        if arenas.is_empty() && !has_left {
            return;
        }
        // Of the blocks that are back in them.
        let tally = self.shards.tally_planned();
        let (served, gives_back) = {
            let mut state = self.state();
            state.fold(tally);
            for home in arenas {
                state.fold(Tally { cached_bytes: -(home.extent.bytes() as i64), ..Tally::default() });
                state.put_back([home]);
            }
            // Where no arena is left.
            state.direct_if_need_be();
            let gives_back = state.gives_back_at_once();
            if gives_back {
                self.detach_empty(&mut state);
            }
            (state.serve(), gives_back)
        };
        self.tell(served);
        if gives_back {
            caught(|| self.settle_completed());
        }
    }

    /// Memory is wanted elsewhere: an arena without a block in it goes home. If a request waits in line, the arena of steps that
    /// plan themselves goes in any case.
    pub(in crate::pool) fn give_idle_arena(&self) {
        if self.shards.signs.has_arena() {
            self.end_holds(false);
            let rest = {
                let mut planner = self.shards.planner();
                let rest = planner.leave_idle_arena();
                let rest =
                    if rest.is_empty() && self.shards.signs.is_waited_for() { planner.dissolve_arena() } else { rest };
                self.shards.show(&mut planner);
                rest
            };
            self.end_arenas(rest);
        }
    }

    /// A request finds no room: the arena of steps that plan themselves is given up. False if there is none.
    #[cold]
    pub(in crate::pool) fn dissolve_arena(&self) -> bool {
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
    pub(in crate::pool) fn planning_failed(&self) {
        if self.shards.signs.looks() {
            let rest = {
                let mut planner = self.shards.planner();
                let rest = planner.failed();
                self.shards.show(&mut planner);
                rest
            };
            self.end_arenas(rest);
        }
    }

    /// No more planned steps.
    pub(in crate::pool) fn end_planning(&self) {
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
}
