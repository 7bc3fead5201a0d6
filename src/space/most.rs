//! What a space would serve: the largest request now, and after its blocks have moved together.

use std::ops::Range;

use super::{Cost, Placement, Space};

impl Space {
    /// The most bytes that [`Space::alloc`] has an extent for now, or [`alloc_elsewhere`](Space::alloc_elsewhere).
    pub(crate) fn most_bytes(&self) -> u64 {
        let idle_bytes = self.pieces.largest_idle().map_or(0, |class| self.carving.class_bytes(class));
        let free_bytes = match self.placement {
            _ if self.is_expanding() => self.most_bytes_cheap(Cost::NOTHING, u64::MAX),
            Placement::Exact => self.largest_free_run_bytes(),
            Placement::PowerOfTwo => {
                let counts = (0..u32::BITS - self.tree.longest().leading_zeros()).rev().map(|bits| 1 << bits);
                let run = |count| Some(self.carving.run_bytes(self.tree.find_aligned(count, count)?, count));
                counts.into_iter().find_map(run).unwrap_or(0)
            }
        };
        idle_bytes.max(free_bytes)
    }

    /// Returns what [`most_bytes`](Self::most_bytes) is at most, without a look at all free runs where that can be had.
    pub(crate) fn most_bytes_bound(&self) -> u64 {
        match &self.commitment {
            Some(commitment) if self.placement == Placement::Exact => {
                let idle_bytes = self.pieces.largest_idle().map_or(0, |class| self.carving.class_bytes(class));
                idle_bytes.max(commitment.most_free_bytes().min(self.largest_free_run_bytes()))
            }
            _ => self.most_bytes(),
        }
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
        if self.is_expanding() {
            let classes = (0..self.pieces.classes()).map(|class| self.carving.class_bytes(class));
            let idle_bytes = self.pieces.largest_idle().map_or(0, |class| self.carving.class_bytes(class));
            let piece_bytes = classes.filter(|bytes| *bytes <= idle_bytes.min(open_bytes)).max().unwrap_or(0);
            return self
                .most_bytes_cheap(Cost { extent_bytes: open_bytes, ..Cost::NOTHING }, limit)
                .max(piece_bytes.min(limit));
        }
        let run_bytes = self.largest_free_run_bytes().min(open_bytes / page_bytes * page_bytes);
        let partial_bytes = run_bytes + self.bytes() % page_bytes;
        let units = self.pieces.classes();
        let pieces = (0..units).map(|class| self.carving.class_bytes(class));
        let pages = (0..u32::BITS).map(|bits| page_bytes << bits).take_while(|bytes| *bytes <= self.bytes());
        let runs = [self.largest_free_run_bytes(), run_bytes, partial_bytes, self.bytes() % page_bytes, limit];
        let buddies = if self.placement == Placement::PowerOfTwo { Some(pages) } else { None };
        let all = runs.into_iter().chain(pieces).chain(buddies.into_iter().flatten());
        let mut sizes: Vec<u64> =
            all.filter(|bytes| *bytes > 0 && *bytes <= limit.min(open_bytes).min(most_bytes)).collect();
        sizes.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
        let takes = |bytes: u64| self.bytes_taken(bytes).is_some_and(|taken_bytes| taken_bytes <= open_bytes);
        sizes.into_iter().find(|bytes| takes(*bytes)).unwrap_or(0)
    }

    /// Returns the first run of at least `bytes` bytes, which are not 0, of free pages that have memory, from `from` on: 0, or where
    /// such a run ends. Shorter runs of free pages are skipped in a time that grows with the logarithm of the pages.
    pub(crate) fn free_run_from(&self, from: u64, bytes: u64) -> Option<Range<u64>> {
        let Some(commitment) = self.commitment.as_deref() else { return self.free_pages_from(from, bytes) };
        let first = |run: &Range<u64>| commitment.committed(run).find(|found| found.end - found.start >= bytes);
        let mut rest = from..from;
        if (1..self.bytes()).contains(&from) {
            let page = self.carving.page_at(from);
            rest = self.carving.range_of(page..self.tree.end_of_run_at(page));
        }
        loop {
            if !rest.is_empty()
                && let Some(found) = first(&rest)
            {
                return Some(found);
            }
            rest = self.free_pages_from(rest.end, bytes)?;
        }
    }

    /// The same, whether or not the pages have memory. `from` is where a run of free pages ends.
    pub(super) fn free_pages_from(&self, from: u64, bytes: u64) -> Option<Range<u64>> {
        if from >= self.bytes() || bytes > self.bytes() {
            return None;
        }
        let count = self.carving.pages_for(bytes);
        let start =
            if from == 0 { self.tree.find(count) } else { self.tree.find_behind(self.carving.page_at(from), count) };
        let run = start.map(|start| self.carving.range_of(start..self.tree.end_of_run_at(start)))?;
        // The last page may be partial: then no run is behind it.
        (run.end - run.start >= bytes).then_some(run)
    }

    /// Returns the bytes of the extent that [`Space::alloc`] would take.
    fn bytes_taken(&self, bytes: u64) -> Option<u64> {
        if let Some(class) = self.carving.class_of(bytes)
            && (self.pieces.largest_idle().is_some_and(|largest| largest >= class) || self.has_run_to_cut())
        {
            return Some(self.carving.class_bytes(class));
        }
        self.run_for(bytes, 1).map(|(start, count)| self.carving.run_bytes(start, count))
    }

    /// Returns a free run that is there for certain once every held run has moved: to the lowest hole below it that is long
    /// enough, or down over the free pages directly below it if these are at least 1/`slide_part` of it. 0 where that is not
    /// known.
    ///
    /// The answer is for a space whose cut runs, if any, are the last ones that there can be, so that no piece is among the runs.
    /// One after the other from the low end, each run leaves less than 1/`slide_part` of its own bytes free below it, and no hole
    /// that was passed grows again. All other free pages are in one run: below the cut runs, or below a run that ends in the
    /// partial last page and stays. Only those above the cut runs are apart from it.
    /// Where memory comes and goes, a hole may have none.
    pub(crate) fn compacted_bytes(&self, slide_part: u64) -> u64 {
        // A run that has to stay at a multiple of several pages may not go where the next hole is.
        if self.is_expanding() || self.has_aligned {
            return 0;
        }
        let (partial_bytes, cut_pages) = (self.bytes() % self.page_bytes(), self.carving.cut_pages());
        let is_last_free = self.tree.run_start(self.tree.pages()) < self.tree.pages();
        let cut_end = self.carving.whole_pages() / cut_pages * cut_pages;
        let apart_bytes = self.bytes() - self.carving.offset_of(cut_end);
        let start = self.pieces.start_if_last(cut_end, cut_pages).map(|page| self.carving.offset_of(page));
        let (below_bytes, apart_bytes) = match start {
            None if self.cut_runs() > 0 => return 0,
            None => (self.bytes(), 0),
            Some(offset) if partial_bytes > 0 && !is_last_free => (offset, apart_bytes - partial_bytes),
            Some(offset) => (offset, apart_bytes),
        };
        let free_bytes = self.free_bytes().saturating_sub(apart_bytes);
        free_bytes.saturating_sub(below_bytes.saturating_sub(free_bytes) / slide_part)
    }
}
