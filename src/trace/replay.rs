//! A trace against a pool: the same allocations and frees in the same order, and what they came to.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{Event, Trace};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::{Block, Pool, Request};
use crate::units::{exact, round_up};

/// Events between two looks at the clock, and between two calls of a caller's closure.
const EVENTS_PER_CHUNK: usize = 4096;

/// Budgets are told apart to this: the least page of a pool.
const BUDGET_STEP_BYTES: u64 = 1024;

/// What a replay came to. Bytes, unless the name says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Time in the pool.
    pub elapsed: Duration,
}

impl Replay {
    /// Peak reserved over peak live; 1 where nothing was ever alive and nothing reserved.
    pub fn ratio(&self) -> f64 {
        ratio(self.reserved_peak_bytes, self.live_peak_bytes)
    }

    /// Nanoseconds for an allocation or a free, on average.
    pub fn ns_per_op(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.events.max(1) as f64
    }
}

/// The smallest budget that works, and how it was found.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MinBudget {
    /// The budget: 1 KiB less does not work.
    pub bytes: u64,
    /// What the trace has alive at most.
    pub live_peak_bytes: u64,
    /// How many budgets were tried.
    pub tries: u64,
}

impl MinBudget {
    /// Budget over peak live.
    pub fn ratio(&self) -> f64 {
        ratio(self.bytes, self.live_peak_bytes)
    }
}

fn ratio(bytes: u64, live_peak_bytes: u64) -> f64 {
    if bytes == live_peak_bytes { 1.0 } else { bytes as f64 / live_peak_bytes as f64 }
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
    let mut elapsed = Duration::ZERO;
    // What the pool looks like at the peak is asked between two chunks.
    let (to_peak, from_peak) = trace.events.split_at(trace.counts.live_peak_events);
    let mut largest_free_run_bytes = 0;
    let mut done = 0;
    for (part, events) in [to_peak, from_peak].into_iter().enumerate() {
        for chunk in events.chunks(EVENTS_PER_CHUNK) {
            let start = Instant::now();
            run.play(chunk)?;
            elapsed += start.elapsed();
            done += chunk.len();
            if go_on(Progress::Events(done)).is_break() {
                return Ok(None);
            }
        }
        if part == 0 {
            largest_free_run_bytes = pool.stats().largest_free_run_bytes;
        }
    }
    Ok(Some(Replay {
        events: trace.allocations() + trace.frees(),
        live_peak_bytes: trace.live_peak_bytes(),
        reserved_peak_bytes: pool.stats().reserved_peak_bytes,
        largest_free_run_bytes,
        failures: run.failures,
        elapsed,
    }))
}

/// Finds the smallest budget in which every allocation of the trace is served, by bisection: `open` makes a fresh pool
/// of a budget, or one whose steps are [planned](crate::PlannedSteps). Budgets are tried in whole KiB from the trace's
/// peak on; what is found is the same every time.
///
/// More memory need not be better for a pool that places blocks: there may be a smaller budget that happens to work
/// below one that does not.
///
/// # Errors
/// [`ErrorKind::TooLarge`] if no budget up to 2^62 works, because the device has a limit; as `open` and [`replay`], but
/// that a pool cannot be opened in the budget for want of memory means that the budget does not work.
pub fn min_budget<B: Backend, P: AsRef<Pool<B>>>(
    trace: &Trace,
    open: impl Fn(u64) -> Result<P>,
    mut go_on: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Option<MinBudget>> {
    let mut tries = 0;
    let mut works = |budget_bytes: u64| {
        tries += 1;
        if go_on(Progress::Try { budget_bytes }).is_break() {
            return Ok(None);
        }
        fits(trace, &open, budget_bytes, &mut go_on)
    };
    let least_bytes = round_up(trace.live_peak_bytes(), BUDGET_STEP_BYTES).unwrap_or(u64::MAX);
    let Some(least_works) = works(least_bytes)? else { return Ok(None) };
    if least_works {
        return Ok(Some(MinBudget { bytes: least_bytes, live_peak_bytes: trace.live_peak_bytes(), tries }));
    }
    // From here on `low_bytes` does not work.
    let (mut low_bytes, mut high_bytes) = (least_bytes, least_bytes.saturating_add(least_bytes / 8).max(64 * 1024));
    loop {
        let Some(high_works) = works(high_bytes)? else { return Ok(None) };
        if high_works {
            break;
        }
        if high_bytes > 1 << 62 {
            let message = format!("no budget up to {} serves the trace {:?}", exact(high_bytes), trace.name());
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        (low_bytes, high_bytes) = (high_bytes, high_bytes.saturating_mul(2));
    }
    while high_bytes - low_bytes > BUDGET_STEP_BYTES {
        let middle_bytes = low_bytes + (high_bytes - low_bytes) / 2 / BUDGET_STEP_BYTES * BUDGET_STEP_BYTES;
        let middle_bytes = middle_bytes.max(low_bytes + BUDGET_STEP_BYTES);
        let Some(middle_works) = works(middle_bytes)? else { return Ok(None) };
        if middle_works {
            high_bytes = middle_bytes;
        } else {
            low_bytes = middle_bytes;
        }
    }
    Ok(Some(MinBudget { bytes: high_bytes, live_peak_bytes: trace.live_peak_bytes(), tries }))
}

/// Whether every allocation is served in the budget; `None` if it was stopped.
fn fits<B: Backend, P: AsRef<Pool<B>>>(
    trace: &Trace,
    open: &impl Fn(u64) -> Result<P>,
    budget_bytes: u64,
    go_on: &mut impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Option<bool>> {
    let pool = match open(budget_bytes) {
        Ok(pool) => pool,
        Err(error) if is_no_memory(&error) => return Ok(Some(false)),
        Err(error) => return Err(error),
    };
    let mut run = Run::new(trace, pool.as_ref());
    let mut done = 0;
    for chunk in trace.events.chunks(EVENTS_PER_CHUNK) {
        run.play(chunk)?;
        done += chunk.len();
        if run.failures > 0 {
            return Ok(Some(false));
        }
        if go_on(Progress::Events(done)).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(true))
}

struct Run<'a, B: Backend> {
    pool: &'a Pool<B>,
    /// By id.
    blocks: Vec<Option<Block<B>>>,
    failures: u64,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(trace: &Trace, pool: &'a Pool<B>) -> Self {
        let blocks = std::iter::repeat_with(|| None).take(trace.allocations() as usize).collect();
        Self { pool, blocks, failures: 0 }
    }

    /// Labels are left out: what is measured is the pool.
    fn play(&mut self, events: &[Event]) -> Result<()> {
        for event in events {
            match *event {
                Event::Alloc { id, bytes, .. } => match self.pool.alloc(Request::bytes(bytes)) {
                    Ok(block) => self.blocks[id as usize] = Some(block),
                    Err(error) if is_no_memory(&error) => self.failures += 1,
                    Err(error) => return Err(error),
                },
                Event::Free { id } => self.blocks[id as usize] = None,
                Event::Step { .. } => self.pool.mark_step(),
                Event::Failure { .. } => {}
            }
        }
        Ok(())
    }
}

/// The pool had no room, the device refused memory, or has a limit.
fn is_no_memory(error: &Error) -> bool {
    error.is_no_room() || error.is_too_large() || error.is_out_of_memory()
}
