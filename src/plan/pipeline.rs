//! The order of attempts, from passes that take microseconds to searches that go on until the limit is reached.
//!
//! A problem is taken apart (`reduce`), and every part gets two quick passes. Parts that are higher than the goal get one more,
//! a look at hot windows, and the simple orders, so that no plan is higher than any of these makes it. Then they are refined in
//! rounds, each with twice the work of the one before: hot windows; more orders; search of the whole part; squeaky wheel;
//! ejection; and the same again at targets between the goal and the best height so far. A part is done when it is as high as
//! the goal or as its own lower bound, which rises when a search shows that a height is impossible.

use super::effort::sorting;
use super::eject::Neighbours;
use super::fit::{Fitter, Rule};
use super::hot;
use super::order::Key;
use super::problem::Problem;
use super::reduce::{Reduced, reduce};
use super::search::Verdict;
use super::solver::{Blames, Packing, Pass, Solver};

/// Units that the first round gives to each stage, or those of the first passes where these took more; every further round
/// gives twice as many.
const ROUND_UNITS: u64 = 200_000;

/// The round after which they grow no more.
const ROUND_MAX: u32 = 40;

/// What the first look at hot windows gets, by the units of the first passes.
const QUICK_PASSES: u64 = 4;

/// Units of the searches in it.
const QUICK_UNITS: u64 = 2_000_000;

/// What searches get, by what all else gets.
const SEARCH_SHARE: u64 = 8;

/// Heights between the goal and the best so far that each round tries too.
const TARGETS: usize = 3;

const RULES: [Rule; 2] = [Rule::First, Rule::Best];

/// The first pass, which closes most training steps, and one that closes most others.
const FIRST_PASS: [Pass; 1] = [(Key::Twa, Rule::First)];
const NEXT_PASS: [Pass; 1] = [(Key::Twa, Rule::Best)];

/// What a program without a solver does. It is made whatever the limit, as the first pass is.
const TIME_PASS: [Pass; 1] = [(Key::Time, Rule::First)];

/// What a program without a solver might do. No plan is higher than what comes of any of these, if the limit has room for
/// them. The cheap ones come first.
const SIMPLE_PASSES: [Pass; 7] = [
    (Key::BareSize, Rule::First),
    (Key::BareArea, Rule::First),
    (Key::Duration, Rule::First),
    (Key::Time, Rule::Best),
    (Key::BareSize, Rule::Best),
    (Key::BareArea, Rule::Best),
    (Key::Duration, Rule::Best),
];

const MORE_PASSES: [Pass; 12] = [
    (Key::Size, Rule::First),
    (Key::Size, Rule::Best),
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

/// One part in the making.
struct Work<'p> {
    problem: &'p Problem,
    best: Packing,
    /// Units of the first passes.
    first_units: u64,
    neighbours: Option<Neighbours>,
    /// What the searches in each hot window have learned, at the goal, and at each of the targets above it.
    in_windows: [Blames; hot::WINDOWS],
    at_goal: Blames,
    at_targets: [Blames; TARGETS],
    /// The order that the squeaky wheel has come to.
    squeaky: Vec<u32>,
}

impl<'p> Work<'p> {
    fn new(problem: &'p Problem) -> Self {
        Self {
            problem,
            best: Packing::new(problem),
            first_units: 0,
            neighbours: None,
            in_windows: Default::default(),
            at_goal: Blames::default(),
            at_targets: Default::default(),
            squeaky: Vec::new(),
        }
    }
}

