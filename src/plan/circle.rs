//! Circles: plans of a step that repeats. What lives past the step's end is there at its beginning.

use std::time::Instant;

use super::effort::UNITS_PER_STEP;
use super::problem::Problem;
use super::stretches::Stretch;
use super::{Lifetime, Limits, Options, Plan, Scaled, fixed_units};
use crate::error::{Error, ErrorKind, Result};

/// Plans lifetimes on a circle of `period` ticks, as for a step that is made again and again: a buffer that is live in `lower..upper`, with
/// `upper` past the period's end, is live until `upper - period` at the beginning too. Such a buffer is at one place in every step.
///
/// The plan's [load](Plan::load) is the largest sum of bytes that are live together at a tick of the circle. Unlike lifetimes on a line,
/// circles may need more than that whatever is tried. [`Plan::check_circle`] has looked at the result.
///
/// ```
/// use tensorpool::plan::{self, Lifetime, Options};
///
/// // A step of 10 ticks: what it makes in the last 4 lives on for 3 in the next.
/// let lifetimes = [Lifetime::new(6, 13, 512), Lifetime::new(3, 6, 512), Lifetime::new(0, 10, 256)];
/// let plan = plan::solve_circle(10, &lifetimes, &Options::new())?;
/// assert_eq!(plan.height, 768);
/// plan.check_circle(10, &lifetimes, &Options::new())?;
/// # Ok::<(), tensorpool::Error>(())
/// ```
///
/// # Errors
/// As [`solve`](super::solve); [`ErrorKind::Invalid`] for a period of 0, a lifetime that begins at the period's end or later, and one that
/// is longer than the period, which would meet itself.
pub fn solve_circle(period: u64, lifetimes: &[Lifetime], options: &Options) -> Result<Plan> {
    options.validate()?;
    let started = Instant::now();
    for (index, lifetime) in lifetimes.iter().enumerate() {
        check_arc(period, index, lifetime)?;
    }
    let (scaled, placed) = Scaled::new(lifetimes, options)?;
    let stretches: Vec<Stretch> =
        (0..).zip(&placed).flat_map(|(id, index)| stretches_of(period, id, &lifetimes[*index as usize])).collect();
    let scaled = Scaled { problem: Problem::of_stretches(&stretches, scaled.problem.sizes), ..scaled };
    let limits = Limits {
        goal: scaled.goal(options),
        units_max: options.steps_max.saturating_mul(UNITS_PER_STEP),
        units_spent: fixed_units(lifetimes.len()) + Problem::making(stretches.len()),
        is_strict: false,
        deadline: options.time_limit.and_then(|limit| started.checked_add(limit)),
    };
    let plan = scaled.plan(&placed, lifetimes.len(), options, limits);
    let plan = plan.expect("the first passes are made whatever the limit");
    plan.check_circle(period, lifetimes, options)?;
    Ok(plan)
}

/// Refuses what is no lifetime on the circle.
fn check_arc(period: u64, index: usize, lifetime: &Lifetime) -> Result<()> {
    let Lifetime { lower, upper, .. } = *lifetime;
    if lower < period && upper.checked_sub(lower).is_some_and(|ticks| ticks <= period) {
        return Ok(());
    }
    let message = format!("lifetime {index}, from {lower} to {upper}, is none on a circle of {period} ticks");
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Returns the stretch before the period's end, and that at the beginning of the circle if there is any.
fn stretches_of(period: u64, id: u32, lifetime: &Lifetime) -> impl Iterator<Item = Stretch> + use<> {
    let Lifetime { lower, upper, .. } = *lifetime;
    let rest = upper.checked_sub(period).filter(|rest| *rest > 0);
    let first = Stretch { id, lower, upper: upper.min(period) };
    [first].into_iter().chain(rest.map(|upper| Stretch { id, lower: 0, upper }))
}
