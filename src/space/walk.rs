//! How far a free run goes: from a word up to the nodes that tell, and over those that are wholly free.

use super::family::{CHILDREN, Family};
use super::tree::{BRANCH_SHIFT, LEAF_SHIFT, PAGES_OF_BOUGH, RunTree};
use super::word::WORD_PAGES;

impl RunTree {
    /// The end of the free run that `page` lies in; `page` itself if it is taken or beyond the last page.
    #[inline]
    pub(super) fn run_end(&self, page: u32) -> u32 {
        let Some(&taken) = self.taken.get((page / WORD_PAGES) as usize) else {
            return page;
        };
        let bit = page % WORD_PAGES;
        let end = page + (!taken >> bit).trailing_ones();
        if !end.is_multiple_of(WORD_PAGES) || end == page { end } else { self.run_end_from_word(end) }
    }

    /// The start of the free run that ends right before `page`; `page` itself if the page before it is taken.
    #[inline]
    pub(super) fn run_start(&self, page: u32) -> u32 {
        if page == 0 {
            return 0;
        }
        let bits = self.free_in((page - 1) / WORD_PAGES);
        let start = page - (bits << (WORD_PAGES - 1 - (page - 1) % WORD_PAGES)).leading_ones();
        if !start.is_multiple_of(WORD_PAGES) || start == page { start } else { self.run_start_from_word(start) }
    }

    /// [`Self::run_end`] from the first page of a word, in the largest steps that the tree allows.
    fn run_end_from_word(&self, page: u32) -> u32 {
        match &self.upper {
            None => self.walk_up::<false>(page),
            Some(upper) => match self.taken.get((page / WORD_PAGES) as usize) {
                None => page,
                Some(0) => upper.run_end(page).unwrap_or_else(|| self.walk_up::<true>(page)),
                Some(taken) => page + taken.trailing_zeros(),
            },
        }
    }

    /// In one bough.
    #[inline(always)]
    fn walk_up<const BOUGHS: bool>(&self, mut page: u32) -> u32 {
        while let Some(taken) = self.taken.get((page / WORD_PAGES) as usize) {
            let more = taken.trailing_zeros();
            if more < WORD_PAGES {
                return page + more;
            }
            if let Some(walk) = self.branch_at::<BOUGHS>(page).and_then(|node| node.run_end(page)) {
                return self.run_end_over_branches::<BOUGHS>(walk);
            }
            page = match self.leaf_at::<BOUGHS>(page).and_then(|node| node.run_end(page)) {
                Some(Walk::Ended(end)) => return end,
                Some(Walk::GoesOn(end)) => end,
                None => page + WORD_PAGES,
            };
        }
        page
    }

    /// [`Self::run_start`] from the end of a word, likewise.
    fn run_start_from_word(&self, page: u32) -> u32 {
        match &self.upper {
            None => self.walk_down::<false>(page),
            Some(_) if page == 0 => 0,
            Some(upper) if self.free_in(page / WORD_PAGES - 1) == u64::MAX => {
                upper.run_start(page).unwrap_or_else(|| self.walk_down::<true>(page))
            }
            Some(_) => page - self.free_in(page / WORD_PAGES - 1).leading_ones(),
        }
    }

    #[inline(always)]
    fn walk_down<const BOUGHS: bool>(&self, mut page: u32) -> u32 {
        while page > 0 {
            let more = self.free_in(page / WORD_PAGES - 1).leading_ones();
            if more < WORD_PAGES {
                return page - more;
            }
            if let Some(walk) = self.branch_at::<BOUGHS>(page - 1).and_then(|node| node.run_start(page)) {
                return self.run_start_over_branches::<BOUGHS>(walk);
            }
            page = match self.leaf_at::<BOUGHS>(page - 1).and_then(|node| node.run_start(page)) {
                Some(Walk::Ended(start)) => return start,
                Some(Walk::GoesOn(start)) => start,
                None => page - WORD_PAGES,
            };
        }
        page
    }

