//! The runs of a page map in order: what a live view draws.

use std::ops::Range;

use super::tree::RunTree;
use super::upper::BOUGH_SHIFT;
use super::word::WORD_PAGES;

/// Walks the free runs of a map, or the used ones.
pub(super) struct Runs<'tree> {
    tree: &'tree RunTree,
    wants_free: bool,
    at: u32,
}

impl<'tree> Runs<'tree> {
    pub(super) fn free(tree: &'tree RunTree) -> Self {
        Runs { tree, wants_free: true, at: 0 }
    }

    pub(super) fn used(tree: &'tree RunTree) -> Self {
        Runs { tree, wants_free: false, at: 0 }
    }

    /// The first page from `page` on that is free, or taken; the number of pages if there is none.
    fn next_page(&self, mut page: u32, is_free: bool) -> u32 {
        let pages = self.tree.pages();
        while page < pages {
            if let Some(all_free) = self.is_all_free(page >> BOUGH_SHIFT) {
                if all_free == is_free {
                    return page;
                }
                page = ((page >> BOUGH_SHIFT) + 1) << BOUGH_SHIFT;
                continue;
            }
            let free = self.tree.free_in(page / WORD_PAGES);
            let bits = if is_free { free } else { !free } >> (page % WORD_PAGES);
            if bits != 0 {
                return (page + bits.trailing_zeros()).min(pages);
            }
            page = (page / WORD_PAGES + 1) * WORD_PAGES;
        }
        pages
    }

    /// What the node of a bough tells of all its pages, if they are alike.
    fn is_all_free(&self, bough: u32) -> Option<bool> {
        let upper = self.tree.upper.as_ref()?;
        if upper.is_taken(bough) { Some(false) } else { upper.is_free(bough).then_some(true) }
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        let start = self.next_page(self.at, self.wants_free);
        let end = self.next_page(start, !self.wants_free);
        self.at = end;
        (start < end).then_some(start..end)
    }
}
