//! Steps that plan themselves: what repeats is written down, planned, and followed the next time.
//!
//! ```text
//!   mark        mark        mark            mark
//!    |  step 1   |  step 2   |   step 3      |
//!    |...........|...........|..|............|..|
//!     written down: two steps   ^ the cut: if both were alike, planned; from here on the schedule is followed
//! ```
//!
//! A program need not mark its steps where the least goes on from one to the next: the gradients of the last step, say, are
//! often freed a little later. So steps are cut that many allocations after each mark.
//!
//! Writing down changes nothing for the program: the pool serves as if nothing were planned. Only a step that is
//! [expected](super::expect) is planned.

use super::arena::Layout;
use super::expect::Expectation;
use super::learn::{Learned, Learner, lifetimes};
use super::planner::Wish;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{self, Options, Schedule};

/// Shapes of steps that are remembered at once.
const SHAPES_MAX: usize = 16;

/// A step that leaves more alive than it found, or less, by one of so many of its bytes is none that repeats: its blocks will fill
/// the pool, or stop coming.
const GROWTH_MAX: i128 = 1000;

/// Beside an arena as much as this part of it stays free, and where steps have varied this part.
const BESIDE: u64 = 8;
const BESIDE_WARY: u64 = 1;

/// Work that a plan and its schedule may take together, in steps: 0.05 to 0.13 s (2026-11). The recorded training steps take
/// 15,400 at most.
const PLAN_STEPS_MAX: u64 = 40_000;

/// A step that was written down: a shape, as it is called where sizes differ from step to step.
#[derive(Debug)]
struct Shape {
    number: u64,
    step: Vec<Learned>,
    /// It leaves more alive than it found, or less.
    grows: bool,
    plan: Planned,
    used: u64,
}

#[derive(Debug)]
enum Planned {
    NotYet,
    /// Blocks lived longer than they were planned to: it is to be written down again.
    Outlived,
    /// Nothing of it can be planned.
    Never,
    /// In one run, and in several if there was none.
    As(Vec<Layout>),
}

/// What the next step does.
pub(super) enum Next {
    /// What is served is as if nothing were planned.
    Online,
    Follow(Vec<Layout>),
    /// A shape of this number is to be planned, then followed.
    Plan(u64, Vec<Learned>),
}

/// How a step has ended that was to follow a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// Everything had its place.
    Well,
    /// Blocks lived longer than they were planned to.
    Outlived,
    /// It was another step.
    No,
}

#[derive(Debug)]
pub(super) struct Auto {
    /// So many allocations after a mark a step ends. Unknown at first.
    cut: Option<u32>,
    since_mark: u32,
    /// The step that the last mark is of has begun.
    has_begun: bool,
    pub(super) learner: Option<Learner>,
    /// The sizes of this step so far, unless it follows a schedule.
    sizes: Sizes,
    shapes: Vec<Shape>,
    expectation: Expectation,
    /// The shape that is followed.
    followed: Option<u64>,
    is_interrupted: bool,
    clock: u64,
    /// So many arenas are asked for until a step is planned in several runs again, and how many they were before.
    patience: (u32, u32),
    /// An allocation has failed: no more plans.
    pub(super) has_ended: bool,
}

/// Sizes in order, as a number.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes(u64);

impl Sizes {
    #[inline]
    fn add(&mut self, bytes: u64) {
        self.0 = (self.0.rotate_left(5) ^ bytes).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn of(step: &[Learned]) -> Self {
        let mut sizes = Self::default();
        step.iter().for_each(|learned| sizes.add(learned.bytes));
        sizes
    }
}

impl Auto {
    pub(super) fn new() -> Self {
        Self {
            cut: None,
            since_mark: 0,
            has_begun: false,
            learner: Some(Learner::new()),
            sizes: Sizes::default(),
            shapes: Vec::new(),
            expectation: Expectation::new(),
            followed: None,
            is_interrupted: false,
            clock: 0,
            patience: (0, 0),
            has_ended: false,
        }
    }

    /// Counts a request for a block.
    #[inline]
    pub(super) fn count(&mut self) {
        self.since_mark = self.since_mark.saturating_add(1);
    }

    /// Whether nothing was asked for in this step, where it does not follow a schedule.
    pub(super) fn is_untouched(&self) -> bool {
        self.sizes.0 == 0
    }

    /// Adds the size of a request to the step, which follows no schedule.
    #[inline]
    pub(super) fn see(&mut self, bytes: u64) {
        self.sizes.add(bytes);
    }

