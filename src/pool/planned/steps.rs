//! The doors: how planned steps begin, and what a program sees of them.

use std::fmt;

use super::arena::Layout;
use super::auto::Auto;
use super::planner::Mode;
use super::report::PlanReport;
use crate::backend::Backend;
use crate::error::Result;
use crate::plan::{Lifetime, Plan, Schedule};
use crate::pool::Pool;

impl<B: Backend> Pool<B> {
    /// Serves steps at the offsets of a plan, until the [`PlannedSteps`] is dropped: the first step begins now, the
    /// next ones with [`mark_step`](Pool::mark_step).
    ///
    /// The lifetimes, in the order of their beginnings, are what a step allocates, and the plan says where: it is of
    /// [`plan::solve`](crate::plan::solve), with the alignment of the pool's [limits](Pool::limits). One run of the pool as
    /// high as the plan is taken for it. A block goes out at its planned place when it is the next that the plan has (or
    /// one near by) and everything that had a part of the place is back; any other allocation is served as without a plan,
    /// and [counted](PlanReport). So no program gets memory that it has already, whatever it does.
    ///
    /// While a block is in the run, other requests get nothing of it, even where they fail; their
    /// [errors](crate::Shortage::arena_bytes) say how much of it is idle. Without one it goes home for them, and is taken again
    /// when the next step begins.
    ///
    /// Blocks that live longer than their step keep their place from the next step. Requests that wait
    /// ([`alloc_async`](Pool::alloc_async)) are not looked for in the plan. The run is of normal priority: a block in it does not
    /// count against the [reserve](crate::Config::high_priority_reserve), whatever its own priority.
    ///
    /// ```
    /// use tensorpool::plan::{self, Lifetime, Options};
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let pool = Pool::host(Config::new("64 KiB"))?;
    /// // Three buffers, of which the first is gone before the last one comes.
    /// let step = [Lifetime::new(0, 2, 4000), Lifetime::new(1, 4, 2000), Lifetime::new(3, 4, 4000)];
    /// let plan = plan::solve(&step, &Options::new().align(pool.limits().alignment_bytes))?;
    /// let planned = pool.follow_plan(&step, &plan)?;
    /// for _ in 0..10 {
    ///     let first = pool.alloc(Request::bytes(4000))?;
    ///     let second = pool.alloc(Request::bytes(2000))?;
    ///     drop(first);
    ///     let third = pool.alloc(Request::bytes(4000))?;
    ///     drop((second, third));
    ///     pool.mark_step();
    /// }
    /// assert_eq!(planned.report().steps_exact, 10);
    /// assert_eq!(planned.report().arena_bytes, 6 << 10); // 4,032 and 2,048 bytes, in whole pages
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the plan is none for these lifetimes, or not aligned, or if the pool's
    /// steps are planned already: then nothing has changed. [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if it is higher
    /// than a slab can be, or has a block larger than the backend's; as [`alloc`](Pool::alloc) if the pool has no run for it. Then
    /// nothing has changed, but that idle memory may have gone home.
    pub fn follow_plan(&self, lifetimes: &[Lifetime], plan: &Plan) -> Result<PlannedSteps<B>> {
        let shared = self.shared();
        let layout = Layout::whole(Schedule::new(lifetimes, plan, shared.limits.alignment_bytes)?);
        let (largest_bytes, limit) = (layout.schedule.largest_bytes(), shared.limits.block);
        if largest_bytes > limit.bytes {
            return Err(shared.too_large(largest_bytes, largest_bytes, limit));
        }
        shared.state().check_open()?;
        // The planner is taken before the arena, which takes what is idle: the arena of other planned steps too.
        let number = {
            let mut planner = shared.begin_planning(Mode::Fixed(layout.clone()))?;
            planner.begin_step();
            planner.number()
        };
        let planned = PlannedSteps { pool: self.clone() };
        let arena = shared.take_arena(&layout)?;
        shared.serve_from(arena, number, layout);
        Ok(planned)
    }

