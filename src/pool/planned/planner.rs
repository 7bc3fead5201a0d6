//! What serves a pool's planned steps: the arena, what follows the schedule, and what has come of it.

mod idle;
mod take;

pub(in crate::pool) use self::take::Held;
use super::arena::{Arena, Layout, Left, Rest};
use super::auto::{Auto, Followed, Next};
use super::late::Late;
use super::learn::{At, Learned, Learner};
use super::report::PlanReport;
use crate::backend::Backend;
use crate::error::Result;
use crate::plan::{Cursor, Schedule};
use crate::pool::shards::Tally;
use crate::pool::sizes::PageBytes;
use crate::pool::state::Home;
use crate::pool::tables::vec_bytes;

/// An arena that was refused is asked for again after at most so many steps.
const PATIENCE_MAX: u32 = 32;

/// Where steps come from.
#[derive(Debug)]
pub(super) enum Mode {
    Off,
    /// All are the same.
    Fixed(Layout),
    Auto(Box<Auto>),
}

/// What an arena is to be for.
pub(super) enum Wish {
    /// The program's plan: a run of the pool, whatever that takes.
    Given,
    /// A step that was learned, which may be planned anew, and one of so many parts of its bytes is to stay free beside.
    Learned { step: Option<Vec<Learned>>, beside: u64 },
}

/// What a step has come to so far, beside what its cursor knows.
#[derive(Default)]
struct StepSoFar {
    /// Allocations served beside the arena that were not planned to be, in a step that plans itself.
    strays: u32,
    unplanned: u64,
    blocked: bool,
    /// It is not the step that was expected: the rest of it is the pool's.
    is_abandoned: bool,
    /// There was no room for an arena, or memory was short and it went home.
    lacks_room: bool,
}

pub(in crate::pool) struct Planner<B: Backend> {
    pub(super) mode: Mode,
    /// The step's, never used twice: planned steps that begin or end have numbers too. A thread that comes back to another
    /// number is late.
    number: u64,
    /// The number with which these planned steps began.
    began: u64,
    /// There while there is an arena.
    cursor: Option<Cursor>,
    /// Places of the arena go out: it is for the schedule of this step.
    serves: bool,
    arena: Option<Arena<B>>,
    /// Steps until an arena is asked for again, and how many they were after it was last refused.
    patience: (u32, u32),
    late: Late,
    /// Of arenas, and on its way home.
    left: Left<B::Slab>,
    /// It does not keep its pool alive.
    held: Vec<Held<B>>,
    pages: PageBytes,
    tally: Tally,
    /// Allocations in the tally that earlier planned steps made.
    foreign: u64,
    pub(super) report: PlanReport,
    /// For the thread that has the planner locked.
    rest: Option<Rest<B>>,
    step: StepSoFar,
}

impl<B: Backend> Planner<B> {
    pub(in crate::pool) fn new() -> Self {
        Self {
            mode: Mode::Off,
            number: 0,
            began: 0,
            cursor: None,
            serves: false,
            arena: None,
            patience: (0, 0),
            late: Late::default(),
            left: Left::default(),
            held: Vec::new(),
            pages: PageBytes { alignment_bytes: 1, chosen: None },
            tally: Tally::default(),
            foreign: 0,
            report: PlanReport::default(),
            rest: None,
            step: StepSoFar::default(),
        }
    }

    /// Planned steps begin, in slabs of these pages.
    pub(super) fn begin(&mut self, mode: Mode, pages: PageBytes) {
        self.number += 1;
        self.began = self.number;
        self.pages = pages;
        self.foreign = self.tally.allocations;
        (self.mode, self.report) = (mode, PlanReport::default());
    }

    pub(in crate::pool) fn is_on(&self) -> bool {
        !matches!(self.mode, Mode::Off)
    }

    pub(in crate::pool) fn is_auto(&self) -> bool {
        matches!(self.mode, Mode::Auto(_))
    }

    /// Whether allocations are looked at.
    pub(super) fn looks(&self) -> bool {
        match &self.mode {
            Mode::Off => false,
            Mode::Fixed(_) => true,
            Mode::Auto(auto) => !auto.has_ended,
        }
    }

    pub(super) fn has_arena(&self) -> bool {
        self.arena.is_some()
    }

    /// Whether something of an arena is on its way home.
    pub(super) fn has_left(&self) -> bool {
        self.left.is_due
    }

    /// What has left arenas, for the thread that has the pool's lock: it takes it home before it unlocks that.
    pub(super) fn take_left(&mut self) -> Vec<Home<B::Slab>> {
        std::mem::take(&mut self.left).homes
    }

    /// Of the step, or of what comes after the last one of planned steps.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Of the planned steps: others that follow have another one.
    pub(super) fn began(&self) -> u64 {
        self.began
    }

