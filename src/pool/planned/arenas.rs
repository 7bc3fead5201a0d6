//! How arenas come and go.

use super::arena::{Arena, Layout, Rest};
use super::auto::{self, Next};
use super::learn::Learned;
use super::planner::{Mode, Planner, Wish};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::shards::Tally;
use crate::pool::state::{Home, State};
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
        let mut has_come = false;
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
            self.unlock(planner, rest);
            planner = self.ask_for_arena(layouts, wish, number);
            if planner.number() != number {
                return planner;
            }
            has_come = planner.has_arena();
        }
        let rest = planner.serve(&next);
        self.shards.show(&mut planner);
        if !planner.has_left() && !has_come {
            return planner;
        }
        self.unlock(planner, rest);
        if has_come {
            self.arena_has_come();
        }
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
        planner.begin(mode, self.sizes.pages);
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
        self.unlock(planner, rest);
        self.arena_has_come();
    }

    /// Takes an arena for one of these layouts, and makes another layout of the step if none has room. The planner has it when this
    /// returns, unless the step of this number is over.
    fn ask_for_arena(&self, layouts: &mut Vec<Layout>, wish: Wish, number: u64) -> LatchGuard<'_, Planner<B>> {
        self.give_back_runs();
        let planner = match wish {
            Wish::Given => layouts.first().and_then(|layout| self.install_given(layout, number)),
            Wish::Learned { step, beside } => {
                let found = layouts.iter().find_map(|layout| self.install(layout, beside, number, false));
                found.or_else(|| {
                    let layout = self.layout_in_runs(layouts.first()?.schedule.height_bytes(), &step?)?;
                    let planner = self.install(&layout, beside, number, true);
                    layouts.push(layout);
                    planner
                })
            }
        };
        planner.unwrap_or_else(|| {
            let mut planner = self.shards.planner();
            if planner.number() == number {
                planner.asked_for_an_arena(None);
            }
            planner
        })
    }

    /// Takes free runs for a layout that was learned, as the arena of the step of this number. `None` if there is no room.
    ///
    /// The pool's lock is held from the one to the other: a request that finds these runs taken sees that there is an arena.
    fn install(&self, layout: &Layout, beside: u64, number: u64, is_new: bool) -> Option<LatchGuard<'_, Planner<B>>> {
        let mut state = self.state();
        let homes = state.take_runs(&layout.runs, beside)?;
        let mut planner = self.shards.planner();
        if planner.number() == number {
            planner.asked_for_an_arena(Some((Arena::new(layout, homes), is_new.then(|| layout.clone()))));
            self.shards.show(&mut planner);
            state.direct_if_need_be();
        } else {
            put_home(&mut state, homes);
        }
        Some(planner)
    }

    /// As [`install`](Self::install), for the program's plan. Until the planner has it the arena is in use: by this step.
    fn install_given(&self, layout: &Layout, number: u64) -> Option<LatchGuard<'_, Planner<B>>> {
        let arena = self.take_arena(layout).ok()?;
        let mut planner = self.shards.planner();
        if planner.number() == number {
            planner.asked_for_an_arena(Some((arena, None)));
            return Some(planner);
        }
        drop(planner);
        self.refuse_arena(arena);
        Some(self.shards.planner())
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

    /// While there is an arena nothing goes through free lists; what they have counted so far is told before. A request that has
    /// joined the line since the arena was taken could not see it: the arena goes home for it, and for a budget that was lowered.
    fn arena_has_come(&self) {
        let (is_waited_for, is_over) = {
            let state = self.state();
            state.direct_if_need_be();
            (state.is_waited_for(), state.over_bytes() > 0)
        };
        self.fold_shards();
        if is_waited_for || is_over {
            self.give_idle_arena();
        }
        if is_over {
            self.yield_arena();
        }
    }

    /// Memory for a plan that the program brings: a run of the pool, in a slab of its own if need be.
    pub(super) fn take_arena(&self, layout: &Layout) -> Result<Arena<B>> {
        let bytes = layout.schedule.height_bytes();
        self.check_slab(bytes, 1)?;
        self.backend.check()?;
        // What is in a free list is some caller's size, and would be counted as a block.
        let request = Request::bytes(bytes).label("arena of planned steps").without(Fallback::Oversized).for_the_pool();
        self.check_ever(std::slice::from_ref(&request))?;
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
    fn refuse_arena(&self, arena: Arena<B>) {
        self.bring_home(|planner| planner.refuse(arena));
    }

    /// Lets an arena leave the planner, and takes home what has left it. Returns whether anything had.
    fn bring_home(&self, leave: impl FnOnce(&mut Planner<B>) -> Rest<B>) -> bool {
        let mut planner = self.shards.planner();
        let rest = leave(&mut planner);
        self.unlock(planner, rest)
    }

    /// Unlocks a planner that an arena may have left, and takes home what has left it. Returns whether anything had.
    pub(super) fn unlock(&self, mut planner: LatchGuard<'_, Planner<B>>, rest: Rest<B>) -> bool {
        self.shards.show(&mut planner);
        let has_left = planner.has_left();
        drop(planner);
        if has_left {
            self.end_arenas(rest);
        }
        has_left
    }

    /// Takes home what has left arenas, whichever thread let it leave. With the pool's lock held from the planner to the spaces:
    /// each thread that looks for memory finds it here or there, and sees that there is an arena as long as it is here.
    pub(super) fn end_arenas(&self, rest: Rest<B>) {
        let (served, gives_back) = {
            let mut state = self.state();
            let (tally, homes) = {
                let mut planner = self.shards.planner();
                let left = (planner.tally(), planner.take_left());
                self.shards.show(&mut planner);
                left
            };
            // Of the blocks that are back in them.
            state.fold(tally);
            put_home(&mut state, homes);
            // Where no arena is left.
            state.direct_if_need_be();
            let gives_back = state.gives_back_at_once();
            if gives_back {
                self.detach_empty(&mut state);
            }
            (state.serve(), gives_back)
        };
        drop(rest);
        self.tell(served);
        if gives_back {
            caught(|| self.settle_completed());
        }
    }

    /// Memory is wanted elsewhere: an arena without a block in it goes home. If a request waits in line, or more is reserved than the
    /// budget has, the arena of steps that plan themselves goes in any case.
    pub(in crate::pool) fn give_idle_arena(&self) {
        if self.shards.signs.has_arena() {
            self.end_holds(false);
            self.bring_home(|planner| {
                let rest = planner.leave_idle_arena();
                if planner.has_arena() && self.shards.signs.is_wanted() { planner.dissolve_arena() } else { rest }
            });
        }
    }

    /// A request has found no room while there was an arena: that of steps that plan themselves is given up. Returns whether memory
    /// has come home since, whichever thread brought it. If not, there is the arena of a plan that the program brought.
    #[cold]
    pub(in crate::pool) fn dissolve_arena(&self) -> bool {
        !self.shards.signs.has_arena() || self.bring_home(Planner::dissolve_arena) || !self.shards.signs.has_arena()
    }

    /// The budget was lowered to less than what blocks and arenas have: an arena's places must not go out any more.
    #[cold]
    pub(in crate::pool) fn yield_arena(&self) {
        if self.shards.signs.has_arena() && self.state().holds_more_than_budget() {
            self.bring_home(Planner::yield_arena);
        }
    }

    /// A request has failed: steps no longer plan themselves.
    #[cold]
    pub(in crate::pool) fn planning_failed(&self) {
        if self.shards.signs.looks() {
            self.bring_home(Planner::failed);
        }
    }

    /// No more planned steps.
    pub(in crate::pool) fn end_planning(&self) {
        self.bring_home(Planner::end);
    }
}

/// Runs of arenas, which count as cached, go back to their spaces.
fn put_home<S>(state: &mut State<S>, homes: Vec<Home<S>>) {
    for home in homes {
        state.fold(Tally { cached_bytes: -(home.extent.bytes() as i64), ..Tally::default() });
        state.put_back([home]);
    }
}
