//! Taking pages out of a free run of the tree, and putting them back: the words first, then every node above them.
//!
//! Both get the whole free run that the pages belong to (before taking them, or after giving them back), which is why nodes
//! and reaches are adjusted instead of computed anew. Each level treats the part of the run that lies inside its node.

use super::tree::{Change, FANOUT, LEAF_SHIFT, Node, REACH_MAX, RunTree};
use super::word::{self, WORD_PAGES};

const LEAF_PAGES: u32 = 1 << LEAF_SHIFT;

impl RunTree {
    /// Takes the pages `start..end` out of the free run `from..to`.
    pub(super) fn cut(&mut self, change: Change) {
        debug_assert!(change.is_sound(), "cut {change:?}");
        self.free_pages -= change.end - change.start;
        for leaf in change.nodes(LEAF_SHIFT) {
            let inside = change.within(leaf * LEAF_PAGES, (leaf + 1) * LEAF_PAGES);
            self.cut_words(inside);
            self.cut_node(leaf, leaf * LEAF_PAGES, LEAF_PAGES, inside, |tree| {
                tree.longest_in_leaf(leaf)
            });
        }
        let mut below = 0;
        for (base, _, shift) in self.levels().skip(1) {
            let span = 1 << shift;
            for index in change.nodes(shift) {
                let inside = change.within(index * span, (index + 1) * span);
                self.cut_node(base + index, index * span, span, inside, |tree| {
                    let first = below + index * FANOUT;
                    longest_of(
                        &tree.nodes[first as usize..base.min(first + FANOUT) as usize],
                        span / FANOUT,
                    )
                });
            }
            below = base;
        }
    }

    /// Makes the taken pages `start..end` free, which makes `from..to` one free run.
    pub(super) fn join(&mut self, change: Change) {
        debug_assert!(change.is_sound(), "join {change:?}");
        self.free_pages += change.end - change.start;
        for leaf in change.nodes(LEAF_SHIFT) {
            self.join_words(change.within(leaf * LEAF_PAGES, (leaf + 1) * LEAF_PAGES));
        }
        for (base, _, shift) in self.levels() {
            let span = 1 << shift;
            for index in change.nodes(shift) {
                let inside = change.within(index * span, (index + 1) * span);
                let node = &mut self.nodes[(base + index) as usize];
                let length = (inside.to - inside.from) as u16;
                node.longest = node.longest.max(length);
                if inside.from == index * span {
                    node.prefix = length;
                }
                if inside.to == (index + 1) * span {
                    node.suffix = length;
                }
            }
        }
    }

    /// One node of `span` pages from `low`; `longest_below` asks its children.
    fn cut_node(
        &mut self,
        index: u32,
        low: u32,
        span: u32,
        inside: Change,
        longest_below: impl Fn(&RunTree) -> u32,
    ) {
        let node = self.nodes[index as usize];
        let prefix = if inside.from == low {
            (inside.start - low) as u16
        } else {
            node.prefix
        };
        let suffix = if inside.to == low + span {
            (low + span - inside.end) as u16
        } else {
            node.suffix
        };
        let was_longest = inside.to - inside.from == u32::from(node.longest);
        let longest = if was_longest {
            longest_below(self) as u16
        } else {
            node.longest
        };
        self.nodes[index as usize] = Node {
            prefix,
            longest,
            suffix,
        };
    }

    /// The words of one leaf lose pages.
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
        if index % FANOUT != 0 && self.free[index as usize - 1] >> (WORD_PAGES - 1) == 1 {
            // The first run starts further down: `bits + 1` carries through it.
            bits &= bits.wrapping_add(1);
        }
        let mut longest = word::longest_run(bits);
        if bits >> (WORD_PAGES - 1) == 1 {
            let mut run = bits.leading_ones();
            for next in index + 1..(index / FANOUT + 1) * FANOUT {
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
    fn longest_in_leaf(&self, leaf: u32) -> u32 {
        let first = (leaf * FANOUT) as usize;
        let reach: &[u8; FANOUT as usize] = self.reach[first..][..FANOUT as usize]
            .try_into()
            .expect("eight words");
        let longest = reach.iter().copied().fold(0, u8::max).into();
        if longest < REACH_MAX {
            longest
        } else {
            self.longest_by_words(leaf)
        }
    }

    /// The longest run in a leaf whose longest run covers a whole word or comes from two: word by word.
    pub(super) fn longest_by_words(&self, leaf: u32) -> u32 {
        let first = (leaf * FANOUT) as usize;
        let (mut longest, mut run) = (0, 0);
        for &bits in &self.free[first..][..FANOUT as usize] {
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

/// The longest run in a node whose children have `span` pages each.
pub(super) fn longest_of(children: &[Node], span: u32) -> u32 {
    let (mut longest, mut run) = (0, 0);
    for child in children {
        longest = longest
            .max(child.longest.into())
            .max(run + u32::from(child.prefix));
        run = if u32::from(child.suffix) == span {
            run + span
        } else {
            child.suffix.into()
        };
    }
    longest
}
