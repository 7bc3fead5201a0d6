//! The runs of a page map in order: what a live view draws.

use std::ops::Range;

use super::word::WORD_PAGES;

/// Walks the free runs of a map, or the used ones.
pub(super) struct Runs<'map> {
    free: &'map [u64],
    /// Flips the bits of a word so that ones are what is looked for.
    flip: u64,
    pages: u32,
    at: u32,
}

impl<'map> Runs<'map> {
    pub(super) fn free(free: &'map [u64], pages: u32) -> Self {
        Runs { free, flip: 0, pages, at: 0 }
    }

    pub(super) fn used(free: &'map [u64], pages: u32) -> Self {
        Runs { free, flip: u64::MAX, pages, at: 0 }
    }

    /// The first page from `page` on whose bit is a one after flipping with `flip`; the number of pages if there is none.
    fn next_one(&self, mut page: u32, flip: u64) -> u32 {
        while page < self.pages {
            let bits = (self.free[(page / WORD_PAGES) as usize] ^ flip) >> (page % WORD_PAGES);
            if bits != 0 {
                return (page + bits.trailing_zeros()).min(self.pages);
            }
            page = (page / WORD_PAGES + 1) * WORD_PAGES;
        }
        self.pages
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        let start = self.next_one(self.at, self.flip);
        let end = self.next_one(start, !self.flip);
        self.at = end;
        (start < end).then_some(start..end)
    }
}
