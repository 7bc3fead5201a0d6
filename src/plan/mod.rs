//! Plans: an address for every buffer of a program whose buffers' lifetimes are known ahead of time.
//!
//! A buffer is live in the half-open interval `[lower, upper)` of some clock. Two buffers that are live at one time
//! must not overlap in address; the least height that this takes is what a plan looks for. The largest sum of bytes
//! that are live together, the **load**, is a lower bound of any plan's height, and on every recorded training step
//! that was tried a plan reaches it exactly, where the best online allocators need several percent more.
//!
//! ```
//! use tensorpool::plan::{self, Lifetime, Options};
//!
//! let lifetimes = [Lifetime::new(0, 4, 512), Lifetime::new(2, 6, 256), Lifetime::new(4, 8, 512)];
//! let plan = plan::solve(&lifetimes, &Options::new().align(256))?;
//! assert_eq!(plan.height, 768);
//! assert_eq!(plan.load, 768);
//! assert!(plan.proved);
//! # Ok::<(), tensorpool::Error>(())
//! ```
//!
//! | noun | unit | |
//! | --- | --- | --- |
//! | lifetime | any clock; bytes | one buffer: when it is live, and its size |
//! | load | bytes | the largest sum of sizes that are live together, each rounded up to the alignment |
//! | height | bytes | the highest byte that the plan uses |
//! | section | a number from 0 | a largest set of buffers that are live together; time, compressed |
//! | unit | bytes | the greatest common divisor of all sizes: the solver counts in it |
//! | step | a number | counted work of about a microsecond; limits count it, so that one seed gives one plan |
//!
//! Files, lowest first: `effort` (counted work); `slabs`, `stretches` and `problem` (the input, compressed); `order` and `fit` (placing one
//! after another); `reduce` (the lemmas); `conflicts`, `frames` and `search`, `eject` (at a fixed height); `solver`, `hot` and
//! `pipeline` (which of them when); `options`, `lifetimes` (the interface); `aligned` (alignments of single buffers); `circle` (a step that repeats); and
//! `check`, which shares no code with all that and looks at every plan before it is returned. `schedule` and `cursor` are for
//! following a plan: what goes out where, and whether everything that had a part of the place is back.

mod aligned;
mod check;
mod circle;
mod conflicts;
mod cursor;
mod effort;
mod eject;
mod fit;
mod frames;
mod hot;
mod lifetimes;
mod options;
mod order;
mod pipeline;
mod problem;
mod reduce;
mod schedule;
mod search;
mod slabs;
mod solver;
mod stretches;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Instant;

pub use circle::solve_circle;
pub(crate) use cursor::Found;
pub use cursor::{Cursor, Place, Unplanned};
pub use lifetimes::{Lifetimes, LifetimesBuilder};
pub use options::Options;
pub use schedule::Schedule;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicBool, Ordering};
use crate::units::{exact, round_up, thousands};
use effort::{Effort, Random, UNITS_PER_STEP, sorting};
use problem::Problem;
use slabs::Slabs;
use solver::{Packing, Solver};

/// Units of checking a lifetime's place, but for the sorting.
const CHECK_UNITS: u64 = 150;

/// Units of a lifetime in the making of a schedule.
const SCHEDULE_UNITS: u64 = 500;

/// Addresses stay below this, so that sums of two never overflow.
const BYTES_MAX: u64 = 1 << 62;

/// One buffer: live from `lower` until just before `upper`, on any clock, with a size in bytes.
///
/// A buffer that is never live (`lower == upper`) or has no bytes takes no room; its offset in a plan is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// The first time at which the buffer is live.
    pub lower: u64,
    /// The first time after that at which it is not.
    pub upper: u64,
    /// Its size.
    pub bytes: u64,
}

impl Lifetime {
    /// A buffer of `bytes` that is live in `[lower, upper)`.
    pub fn new(lower: u64, upper: u64, bytes: u64) -> Self {
        Self { lower, upper, bytes }
    }

    fn takes_room(&self) -> bool {
        self.bytes > 0 && self.lower < self.upper
    }
}

