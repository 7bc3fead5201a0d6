//! Depth-first search for a packing within a capacity, after Moffitt's MiniMalloc (ASPLOS 2023). It finds one, or shows
//! that there is none, or gives up.
//!
//! **What is searched.** Push everything in a packing down as far as it goes, lowest first: now each buffer lies at 0
//! or on another one (or where a slab begins). Place the buffers of such a packing by their (offset, rank): when a
//! buffer's turn comes, everything under it is there, so that its offset is *the lowest that what is placed lets it
//! have*. So it is enough to try, at each node, the unplaced buffers at their lowest offsets, in non-decreasing
//! (offset, rank): no packing within the capacity is lost, and each pushed-down one is met once.
//!
//! **What is left out.**
//! - *Capacity.* All that is unplaced will lie at the chosen offset or higher. If that and the sum of what is unplaced
//!   in some section exceed the capacity, this child and all siblings after it fail, for their offsets are no lower.
//! - *Room below.* If an unplaced buffer would end, at its lowest offset, at or below the chosen offset, it will lie
//!   above it, and could then be moved down to where nothing is in its way: some other node has that packing. The same
//!   for all siblings after it.
//! - *Nothing above.* If no unplaced buffer shares a section with the one just tried, it was in nobody's way, and its
//!   own lowest offset stays what it is; a sibling after it would come before it in the packing, but is higher.
//! - *Twins.* Of two buffers with the same span and size at the same offset, only the first is tried.
//! - *Floors.* What is unplaced in a section lies at the lowest offset of any of it, or higher: that and their sum must
//!   not exceed the capacity. Without this, none of MiniMalloc's eleven fits in 4 million steps (2026-11).
//! - *Falling apart.* When no unplaced buffer crosses a boundary, both sides are solved apart; if one fails, so does
//!   the node, and the other need not be searched again.
//!
//! **Jumping back.** A frame fails because some section is too full, and for that only those placed buffers are to
//! blame that lie in the section, or hold up what does. If the node below it is not one of them, its siblings would
//! fail in the same way, and are not tried. This reasoning leaves out that the order forbids some placements: so a
//! search that jumps back finds packings (MiniMalloc's B after 2,047 steps, not 88,169), but proves nothing. One that
//! is `thorough` does not jump.
//!
//! The stack is explicit, and all stacks are vectors that are kept: a node allocates nothing once they have grown. Each
//! frame has its own copy of the unplaced buffers, with their lowest offsets: expanding reads one stretch of memory and
//! writes the next one, and undoing is to forget it.

use std::ops::Range;

use super::conflicts::Conflicts;
use super::effort::Effort;
use super::frames::{Frame, Member, Part, Step};
use super::problem::Problem;
use super::slabs::Slabs;
use super::stretches::Span;

/// Floors are looked at where offsets and sums of two are exact in floating point. No memory is larger; if one were, this
/// reason to leave something out would be missing, no more.
const EXACT_BELOW: u64 = 1 << 52;

/// Units of a node beside what is counted for its members and sections.
const NODE_UNITS: u64 = 30;
/// Units of a buffer or a section, where a search begins; a buffer's sections come to it.
const BEGIN_UNITS: u64 = 5;
/// Units of a member, where a frame is opened.
const MEMBER_OPEN_UNITS: u64 = 1;
/// Units of a member that is copied to the next frame.
const MEMBER_COPY_UNITS: u64 = 2;
/// Sections that are gone through in a unit, one by one.
const SECTIONS_PER_UNIT: u64 = 2;

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Offsets of a packing within the capacity.
    Found(Vec<u64>),
    /// There is none.
    Impossible,
    /// The steps were used up.
    Unknown,
}

/// Searches a connected problem as [`Search`] does, its buffers in this order of preference. Returns also how often each section was too
/// full.
pub(super) fn search(
    problem: &Problem,
    order: &[u32],
    capacity: u64,
    slabs: &Slabs,
    thorough: bool,
    effort: &mut Effort<'_>,
) -> (Verdict, Vec<u32>) {
    if problem.is_split() {
        Search::<true>::new(problem, order, capacity, slabs, thorough).run(effort)
    } else {
        Search::<false>::new(problem, order, capacity, slabs, thorough).run(effort)
    }
}

/// Units of a search that places one buffer after another and never comes back.
pub(super) fn dive(problem: &Problem) -> u64 {
    let (count, sections, widths) = (problem.len() as u64, problem.sections() as u64, widths(problem));
    let per_member = 1 + MEMBER_OPEN_UNITS + MEMBER_COPY_UNITS;
    // Halves, for the members are fewer and fewer.
    count * (NODE_UNITS + (count * per_member + widths + sections) / 2)
}

