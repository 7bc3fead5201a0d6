//! Where a run goes so that room for the largest remains: small ones to the high end of a space, others to the low end, and
//! neither into a hole that the next one spares.
//!
//! ```text
//! hole      a free run that is long enough
//! largest   the most pages of one run since all pages were free
//! spares    taken in this hole, the run leaves room for as many of the largest as before, or is as long as those are
//! ```
//!
//! A *small* run, up to a twentieth of the largest, looks at the two highest holes and goes to the high end of one; any other
//! looks at the two lowest and goes to the low end. The nearer one is taken, unless only the next one spares. Of two that are
//! alike in this, a run that is not small takes the shorter; and where neither spares, it takes the high end.
//!
//! A run that is to begin at a multiple of several pages has few places to choose from. It takes the nearest.

use std::ops::Range;

use super::change::Change;
use super::tree::RunTree;
use super::word::WORD_PAGES;

/// A small run is at most this part of the largest.
const SMALL: u32 = 20;

/// So many holes are looked at for an aligned run before the tree is asked for one that is long enough wherever it begins: a search
/// without a bound would walk over all holes with the pool's lock held.
const HOLES_LOOKED_AT: usize = 4;

/// A free run, and how many of its pages may be taken.
struct Hole {
    run: Range<u32>,
    usable: u32,
}

