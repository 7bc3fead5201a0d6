//! Taking pages out of a free run of the tree, and putting them back: the words first, then every node above them.
//!
//! Both get the whole free run that the pages belong to (before taking them, or after giving them back), which is why nodes
//! and reaches are adjusted instead of computed anew. Each level treats the part of the run that lies inside its node.

use super::change::Change;
use super::family::{CHILDREN, Effect};
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
        if change.is_inside_word() {
            self.cut_inside_word(change);
        } else {
            self.cut_across_words(change);
        }
    }

    /// Makes the taken pages `start..end` free, which makes `from..to` one free run.
    #[inline]
    pub(super) fn join(&mut self, change: Change) {
        debug_assert!(change.is_sound(), "join {change:?}");
        self.change_free_pages(change.pages());
        if change.is_inside_word() {
            self.join_inside_word(change);
        } else {
            self.join_across_words(change);
        }
    }

    /// [`Self::cut`] in a run that touches no border: only the longest runs may change, and each only if the one below did.
    #[inline]
    fn cut_inside_word(&mut self, change: Change) {
        let length = change.to - change.from;
        let index = change.start / WORD_PAGES;
        self.free[index as usize] &= !word::mask(change.start, change.end);
        if length < self.reach[index as usize].into() {
            return;
        }
        self.reach[index as usize] = self.reach_of_word(index);
        let (leaf, branch) = (index / LEAF_WORDS, (change.start >> BRANCH_SHIFT) as usize);
        if self.has_leaves() {
            let (family, child) = (self.family_of_leaf(leaf), leaf as usize % CHILDREN);
            if length < self.families[family].longest[child].into() {
                return;
            }
            self.families[family].longest[child] = self.longest_in_leaf(leaf) as u16;
        }
        if self.has_branches() {
            if length < self.families[0].longest[branch].into() {
                return;
            }
            self.families[0].longest[branch] = self.families[1 + branch].longest(LEAF_PAGES) as u16;
        }
        if length == self.longest() {
            self.set_longest(self.longest_at_top());
        }
    }

    /// [`Self::join`] to a run that touches no border.
    #[inline]
    fn join_inside_word(&mut self, change: Change) {
        let length = change.to - change.from;
        let index = change.start / WORD_PAGES;
        self.free[index as usize] |= word::mask(change.start, change.end);
        if length <= self.reach[index as usize].into() {
            return;
        }
        self.reach[index as usize] = length as u8;
        let leaf = index / LEAF_WORDS;
        if self.has_leaves() {
            let family = self.family_of_leaf(leaf);
            let longest = &mut self.families[family].longest[leaf as usize % CHILDREN];
            if length <= (*longest).into() {
                return;
            }
            *longest = length as u16;
        }
        if self.has_branches() {
            let longest = &mut self.families[0].longest[(change.start >> BRANCH_SHIFT) as usize];
            *longest = (*longest).max(length as u16);
        }
        self.set_longest(self.longest().max(length));
    }

    /// [`Self::cut`] in any run. Nodes above are looked at as long as one below them changed.
    fn cut_across_words(&mut self, change: Change) {
        let mut changed = false;
        change.for_each_node(LEAF_SHIFT, |leaf, inside| changed |= self.cut_leaf(leaf, inside));
        if changed && self.has_branches() {
            changed = false;
            change.for_each_node(BRANCH_SHIFT, |branch, inside| changed |= self.cut_branch(branch, inside));
        }
        if changed && change.to - change.from == self.longest() {
            let is_rest = change.rest_is_longest_of(self.pages());
            self.set_longest(if is_rest { change.longest_rest() } else { self.longest_at_top() });
        }
    }

    /// [`Self::join`] to any run, likewise.
    fn join_across_words(&mut self, change: Change) {
        let mut changed = false;
        change.for_each_node(LEAF_SHIFT, |leaf, inside| changed |= self.join_leaf(leaf, inside));
        if changed && self.has_branches() {
            change.for_each_node(BRANCH_SHIFT, |branch, inside| {
                self.families[0].join(branch, branch * BRANCH_PAGES, BRANCH_PAGES, inside);
            });
        }
        self.set_longest(self.longest().max(change.to - change.from));
    }

    /// Says whether the leaf changed, as far as anything above it is concerned.
    #[inline]
    fn cut_leaf(&mut self, leaf: u32, inside: Change) -> bool {
        self.cut_words(inside);
        if !self.has_leaves() {
            return true;
        }
        let (family, child) = (self.family_of_leaf(leaf), leaf % CHILDREN as u32);
        let effect = self.families[family].cut(child, leaf * LEAF_PAGES, LEAF_PAGES, inside);
        if effect == Effect::LongestUnknown {
            self.families[family].longest[child as usize] = self.longest_in_leaf(leaf) as u16;
        }
        effect != Effect::Nothing
    }

    #[inline]
    fn cut_branch(&mut self, branch: u32, inside: Change) -> bool {
        let effect = self.families[0].cut(branch, branch * BRANCH_PAGES, BRANCH_PAGES, inside);
        if effect == Effect::LongestUnknown {
            let longest = self.families[1 + branch as usize].longest(LEAF_PAGES);
            self.families[0].longest[branch as usize % CHILDREN] = longest as u16;
        }
        effect != Effect::Nothing
    }

    #[inline]
    fn join_leaf(&mut self, leaf: u32, inside: Change) -> bool {
        self.join_words(inside);
        if !self.has_leaves() {
            return true;
        }
        let (family, child) = (self.family_of_leaf(leaf), leaf % CHILDREN as u32);
        self.families[family].join(child, leaf * LEAF_PAGES, LEAF_PAGES, inside)
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
        let Change { from, start, end, to } = inside;
        word::for_each_mask(start, end, |index, mask| self.free[index] &= !mask);
        let word_of_run = from / WORD_PAGES;
        if (to - from).min(REACH_MAX) >= self.reach[word_of_run as usize].into() {
            // What still starts in that word; if the run left it, all others there lie before it.
            let behind = if end / WORD_PAGES == word_of_run { to - end } else { 0 };
            let rest = behind.max(start - from);
            let is_rest = to / WORD_PAGES > word_of_run && rest >= from % WORD_PAGES;
            let reach = if is_rest { rest.min(REACH_MAX) as u8 } else { self.reach_of_word(word_of_run) };
            self.reach[word_of_run as usize] = reach;
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
        let Change { from, start, end, to } = inside;
        word::for_each_mask(start, end, |index, mask| self.free[index] |= mask);
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
        if !index.is_multiple_of(LEAF_WORDS) && self.free[index as usize - 1] >> (WORD_PAGES - 1) == 1 {
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
        let longest = self.reaches_of_leaf(leaf).into_iter().fold(0, u8::max).into();
        if longest < REACH_MAX { longest } else { self.longest_by_words(leaf) }
    }

    /// The longest run in a leaf if it is longer than a reach can tell: it covers a word, or ends one and begins the next.
    #[cold]
    fn longest_by_words(&self, leaf: u32) -> u32 {
        let first = (leaf * LEAF_WORDS) as usize;
        let (mut longest, mut run) = (0, 0);
        for &bits in &self.free[first..][..LEAF_WORDS as usize] {
            longest = longest.max(run + bits.trailing_ones());
            run = if bits == u64::MAX { run + WORD_PAGES } else { bits.leading_ones() };
        }
        longest.max(run)
    }
}
