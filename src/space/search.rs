//! Finding the lowest run: straight down the tree; the next one, up from where it was left and down; an aligned one, over all.

use super::family::{CHILDREN, Lowest};
use super::tree::{BRANCH_SHIFT, LEAF_SHIFT, LEAF_WORDS, REACH_MAX, RunTree};
use super::upper::{BOUGH_SHIFT, Place};
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
        let found = match (self.has_leaves(), self.has_branches()) {
            (false, _) => self.lowest_in_leaf(0, 0, count),
            (true, false) => self.lowest_in_branch::<false>(0, 0, count),
            (true, true) if !self.has_boughs() => self.lowest_in_bough::<false>(0, 0, count),
            (true, true) => self.lowest_in_boughs(count),
        };
        debug_assert!(found.is_some(), "no run of {count} pages");
        found
    }

    /// [`Self::find`] among the pages behind one that is taken: in the rest of its leaf, of its branch, of all.
    #[inline]
    pub(super) fn find_behind(&self, taken: u32, count: u32) -> Option<u32> {
        if count > self.longest() {
            return None;
        }
        if self.is_sealed_at(taken) {
            return self.find_behind_bough(taken >> BOUGH_SHIFT, count);
        }
        let leaf = taken >> LEAF_SHIFT;
        let found = self.lowest_in_word_behind(taken, count);
        let found = found.or_else(|| self.lowest_in_leaf(leaf, taken / WORD_PAGES % LEAF_WORDS + 1, count));
        if found.is_some() || !self.has_leaves() {
            return found;
        }
        if self.has_boughs() {
            return self.find_behind_leaf(leaf, count);
        }
        let (branch, first) = (leaf / CHILDREN as u32, leaf % CHILDREN as u32 + 1);
        let found = self.lowest_in_branch::<false>(branch, first, count);
        if found.is_some() || !self.has_branches() {
            return found;
        }
        self.lowest_in_bough::<false>(0, branch + 1, count)
    }

    /// The rest of [`Self::find_behind`], with boughs.
    fn find_behind_leaf(&self, leaf: u32, count: u32) -> Option<u32> {
        const EIGHT: u32 = CHILDREN as u32;
        let (branch, bough) = (leaf / EIGHT, leaf / EIGHT / EIGHT);
        let found = self.lowest_in_branch::<true>(branch, leaf % EIGHT + 1, count);
        let found = found.or_else(|| self.lowest_in_bough::<true>(bough, branch % EIGHT + 1, count));
        found.or_else(|| self.find_behind_bough(bough, count))
    }

    fn find_behind_bough(&self, bough: u32, count: u32) -> Option<u32> {
        self.lowest_at(self.upper.as_ref()?.lowest_behind(bough, count)?, count)
    }

    /// The start of the lowest run of at least `count` pages that ends in one of the bough's branches from `first` on.
    #[inline]
    fn lowest_in_bough<const BOUGHS: bool>(&self, bough: u32, first: u32, count: u32) -> Option<u32> {
        let branches = if BOUGHS { bough * CHILDREN as u32 } else { 0 };
        match self.families[Self::family_of_branch::<BOUGHS>(branches)].lowest(first, count, BRANCH_PAGES)? {
            Lowest::Inside(child) => self.lowest_in_branch::<BOUGHS>(branches + child, 0, count),
            Lowest::Before(child, run) => Some((branches + child) * BRANCH_PAGES - run),
        }
    }

    #[inline(never)]
    fn lowest_in_boughs(&self, count: u32) -> Option<u32> {
        self.lowest_at(self.upper.as_ref()?.lowest(count)?, count)
    }

    fn lowest_at(&self, place: Place, count: u32) -> Option<u32> {
        match place {
            Place::At(start) => Some(start),
            Place::Inside(bough) => self.lowest_in_bough::<true>(bough, 0, count),
        }
    }

    /// The same for one branch and its leaves from `first` on.
    #[inline]
    fn lowest_in_branch<const BOUGHS: bool>(&self, branch: u32, first: u32, count: u32) -> Option<u32> {
        let leaves = branch * CHILDREN as u32;
        match self.families[self.family_of_leaf::<BOUGHS>(leaves)].lowest(first, count, LEAF_PAGES)? {
            Lowest::Inside(child) => self.lowest_in_leaf(leaves + child, 0, count),
            Lowest::Before(child, run) => Some((leaves + child) * LEAF_PAGES - run),
        }
    }

    /// The start of the lowest run of at least `count` pages that starts in one of the leaf's words from `first` on.
    #[inline]
    fn lowest_in_leaf(&self, leaf: u32, first: u32, count: u32) -> Option<u32> {
        if count > REACH_MAX {
            return self.lowest_by_words(leaf, first, count);
        }
        let from_first = u64::MAX.checked_shl(first * u8::BITS).unwrap_or(0);
        let reaching = self.words_that_reach(leaf, count) & from_first;
        if reaching == 0 {
            return None;
        }
        let index = leaf * LEAF_WORDS + reaching.trailing_zeros() / u8::BITS;
        let bits = self.free_in(index);
        let starts = if count <= WORD_PAGES { word::run_starts(bits, count) } else { 0 };
        // No run that ends inside the word: then it is the one that goes on in the next.
        let bit = if starts != 0 { starts.trailing_zeros() } else { WORD_PAGES - bits.leading_ones() };
        Some(index * WORD_PAGES + bit)
    }

    /// The top bit of a byte for each word of the leaf that reaches `count`, which is no more than a reach can tell.
    #[inline]
    pub(super) fn words_that_reach(&self, leaf: u32, count: u32) -> u64 {
        // Eight comparisons at once: the top bit of a byte survives where reach >= count.
        const TOP: u64 = 0x8080_8080_8080_8080;
        const ONE: u64 = 0x0101_0101_0101_0101;
        let reaches = u64::from_le_bytes(self.reaches_of_leaf(leaf));
        ((reaches | TOP) - ONE * u64::from(count)) & TOP
    }

    /// The start of the lowest run of at least `count` pages that starts in the word of a taken page, behind it.
    #[inline]
    fn lowest_in_word_behind(&self, taken: u32, count: u32) -> Option<u32> {
        let index = taken / WORD_PAGES;
        let bits = self.free_in(index) & (u64::MAX << (taken % WORD_PAGES));
        let starts = if count <= WORD_PAGES { word::run_starts(bits, count) } else { 0 };
        if starts != 0 {
            return Some(index * WORD_PAGES + starts.trailing_zeros());
        }
        let end_of_word = (index + 1) * WORD_PAGES;
        let start = end_of_word - bits.leading_ones();
        (start < end_of_word && self.run_end(end_of_word) - start >= count).then_some(start)
    }

    /// [`Self::lowest_in_leaf`] for runs longer than a reach can tell, which cover a word or end one and begin the next.
    #[cold]
    fn lowest_by_words(&self, leaf: u32, first: u32, count: u32) -> Option<u32> {
        let mut run = 0;
        for index in leaf * LEAF_WORDS + first..(leaf + 1) * LEAF_WORDS {
            let bits = self.free_in(index);
            if run + bits.trailing_ones() >= count {
                return Some(index * WORD_PAGES - run);
            }
            run = if bits == u64::MAX { run + WORD_PAGES } else { bits.leading_ones() };
        }
        None
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
            (true, true) => match &self.upper {
                None => search.family(0, 0, BRANCH_SHIFT),
                Some(upper) => search.upper(upper.levels() - 1, 0),
            },
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

    /// The children of an upper family of so many pages each; `family` is its number on its level.
    fn upper(&mut self, level: u32, family: u32) -> Option<u32> {
        let tree = self.tree;
        let (first, shift) = (family * CHILDREN as u32, BOUGH_SHIFT + 3 * level);
        let nodes = tree.upper.as_ref()?.family_of(level, first);
        for child in 0..CHILDREN {
            let node = first + child as u32;
            let low = node << shift;
            if low >= tree.pages() {
                break;
            }
            let (prefix, longest) = (nodes.prefix[child] as u32, nodes.longest[child] as u32);
            if prefix == 1 << shift {
                continue;
            }
            if let Some(start) = self.close(low + prefix) {
                return Some(start);
            }
            if longest < self.count {
                self.open = low + (1 << shift) - nodes.suffix[child] as u32;
                continue;
            }
            let found = if level > 0 {
                self.upper(level - 1, node)
            } else {
                self.family(
                    RunTree::family_of_branch::<true>(node * CHILDREN as u32),
                    node * CHILDREN as u32,
                    BRANCH_SHIFT,
                )
            };
            if found.is_some() {
                return found;
            }
        }
        None
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
                self.family(self.tree.family_of_leaf_in_any(index * 8), index * 8, LEAF_SHIFT)
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
        let (bits, low) = (self.tree.free_in(index), index * WORD_PAGES);
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