/// Units of what comes before a search.
pub(super) fn making(problem: &Problem) -> u64 {
    BEGIN_UNITS * (problem.len() + problem.sections()) as u64 + widths(problem)
}

/// A search, and its stacks. `SPLIT`: buffers are live several times, and so each member's span is the one from its first section to its
/// last. That is known to the compiler, for a question at each node took 7 to 9% of the time.
#[derive(Debug)]
struct Search<'a, const SPLIT: bool> {
    problem: &'a Problem,
    slabs: &'a Slabs,
    capacity: u64,
    /// The buffer of each rank.
    order: &'a [u32],
    frames: Vec<Frame>,
    members: Vec<Member>,
    parts: Vec<Part>,
    /// What is placed, in that order.
    trail: Vec<Member>,
    /// For each section, the sum of what is unplaced in it.
    sums: Vec<u64>,
    /// For each section, how many unplaced buffers cover it and the one before it.
    crossings: Vec<u32>,
    /// For each section, the lowest offset that anything unplaced in it may have. In floating point, whose least of two is
    /// one instruction for several sections.
    floors: Vec<f64>,
    /// For each section, how often it was too full.
    blames: Vec<u32>,
    /// The work since it was last told, in units.
    units: u64,
    /// Leaves nothing out: no jumps.
    thorough: bool,
    conflicts: Conflicts,
}

impl<'a, const SPLIT: bool> Search<'a, SPLIT> {
    fn new(problem: &'a Problem, order: &'a [u32], capacity: u64, slabs: &'a Slabs, thorough: bool) -> Self {
        let member = |(rank, id): (u32, &u32)| {
            let index = *id as usize;
            let (size, span) = (problem.sizes[index], problem.spans[index]);
            Member { low: slabs.place(0, size, 1), size, span, rank, support: rank }
        };
        let members: Vec<Member> = (0..).zip(order).map(member).collect();
        let mut crossings = vec![0; problem.sections()];
        for member in &members {
            crossings[member.span.sections()].iter_mut().skip(1).for_each(|count| *count += 1);
        }
        Self {
            problem,
            slabs,
            capacity,
            order,
            frames: Vec::new(),
            members,
            parts: Vec::new(),
            trail: Vec::new(),
            sums: problem.loads.clone(),
            crossings,
            floors: vec![0.0; problem.sections()],
            blames: vec![0; problem.sections()],
            units: 0,
            thorough,
            conflicts: Conflicts::new(order.len()),
        }
    }

    /// Searches until the limit is reached.
    fn run(mut self, effort: &mut Effort<'_>) -> (Verdict, Vec<u32>) {
        let verdict = self.search(effort);
        (verdict, self.blames)
    }

    fn search(&mut self, effort: &mut Effort<'_>) -> Verdict {
        self.open(&Part { members: 0..self.members.len(), sections: 0..self.sums.len() }, (0, 0));
        while effort.spend(NODE_UNITS + std::mem::take(&mut self.units)) {
            match self.advance() {
                Step::Down => self.open_next_part(),
                Step::Solved => {
                    if self.close_solved() {
                        return Verdict::Found(self.offsets());
                    }
                }
                Step::Failed => {
                    if self.close_failed() {
                        return if self.thorough { Verdict::Impossible } else { Verdict::Unknown };
                    }
                }
            }
        }
        Verdict::Unknown
    }

    fn offsets(&self) -> Vec<u64> {
        let mut offsets = vec![0; self.order.len()];
        for member in &self.trail {
            offsets[self.order[member.rank as usize] as usize] = member.low;
        }
        offsets
    }

    fn open(&mut self, part: &Part, from: (u64, u32)) {
        let depth = self.frames.len();
        if !self.thorough {
            self.conflicts.clear(depth);
            self.units += self.conflicts.units();
        }
        let members = &self.members[part.members.clone()];
        self.units += MEMBER_OPEN_UNITS * members.len() as u64 + part.sections.len() as u64 / SECTIONS_PER_UNIT;
        let (mut least_top, mut highest_top) = (u64::MAX, 0);
        for member in members {
            let top = member.low + member.size;
            (least_top, highest_top) = (least_top.min(top), highest_top.max(top));
        }
        let unplaced = self.sums[part.sections.clone()].iter().copied().max().unwrap_or(0);
        let overfull = self.overfull_section(part, from.0);
        if let Some(section) = overfull.filter(|_| !self.thorough) {
            self.blame(depth, part, section);
        }
        // A least top of 0 lets no child be.
        let is_hopeless = overfull.is_some() || highest_top > self.capacity || unplaced > self.capacity;
        self.frames.push(Frame {
            part: part.clone(),
            from,
            twin: None,
            highest: self.capacity.saturating_sub(unplaced),
            least_top: if is_hopeless { 0 } else { least_top },
            trail_end: self.trail.len(),
            members_end: self.members.len(),
            child_members_end: 0,
            parts_end: self.parts.len(),
            open_parts: 0..0,
            is_met: true,
            is_explained: overfull.is_some(),
        });
    }

