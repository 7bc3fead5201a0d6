//! First fit and best fit over many buffers: a segment tree over the sections whose nodes keep what is occupied.
//!
//! A buffer's span is the disjoint union of at most two nodes a level, its *canonical* nodes. Each node keeps two
//! sorted lists of disjoint address ranges:
//!
//! - `covering`: the union of the placed buffers that have the node as a canonical one, and so cover all of it;
//! - `touching`: the union of the placed buffers that have the node or one below it as a canonical one.
//!
//! What is occupied somewhere in a span is then exactly `touching` of the span's canonical nodes and `covering` of the
//! nodes above them. For a placed buffer that meets the span meets one of its canonical nodes Q, in a canonical node P
//! of its own; two nodes that meet contain one another: either P is Q or below it, and Q's `touching` has the buffer,
//! or P is above Q, and P's `covering` has it. And none of these lists has a buffer that does not meet the span.
//!
//! Ranges that touch are merged, and what is packed well touches: the lists stay short, and a pass over 28,000 buffers
//! takes milliseconds where sorted lists of neighbours take seconds.

use super::effort::{Effort, sorting};
use super::problem::Problem;
use super::slabs::Slabs;
use super::stretches::Span;

/// Addresses `start..end` that are occupied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Occupied {
    start: u64,
    end: u64,
}

/// Which of the gaps that are large enough a buffer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The lowest.
    First,
    /// The smallest, and of those the lowest; the space above everything counts as the largest.
    Best,
}

/// Lists that one query may have to walk: two canonical nodes a level and two above them, and a place to write past
/// them.
const LISTS_MAX: usize = 4 * 32 + 1;

/// Units of a new tree, of the first ranges in its lists, and of its end, by what it takes to clear them.
const NEW_UNITS: u64 = 10;
/// Units of getting hold of a list.
const LIST_UNITS: u64 = 4;
/// Units of a look at one, where a place is searched.
const LOOK_UNITS: u64 = 3;
/// Units of halving one, where a place in it is searched.
const HALVE_UNITS: u64 = 3;
/// Units of adding a range to one, but for the ranges that move.
const ADD_UNITS: u64 = 14;
/// Ranges that move in a unit.
const MOVED_PER_UNIT: usize = 8;

/// What is occupied where.
#[derive(Debug, Default)]
pub(super) struct Tree {
    leaves: usize,
    covering: Vec<Vec<Occupied>>,
    touching: Vec<Vec<Occupied>>,
}

impl Tree {
    pub fn new(sections: usize) -> Self {
        let leaves = sections.next_power_of_two();
        Self { leaves, covering: vec![Vec::new(); 2 * leaves], touching: vec![Vec::new(); 2 * leaves] }
    }

    /// Units that [`clear`](Self::clear) takes in a tree of so many sections.
    pub fn clearing(sections: usize) -> u64 {
        4 * sections.next_power_of_two() as u64
    }

    pub fn clear(&mut self) {
        self.covering.iter_mut().for_each(Vec::clear);
        self.touching.iter_mut().for_each(Vec::clear);
    }

    /// Occupies `offset..offset + size` in all sections of the span. Returns the units that took.
    pub fn place(&mut self, span: Span, offset: u64, size: u64) -> u64 {
        let range = Occupied { start: offset, end: offset + size };
        let mut units = 0;
        canonical(self.leaves, span, |node| {
            units += add(&mut self.covering[node], range);
            units += add(&mut self.touching[node], range);
        });
        above(self.leaves, span, |node| units += add(&mut self.touching[node], range));
        units
    }

