//! Budgets for a trace: a low one that works, and a safe one, above which a whole grid of them works.

use std::ops::ControlFlow;

use super::Trace;
use super::replay::{EVENTS_PER_CHUNK, Progress, Run, is_no_memory, ratio};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
use crate::units::{exact, round_up};

/// Budgets are told apart to this: the least page of a pool.
const BUDGET_STEP_BYTES: u64 = 1024;

/// A budget for which the search gives up.
const BUDGET_BYTES_MAX: u64 = 1 << 62;

/// The budgets in which every request of a trace is served, as [`min_budget`] finds them.
///
/// A larger budget is not always better for a pool that places blocks: some budgets fail above one that works. So there are
/// two figures, and a program is sized by [`safe_bytes`](MinBudget::safe_bytes).
///
/// A request that failed in the recording has no lifetime and is left out. So both figures are budgets of the requests that
/// succeeded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MinBudget {
    /// A budget that works, in bytes, found by bisection. 1 KiB less fails, but a lower budget may work, and a higher one
    /// may fail.
    pub lowest_bytes: u64,
    /// The lowest budget of the grid, in bytes, from which every budget of the grid works. It is not below `lowest_bytes`, as a
    /// budget next to that fails. `None` where a budget of twice the peak, or of more, fails.
    ///
    /// The grid has a budget at every 0.5% from the peak to 1.5 times the peak, and at every 5% from there to twice the peak,
    /// each rounded up to 1 KiB.
    pub safe_bytes: Option<u64>,
    /// The most bytes that the trace has alive at one time.
    pub live_peak_bytes: u64,
    /// Requests that failed in the recording.
    pub failures: u64,
    /// The largest of them, in bytes; 0 where none failed.
    pub largest_failure_bytes: u64,
    /// How many replays it took.
    pub tries: u64,
}

impl MinBudget {
    /// Returns the lowest budget over the peak, or `None` for a trace that never has a byte alive.
    pub fn lowest_ratio(&self) -> Option<f64> {
        ratio(self.lowest_bytes, self.live_peak_bytes)
    }

    /// Returns the safe budget over the peak, or `None` where there is no safe budget, or never a byte alive.
    pub fn safe_ratio(&self) -> Option<f64> {
        ratio(self.safe_bytes?, self.live_peak_bytes)
    }
}

/// Finds the budgets in which every request of the trace is served: a low one by bisection, and a safe one on a grid.
///
/// `open` makes a fresh pool of a budget in bytes, or one whose steps are [planned](crate::PlannedSteps). Its slab policy is
/// the one that is searched: another policy needs other budgets. `go_on` is called before each budget, and now and then
/// within its replay; the search returns `None` where that says to stop. Budgets are whole KiB, and what is found is the same
/// every time. A replay ends at its first failure. There are up to 111 for the grid, and some 25 for the bisection.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use tensorpool::trace::{Trace, min_budget};
/// use tensorpool::{Config, Pool, Virtual};
///
/// let trace = &Trace::parse(b"a 0 40000\na 1 60000\nf 0\na 2 40000\n", "tiny.trace")?[0];
/// let open = |bytes| Pool::with_backend(Virtual::default(), &Config::new(bytes));
/// let found = min_budget(trace, open, |_| ControlFlow::Continue(()))?.expect("it goes on to the end");
/// assert!(found.safe_bytes >= Some(found.lowest_bytes));
/// # Ok::<(), tensorpool::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::TooLarge`] if no budget up to 2^62 works, because the device has a limit; its
/// [cause](crate::Error::cause) is the failure in the last one. Errors of `open` and of [`replay`](super::replay), except
/// for want of memory, which means that the budget does not work.
pub fn min_budget<B: Backend, P: AsRef<Pool<B>>>(
    trace: &Trace,
    open: impl Fn(u64) -> Result<P>,
    mut go_on: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Option<MinBudget>> {
    let live_peak_bytes = trace.live_peak_bytes();
    let (mut tries, mut last_failure) = (0, None);
    let mut works = |budget_bytes: u64| {
        tries += 1;
        let failure = failure_in(trace, &open, budget_bytes, &mut go_on)?;
        let works = failure.is_none();
        last_failure = failure.or(last_failure.take());
        Ok(works)
    };
    let budgets = lowest(live_peak_bytes, &mut works)
        .and_then(|lowest_bytes| Ok((lowest_bytes, safe(live_peak_bytes, lowest_bytes, &mut works)?)));
    match budgets {
        Ok((lowest_bytes, safe_bytes)) => Ok(Some(MinBudget {
            lowest_bytes,
            safe_bytes,
            live_peak_bytes,
            failures: trace.failures(),
            largest_failure_bytes: trace.largest_failure_bytes(),
            tries,
        })),
        Err(Stop::Told) => Ok(None),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::NothingWorks { budget_bytes }) => {
            let message = format!(
                "none of the budgets tried, up to {}, serves the trace {:?}",
                exact(budget_bytes),
                trace.name()
            );
            let error = Error::new(ErrorKind::TooLarge, message);
            Err(match last_failure {
                Some(failure) => error.with_source(failure),
                None => error,
            })
        }
    }
}

