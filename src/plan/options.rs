//! What a plan must keep to, and how long to look for it.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

/// Steps of the default limit: some seconds where the load is not reached; recorded training steps take hundredths of one.
const STEPS_DEFAULT: u64 = 4_000_000;

/// Threads beyond which a request for them must be a mistake.
const THREADS_MAX: usize = 1024;

/// What a plan must keep to, and how long to look for it.
///
/// ```
/// use tensorpool::plan::Options;
///
/// let options = Options::new().align(256).slabs([64 << 20]).steps(1_000_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub(super) align_bytes: u64,
    pub(super) slab_bytes: Vec<u64>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) steps_max: u64,
    pub(super) time_limit: Option<Duration>,
    pub(super) threads: usize,
    pub(super) seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// No alignment, no slabs, no capacity, four million steps, one thread, seed 1.
    pub fn new() -> Self {
        Self {
            align_bytes: 1,
            slab_bytes: Vec::new(),
            capacity_bytes: None,
            steps_max: STEPS_DEFAULT,
            time_limit: None,
            threads: 1,
            seed: 1,
        }
    }

    /// Offsets are multiples of this power of two, and sizes count as if rounded up to it.
    #[must_use]
    pub fn align(mut self, bytes: u64) -> Self {
        self.align_bytes = bytes;
        self
    }

    /// No buffer straddles two slabs. Slabs of these sizes follow one another from offset 0, and more as large as the
    /// last one as they are needed; an empty list means that there are no boundaries. All are multiples of the
    /// alignment.
    #[must_use]
    pub fn slabs(mut self, bytes: impl IntoIterator<Item = u64>) -> Self {
        self.slab_bytes = bytes.into_iter().collect();
        self
    }

    /// A height that will do: the solver stops when it is reached, even if less is possible. A plan that is higher is
    /// returned all the same.
    #[must_use]
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity_bytes = Some(bytes);
        self
    }

    /// The most work, in steps. A step is a fixed amount of counted work, alike in every stage: 1 to 2 µs on the machine on
    /// which it was measured (`docs/DESIGN.md`). The last placement or search node may pass the limit.
    ///
    /// Two passes are made whatever the limit: first fit by weight, and first fit in the order of time. The default limit has
    /// room for all simple orders that [`solve`](super::solve) names with 10,000 buffers that overlap at random.
    #[must_use]
    pub fn steps(mut self, steps: u64) -> Self {
        self.steps_max = steps;
        self
    }

    /// The most time, beside the limit of steps. **Not deterministic**: how far the solver gets depends on the machine.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// So many solvers at once, with different seeds and orders; the first that reaches what is looked for ends the
    /// others. **Not deterministic**: which one that is depends on the machine.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Where chance begins. The same seed gives the same plan.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        let Self { align_bytes, threads, .. } = self;
        if !align_bytes.is_power_of_two() {
            let message = format!("a plan's alignment of {} is not a power of two", exact(*align_bytes));
            return Err(Error::new(ErrorKind::Alignment, message));
        }
        if let Some(bytes) = self.slab_bytes.iter().find(|bytes| **bytes == 0 || **bytes % align_bytes > 0) {
            let message =
                format!("a slab of {} is no multiple of the alignment of {}", exact(*bytes), exact(*align_bytes));
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if *threads == 0 || *threads > THREADS_MAX {
            return Err(Error::new(ErrorKind::Invalid, format!("{threads} threads: a plan takes 1 to {THREADS_MAX}")));
        }
        Ok(())
    }
}
