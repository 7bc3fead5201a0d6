//! Finding the lowest run: straight down the tree, or, for an aligned one, down and back up.

use super::tree::{FANOUT, LEAF_SHIFT, Node, REACH_MAX, RunTree};
use super::word::{self, WORD_PAGES};

impl RunTree {
    /// The start of the lowest run of at least `count` free pages.
    pub(super) fn find(&self, count: u32) -> Option<u32> {
        if count > self.longest() {
            return None;
        }
        let (mut base, mut shift) = (self.nodes.len() as u32 - 1, self.root_shift());
        let mut index = 0;
        while shift > LEAF_SHIFT {
            shift -= FANOUT.trailing_zeros();
            let nodes_below = self.free.len() as u32 / FANOUT >> (shift - LEAF_SHIFT);
            let above = base;
            base -= nodes_below.max(1);
            let first = base + index * FANOUT;
            let children = &self.nodes[first as usize..above.min(first + FANOUT) as usize];
            match first_with(children, count, 1 << shift) {
                Step::Into(child) => index = index * FANOUT + child,
                Step::Before(child, run) => return Some(((index * FANOUT + child) << shift) - run),
            }
        }
        Some(self.find_in_leaf(index, count))
    }

    /// The pages of the root as a power of two.
    fn root_shift(&self) -> u32 {
        self.levels()
            .last()
            .map_or(LEAF_SHIFT, |(_, _, shift)| shift)
    }

    /// The start of the lowest run of at least `count` pages in a leaf that has one.
    fn find_in_leaf(&self, leaf: u32, count: u32) -> u32 {
        if count > REACH_MAX {
            return self.find_by_words(leaf, count);
        }
        let first = leaf * FANOUT;
        let reach: [u8; 8] = self.reach[first as usize..][..8]
            .try_into()
            .expect("eight words");
        // Eight comparisons at once: the top bit of a byte survives where reach >= count.
        const TOP: u64 = 0x8080_8080_8080_8080;
        const ONE: u64 = 0x0101_0101_0101_0101;
        let reaching = ((u64::from_le_bytes(reach) | TOP) - ONE * u64::from(count)) & TOP;
        debug_assert!(reaching != 0, "leaf {leaf} has no run of {count} pages");
        let index = first + reaching.trailing_zeros() / 8;
        let bits = self.free[index as usize];
        let starts = if count <= WORD_PAGES {
            word::run_starts(bits, count)
        } else {
            0
        };
        // No run that ends inside the word: then it is the one that goes on in the next.
        let bit = if starts != 0 {
            starts.trailing_zeros()
        } else {
            WORD_PAGES - bits.leading_ones()
        };
        index * WORD_PAGES + bit
    }

    /// [`Self::find_in_leaf`] for runs longer than a reach can tell, which cover a whole word or end one and begin the next.
    fn find_by_words(&self, leaf: u32, count: u32) -> u32 {
        let mut run = 0;
        for index in leaf * FANOUT..(leaf + 1) * FANOUT {
            let bits = self.free[index as usize];
            if run + bits.trailing_ones() >= count {
                return index * WORD_PAGES - run;
            }
            run = if bits == u64::MAX {
                run + WORD_PAGES
            } else {
                bits.leading_ones()
            };
        }
        unreachable!("leaf {leaf} has no run of {count} pages")
    }

    /// The lowest multiple of `align` at which `count` pages are free.
    pub(super) fn find_aligned(&self, count: u32, align: u32) -> Option<u32> {
        if count > self.longest() {
            return None;
        }
        let mut search = Aligned {
            tree: self,
            count,
            align,
            open: 0,
        };
        let root = self.nodes.len() as u32 - 1;
        search
            .node(root, 0, self.root_shift())
            .or_else(|| search.close(self.pages()))
    }
}

/// Where the lowest run of a node is.
enum Step {
    /// Inside this child.
    Into(u32),
    /// It starts this many pages before this child and ends inside or behind it.
    Before(u32, u32),
}

fn first_with(children: &[Node], count: u32, span: u32) -> Step {
    let mut run = 0;
    for (index, child) in children.iter().enumerate() {
        if run + u32::from(child.prefix) >= count {
            return Step::Before(index as u32, run);
        }
        if u32::from(child.longest) >= count {
            return Step::Into(index as u32);
        }
        run = if u32::from(child.suffix) == span {
            run + span
        } else {
            child.suffix.into()
        };
    }
    unreachable!("no child has a run of {count} pages")
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

    fn node(&mut self, node: u32, index: u32, shift: u32) -> Option<u32> {
        let Node {
            prefix,
            longest,
            suffix,
        } = self.tree.nodes[node as usize];
        let (low, span) = (index << shift, 1 << shift);
        if u32::from(prefix) == span {
            return None;
        }
        if let Some(start) = self.close(low + u32::from(prefix)) {
            return Some(start);
        }
        if u32::from(longest) < self.count {
            self.open = low + span - u32::from(suffix);
            return None;
        }
        if shift == LEAF_SHIFT {
            return (index * FANOUT..(index + 1) * FANOUT).find_map(|index| self.word(index));
        }
        let below = shift - FANOUT.trailing_zeros();
        let (base, count) = self.level_below(shift);
        let children = index * FANOUT..((index + 1) * FANOUT).min(count);
        children
            .into_iter()
            .find_map(|child| self.node(base + child, child, below))
    }

    /// The first node and the number of nodes of the level below one whose nodes have 2^`shift` pages.
    fn level_below(&self, shift: u32) -> (u32, u32) {
        let levels = self.tree.levels().take_while(|level| level.2 < shift);
        levels
            .last()
            .map(|(base, count, _)| (base, count))
            .expect("a level above the leaves")
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
