//! Steps that plan themselves: what repeats is written down, planned, and followed the next time.
//!
//! ```text
//!   mark        mark        mark            mark
//!    |  step 1   |  step 2   |   step 3      |
//!    |...........|...........|..|............|..|
//!     written down: two steps   ^ the cut: planned; from here on the schedule is followed
//!     (one, if all of it is back)
//! ```
//!
//! A program need not mark its steps where the least goes on from one to the next: the gradients of the last step, say, are
//! often freed a little later. So steps are cut that many allocations after each mark.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};

use super::learn::{Learned, Learner, lifetimes};
use crate::error::Result;
use crate::plan::{self, Options, Schedule};
use crate::sync::Arc;

/// Shapes of steps that are remembered at once.
const SHAPES_MAX: usize = 16;

/// After so many plans in a row that no step has followed, a shape is planned when it is met a second time.
const WASTED_MAX: u32 = 8;

/// How many shapes without a plan are remembered, to know them again.
const MET_MAX: usize = 64;

/// What a plan may cost: every recorded training step is planned in a tenth of this.
const PLAN_STEPS_MAX: u64 = 500_000;

/// A step that was planned: a shape, as it is called where sizes differ from step to step.
#[derive(Debug)]
pub(super) struct Shape {
    id: u64,
    step: Vec<Learned>,
    pub(super) schedule: Arc<Schedule>,
    /// Which shape came after it last time.
    next: Option<u64>,
    used: u64,
}

#[derive(Debug, Default)]
pub(super) struct Auto {
    /// So many allocations after a mark a step ends. Unknown at first.
    cut: Option<u32>,
    since_mark: u32,
    /// The step that the last mark is of has begun.
    has_begun: bool,
    pub(super) learner: Option<Learner>,
    shapes: Vec<Shape>,
    /// The shape that is followed, or was last.
    current: Option<u64>,
    /// And that of the step before.
    last: Option<u64>,
    next_id: u64,
    clock: u64,
    /// Plans since one was followed.
    wasted: u32,
    /// Shapes that were not planned, by a hash of their sizes.
    met: VecDeque<u64>,
}

/// A step that ends, as it was written down.
#[derive(Debug)]
pub(super) enum Ended {
    /// It was the shape that was followed, or nobody knows.
    Known,
    /// To be planned, in place of the shape of this number if there is one.
    New(Vec<Learned>, Option<u64>),
}

impl Auto {
    pub(super) fn new() -> Self {
        Self { learner: Some(Learner::new()), ..Self::default() }
    }

    /// A block is asked for.
    #[inline]
    pub(super) fn count(&mut self) {
        self.since_mark = self.since_mark.saturating_add(1);
    }