    pub(super) fn learner(&mut self) -> Option<&mut Learner> {
        match &mut self.mode {
            Mode::Auto(auto) => auto.learner.as_mut(),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn is_due(&self) -> bool {
        match &self.mode {
            Mode::Auto(auto) => auto.is_due(),
            _ => false,
        }
    }

    /// The arena is given up in the middle of a step that plans itself.
    fn give_up_arena(&mut self) -> Rest<B> {
        let is_outlived = self.step.blocked && self.step.unplanned == 0;
        if let Mode::Auto(auto) = &mut self.mode {
            auto.given_up(if is_outlived { Followed::Outlived } else { Followed::No });
        }
        self.leave_arena()
    }

    /// A step ends.
    pub(super) fn end_step(&mut self) {
        let step = std::mem::take(&mut self.step);
        self.report.steps_without_room += u64::from(step.lacks_room);
        let mut followed = None;
        if let Some(cursor) = self.cursor.as_ref().filter(|_| self.serves) {
            self.report.steps_exact += u64::from(cursor.is_complete() && step.unplanned == 0);
            self.report.allocations_skipped += cursor.unmet();
            followed = Some(match step {
                StepSoFar { blocked: true, unplanned: 0, .. } if cursor.unmet() == 0 => Followed::Outlived,
                StepSoFar { strays: 0, .. } if cursor.unmet() == 0 => Followed::Well,
                _ => Followed::No,
            });
        }
        if let Mode::Auto(auto) = &mut self.mode {
            auto.end_step(followed);
        }
    }

    /// What the step does that begins now.
    pub(super) fn begin_step(&mut self) -> Next {
        self.number += 1;
        self.report.steps += 1;
        self.serves = false;
        match &mut self.mode {
            Mode::Off => Next::Online,
            Mode::Fixed(layout) => Next::Follow(vec![layout.clone()]),
            Mode::Auto(auto) => {
                let next = auto.begin_step();
                self.report.steps_profiled += u64::from(auto.learner.is_some());
                next
            }
        }
    }

    /// Whether the arena is for one of these.
    pub(super) fn has_arena_for(&self, layouts: &[Layout]) -> bool {
        self.layout_of(layouts).is_some()
    }

    fn layout_of<'a>(&self, layouts: &'a [Layout]) -> Option<&'a Layout> {
        let arena = self.arena.as_ref()?;
        layouts.iter().find(|layout| arena.is_for(&layout.schedule))
    }

    /// The plan for a step that is to be followed has come, or there is none.
    pub(super) fn planned(&mut self, shape: u64, schedule: Result<Schedule>) -> Next {
        match &mut self.mode {
            Mode::Auto(auto) => auto.planned(shape, schedule),
            _ => Next::Online,
        }
    }

    /// What the next arena is to be.
    pub(super) fn wish(&mut self) -> Wish {
        match &mut self.mode {
            Mode::Auto(auto) => auto.wish(),
            _ => Wish::Given,
        }
    }

    /// Places go out from now on, if the step has an arena. One that it does not follow comes back.
    pub(super) fn serve(&mut self, next: &Next) -> Rest<B> {
        let Next::Follow(layouts) = next else { return self.leave_arena() };
        let layout = self.layout_of(layouts).cloned();
        // Another thread may have asked for memory since the step began.
        let is_late = matches!(&self.mode, Mode::Auto(auto) if !auto.is_untouched());
        if let Some(layout) = layout.filter(|_| !is_late) {
            self.report.height_bytes = layout.schedule.height_bytes();
            match &mut self.cursor {
                Some(cursor) => cursor.begin(&layout.schedule),
                None => self.cursor = Some(Cursor::new(layout.schedule)),
            }
            self.serves = true;
            return Rest::new();
        }
        self.step.lacks_room = true;
        if let Mode::Auto(auto) = &mut self.mode {
            auto.does_without();
        }
        self.leave_arena()
    }

    /// To ask costs more than a step gains where there is no room: idle slabs go back to the device for it.
    pub(super) fn may_ask_for_an_arena(&mut self) -> bool {
        let may_ask = self.patience.0 == 0;
        self.patience.0 = self.patience.0.saturating_sub(1);
        may_ask
    }

    /// What came of asking: an arena, and the layout that it is for if that is a new one.
    pub(super) fn asked_for_an_arena(&mut self, arena: Option<(Arena<B>, Option<Layout>)>) {
        let steps = if arena.is_some() { 0 } else { (2 * self.patience.1).clamp(1, PATIENCE_MAX) };
        self.patience = (steps, steps);
        let layout = arena.and_then(|(arena, layout)| {
            self.arena = Some(arena);
            layout
        });
        if let Mode::Auto(auto) = &mut self.mode {
            auto.asked(self.arena.is_some(), layout);
        }
    }