    /// Where the rule puts a buffer of `size` that is alive in the spans, at a multiple of `align`, and the units it took to find
    /// that.
    pub fn find(&self, rule: Rule, spans: &[Span], size: u64, align: u64, slabs: &Slabs) -> (u64, u64) {
        let &[span] = spans else { return self.find_in_all(rule, spans, size, align, slabs) };
        let mut lists: [&[Occupied]; LISTS_MAX] = [&[]; LISTS_MAX];
        let (mut count, mut units) = (0, 0);
        let mut keep = |list| {
            lists[count] = list;
            count += usize::from(!list.is_empty());
            units += LIST_UNITS;
        };
        canonical(self.leaves, span, |node| keep(&self.touching[node]));
        above(self.leaves, span, |node| keep(&self.covering[node]));
        let lists = &mut lists[..count];
        let offset = match rule {
            Rule::First => lowest(lists, 0, (size, align), slabs, &mut units),
            Rule::Best => tightest(lists, (size, align), slabs, &mut units),
        };
        (offset, units)
    }

    /// As [`find`](Self::find), where the buffer is alive in several spans.
    fn find_in_all(&self, rule: Rule, spans: &[Span], size: u64, align: u64, slabs: &Slabs) -> (u64, u64) {
        let (mut lists, mut nodes_above): (Vec<&[Occupied]>, Vec<usize>) = (Vec::new(), Vec::new());
        for span in spans {
            canonical(self.leaves, *span, |node| lists.push(&self.touching[node]));
            above(self.leaves, *span, |node| nodes_above.push(node));
        }
        nodes_above.sort_unstable();
        nodes_above.dedup();
        lists.extend(nodes_above.iter().map(|node| self.covering[*node].as_slice()));
        let mut units = LIST_UNITS * lists.len() as u64 + sorting(nodes_above.len());
        lists.retain(|list| !list.is_empty());
        let offset = match rule {
            Rule::First => lowest(&mut lists, 0, (size, align), slabs, &mut units),
            Rule::Best => tightest(&mut lists, (size, align), slabs, &mut units),
        };
        (offset, units)
    }
}

/// Calls `visit` with the canonical nodes of a span.
fn canonical(leaves: usize, span: Span, mut visit: impl FnMut(usize)) {
    let (mut left, mut right) = (leaves + span.first as usize, leaves + span.end as usize);
    while left < right {
        if left & 1 == 1 {
            visit(left);
            left += 1;
        }
        if right & 1 == 1 {
            right -= 1;
            visit(right);
        }
        (left, right) = (left / 2, right / 2);
    }
}

/// Calls `visit` with the nodes above the canonical ones: those that the span meets and does not cover.
fn above(leaves: usize, span: Span, mut visit: impl FnMut(usize)) {
    let (first, end) = (leaves + span.first as usize, leaves + span.end as usize);
    let (mut left, mut right, mut level) = (first, end - 1, 0);
    let partly = |node: usize, level: u32| (node << level) < first || (node + 1) << level > end;
    while left > 1 {
        (left, right, level) = (left / 2, right / 2, level + 1);
        if partly(left, level) {
            visit(left);
        }
        if right != left && partly(right, level) {
            visit(right);
        }
    }
}

/// Adds a range to sorted disjoint ranges; those that touch become one. Returns the units that took.
fn add(list: &mut Vec<Occupied>, range: Occupied) -> u64 {
    let first = list.partition_point(|other| other.end < range.start);
    let count = list[first..].iter().take_while(|other| other.start <= range.end).count();
    let moved = if count == 1 { 0 } else { list.len() - first };
    let units =
        ADD_UNITS + HALVE_UNITS * u64::from(list.len().max(1).ilog2()) + (count + moved / MOVED_PER_UNIT) as u64;
    if count == 0 {
        list.insert(first, range);
        return units;
    }
    let end = list[first + count - 1].end.max(range.end);
    list[first] = Occupied { start: list[first].start.min(range.start), end };
    if count > 1 {
        list.drain(first + 1..first + count);
    }
    units
}

/// Leaves out what ends at or before `at`. `units` are counted up.
fn skip<'a>(list: &'a [Occupied], at: u64, units: &mut u64) -> &'a [Occupied] {
    *units += LOOK_UNITS;
    match list {
        [first, ..] if first.end > at => list,
        [_, second, ..] if second.end > at => &list[1..],
        [] | [_] => &[],
        _ => {
            *units += HALVE_UNITS * u64::from(list.len().ilog2());
            &list[list.partition_point(|range| range.end <= at)..]
        }
    }
}

