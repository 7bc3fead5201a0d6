//! Which pages of a slab are free: a bitmap, and a tree over it that knows its runs.
//!
//! ```text
//! the longest run of all                                                             u32
//! branches     8 nodes of 4,096 pages: one family       prefix, longest, suffix: 3 x u16
//! leaves      64 nodes of   512 pages: eight families   prefix, longest, suffix: 3 x u16
//! words      512 words of    64 pages: the map itself, 1 is taken                    u64
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
//! Slabs with fewer pages have fewer words and levels; pages beyond the last one are taken for ever. What is drawn here is a
//! **bough**, and the whole tree of slabs with up to 32,768 pages. Above several boughs there are up to four levels of families
//! with 32-bit counts: [`Upper`]. Of boughs that are wholly free, or wholly taken by one run, nothing below is looked at.

use std::ops::Range;

use super::change::Change;
use super::family::{CHILDREN, Family};
use super::runs::Runs;
use super::upper::{BOUGH_SHIFT, Upper};
use super::word::{self, WORD_PAGES};

/// The most pages a tree can have.
pub(crate) const PAGES_MAX: u32 = 1 << 25;
/// The most pages that a tree without upper levels has.
pub(super) const PAGES_OF_BOUGH: u32 = 1 << BOUGH_SHIFT;
/// A bough has a family of branches, and then eight families of leaves.
pub(super) const FAMILIES_OF_BOUGH: usize = 1 + CHILDREN;
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
const _: () = assert!(PAGES_OF_BOUGH as usize == CHILDREN << BRANCH_SHIFT);

/// The free pages of one slab. Everything is sized by [`RunTree::new`]; nothing allocates after that.
#[derive(Debug, Clone)]
pub struct RunTree {
    /// One bit a page, 1 is taken: memory that comes zeroed is touched only where pages are taken.
    pub(super) taken: Box<[u64]>,
    /// One byte a word.
    pub(super) reach: Box<[u8]>,
    /// For each bough its branches and then their leaves; the leaves alone; or nothing.
    pub(super) families: Box<[Family]>,
    /// The levels above boughs, if there are several.
    pub(super) upper: Option<Box<Upper>>,
    pub(super) pages: u32,
    pub(super) free_pages: u32,
    pub(super) longest: u32,
    /// The most pages that [`RunTree::take_sparing`] has taken at once since all pages were free. 0 while they are.
    pub(super) largest: u32,
}

impl RunTree {
    /// A tree of `pages` free pages.
    ///
    /// # Panics
    ///
    /// If `pages` is 0 or more than 2^25.
    pub fn new(pages: u32) -> RunTree {
        assert!((1..=PAGES_MAX).contains(&pages), "a tree of {pages} pages: it can have 1 to {PAGES_MAX}");
        if pages > PAGES_OF_BOUGH {
            return RunTree::of_boughs(pages);
        }
        let capacity = pages.next_power_of_two().max(1 << LEAF_SHIFT);
        let families = match capacity >> LEAF_SHIFT {
            1 => 0,
            2..=8 => 1,
            leaves => 1 + leaves as usize / CHILDREN,
        };
        let words = (capacity / WORD_PAGES) as usize;
        let mut tree = RunTree {
            taken: vec![u64::MAX; words].into(),
            reach: vec![0; words].into(),
            families: vec![Family::default(); families].into(),
            upper: None,
            pages,
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
        if self.is_sealed_at(start) {
            return false;
        }
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
        if let Some(page) = self.first_free_in(start, start + count) {
            panic!("release of {count} pages at page {start}: page {page} is not taken");
        }
        self.release_taken(start, count);
    }

    /// [`RunTree::release`] of pages that are known to be taken.
    #[inline]
    pub(super) fn release_taken(&mut self, start: u32, count: u32) {
        debug_assert!(self.is_taken(start, count), "release of {count} pages at page {start}: one is not taken");
        let end = start + count;
        if self.has_boughs() {
            self.unseal_ends(start, end);
        }
        self.join(Change { from: self.run_start(start), start, end, to: self.run_end(end) });
        // A tree that is whole again places every later run as a new one does.
        if self.free_pages == self.pages {
            self.largest = 0;
        }
    }

    /// The length of the longest free run, in pages.
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// Free pages.
    pub fn free_pages(&self) -> u32 {
        self.free_pages
    }

    /// All pages, free or taken.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The free runs, lowest first; no two of them touch.
    pub fn free_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        Runs::free(self)
    }