    /// A section in which what is unplaced has no room above the lowest offset that any of it may have.
    fn overfull_section(&mut self, part: &Part, from: u64) -> Option<usize> {
        if self.capacity >= EXACT_BELOW {
            return None;
        }
        let floors = &mut self.floors[part.sections.clone()];
        floors.fill(f64::INFINITY);
        self.units += part.sections.len() as u64 / SECTIONS_PER_UNIT;
        let start = part.sections.start;
        for member in &self.members[part.members.clone()] {
            let low = member.low.max(from) as f64;
            for span in spans::<SPLIT>(self.problem, self.order, member) {
                let sections = span.first as usize - start..span.end as usize - start;
                self.units += span.units();
                floors[sections].iter_mut().for_each(|floor| *floor = if low < *floor { low } else { *floor });
            }
        }
        // Where nothing is unplaced the floor is infinite.
        let capacity = self.capacity as f64;
        let mut levels = floors.iter().zip(&self.sums[part.sections.clone()]);
        let section = levels.position(|(floor, sum)| *sum > 0 && floor + *sum as f64 > capacity)?;
        self.blames[part.sections.start + section] += 1;
        Some(part.sections.start + section)
    }

    /// Notes who is to blame for an overfull section: what is placed in it, what holds that up, and what holds up the
    /// rest.
    fn blame(&mut self, depth: usize, part: &Part, section: usize) {
        self.units += part.members.len() as u64 + self.trail.len() as u64;
        let (problem, order) = (self.problem, self.order);
        let covers = |member: &Member| {
            spans::<SPLIT>(problem, order, member).iter().any(|span| span.sections().contains(&section))
        };
        for member in &self.members[part.members.clone()] {
            if covers(member) {
                self.conflicts.add(depth, member.support);
            }
        }
        for member in &self.trail {
            if covers(member) {
                self.conflicts.add(depth, member.support);
                self.conflicts.add(depth, member.rank);
            }
        }
    }

    /// Opens the next of the parts of the top frame's child.
    fn open_next_part(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        let Some(next) = frame.open_parts.next() else { return };
        self.members.truncate(frame.child_members_end);
        self.parts.truncate(frame.open_parts.end);
        let (part, from) = (self.parts[next].clone(), frame.from);
        self.open(&part, from);
    }

    /// Takes solved frames off. True if none is left.
    fn close_solved(&mut self) -> bool {
        loop {
            self.frames.pop();
            let Some(frame) = self.frames.last() else { return true };
            if !frame.open_parts.is_empty() {
                self.open_next_part();
                return false;
            }
        }
    }

    /// Takes failed frames off, up to one that may have another child. True if none is left.
    fn close_failed(&mut self) -> bool {
        loop {
            let is_explained = self.frames.pop().is_some_and(|frame| frame.is_explained);
            let depth = self.frames.len();
            let Some(frame) = self.frames.last_mut() else { return true };
            let mut is_open = frame.is_met;
            if !self.thorough {
                if !is_explained {
                    self.conflicts.fill(depth);
                }
                frame.is_explained = true;
                self.units += 2 * self.conflicts.units();
                is_open &= self.conflicts.inherit(depth - 1, frame.from.1 - 1);
            }
            self.undo();
            if is_open {
                return false;
            }
        }
    }

    /// Takes away the top frame's child and all that was placed after it.
    fn undo(&mut self) {
        let Some(frame) = self.frames.last() else { return };
        for member in self.trail.drain(frame.trail_end..) {
            for span in spans::<SPLIT>(self.problem, self.order, &member) {
                self.units += span.units();
                self.sums[span.sections()].iter_mut().for_each(|sum| *sum += member.size);
            }
            self.units += member.span.units();
            self.crossings[member.span.sections()].iter_mut().skip(1).for_each(|count| *count += 1);
        }
        self.members.truncate(frame.members_end);
        self.parts.truncate(frame.parts_end);
    }

