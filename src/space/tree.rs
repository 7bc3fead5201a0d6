//! Which pages of a slab are free: a bitmap, and a tree over it that knows its runs.
//!
//! ```text
//! the longest run of all                                                             u16
//! branches     8 nodes of 4,096 pages: one family       prefix, longest, suffix: 3 x u16
//! leaves      64 nodes of   512 pages: eight families   prefix, longest, suffix: 3 x u16
//! words      512 words of    64 pages: the map itself, 1 is free                     u64
//!                                      and how far its runs reach                     u8
//! ```
//!
//! A **node** keeps the free pages at its start (`prefix`), its longest free run (`longest`) and the free pages at its end
//! (`suffix`). A run that straddles two buddies is seen by their parent, as suffix + prefix; that is the whole merge. Eight
//! buddies are a [`Family`].
//!
//! A **reach** is the longest run that *starts* in its word, followed as far as the end of the word's leaf, capped at
//! [`REACH_MAX`]. A run counts in one word only, so a change touches the reach of two words at most: the one its run starts
//! in, and the one the remainder starts in. The lowest run of n pages starts in the first word that reaches n.
//!
//! **Why an update hardly ever looks at children.** Taking `start..end` out of the free run `from..to` changes, in every node
//! above, only what that run was to it: if it was the node's prefix or suffix, the rest of it is now. If it was shorter than
//! the node's longest run, the longest run is what it was; only if it *was* the longest do the children have to be asked for
//! the next one. Releasing is simpler yet: the merged run is the new longest, or not.
//!
//! Slabs with fewer pages have fewer words and levels; pages beyond the last one are taken for ever.

use std::ops::Range;

use super::change::Change;
use super::family::{CHILDREN, Family};
use super::runs::Runs;
use super::word::{self, WORD_PAGES};

/// The most pages a tree can have.
pub(super) const PAGES_MAX: u32 = 32_768;
/// Words of a leaf.
pub(super) const LEAF_WORDS: u32 = CHILDREN as u32;
/// Pages of a leaf as a power of two.
pub(super) const LEAF_SHIFT: u32 = 9;
/// Pages of a branch as a power of two.
pub(super) const BRANCH_SHIFT: u32 = 12;
/// A reach that says "this many or more". The top bit of the byte stays free for comparing eight at once.
pub(super) const REACH_MAX: u32 = 127;

const _: () = assert!(1 << LEAF_SHIFT == LEAF_WORDS * WORD_PAGES);
const _: () = assert!(1 << BRANCH_SHIFT == CHILDREN << LEAF_SHIFT);
const _: () = assert!(PAGES_MAX as usize == CHILDREN << BRANCH_SHIFT);

/// The free pages of one slab. Everything is sized by [`RunTree::new`]; nothing allocates after that.
#[derive(Debug, Clone)]
pub struct RunTree {
    /// One bit a page, 1 is free.
    pub(super) free: Box<[u64]>,
    /// One byte a word.
    pub(super) reach: Box<[u8]>,
    /// The branches and then their leaves; the leaves alone; or nothing.
    pub(super) families: Box<[Family]>,
    // Four counts of pages, up to 32,768: small, as the smallest trees are held to their bound too.
    pages: u16,
    free_pages: u16,
    longest: u16,
    /// The most pages that [`RunTree::take_sparing`] has taken at once since all pages were free. 0 while they are.
    largest: u16,
}

impl RunTree {
    /// A tree of `pages` free pages.
    ///
    /// # Panics
    ///
    /// If `pages` is 0 or more than 32,768.
    pub fn new(pages: u32) -> RunTree {
        assert!((1..=PAGES_MAX).contains(&pages), "a tree of {pages} pages: it can have 1 to {PAGES_MAX}");
        let capacity = pages.next_power_of_two().max(1 << LEAF_SHIFT);
        let families = match capacity >> LEAF_SHIFT {
            1 => 0,
            2..=8 => 1,
            leaves => 1 + leaves as usize / CHILDREN,
        };
        let words = (capacity / WORD_PAGES) as usize;
        let mut tree = RunTree {
            free: vec![0; words].into(),
            reach: vec![0; words].into(),
            families: vec![Family::default(); families].into(),
            pages: pages as u16,
            free_pages: 0,
            longest: 0,
            largest: 0,
        };
        tree.join(Change { from: 0, start: 0, end: pages, to: pages });
        tree
    }