    /// What lies between the free runs, lowest first. Runs that were taken one by one and touch are one here: the map does
    /// not know them apart.
    pub fn used_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        Runs::used(self)
    }

    /// All memory of the tree, itself included: 1.25 bits a page with 32,768 pages, at most 1.255 with whole boughs,
    /// never more than 2.25 bits a page of capacity (pages rounded up to a power of two, at least 512, or to whole boughs).
    pub fn metadata_bytes(&self) -> usize {
        let upper = self.upper.as_ref().map_or(0, |upper| upper.metadata_bytes());
        size_of_val(self) + size_of_val(&*self.taken) + size_of_val(&*self.reach) + size_of_val(&*self.families) + upper
    }

    /// Whether no page of `start..start + count` is free; all of them exist.
    pub(super) fn is_taken(&self, start: u32, count: u32) -> bool {
        self.first_free_in(start, start + count).is_none()
    }

    /// The first free page of `start..end`.
    #[inline]
    fn first_free_in(&self, start: u32, end: u32) -> Option<u32> {
        if self.has_boughs() { self.first_free_in_boughs(start, end) } else { self.first_free_by_words(start, end) }
    }

    #[inline(never)]
    fn first_free_in_boughs(&self, start: u32, end: u32) -> Option<u32> {
        let upper = self.upper.as_ref()?;
        // What is wholly taken need not be in the map.
        let mut boughs = (start >> BOUGH_SHIFT..=(end - 1) >> BOUGH_SHIFT).filter(|bough| !upper.is_taken(*bough));
        boughs.find_map(|bough| {
            let (low, high) = (bough << BOUGH_SHIFT, (bough + 1) << BOUGH_SHIFT);
            self.first_free_by_words(start.max(low), end.min(high))
        })
    }

    #[inline]
    fn first_free_by_words(&self, start: u32, end: u32) -> Option<u32> {
        let mut first = None;
        word::for_each_mask(start, end, |index, mask| {
            let taken = self.taken[index] & mask;
            if taken != mask && first.is_none() {
                first = Some(index as u32 * WORD_PAGES + (taken ^ mask).trailing_zeros());
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
    pub(super) fn family_of_leaf<const BOUGHS: bool>(&self, leaf: u32) -> usize {
        // Behind the families of branches of its own bough and of those before it.
        let branches =
            if BOUGHS { 1 + (leaf >> (BOUGH_SHIFT - LEAF_SHIFT)) as usize } else { usize::from(self.has_branches()) };
        leaf as usize / CHILDREN + branches
    }

    /// The same for any tree.
    #[inline]
    pub(super) fn family_of_leaf_in_any(&self, leaf: u32) -> usize {
        if self.has_boughs() { self.family_of_leaf::<true>(leaf) } else { self.family_of_leaf::<false>(leaf) }
    }

    /// The free pages of a word.
    #[inline]
    pub(super) fn free_in(&self, index: u32) -> u64 {
        !self.taken[index as usize]
    }

    /// The index of the family of a branch, if there are branches.
    #[inline]
    pub(super) fn family_of_branch<const BOUGHS: bool>(branch: u32) -> usize {
        if BOUGHS { branch as usize / CHILDREN * FAMILIES_OF_BOUGH } else { 0 }
    }

    /// Whether there are several boughs. What is done often is compiled twice, so that it costs nothing where there are not.
    #[inline]
    pub(super) fn has_boughs(&self) -> bool {
        self.upper.is_some()
    }

    #[inline]
    pub(super) fn reaches_of_leaf(&self, leaf: u32) -> [u8; CHILDREN] {
        let first = (leaf * LEAF_WORDS) as usize;
        self.reach[first..first + CHILDREN].try_into().expect("as many as asked for")
    }

    #[inline]
    pub(super) fn set_longest(&mut self, longest: u32) {
        self.longest = longest;
    }

    #[inline]
    pub(super) fn largest(&self) -> u32 {
        self.largest
    }

    #[inline]
    pub(super) fn set_largest(&mut self, largest: u32) {
        self.largest = largest;
    }

    #[inline]
    pub(super) fn change_free_pages(&mut self, by: i32) {
        self.free_pages = self.free_pages.wrapping_add_signed(by);
    }
}
