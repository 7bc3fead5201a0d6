//! Ejection search: at one target height, put each buffer where it throws out the least, and put what it threw out back
//! on the list.
//!
//! What is thrown out grows heavier, so that the buffers that are in each other's way end up where they can stay. There
//! is no proof and no promise in it, but it needs no complete order and gets through problems that are too large for a
//! search.

use std::collections::BinaryHeap;

use super::effort::{Effort, Random, sorting};
use super::problem::Problem;

/// Pairs of buffers that share a section, beyond which there is no list of neighbours: 64 MiB of them.
const PAIRS_MAX: usize = 1 << 24;

/// Words of a table with a bit for each pair, where buffers are live several times: 16 MiB of them.
const WORDS_MAX: usize = 1 << 21;

/// Units of a pair, in the making of the lists.
const PAIR_UNITS: u64 = 12;

/// Steps for which a buffer that was just placed is thrown out only if nothing else helps.
const TABU_STEPS: u32 = 10;

/// For each buffer the others that share a section with it, one list behind another.
#[derive(Debug)]
pub(super) struct Neighbours {
    begins: Vec<u32>,
    ids: Vec<u32>,
}

impl Neighbours {
    /// `None` if there are too many for so many units, or the limit leaves no room for them.
    pub fn new(problem: &Problem, units: u64, effort: &mut Effort<'_>) -> Option<Self> {
        if problem.is_split() {
            return Self::of_split(problem, units, effort);
        }
        if !effort.take(2 * sorting(problem.len())) {
            return None;
        }
        let mut by_first: Vec<u32> = (0..problem.len() as u32).collect();
        by_first.sort_unstable_by_key(|id| problem.spans[*id as usize].first);
        let firsts: Vec<u32> = by_first.iter().map(|id| problem.spans[*id as usize].first).collect();
        // Of each buffer: the first place behind which all others begin after its end.
        let behind = |id: &u32| firsts.partition_point(|first| *first < problem.spans[*id as usize].end);
        let count: usize = by_first.iter().enumerate().map(|(place, id)| behind(id) - place - 1).sum();
        let pair_units = PAIR_UNITS * count as u64;
        if count > PAIRS_MAX || pair_units > units || !effort.take(pair_units) {
            return None;
        }
        let mut pairs = Vec::with_capacity(count);
        for (place, id) in by_first.iter().enumerate() {
            pairs.extend(by_first[place + 1..behind(id)].iter().map(|other| (*id, *other)));
        }
        Some(Self::of_pairs(problem, pairs))
    }

    /// Where buffers are live several times: each pair once, however often they meet.
    fn of_split(problem: &Problem, units: u64, effort: &mut Effort<'_>) -> Option<Self> {
        let (count, words) = (problem.len(), problem.len().div_ceil(64));
        let spans_count: usize = (0..count).map(|id| problem.spans_of(id).len()).sum();
        if words * count > WORDS_MAX || !effort.take(2 * sorting(spans_count) + (words * count) as u64) {
            return None;
        }
        let of_one = |id: u32| problem.spans_of(id as usize).iter().map(move |span| (span.first, span.end, id));
        let mut starts: Vec<(u32, u32, u32)> = (0..count as u32).flat_map(of_one).collect();
        starts.sort_unstable();
        let mut met = vec![0u64; words * count];
        let mut active: Vec<(u32, u32)> = Vec::new();
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        let mut units_left = units;
        for (first, end, id) in starts {
            let looked_at = PAIR_UNITS * active.len() as u64;
            units_left = units_left.checked_sub(looked_at)?;
            if pairs.len() > PAIRS_MAX || !effort.take(looked_at) {
                return None;
            }
            active.retain(|(until, _)| *until > first);
            for (_, other) in &active {
                let (low, high) = (id.min(*other) as usize, id.max(*other) as usize);
                let (word, bit) = (&mut met[low * words + high / 64], 1 << (high % 64));
                if *word & bit == 0 {
                    *word |= bit;
                    pairs.push((low as u32, high as u32));
                }
            }
            active.push((end, id));
        }
        Some(Self::of_pairs(problem, pairs))
    }

    fn of_pairs(problem: &Problem, pairs: Vec<(u32, u32)>) -> Self {
        let mut begins = vec![0u32; problem.len() + 2];
        for (one, other) in &pairs {
            begins[*one as usize + 2] += 1;
            begins[*other as usize + 2] += 1;
        }
        for index in 1..begins.len() {
            begins[index] += begins[index - 1];
        }
        let mut ids = vec![0; 2 * pairs.len()];
        for (one, other) in pairs {
            for (one, other) in [(one, other), (other, one)] {
                let at = &mut begins[one as usize + 1];
                ids[*at as usize] = other;
                *at += 1;
            }
        }
        Self { begins, ids }
    }

    pub fn of(&self, id: u32) -> &[u32] {
        &self.ids[self.begins[id as usize] as usize..self.begins[id as usize + 1] as usize]
    }
}

/// Units of a step beside those of its neighbours, of a neighbour, and of a placed one for each doubling of their number.
const STEP_UNITS: u64 = 60;
const NEIGHBOUR_UNITS: u64 = 4;
const PLACED_UNITS: u64 = 8;

