//! Memory goes back when nothing was allocated or freed for a while.
//!
//! No allocation looks at a clock for that: each call compares the pool's counts with those of the call before.

use std::time::{Duration, Instant};

use super::state::State;
use super::{Pool, Shared};
use crate::backend::Backend;

/// Counts that change with every allocation, free and resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Activity {
    allocations: u64,
    resizes: u64,
    blocks: u64,
    failures: u64,
}

impl<S> State<S> {
    /// Returns for how long the counts have been what they are, as far as the calls of this tell. `None` if they have changed since the
    /// last one.
    fn idle_for(&mut self, now: Instant) -> Option<Duration> {
        let (_, blocks) = self.held();
        let totals = self.totals();
        let activity =
            Activity { allocations: totals.allocations, resizes: totals.resizes, failures: totals.failures, blocks };
        match self.idle_since {
            Some((before, since)) if before == activity => Some(now.saturating_duration_since(since)),
            _ => {
                self.idle_since = Some((activity, now));
                None
            }
        }
    }
}

impl<B: Backend> Shared<B> {
    fn trim_if_idle(&self, longest: Duration) -> u64 {
        self.fold_shards();
        let idle = self.state().idle_for(Instant::now());
        if idle.is_some_and(|idle| idle >= longest) { self.trim() } else { 0 }
    }
}

impl<B: Backend> Pool<B> {
    /// Gives back what [`trim`](Self::trim) does, if nothing was allocated, freed or resized for so long. For a program that calls
    /// it now and then, between two requests or from a timer: the pool has no timer of its own.
    ///
    /// Returns the bytes that went back to the backend: 0 if the pool is not idle, or has nothing to give.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let pool = Pool::host(Config::new("64 MiB"))?;
    /// drop(pool.alloc(Request::bytes(1 << 20))?);
    /// let patience = Duration::ZERO; // a minute, say
    /// assert_eq!(pool.trim_if_idle(patience), 0); // the first look
    /// assert_eq!(pool.trim_if_idle(patience), 1 << 20); // nothing has happened since
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// Each call compares the counts of allocations, failures, blocks and resizes with those that the last call found. So idle time
    /// begins with the first call that finds what the next ones find too, and is as exact as the calls are frequent. Memory goes
    /// back with the first call that comes `longest` after that one. A pool that is busy between two calls costs nothing more for it.
    pub fn trim_if_idle(&self, longest: Duration) -> u64 {
        self.shared().trim_if_idle(longest)
    }
}
