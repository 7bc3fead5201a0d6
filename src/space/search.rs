//! Finding the lowest run: straight down the tree, or, for an aligned one, down and back up.

use super::family::Lowest;
use super::tree::{BRANCH_SHIFT, LEAF_SHIFT, LEAF_WORDS, REACH_MAX, RunTree};
use super::word::{self, WORD_PAGES};

const LEAF_PAGES: u32 = 1 << LEAF_SHIFT;
const BRANCH_PAGES: u32 = 1 << BRANCH_SHIFT;

impl RunTree {
    /// The start of the lowest run of at least `count` free pages; `count` is at least 1.
    #[inline]
    pub(super) fn find(&self, count: u32) -> Option<u32> {
        if count > self.longest() {
            return None;
        }
        let mut branch = 0;
        if self.has_branches() {
            match self.families[0].lowest(count, BRANCH_PAGES) {
                Lowest::Inside(child) => branch = child,
                Lowest::Before(child, run) => return Some(child * BRANCH_PAGES - run),
            }
        }
        let mut leaf = 0;
        if self.has_leaves() {
            let family = self.family_of_leaf(branch * 8);
            match self.families[family].lowest(count, LEAF_PAGES) {
                Lowest::Inside(child) => leaf = branch * 8 + child,
                Lowest::Before(child, run) => return Some((branch * 8 + child) * LEAF_PAGES - run),
            }
        }
        Some(self.find_in_leaf(leaf, count))
    }

    /// The start of the lowest run of at least `count` pages in a leaf that has one.
    #[inline]
    fn find_in_leaf(&self, leaf: u32, count: u32) -> u32 {
        if count > REACH_MAX {
            return self.find_by_words(leaf, count);
        }
        // Eight comparisons at once: the top bit of a byte survives where reach >= count.
        const TOP: u64 = 0x8080_8080_8080_8080;
        const ONE: u64 = 0x0101_0101_0101_0101;
        let reaches = u64::from_le_bytes(self.reaches_of_leaf(leaf));
        let reaching = ((reaches | TOP) - ONE * u64::from(count)) & TOP;
        debug_assert!(reaching != 0, "leaf {leaf} has no run of {count} pages");
        let index = leaf * LEAF_WORDS + reaching.trailing_zeros() / u8::BITS;
        let bits = self.free[index as usize];
        let starts = if count <= WORD_PAGES { word::run_starts(bits, count) } else { 0 };
        // No run that ends inside the word: then it is the one that goes on in the next.
        let bit = if starts != 0 { starts.trailing_zeros() } else { WORD_PAGES - bits.leading_ones() };
        index * WORD_PAGES + bit
    }

    /// [`Self::find_in_leaf`] for runs longer than a reach can tell, which cover a word or end one and begin the next.
    #[cold]
    fn find_by_words(&self, leaf: u32, count: u32) -> u32 {
        let mut run = 0;
        for index in leaf * LEAF_WORDS..(leaf + 1) * LEAF_WORDS {
            let bits = self.free[index as usize];
            if run + bits.trailing_ones() >= count {
                return index * WORD_PAGES - run;
            }
            run = if bits == u64::MAX { run + WORD_PAGES } else { bits.leading_ones() };
        }
        unreachable!("leaf {leaf} has no run of {count} pages")
    }

    /// The highest free page.
    pub(super) fn find_last(&self) -> Option<u32> {
        if self.longest() == 0 {
            return None;
        }
        let branch = if self.has_branches() { self.families[0].last_with_free() } else { 0 };
        let leaf = if self.has_leaves() {
            branch * 8 + self.families[self.family_of_leaf(branch * 8)].last_with_free()
        } else {
            0
        };
        let words = leaf * LEAF_WORDS..(leaf + 1) * LEAF_WORDS;
        let index = words.rev().find(|index| self.free[*index as usize] != 0).expect("the leaf has a free page");
        Some(index * WORD_PAGES + WORD_PAGES - 1 - self.free[index as usize].leading_zeros())
    }

    /// The lowest multiple of `align` at which `count` pages are free.
    pub(super) fn find_aligned(&self, count: u32, align: u32) -> Option<u32> {
        if count > self.longest() {
            return None;
        }
        let mut search = Aligned { tree: self, count, align, open: 0 };
        let found = match (self.has_leaves(), self.has_branches()) {
            (false, _) => search.leaf(0),
            (true, false) => search.family(0, 0, LEAF_SHIFT),
            (true, true) => search.family(0, 0, BRANCH_SHIFT),
        };
        found.or_else(|| search.close(self.pages()))
    }
}

/// One pass over the tree, lowest page first, skipping every node without a run that is long enough.
struct Aligned<'tree> {
    tree: &'tree RunTree,
    count: u32,
    align: u32,
    /// The start of the free run that reaches up to where the pass is.
    open: u32,
}

impl Aligned<'_> {
    /// The open run ends at `end`: does it hold an aligned run?
    fn close(&self, end: u32) -> Option<u32> {
        let start = self.open.next_multiple_of(self.align);
        (start + self.count <= end).then_some(start)
    }

    /// The children of a family, of 2^`shift` pages each; `first` is the number of the first among all of its size.
    fn family(&mut self, family: usize, first: u32, shift: u32) -> Option<u32> {
        let nodes = &self.tree.families[family];
        let span = 1 << shift;
        for child in 0..8 {
            let (index, prefix) = (first + child as u32, u32::from(nodes.prefix[child]));
            if prefix == span {
                continue;
            }
            if let Some(start) = self.close(index * span + prefix) {
                return Some(start);
            }
            if u32::from(nodes.longest[child]) < self.count {
                self.open = (index + 1) * span - u32::from(nodes.suffix[child]);
                continue;
            }
            let found = if shift == LEAF_SHIFT {
                self.leaf(index)
            } else {
                self.family(self.tree.family_of_leaf(index * 8), index * 8, LEAF_SHIFT)
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn leaf(&mut self, leaf: u32) -> Option<u32> {
        (leaf * LEAF_WORDS..(leaf + 1) * LEAF_WORDS).find_map(|index| self.word(index))
    }

    fn word(&mut self, index: u32) -> Option<u32> {
        let (bits, low) = (self.tree.free[index as usize], index * WORD_PAGES);
        if bits == u64::MAX {
            return None;
        }
        if let Some(start) = self.close(low + bits.trailing_ones()) {
            return Some(start);
        }
        self.open = low + WORD_PAGES - bits.leading_ones();
        if self.count > WORD_PAGES || self.align >= WORD_PAGES {
            return None; // It would have to start before this word, or at its first page: both were looked at.
        }
        let starts = word::run_starts(bits, self.count) & word::multiples_of(self.align);
        (starts != 0).then(|| low + starts.trailing_zeros())
    }
}
