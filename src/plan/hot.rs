//! Hot windows: solve the stretch of time where the load is near its peak, freeze it, and place all else around it.
//!
//! Whether a packing reaches the load is decided where the load is high. With the lifetimes clipped to that window
//! (`reduce` says why that is allowed) the problem is small, and what spans the window leaves it. This stage closed
//! every recorded training step that no order of placing had closed.

use super::effort::sorting;
use super::fit::{Fitter, Rule};
use super::order::Key;
use super::problem::Problem;
use super::reduce::reduce;
use super::search::Verdict;
use super::solver::{Blames, Packing, Solver};
use super::stretches::Span;

/// How many windows there are.
pub(super) const WINDOWS: usize = 5;

/// A window reaches from the first to the last section whose load is above this share of the largest.
const SHARES: [f64; WINDOWS] = [0.97, 0.90, 0.99, 0.80, 0.60];

/// Orders for what is placed around the frozen ones.
const AROUND_KEYS: [Key; 4] = [Key::Twa, Key::Size, Key::SizeRootWidth, Key::Width];

/// Tries each window, with so many units for what is searched in all of them. `first` tells the first time, when passes are
/// made too.
pub(super) fn windows(
    solver: &mut Solver<'_>,
    problem: &Problem,
    best: &mut Packing,
    blames: &mut [Blames; WINDOWS],
    goal: u64,
    units: u64,
    first: bool,
) {
    // The whole is searched by itself.
    let mut tried = vec![window(problem, 0.0)];
    for (share, blames) in SHARES.into_iter().zip(blames) {
        let window = window(problem, share);
        if tried.contains(&window) {
            continue;
        }
        tried.push(window);
        match core(solver, problem, window, goal, units / WINDOWS as u64, blames, first) {
            Core::Frozen(frozen) => around(solver, problem, best, goal, &frozen),
            Core::Impossible => best.lower_bound = best.lower_bound.max(goal + 1),
            Core::Unknown => {}
        }
        if !best.is_open(goal) || best.lower_bound > goal || !solver.effort.is_left() {
            return;
        }
    }
}

/// The moments of the first and the last section over a share of the peak.
fn window(problem: &Problem, share: f64) -> (u64, u64) {
    let least = problem.load() as f64 * share;
    let is_hot = |load: &u64| *load as f64 > least;
    let first = problem.loads.iter().position(is_hot).unwrap_or(0);
    let last = problem.loads.iter().rposition(is_hot).unwrap_or(problem.sections() - 1);
    (problem.moments[first], problem.moments[last] + 1)
}

enum Core {
    Frozen(Vec<(u32, u64)>),
    Impossible,
    Unknown,
}

/// Packs the buffers that meet the window within the goal.
fn core(
    solver: &mut Solver<'_>,
    problem: &Problem,
    window: (u64, u64),
    goal: u64,
    units: u64,
    blames: &mut Blames,
    first: bool,
) -> Core {
    let meets = |id: &u32| {
        if problem.is_split() {
            let meets = |span: &Span| u64::from(span.first) < window.1 && u64::from(span.end) > window.0;
            return problem.spans_of(*id as usize).iter().any(meets);
        }
        let (lower, upper) = problem.times[*id as usize];
        lower < window.1 && upper > window.0
    };
    let ids: Vec<u32> = (0..problem.len() as u32).filter(meets).collect();
    if !solver.effort.take(2 * problem.len() as u64 + Problem::making(ids.len())) {
        return Core::Unknown;
    }
    let reduced = reduce(problem, ids, window, solver.slabs.is_none(), &mut solver.effort);
    let mut frozen = reduced.stacked;
    for (part, atom) in reduced.atoms.into_iter().enumerate() {
        let blames = blames.of_part(part, atom.problem.sections());
        match solver.pack_within(&atom.problem, goal - atom.base, units, blames, first) {
            Verdict::Found(offsets) => {
                frozen.extend(atom.ids.iter().zip(offsets).map(|(id, offset)| (*id, atom.base + offset)))
            }
            Verdict::Impossible => return Core::Impossible,
            Verdict::Unknown => return Core::Unknown,
        }
    }
    Core::Frozen(frozen)
}

/// Places all that is not frozen, by several orders.
fn around(solver: &mut Solver<'_>, problem: &Problem, best: &mut Packing, goal: u64, frozen: &[(u32, u64)]) {
    let mut is_frozen = vec![false; problem.len()];
    frozen.iter().for_each(|(id, _)| is_frozen[*id as usize] = true);
    let Some(mut fitter) = Fitter::new(problem, solver.slabs, &mut solver.effort) else { return };
    for key in AROUND_KEYS {
        if !solver.effort.take(sorting(problem.len())) {
            return;
        }
        let order = key.sort(problem, (0..problem.len() as u32).filter(|id| !is_frozen[*id as usize]));
        for rule in [Rule::First, Rule::Best] {
            if best.height <= goal || !fitter.begin(frozen, &mut solver.effort) {
                return;
            }
            if fitter.pass(&order, rule, best.height, &mut solver.effort).is_some() {
                best.improve(problem, &fitter.offsets);
            }
        }
    }
}
