//! The order of attempts, from a pass that takes milliseconds to searches that go on until the steps are used up.
//!
//! A problem is taken apart (`reduce`), and every part gets a quick pass. Parts that are higher than the goal are then
//! refined in rounds, each with twice the steps of the one before: more orders; hot windows; search of the whole part;
//! squeaky wheel; ejection; and the same again at targets between the goal and the best height so far. A part is done
//! when it is as high as the goal or as its own lower bound, which rises when a search shows that a height is
//! impossible.

use super::effort::{Effort, Random};
use super::eject::{Neighbours, eject};
use super::fit::{Fitter, Rule};
use super::hot;
use super::order::{self, Key};
use super::problem::Problem;
use super::reduce::{Atom, reduce};
use super::search::{Search, Verdict};
use super::slabs::Slabs;

/// Steps that the first round gives to each search; every further round gives twice as many.
const ROUND_STEPS: u64 = 4_000;

/// Most buffers that a search by depth is tried on.
const SEARCHED_MAX: usize = 2_000;

/// Searches at one height in one round.
const SEARCHES: usize = 16;

/// Their orders in turn, with the order by blame after these, and how much they are shaken from turn to turn.
const SEARCH_KEYS: [Key; 3] = [Key::Twa, Key::Taw, Key::Wat];
const SHAKES: [f64; 5] = [0.0, 0.1, 0.1, 0.3, 0.1];

/// The part of a search's blames that the next one still counts.
const BLAME_KEPT: f64 = 0.7;

const RULES: [Rule; 2] = [Rule::First, Rule::Best];

/// Offsets of one problem, their height, and a height below which there is none.
#[derive(Clone, Debug)]
pub(super) struct Packing {
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
pub(super) struct Solver<'a> {
    pub slabs: &'a Slabs,
    pub effort: Effort<'a>,
    pub random: Random,
    /// Turned by this many places, the lists of orders differ between threads.
    pub turn: usize,
}

/// One part in the making.
struct Work<'p> {
    problem: &'p Problem,
    best: Packing,
    neighbours: Option<Option<Neighbours>>,
    /// The order that the squeaky wheel has come to.
    squeaky: Vec<u32>,
}