    /// Whether a step ends, and another begins, before the next allocation.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        !self.has_begun && self.cut.is_some_and(|cut| self.since_mark >= cut)
    }

    /// Whether it is known where steps are cut.
    pub(super) fn has_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// The program says that a step begins.
    pub(super) fn mark(&mut self) {
        (self.since_mark, self.has_begun) = (0, false);
        let Some(learner) = self.learner.as_mut().filter(|_| self.cut.is_none()) else { return };
        if learner.is_full() || (learner.marks() > 0 && learner.is_empty()) {
            *learner = Learner::new();
        }
        learner.mark();
        // What was allocated before the first step is no part of it.
        if let Some((start, _)) = learner.last_step().filter(|_| learner.marks() == 2)
            && learner.is_all_back_since(start)
        {
            learner.forget_before(start);
            self.cut = Some(0);
        } else if let Some((_, start)) = learner.last_but_one() {
            let cut = learner.cut();
            learner.forget_before(start + cut);
            self.cut = Some(cut);
        }
    }

    /// The step has ended.
    pub(super) fn end_step(&mut self, was_blocked: bool) -> Ended {
        self.has_begun = true;
        let Some(learner) = self.learner.take().filter(|learner| !learner.is_full()) else { return Ended::Known };
        let mut step = learner.whole();
        let Some(known) =
            self.shapes.iter().find(|shape| shape.schedule.is_of(step.iter().map(|learned| learned.bytes)))
        else {
            return if self.is_worth_a_plan(&step) { Ended::New(step, None) } else { Ended::Known };
        };
        self.current = Some(known.id);
        // The same sizes, and blocks that lived longer: a plan must be right for both.
        for (learned, before) in step.iter_mut().zip(&known.step) {
            learned.freed_at = Option::zip(learned.freed_at, before.freed_at).map(|(one, other)| one.max(other));
        }
        if was_blocked && step != known.step { Ended::New(step, Some(known.id)) } else { Ended::Known }
    }

    /// Steps that are never alike are not planned for nothing again and again.
    fn is_worth_a_plan(&mut self, step: &[Learned]) -> bool {
        if step.is_empty() || self.wasted < WASTED_MAX {
            return !step.is_empty();
        }
        let mut hasher = DefaultHasher::new();
        step.iter().for_each(|learned| hasher.write_u64(learned.bytes));
        let hash = hasher.finish();
        let was_met = self.met.contains(&hash);
        if !was_met {
            self.met.truncate(MET_MAX - 1);
            self.met.push_front(hash);
            // Nothing is followed for now: the next step is written down too.
            self.current = None;
        }
        was_met
    }

    /// A step has followed its plan to the end.
    pub(super) fn followed(&mut self) {
        self.wasted = 0;
    }

    /// A step that was planned. What is there so that it is followed when it returns.
    pub(super) fn learned(&mut self, step: Vec<Learned>, instead_of: Option<u64>, schedule: Schedule) {
        if let Some(shape) = self.shapes.iter_mut().find(|shape| Some(shape.id) == instead_of) {
            (shape.step, shape.schedule) = (step, Arc::new(schedule));
            return;
        }
        if self.shapes.len() >= SHAPES_MAX
            && let Some(oldest) = (0..self.shapes.len()).min_by_key(|index| self.shapes[*index].used)
        {
            self.shapes.swap_remove(oldest);
        }
        self.wasted += 1;
        let id = self.next_id;
        self.next_id += 1;
        self.shapes.push(Shape { id, step, schedule: Arc::new(schedule), next: None, used: self.clock });
        self.current = Some(id);
    }

    /// The schedule that the next step is expected to follow: of whichever shape came after this one last time, or else
    /// the same again. `None` as long as none is known; then the step is written down.
    pub(super) fn begin_step(&mut self) -> Option<Arc<Schedule>> {
        self.clock += 1;
        let ended = self.current;
        if let Some(shape) = self.shapes.iter_mut().find(|shape| self.last.is_some_and(|last| shape.id == last)) {
            shape.next = ended;
        }
        self.last = ended;
        let next = self.shape(ended).and_then(|shape| shape.next);
        let shape = self.shape(next).or_else(|| self.shape(ended)).map(|shape| (shape.id, Arc::clone(&shape.schedule)));
        match shape {
            Some((id, schedule)) => {
                self.follow(id);
                Some(schedule)
            }
            None => {
                self.learner = Some(Learner::new());
                None
            }
        }
    }

    fn shape(&self, id: Option<u64>) -> Option<&Shape> {
        self.shapes.iter().find(|shape| Some(shape.id) == id)
    }

    fn follow(&mut self, id: u64) {
        self.current = Some(id);
        if let Some(shape) = self.shapes.iter_mut().find(|shape| shape.id == id) {
            shape.used = self.clock;
        }
    }

    /// Another shape that begins with the same allocations as this schedule, so many, and goes on with one of `bytes`.
    /// It is not higher than the arena.
    pub(super) fn other(
        &mut self,
        schedule: &Arc<Schedule>,
        count: usize,
        bytes: u64,
        most_bytes: u64,
    ) -> Option<Arc<Schedule>> {
        let fits = |shape: &&Shape| {
            shape.schedule.entries()[..shape.schedule.len()].get(count).is_some_and(|entry| entry.bytes == bytes)
                && !Arc::ptr_eq(&shape.schedule, schedule)
                && shape.schedule.height_bytes() <= most_bytes
                && shape.schedule.begins_as(schedule, count)
        };
        let (id, schedule) = self.shapes.iter().find(fits).map(|shape| (shape.id, Arc::clone(&shape.schedule)))?;
        self.follow(id);
        Some(schedule)
    }

    /// A step has ended after so many allocations of a schedule: whether that is a shape of its own.
    pub(super) fn ends_after(&mut self, schedule: &Schedule, count: usize) -> bool {
        let fits = |shape: &&Shape| shape.schedule.len() == count && shape.schedule.begins_as(schedule, count);
        match self.shapes.iter().find(fits).map(|shape| shape.id) {
            Some(id) => {
                self.follow(id);
                true
            }
            None => false,
        }
    }

    /// What an arena for every shape has.
    pub(super) fn height_bytes(&self) -> u64 {
        self.shapes.iter().map(|shape| shape.schedule.height_bytes()).max().unwrap_or(0)
    }

    pub(super) fn shapes(&self) -> usize {
        self.shapes.len()
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        let of_shape = |shape: &Shape| {
            shape.schedule.metadata_bytes() + (shape.step.capacity() * size_of::<Learned>() + size_of::<Shape>()) as u64
        };
        let learner = self.learner.as_ref().map_or(0, Learner::metadata_bytes);
        let met_bytes = self.met.capacity() * size_of::<u64>() + size_of::<Self>();
        self.shapes.iter().map(of_shape).sum::<u64>() + learner + met_bytes as u64
    }
}

/// A plan for a step that was written down.
///
/// # Errors
/// Nothing of it is to be planned, or the plan would exceed 2^62 bytes.
pub(super) fn plan(step: &[Learned], align_bytes: u64) -> Result<Schedule> {
    let lifetimes = lifetimes(step);
    let plan = plan::solve(&lifetimes, &Options::new().align(align_bytes).steps(PLAN_STEPS_MAX))?;
    Schedule::new(&lifetimes, &plan, align_bytes)
}
