//! The order of attempts, from passes that take microseconds to searches that go on until the limit is reached.
//!
//! A problem is taken apart (`reduce`), and every part gets two quick passes. Parts that are higher than the goal get the
//! simple orders, so that no plan is higher than any of these makes it. Then they are refined in rounds, each with twice the
//! work of the one before: more orders; hot windows; search of the whole part; squeaky wheel; ejection; and the same again
//! at targets between the goal and the best height so far. A part is done when it is as high as the goal or as its own lower
//! bound, which rises when a search shows that a height is impossible.

use super::effort::{Effort, Random, sorting};
use super::eject::{Neighbours, eject};
use super::fit::{Fitter, Rule};
use super::hot;
use super::order::{self, Key};
use super::problem::Problem;
use super::reduce::{Atom, Reduced, reduce};
use super::search::{Search, Verdict};
use super::slabs::Slabs;

/// Units that the first round gives to each stage, or those of the first pass where that took more; every further round
/// gives twice as many.
const ROUND_UNITS: u64 = 250_000;

/// What searches get of them, by what all else gets.
const SEARCH_SHARE: u64 = 8;

/// Heights between the goal and the best so far that each round tries too.
const TARGETS: usize = 3;

/// Most buffers that a search by depth is tried on.
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

const RULES: [Rule; 2] = [Rule::First, Rule::Best];

/// An order, and where it puts each buffer.
type Pass = (Key, Rule);

/// The first pass, which closes most training steps, and those that close most others.
const FIRST_PASS: [Pass; 1] = [(Key::Twa, Rule::First)];
const NEXT_PASSES: [Pass; 3] = [(Key::Twa, Rule::Best), (Key::Size, Rule::First), (Key::Size, Rule::Best)];

/// What a program without a solver might do. No plan is higher than what comes of any of these; of the first of them, whatever
/// the limit.
const SIMPLE_PASSES: [Pass; 8] = [
    (Key::Time, Rule::First),
    (Key::Time, Rule::Best),
    (Key::BareSize, Rule::First),
    (Key::BareSize, Rule::Best),
    (Key::Duration, Rule::First),
    (Key::Duration, Rule::Best),
    (Key::BareArea, Rule::First),
    (Key::BareArea, Rule::Best),
];

const MORE_PASSES: [Pass; 10] = [
    (Key::SizeRootWidth, Rule::First),
    (Key::SizeRootWidth, Rule::Best),
    (Key::Width, Rule::First),
    (Key::Width, Rule::Best),
    (Key::Wat, Rule::First),
    (Key::Wat, Rule::Best),
    (Key::Taw, Rule::First),
    (Key::Taw, Rule::Best),
    (Key::Area, Rule::First),
    (Key::Area, Rule::Best),
];

/// Offsets of one problem, their height, and a height below which there is none.
#[derive(Clone, Debug)]
pub struct Packing {
    pub offsets: Vec<u64>,
    pub height: u64,
    pub lower_bound: u64,
}

impl Packing {
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
pub struct Solver<'a> {
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
pub struct Blames(Vec<Vec<f64>>);

impl Blames {
    /// Those of one part, which has so many sections.
    pub fn of_part(&mut self, part: usize, sections: usize) -> &mut Vec<f64> {
        self.0.resize_with(self.0.len().max(part + 1), Vec::new);
        let blames = &mut self.0[part];
        blames.resize(sections, 0.0);
        blames
    }
}

/// One part in the making.
pub struct Work<'p> {
    pub problem: &'p Problem,
    pub best: Packing,
    /// Units of the first pass.
    pass_units: u64,
    neighbours: Option<Neighbours>,
    /// What the searches in each hot window have learned, at the goal, and at each of the targets above it.
    pub in_windows: [Blames; hot::WINDOWS],
    at_goal: Blames,
    at_targets: [Blames; TARGETS],
    /// The order that the squeaky wheel has come to.
    squeaky: Vec<u32>,
}