/// An offset for each lifetime, in the order in which they were given.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Where each buffer begins, in bytes.
    pub offsets: Vec<u64>,
    /// Bytes from 0 to the end of the highest buffer, whose size is rounded up to the alignment.
    pub height: u64,
    /// The largest sum of bytes that are live together, each size rounded up to the alignment: no plan is lower.
    pub load: u64,
    /// No plan for these lifetimes and options is lower than this one: the height is the load, or a search that left
    /// nothing out has shown that less is impossible.
    pub proved: bool,
    /// Work of the solver, in the steps of [`Options::steps`]. With several threads, that of the one whose plan this is.
    pub steps: u64,
}

impl Plan {
    /// Bytes by which the height exceeds the load.
    pub fn gap(&self) -> u64 {
        self.height.saturating_sub(self.load)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offsets, height, load, proved, .. } = self;
        write!(f, "{} buffers in {}, load {}", thousands(offsets.len() as u64), exact(*height), exact(*load))?;
        f.write_str(if *proved { ", proved optimal" } else { "" })
    }
}

impl fmt::Debug for Plan {
    /// Without the offsets, which may be many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plan({self}, {} steps)", thousands(self.steps))
    }
}

/// Plans the lifetimes: finds a low height, says whether it is the lowest, and has [`Plan::check`] look at the result.
///
/// The same lifetimes and options give the same plan, unless the options name a time limit or several threads. Whatever
/// the limits, there is a plan, and it is no higher than first fit in the order of time; whether it is within
/// [`Options::capacity`] is told by its height. With room for them in [`Options::steps`] it is no higher than any of the
/// other simple orders either: first fit and best fit by time, by size, by duration, and by size times duration.
///
/// # Errors
///
/// A lifetime that ends before it begins, sizes whose sum exceeds 2^62 bytes, options that contradict themselves, a
/// buffer that fits in no slab.
pub fn solve(lifetimes: &[Lifetime], options: &Options) -> Result<Plan> {
    let plan = solve_within(lifetimes, options, false)?;
    Ok(plan.expect("the first passes are made whatever the limit"))
}

/// As [`solve`], but the limit of steps holds for all that is done, a [`Schedule`] of the plan included. The plan is the best
/// that was found within it, or `None` if it was reached before there was one.
pub(crate) fn solve_strictly(lifetimes: &[Lifetime], options: &Options) -> Result<Option<Plan>> {
    solve_within(lifetimes, options, true)
}

/// What a solver keeps to.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// In units of size. A height that will do.
    goal: u64,
    /// Units of work, and those that are spent already.
    units_max: u64,
    units_spent: u64,
    /// `units_max` holds for the first passes too.
    is_strict: bool,
    deadline: Option<Instant>,
}

fn solve_within(lifetimes: &[Lifetime], options: &Options, is_strict: bool) -> Result<Option<Plan>> {
    options.validate()?;
    let started = Instant::now();
    let mut units_max = options.steps_max.saturating_mul(UNITS_PER_STEP);
    let mut units_spent = fixed_units(lifetimes.len());
    if is_strict {
        // As much again is kept for the piece of work with which the solver passes its limit.
        let kept = units_spent;
        units_spent += SCHEDULE_UNITS * lifetimes.len() as u64;
        units_max = units_max.saturating_sub(kept);
        if units_spent > units_max {
            return Ok(None);
        }
    }
    let (scaled, placed) = Scaled::new(lifetimes, options)?;
    let limits = Limits {
        goal: scaled.goal(options),
        units_max,
        units_spent,
        is_strict,
        deadline: options.time_limit.and_then(|limit| started.checked_add(limit)),
    };
    let Some(plan) = scaled.plan(&placed, lifetimes.len(), options, limits) else { return Ok(None) };
    plan.check(lifetimes, options)?;
    Ok(Some(plan))
}

/// Units of what is done for so many lifetimes in any case: compression, the first look at their parts, and the check.
fn fixed_units(count: usize) -> u64 {
    CHECK_UNITS * count as u64 + 2 * sorting(count) + 2 * Problem::making(count)
}

/// The input in units: what the solver sees.
struct Scaled {
    problem: Problem,
    slabs: Slabs,
    unit_bytes: u64,
}

