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
            if self.has_boughs() {
                self.cut_across_words::<true>(change)
            } else {
                self.cut_across_words::<false>(change)
            }
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
            if self.has_boughs() {
                self.join_across_words::<true>(change)
            } else {
                self.join_across_words::<false>(change)
            }
        }
    }

    /// [`Self::cut`] in a run that touches no border: only the longest runs may change, and each only if the one below did.
    #[inline]
    fn cut_inside_word(&mut self, change: Change) {
        let length = change.to - change.from;
        let index = change.start / WORD_PAGES;
        self.taken[index as usize] |= word::mask(change.start, change.end);
        if length < self.reach[index as usize].into() {
            return;
        }
        self.reach[index as usize] = self.reach_of_word(index);
        let (leaf, branch) = (index / LEAF_WORDS, (change.start >> BRANCH_SHIFT) as usize);
        if self.has_leaves() {
            let (family, child) = (self.family_of_leaf_in_any(leaf), leaf as usize % CHILDREN);
            if length < self.families[family].longest[child].into() {
                return;
            }
            self.families[family].longest[child] = self.longest_in_leaf(leaf) as u16;
        }
        if self.has_branches() {
            let (family, child) = (Self::family_of_branch::<true>(branch as u32), branch % CHILDREN);
            if length < self.families[family].longest[child].into() {
                return;
            }
            let longest = self.families[self.family_of_leaf_in_any(leaf)].longest(LEAF_PAGES);
            self.families[family].longest[child] = longest as u16;
            if let Some(upper) = &mut self.upper
                && !upper.cut_inside(change.start, length, &self.families)
            {
                return;
            }
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
        self.taken[index as usize] &= !word::mask(change.start, change.end);
        if length <= self.reach[index as usize].into() {
            return;
        }
        self.reach[index as usize] = length as u8;
        let leaf = index / LEAF_WORDS;
        if self.has_leaves() {
            let family = self.family_of_leaf_in_any(leaf);
            let longest = &mut self.families[family].longest[leaf as usize % CHILDREN];
            if length <= (*longest).into() {
                return;
            }
            *longest = length as u16;
        }
        if self.has_branches() {
            let branch = change.start >> BRANCH_SHIFT;
            let longest =
                &mut self.families[Self::family_of_branch::<true>(branch)].longest[branch as usize % CHILDREN];
            if length <= (*longest).into() {
                return;
            }
            *longest = length as u16;
            if let Some(upper) = &mut self.upper {
                upper.join_inside(change.start, length);
            }
        }
        self.set_longest(self.longest().max(length));
    }

    /// [`Self::cut`] in any run. Nodes above are looked at as long as one below them changed.
    fn cut_across_words<const BOUGHS: bool>(&mut self, change: Change) {
        let changed = if BOUGHS { self.cut_boughs(change) } else { self.cut_in_bough::<false>(change) };
        if changed && change.to - change.from == self.longest() {
            let is_rest = change.rest_is_longest_of(self.pages());
            self.set_longest(if is_rest { change.longest_rest() } else { self.longest_at_top() });
        }
    }

    /// Whether the bough changed, as far as anything above it is concerned.
    #[inline(always)]
    pub(super) fn cut_in_bough<const BOUGHS: bool>(&mut self, change: Change) -> bool {
        let mut changed = false;
        change.for_each_node(LEAF_SHIFT, |leaf, inside| changed |= self.cut_leaf::<BOUGHS>(leaf, inside));
        if changed && self.has_branches() {
            changed = false;
            change.for_each_node(BRANCH_SHIFT, |branch, inside| changed |= self.cut_branch::<BOUGHS>(branch, inside));
        }
        changed
    }

    /// [`Self::join`] to any run, likewise.
    fn join_across_words<const BOUGHS: bool>(&mut self, change: Change) {
        if BOUGHS {
            self.join_boughs(change);
        } else {
            self.join_in_bough::<false>(change);
        }
        self.set_longest(self.longest().max(change.to - change.from));
    }

    #[inline(always)]
    pub(super) fn join_in_bough<const BOUGHS: bool>(&mut self, change: Change) -> bool {
        let mut changed = false;
        change.for_each_node(LEAF_SHIFT, |leaf, inside| changed |= self.join_leaf::<BOUGHS>(leaf, inside));
        if changed && self.has_branches() {
            changed = false;
            change.for_each_node(BRANCH_SHIFT, |branch, inside| {
                let family = &mut self.families[Self::family_of_branch::<BOUGHS>(branch)];
                changed |= family.join(branch, branch * BRANCH_PAGES, BRANCH_PAGES, inside);
            });
        }
        changed
    }

    /// Says whether the leaf changed, as far as anything above it is concerned.
    #[inline(always)]
    fn cut_leaf<const BOUGHS: bool>(&mut self, leaf: u32, inside: Change) -> bool {
        self.cut_words(inside);
        if !self.has_leaves() {
            return true;
        }
        let (family, child) = (self.family_of_leaf::<BOUGHS>(leaf), leaf % CHILDREN as u32);
        let effect = self.families[family].cut(child, leaf * LEAF_PAGES, LEAF_PAGES, inside);
        if effect == Effect::LongestUnknown {
            self.families[family].longest[child as usize] = self.longest_in_leaf(leaf) as u16;
        }
        effect != Effect::Nothing
    }

    #[inline(always)]
    fn cut_branch<const BOUGHS: bool>(&mut self, branch: u32, inside: Change) -> bool {
        let family = Self::family_of_branch::<BOUGHS>(branch);
        let effect = self.families[family].cut(branch, branch * BRANCH_PAGES, BRANCH_PAGES, inside);
        if effect == Effect::LongestUnknown {
            let longest = self.families[self.family_of_leaf::<BOUGHS>(branch * CHILDREN as u32)].longest(LEAF_PAGES);
            self.families[family].longest[branch as usize % CHILDREN] = longest as u16;
        }
        effect != Effect::Nothing
    }

    #[inline(always)]
    fn join_leaf<const BOUGHS: bool>(&mut self, leaf: u32, inside: Change) -> bool {
        self.join_words(inside);
        if !self.has_leaves() {
            return true;
        }
        let (family, child) = (self.family_of_leaf::<BOUGHS>(leaf), leaf % CHILDREN as u32);
        self.families[family].join(child, leaf * LEAF_PAGES, LEAF_PAGES, inside)
    }

    /// The longest run of all, from what is right below.
    fn longest_at_top(&self) -> u32 {
        match (self.has_leaves(), self.has_branches()) {
            (false, _) => self.longest_in_leaf(0),
            (true, false) => self.families[0].longest(LEAF_PAGES),
            (true, true) => match &self.upper {
                None => self.families[0].longest(BRANCH_PAGES),
                Some(upper) => upper.longest(),
            },
        }
    }

    /// The words of one leaf lose pages.
    #[inline(always)]
    fn cut_words(&mut self, inside: Change) {
        let Change { from, start, end, to } = inside;
        word::for_each_mask(start, end, |index, mask| self.taken[index] |= mask);
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
    #[inline(always)]
    fn join_words(&mut self, inside: Change) {
        let Change { from, start, end, to } = inside;
        word::for_each_mask(start, end, |index, mask| self.taken[index] &= !mask);
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
        let mut bits = self.free_in(index);
        if !index.is_multiple_of(LEAF_WORDS) && self.free_in(index - 1) >> (WORD_PAGES - 1) == 1 {
            // The first run starts further down: `bits + 1` carries through it.
            bits &= bits.wrapping_add(1);
        }
        let mut longest = word::longest_run(bits);
        if bits >> (WORD_PAGES - 1) == 1 {
            let mut run = bits.leading_ones();
            for next in index + 1..(index / LEAF_WORDS + 1) * LEAF_WORDS {
                let more = self.free_in(next).trailing_ones();
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
        let first = leaf * LEAF_WORDS;
        let (mut longest, mut run) = (0, 0);
        for index in first..first + LEAF_WORDS {
            let bits = self.free_in(index);
            longest = longest.max(run + bits.trailing_ones());
            run = if bits == u64::MAX { run + WORD_PAGES } else { bits.leading_ones() };
        }
        longest.max(run)
    }
}