/// Why a search ends early.
enum Stop {
    /// The caller said so.
    Told,
    Failed(Error),
    NothingWorks {
        budget_bytes: u64,
    },
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn lowest(live_peak_bytes: u64, works: &mut impl FnMut(u64) -> Result<bool, Stop>) -> Result<u64, Stop> {
    let least_bytes = round_up(live_peak_bytes, BUDGET_STEP_BYTES).unwrap_or(u64::MAX);
    if works(least_bytes)? {
        return Ok(least_bytes);
    }
    // From here on `low_bytes` does not work.
    let high_bytes = least_bytes.saturating_add(least_bytes / 8).max(64 * BUDGET_STEP_BYTES);
    let (mut low_bytes, mut high_bytes) = (least_bytes, round_up(high_bytes, BUDGET_STEP_BYTES).unwrap_or(u64::MAX));
    while !works(high_bytes)? {
        if high_bytes > BUDGET_BYTES_MAX {
            return Err(Stop::NothingWorks { budget_bytes: high_bytes });
        }
        (low_bytes, high_bytes) = (high_bytes, high_bytes.saturating_mul(2));
    }
    while high_bytes - low_bytes > BUDGET_STEP_BYTES {
        let middle_bytes = low_bytes + (high_bytes - low_bytes) / 2 / BUDGET_STEP_BYTES * BUDGET_STEP_BYTES;
        let middle_bytes = middle_bytes.max(low_bytes + BUDGET_STEP_BYTES);
        if works(middle_bytes)? {
            high_bytes = middle_bytes;
        } else {
            low_bytes = middle_bytes;
        }
    }
    Ok(high_bytes)
}

/// Goes down the grid to the first budget that fails. Below `lowest_bytes` none is tried: 1 KiB less is known to fail.
fn safe(
    live_peak_bytes: u64,
    lowest_bytes: u64,
    works: &mut impl FnMut(u64) -> Result<bool, Stop>,
) -> Result<Option<u64>, Stop> {
    let mut safe_bytes = None;
    for budget_bytes in grid(live_peak_bytes).take_while(|bytes| *bytes >= lowest_bytes) {
        // Budgets of a small peak fall on one another.
        if safe_bytes != Some(budget_bytes) && !works(budget_bytes)? {
            break;
        }
        safe_bytes = Some(budget_bytes);
    }
    Ok(safe_bytes)
}

/// Replays the trace in a budget, and returns why the first request failed, or `None` where all were served.
fn failure_in<B: Backend, P: AsRef<Pool<B>>>(
    trace: &Trace,
    open: &impl Fn(u64) -> Result<P>,
    budget_bytes: u64,
    go_on: &mut impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Option<Error>, Stop> {
    let mut tell = |progress| if go_on(progress).is_break() { Err(Stop::Told) } else { Ok(()) };
    tell(Progress::Try { budget_bytes })?;
    let pool = match open(budget_bytes) {
        Ok(pool) => pool,
        Err(error) if is_no_memory(&error) => return Ok(Some(error)),
        Err(error) => return Err(error.into()),
    };
    let mut run = Run::new(trace, pool.as_ref());
    let mut done = 0;
    for chunk in trace.events.chunks(EVENTS_PER_CHUNK) {
        if let Some((_, failure)) = run.play(&mut chunk.iter())? {
            return Ok(Some(failure));
        }
        done += chunk.len();
        tell(Progress::Events(done))?;
    }
    Ok(None)
}

/// The budgets from twice the peak down to the peak: every 5% to 1.5 times, and then every 0.5%.
fn grid(live_peak_bytes: u64) -> impl Iterator<Item = u64> {
    let per_mille = (1550..=2000).rev().step_by(50).chain((1000..=1500).rev().step_by(5));
    per_mille.map(move |per_mille| {
        let bytes = (u128::from(live_peak_bytes) * per_mille).div_ceil(1000);
        u64::try_from(bytes).ok().and_then(|bytes| round_up(bytes, BUDGET_STEP_BYTES)).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_fine_up_to_one_and_a_half_peaks_and_coarse_up_to_two() {
        let budgets: Vec<u64> = grid(1000 << 10).map(|bytes| bytes >> 10).collect();
        let coarse = [2000, 1950, 1900, 1850, 1800, 1750, 1700, 1650, 1600, 1550];
        let fine = (0..=100).rev().map(|step| 1000 + 5 * step);
        assert_eq!(budgets, coarse.into_iter().chain(fine).collect::<Vec<_>>());
        // Whole KiB, however small or large the peak is.
        assert!(grid(0).all(|bytes| bytes == 0));
        assert!(grid(1).all(|bytes| bytes == 1024));
        assert_eq!(grid(u64::MAX).next(), Some(u64::MAX));
    }
}
