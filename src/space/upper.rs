//! The levels above 32,768 pages: nodes of 2^15, 2^18, 2^21 and 2^24 pages, with 32-bit counts, in slabs that have so many.
//!
//! A node of the lowest of these levels is a **bough**: what a whole tree is in smaller slabs. [`boughs`](super::boughs)
//! tells what is not written below one.

use super::change::Change;
use super::family::{CHILDREN, Effect, Family, Highest, Lowest};
use super::tree::{BRANCH_SHIFT, FAMILIES_OF_BOUGH};

/// Pages of a bough as a power of two.
pub(super) const BOUGH_SHIFT: u32 = 15;
const LEVELS_MAX: usize = 4;

/// What a search through the upper levels comes to.
pub(super) enum Place {
    /// Inside this bough.
    Inside(u32),
    /// The run starts, or looked for from above ends, at this page.
    At(u32),
}

#[derive(Debug, Clone)]
pub(super) struct Upper {
    families: Box<[Family<i32>]>,
    /// Where the families of a level begin: there are 147 of 1,024 boughs.
    level_at: [u8; LEVELS_MAX],
    levels: u8,
}

fn shift_of(level: u32) -> u32 {
    BOUGH_SHIFT + 3 * level
}

fn span_of(level: u32) -> u32 {
    1 << shift_of(level)
}

impl Upper {
    /// So many boughs, at least two, wholly free.
    pub(super) fn new(boughs: u32) -> Upper {
        let mut upper = Upper { families: Box::default(), level_at: [0; LEVELS_MAX], levels: 0 };
        let mut families = Vec::new();
        let (mut nodes, mut left) = (boughs, (boughs as u64) << BOUGH_SHIFT);
        let pages = left;
        loop {
            let span = u64::from(span_of(upper.levels()));
            upper.level_at[upper.levels as usize] = families.len() as u8;
            for family in 0..nodes.div_ceil(CHILDREN as u32) {
                let mut new = Family::<i32>::default();
                for child in 0..CHILDREN {
                    let low = (u64::from(family) * CHILDREN as u64 + child as u64) * span;
                    left = pages.saturating_sub(low).min(span);
                    new.prefix[child] = left as i32;
                    new.longest[child] = left as i32;
                    new.suffix[child] = if left == span { left as i32 } else { 0 };
                }
                families.push(new);
            }
            upper.levels += 1;
            nodes = nodes.div_ceil(CHILDREN as u32);
            if nodes == 1 {
                break;
            }
        }
        upper.families = families.into();
        upper
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        size_of_val(self) + size_of_val(&*self.families)
    }

    #[inline]
    pub(super) fn levels(&self) -> u32 {
        self.levels.into()
    }

    #[inline]
    pub(super) fn family_of(&self, level: u32, node: u32) -> &Family<i32> {
        &self.families[self.level_at[level as usize % LEVELS_MAX] as usize + node as usize / CHILDREN]
    }

    #[inline]
    fn family_mut(&mut self, level: u32, node: u32) -> &mut Family<i32> {
        &mut self.families[self.level_at[level as usize % LEVELS_MAX] as usize + node as usize / CHILDREN]
    }

    #[inline]
    fn top(&self) -> u32 {
        self.levels() - 1
    }

    #[inline]
    fn prefix(&self, level: u32, node: u32) -> u32 {
        self.family_of(level, node).prefix[node as usize % CHILDREN] as u32
    }

    #[inline]
    fn suffix(&self, level: u32, node: u32) -> u32 {
        self.family_of(level, node).suffix[node as usize % CHILDREN] as u32
    }

    #[inline]
    pub(super) fn is_free(&self, bough: u32) -> bool {
        self.prefix(0, bough) == 1 << BOUGH_SHIFT
    }

    /// Whether no page of the bough is free.
    #[inline]
    pub(super) fn is_taken(&self, bough: u32) -> bool {
        self.longest_in(bough) == 0
    }

    #[inline]
    pub(super) fn longest_in(&self, bough: u32) -> u32 {
        self.family_of(0, bough).longest[bough as usize % CHILDREN] as u32
    }

    pub(super) fn longest(&self) -> u32 {
        self.family_of(self.top(), 0).longest(span_of(self.top()))
    }

    /// The lowest run of at least `count` pages; there may be none.
    #[inline]
    pub(super) fn lowest(&self, count: u32) -> Option<Place> {
        self.lowest_in(self.top(), 0, 0, count)
    }

    /// The same, in what is behind this bough.
    pub(super) fn lowest_behind(&self, bough: u32, count: u32) -> Option<Place> {
        let mut node = bough;
        (0..self.levels()).find_map(|level| {
            let (family, first) = (node / CHILDREN as u32, node % CHILDREN as u32 + 1);
            node = family;
            self.lowest_in(level, family, first, count)
        })
    }

    #[inline]
    fn lowest_in(&self, mut level: u32, mut family: u32, mut first: u32, count: u32) -> Option<Place> {
        loop {
            let low = family * CHILDREN as u32;
            match self.family_of(level, low).lowest(first, count, span_of(level))? {
                Lowest::Before(child, run) => return Some(Place::At(((low + child) << shift_of(level)) - run)),
                Lowest::Inside(child) if level == 0 => return Some(Place::Inside(low + child)),
                Lowest::Inside(child) => (level, family, first) = (level - 1, low + child, 0),
            }
        }
    }

    /// The highest run of at least `count` pages: where it ends.
    pub(super) fn highest(&self, count: u32) -> Option<Place> {
        self.highest_in(self.top(), 0, CHILDREN as u32, count)
    }