    /// Takes the lowest run of `count` free pages and returns its first page, or `None` if no run is that long.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        assert!(count > 0, "a run of 0 pages");
        let start = self.find(count)?;
        let end = start + count;
        let to = self.run_end(end);
        self.cut(Change { from: start, start, end, to });
        Some(start)
    }

    /// Takes the highest free page and returns it, or `None` if there is none.
    pub fn take_last(&mut self) -> Option<u32> {
        let page = self.find_last()?;
        self.cut(Change { from: self.run_start(page), start: page, end: page + 1, to: page + 1 });
        Some(page)
    }

    /// Takes the lowest run of `count` free pages whose first page is a multiple of `align_pages`.
    ///
    /// The tree does not see alignment (used-free-free-used has a longest run of 2 and no aligned pair), so the search may
    /// have to back up; at worst it passes over every word once.
    ///
    /// # Panics
    ///
    /// If `count` is 0, or `align_pages` is not a power of two.
    pub fn take_aligned(&mut self, count: u32, align_pages: u32) -> Option<u32> {
        assert!(count > 0, "a run of 0 pages");
        assert!(align_pages.is_power_of_two(), "an alignment of {align_pages} pages is not a power of two");
        if align_pages == 1 {
            return self.take(count);
        }
        let start = self.find_aligned(count, align_pages)?;
        let end = start + count;
        self.cut(Change { from: self.run_start(start), start, end, to: self.run_end(end) });
        Some(start)
    }

    /// Takes the pages `start..start + count` if all of them are free, and says whether it did.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    pub fn take_at(&mut self, start: u32, count: u32) -> bool {
        assert!(count > 0, "a run of 0 pages");
        if start >= self.pages() || count > self.pages() - start {
            return false;
        }
        let end = start + count;
        let to = self.run_end(start);
        if to < end {
            return false;
        }
        self.cut(Change { from: self.run_start(start), start, end, to });
        true
    }

    /// Gives the pages `start..start + count` back: a run that was taken, a part of one, or several that touch.
    ///
    /// # Panics
    ///
    /// If `count` is 0, if the pages reach beyond the last one, or if one of them is not taken. Nothing has changed then.
    pub fn release(&mut self, start: u32, count: u32) {
        assert!(
            count > 0 && start < self.pages() && count <= self.pages() - start,
            "release of {count} pages at page {start}: there are {} pages",
            self.pages
        );
        let end = start + count;
        if let Some(page) = self.first_free_in(start, end) {
            panic!("release of {count} pages at page {start}: page {page} is not taken");
        }
        self.join(Change { from: self.run_start(start), start, end, to: self.run_end(end) });
        // A tree that is whole again places every later run as a new one does.
        if self.free_pages == self.pages {
            self.largest = 0;
        }
    }

    /// The length of the longest free run, in pages.
    pub fn longest(&self) -> u32 {
        self.longest.into()
    }

    /// Free pages.
    pub fn free_pages(&self) -> u32 {
        self.free_pages.into()
    }

    /// All pages, free or taken.
    pub fn pages(&self) -> u32 {
        self.pages.into()
    }

    /// The free runs, lowest first; no two of them touch.
    pub fn free_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        Runs::free(&self.free, self.pages())
    }

    /// What lies between the free runs, lowest first. Runs that were taken one by one and touch are one here: the map does
    /// not know them apart.
    pub fn used_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        Runs::used(&self.free, self.pages())
    }

    /// All memory of the tree, itself included: 1.25 bits a page at full size, never more than 2.2 bits a page of capacity
    /// (pages rounded up to a power of two, at least 512).
    pub fn metadata_bytes(&self) -> usize {
        size_of_val(self) + size_of_val(&*self.free) + size_of_val(&*self.reach) + size_of_val(&*self.families)
    }

    /// Whether no page of `start..start + count` is free; all of them exist.
    pub(super) fn is_taken(&self, start: u32, count: u32) -> bool {
        self.first_free_in(start, start + count).is_none()
    }

    /// The first free page of `start..end`.
    #[inline]
    fn first_free_in(&self, start: u32, end: u32) -> Option<u32> {
        let mut first = None;
        word::for_each_mask(start, end, |index, mask| {
            let free = self.free[index] & mask;
            if free != 0 && first.is_none() {
                first = Some(index as u32 * WORD_PAGES + free.trailing_zeros());
            }
        });
        first
    }

    #[inline]
    pub(super) fn has_leaves(&self) -> bool {
        !self.families.is_empty()
    }

    #[inline]
    pub(super) fn has_branches(&self) -> bool {
        self.families.len() > 1
    }

    /// The index of the family of a leaf, if there are leaves.
    #[inline]
    pub(super) fn family_of_leaf(&self, leaf: u32) -> usize {
        leaf as usize / CHILDREN + usize::from(self.has_branches())
    }

    #[inline]
    pub(super) fn reaches_of_leaf(&self, leaf: u32) -> [u8; CHILDREN] {
        let first = (leaf * LEAF_WORDS) as usize;
        self.reach[first..first + CHILDREN].try_into().expect("as many as asked for")
    }

    #[inline]
    pub(super) fn set_longest(&mut self, longest: u32) {
        self.longest = longest as u16;
    }

    #[inline]
    pub(super) fn largest(&self) -> u32 {
        self.largest.into()
    }

    #[inline]
    pub(super) fn set_largest(&mut self, largest: u32) {
        self.largest = largest as u16;
    }

    #[inline]
    pub(super) fn change_free_pages(&mut self, by: i32) {
        self.free_pages = (i32::from(self.free_pages) + by) as u16;
    }

    /// The end of the free run that `page` lies in; `page` itself if it is taken or beyond the last page.
    #[inline]
    pub(super) fn run_end(&self, page: u32) -> u32 {
        let Some(&bits) = self.free.get((page / WORD_PAGES) as usize) else {
            return page;
        };
        let bit = page % WORD_PAGES;
        let end = page + (bits >> bit).trailing_ones();
        if !end.is_multiple_of(WORD_PAGES) || end == page { end } else { self.run_end_from_word(end) }
    }

    /// The start of the free run that ends right before `page`; `page` itself if the page before it is taken.
    #[inline]
    pub(super) fn run_start(&self, page: u32) -> u32 {
        if page == 0 {
            return 0;
        }
        let bits = self.free[((page - 1) / WORD_PAGES) as usize];
        let start = page - (bits << (WORD_PAGES - 1 - (page - 1) % WORD_PAGES)).leading_ones();
        if !start.is_multiple_of(WORD_PAGES) || start == page { start } else { self.run_start_from_word(start) }
    }

    /// [`Self::run_end`] from the first page of a word, in the largest steps that the tree allows.
    fn run_end_from_word(&self, mut page: u32) -> u32 {
        while let Some(bits) = self.free.get((page / WORD_PAGES) as usize) {
            let more = bits.trailing_ones();
            if more < WORD_PAGES {
                return page + more;
            }
            if let Some(walk) = self.branch_at(page).and_then(|node| node.run_end(page)) {
                return self.run_end_over_branches(walk);
            }
            page = match self.leaf_at(page).and_then(|node| node.run_end(page)) {
                Some(Walk::Ended(end)) => return end,
                Some(Walk::GoesOn(end)) => end,
                None => page + WORD_PAGES,
            };
        }
        page
    }

    /// [`Self::run_start`] from the end of a word, likewise.
    fn run_start_from_word(&self, mut page: u32) -> u32 {
        while page > 0 {
            let more = self.free[(page / WORD_PAGES) as usize - 1].leading_ones();
            if more < WORD_PAGES {
                return page - more;
            }
            if let Some(walk) = self.branch_at(page - 1).and_then(|node| node.run_start(page)) {
                return self.run_start_over_branches(walk);
            }
            page = match self.leaf_at(page - 1).and_then(|node| node.run_start(page)) {
                Some(Walk::Ended(start)) => return start,
                Some(Walk::GoesOn(start)) => start,
                None => page - WORD_PAGES,
            };
        }
        page
    }

    /// Follows a run over wholly free branches to its end.
    fn run_end_over_branches(&self, walk: Walk) -> u32 {
        let from = match walk {
            Walk::Ended(end) => return end,
            Walk::GoesOn(end) => end,
        };
        let prefixes = &self.families[0].prefix[(from >> BRANCH_SHIFT) as usize..];
        let whole = prefixes.iter().take_while(|&&prefix| prefix == 1 << BRANCH_SHIFT).count();
        from + ((whole as u32) << BRANCH_SHIFT) + prefixes.get(whole).map_or(0, |&prefix| prefix.into())
    }

    /// Follows a run over wholly free branches to its start.
    fn run_start_over_branches(&self, walk: Walk) -> u32 {
        let to = match walk {
            Walk::Ended(start) => return start,
            Walk::GoesOn(start) => start,
        };
        let mut suffixes = self.families[0].suffix[..(to >> BRANCH_SHIFT) as usize].iter().rev();
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
    fn branch_at(&self, page: u32) -> Option<Node> {
        let branch = page >> BRANCH_SHIFT;
        self.has_branches().then(|| Node::new(&self.families[0], branch, BRANCH_SHIFT))
    }

    /// The leaf that `page` lies in, if there are leaves.
    #[inline]
    fn leaf_at(&self, page: u32) -> Option<Node> {
        let leaf = page >> LEAF_SHIFT;
        self.has_leaves().then(|| Node::new(&self.families[self.family_of_leaf(leaf)], leaf, LEAF_SHIFT))
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