    /// Places the top frame's next child.
    fn advance(&mut self) -> Step {
        let Some(frame) = self.frames.last_mut() else { return Step::Failed };
        self.units += frame.part.members.len() as u64;
        let Some(place) = frame.choose(&self.members) else { return Step::Failed };
        let chosen = self.members[place];
        frame.from = (chosen.low, chosen.rank + 1);
        // Buffers with the same hull may have other spans.
        frame.twin = (!SPLIT).then_some((chosen.low, chosen.span, chosen.size));
        let part = frame.part.clone();
        let begin = self.members.len();
        let is_met = self.copy_others(&part, place, chosen);
        let falls_apart = self.take(chosen);
        let members = begin..self.members.len();
        let parts_begin = self.parts.len();
        if falls_apart {
            self.split(&part, members.clone(), chosen.span);
        } else if !members.is_empty() {
            self.parts.push(Part { members: members.clone(), sections: part.sections });
        }
        let parts_end = self.parts.len();
        if let Some(frame) = self.frames.last_mut() {
            frame.is_met = is_met;
            frame.child_members_end = self.members.len();
            frame.open_parts = parts_begin..parts_end;
        }
        if parts_begin == parts_end { Step::Solved } else { Step::Down }
    }

    /// Copies a part's members without the chosen one, which raises those it meets. True if there are such.
    fn copy_others(&mut self, part: &Part, place: usize, chosen: Member) -> bool {
        let begin = self.members.len();
        self.units += MEMBER_COPY_UNITS * part.members.len() as u64;
        self.members.extend_from_within(part.members.start..place);
        self.members.extend_from_within(place + 1..part.members.end);
        let top = chosen.low + chosen.size;
        let mut is_met = false;
        let (problem, order) = (self.problem, self.order);
        let chosen_id = order[chosen.rank as usize] as usize;
        for member in &mut self.members[begin..] {
            let meets = member.span.meets(chosen.span)
                && (!SPLIT || problem.meet(order[member.rank as usize] as usize, chosen_id));
            is_met |= meets;
            let is_raised = meets && top > member.low;
            member.low = if is_raised { top } else { member.low };
            member.support = if is_raised { chosen.rank } else { member.support };
        }
        if !self.slabs.is_none() {
            for member in &mut self.members[begin..] {
                member.low = self.slabs.place(member.low, member.size, 1);
            }
        }
        is_met
    }

    /// Counts a buffer as placed. True if nothing unplaced crosses some boundary within its span any more.
    fn take(&mut self, chosen: Member) -> bool {
        self.trail.push(chosen);
        for span in spans::<SPLIT>(self.problem, self.order, &chosen) {
            self.units += span.units();
            self.sums[span.sections()].iter_mut().for_each(|sum| *sum -= chosen.size);
        }
        self.units += chosen.span.units();
        let mut falls_apart = false;
        for count in self.crossings[chosen.span.sections()].iter_mut().skip(1) {
            *count -= 1;
            falls_apart |= *count == 0;
        }
        falls_apart
    }

    /// Sorts the `members` that are left of a part into parts that are connected. Small ones come first: they fail
    /// soonest.
    fn split(&mut self, part: &Part, members: Range<usize>, chosen: Span) {
        let parts_begin = self.parts.len();
        let mut from = part.sections.start;
        for section in chosen.sections().skip(1).chain([part.sections.end]) {
            if section < part.sections.end && self.crossings[section] > 0 {
                continue;
            }
            let begin = self.members.len();
            self.units += members.len() as u64;
            for index in members.clone() {
                let member = self.members[index];
                if (from..section).contains(&(member.span.first as usize)) {
                    self.members.push(member);
                }
            }
            if begin < self.members.len() {
                self.parts.push(Part { members: begin..self.members.len(), sections: from..section });
            }
            from = section;
        }
        self.parts[parts_begin..].sort_by_key(|part| part.members.len());
    }
}

/// Units of going through the sections of every buffer.
fn widths(problem: &Problem) -> u64 {
    problem.spans.iter().map(|span| span.units()).sum()
}

/// The sections that a member covers.
#[inline(always)]
fn spans<'p, const SPLIT: bool>(problem: &'p Problem, order: &[u32], member: &'p Member) -> &'p [Span] {
    if SPLIT { problem.spans_of(order[member.rank as usize] as usize) } else { std::slice::from_ref(&member.span) }
}