impl Solver<'_> {
    /// Packs a problem; stops early where the height is no more than `goal`, which is at least the problem's load.
    pub fn solve(&mut self, problem: &Problem, mut goal: u64) -> Packing {
        let everything = (0..problem.len() as u32).collect();
        let reduced = reduce(problem, everything, (0, u64::MAX), self.slabs.is_none());
        let mut work: Vec<Work<'_>> = reduced.atoms.iter().map(|atom| self.begin(atom)).collect();
        let mut round = 0;
        loop {
            for (atom, work) in reduced.atoms.iter().zip(&work) {
                goal = goal.max(atom.base + work.best.lower_bound);
            }
            let mut is_done = true;
            for (atom, work) in reduced.atoms.iter().zip(&mut work) {
                if atom.base + work.best.height > goal && self.effort.is_left() {
                    self.refine(work, goal - atom.base, round);
                    is_done = false;
                }
            }
            if is_done {
                break;
            }
            round += 1;
        }
        let mut packing =
            Packing { offsets: vec![0; problem.len()], height: reduced.height, lower_bound: problem.load() };
        for (id, offset) in reduced.stacked {
            packing.offsets[id as usize] = offset;
        }
        for (atom, work) in reduced.atoms.iter().zip(work) {
            packing.height = packing.height.max(atom.base + work.best.height);
            packing.lower_bound = packing.lower_bound.max(atom.base + work.best.lower_bound);
            for (id, offset) in atom.ids.iter().zip(work.best.offsets) {
                packing.offsets[*id as usize] = atom.base + offset;
            }
        }
        packing
    }

    /// The first pass, which is made whatever the limits say.
    fn begin<'p>(&mut self, atom: &'p Atom) -> Work<'p> {
        let problem = &atom.problem;
        let squeaky = Key::Twa.sort_all(problem);
        let mut fitter = Fitter::new(problem, self.slabs);
        let height = fitter.pass(&squeaky, Rule::First, u64::MAX, &mut Effort::unlimited()).unwrap_or(u64::MAX);
        self.effort.count(problem.len() as u64);
        let best = Packing { offsets: fitter.offsets, height, lower_bound: problem.load() };
        Work { problem, best, neighbours: None, squeaky }
    }

    /// One round for one part.
    fn refine(&mut self, work: &mut Work<'_>, goal: u64, round: u32) {
        let steps = ROUND_STEPS.checked_shl(round).unwrap_or(u64::MAX);
        let is_open = |work: &Work<'_>| work.best.height > goal.max(work.best.lower_bound);
        if round == 0 {
            self.orders(work, goal, &Key::ALL[..2]);
        }
        if is_open(work) {
            hot::windows(self, work.problem, &mut work.best, goal, steps);
        }
        if round == 0 {
            self.orders(work, goal, &Key::ALL[2..]);
        }
        if is_open(work) {
            self.search(work, goal, steps);
        }
        if is_open(work) {
            self.squeaky_wheel(work, goal, steps);
        }
        if is_open(work) {
            self.eject(work, goal, steps);
        }
        // Then targets above the goal, in thirds of what is still too much, and a hair below what there is.
        for share in [1, 2, 3] {
            if is_open(work) {
                let excess = work.best.height - goal;
                let target = goal + (excess / 3 * share).min(excess - 1);
                self.search(work, target, steps);
                self.eject(work, target, steps);
            }
        }
    }

    /// Passes in these orders.
    fn orders(&mut self, work: &mut Work<'_>, goal: u64, keys: &[Key]) {
        let problem = work.problem;
        let mut fitter = Fitter::new(problem, self.slabs);
        for key in keys {
            let order = key.sort_all(problem);
            for rule in RULES {
                if work.best.height <= goal || !self.effort.is_left() {
                    return;
                }
                fitter.begin(&[]);
                if fitter.pass(&order, rule, work.best.height, &mut self.effort).is_some() {
                    work.best.improve(problem, &fitter.offsets);
                }
            }
        }
    }

    /// Searches the whole part for a packing of height `target`.
    fn search(&mut self, work: &mut Work<'_>, target: u64, steps: u64) {
        if work.problem.len() > SEARCHED_MAX {
            return;
        }
        match self.search_orders(work.problem, target, steps) {
            Verdict::Found(offsets) => work.best.improve(work.problem, &offsets),
            Verdict::Impossible => work.best.lower_bound = work.best.lower_bound.max(target + 1),
            Verdict::Unknown => {}
        }
    }

    /// Searches a connected problem: once leaving nothing out, and then by several orders, shaken more and more. How
    /// long a search takes has a heavy tail, so that many short ones do better than one long one.
    fn search_orders(&mut self, problem: &Problem, capacity: u64, steps: u64) -> Verdict {
        let mut blames = vec![0.0; problem.sections()];
        for turn in 0..SEARCHES {
            let turned = turn + self.turn;
            let share = SHAKES[turned / (SEARCH_KEYS.len() + 1) % SHAKES.len()];
            let order = match SEARCH_KEYS.get(turned % (SEARCH_KEYS.len() + 1)) {
                Some(key) => key.shake(problem, share, &mut self.random),
                None => order::by_blame(problem, &blames, share, &mut self.random),
            };
            let mut search = Search::new(problem, &order, capacity, self.slabs, turn == 0);
            match search.run(steps, &mut self.effort) {
                Verdict::Unknown => {}
                verdict => return verdict,
            }
            for (sum, blame) in blames.iter_mut().zip(&search.blames) {
                *sum = *sum * BLAME_KEPT + f64::from(*blame);
            }
        }
        Verdict::Unknown
    }

    /// Packs again and again; buffers that stick out above the goal move forward in the order.
    fn squeaky_wheel(&mut self, work: &mut Work<'_>, goal: u64, steps: u64) {
        let problem = work.problem;
        let mut fitter = Fitter::new(problem, self.slabs);
        let passes = (steps / problem.len() as u64).max(2);
        for pass in 0..passes {
            if work.best.height <= goal || !self.effort.is_left() {
                return;
            }
            fitter.begin(&[]);
            let rule = RULES[(pass % 4 == 3) as usize];
            if fitter.pass(&work.squeaky, rule, u64::MAX, &mut self.effort).is_none() {
                return;
            }
            work.best.improve(problem, &fitter.offsets);
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

    fn eject(&mut self, work: &mut Work<'_>, target: u64, steps: u64) {
        if !self.slabs.is_none() {
            return;
        }
        let neighbours = work.neighbours.get_or_insert_with(|| Neighbours::new(work.problem));
        let Some(neighbours) = neighbours else { return };
        if let Some(offsets) = eject(work.problem, neighbours, target, steps, &mut self.effort, &mut self.random) {
            work.best.improve(work.problem, &offsets);
        }
    }

    /// Something of height `goal` or less for a part of a problem, or the proof that there is nothing.
    pub fn pack_within(&mut self, problem: &Problem, goal: u64, steps: u64) -> Verdict {
        if problem.load() > goal {
            return Verdict::Impossible;
        }
        let mut fitter = Fitter::new(problem, self.slabs);
        for key in [Key::Twa, Key::Size, Key::SizeRootWidth] {
            let order = key.sort_all(problem);
            for rule in RULES {
                if !self.effort.is_left() {
                    return Verdict::Unknown;
                }
                fitter.begin(&[]);
                if fitter.pass(&order, rule, goal + 1, &mut self.effort).is_some() {
                    return Verdict::Found(fitter.offsets);
                }
            }
        }
        if problem.len() <= SEARCHED_MAX {
            let verdict = self.search_orders(problem, goal, steps);
            if verdict != Verdict::Unknown {
                return verdict;
            }
        }
        let neighbours = if self.slabs.is_none() { Neighbours::new(problem) } else { None };
        let Some(neighbours) = neighbours else { return Verdict::Unknown };
        match eject(problem, &neighbours, goal, steps, &mut self.effort, &mut self.random) {
            Some(offsets) => Verdict::Found(offsets),
            None => Verdict::Unknown,
        }
    }
}