/// The lowest place from `at` on where `size` is free in all lists, a multiple of `align`. The lists lose what lies below it.
/// `units` are counted up.
fn lowest(lists: &mut [&[Occupied]], at: u64, (size, align): (u64, u64), slabs: &Slabs, units: &mut u64) -> u64 {
    let mut at = slabs.place(at, size, align);
    // Lists that were found to leave the place free, one after another.
    let (mut free, mut index) = (0, 0);
    while free < lists.len() {
        let list = skip(lists[index], at, units);
        lists[index] = list;
        match list.first() {
            Some(range) if range.start < at + size => {
                at = slabs.place(range.end, size, align);
                free = 0;
            }
            _ => {
                free += 1;
                index = if index + 1 == lists.len() { 0 } else { index + 1 };
            }
        }
    }
    at
}

/// The place in the smallest gap that has room for `size` at a multiple of `align`.
fn tightest(lists: &mut [&[Occupied]], (size, align): (u64, u64), slabs: &Slabs, units: &mut u64) -> u64 {
    let (mut at, mut best, mut best_room) = (0, 0, u64::MAX);
    loop {
        at = lowest(lists, at, (1, 1), &Slabs::NONE, units);
        *units += lists.len() as u64;
        let end = lists.iter().filter_map(|list| list.first()).map(|range| range.start).min();
        let place = slabs.place(at, size, align);
        match end {
            None => return if best_room == u64::MAX { place } else { best },
            Some(end) => {
                if place + size <= end && end - at < best_room {
                    (best, best_room) = (place, end - at);
                }
                at = end;
            }
        }
    }
}

/// What one pass over the buffers of a problem works with.
#[derive(Debug)]
pub(super) struct Fitter<'a> {
    problem: &'a Problem,
    slabs: &'a Slabs,
    tree: Tree,
    /// What each buffer's offset is a multiple of, where that is not 1 for all.
    pub aligns: Option<&'a [u64]>,
    /// Where the last pass put each buffer.
    pub offsets: Vec<u64>,
}

impl<'a> Fitter<'a> {
    /// `None` if the limit leaves no room for it.
    pub fn new(problem: &'a Problem, slabs: &'a Slabs, effort: &mut Effort<'_>) -> Option<Self> {
        if !effort.take(NEW_UNITS * Tree::clearing(problem.sections())) {
            return None;
        }
        let tree = Tree::new(problem.sections());
        Some(Self { problem, slabs, tree, aligns: None, offsets: vec![0; problem.len()] })
    }

    /// Forgets the last pass; `frozen` buffers are placed first, where they are said to be. False if the limit was reached.
    pub fn begin(&mut self, frozen: &[(u32, u64)], effort: &mut Effort<'_>) -> bool {
        if !effort.take(Tree::clearing(self.problem.sections())) {
            return false;
        }
        self.tree.clear();
        frozen.iter().all(|(id, offset)| effort.spend(self.put(*id, *offset)))
    }

    /// Places the buffers in this order; gives up where one would reach `limit` or higher, or where the work is at its limit.
    /// Returns the height of what was placed.
    pub fn pass(&mut self, order: &[u32], rule: Rule, limit: u64, effort: &mut Effort<'_>) -> Option<u64> {
        let mut height = 0;
        for id in order {
            let index = *id as usize;
            let size = self.problem.sizes[index];
            let align = self.aligns.map_or(1, |aligns| aligns[index]);
            let (offset, units) = self.tree.find(rule, self.problem.spans_of(index), size, align, self.slabs);
            if !effort.spend(units) || offset + size >= limit {
                return None;
            }
            height = height.max(offset + size);
            effort.spend(self.put(*id, offset));
        }
        Some(height)
    }

    /// Places a buffer. Returns the units that took.
    fn put(&mut self, id: u32, offset: u64) -> u64 {
        let index = id as usize;
        self.offsets[index] = offset;
        let (spans, size) = (self.problem.spans_of(index), self.problem.sizes[index]);
        spans.iter().map(|span| self.tree.place(*span, offset, size)).sum()
    }
}