impl Solver<'_> {
    /// Packs a problem; stops early where the height is no more than `goal`, which is at least the problem's load. `None` if
    /// the limit holds for the first passes too, and was reached in one of them.
    pub fn solve(&mut self, problem: &Problem, goal: u64) -> Option<Packing> {
        let everything = (0..problem.len() as u32).collect();
        self.effort.is_sure = !self.is_strict;
        let reduced = reduce(problem, everything, (0, u64::MAX), self.slabs.is_none(), &mut self.effort);
        self.effort.is_sure = false;
        let mut works: Vec<Work<'_>> = reduced.atoms.iter().map(|atom| Work::new(&atom.problem)).collect();
        for (atom, work) in reduced.atoms.iter().zip(&mut works) {
            self.first_passes(work, goal - atom.base)?;
        }
        for (atom, work) in reduced.atoms.iter().zip(&mut works) {
            self.begin(work, goal - atom.base);
        }
        let mut whole = join(problem, &reduced, &works);
        if !reduced.stacked.is_empty() {
            // What was stacked may be luckier elsewhere.
            self.sure_passes(problem, &mut whole, goal, &TIME_PASS);
            self.passes(problem, &mut whole, goal, &SIMPLE_PASSES);
        }
        self.rounds(&reduced, &mut works, goal, whole.height);
        let joined = join(problem, &reduced, &works);
        if whole.height < joined.height {
            return Some(Packing { lower_bound: joined.lower_bound, ..whole });
        }
        Some(joined)
    }

    /// Refines the parts until one cannot be helped, or all are as low as the goal, or the limit is reached.
    fn rounds(&mut self, reduced: &Reduced, works: &mut [Work<'_>], mut goal: u64, height: u64) {
        for round in 0u32.. {
            for (atom, work) in reduced.atoms.iter().zip(&*works) {
                goal = goal.max(atom.base + work.best.lower_bound);
            }
            let (mut is_done, units_before) = (true, self.effort.units());
            for (atom, work) in reduced.atoms.iter().zip(&mut *works) {
                if height > goal && atom.base + work.best.height > goal && self.effort.is_left() {
                    self.refine(work, goal - atom.base, round);
                    is_done = false;
                }
            }
            // Where the limit leaves room for no stage any more, none counts anything.
            if is_done || self.effort.units() == units_before {
                break;
            }
        }
    }

    /// The passes that are made in any case. `None` if the limit is strict, and reached in the first.
    fn first_passes(&mut self, work: &mut Work<'_>, goal: u64) -> Option<()> {
        let units_before = self.effort.units();
        for pass in [&FIRST_PASS, &TIME_PASS] {
            if let Some(order) = self.sure_passes(work.problem, &mut work.best, goal, pass) {
                work.squeaky = order;
            }
        }
        work.first_units = self.effort.units() - units_before;
        (work.best.height < u64::MAX).then_some(())
    }

    /// What closes most training steps, and then the simple passes.
    fn begin(&mut self, work: &mut Work<'_>, goal: u64) {
        self.passes_of(work, goal, &NEXT_PASS);
        if work.best.is_open(goal) {
            let outer = self.effort.begin_stage(QUICK_PASSES * work.first_units);
            self.windows(work, goal, QUICK_UNITS, true);
            self.effort.end_stage(outer);
        }
        self.passes_of(work, goal, &SIMPLE_PASSES);
    }

    /// Passes whatever the limit says, unless it is strict.
    fn sure_passes(&mut self, problem: &Problem, best: &mut Packing, goal: u64, list: &[Pass]) -> Option<Vec<u32>> {
        self.effort.is_sure = !self.is_strict;
        let order = self.passes(problem, best, goal, list);
        self.effort.is_sure = false;
        order
    }

    /// One round for one part.
    fn refine(&mut self, work: &mut Work<'_>, goal: u64, round: u32) {
        let units = ROUND_UNITS.max(work.first_units).saturating_mul(1 << round.min(ROUND_MAX));
        let search_units = SEARCH_SHARE.saturating_mul(units);
        if work.best.is_open(goal) {
            self.windows(work, goal, search_units, false);
        }
        if round == 0 {
            self.passes_of(work, goal, &MORE_PASSES);
        }
        if work.best.is_open(goal) {
            self.search(work, goal, search_units.saturating_mul(2), None);
        }
        if work.best.is_open(goal) {
            self.squeaky_wheel(work, goal, units);
        }
        if work.best.is_open(goal) {
            self.eject(work, goal, units);
        }
        // Then targets above the goal, in thirds of what is still too much, and a hair below what there is.
        for index in 0..TARGETS {
            if work.best.is_open(goal) {
                let excess = work.best.height - goal;
                let target = goal + (excess / TARGETS as u64 * (index as u64 + 1)).min(excess - 1);
                self.search(work, target, search_units / TARGETS as u64, Some(index));
                self.eject(work, target, units / TARGETS as u64);
            }
        }
    }

    fn passes_of(&mut self, work: &mut Work<'_>, goal: u64, list: &[Pass]) {
        if let Some(order) = self.passes(work.problem, &mut work.best, goal, list) {
            work.squeaky = order;
        }
    }

    fn windows(&mut self, work: &mut Work<'_>, goal: u64, units: u64, first: bool) {
        hot::windows(self, work.problem, &mut work.best, &mut work.in_windows, goal, units, first);
    }

    /// Searches the whole part for a packing of height `target`, which is the goal or one above it.
    fn search(&mut self, work: &mut Work<'_>, target: u64, units: u64, above: Option<usize>) {
        let blames = above.map_or(&mut work.at_goal, |index| &mut work.at_targets[index]);
        let blames = blames.of_part(0, work.problem.sections());
        match self.search_orders(work.problem, target, units, blames) {
            Verdict::Found(offsets) => work.best.improve(work.problem, &offsets),
            Verdict::Impossible => work.best.lower_bound = work.best.lower_bound.max(target + 1),
            Verdict::Unknown => {}
        }
    }

    /// Packs again and again; buffers that stick out above the goal move forward in the order.
    fn squeaky_wheel(&mut self, work: &mut Work<'_>, goal: u64, units: u64) {
        let problem = work.problem;
        let Some(mut fitter) = Fitter::new(problem, self.slabs, &mut self.effort) else { return };
        let units_max = self.effort.units().saturating_add(units);
        for pass in 0.. {
            if work.best.height <= goal
                || self.effort.units() >= units_max
                || !self.effort.take(sorting(problem.len()))
                || !fitter.begin(&[], &mut self.effort)
            {
                return;
            }
            let rule = RULES[(pass % 4 == 3) as usize];
            if fitter.pass(&work.squeaky, rule, u64::MAX, &mut self.effort).is_none() {
                return;
            }
            work.best.improve(problem, &fitter.offsets);
            let sticks_out = |id: u32| fitter.offsets[id as usize] + problem.sizes[id as usize] > goal;
            let places = (0..).zip(&work.squeaky);
            let mut moved: Vec<(u32, u32)> = places
                .map(|(place, id)| {
                    let moved = if sticks_out(*id) { place / 2 + self.random.below(place / 8 + 1) } else { 2 * place };
                    (moved, *id)
                })
                .collect();
            moved.sort_by_key(|(place, _)| *place);
            work.squeaky.clear();
            work.squeaky.extend(moved.iter().map(|(_, id)| *id));
        }
    }

    fn eject(&mut self, work: &mut Work<'_>, target: u64, units: u64) {
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
}

/// The packing of the whole that the parts make up.
fn join(problem: &Problem, reduced: &Reduced, works: &[Work<'_>]) -> Packing {
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
