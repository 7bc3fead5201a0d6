//! Finding the highest run, and the next one below: the mirror image of [`search`](super::search).
//!
//! Runs are counted where they start, so only the words of a leaf look different from this side.

use super::family::{CHILDREN, Highest};
use super::tree::{BRANCH_SHIFT, LEAF_SHIFT, LEAF_WORDS, REACH_MAX, RunTree};
use super::word::{self, WORD_PAGES};

const LEAF_PAGES: u32 = 1 << LEAF_SHIFT;
const BRANCH_PAGES: u32 = 1 << BRANCH_SHIFT;

impl RunTree {
    /// The highest free page: [`Self::find_high`] of one page, without the end of its run.
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

    /// The end of the highest run of at least `count` free pages; `count` is at least 1.
    #[inline]
    pub(super) fn find_high(&self, count: u32) -> Option<u32> {
        if count > self.longest() {
            return None;
        }
        let found = match (self.has_leaves(), self.has_branches()) {
            (false, _) => self.highest_in_leaf(0, LEAF_WORDS, count),
            (true, false) => self.highest_in_branch(0, CHILDREN as u32, count),
            (true, true) => self.highest_to_branch(CHILDREN as u32, count),
        };
        debug_assert!(found.is_some(), "no run of {count} pages");
        found
    }

    /// [`Self::find_high`] among the pages before one that is taken: in the front of its leaf, of its branch, of all.
    #[inline]
    pub(super) fn find_before(&self, taken: u32, count: u32) -> Option<u32> {
        if count > self.longest() {
            return None;
        }
        let leaf = taken >> LEAF_SHIFT;
        let found = self.highest_in_word_before(taken, count);
        let found = found.or_else(|| self.highest_in_leaf(leaf, taken / WORD_PAGES % LEAF_WORDS, count));
        if found.is_some() || !self.has_leaves() {
            return found;
        }
        let (branch, end) = (leaf / CHILDREN as u32, leaf % CHILDREN as u32);
        let found = self.highest_in_branch(branch, end, count);
        if found.is_some() || !self.has_branches() {
            return found;
        }
        self.highest_to_branch(branch, count)
    }

    /// The end of the highest run of at least `count` pages that starts in one of the branches before `end`.
    #[inline]
    fn highest_to_branch(&self, end: u32, count: u32) -> Option<u32> {
        match self.families[0].highest(end, count, BRANCH_PAGES)? {
            Highest::Inside(branch) => self.highest_in_branch(branch, CHILDREN as u32, count),
            Highest::Behind(branch, run) => Some((branch + 1) * BRANCH_PAGES + run),
        }
    }

    /// The same for one branch and its leaves before `end`.
    #[inline]
    fn highest_in_branch(&self, branch: u32, end: u32, count: u32) -> Option<u32> {
        let leaves = branch * CHILDREN as u32;
        match self.families[self.family_of_leaf(leaves)].highest(end, count, LEAF_PAGES)? {
            Highest::Inside(child) => self.highest_in_leaf(leaves + child, LEAF_WORDS, count),
            Highest::Behind(child, run) => Some((leaves + child + 1) * LEAF_PAGES + run),
        }
    }

    /// The end of the highest run of at least `count` pages that starts in one of the leaf's words before `end`.
    #[inline]
    fn highest_in_leaf(&self, leaf: u32, end: u32, count: u32) -> Option<u32> {
        if count > REACH_MAX {
            return self.highest_by_words(leaf, end, count);
        }
        let from_end = u64::MAX.checked_shl(end * u8::BITS).unwrap_or(0);
        let reaching = self.words_that_reach(leaf, count) & !from_end;
        if reaching == 0 {
            return None;
        }
        let index = leaf * LEAF_WORDS + reaching.ilog2() / u8::BITS;
        let bits = self.free[index as usize];
        // The run that leaves the word is the highest that starts in it, if it is long enough.
        let end_of_word = (index + 1) * WORD_PAGES;
        let leaves = bits.leading_ones();
        if leaves > 0 {
            let end = self.run_end(end_of_word);
            if end - end_of_word + leaves >= count {
                return Some(end);
            }
        }
        let last_start = word::run_starts(bits, count).ilog2();
        Some(index * WORD_PAGES + last_start + count)
    }

    /// The end of the highest run of at least `count` pages that ends in the word of a taken page, before it.
    #[inline]
    fn highest_in_word_before(&self, taken: u32, count: u32) -> Option<u32> {
        let start_of_word = taken / WORD_PAGES * WORD_PAGES;
        let bits = self.free[(taken / WORD_PAGES) as usize] & !(u64::MAX << (taken % WORD_PAGES));
        let starts = if count <= WORD_PAGES { word::run_starts(bits, count) } else { 0 };
        if starts != 0 {
            return Some(start_of_word + starts.ilog2() + count);
        }
        let end = start_of_word + bits.trailing_ones();
        (end > start_of_word && end - self.run_start(start_of_word) >= count).then_some(end)
    }

    /// [`Self::highest_in_leaf`] for runs longer than a reach can tell, which cover a word or end one and begin the next.
    #[cold]
    fn highest_by_words(&self, leaf: u32, end: u32, count: u32) -> Option<u32> {
        let mut run = 0;
        for index in (leaf * LEAF_WORDS..leaf * LEAF_WORDS + end).rev() {
            let bits = self.free[index as usize];
            if bits.leading_ones() + run >= count {
                return Some((index + 1) * WORD_PAGES + run);
            }
            run = if bits == u64::MAX { WORD_PAGES + run } else { bits.trailing_ones() };
        }
        None
    }
}