    /// Sets the arena of a plan that the program brought.
    pub(super) fn set_arena(&mut self, arena: Arena<B>) {
        self.arena = Some(arena);
    }

    /// The arena is not used any more.
    pub(super) fn leave_arena(&mut self) -> Rest<B> {
        let (arena, cursor) = (self.arena.take(), self.cursor.take());
        self.serves = false;
        let Some(arena) = arena else { return Rest::new() };
        let pages = self.pages;
        let page_bytes = |slab_bytes| pages.of(slab_bytes);
        arena.leave(cursor.as_ref(), &mut self.late, &mut self.left, page_bytes)
    }

    /// An arena that came too late for its step leaves.
    pub(super) fn refuse(&mut self, arena: Arena<B>) -> Rest<B> {
        arena.leave(None, &mut self.late, &mut self.left, |_| 1)
    }

    /// Memory is wanted elsewhere: the arena goes home if nothing in it is in use.
    pub(super) fn leave_idle_arena(&mut self) -> Rest<B> {
        if self.arena.is_none() || self.cursor.as_ref().is_some_and(|cursor| cursor.out() > 0) {
            return Rest::new();
        }
        self.step.lacks_room = true;
        if let Mode::Auto(auto) = &mut self.mode {
            auto.interrupted();
        }
        self.leave_arena()
    }

    /// A request finds no room, or waits for it: an arena of steps that plan themselves is given up. One that the program asked
    /// for stays.
    pub(super) fn dissolve_arena(&mut self) -> Rest<B> {
        if self.is_auto() { self.yield_arena() } else { Rest::new() }
    }

    /// The budget was lowered to less than what is out of the slabs: the arena is given up, whatever plan it is for.
    pub(super) fn yield_arena(&mut self) -> Rest<B> {
        if self.arena.is_none() {
            return Rest::new();
        }
        self.step.lacks_room = true;
        self.give_up_arena()
    }

    /// An allocation has failed: a program that plans itself goes on without.
    pub(super) fn failed(&mut self) -> Rest<B> {
        let Mode::Auto(auto) = &mut self.mode else { return Rest::new() };
        auto.has_ended = true;
        auto.learner = None;
        self.number += 1;
        self.leave_arena()
    }

    /// So many places of a batch are taken back, which is served beside the plan.
    pub(super) fn revoked(&mut self, count: u64) {
        if self.serves {
            self.step.unplanned += count;
            self.step.strays = self.step.strays.saturating_add(1);
            self.report.allocations_unplanned += count;
        }
    }

    /// No more planned steps.
    pub(super) fn end(&mut self) -> Rest<B> {
        let rest = self.leave_arena();
        self.number += 1;
        (self.mode, self.step, self.patience) = (Mode::Off, StepSoFar::default(), (0, 0));
        rest
    }

    pub(in crate::pool) fn tally(&mut self) -> Tally {
        let tally = std::mem::take(&mut self.tally);
        self.report.allocations_planned += tally.allocations - std::mem::take(&mut self.foreign);
        Tally { allocations_planned: tally.allocations, ..tally }
    }

    pub(super) fn report(&self) -> PlanReport {
        let plans = match &self.mode {
            Mode::Off => 0,
            Mode::Fixed(_) => 1,
            Mode::Auto(auto) => auto.plans() as u64,
        };
        let allocations_planned = self.report.allocations_planned + self.tally.allocations - self.foreign;
        let is_over = matches!(&self.mode, Mode::Auto(auto) if auto.has_ended);
        PlanReport { plans, arena_bytes: self.arena_bytes(), allocations_planned, is_over, ..self.report }
    }

    pub(in crate::pool) fn metadata_bytes(&self) -> u64 {
        let mode = match &self.mode {
            Mode::Off => 0,
            Mode::Fixed(layout) => layout.metadata_bytes(),
            Mode::Auto(auto) => auto.metadata_bytes(),
        };
        let places =
            vec_bytes(&self.held) + vec_bytes(&self.left.homes) + self.arena.as_ref().map_or(0, Arena::metadata_bytes);
        mode + self.cursor.as_ref().map_or(0, Cursor::metadata_bytes) + self.late.metadata_bytes() + places
    }

    pub(in crate::pool) fn check(&self) {
        assert!(!self.left.is_due, "memory of an arena is on its way home, and no thread takes it there");
        if let Some(cursor) = &self.cursor {
            cursor.check();
            assert!(self.arena.is_some() || cursor.out() == 0, "blocks of an arena that is gone");
            let is_its_own = self.arena.as_ref().is_some_and(|arena| arena.is_for(cursor.schedule()));
            assert!(!self.serves || is_its_own, "places of another arena");
        }
    }
}

/// Where a home is.
pub(in crate::pool) fn at<S>(home: &Home<S>) -> At {
    (home.slab.serial, home.extent.offset())
}