    /// Whether a step ends, and another begins, before the next allocation.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        !self.has_begun && !self.has_ended && self.cut.is_some_and(|cut| self.since_mark >= cut)
    }

    /// Whether it is known where steps are cut.
    pub(super) fn has_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Notes that a step of the program begins.
    pub(super) fn mark(&mut self) {
        (self.since_mark, self.has_begun) = (0, false);
        let Some(learner) = self.learner.as_mut().filter(|_| self.cut.is_none()) else { return };
        if learner.is_full() || (learner.marks() > 0 && learner.is_empty()) {
            *learner = Learner::new();
        }
        learner.mark();
        match learner.last_steps()[..] {
            // What was allocated before the first step is no part of it.
            [start, _] if learner.is_all_back_since(start) => {
                learner.forget_before(start);
                self.cut = Some(0);
            }
            [first, second, _] => {
                let cut = learner.cut();
                let step = learner.step(first + cut, second + cut);
                learner.forget_before(second + cut);
                self.cut = Some(cut);
                self.expectation.ended(Sizes::of(&step).0);
            }
            _ => {}
        }
    }

    /// Keeps a step that was written down; its number.
    fn keep(&mut self, learner: &Learner) -> u64 {
        let (more_bytes, asked_bytes) = learner.balance();
        if more_bytes.abs() * GROWTH_MAX > asked_bytes {
            return self.unknown();
        }
        let mut step = learner.step(0, learner.len());
        let number = Sizes::of(&step).0;
        let grows = more_bytes != 0;
        match self.shapes.iter_mut().find(|shape| shape.number == number) {
            Some(shape) => {
                // The same sizes, and blocks that lived longer: a plan must be right for both.
                for (learned, before) in step.iter_mut().zip(&shape.step) {
                    learned.freed_at =
                        Option::zip(learned.freed_at, before.freed_at).map(|(one, other)| one.max(other));
                }
                (shape.step, shape.plan) = (step, Planned::NotYet);
                shape.grows |= grows;
            }
            None if step.is_empty() => {}
            None => {
                if self.shapes.len() >= SHAPES_MAX
                    && let Some(oldest) = (0..self.shapes.len()).min_by_key(|index| self.shapes[*index].used)
                {
                    self.shapes.swap_remove(oldest);
                }
                self.shapes.push(Shape { number, step, grows, plan: Planned::NotYet, used: self.clock });
            }
        }
        number
    }

    /// Ends the step. `followed` says how it ended, if it followed a schedule to its end.
    pub(super) fn end_step(&mut self, followed: Option<Followed>) {
        self.has_begun = true;
        let written_down = self.learner.take().filter(|learner| !learner.is_full());
        let number = match (self.followed, followed) {
            (Some(number), Some(Followed::Well)) => {
                self.expectation.followed();
                number
            }
            (Some(_), Some(followed)) => {
                self.given_up(followed);
                self.sizes.0
            }
            _ if self.is_interrupted => return,
            _ => written_down.map_or(self.sizes.0, |learner| self.keep(&learner)),
        };
        self.expectation.ended(number);
    }

    /// Ends the use of the plan in a step that is not as planned.
    pub(super) fn given_up(&mut self, followed: Followed) {
        if let Some(number) = self.followed.take()
            && followed == Followed::Outlived
            && let Some(shape) = self.shape(number)
        {
            shape.plan = Planned::Outlived;
        }
        self.expectation.given_up();
        // So that it counts as different from every other step.
        self.sizes = Sizes(self.unknown());
    }

    /// Ends the use of the plan in a step whose arena went for other requests. The step says nothing about later ones.
    pub(super) fn interrupted(&mut self) {
        (self.followed, self.is_interrupted) = (None, true);
    }

    /// Returns a number that no step has.
    fn unknown(&self) -> u64 {
        !self.clock
    }

    fn shape(&mut self, number: u64) -> Option<&mut Shape> {
        self.shapes.iter_mut().find(|shape| shape.number == number)
    }

