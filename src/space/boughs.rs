//! Trees of several boughs, and what is not written below their nodes.
//!
//! ```text
//! bough            its node says     its words        its reaches and families
//! free             all pages         0                made, or not yet: then its first branch has a longest run of 0
//! sealed           no page           first and last   not made: its first branch has a prefix of SEALED
//! any other        what is true      true             true
//! ```
//!
//! A run that takes all pages of a free bough *seals* it: a request of 32 GiB writes 256 nodes and not eight million bits. The
//! first and the last word are written so that a look across the border needs no node. Who looks at what lies in between asks
//! the node first. Memory of the tree is touched only where pages are taken singly.

use super::change::Change;
use super::family::Family;
use super::tree::{BRANCH_SHIFT, FAMILIES_OF_BOUGH, LEAF_SHIFT, LEAF_WORDS, PAGES_OF_BOUGH, REACH_MAX, RunTree};
use super::upper::{BOUGH_SHIFT, Upper};
use super::word::WORD_PAGES;

/// More than a branch has.
const SEALED: u16 = u16::MAX;
const WORDS_OF_BOUGH: usize = (PAGES_OF_BOUGH / WORD_PAGES) as usize;

impl RunTree {
    /// A tree of several boughs. Its memory is zeroed and not touched: what is all zero is wholly free, or not looked at.
    pub(super) fn of_boughs(pages: u32) -> RunTree {
        let boughs = pages.div_ceil(PAGES_OF_BOUGH);
        let capacity = boughs << BOUGH_SHIFT;
        let words = boughs as usize * WORDS_OF_BOUGH;
        let mut tree = RunTree {
            taken: vec![0; words].into(),
            reach: vec![0; words].into(),
            families: bytemuck::zeroed_slice_box(boughs as usize * FAMILIES_OF_BOUGH),
            upper: Some(Box::new(Upper::new(boughs))),
            pages: capacity,
            free_pages: capacity,
            longest: capacity,
            largest: 0,
        };
        if pages < capacity {
            tree.cut(Change { from: 0, start: pages, end: capacity, to: capacity });
        }
        tree.pages = pages;
        tree
    }

    /// [`Self::cut`] in a run that goes over the border of a word: bough for bough, and then the nodes above.
    #[inline(never)]
    pub(super) fn cut_boughs(&mut self, change: Change) -> bool {
        let mut changed = false;
        change.for_each_node(BOUGH_SHIFT, |bough, inside| {
            if inside.pages() == PAGES_OF_BOUGH as i32 {
                self.seal(bough);
                changed = true;
            } else {
                self.open(bough);
                changed |= self.cut_in_bough::<true>(inside);
            }
        });
        match &mut self.upper {
            Some(upper) if changed => upper.cut(change, &self.families),
            _ => false,
        }
    }

    /// [`Self::join`], likewise.
    #[inline(never)]
    pub(super) fn join_boughs(&mut self, change: Change) {
        let mut changed = false;
        change.for_each_node(BOUGH_SHIFT, |bough, inside| {
            if inside.pages() == PAGES_OF_BOUGH as i32 {
                self.clear(bough);
                changed = true;
            } else {
                changed |= self.join_in_bough::<true>(inside);
            }
        });
        if let Some(upper) = &mut self.upper
            && changed
        {
            upper.join(change);
        }
    }

    /// Whether `page` lies in a bough that is sealed, so that the map does not tell.
    #[inline]
    pub(super) fn is_sealed_at(&self, page: u32) -> bool {
        self.has_boughs() && self.is_sealed(page >> BOUGH_SHIFT)
    }

    #[inline]
    pub(super) fn is_sealed(&self, bough: u32) -> bool {
        self.families[bough as usize * FAMILIES_OF_BOUGH].prefix[0] == SEALED
    }

    /// [`Self::run_start`] for a page that may lie anywhere: not only at the end of a run, free or taken.
    pub(super) fn start_of_run_before(&self, page: u32) -> u32 {
        if page > 0 && self.is_sealed_at(page - 1) { page } else { self.run_start(page) }
    }

    /// [`Self::run_end`], likewise.
    pub(super) fn end_of_run_at(&self, page: u32) -> u32 {
        if page < self.pages && self.is_sealed_at(page) { page } else { self.run_end(page) }
    }

    /// Some of the pages `start..end` are to be released: sealed boughs that keep others are written down.
    #[inline(never)]
    pub(super) fn unseal_ends(&mut self, start: u32, end: u32) {
        let (first, last) = (start >> BOUGH_SHIFT, (end - 1) >> BOUGH_SHIFT);
        let is_start_inside = !start.is_multiple_of(PAGES_OF_BOUGH) || (first == last && end - start < PAGES_OF_BOUGH);
        let is_first = is_start_inside && self.is_sealed(first);
        let is_last = last > first && !end.is_multiple_of(PAGES_OF_BOUGH) && self.is_sealed(last);
        if is_first {
            self.unseal(first);
        }
        if is_last {
            self.unseal(last);
        }
    }

    /// A free bough loses all its pages at once.
    fn seal(&mut self, bough: u32) {
        self.families[families_of(bough).start].prefix[0] = SEALED;
        self.set_ends(bough, u64::MAX);
    }

    /// What a sealed bough did not need is written.
    #[cold]
    fn unseal(&mut self, bough: u32) {
        self.taken[words_of(bough)].fill(u64::MAX);
        self.reach[words_of(bough)].fill(0);
        self.families[families_of(bough)].fill(Family::default());
    }

    /// A bough gets all its pages back at once. It is to be made anew.
    fn clear(&mut self, bough: u32) {
        if self.is_sealed(bough) {
            self.set_ends(bough, 0);
        } else {
            self.taken[words_of(bough)].fill(0);
        }
        self.families[families_of(bough).start] = Family::default();
    }

    fn set_ends(&mut self, bough: u32, word: u64) {
        let words = words_of(bough);
        self.taken[words.start] = word;
        self.taken[words.end - 1] = word;
    }

    /// Makes what is below a free bough that is about to lose some pages, where it is not made yet.
    fn open(&mut self, bough: u32) {
        let families = families_of(bough);
        let is_free = self.upper.as_ref().is_some_and(|upper| upper.is_free(bough));
        if !is_free || self.families[families.start].longest[0] != 0 {
            return;
        }
        self.families[families.start] = Family::free(1 << BRANCH_SHIFT);
        self.families[families.start + 1..families.end].fill(Family::free(1 << LEAF_SHIFT));
        let reaches = &mut self.reach[words_of(bough)];
        reaches.fill(0);
        reaches.iter_mut().step_by(LEAF_WORDS as usize).for_each(|reach| *reach = REACH_MAX as u8);
    }
}

fn words_of(bough: u32) -> std::ops::Range<usize> {
    bough as usize * WORDS_OF_BOUGH..(bough as usize + 1) * WORDS_OF_BOUGH
}

fn families_of(bough: u32) -> std::ops::Range<usize> {
    bough as usize * FAMILIES_OF_BOUGH..(bough as usize + 1) * FAMILIES_OF_BOUGH
}
