//! What serves a pool's planned steps: the arena, what follows the schedule, and what has come of it.

use super::arena::{Arena, Layout, Rest, Ties};
use super::auto::{Auto, Followed, Next};
use super::late::Late;
use super::learn::{At, Learned, Learner};
use super::report::{Deviation, PlanReport};
use crate::backend::Backend;
use crate::error::Result;
use crate::plan::{Cursor, Found, Schedule};
use crate::pool::Shared;
use crate::pool::shards::{PoolHome, Tally};
use crate::pool::state::{Holds, Home};
use crate::space::{Extent, Space};
use crate::sync::{Arc, Ordering};

/// An arena that was refused is asked for again after at most so many steps.
const PATIENCE_MAX: u32 = 32;

/// So many allocations of a step that plans itself may be served beside its arena. With one more it is another step.
const STRAYS_MAX: u32 = 1;

/// Where steps come from.
#[derive(Debug)]
pub(super) enum Mode {
    Off,
    /// All are the same.
    Fixed(Layout),
    Auto(Box<Auto>),
}

/// A block of the arena without an owner, whose memory others may still use, or shall not see as it is.
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
    /// Another one for every step, and when planned steps begin or end: who is late knows by it that what was begun is over.
    number: u64,
    /// What that was when these planned steps began.
    began: u64,
    /// There while there is an arena.
    cursor: Option<Cursor>,
    /// Places of the arena go out: it is for the schedule of this step.
    serves: bool,
    arena: Option<Arena<B>>,
    /// Steps until an arena is asked for again, and how many they were after it was last refused.
    patience: (u32, u32),
    late: Late,
    /// It does not keep its pool alive.
    held: Vec<Held<B>>,
    alignment_bytes: u64,
    tally: Tally,
    pub(super) report: PlanReport,
    /// For whoever has the planner locked.
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
            held: Vec::new(),
            alignment_bytes: 1,
            tally: Tally::default(),
            report: PlanReport::default(),
            rest: None,
            step: StepSoFar::default(),
        }
    }

    /// Planned steps begin, in slabs of this alignment.
    pub(super) fn begin(&mut self, mode: Mode, alignment_bytes: u64) {
        self.number += 1;
        self.began = self.number;
        self.alignment_bytes = alignment_bytes;
        (self.mode, self.report) = (mode, PlanReport::default());
    }

    pub(super) fn is_on(&self) -> bool {
        !matches!(self.mode, Mode::Off)
    }

    pub(super) fn is_auto(&self) -> bool {
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

    /// A place for so many bytes, if the schedule has one: what it keeps alive, and where it is.
    #[inline(always)]
    pub(super) fn take(&mut self, bytes: u64, shared: &Arc<Shared<B>>) -> Option<(Ties<B>, Extent)> {
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
        let (extent, part) = arena.extent(cursor.place(index), index);
        self.tally.alloc(bytes, extent.bytes());
        Some((arena.ties(part, shared), extent))
    }

    /// No schedule is followed.
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

    /// The next allocation is not the next one of the schedule.
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

    /// The rest of this step is the pool's.
    fn abandon(&mut self) {
        self.step.is_abandoned = true;
        self.rest = Some(self.give_up_arena());
    }

    /// The arena is given up in the middle of a step that plans itself.
    fn give_up_arena(&mut self) -> Rest<B> {
        let is_outlived = self.step.blocked && self.step.unplanned == 0;
        if let Mode::Auto(auto) = &mut self.mode {
            auto.given_up(if is_outlived { Followed::Outlived } else { Followed::No });
        }
        self.leave_arena()
    }

    /// What is to be dropped after a call of [`take`](Self::take).
    pub(super) fn take_rest(&mut self) -> Option<Rest<B>> {
        self.rest.take()
    }

    /// A place is back, and nobody uses it; the arena goes home with the last of them if it `is_wanted`. What is to be dropped
    /// comes back.
    #[inline]
    pub(super) fn give(&mut self, place: PoolHome<B>, bytes: u64, is_wanted: bool) -> Option<Rest<B>> {
        self.tally.free(bytes, place.home.extent.bytes());
        self.put_back(place.home, Some(place.shared), is_wanted)
    }

    #[inline]
    fn put_back(&mut self, home: Home<B::Slab>, shared: Option<Arc<Shared<B>>>, is_wanted: bool) -> Option<Rest<B>> {
        let Some((arena, (offset, part))) = self.arena.as_mut().and_then(|arena| arena.find(&home).map(|at| (arena, at))) else {
            return Some(self.put_back_late(home, shared));
        };
        let cursor = self.cursor.as_mut().expect("an arena is there for a schedule");
        cursor.put_back(home.extent.index(), offset);
        if let Some(shared) = shared {
            arena.keep(part, shared, home.slab);
        }
        if is_wanted && cursor.out() == 0 { Some(self.leave_idle_arena()) } else { None }
    }

    /// Into an arena that is gone.
    #[cold]
    fn put_back_late(&mut self, home: Home<B::Slab>, shared: Option<Arc<Shared<B>>>) -> Rest<B> {
        let mut rest = Rest::new();
        rest.pools.extend(shared);
        if let Some(Some(extent)) = self.late.put_back(&home) {
            rest.arenas.push(Home { slab: home.slab, extent });
        }
        rest
    }

    /// A place is back, but others still use it, or it is to be zeroed.
    pub(super) fn hold(&mut self, held: Held<B>) {
        self.held.push(held);
    }

    pub(super) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Those that nobody uses any more.
    pub(super) fn take_over(&mut self) -> Vec<Held<B>> {
        self.held.extract_if(.., |held| held.is_over()).collect()
    }

    /// Nobody uses it any more, and it is as it should be.
    pub(super) fn end_hold(&mut self, home: Home<B::Slab>) -> Rest<B> {
        self.put_back(home, None, false).unwrap_or_else(Rest::new)
    }

    /// A step ends.
    pub(super) fn end_step(&mut self) {
        let step = std::mem::take(&mut self.step);
        self.report.steps_without_room += u64::from(step.lacks_room);
        let mut followed = None;
        if let Some(cursor) = self.cursor.as_ref().filter(|_| self.serves) {
            self.report.steps_exact += u64::from(cursor.is_complete());
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

    fn arena_bytes(&self) -> u64 {
        self.arena.as_ref().map_or(0, Arena::bytes)
    }

    /// The arena of a plan that the program brings, whose steps begin.
    pub(super) fn set_arena(&mut self, arena: Arena<B>) {
        self.arena = Some(arena);
    }

    /// The arena is not used any more.
    pub(super) fn leave_arena(&mut self) -> Rest<B> {
        let (arena, cursor) = (self.arena.take(), self.cursor.take());
        self.serves = false;
        let Some(arena) = arena else { return Rest::new() };
        let alignment_bytes = self.alignment_bytes;
        arena.leave(cursor.as_ref(), &mut self.late, |slab_bytes| Space::page_bytes_for(slab_bytes, alignment_bytes))
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

    /// A request finds no room, or waits for it: an arena of steps that plan themselves is given up. Whoever brought a plan knows
    /// what its arena takes.
    pub(super) fn dissolve_arena(&mut self) -> Rest<B> {
        if self.arena.is_none() || !self.is_auto() {
            return Rest::new();
        }
        self.step.lacks_room = true;
        self.give_up_arena()
    }

    /// An allocation has failed: a program that plans itself goes on without.
    pub(super) fn failed(&mut self) {
        if let Mode::Auto(auto) = &mut self.mode {
            auto.has_ended = true;
            auto.learner = None;
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
        self.report.allocations_planned += tally.allocations;
        Tally { allocations_planned: tally.allocations, ..tally }
    }

    pub(super) fn report(&self) -> PlanReport {
        let plans = match &self.mode {
            Mode::Off => 0,
            Mode::Fixed(_) => 1,
            Mode::Auto(auto) => auto.plans() as u64,
        };
        let allocations_planned = self.report.allocations_planned + self.tally.allocations;
        PlanReport { plans, arena_bytes: self.arena_bytes(), allocations_planned, ..self.report }
    }

    /// Bytes of the arena that no block has, and that are kept from other requests.
    pub(in crate::pool) fn idle_bytes(&self) -> u64 {
        self.arena.as_ref().map_or(0, |arena| arena.idle_bytes(self.cursor.as_ref()))
    }

    pub(in crate::pool) fn metadata_bytes(&self) -> u64 {
        let mode = match &self.mode {
            Mode::Off => 0,
            Mode::Fixed(layout) => layout.metadata_bytes(),
            Mode::Auto(auto) => auto.metadata_bytes(),
        };
        let held = (self.held.capacity() * size_of::<Held<B>>()) as u64;
        let arena = self.arena.as_ref().map_or(0, Arena::metadata_bytes);
        mode + self.cursor.as_ref().map_or(0, Cursor::metadata_bytes) + self.late.metadata_bytes() + arena + held
    }

    pub(in crate::pool) fn check(&self) {
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