impl Scaled {
    /// The lifetimes that take room, and which ones those are.
    fn new(lifetimes: &[Lifetime], options: &Options) -> Result<(Self, Vec<u32>)> {
        if u32::try_from(lifetimes.len()).is_err() {
            let message = format!("{} lifetimes: a plan has fewer than 2^32", thousands(lifetimes.len() as u64));
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let (mut placed, mut times, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        let mut sum = 0u64;
        for (index, lifetime) in (0..).zip(lifetimes) {
            if lifetime.lower > lifetime.upper {
                let message =
                    format!("lifetime {index} ends at {}, before it begins at {}", lifetime.upper, lifetime.lower);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            if lifetime.takes_room() {
                let bytes = round_up(lifetime.bytes, options.align_bytes);
                let total = bytes.and_then(|bytes| sum.checked_add(bytes)).filter(|total| *total <= BYTES_MAX);
                sum = total.ok_or_else(|| {
                    let message = format!("with lifetime {index} of {} the sizes exceed 2^62", exact(lifetime.bytes));
                    Error::new(ErrorKind::TooLarge, message)
                })?;
                placed.push(index);
                times.push((lifetime.lower, lifetime.upper));
                sizes.extend(bytes);
            }
        }
        let largest = sizes.iter().copied().max().unwrap_or(0);
        let slabs = Slabs::new(&options.slab_bytes, sizes.len(), largest, sum)?;
        let unit_bytes = sizes.iter().copied().fold(slabs.unit(), gcd).max(1);
        sizes.iter_mut().for_each(|size| *size /= unit_bytes);
        let slabs = slabs.in_units(unit_bytes);
        Ok((Self { problem: Problem::new(times, sizes), slabs, unit_bytes }, placed))
    }
}

impl Scaled {
    /// A height, in units, that will do.
    fn goal(&self, options: &Options) -> u64 {
        // No plan is higher than `BYTES_MAX`, and 2^64 - 1 stands for the height of none yet.
        let capacity = options.capacity_bytes.map_or(0, |bytes| bytes.min(BYTES_MAX) / self.unit_bytes);
        capacity.max(self.problem.load())
    }

    /// Plans the buffers, those `placed` of so many. `None` as in [`run`].
    fn plan(&self, placed: &[u32], buffers: usize, options: &Options, limits: Limits) -> Option<Plan> {
        let (packing, steps) = run(self, options, limits)?;
        let mut offsets = vec![0; buffers];
        for (index, offset) in placed.iter().zip(&packing.offsets) {
            offsets[*index as usize] = offset * self.unit_bytes;
        }
        Some(Plan {
            offsets,
            height: packing.height * self.unit_bytes,
            load: self.problem.load() * self.unit_bytes,
            proved: packing.height <= packing.lower_bound,
            steps,
        })
    }
}

/// The packing of one solver, or the best of several, and the steps it took. `None` if the limit is strict, and no pass was
/// made within it.
fn run(scaled: &Scaled, options: &Options, limits: Limits) -> Option<(Packing, u64)> {
    let done = AtomicBool::new(false);
    let solve = |index: usize| {
        let mut solver = Solver {
            slabs: &scaled.slabs,
            effort: Effort::new(limits.units_max, limits.deadline, Some(&done)),
            random: Random::new(options.seed.wrapping_add(index as u64)),
            turn: index,
            is_strict: limits.is_strict,
        };
        solver.effort.spend(limits.units_spent);
        let packing = solver.solve(&scaled.problem, limits.goal)?;
        if packing.height <= limits.goal.max(packing.lower_bound) {
            done.store(true, Ordering::Relaxed);
        }
        Some((packing, solver.effort.steps()))
    };
    if options.threads == 1 {
        return solve(0);
    }
    let packings: Vec<(Packing, u64)> = std::thread::scope(|scope| {
        let solve = &solve;
        let others: Vec<_> = (1..options.threads).map(|index| scope.spawn(move || solve(index))).collect();
        let own = solve(0);
        // A thread that could not finish has nothing to offer.
        own.into_iter().chain(others.into_iter().filter_map(|thread| thread.join().ok().flatten())).collect()
    });
    let lower_bound = packings.iter().map(|(packing, _)| packing.lower_bound).max().unwrap_or(0);
    let (packing, steps) = packings.into_iter().min_by_key(|(packing, _)| packing.height)?;
    Some((Packing { lower_bound, ..packing }, steps))
}

fn gcd(a: u64, b: u64) -> u64 {
    let (mut a, mut b) = (a, b);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}
