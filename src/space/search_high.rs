//! Finding the highest run, and the next one below: the mirror image of [`search`](super::search).
//!
//! Runs are counted where they start, so only the words of a leaf look different from this side.

use super::family::{CHILDREN, Highest};
use super::tree::{BRANCH_SHIFT, LEAF_SHIFT, LEAF_WORDS, REACH_MAX, RunTree};
use super::upper::{BOUGH_SHIFT, Place};
use super::word::{self, WORD_PAGES};

const LEAF_PAGES: u32 = 1 << LEAF_SHIFT;
const BRANCH_PAGES: u32 = 1 << BRANCH_SHIFT;

impl RunTree {
    /// The end of the highest run of at least `count` free pages; `count` is at least 1.
    #[inline]
    pub(super) fn find_high(&self, count: u32) -> Option<u32> {
        if count > self.longest() {
            return None;
        }
        let found = match (self.has_leaves(), self.has_branches()) {
            (false, _) => self.highest_in_leaf(0, LEAF_WORDS, count),
            (true, false) => self.highest_in_branch::<false>(0, CHILDREN as u32, count),
            (true, true) if !self.has_boughs() => self.highest_in_bough::<false>(0, CHILDREN as u32, count),
            (true, true) => self.highest_in_boughs(count),
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
        if self.is_sealed_at(taken) {
            return self.find_before_bough(taken >> BOUGH_SHIFT, count);
        }
        let leaf = taken >> LEAF_SHIFT;
        let found = self.highest_in_word_before(taken, count);
        let found = found.or_else(|| self.highest_in_leaf(leaf, taken / WORD_PAGES % LEAF_WORDS, count));
        if found.is_some() || !self.has_leaves() {
            return found;
        }
        if self.has_boughs() {
            return self.find_before_leaf(leaf, count);
        }
        let (branch, end) = (leaf / CHILDREN as u32, leaf % CHILDREN as u32);
        let found = self.highest_in_branch::<false>(branch, end, count);
        if found.is_some() || !self.has_branches() {
            return found;
        }
        self.highest_in_bough::<false>(0, branch, count)
    }

    /// The rest of [`Self::find_before`], with boughs.
    fn find_before_leaf(&self, leaf: u32, count: u32) -> Option<u32> {
        const EIGHT: u32 = CHILDREN as u32;
        let (branch, bough) = (leaf / EIGHT, leaf / EIGHT / EIGHT);
        let found = self.highest_in_branch::<true>(branch, leaf % EIGHT, count);
        let found = found.or_else(|| self.highest_in_bough::<true>(bough, branch % EIGHT, count));
        found.or_else(|| self.find_before_bough(bough, count))
    }

    fn find_before_bough(&self, bough: u32, count: u32) -> Option<u32> {
        self.highest_at(self.upper.as_ref()?.highest_before(bough, count)?, count)
    }

    /// The end of the highest run of at least `count` pages that starts in one of the bough's branches before `end`.
    #[inline]
    fn highest_in_bough<const BOUGHS: bool>(&self, bough: u32, end: u32, count: u32) -> Option<u32> {
        let branches = if BOUGHS { bough * CHILDREN as u32 } else { 0 };
        match self.families[Self::family_of_branch::<BOUGHS>(branches)].highest(end, count, BRANCH_PAGES)? {
            Highest::Inside(child) => self.highest_in_branch::<BOUGHS>(branches + child, CHILDREN as u32, count),
            Highest::Behind(child, run) => Some((branches + child + 1) * BRANCH_PAGES + run),
        }
    }

    #[inline(never)]
    fn highest_in_boughs(&self, count: u32) -> Option<u32> {
        self.highest_at(self.upper.as_ref()?.highest(count)?, count)
    }

    fn highest_at(&self, place: Place, count: u32) -> Option<u32> {
        match place {
            Place::At(end) => Some(end),
            Place::Inside(bough) => self.highest_in_bough::<true>(bough, CHILDREN as u32, count),
        }
    }

    /// The same for one branch and its leaves before `end`.
    #[inline]
    fn highest_in_branch<const BOUGHS: bool>(&self, branch: u32, end: u32, count: u32) -> Option<u32> {
        let leaves = branch * CHILDREN as u32;
        match self.families[self.family_of_leaf::<BOUGHS>(leaves)].highest(end, count, LEAF_PAGES)? {
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
        let bits = self.free_in(index);
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
        let bits = self.free_in(taken / WORD_PAGES) & !(u64::MAX << (taken % WORD_PAGES));
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
            let bits = self.free_in(index);
            if bits.leading_ones() + run >= count {
                return Some((index + 1) * WORD_PAGES + run);
            }
            run = if bits == u64::MAX { WORD_PAGES + run } else { bits.trailing_ones() };
        }
        None
    }
}