    /// Begins a step, and returns what it does. A step that is likely to be planned later is written down.
    pub(super) fn begin_step(&mut self) -> Next {
        self.clock += 1;
        (self.followed, self.is_interrupted, self.sizes) = (None, false, Sizes::default());
        let (clock, is_wary_enough) = (self.clock, self.expectation.is_wary_enough());
        if let Some(number) = self.expectation.trusted()
            && let Some(shape) = self.shape(number)
            && (is_wary_enough || !shape.grows)
        {
            shape.used = clock;
            match &shape.plan {
                Planned::As(layouts) => {
                    let layouts = layouts.clone();
                    self.followed = Some(number);
                    return Next::Follow(layouts);
                }
                Planned::NotYet => return Next::Plan(number, shape.step.clone()),
                Planned::Never => return Next::Online,
                Planned::Outlived => {}
            }
        }
        if let Some(number) = self.expectation.nearly_trusted()
            && self.shape(number).is_none_or(|shape| matches!(shape.plan, Planned::Outlived))
        {
            self.learner = Some(Learner::new());
        }
        Next::Online
    }

    /// Keeps the plan that was made for a shape, or notes that there is none. Returns what the step does.
    pub(super) fn planned(&mut self, number: u64, schedule: Result<Schedule>) -> Next {
        let Some(shape) = self.shape(number) else { return Next::Online };
        let Ok(schedule) = schedule else {
            shape.plan = Planned::Never;
            return Next::Online;
        };
        let layouts = vec![Layout::whole(schedule)];
        shape.plan = Planned::As(layouts.clone());
        self.followed = Some(number);
        Next::Follow(layouts)
    }

    /// Returns what an arena is to be for.
    pub(super) fn wish(&mut self) -> Wish {
        let shape = self.followed.and_then(|number| self.shapes.iter().find(|shape| shape.number == number));
        // To plan in several runs takes long. After a refusal the pool rarely has other runs in the next step.
        let step = if self.patience.0 == 0 {
            // Until the arena comes, this counts as refused.
            let times = self.patience.1.saturating_mul(2).max(1);
            self.patience = (times, times);
            shape.map(|shape| shape.step.clone())
        } else {
            self.patience.0 -= 1;
            None
        };
        Wish::Learned { step, beside: if self.expectation.has_varied() { BESIDE_WARY } else { BESIDE } }
    }

    /// Notes whether an arena came, and keeps the layout that it is for if that is a new one, in place of an older one.
    pub(super) fn asked(&mut self, has_arena: bool, layout: Option<Layout>) {
        if has_arena {
            self.patience = (0, 0);
        }
        if let Some(number) = self.followed
            && let Some(layout) = layout
            && let Some(Shape { plan: Planned::As(layouts), .. }) = self.shape(number)
        {
            layouts.truncate(1);
            layouts.push(layout);
        }
    }

    /// Ends the use of the plan in a step that found no room for an arena. The pool serves it as if nothing were planned.
    pub(super) fn does_without(&mut self) {
        self.followed = None;
    }

    pub(super) fn plans(&self) -> usize {
        self.shapes.iter().filter(|shape| matches!(shape.plan, Planned::As(_))).count()
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        let of_shape = |shape: &Shape| {
            let schedule = if let Planned::As(layouts) = &shape.plan {
                layouts.iter().map(Layout::metadata_bytes).sum()
            } else {
                0
            };
            schedule + (shape.step.capacity() * size_of::<Learned>() + size_of::<Shape>()) as u64
        };
        let learner = self.learner.as_ref().map_or(0, Learner::metadata_bytes);
        let shapes = self.shapes.iter().map(of_shape).sum::<u64>() + size_of::<Self>() as u64;
        shapes + learner + self.expectation.metadata_bytes()
    }
}

/// A plan for a step that was written down, the best that is found within [`PLAN_STEPS_MAX`]: in one run; or in runs of these
/// sizes one behind the other, of which the last is the height of a plan in one, for what has no room in the others.
///
/// # Errors
/// Nothing of it is to be planned, the plan would exceed 2^62 bytes, or the step is too large for a plan within the limit.
pub(super) fn plan(step: &[Learned], align_bytes: u64, sizes: &[u64]) -> Result<Schedule> {
    let lifetimes = lifetimes(step);
    let mut options = Options::new().align(align_bytes).steps(PLAN_STEPS_MAX);
    if let [.., height_bytes] = sizes {
        // A little higher than in one run will do, and is found at once where it is found at all.
        let enough_bytes = height_bytes.saturating_add(height_bytes / 128);
        options = options.slabs(sizes.iter().copied()).capacity(enough_bytes);
    }
    let too_large =
        || Error::new(ErrorKind::TooLarge, format!("{} allocations: too many to plan at run time", step.len()));
    let plan = plan::solve_strictly(&lifetimes, &options)?.ok_or_else(too_large)?;
    Schedule::new(&lifetimes, &plan, align_bytes)
}