impl<'p> Work<'p> {
    pub fn new(problem: &'p Problem) -> Self {
        let best = Packing { offsets: vec![0; problem.len()], height: u64::MAX, lower_bound: problem.load() };
        Self {
            problem,
            best,
            pass_units: 0,
            neighbours: None,
            in_windows: Default::default(),
            at_goal: Blames::default(),
            at_targets: Default::default(),
            squeaky: Vec::new(),
        }
    }

    pub fn is_open(&self, goal: u64) -> bool {
        self.best.height > goal.max(self.best.lower_bound)
    }
}

impl Solver<'_> {
    /// Packs a problem; stops early where the height is no more than `goal`, which is at least the problem's load. `None` if
    /// the limit holds for the first passes too, and was reached in one of them.
    pub fn solve(&mut self, problem: &Problem, goal: u64) -> Option<Packing> {
        let everything = (0..problem.len() as u32).collect();
        let reduced = reduce(problem, everything, (0, u64::MAX), self.slabs.is_none(), &mut self.effort);
        let mut works: Vec<Work<'_>> = reduced.atoms.iter().map(|atom| Work::new(&atom.problem)).collect();
        for (atom, work) in reduced.atoms.iter().zip(&mut works) {
            self.begin(work, goal - atom.base)?;
        }
        let mut whole = join(problem, &reduced, &works);
        if !reduced.stacked.is_empty() {
            // What was stacked may be luckier elsewhere.
            self.simple_passes(problem, &mut whole, goal);
        }
        self.rounds(&reduced, &mut works, goal, whole.height);
        let joined = join(problem, &reduced, &works);
        if whole.height < joined.height {
            return Some(Packing { lower_bound: joined.lower_bound, ..whole });
        }
        Some(joined)
    }

    /// Refines the parts until one cannot be helped, or all are as low as the goal, or the limit is reached.
    pub fn rounds(&mut self, reduced: &Reduced, works: &mut [Work<'_>], mut goal: u64, height: u64) {
        for round in 0.. {
            for (atom, work) in reduced.atoms.iter().zip(&*works) {
                goal = goal.max(atom.base + work.best.lower_bound);
            }
            let mut is_done = true;
            for (atom, work) in reduced.atoms.iter().zip(&mut *works) {
                if height > goal && atom.base + work.best.height > goal && self.effort.is_left() {
                    self.refine(work, goal - atom.base, round);
                    is_done = false;
                }
            }
            if is_done {
                break;
            }
        }
    }

    /// What closes most training steps, and then the simple passes. `None` if the limit is strict, and reached in the first.
    pub fn begin(&mut self, work: &mut Work<'_>, goal: u64) -> Option<()> {
        let units_before = self.effort.units();
        self.effort.is_sure = !self.is_strict;
        self.passes(work, goal, &FIRST_PASS);
        self.effort.is_sure = false;
        if work.best.height == u64::MAX {
            return None;
        }
        work.pass_units = self.effort.units() - units_before;
        self.passes(work, goal, &NEXT_PASSES);
        if work.is_open(goal) {
            hot::windows(self, work, goal, SEARCH_SHARE * ROUND_UNITS, true);
        }
        if let Some(order) = self.simple_passes(work.problem, &mut work.best, goal) {
            work.squeaky = order;
        }
        Some(())
    }

    pub fn simple_passes(&mut self, problem: &Problem, best: &mut Packing, goal: u64) -> Option<Vec<u32>> {
        let (sure, others) = SIMPLE_PASSES.split_at(1);
        self.effort.is_sure = !self.is_strict;
        let in_time = passes(self, problem, best, goal, sure);
        self.effort.is_sure = false;
        passes(self, problem, best, goal, others).or(in_time)
    }

    /// One round for one part.
    pub fn refine(&mut self, work: &mut Work<'_>, goal: u64, round: u32) {
        let units = ROUND_UNITS.max(work.pass_units).checked_shl(round).unwrap_or(u64::MAX);
        let search_units = SEARCH_SHARE.saturating_mul(units);
        if work.is_open(goal) {
            hot::windows(self, work, goal, search_units, false);
        }
        if round == 0 {
            self.passes(work, goal, &MORE_PASSES);
        }
        if work.is_open(goal) {
            self.search(work, goal, search_units.saturating_mul(2), None);
        }
        if work.is_open(goal) {
            self.squeaky_wheel(work, goal, units);
        }
        if work.is_open(goal) {
            self.eject(work, goal, units);
        }
        // Then targets above the goal, in thirds of what is still too much, and a hair below what there is.
        for index in 0..TARGETS {
            if work.is_open(goal) {
                let excess = work.best.height - goal;
                let target = goal + (excess / TARGETS as u64 * (index as u64 + 1)).min(excess - 1);
                self.search(work, target, search_units / TARGETS as u64, Some(index));
                self.eject(work, target, units / TARGETS as u64);
            }
        }
    }

    pub fn passes(&mut self, work: &mut Work<'_>, goal: u64, list: &[Pass]) {
        if let Some(order) = passes(self, work.problem, &mut work.best, goal, list) {
            work.squeaky = order;
        }
    }

    /// Searches the whole part for a packing of height `target`, which is the goal or one above it.
    pub fn search(&mut self, work: &mut Work<'_>, target: u64, units: u64, above: Option<usize>) {
        if work.problem.len() > SEARCHED_MAX {
            return;
        }
        let blames = above.map_or(&mut work.at_goal, |index| &mut work.at_targets[index]);
        let blames = blames.of_part(0, work.problem.sections());
        match self.search_orders(work.problem, target, units, blames) {
            Verdict::Found(offsets) => work.best.improve(work.problem, &offsets),
            Verdict::Impossible => work.best.lower_bound = work.best.lower_bound.max(target + 1),
            Verdict::Unknown => {}
        }
    }

    /// Searches a connected problem: once leaving nothing out, and then by several orders. How long a search takes has a
    /// heavy tail, so that many short ones do better than one long one; and each learns from those before it.
    pub fn search_orders(&mut self, problem: &Problem, capacity: u64, units: u64, blames: &mut [f64]) -> Verdict {
        let (dive, begun) = (Search::dive(problem), self.effort.units());
        for turn in 0.. {
            let is_first = turn < SEARCH_KEYS.len();
            let units_each = match turn {
                0 if dive / 4 <= units => (units / FIRST_PART).max((FIRST_DIVES * dive).min(units)),
                _ if is_first => (units / FIRST_PART).max(FIRST_DIVES * dive),
                _ => (units / BLAME_PART).max(BLAME_DIVES * dive),
            };
            if self.effort.units() - begun + units_each > units || !self.effort.spend(sorting(problem.len()) + problem.sections() as u64) {
                break;
            }
            let order = match SEARCH_KEYS.get(turn) {
                Some(_) => SEARCH_KEYS[(turn + self.turn) % SEARCH_KEYS.len()].sort_all(problem),
                None => order::by_blame(problem, blames, SHAKE, &mut self.random),
            };
            let outer = self.effort.begin_stage(units_each);
            let mut search = Search::new(problem, &order, capacity, self.slabs, turn == 0);
            let verdict = search.run(&mut self.effort);
            self.effort.end_stage(outer);
            if verdict != Verdict::Unknown {
                return verdict;
            }
            for (sum, blame) in blames.iter_mut().zip(&search.blames) {
                *sum = *sum * BLAME_KEPT + f64::from(*blame);
            }
        }
        Verdict::Unknown
    }

    /// Packs again and again; buffers that stick out above the goal move forward in the order.
    pub fn squeaky_wheel(&mut self, work: &mut Work<'_>, goal: u64, units: u64) {
        let problem = work.problem;
        let mut fitter = Fitter::new(problem, self.slabs, &mut self.effort);
        let units_max = self.effort.units().saturating_add(units);
        for pass in 0.. {
            if work.best.height <= goal || self.effort.units() >= units_max {
                return;
            }
            fitter.begin(&[], &mut self.effort);
            let rule = RULES[(pass % 4 == 3) as usize];
            if fitter.pass(&work.squeaky, rule, u64::MAX, &mut self.effort).is_none() {
                return;
            }
            work.best.improve(problem, &fitter.offsets);
            self.effort.spend(sorting(problem.len()));
            let sticks_out = |id: u32| fitter.offsets[id as usize] + problem.sizes[id as usize] > goal;
            let places = (0..).zip(&work.squeaky);
            let mut moved: Vec<(u32, u32)> = places
                .map(|(place, id)| {
                    let forward =
                        if sticks_out(*id) { place / 2 + self.random.below(place / 8 + 1) } else { 2 * place };
                    (if sticks_out(*id) { forward } else { 2 * place }, *id)
                })
                .collect();
            moved.sort_by_key(|(place, _)| *place);
            work.squeaky.clear();
            work.squeaky.extend(moved.iter().map(|(_, id)| *id));
        }
    }

    pub fn eject(&mut self, work: &mut Work<'_>, target: u64, units: u64) {
        if !self.slabs.is_none() {
            return;
        }
        if work.neighbours.is_none() {
            work.neighbours = Neighbours::new(work.problem, units, &mut self.effort);
        }
        let Some(neighbours) = &work.neighbours else { return };
        if let Some(offsets) = self.eject_within(work.problem, neighbours, target, units) {
            work.best.improve(work.problem, &offsets);
        }
    }

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
        if first && let Some(offsets) = self.pass_within(problem, goal) {
            return Verdict::Found(offsets);
        }
        if problem.len() <= SEARCHED_MAX {
            let verdict = self.search_orders(problem, goal, units, blames);
            if verdict != Verdict::Unknown {
                return verdict;
            }
        }
        if self.slabs.is_none()
            && let Some(neighbours) = Neighbours::new(problem, units, &mut self.effort)
            && let Some(offsets) = self.eject_within(problem, &neighbours, goal, units)
        {
            return Verdict::Found(offsets);
        }
        Verdict::Unknown
    }

    pub fn pass_within(&mut self, problem: &Problem, goal: u64) -> Option<Vec<u64>> {
        let mut fitter = Fitter::new(problem, self.slabs, &mut self.effort);
        for key in [Key::Twa, Key::Size, Key::SizeRootWidth] {
            self.effort.spend(sorting(problem.len()));
            let order = key.sort_all(problem);
            for rule in RULES {
                if !self.effort.is_left() {
                    return None;
                }
                fitter.begin(&[], &mut self.effort);
                if fitter.pass(&order, rule, goal + 1, &mut self.effort).is_some() {
                    return Some(fitter.offsets);
                }
            }
        }
        None
    }
}