const NOWHERE: u64 = u64::MAX;

/// One search, and the room it works in.
struct Ejection<'a> {
    problem: &'a Problem,
    neighbours: &'a Neighbours,
    target: u64,
    weights: Vec<u64>,
    offsets: Vec<u64>,
    /// The step until which each buffer is not to be thrown out.
    tabu_until: Vec<u32>,
    unplaced: BinaryHeap<(u64, u32)>,
    /// Of the placed neighbours: where they begin and end, sorted, each with the weight of it and those before it.
    bottoms: Vec<(u64, u128)>,
    tops: Vec<(u64, u128)>,
}

/// Offsets of height `target` or less, if they are found before the limit is reached. Without slabs.
pub(super) fn eject(
    problem: &Problem,
    neighbours: &Neighbours,
    target: u64,
    effort: &mut Effort<'_>,
    random: &mut Random,
) -> Option<Vec<u64>> {
    let count = problem.len();
    if problem.sizes.iter().any(|size| *size > target) {
        return None;
    }
    let mut ejection = Ejection {
        problem,
        neighbours,
        target,
        weights: problem.sizes.clone(),
        offsets: vec![NOWHERE; count],
        tabu_until: vec![0; count],
        unplaced: problem.sizes.iter().copied().zip(0..).collect(),
        bottoms: Vec::new(),
        tops: Vec::new(),
    };
    if !effort.take(sorting(count)) {
        return None;
    }
    for step in 0..u32::MAX - 2 * TABU_STEPS {
        let Some((_, id)) = ejection.unplaced.pop() else { return Some(ejection.offsets) };
        if !effort.is_left() {
            return None;
        }
        ejection.place(id, step, random);
        let (seen, placed) = (neighbours.of(id).len() as u64, ejection.bottoms.len() as u64);
        let levels = u64::from(placed.max(1).ilog2() + 1);
        effort.spend(STEP_UNITS + NEIGHBOUR_UNITS * seen + PLACED_UNITS * placed * levels);
    }
    None
}

impl Ejection<'_> {
    /// Puts a buffer where that is cheapest, and throws out what is there.
    fn place(&mut self, id: u32, step: u32, random: &mut Random) {
        let size = self.problem.sizes[id as usize];
        self.gather(id, step);
        let offset = self.cheapest(size, random);
        for other in self.neighbours.of(id) {
            let index = *other as usize;
            let (bottom, other_size) = (self.offsets[index], self.problem.sizes[index]);
            if bottom != NOWHERE && bottom < offset + size && offset < bottom + other_size {
                self.offsets[index] = NOWHERE;
                self.weights[index] = self.weights[index].saturating_add(size / 8 + 1);
                self.unplaced.push((other_size, *other));
            }
        }
        self.offsets[id as usize] = offset;
        self.tabu_until[id as usize] = step + 1 + TABU_STEPS + random.below(TABU_STEPS);
    }

    /// Collects where the placed neighbours begin and end.
    fn gather(&mut self, id: u32, step: u32) {
        self.bottoms.clear();
        self.tops.clear();
        for other in self.neighbours.of(id) {
            let index = *other as usize;
            let bottom = self.offsets[index];
            if bottom != NOWHERE {
                // A tabu buffer weighs more than all others together.
                let tabu = u128::from(self.tabu_until[index] > step) << 96;
                let weight = u128::from(self.weights[index]) + tabu;
                self.bottoms.push((bottom, weight));
                self.tops.push((bottom + self.problem.sizes[index], weight));
            }
        }
        for list in [&mut self.bottoms, &mut self.tops] {
            list.sort_unstable();
            let mut sum = 0;
            for (_, weight) in list {
                sum += *weight;
                *weight = sum;
            }
        }
    }

    /// The candidate that meets the least weight: the bottom, the top, on each neighbour and under each. Among equals,
    /// chance decides.
    fn cheapest(&self, size: u64, random: &mut Random) -> u64 {
        let highest = self.target - size;
        let on = self.tops.iter().map(|(top, _)| *top).filter(|top| *top <= highest);
        let under = self.bottoms.iter().filter_map(|(bottom, _)| bottom.checked_sub(size));
        let (mut best, mut best_weight, mut equals) = (0, u128::MAX, 0);
        for offset in [0, highest].into_iter().chain(on).chain(under) {
            let weight = self.weight(offset, offset + size);
            if weight < best_weight {
                (best, best_weight, equals) = (offset, weight, 1);
            } else if weight == best_weight {
                equals += 1;
                if random.below(equals) == 0 {
                    best = offset;
                }
            }
        }
        best
    }

    /// Of the neighbours that meet `start..end`: those that begin before its end, without those that end before its
    /// start.
    fn weight(&self, start: u64, end: u64) -> u128 {
        let sum = |list: &[(u64, u128)], count: usize| if count == 0 { 0 } else { list[count - 1].1 };
        let begun = self.bottoms.partition_point(|(bottom, _)| *bottom < end);
        let ended = self.tops.partition_point(|(top, _)| *top <= start);
        sum(&self.bottoms, begun) - sum(&self.tops, ended)
    }
}
