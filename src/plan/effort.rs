//! How long a solver may go on: steps that are counted, a clock where one is asked for, and a flag of other threads.

use std::time::Instant;

use crate::sync::{AtomicBool, Ordering};

/// Steps between two looks at the clock and the flag: a fraction of a millisecond of search, some milliseconds of fits.
const STEPS_BETWEEN_LOOKS: u64 = 256;

/// The steps a solver has made and may make. A step is one placement tried.
#[derive(Debug)]
pub(super) struct Effort<'a> {
    pub steps: u64,
    steps_max: u64,
    next_look: u64,
    deadline: Option<Instant>,
    /// Set when another thread has found what all look for.
    done: Option<&'a AtomicBool>,
}

impl<'a> Effort<'a> {
    pub fn new(steps_max: u64, deadline: Option<Instant>, done: Option<&'a AtomicBool>) -> Self {
        Self { steps: 0, steps_max, next_look: 0, deadline, done }
    }

    /// Counts steps that are about to be made. False when no more may be.
    pub fn spend(&mut self, steps: u64) -> bool {
        let is_left = self.steps < self.next_look || self.look();
        self.steps = self.steps.saturating_add(if is_left { steps } else { 0 });
        is_left
    }

    /// Without any limit.
    pub fn unlimited() -> Self {
        Self::new(u64::MAX, None, None)
    }

    /// Counts steps that are made whatever the limits say.
    pub fn count(&mut self, steps: u64) {
        self.steps = self.steps.saturating_add(steps);
    }

    pub fn is_left(&mut self) -> bool {
        self.spend(0)
    }

    #[cold]
    fn look(&mut self) -> bool {
        if self.steps >= self.steps_max
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
            || self.done.is_some_and(|done| done.load(Ordering::Relaxed))
        {
            // From here on every call looks again, and finds the same.
            self.next_look = 0;
            return false;
        }
        self.next_look = self.steps.saturating_add(STEPS_BETWEEN_LOOKS).min(self.steps_max);
        true
    }
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
