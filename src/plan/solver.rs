//! What a solver can do with one connected problem: pass over it in an order, search it by several, eject.

use super::effort::{Effort, Random, sorting};
use super::eject::{Neighbours, eject};
use super::fit::{Fitter, Rule};
use super::order::{self, Key};
use super::problem::Problem;
use super::search::{self, Verdict, search};
use super::slabs::Slabs;

/// Most buffers of a search by depth.
const SEARCHED_MAX: usize = 2_000;

/// What one search gets of the units of all at one height in one round: of those by the first orders, and by blame.
const FIRST_PART: u64 = 8;
const BLAME_PART: u64 = 512;

/// Each has so many times what a dive takes, or there is none.
const FIRST_DIVES: u64 = 2;
const BLAME_DIVES: u64 = 3;

/// The first orders of them. All that follow go by blame, shaken a little.
const SEARCH_KEYS: [Key; 4] = [Key::Twa, Key::Taw, Key::Wat, Key::Twa];
const SHAKE: f64 = 0.05;

/// The part of a search's blames that the next one still counts.
const BLAME_KEPT: f64 = 0.9;

/// An order, and where it puts each buffer.
pub(super) type Pass = (Key, Rule);

/// What is tried where a part of a problem has to fit.
const FIT_PASSES: [Pass; 6] = [
    (Key::Twa, Rule::First),
    (Key::Twa, Rule::Best),
    (Key::Size, Rule::First),
    (Key::Size, Rule::Best),
    (Key::SizeRootWidth, Rule::First),
    (Key::SizeRootWidth, Rule::Best),
];

/// Offsets of one problem, their height, and a height below which there is none.
#[derive(Clone, Debug)]
pub(super) struct Packing {
    pub offsets: Vec<u64>,
    pub height: u64,
    pub lower_bound: u64,
}

impl Packing {
    /// None yet: its height is beyond all others.
    pub fn new(problem: &Problem) -> Self {
        Self { offsets: vec![0; problem.len()], height: u64::MAX, lower_bound: problem.load() }
    }

    pub fn is_open(&self, goal: u64) -> bool {
        self.height > goal.max(self.lower_bound)
    }

    pub fn improve(&mut self, problem: &Problem, offsets: &[u64]) {
        let tops = offsets.iter().zip(&problem.sizes).map(|(offset, size)| offset + size);
        let height = tops.max().unwrap_or(0);
        if height < self.height {
            self.height = height;
            self.offsets.copy_from_slice(offsets);
        }
    }
}

/// What all attempts share.
#[derive(Debug)]
pub(super) struct Solver<'a> {
    pub slabs: &'a Slabs,
    pub effort: Effort<'a>,
    pub random: Random,
    /// Turned by this many places, the lists of orders differ between threads.
    pub turn: usize,
    /// The limit holds for the first passes too.
    pub is_strict: bool,
}

/// For each part of a problem and each of its sections, how often searches had no room there; the last ones count most.
#[derive(Debug, Default)]
pub(super) struct Blames(Vec<Vec<f64>>);

impl Blames {
    /// Those of one part, which has so many sections.
    pub fn of_part(&mut self, part: usize, sections: usize) -> &mut Vec<f64> {
        self.0.resize_with(self.0.len().max(part + 1), Vec::new);
        let blames = &mut self.0[part];
        blames.resize(sections, 0.0);
        blames
    }
}

impl Solver<'_> {
    /// Passes over all buffers, until one comes to the goal or the limit is reached. Returns the order of the one that has
    /// made the best packing so far, if one has.
    pub fn passes(&mut self, problem: &Problem, best: &mut Packing, goal: u64, list: &[Pass]) -> Option<Vec<u32>> {
        if best.height <= goal {
            return None;
        }
        let effort = &mut self.effort;
        let mut fitter = Fitter::new(problem, self.slabs, effort)?;
        let (mut order, mut order_of, mut best_order) = (Vec::new(), None, None);
        for (key, rule) in list {
            if best.height <= goal {
                break;
            }
            if order_of != Some(key) {
                if !effort.take(sorting(problem.len())) {
                    break;
                }
                (order, order_of) = (key.sort_all(problem), Some(key));
            }
            if fitter.begin(&[], effort) && fitter.pass(&order, *rule, best.height, effort).is_some() {
                best.improve(problem, &fitter.offsets);
                best_order = Some(order.clone());
            }
        }
        best_order
    }

    /// Searches a connected problem: once leaving nothing out, and then by several orders. How long a search takes has a
    /// heavy tail, so that many short ones do better than one long one; and each learns from those before it.
    pub fn search_orders(&mut self, problem: &Problem, capacity: u64, units: u64, blames: &mut [f64]) -> Verdict {
        if problem.len() > SEARCHED_MAX {
            return Verdict::Unknown;
        }
        let (dive, begun) = (search::dive(problem), self.effort.units());
        let making = sorting(problem.len()) + search::making(problem);
        for turn in 0.. {
            let is_first = turn < SEARCH_KEYS.len();
            let units_each = match turn {
                0 if dive / 4 <= units => (units / FIRST_PART).max((FIRST_DIVES * dive).min(units)),
                _ if is_first => (units / FIRST_PART).max(FIRST_DIVES * dive),
                _ => (units / BLAME_PART).max(BLAME_DIVES * dive),
            };
            let units_after = self.effort.units() - begun + making + units_each;
            if units_after > units || !self.effort.take(making) {
                break;
            }
            let order = match SEARCH_KEYS.get(turn) {
                Some(_) => SEARCH_KEYS[(turn + self.turn) % SEARCH_KEYS.len()].sort_all(problem),
                None => order::by_blame(problem, blames, SHAKE, &mut self.random),
            };
            let outer = self.effort.begin_stage(units_each);
            let (verdict, blamed) = search(problem, &order, capacity, self.slabs, turn == 0, &mut self.effort);
            self.effort.end_stage(outer);
            if verdict != Verdict::Unknown {
                return verdict;
            }
            for (sum, blame) in blames.iter_mut().zip(&blamed) {
                *sum = *sum * BLAME_KEPT + f64::from(*blame);
            }
        }
        Verdict::Unknown
    }

    /// Ejects with so many units.
    pub fn eject_within(
        &mut self,
        problem: &Problem,
        neighbours: &Neighbours,
        target: u64,
        units: u64,
    ) -> Option<Vec<u64>> {
        let outer = self.effort.begin_stage(units);
        let offsets = eject(problem, neighbours, target, &mut self.effort, &mut self.random);
        self.effort.end_stage(outer);
        offsets
    }

    /// Something of height `goal` or less for a part of a problem, or the proof that there is nothing. The passes, which
    /// come to the same every time, are made if it is the `first` time.
    pub fn pack_within(
        &mut self,
        problem: &Problem,
        goal: u64,
        units: u64,
        blames: &mut [f64],
        first: bool,
    ) -> Verdict {
        if problem.load() > goal {
            return Verdict::Impossible;
        }
        if first {
            let mut best = Packing { height: goal + 1, ..Packing::new(problem) };
            self.passes(problem, &mut best, goal, &FIT_PASSES);
            if best.height <= goal {
                return Verdict::Found(best.offsets);
            }
        }
        let verdict = self.search_orders(problem, goal, units, blames);
        if verdict != Verdict::Unknown {
            return verdict;
        }
        if self.slabs.is_none()
            && let Some(neighbours) = Neighbours::new(problem, units, &mut self.effort)
            && let Some(offsets) = self.eject_within(problem, &neighbours, goal, units)
        {
            return Verdict::Found(offsets);
        }
        Verdict::Unknown
    }
}
