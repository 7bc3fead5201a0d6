//! How long a solver may go on: work that is counted, a clock where one is asked for, and a flag of other threads.
//!
//! **Units.** Every stage counts what it looks at: buffers, sections, ranges, pairs. Each kind counts as many units as one of
//! it takes nanoseconds, or nearly (`docs/DESIGN.md` has the figures). So a limit is about the same time for every instance
//! and in every stage, and gives the same plan on every machine. A caller gives and gets [`UNITS_PER_STEP`] units at a time,
//! as one step.
//!
//! Work whose units are known before is taken first, and left undone if there is no room for it. Small pieces (one placement,
//! one node of a search, one ejection) are counted after they are done: a limit may be passed by one of them.

use std::time::Instant;

use crate::sync::{AtomicBool, Ordering};

/// Units of a step.
pub(super) const UNITS_PER_STEP: u64 = 1_000;

/// Units between two looks at the clock and the flag.
const UNITS_BETWEEN_LOOKS: u64 = 100_000;

/// The work that a solver has done and may do.
#[derive(Debug)]
pub(super) struct Effort<'a> {
    units: u64,
    /// The limit of the stage that is under way.
    stage_max: u64,
    next_look: u64,
    /// What is done now is done whatever the limits say.
    pub is_sure: bool,
    deadline: Option<Instant>,
    /// Set when another thread has found what all look for.
    done: Option<&'a AtomicBool>,
}

impl<'a> Effort<'a> {
    pub fn new(units_max: u64, deadline: Option<Instant>, done: Option<&'a AtomicBool>) -> Self {
        Self { units: 0, stage_max: units_max, next_look: 0, is_sure: false, deadline, done }
    }

    /// Counts work that was done. False if no more may be done.
    #[inline]
    pub fn spend(&mut self, units: u64) -> bool {
        self.units = self.units.saturating_add(units);
        self.units < self.next_look || self.look()
    }

    pub fn is_left(&mut self) -> bool {
        self.spend(0)
    }

    /// Counts work that is about to be done. False, and nothing is counted, if the limit leaves no room for all of it.
    pub fn take(&mut self, units: u64) -> bool {
        let sum = self.units.saturating_add(units);
        let is_room = self.is_left() && (self.is_sure || sum <= self.stage_max);
        self.units = if is_room { sum } else { self.units };
        is_room
    }

    pub fn units(&self) -> u64 {
        self.units
    }

    /// The work so far, in steps.
    pub fn steps(&self) -> u64 {
        self.units.div_ceil(UNITS_PER_STEP)
    }

    /// Begins a stage of at most so many units, within the one that is under way; returns the limit of that, for
    /// [`end_stage`](Self::end_stage).
    pub fn begin_stage(&mut self, units: u64) -> u64 {
        let outer_max = self.stage_max;
        self.stage_max = outer_max.min(self.units.saturating_add(units));
        self.next_look = 0;
        outer_max
    }

    pub fn end_stage(&mut self, outer_max: u64) {
        self.stage_max = outer_max;
        self.next_look = 0;
    }

    #[cold]
    fn look(&mut self) -> bool {
        if self.is_sure {
            return true;
        }
        if self.units >= self.stage_max
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
            || self.done.is_some_and(|done| done.load(Ordering::Relaxed))
        {
            // From here on every call looks again, and finds the same.
            self.next_look = 0;
            return false;
        }
        self.next_look = self.units.saturating_add(UNITS_BETWEEN_LOOKS).min(self.stage_max);
        true
    }
}

/// Units to sort so many keys.
pub(super) fn sorting(count: usize) -> u64 {
    let count = count as u64;
    3 * count * u64::from(count.max(1).ilog2() + 1)
}

/// A small generator of random numbers (Marsaglia's xorshift with a multiplication): the crate's own, so that a seed
/// gives the same plan whatever other crates do.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Seeds that are close give states that are far apart, and none gives zero.
        Self((seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `bound - 1`; `bound` is not 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * u64::from(bound)) >> 32) as u32
    }
}