/// Passes over all buffers of a problem, until one comes to the goal. The order of the one that has made the best packing, if
/// one has.
pub fn passes(
    solver: &mut Solver<'_>,
    problem: &Problem,
    best: &mut Packing,
    goal: u64,
    list: &[Pass],
) -> Option<Vec<u32>> {
    if best.height <= goal {
        return None;
    }
    let effort = &mut solver.effort;
    let mut fitter = Fitter::new(problem, solver.slabs, effort);
    let (mut order, mut order_of, mut best_order) = (Vec::new(), None, None);
    for (key, rule) in list {
        if best.height <= goal || !effort.is_left() {
            break;
        }
        if order_of != Some(key) {
            effort.spend(sorting(problem.len()));
            (order, order_of) = (key.sort_all(problem), Some(key));
        }
        fitter.begin(&[], effort);
        if fitter.pass(&order, *rule, best.height, effort).is_some() {
            best.improve(problem, &fitter.offsets);
            best_order = Some(order.clone());
        }
    }
    best_order
}

/// The packing of the whole that the parts make up.
pub fn join(problem: &Problem, reduced: &Reduced, works: &[Work<'_>]) -> Packing {
    let mut whole = Packing { offsets: vec![0; problem.len()], height: reduced.height, lower_bound: problem.load() };
    for (id, offset) in &reduced.stacked {
        whole.offsets[*id as usize] = *offset;
    }
    for (atom, work) in reduced.atoms.iter().zip(works) {
        whole.height = whole.height.max(atom.base + work.best.height);
        whole.lower_bound = whole.lower_bound.max(atom.base + work.best.lower_bound);
        for (id, offset) in atom.ids.iter().zip(&work.best.offsets) {
            whole.offsets[*id as usize] = atom.base + offset;
        }
    }
    whole
}
