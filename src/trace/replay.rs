//! A trace against a pool: the same allocations and frees in the same order, and what they came to.

use std::ops::ControlFlow;
use std::slice::Iter;
use std::time::{Duration, Instant};

use super::{Event, Trace};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::pool::{Block, Pool, Request};

/// Events between two looks at the clock, and between two calls of a caller's closure.
pub(super) const EVENTS_PER_CHUNK: usize = 4096;

/// What a replay came to. Bytes, unless the name says otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Replay {
    /// Allocations and frees in the trace.
    pub events: u64,
    /// The most that the trace has alive.
    pub live_peak_bytes: u64,
    /// The most that the pool had from its backend.
    pub reserved_peak_bytes: u64,
    /// The longest run of free pages when most was alive.
    pub largest_free_run_bytes: u64,
    /// Allocations that the pool could not serve. What would have freed them does nothing.
    pub failures: u64,
    /// The largest of them, as it was asked for; 0 where none failed.
    pub largest_failure_bytes: u64,
    /// Why the first of them failed, in the words of its error.
    pub first_failure: Option<String>,
    /// Time in the pool.
    pub elapsed: Duration,
}

impl Replay {
    /// Returns peak reserved over peak live. `None` where requests failed, as the pool never had all of the peak, and for a
    /// trace that never has a byte alive.
    pub fn ratio(&self) -> Option<f64> {
        if self.failures > 0 { None } else { ratio(self.reserved_peak_bytes, self.live_peak_bytes) }
    }

    /// Nanoseconds for an allocation or a free, on average.
    pub fn ns_per_op(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.events.max(1) as f64
    }
}

/// `None` where there is no peak to compare with.
pub(super) fn ratio(bytes: u64, live_peak_bytes: u64) -> Option<f64> {
    (live_peak_bytes > 0).then(|| bytes as f64 / live_peak_bytes as f64)
}

/// What a long search or replay tells while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// So many of the trace's events are done.
    Events(usize),
    /// A budget is tried.
    Try {
        /// The budget.
        budget_bytes: u64,
    },
}

/// Replays a trace against a pool, which should be a fresh one: its peaks are the replay's. The trace's steps are
/// [marked](Pool::mark_step), for a pool whose steps are [planned](Pool::auto_plan).
///
/// # Errors
/// What the pool reports, if it is not for want of room: a lost device, a closed pool.
pub fn replay<B: Backend>(trace: &Trace, pool: &Pool<B>) -> Result<Replay> {
    let whole = replay_while(trace, pool, |_| ControlFlow::Continue(()))?;
    Ok(whole.expect("nobody stops it"))
}

/// As [`replay`], and calls `go_on` now and then, outside the time that is measured. `None` if that says to stop.
///
/// # Errors
/// As [`replay`].
pub fn replay_while<B: Backend>(
    trace: &Trace,
    pool: &Pool<B>,
    mut go_on: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Option<Replay>> {
    let mut run = Run::new(trace, pool);
    let mut found = Replay {
        events: trace.allocations() + trace.frees(),
        live_peak_bytes: trace.live_peak_bytes(),
        reserved_peak_bytes: 0,
        largest_free_run_bytes: 0,
        failures: 0,
        largest_failure_bytes: 0,
        first_failure: None,
        elapsed: Duration::ZERO,
    };
    // What the pool looks like at the peak is asked between two chunks.
    let (to_peak, from_peak) = trace.events.split_at(trace.counts.live_peak_events);
    let mut done = 0;
    for (part, events) in [to_peak, from_peak].into_iter().enumerate() {
        for chunk in events.chunks(EVENTS_PER_CHUNK) {
            let mut left = chunk.iter();
            let start = Instant::now();
            while let Some((bytes, error)) = run.play(&mut left)? {
                found.failures += 1;
                found.largest_failure_bytes = found.largest_failure_bytes.max(bytes);
                found.first_failure.get_or_insert_with(|| error.to_string());
            }
            found.elapsed += start.elapsed();
            done += chunk.len();
            if go_on(Progress::Events(done)).is_break() {
                return Ok(None);
            }
        }
        if part == 0 {
            found.largest_free_run_bytes = pool.stats().largest_free_run_bytes;
        }
    }
    found.reserved_peak_bytes = pool.stats().reserved_peak_bytes;
    Ok(Some(found))
}

/// A replay under way.
pub(super) struct Run<'a, B: Backend> {
    pool: &'a Pool<B>,
    /// By id.
    blocks: Vec<Option<Block<B>>>,
}

impl<'a, B: Backend> Run<'a, B> {
    pub(super) fn new(trace: &Trace, pool: &'a Pool<B>) -> Self {
        let blocks = std::iter::repeat_with(|| None).take(trace.allocations() as usize).collect();
        Self { pool, blocks }
    }

    /// Plays the events up to the first request for which there is no memory, and returns its bytes and the error. The
    /// events behind it are left in the iterator.
    ///
    /// Labels are left out: what is measured is the pool.
    pub(super) fn play(&mut self, events: &mut Iter<'_, Event>) -> Result<Option<(u64, Error)>> {
        for event in events {
            match *event {
                Event::Alloc { id, bytes, .. } => match self.pool.alloc(Request::bytes(bytes)) {
                    Ok(block) => self.blocks[id as usize] = Some(block),
                    Err(error) if is_no_memory(&error) => return Ok(Some((bytes, error))),
                    Err(error) => return Err(error),
                },
                Event::Free { id } => self.blocks[id as usize] = None,
                Event::Step { .. } => self.pool.mark_step(),
                Event::Failure { .. } => {}
            }
        }
        Ok(None)
    }
}

/// The pool had no room, the device refused memory, or has a limit.
pub(super) fn is_no_memory(error: &Error) -> bool {
    error.is_no_room() || error.is_too_large() || error.is_out_of_memory()
}
