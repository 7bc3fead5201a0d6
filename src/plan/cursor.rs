//! A step against its schedule: what is asked for is found in it, and what goes out overlaps nothing that is out.
//!
//! Each entry goes through *untouched*, *live* and *done* once a step. A place goes out only when all its predecessors are
//! done. One that was never asked for is done as soon as those before it are, and cannot go out any more. So whatever had a
//! byte of the place earlier in the schedule is back, and whatever has it later is still to come: by induction over the
//! schedule no two blocks that are out overlap, whatever the program does.
//!
//! What is still live when the step ends is a *straggler*: until it is back, places that overlap it do not go out.

use super::schedule::Schedule;
use crate::sync::Arc;

/// How far from where the step is an allocation is looked for, either way: what is met in another order, left out, or put
/// between.
const WINDOW: usize = 16;

/// How many entries that were left out are looked at before a place counts as not free.
const PASSED_AT_ONCE: usize = 64;

/// With more of these places are not looked at one by one: nothing goes out until they are back.
const STRAGGLERS_MAX: usize = 64;

/// States of an entry.
const UNTOUCHED: u8 = 4;
/// It was asked for, and its place was not free.
const REFUSED: u8 = 3;
const LIVE: u8 = 2;
/// It was never asked for, and cannot go out any more.
const PASSED: u8 = 1;
/// It is back.
const DONE: u8 = 0;

fn is_done(state: u8) -> bool {
    state < LIVE
}

/// A place in the arena, until it is given back with [`Cursor::free`]. A plain token: copies are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    offset: u64,
    bytes: u64,
    entry: u32,
}

impl Place {
    /// Where it begins in the arena, in bytes.
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// Its bytes: those asked for, rounded up to the schedule's alignment.
    pub fn bytes(self) -> u64 {
        self.bytes
    }
}

/// Why an allocation has no place now: whoever asked gets memory from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplanned {
    /// The plan has it, without a place: it lives longer than the step.
    Kept,
    /// There is a place for it, and something that is not back yet has a part of it.
    Blocked,
    /// The plan does not have it there: of another size, or one more.
    Different,
}

/// What the schedule has for an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The place of this entry.
    Place(u32),
    /// Others are to serve it: it lives longer than the step.
    Kept,
    /// There is a place for it, and something that is not back yet has a part of it.
    Blocked,
    /// Nothing: of another size, or one more.
    Different,
}

/// A step against its schedule: plain bookkeeping, without memory, for one thread. (`Pool::follow_plan` has the memory
/// to it.)
///
/// ```
/// use std::sync::Arc;
/// use tensorpool::plan::{self, Cursor, Lifetime, Options, Schedule, Unplanned};
///
/// let step = [Lifetime::new(0, 2, 4096), Lifetime::new(1, 4, 1000), Lifetime::new(3, 4, 4096)];
/// let plan = plan::solve(&step, &Options::new().align(256))?;
/// let mut cursor = Cursor::new(Arc::new(Schedule::new(&step, &plan, 256)?));
/// for _ in 0..3 {
///     let first = cursor.alloc(4096).unwrap();
///     let second = cursor.alloc(1000).unwrap();
///     assert_eq!(second.bytes(), 1024);
///     assert_eq!(cursor.alloc(5), Err(Unplanned::Different));
///     cursor.free(first);
///     let third = cursor.alloc(4096).unwrap();
///     assert_eq!(third.offset(), first.offset());
///     cursor.free(second);
///     cursor.free(third);
///     cursor.begin_again();
/// }
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Debug)]
pub struct Cursor {
    schedule: Arc<Schedule>,
    states: Vec<u8>,
    /// The entry that is expected next.
    next: usize,
    /// Entries that are live, in this step.
    live: usize,
    /// Ranges of the arena that blocks of earlier steps have.
    stragglers: Vec<(u64, u64)>,
    /// Every allocation so far was the next entry of the schedule.
    is_exact: bool,
    /// Entries that were asked for.
    met: usize,
}