impl RunTree {
    /// Takes a run of `count` free pages before page `end`, where it spares room for the largest so far, and returns its first
    /// page, or `None` if no run is that long. `end` is the number of pages, or one less.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    pub fn take_sparing(&mut self, count: u32, end: u32) -> Option<u32> {
        assert!(count > 0, "a run of 0 pages");
        if count > self.longest() {
            return None;
        }
        debug_assert!(end <= self.pages() && self.pages() - end <= 1, "{end} of {} pages", self.pages());
        let largest = self.largest().max(count);
        let (hole, start) = self.choose(count, largest, end)?;
        self.set_largest(largest);
        self.cut(Change { from: hole.run.start, start, end: start + count, to: hole.run.end });
        Some(start)
    }

    /// Where [`Self::take_sparing`] would take pages.
    #[cold]
    pub(super) fn find_sparing(&self, count: u32, end: u32) -> Option<u32> {
        self.choose(count, self.largest().max(count), end).map(|(_, start)| start)
    }

    #[inline(always)]
    fn choose(&self, count: u32, largest: u32, end: u32) -> Option<(Hole, u32)> {
        let (hole, is_high) = if count <= largest / SMALL {
            (self.hole_for_small(count, largest, end)?, true)
        } else {
            self.hole_for_large(count, largest, end)?
        };
        let start = hole.run.start + if is_high { hole.usable - count } else { 0 };
        Some((hole, start))
    }

    /// Takes pages as [`take_sparing`](Self::take_sparing) does, at a multiple of `align` pages, a power of two: at the near end of one
    /// of the four nearest holes, of the nearest hole that is long enough wherever it begins, or at the lowest place of all.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    pub(super) fn take_aligned_sparing(&mut self, count: u32, align: u32, end: u32) -> Option<u32> {
        assert!(count > 0, "a run of 0 pages");
        let start = self.find_aligned_sparing(count, align, end)?;
        self.set_largest(self.largest().max(count));
        let is_taken = self.take_at(start, count);
        debug_assert!(is_taken, "{count} pages from {start} were free");
        Some(start)
    }

    /// Returns where [`Self::take_aligned_sparing`] would take pages.
    pub(super) fn find_aligned_sparing(&self, count: u32, align: u32, end: u32) -> Option<u32> {
        debug_assert!(align.is_power_of_two() && self.pages() - end <= 1, "{align} pages, {end} of {}", self.pages());
        if count > self.longest() {
            return None;
        }
        let is_small = count <= self.largest() / SMALL;
        let nearest = |count: u32| {
            if is_small {
                Some(self.hole_that_ends(self.find_high(count)?, count, end))
            } else {
                self.hole_that_starts(self.find(count)?, count, end)
            }
        };
        let place = |hole: &Hole| {
            if is_small { hole.last_aligned(count, align) } else { hole.first_aligned(count, align) }
        };
        let mut hole = nearest(count)?;
        for _ in 1..HOLES_LOOKED_AT {
            if let Some(start) = place(&hole) {
                return Some(start);
            }
            let next = if is_small { self.hole_before(&hole, count, end) } else { self.hole_behind(&hole, count, end) };
            hole = next?;
        }
        let found = place(&hole).or_else(|| nearest(count + align - 1).and_then(|hole| place(&hole)));
        // A place that ends in the partial page is the highest of all, so there is no other.
        found.or_else(|| self.find_aligned(count, align).filter(|start| start + count <= end))
    }

    /// Takes `count` free pages before page `end` to be cut, a power of two of them up to a word at a multiple of as many, and
    /// returns the first. They are the last such pages of one of the four highest holes, else of the highest hole
    /// that has twice as many pages. `None` if there is none.
    pub fn take_to_cut(&mut self, count: u32, end: u32) -> Option<u32> {
        debug_assert!(count.is_power_of_two() && count <= WORD_PAGES, "{count} pages to be cut");
        debug_assert!(end <= self.pages() && self.pages() - end <= 1, "{end} of {} pages", self.pages());
        let (hole, start) = self.hole_to_cut(count, end)?;
        self.cut(Change { from: hole.run.start, start, end: start + count, to: hole.run.end });
        Some(start)
    }

    /// Whether [`Self::take_to_cut`] would take any.
    pub(super) fn has_to_cut(&self, count: u32, end: u32) -> bool {
        self.hole_to_cut(count, end).is_some()
    }

    fn hole_to_cut(&self, count: u32, end: u32) -> Option<(Hole, u32)> {
        let found = |hole: Hole| hole.last_aligned(count, count).map(|start| (hole, start));
        let mut hole = self.hole_that_ends(self.find_high(count)?, count, end);
        for _ in 1..HOLES_LOOKED_AT {
            if let Some(start) = hole.last_aligned(count, count) {
                return Some((hole, start));
            }
            hole = self.hole_before(&hole, count, end)?;
        }
        found(hole).or_else(|| found(self.hole_that_ends(self.find_high(2 * count)?, 2 * count, end)))
    }

    fn hole_for_small(&self, count: u32, largest: u32, end: u32) -> Option<Hole> {
        let mut near = self.hole_that_ends(self.find_high(count)?, count, end);
        if near.usable < count {
            near = self.hole_before(&near, count, end)?;
        }
        if near.spares(count, largest) {
            return Some(near);
        }
        let next = self.hole_before(&near, count, end).filter(|next| next.spares(count, largest));
        Some(next.unwrap_or(near))
    }

    /// And whether it is to be taken at its high end.
    fn hole_for_large(&self, count: u32, largest: u32, end: u32) -> Option<(Hole, bool)> {
        let near = self.hole_that_starts(self.find(count)?, count, end)?;
        if near.usable == count {
            return Some((near, false));
        }
        let spares = near.spares(count, largest);
        let Some(next) = self.hole_behind(&near, count, end) else {
            return Some((near, !spares));
        };
        let next_spares = next.spares(count, largest);
        let is_next = if spares == next_spares { next.usable < near.usable } else { next_spares };
        Some((if is_next { next } else { near }, !spares && !next_spares))
    }

    fn hole_that_starts(&self, start: u32, count: u32, end: u32) -> Option<Hole> {
        let hole = Hole::new(start..self.run_end(start + count), end);
        (hole.usable >= count).then_some(hole)
    }

    fn hole_that_ends(&self, to: u32, count: u32, end: u32) -> Hole {
        Hole::new(self.run_start(to - count)..to, end)
    }

    /// The next hole above; below it no page but the last is out of bounds.
    fn hole_behind(&self, hole: &Hole, count: u32, end: u32) -> Option<Hole> {
        let taken = hole.run.end;
        if taken == self.pages() {
            return None;
        }
        self.hole_that_starts(self.find_behind(taken, count)?, count, end)
    }

    /// The next hole below, which has no page that is out of bounds.
    fn hole_before(&self, hole: &Hole, count: u32, end: u32) -> Option<Hole> {
        let taken = hole.run.start.checked_sub(1)?;
        Some(self.hole_that_ends(self.find_before(taken, count)?, count, end))
    }
}

impl Hole {
    fn new(run: Range<u32>, end: u32) -> Hole {
        let usable = run.end.min(end) - run.start;
        Hole { run, usable }
    }

    /// The last multiple of `align`, a power of two, at which `count` pages may be taken.
    fn last_aligned(&self, count: u32, align: u32) -> Option<u32> {
        let start = (self.run.start + self.usable).checked_sub(count)? & !(align - 1);
        (start >= self.run.start).then_some(start)
    }

    /// The first multiple of `align` at which `count` pages may be taken.
    fn first_aligned(&self, count: u32, align: u32) -> Option<u32> {
        let start = self.run.start.next_multiple_of(align);
        (start + count <= self.run.start + self.usable).then_some(start)
    }

    fn spares(&self, count: u32, largest: u32) -> bool {
        count == largest || self.usable < largest || self.usable % largest >= count
    }
}