    /// Follows a run over wholly free branches to its end, which is in the same bough.
    #[inline]
    fn run_end_over_branches<const BOUGHS: bool>(&self, walk: Walk) -> u32 {
        let from = match walk {
            Walk::Ended(end) => return end,
            Walk::GoesOn(end) => end,
        };
        if BOUGHS && from.is_multiple_of(PAGES_OF_BOUGH) {
            return from;
        }
        let branch = from >> BRANCH_SHIFT;
        let first = if BOUGHS { branch as usize % CHILDREN } else { branch as usize };
        let prefixes = &self.families[Self::family_of_branch::<BOUGHS>(branch)].prefix[first..];
        let whole = prefixes.iter().take_while(|&&prefix| prefix == 1 << BRANCH_SHIFT).count();
        from + ((whole as u32) << BRANCH_SHIFT) + prefixes.get(whole).map_or(0, |&prefix| prefix.into())
    }

    /// Follows a run over wholly free branches to its start.
    #[inline]
    fn run_start_over_branches<const BOUGHS: bool>(&self, walk: Walk) -> u32 {
        let to = match walk {
            Walk::Ended(start) => return start,
            Walk::GoesOn(start) => start,
        };
        if BOUGHS && to.is_multiple_of(PAGES_OF_BOUGH) {
            return to;
        }
        let branch = to >> BRANCH_SHIFT;
        let end = if BOUGHS { branch as usize % CHILDREN } else { branch as usize };
        let mut suffixes = self.families[Self::family_of_branch::<BOUGHS>(branch)].suffix[..end].iter().rev();
        let mut start = to;
        loop {
            match suffixes.next() {
                Some(&suffix) if suffix == 1 << BRANCH_SHIFT => start -= 1 << BRANCH_SHIFT,
                last => return start - last.map_or(0, |&suffix| u32::from(suffix)),
            }
        }
    }

    /// The branch that `page` lies in, if there are branches.
    #[inline]
    fn branch_at<const BOUGHS: bool>(&self, page: u32) -> Option<Node> {
        let branch = page >> BRANCH_SHIFT;
        (BOUGHS || self.has_branches())
            .then(|| Node::new(&self.families[Self::family_of_branch::<BOUGHS>(branch)], branch, BRANCH_SHIFT))
    }

    /// The leaf that `page` lies in, if there are leaves.
    #[inline]
    fn leaf_at<const BOUGHS: bool>(&self, page: u32) -> Option<Node> {
        let leaf = page >> LEAF_SHIFT;
        (BOUGHS || self.has_leaves())
            .then(|| Node::new(&self.families[self.family_of_leaf::<BOUGHS>(leaf)], leaf, LEAF_SHIFT))
    }
}

/// How far a free run goes inside a node that it is in.
enum Walk {
    /// To here.
    Ended(u32),
    /// To the border of the node, and on.
    GoesOn(u32),
}

/// A node of the pages `low..high`.
struct Node {
    low: u32,
    high: u32,
    prefix: u32,
    suffix: u32,
}

impl Node {
    #[inline]
    fn new(family: &Family, index: u32, shift: u32) -> Node {
        let child = index as usize % CHILDREN;
        Node {
            low: index << shift,
            high: (index + 1) << shift,
            prefix: family.prefix[child].into(),
            suffix: family.suffix[child].into(),
        }
    }

    /// Where the run that `page` is in ends, if the node can tell.
    #[inline]
    fn run_end(&self, page: u32) -> Option<Walk> {
        if self.suffix >= self.high - page {
            return Some(Walk::GoesOn(self.high));
        }
        (page == self.low).then_some(Walk::Ended(self.low + self.prefix))
    }

    /// Where the run that ends right before `page` starts, if the node can tell.
    #[inline]
    fn run_start(&self, page: u32) -> Option<Walk> {
        if self.prefix >= page - self.low {
            return Some(Walk::GoesOn(self.low));
        }
        (page == self.high).then_some(Walk::Ended(self.high - self.suffix))
    }
}
