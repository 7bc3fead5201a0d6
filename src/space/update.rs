//! Taking pages out of a free run of the tree, and putting them back: the words first, then every node above them.
//!
//! Both get the whole free run that the pages belong to (before taking them, or after giving them back), which is why nodes
//! and reaches are adjusted instead of computed anew. Each level treats the part of the run that lies inside its node.

use super::change::Change;
use super::tree::{BRANCH_SHIFT, LEAF_SHIFT, LEAF_WORDS, REACH_MAX, RunTree};
use super::word::{self, WORD_PAGES};

const LEAF_PAGES: u32 = 1 << LEAF_SHIFT;
const BRANCH_PAGES: u32 = 1 << BRANCH_SHIFT;

impl RunTree {
    /// Takes the pages `start..end` out of the free run `from..to`.
    #[inline]
    pub(super) fn cut(&mut self, change: Change) {
        debug_assert!(change.is_sound(), "cut {change:?}");
        self.change_free_pages(-change.pages());
        for leaf in change.nodes(LEAF_SHIFT) {
            let low = leaf * LEAF_PAGES;
            let inside = change.within(low, low + LEAF_PAGES);
            self.cut_words(inside);
            if self.has_leaves() {
                let family = self.family_of_leaf(leaf);
                if self.families[family].cut(leaf % 8, low, LEAF_PAGES, inside) {
                    self.families[family].longest[leaf as usize % 8] =
                        self.longest_in_leaf(leaf) as u16;
                }
            }
        }
        if self.has_branches() {
            for branch in change.nodes(BRANCH_SHIFT) {
                let low = branch * BRANCH_PAGES;
                let inside = change.within(low, low + BRANCH_PAGES);
                if self.families[0].cut(branch, low, BRANCH_PAGES, inside) {
                    let longest = self.families[1 + branch as usize].longest(LEAF_PAGES);
                    self.families[0].longest[branch as usize % 8] = longest as u16;
                }
            }
        }
        if change.to - change.from == self.longest() {
            let rest = if change.rest_is_longest_of(self.pages()) {
                change.longest_rest()
            } else {
                self.longest_at_top()
            };
            self.set_longest(rest);
        }
    }

    /// Makes the taken pages `start..end` free, which makes `from..to` one free run.
    #[inline]
    pub(super) fn join(&mut self, change: Change) {
        debug_assert!(change.is_sound(), "join {change:?}");
        self.change_free_pages(change.pages());
        for leaf in change.nodes(LEAF_SHIFT) {
            let low = leaf * LEAF_PAGES;
            let inside = change.within(low, low + LEAF_PAGES);
            self.join_words(inside);
            if self.has_leaves() {
                let family = self.family_of_leaf(leaf);
                self.families[family].join(leaf % 8, low, LEAF_PAGES, inside);
            }
        }
        if self.has_branches() {
            for branch in change.nodes(BRANCH_SHIFT) {
                let low = branch * BRANCH_PAGES;
                self.families[0].join(
                    branch,
                    low,
                    BRANCH_PAGES,
                    change.within(low, low + BRANCH_PAGES),
                );
            }
        }
        self.set_longest(self.longest().max(change.to - change.from));
    }

    /// The longest run of all, from what is right below.
    fn longest_at_top(&self) -> u32 {
        match (self.has_leaves(), self.has_branches()) {
            (false, _) => self.longest_in_leaf(0),
            (true, false) => self.families[0].longest(LEAF_PAGES),
            (true, true) => self.families[0].longest(BRANCH_PAGES),
        }
    }

    /// The words of one leaf lose pages.
    #[inline]
    fn cut_words(&mut self, inside: Change) {
        let Change {
            from,
            start,
            end,
            to,
        } = inside;
        for index in start / WORD_PAGES..=(end - 1) / WORD_PAGES {
            self.free[index as usize] &= !word::mask(index, start, end);
        }
        let word_of_run = from / WORD_PAGES;
        if (to - from).min(REACH_MAX) >= self.reach[word_of_run as usize].into() {
            self.reach[word_of_run as usize] = self.reach_of_word(word_of_run);
        }
        // What is left behind the taken pages starts in its own word now.
        let word_of_rest = end / WORD_PAGES;
        if end < to && word_of_rest != word_of_run {
            let reach = &mut self.reach[word_of_rest as usize];
            *reach = (*reach).max((to - end).min(REACH_MAX) as u8);
        }
    }

    /// The words of one leaf get pages.
    #[inline]
    fn join_words(&mut self, inside: Change) {
        let Change {
            from,
            start,
            end,
            to,
        } = inside;
        for index in start / WORD_PAGES..=(end - 1) / WORD_PAGES {
            self.free[index as usize] |= word::mask(index, start, end);
        }
        // The run behind the pages does not start in its own word any more.
        let (word_of_run, word_of_rest) = (from / WORD_PAGES, end / WORD_PAGES);
        if end < to
            && word_of_rest != word_of_run
            && (to - end).min(REACH_MAX) >= self.reach[word_of_rest as usize].into()
        {
            self.reach[word_of_rest as usize] = self.reach_of_word(word_of_rest);
        }
        let reach = &mut self.reach[word_of_run as usize];
        *reach = (*reach).max((to - from).min(REACH_MAX) as u8);
    }

    /// The reach of a word, from the map.
    pub(super) fn reach_of_word(&self, index: u32) -> u8 {
        let mut bits = self.free[index as usize];
        if !index.is_multiple_of(LEAF_WORDS)
            && self.free[index as usize - 1] >> (WORD_PAGES - 1) == 1
        {
            // The first run starts further down: `bits + 1` carries through it.
            bits &= bits.wrapping_add(1);
        }
        let mut longest = word::longest_run(bits);
        if bits >> (WORD_PAGES - 1) == 1 {
            let mut run = bits.leading_ones();
            for next in index + 1..(index / LEAF_WORDS + 1) * LEAF_WORDS {
                let more = self.free[next as usize].trailing_ones();
                run += more;
                if more < WORD_PAGES {
                    break;
                }
            }
            longest = longest.max(run);
        }
        longest.min(REACH_MAX) as u8
    }

    /// The longest run in a leaf, from the reaches of its words where they are exact.
    #[inline]
    fn longest_in_leaf(&self, leaf: u32) -> u32 {
        let longest = self
            .reaches_of_leaf(leaf)
            .into_iter()
            .fold(0, u8::max)
            .into();
        if longest < REACH_MAX {
            longest
        } else {
            self.longest_by_words(leaf)
        }
    }

    /// The longest run in a leaf if it is longer than a reach can tell: it covers a word, or ends one and begins the next.
    #[cold]
    fn longest_by_words(&self, leaf: u32) -> u32 {
        let first = (leaf * LEAF_WORDS) as usize;
        let (mut longest, mut run) = (0, 0);
        for &bits in &self.free[first..][..LEAF_WORDS as usize] {
            longest = longest.max(run + bits.trailing_ones());
            run = if bits == u64::MAX {
                run + WORD_PAGES
            } else {
                bits.leading_ones()
            };
        }
        longest.max(run)
    }
}