    /// Plans steps that repeat, until the [`PlannedSteps`] is dropped. A program says where its steps begin with
    /// [`mark_step`](Pool::mark_step); everything else goes by itself:
    ///
    /// - The first step is written down: every allocation, and when it was freed. (The first two, if blocks of the first are
    ///   still held: then a step is counted from where the least goes on into the next one, for instance when the last
    ///   gradients have been freed.)
    /// - Steps are alike if they ask for the same sizes in the same order. When the next step is like the first, it is planned
    ///   (`plan`), in the call in which it ends. A plan takes 40,000 steps of work at most
    ///   ([`plan::Options::steps`](crate::plan::Options::steps)): 0.05 to 0.13 s of processor time where it was measured, and
    ///   up to 0.03 s for recorded training steps. It is the best that is found by then. Where no free run has room for it, a
    ///   plan in several is made too. A step that is too large for any (more than 30,000 allocations; 10,000 that overlap
    ///   at random) is not planned. The steps after it are served at the planned offsets, in free runs of the pool.
    /// - A plan is followed while steps come as expected: as the last one, or as the one that came after the last four when these
    ///   came in this order before. Once steps have varied, eight must come as expected before a plan is followed. A plan that
    ///   was followed for too few steps to pay multiplies that by four. The last 16 shapes of steps are remembered.
    /// - A step of another shape is noticed by its first allocation that differs. The plan is given up, and the pool serves the
    ///   rest of the step.
    ///
    /// The arena is taken from memory that is reserved and free, with room left beside it. The pool gives the arena up for a
    /// request that finds no room, that would wait, or that would make the pool reserve more than it ever had, and tries such a
    /// request again before it fails. A plan that was followed may still have left other blocks in other places than without it.
    /// After a request has failed for want of room, no more steps are planned until planned steps begin anew
    /// ([`PlanReport::is_over`]).
    ///
    /// In a pool with a [reserve](crate::Config::high_priority_reserve), requests of high priority are served beside the plan.
    ///
    /// What goes out is the same memory in another place: results do not change. Blocks that live longer than a step are the
    /// pool's as before.
    ///
    /// ```
    /// use tensorpool::{Config, Pool};
    ///
    /// let pool = Pool::host(Config::new("1 MiB"))?;
    /// let planned = pool.auto_plan()?;
    /// for _ in 0..10 {
    ///     pool.mark_step();
    ///     let x = pool.zeros::<f32>([64, 100])?;
    ///     let y = pool.zeros::<f32>([64, 50])?;
    ///     drop(x);
    ///     let z = pool.zeros::<f32>([64, 20])?;
    /// }
    /// pool.mark_step();
    /// assert_eq!(planned.report().steps_exact, 8); // all but the first two
    /// println!("{}", planned.report());
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the pool's steps are planned already;
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    pub fn auto_plan(&self) -> Result<PlannedSteps<B>> {
        let shared = self.shared();
        drop(shared.begin_planning(Mode::Auto(Box::new(Auto::new())))?);
        let planned = PlannedSteps { pool: self.clone() };
        let is_open = shared.state().check_open();
        is_open.map(|()| planned)
    }

    /// Says that a step of the program begins, to [planned steps](Pool::auto_plan) and to a record of the pool's allocations
    /// (`Pool::record_to`, feature `trace`). Does nothing while there is neither.
    pub fn mark_step(&self) {
        let shared = self.shared();
        shared.record_step();
        if !shared.shards.signs.has_steps() {
            return;
        }
        shared.end_holds(false);
        let mut planner = shared.shards.planner();
        let is_due = match &mut planner.mode {
            Mode::Off => false,
            Mode::Fixed(_) => true,
            Mode::Auto(auto) => {
                auto.mark();
                let (is_due, is_profiled) = (auto.is_due(), !auto.has_cut() && !auto.has_ended);
                planner.report.steps += u64::from(is_profiled || auto.has_ended);
                planner.report.steps_profiled += u64::from(is_profiled);
                is_due
            }
        };
        if is_due {
            drop(shared.next_step(planner));
        }
    }
}

/// While there is one, a pool serves planned steps: see [`Pool::follow_plan`] and [`Pool::auto_plan`]. When it is
/// dropped the arena goes home. Blocks in it stay where they are, and keep the pages that they have a part of.
#[must_use = "planned steps end when it is dropped"]
pub struct PlannedSteps<B: Backend> {
    pool: Pool<B>,
}

impl<B: Backend> PlannedSteps<B> {
    /// What has come of it so far. A step that has not ended yet counts with what it has allocated.
    pub fn report(&self) -> PlanReport {
        self.pool.shared().shards.planner().report()
    }
}

impl<B: Backend> AsRef<Pool<B>> for PlannedSteps<B> {
    fn as_ref(&self) -> &Pool<B> {
        &self.pool
    }
}

impl<B: Backend> Drop for PlannedSteps<B> {
    fn drop(&mut self) {
        self.pool.shared().end_planning();
    }
}

impl<B: Backend> fmt::Debug for PlannedSteps<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlannedSteps").field(&self.report()).finish()
    }
}
