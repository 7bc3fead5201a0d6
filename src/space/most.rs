//! What a space would serve: the largest request now, and after its blocks have moved together.

use super::{Placement, Space};

impl Space {
    /// The most bytes that [`Space::alloc`] has an extent for now.
    pub(crate) fn most_bytes(&self) -> u64 {
        let idle_bytes = self.pieces.largest_idle().map_or(0, |class| self.class_bytes(class));
        let free_bytes = match self.placement {
            Placement::Exact => self.largest_free_run_bytes(),
            Placement::PowerOfTwo => {
                let counts = (0..u32::BITS - self.tree.longest().leading_zeros()).rev().map(|bits| 1 << bits);
                let run = |count| Some(self.run_bytes(self.tree.find_aligned(count, count)?, count));
                counts.into_iter().find_map(run).unwrap_or(0)
            }
        };
        idle_bytes.max(free_bytes)
    }

    /// Returns the largest request of at most `limit` bytes that [`Space::alloc`] serves now with an extent of at most
    /// `open_bytes`; 0 for none.
    pub(crate) fn most_bytes_within(&self, open_bytes: u64, limit: u64) -> u64 {
        let most_bytes = self.most_bytes();
        if most_bytes <= open_bytes {
            return most_bytes.min(limit);
        }
        // Of all requests that take the same extent the largest is enough. These are the largest extents that are open, in whole
        // pages, in pages that end with the partial one, and in pieces; which of them are taken is for `alloc` to say.
        let page_bytes = self.page_bytes();
        let run_bytes = self.largest_free_run_bytes().min(open_bytes / page_bytes * page_bytes);
        let partial_bytes = run_bytes + self.bytes % page_bytes;
        let units = self.pieces.classes();
        let pieces = (0..units).map(|class| self.class_bytes(class));
        let pages = (0..u32::BITS).map(|bits| page_bytes << bits).take_while(|bytes| *bytes <= self.bytes);
        let runs = [self.largest_free_run_bytes(), run_bytes, partial_bytes, self.bytes % page_bytes, limit];
        let buddies = if self.placement == Placement::PowerOfTwo { Some(pages) } else { None };
        let all = runs.into_iter().chain(pieces).chain(buddies.into_iter().flatten());
        let mut sizes: Vec<u64> =
            all.filter(|bytes| *bytes > 0 && *bytes <= limit.min(open_bytes).min(most_bytes)).collect();
        sizes.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
        let takes = |bytes: u64| self.clone().alloc(bytes).is_some_and(|extent| extent.bytes() <= open_bytes);
        sizes.into_iter().find(|bytes| takes(*bytes)).unwrap_or(0)
    }

    /// Returns a free run that is there for certain once every held run has moved: to the lowest hole below it that is long
    /// enough, or down over the free pages directly below it if these are at least 1/`slide_part` of it. 0 where that is not
    /// known.
    ///
    /// The answer is for a space whose cut pages, if any, are all at its end, so that no piece is among the runs. One after the
    /// other from the low end, each run leaves less than 1/`slide_part` of its own bytes free below it, and no hole that was
    /// passed grows again. All other free pages are in one run: below the cut pages, or below a run that ends in the partial
    /// last page and stays.
    pub(crate) fn compacted_bytes(&self, slide_part: u64) -> u64 {
        let (page_bytes, cut_pages) = (self.page_bytes(), u64::from(self.pieces.cut_pages()));
        let partial_bytes = self.bytes % page_bytes;
        let first_cut = self.pieces.pages().map(u64::from).min();
        let below_bytes = match first_cut {
            Some(page) if page + cut_pages == self.bytes / page_bytes => page * page_bytes,
            Some(_) => return 0,
            None => self.bytes,
        };
        let has_partial = partial_bytes > 0 && self.tree.run_start(self.tree.pages()) < self.tree.pages();
        let apart_bytes = if has_partial && first_cut.is_some() { partial_bytes } else { 0 };
        let free_bytes = self.free_bytes() - apart_bytes;
        free_bytes.saturating_sub((below_bytes - free_bytes) / slide_part)
    }
}
