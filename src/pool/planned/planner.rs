//! What serves a pool's planned steps: the arena, what follows the schedule, and what has come of it.

use super::auto::{Auto, Ended};
use super::learn::{At, Learner};
use super::report::{Deviation, PlanReport};
use crate::backend::Backend;
use crate::plan::{Cursor, Found, Schedule};
use crate::pool::Shared;
use crate::pool::shards::{PoolHome, Tally};
use crate::pool::state::{Holds, Home, Slab};
use crate::pool::tables::{keep_small, vec_bytes};
use crate::space::Extent;
use crate::sync::{Arc, Ordering};

/// Differences in one step after which a plan that is made anew anyway is no longer followed, if they are a quarter of all.
const DIFFERENCES_MAX: u64 = 8;

/// An arena that was refused is asked for again after at most so many steps.
const PATIENCE_MAX: u32 = 32;

/// Where steps come from.
#[derive(Debug)]
pub(super) enum Mode {
    Off,
    /// All are the same.
    Fixed(Arc<Schedule>),
    Auto(Box<Auto>),
}

/// An arena that no step uses any more, until the last block in it is back.
struct Leaving<B: Backend> {
    arena: Home<B::Slab>,
    out: usize,
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

/// What a block keeps alive: its pool, and its slab. They go from block to block without touching a reference count.
pub(super) struct Ties<B: Backend> {
    shared: Arc<Shared<B>>,
    slab: Arc<Slab<B::Slab>>,
}

impl<B: Backend> Ties<B> {
    #[inline(always)]
    pub(super) fn with(self, extent: Extent) -> PoolHome<B> {
        PoolHome { shared: self.shared, home: Home { slab: self.slab, extent } }
    }
}

/// What is to be given home, and dropped, once the planner is not locked: that may end the pool. A slab is always the
/// arena's too; so whoever gives the arena home has the last of it, and may give the slab back.
#[must_use]
pub(super) struct Rest<B: Backend> {
    pub(super) arenas: Vec<Home<B::Slab>>,
    pub(super) pools: Vec<Arc<Shared<B>>>,
}

impl<B: Backend> Rest<B> {
    pub(super) fn new() -> Self {
        Self { arenas: Vec::new(), pools: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.arenas.is_empty() && self.pools.is_empty()
    }

    pub(super) fn append(&mut self, other: Self) {
        self.arenas.extend(other.arenas);
        self.pools.extend(other.pools);
    }
}

pub(in crate::pool) struct Planner<B: Backend> {
    pub(super) mode: Mode,
    cursor: Option<Cursor>,
    /// Places of the arena go out.
    serves: bool,
    /// They do not for the rest of this step, which is not what was expected.
    is_abandoned: bool,
    /// A run of the pool. Its bytes count as cached where no block has them. It does not keep its pool alive, nor does what
    /// is held.
    arena: Option<Home<B::Slab>>,
    /// Steps until an arena is asked for again, and how many they were after it was last refused.
    patience: (u32, u32),
    /// Of blocks that came back. None when there is no arena.
    ties: Vec<Ties<B>>,
    leaving: Vec<Leaving<B>>,
    held: Vec<Held<B>>,
    tally: Tally,
    pub(super) report: PlanReport,
    /// For whoever has the planner locked.
    rest: Option<Rest<B>>,
    /// Of this step.
    different: u64,
    blocked: u64,
    without_room: u64,
}

impl<B: Backend> Planner<B> {
    pub(in crate::pool) fn new() -> Self {
        Self {
            mode: Mode::Off,
            cursor: None,
            serves: false,
            is_abandoned: false,
            arena: None,
            patience: (0, 0),
            ties: Vec::new(),
            leaving: Vec::new(),
            held: Vec::new(),
            tally: Tally::default(),
            report: PlanReport::default(),
            rest: None,
            different: 0,
            blocked: 0,
            without_room: 0,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        !matches!(self.mode, Mode::Off)
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

    /// A place for so many bytes, if the schedule has one, to be made of some [`ties`](Self::ties).
    #[inline(always)]
    pub(super) fn take(&mut self, bytes: u64) -> Option<Extent> {
        if let Mode::Auto(auto) = &mut self.mode {
            auto.count();
        }
        let index = match &mut self.cursor {
            Some(cursor) if self.serves => match cursor.take_next(bytes) {
                Some(Found::Place(index)) => index,
                found => self.take_other(found, bytes)?,
            },
            _ => {
                self.report.allocations_unplanned += u64::from(self.is_abandoned);
                return None;
            }
        };
        let (Some(arena), Some(cursor)) = (&self.arena, &self.cursor) else {
            self.do_without(index);
            return None;
        };
        let (offset, held_bytes) = cursor.place(index);
        let extent = arena.extent.part(offset, held_bytes, index);
        self.tally.alloc(bytes, held_bytes);
        if let Mode::Auto(auto) = &mut self.mode
            && let Some(learner) = &mut auto.learner
        {
            learner.alloc(bytes, (arena.slab.serial, extent.offset()));
        }
        Some(extent)
    }

    #[cold]
    fn take_other(&mut self, found: Option<Found>, bytes: u64) -> Option<u32> {
        match found.or_else(|| self.differs(bytes))? {
            Found::Place(index) => Some(index),
            Found::Blocked => {
                self.blocked += 1;
                self.report.allocations_blocked += 1;
                // This one is the pool's to write down.
                let begun = self.cursor.as_ref().map_or(0, Cursor::allocations);
                self.learn_from_here(begun.saturating_sub(1));
                None
            }
            Found::Kept | Found::Different => None,
        }
    }

    /// There is no arena.
    #[cold]
    fn do_without(&mut self, index: u32) {
        if let Some(cursor) = &mut self.cursor {
            cursor.take_back(index);
        }
        self.without_room += 1;
    }

    /// For the block in a place that goes out.
    #[inline(always)]
    pub(super) fn ties(&mut self, shared: &Arc<Shared<B>>) -> Ties<B> {
        if self.ties.is_empty() {
            self.tie(shared);
        }
        self.ties.pop().expect("it was just tied")
    }

    #[cold]
    fn tie(&mut self, shared: &Arc<Shared<B>>) {
        let arena = self.arena.as_ref().expect("a place that goes out is in an arena");
        self.ties.push(Ties { shared: Arc::clone(shared), slab: Arc::clone(&arena.slab) });
    }

    /// The next allocation is not the next one of the schedule.
    #[cold]
    fn differs(&mut self, bytes: u64) -> Option<Found> {
        let most_bytes = self.arena.as_ref().map_or(u64::MAX, |arena| arena.extent.bytes());
        let cursor = self.cursor.as_mut()?;
        if let (Mode::Auto(auto), Some(next)) = (&mut self.mode, cursor.followed())
            && let Some(other) = auto.other(cursor.schedule(), next, bytes, most_bytes)
        {
            cursor.switch(&other);
            return cursor.take_next(bytes);
        }
        let (expected_bytes, begun) = (cursor.expected_bytes(), cursor.allocations());
        self.learn_from_here(begun);
        let cursor = self.cursor.as_mut()?;
        let found = cursor.search(bytes);
        self.different += 1;
        let met = cursor.met();
        self.report.last_deviation =
            Some(Deviation { step: self.report.steps, allocation: met + self.different - 1, bytes, expected_bytes });
        match found {
            Found::Different => self.report.allocations_unplanned += 1,
            _ => self.report.allocations_reordered += 1,
        }
        if matches!(self.mode, Mode::Auto(_)) {
            // Most often a step of another shape differs from the first, and its memory is better used without an arena.
            let is_idle = cursor.out() == 0;
            let is_other = self.different > DIFFERENCES_MAX && self.different * 4 > met;
            if is_other || (is_idle && found == Found::Different) {
                self.abandon();
            }
        }
        Some(found)
    }

    /// The rest of this step is the pool's.
    fn abandon(&mut self) {
        (self.serves, self.is_abandoned) = (false, true);
        self.rest = Some(self.leave_idle_arena());
    }

    /// What is to be dropped after a call of [`take`](Self::take).
    pub(super) fn take_rest(&mut self) -> Option<Rest<B>> {
        self.rest.take()
    }

    /// The step is not as planned: it is written down from its beginning, its first allocations as far as they are known.
    #[cold]
    fn learn_from_here(&mut self, begun: usize) {
        let (Mode::Auto(auto), Some(cursor)) = (&mut self.mode, &self.cursor) else { return };
        if auto.learner.is_some() {
            return;
        }
        let mut learner = Learner::new();
        let arena = self.arena.as_ref().map(at);
        let mut live = cursor.live().peekable();
        for (index, (bytes, freed_at)) in cursor.begun().take(begun).enumerate() {
            let offset = live.next_if(|(live, _)| *live == index).map(|(_, offset)| offset);
            let at = Option::zip(arena, offset).map(|((slab, start), offset)| (slab, start + offset));
            learner.resume(bytes, freed_at, at);
        }
        auto.learner = Some(learner);
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
        if let Mode::Auto(auto) = &mut self.mode
            && let Some(learner) = &mut auto.learner
        {
            learner.free(at(&home));
        }
        let Some(offset) = self.arena.as_ref().and_then(|arena| offset_in(arena, &home)) else {
            return Some(self.put_back_late(home, shared));
        };
        let cursor = self.cursor.as_mut().expect("an arena is there for a schedule");
        cursor.put_back(home.extent.index(), offset);
        if let Some(shared) = shared {
            self.ties.push(Ties { shared, slab: home.slab });
        }
        if (self.is_abandoned || is_wanted) && cursor.out() == 0 { Some(self.leave_arena()) } else { None }
    }

    /// Into an arena that is no longer used.
    #[cold]
    fn put_back_late(&mut self, home: Home<B::Slab>, shared: Option<Arc<Shared<B>>>) -> Rest<B> {
        let mut rest = Rest::new();
        rest.pools.extend(shared);
        if let Some(index) = self.leaving.iter().position(|leaving| offset_in(&leaving.arena, &home).is_some()) {
            // Before another thread may give the arena home.
            drop(home.slab);
            self.leaving[index].out -= 1;
            if self.leaving[index].out == 0 {
                rest.arenas.push(self.leaving.swap_remove(index).arena);
                keep_small(&mut self.leaving);
            }
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
        let over = self.held.extract_if(.., |held| held.is_over()).collect();
        keep_small(&mut self.held);
        over
    }

    /// Nobody uses it any more, and it is as it should be.
    pub(super) fn end_hold(&mut self, home: Home<B::Slab>) -> Rest<B> {
        self.put_back(home, None, false).unwrap_or_else(Rest::new)
    }

    /// A step ends; what was written down of it.
    pub(super) fn end_step(&mut self) -> Ended {
        let followed = self.cursor.as_ref().filter(|_| self.serves || self.is_abandoned);
        if let Some(cursor) = followed {
            let ends_as_another = match (&mut self.mode, cursor.followed()) {
                (Mode::Auto(auto), Some(next)) if self.serves => auto.ends_after(cursor.schedule(), next),
                _ => false,
            };
            let report = &mut self.report;
            let is_exact = cursor.is_complete() || ends_as_another;
            report.steps_exact += u64::from(is_exact && self.serves && self.without_room == 0);
            report.steps_without_room += u64::from(self.without_room > 0);
            if !is_exact {
                report.allocations_skipped += cursor.unmet();
                let begun = cursor.allocations();
                self.learn_from_here(begun);
            } else if let Mode::Auto(auto) = &mut self.mode {
                auto.followed();
            }
        }
        let blocked = self.blocked > 0;
        (self.different, self.blocked, self.without_room) = (0, 0, 0);
        match &mut self.mode {
            Mode::Auto(auto) => auto.end_step(blocked),
            _ => Ended::Known,
        }
    }

    /// The schedule of the next step, which begins now; and how large an arena is wanted.
    pub(super) fn begin_step(&mut self) -> Option<(Arc<Schedule>, u64)> {
        self.report.steps += 1;
        (self.serves, self.is_abandoned) = (false, false);
        let (schedule, most_bytes) = match &mut self.mode {
            Mode::Off => return None,
            Mode::Fixed(schedule) => (Arc::clone(schedule), schedule.height_bytes()),
            Mode::Auto(auto) => {
                let Some(schedule) = auto.begin_step() else {
                    self.report.steps_profiled += 1;
                    return None;
                };
                (schedule, auto.height_bytes())
            }
        };
        match &mut self.cursor {
            Some(cursor) => cursor.begin(&schedule),
            None => self.cursor = Some(Cursor::new(Arc::clone(&schedule))),
        }
        self.report.height_bytes = schedule.height_bytes();
        Some((schedule, most_bytes))
    }

    /// Places go out from now on, if there is an arena. One that was kept because a block is in it, or that another thread
    /// took for another step, may be too small: then the step does without.
    pub(super) fn serve(&mut self) -> Rest<B> {
        let Some(cursor) = &self.cursor else { return Rest::new() };
        let is_too_small = self.arena.is_some() && self.arena_bytes() < cursor.schedule().height_bytes();
        let rest = if is_too_small { self.leave_arena() } else { Rest::new() };
        self.serves = true;
        rest
    }

    /// To ask costs more than a step gains where there is no room: idle slabs go back to the device for it.
    pub(super) fn may_ask_for_an_arena(&mut self) -> bool {
        let may_ask = self.patience.0 == 0;
        self.patience.0 = self.patience.0.saturating_sub(1);
        may_ask
    }

    pub(super) fn asked_for_an_arena(&mut self, has_it: bool) {
        let steps = if has_it { 0 } else { (2 * self.patience.1).clamp(1, PATIENCE_MAX) };
        self.patience = (steps, steps);
    }

    pub(super) fn arena_bytes(&self) -> u64 {
        self.arena.as_ref().map_or(0, |arena| arena.extent.bytes())
    }

    /// Takes an arena in the place of the one that was there, unless that is as large: another thread was faster.
    pub(super) fn set_arena(&mut self, arena: Home<B::Slab>) -> Rest<B> {
        if !self.is_on() || arena.extent.bytes() <= self.arena_bytes() {
            return Rest { arenas: vec![arena], pools: Vec::new() };
        }
        let rest = self.leave_arena();
        self.arena = Some(arena);
        rest
    }

    /// The arena is not used any more. It goes home when everything in it is back.
    pub(super) fn leave_arena(&mut self) -> Rest<B> {
        let mut rest = Rest::new();
        rest.pools = std::mem::take(&mut self.ties).into_iter().map(|ties| ties.shared).collect();
        let Some(arena) = self.arena.take() else { return rest };
        let out = self.cursor.as_ref().map_or(0, Cursor::out);
        if out == 0 {
            rest.arenas.push(arena);
        } else {
            self.leaving.push(Leaving { arena, out });
            self.cursor = self.cursor.take().map(|cursor| Cursor::new(Arc::clone(cursor.schedule())));
        }
        rest
    }

    /// Takes the arena out if nothing in it is in use.
    pub(super) fn leave_idle_arena(&mut self) -> Rest<B> {
        if self.cursor.as_ref().is_none_or(|cursor| cursor.out() == 0) { self.leave_arena() } else { Rest::new() }
    }

    /// No more planned steps.
    pub(super) fn end(&mut self) -> Rest<B> {
        let rest = self.leave_arena();
        (self.mode, self.cursor, self.serves, self.is_abandoned) = (Mode::Off, None, false, false);
        (self.different, self.blocked, self.without_room) = (0, 0, 0);
        self.patience = (0, 0);
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
            Mode::Auto(auto) => auto.shapes() as u64,
        };
        let allocations_planned = self.report.allocations_planned + self.tally.allocations;
        PlanReport { plans, arena_bytes: self.arena_bytes(), allocations_planned, ..self.report }
    }

    pub(in crate::pool) fn metadata_bytes(&self) -> u64 {
        let mode = match &self.mode {
            Mode::Off => 0,
            Mode::Fixed(schedule) => schedule.metadata_bytes(),
            Mode::Auto(auto) => auto.metadata_bytes(),
        };
        let places = vec_bytes(&self.ties) + vec_bytes(&self.held) + vec_bytes(&self.leaving);
        mode + self.cursor.as_ref().map_or(0, Cursor::metadata_bytes) + places
    }

    pub(in crate::pool) fn check(&self) {
        if let Some(cursor) = &self.cursor {
            cursor.check();
            assert!(self.arena.is_some() || cursor.out() == 0, "blocks of an arena that is gone");
            let is_high_enough = self.arena_bytes() >= cursor.schedule().height_bytes();
            assert!(!self.serves || self.arena.is_none() || is_high_enough, "places past the end of the arena");
        }
    }
}

/// Where a home is.
pub(in crate::pool) fn at<S>(home: &Home<S>) -> At {
    (home.slab.serial, home.extent.offset())
}

/// Where a place is in an arena, if it is.
fn offset_in<S>(whole: &Home<S>, part: &Home<S>) -> Option<u64> {
    let offset = part.extent.offset().checked_sub(whole.extent.offset())?;
    (Arc::ptr_eq(&whole.slab, &part.slab) && offset < whole.extent.bytes()).then_some(offset)
}