impl Cursor {
    /// The first step begins.
    pub fn new(schedule: Arc<Schedule>) -> Self {
        let states = vec![UNTOUCHED; schedule.len()];
        Self { schedule, states, next: 0, live: 0, stragglers: Vec::new(), is_exact: true, met: 0 }
    }

    /// The next step begins, by the same schedule.
    pub fn begin_again(&mut self) {
        self.begin(&Arc::clone(&self.schedule));
    }

    /// The next step begins, by the same schedule or another one. What is out stays out.
    pub fn begin(&mut self, schedule: &Arc<Schedule>) {
        self.leave_behind();
        self.states.clear();
        self.states.resize(schedule.len(), UNTOUCHED);
        self.schedule = Arc::clone(schedule);
        (self.next, self.is_exact, self.met) = (0, true, 0);
    }

    /// What is live becomes a straggler.
    fn leave_behind(&mut self) {
        if self.live > 0 {
            let entries = self.schedule.entries().iter().zip(&self.states);
            self.stragglers.extend(entries.filter(|(_, state)| **state == LIVE).map(|(entry, _)| entry.range()));
            self.live = 0;
        }
    }

    /// The place of an allocation of so many bytes: that of the schedule's next entry, or of one up to 16 away whose
    /// size it is, if everything that had a part of it is back.
    ///
    /// # Errors
    /// There is none, and why. The step goes on.
    #[inline]
    pub fn alloc(&mut self, bytes: u64) -> std::result::Result<Place, Unplanned> {
        if bytes == 0 {
            return Err(Unplanned::Different);
        }
        let found = match self.take_next(bytes) {
            Some(found) => found,
            None => self.search(bytes),
        };
        match found {
            Found::Place(entry) => {
                let (offset, bytes) = self.place(entry);
                Ok(Place { offset, bytes, entry })
            }
            Found::Kept => Err(Unplanned::Kept),
            Found::Blocked => Err(Unplanned::Blocked),
            Found::Different => Err(Unplanned::Different),
        }
    }

    /// A place is given back. False if it is not out.
    #[inline]
    pub fn free(&mut self, place: Place) -> bool {
        self.put_back(place.entry, place.offset)
    }

    /// A block of so many bytes is asked for. `None` if the next entry is of another size, or there is none.
    #[inline]
    pub(crate) fn take_next(&mut self, bytes: u64) -> Option<Found> {
        let index = self.next;
        // Behind the last entry there is one of no bytes, which nobody asks for.
        let entry = &self.schedule.entries()[index];
        if entry.bytes != bytes {
            return None;
        }
        self.next += 1;
        self.met += 1;
        if !entry.is_placed() {
            self.states[index] = PASSED;
            return Some(Found::Kept);
        }
        Some(self.take_place(index))
    }

    #[inline]
    fn take_place(&mut self, index: usize) -> Found {
        let before = self.schedule.predecessors(index);
        if (self.stragglers.is_empty() && before.iter().all(|other| is_done(self.states[*other as usize])))
            || self.can_be_cleared(index)
        {
            self.states[index] = LIVE;
            self.live += 1;
            Found::Place(index as u32)
        } else {
            self.states[index] = REFUSED;
            self.is_exact = false;
            Found::Blocked
        }
    }

    /// Looks for an allocation that is not the next one, near by: first ahead, then behind.
    #[cold]
    pub(crate) fn search(&mut self, bytes: u64) -> Found {
        self.is_exact = false;
        let (entries, end) = (self.schedule.entries(), self.schedule.len());
        let is_it = |index: &usize| {
            entries[*index].bytes == bytes && entries[*index].is_placed() && self.states[*index] == UNTOUCHED
        };
        let mut ahead = self.next.min(end)..(self.next + WINDOW).min(end);
        let mut behind = self.next.saturating_sub(WINDOW)..self.next.min(end);
        let Some(index) = ahead.find(is_it).or_else(|| behind.rfind(is_it)) else { return Found::Different };
        self.next = self.next.max(index + 1);
        self.met += 1;
        self.take_place(index)
    }