    /// The same, in what is before this bough.
    pub(super) fn highest_before(&self, bough: u32, count: u32) -> Option<Place> {
        let mut node = bough;
        (0..self.levels()).find_map(|level| {
            let (family, end) = (node / CHILDREN as u32, node % CHILDREN as u32);
            node = family;
            self.highest_in(level, family, end, count)
        })
    }

    fn highest_in(&self, mut level: u32, mut family: u32, mut end: u32, count: u32) -> Option<Place> {
        loop {
            let low = family * CHILDREN as u32;
            match self.family_of(level, low).highest(end, count, span_of(level))? {
                Highest::Behind(child, run) => return Some(Place::At(((low + child + 1) << shift_of(level)) + run)),
                Highest::Inside(child) if level == 0 => return Some(Place::Inside(low + child)),
                Highest::Inside(child) => (level, family, end) = (level - 1, low + child, CHILDREN as u32),
            }
        }
    }

    /// The end of the free run that goes on in the bough of `page`, which is free; `None` if the bough cannot tell.
    pub(super) fn run_end(&self, page: u32) -> Option<u32> {
        let bough = page >> BOUGH_SHIFT;
        let (low, high) = (bough << BOUGH_SHIFT, (bough + 1) << BOUGH_SHIFT);
        if self.suffix(0, bough) >= high - page {
            return Some(self.run_end_from(high));
        }
        (page == low).then(|| low + self.prefix(0, bough))
    }

    /// Follows a run from the start of a bough: over brothers, and up where there are no more.
    fn run_end_from(&self, page: u32) -> u32 {
        let mut node = page >> BOUGH_SHIFT;
        for level in 0..self.levels() {
            let first = node % CHILDREN as u32;
            if first > 0 {
                if let Some(child) = self.family_of(level, node).first_not_free(first, span_of(level)) {
                    let node = node - first + child;
                    return (node << shift_of(level)) + self.prefix(level, node);
                }
                node += CHILDREN as u32 - first;
            }
            node /= CHILDREN as u32;
        }
        // To the end of the topmost family.
        (node * CHILDREN as u32) << shift_of(self.top())
    }

    /// The start of the free run that ends right before `page`, where the page before it is free; likewise.
    pub(super) fn run_start(&self, page: u32) -> Option<u32> {
        let bough = (page - 1) >> BOUGH_SHIFT;
        let (low, high) = (bough << BOUGH_SHIFT, (bough + 1) << BOUGH_SHIFT);
        if self.prefix(0, bough) >= page - low {
            return Some(self.run_start_from(low));
        }
        (page == high).then(|| high - self.suffix(0, bough))
    }

    fn run_start_from(&self, page: u32) -> u32 {
        let mut node = page >> BOUGH_SHIFT;
        for level in 0..self.levels() {
            let end = node % CHILDREN as u32;
            if end > 0 {
                if let Some(child) = self.family_of(level, node).last_not_free(end, span_of(level)) {
                    let node = node - end + child;
                    return ((node + 1) << shift_of(level)) - self.suffix(level, node);
                }
                node -= end;
            }
            node /= CHILDREN as u32;
        }
        0
    }

    /// The nodes of all levels lose pages; `lower` are the families of the boughs. Whether the topmost did change.
    pub(super) fn cut(&mut self, change: Change, lower: &[Family]) -> bool {
        for level in 0..self.levels() {
            let (shift, span) = (shift_of(level), span_of(level));
            let mut changed = false;
            change.for_each_node(shift, |node, inside| {
                let effect = self.family_mut(level, node).cut(node % CHILDREN as u32, node << shift, span, inside);
                if effect == Effect::LongestUnknown {
                    let longest = self.longest_below(level, node, lower);
                    self.family_mut(level, node).longest[node as usize % CHILDREN] = longest as i32;
                }
                changed |= effect != Effect::Nothing;
            });
            if !changed {
                return false;
            }
        }
        true
    }

    /// And get pages.
    pub(super) fn join(&mut self, change: Change) {
        for level in 0..self.levels() {
            let (shift, span) = (shift_of(level), span_of(level));
            let mut changed = false;
            change.for_each_node(shift, |node, inside| {
                changed |= self.family_mut(level, node).join(node % CHILDREN as u32, node << shift, span, inside);
            });
            if !changed {
                return;
            }
        }
    }

    /// A run of `length` pages inside the bough of `page`, which touches no border, was cut. Whether the topmost did change.
    pub(super) fn cut_inside(&mut self, page: u32, length: u32, lower: &[Family]) -> bool {
        for level in 0..self.levels() {
            let node = page >> shift_of(level);
            if length < self.family_of(level, node).longest[node as usize % CHILDREN] as u32 {
                return false;
            }
            let longest = self.longest_below(level, node, lower);
            self.family_mut(level, node).longest[node as usize % CHILDREN] = longest as i32;
        }
        true
    }

    /// And such a run has become so long.
    pub(super) fn join_inside(&mut self, page: u32, length: u32) {
        for level in 0..self.levels() {
            let node = page >> shift_of(level);
            let longest = &mut self.family_mut(level, node).longest[node as usize % CHILDREN];
            if length as i32 <= *longest {
                return;
            }
            *longest = length as i32;
        }
    }

    fn longest_below(&self, level: u32, node: u32, lower: &[Family]) -> u32 {
        match level {
            0 => lower[node as usize * FAMILIES_OF_BOUGH].longest(1 << BRANCH_SHIFT),
            _ => self.family_of(level - 1, node * CHILDREN as u32).longest(span_of(level - 1)),
        }
    }
}