    /// Whether everything that had a part of this place is back, or was never asked for and is passed now.
    #[cold]
    fn can_be_cleared(&mut self, index: usize) -> bool {
        let entry = &self.schedule.entries()[index];
        if self.stragglers.len() > STRAGGLERS_MAX || self.stragglers.iter().any(|range| entry.overlaps(range)) {
            return false;
        }
        let mut passed: Vec<u32> = Vec::new();
        let mut looked_at = 0;
        let mut at = index as u32;
        loop {
            for other in self.schedule.predecessors(at as usize) {
                let state = self.states[*other as usize];
                if state > LIVE && !passed.contains(other) {
                    passed.push(*other);
                }
                if state == LIVE || passed.len() > PASSED_AT_ONCE {
                    return false;
                }
            }
            let Some(next) = passed.get(looked_at) else { break };
            at = *next;
            looked_at += 1;
        }
        passed.iter().for_each(|other| self.states[*other as usize] = PASSED);
        true
    }

    /// A block is back: the place at this offset, which went out as this entry in this step or an earlier one. False if it
    /// is not out.
    #[inline]
    pub(crate) fn put_back(&mut self, index: u32, offset: u64) -> bool {
        if !self.stragglers.is_empty()
            && let Some(straggler) = self.stragglers.iter().position(|range| range.0 == offset)
        {
            self.stragglers.swap_remove(straggler);
            return true;
        }
        match self.states.get_mut(index as usize) {
            Some(state) if *state == LIVE && self.schedule.entries()[index as usize].offset == offset => {
                *state = DONE;
                self.live -= 1;
                true
            }
            _ => false,
        }
    }

    /// Where a place that went out is.
    pub(crate) fn place(&self, index: u32) -> (u64, u64) {
        let entry = &self.schedule.entries()[index as usize];
        (entry.offset, entry.held_bytes)
    }

    /// How many places are out, those of earlier steps among them.
    pub fn out(&self) -> usize {
        self.live + self.stragglers.len()
    }

    /// Ranges of the arena that are out, sorted.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = self.ranges_out().collect();
        ranges.sort_unstable();
        ranges
    }

    /// Bytes of the arena that are out.
    pub(crate) fn out_bytes(&self) -> u64 {
        self.ranges_out().map(|(start, end)| end - start).sum()
    }

    fn ranges_out(&self) -> impl Iterator<Item = (u64, u64)> {
        let entries = self.schedule.entries().iter().zip(&self.states);
        let live = entries.filter(|(_, state)| **state == LIVE).map(|(entry, _)| entry.range());
        live.chain(self.stragglers.iter().copied())
    }

    /// How many of the schedule's allocations the step has come to.
    #[cfg(test)]
    pub(crate) fn allocations(&self) -> usize {
        self.next
    }

    pub(crate) fn schedule(&self) -> &Arc<Schedule> {
        &self.schedule
    }

    /// Whether all of the schedule was asked for, and nothing else.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_exact && self.next == self.schedule.len()
    }

    /// Entries that were asked for.
    pub(crate) fn met(&self) -> u64 {
        self.met as u64
    }

    /// Those that nobody has asked for.
    pub(crate) fn unmet(&self) -> u64 {
        (self.schedule.len() - self.met) as u64
    }

    /// What the next allocation should be.
    pub(crate) fn expected_bytes(&self) -> Option<u64> {
        self.schedule.entries()[..self.schedule.len()].get(self.next).map(|entry| entry.bytes)
    }

    pub(crate) fn metadata_bytes(&self) -> u64 {
        (self.states.capacity() + self.stragglers.capacity() * size_of::<(u64, u64)>()) as u64
    }

    /// Panics if blocks that are out overlap: a defect of this crate.
    pub(crate) fn check(&self) {
        let out = self.ranges();
        assert_eq!(out.len(), self.out());
        assert!(out.is_sorted_by(|a, b| a.1 <= b.0), "blocks of a planned step overlap: {out:?}");
    }
}
