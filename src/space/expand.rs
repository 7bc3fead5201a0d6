//! A space whose slab is a range of addresses: memory comes to it in granules, and goes.
//!
//! A request gets the place that it would get if all addresses had memory, if that place has. Otherwise the holder may bring memory
//! there ([`Space::alloc_anywhere`], [`Space::commit`]), or take a place that has memory already ([`Space::alloc_elsewhere`]).
//! Free granules that have memory are *spare*: they can go without touching any extent.

use std::ops::Range;

use super::commitment::{Commitment, Cost};
use super::{Extent, Placement, Space};
use crate::units::{round_down, round_up};

impl Space {
    /// A free space as [`Space::with_page_bytes`], none of whose granules has memory yet. A granule is of `granule_bytes` bytes, a power
    /// of two, or of one page or cut run where that is more.
    ///
    /// # Panics
    ///
    /// As [`Space::with_page_bytes`], and if `granule_bytes` is no power of two.
    pub(crate) fn expanding(
        bytes: u64,
        alignment: u64,
        page_bytes: u64,
        granule_bytes: u64,
        placement: Placement,
    ) -> Space {
        assert!(granule_bytes.is_power_of_two(), "a granule of {granule_bytes} bytes is not a power of two");
        let mut space = Space::with_page_bytes(bytes, alignment, page_bytes, placement);
        let granule_bytes = granule_bytes.max(space.page_bytes()).max(space.cut_bytes());
        space.commitment = Some(Box::new(Commitment::new(bytes, granule_bytes)));
        space
    }

    /// Returns whether memory comes and goes.
    pub(crate) fn is_expanding(&self) -> bool {
        self.commitment.is_some()
    }

    /// Bytes that have memory: all of them, unless the space is expanding.
    pub(crate) fn committed_bytes(&self) -> u64 {
        self.commitment.as_ref().map_or(self.bytes(), |commitment| commitment.committed_bytes())
    }

    /// Takes an extent as [`Space::alloc`] does, whether or not it has memory.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0.
    #[inline]
    pub(crate) fn alloc_anywhere(&mut self, bytes: u64, align_bytes: u64) -> Option<Extent> {
        assert!(bytes > 0, "a request for 0 bytes");
        debug_assert!(align_bytes.is_power_of_two(), "an alignment of {align_bytes} bytes");
        let extent = match self.class_for(bytes, align_bytes) {
            Some(class) => self.alloc_piece(class, bytes),
            None => self.alloc_run(bytes, align_bytes),
        };
        extent.map(|extent| extent.aligned(align_bytes))
    }

    /// As [`alloc_anywhere`](Self::alloc_anywhere), in whole pages, for what is no request of the program's.
    pub(crate) fn alloc_pages_anywhere(&mut self, bytes: u64) -> Option<Extent> {
        let largest = self.tree.largest();
        let extent = self.alloc_run(bytes, 1);
        self.tree.set_largest(largest);
        extent
    }

    /// Takes an extent where there is memory already, though [`Space::alloc`] would take another place: at most so many
    /// bytes. `None` for a space that is
    /// not expanding: there `alloc` has looked everywhere.
    pub(crate) fn alloc_elsewhere(&mut self, bytes: u64, align_bytes: u64, open_bytes: u64) -> Option<Extent> {
        self.alloc_cheap(bytes, align_bytes, Cost { extent_bytes: open_bytes, ..Cost::NOTHING })
    }

    /// Takes an extent in a free run for which no more has to be committed than this. If there is one for a request, there is one
    /// for every smaller request of no larger alignment.
    pub(crate) fn alloc_cheap(&mut self, bytes: u64, align_bytes: u64, most: Cost) -> Option<Extent> {
        let Some(class) = self.class_for(bytes, align_bytes) else {
            return self.alloc_run_cheap(bytes, align_bytes, most);
        };
        if self.carving.class_bytes(class) <= most.extent_bytes
            && self.may_have_free(self.cut_bytes(), most)
            && let Some(start) = self.find_run_to_cut(most)
        {
            let count = self.carving.cut_pages();
            let is_taken = self.tree.take_at(start, count);
            debug_assert!(is_taken, "{count} pages from {start} were free");
            let piece = self.pieces.cut(start, class);
            return Some(self.hold_piece(piece, class).aligned(align_bytes));
        }
        self.alloc_run_cheap(bytes, align_bytes, most)
    }

    /// As [`alloc_cheap`](Self::alloc_cheap), in whole pages.
    pub(crate) fn alloc_run_cheap(&mut self, bytes: u64, align_bytes: u64, most: Cost) -> Option<Extent> {
        if !self.may_have_free(bytes, most) {
            return None;
        }
        let is_aligned = align_bytes > self.page_bytes();
        let found = self.find_cheap(bytes, align_bytes, most);
        if let (None, Some(commitment)) = (found, &mut self.commitment)
            && self.placement == Placement::Exact
            && !is_aligned
            && most.is_nothing()
            && most.extent_bytes >= self.carving.offset_of(self.carving.pages_for(bytes))
        {
            commitment.has_fewer_free(bytes);
        }
        let (start, pages) = found?;
        let is_taken = self.tree.take_at(start, pages);
        debug_assert!(is_taken, "{pages} pages from {start} were free");
        self.has_aligned |= is_aligned;
        Some(self.hold_run(start, pages).aligned(align_bytes))
    }

    /// Returns whether so many bytes may be next to each other within a cost. Where nothing may be committed a look at all free runs
    /// is seldom needed to say no.
    fn may_have_free(&self, bytes: u64, most: Cost) -> bool {
        let most_bytes = self.commitment.as_ref().map_or(0, |commitment| commitment.most_free_bytes());
        !most.is_nothing() || bytes <= most_bytes
    }

    /// Pages from this one on were released.
    #[inline]
    pub(super) fn freed(&mut self, page: u32) {
        if let Some(commitment) = &mut self.commitment
            && commitment.most_free_bytes() < u64::MAX
        {
            let run = self.tree.start_of_run_before(page + 1)..self.tree.end_of_run_at(page);
            commitment.freed(&self.carving.range_of(run));
        }
    }

    /// The partial last page is never cut.
    fn find_run_to_cut(&self, most: Cost) -> Option<u32> {
        let count = self.carving.cut_pages();
        let found = self.find_pages(count, count, self.cut_bytes(), Cost { extent_bytes: u64::MAX, ..most })?;
        (found.0 + count <= self.carving.whole_pages()).then_some(found.0)
    }

    fn find_cheap(&self, bytes: u64, align_bytes: u64, most: Cost) -> Option<(u32, u32)> {
        if bytes > self.bytes() {
            return None;
        }
        let (pages, align) = self.pages_and_align(bytes, align_bytes);
        self.find_pages(pages, align, bytes, most)
    }

    /// Finds pages that hold so many bytes in a free run, lowest run first: the first page, and how many they are.
    ///
    /// Where few granules have to be committed, the pages begin with the run, the last granule or a range that has memory, or end with
    /// one.
    fn find_pages(&self, pages: u32, align: u32, bytes: u64, most: Cost) -> Option<(u32, u32)> {
        let commitment = self.commitment.as_deref()?;
        let (page_bytes, all_bytes) = (self.page_bytes(), self.bytes());
        let (run_bytes, align_bytes) = (self.carving.offset_of(pages), self.carving.offset_of(align));
        self.runs_up(pages).find_map(|run| {
            let whole = run.start..run.end.next_multiple_of(page_bytes);
            let serves = |start: u64| {
                let end = start + run_bytes;
                let range = start..end.min(all_bytes);
                let is_inside = start >= whole.start && end <= whole.end;
                (is_inside && range.end - range.start >= bytes && commitment.cost(&range, &run).is_within(most))
                    .then(|| (self.carving.page_at(start), pages))
            };
            let up = |start: u64| round_up(start, align_bytes).and_then(serves);
            // A run that ends in the partial last page may need one page more.
            let down = |end: u64| {
                if align > 1 {
                    // A run that ends in the partial last page may reach as far as a whole one would.
                    let ends = [round_up(end, page_bytes)?, end];
                    let starts = ends.into_iter().filter_map(|end| end.checked_sub(run_bytes));
                    return starts.map(|start| round_down(start, align_bytes)).find_map(serves);
                }
                let start = end.checked_sub(bytes).map(|start| round_down(start, align_bytes))?;
                if start < whole.start || end < all_bytes {
                    return serves(start);
                }
                let range = start..end;
                commitment
                    .cost(&range, &run)
                    .is_within(most)
                    .then(|| (self.carving.page_at(start), self.carving.page_at(whole.end - start)))
            };
            // The last granule may have fewer bytes than others.
            let in_last = || if run.end == all_bytes { up(commitment.start_of_granule(all_bytes - 1)) } else { None };
            up(run.start).or_else(|| down(run.end)).or_else(in_last).or_else(|| {
                let mut ranges = commitment.committed(&run);
                ranges.find_map(|found| {
                    // A multiple before the range, most of which is in it.
                    let over = || if align > 1 { serves(round_down(found.start, align_bytes)) } else { None };
                    up(found.start).or_else(|| down(round_up(found.end, page_bytes)?.min(run.end))).or_else(over)
                })
            })
        })
    }

    /// Takes an extent at the end of the highest free run, whether or not it has memory. A run that ends with the slab takes no more
    /// of the partial last page than it has. `None` for a classic buddy, whose runs have their places.
    pub(crate) fn alloc_high(&mut self, bytes: u64, align_bytes: u64) -> Option<Extent> {
        match self.class_for(bytes, align_bytes) {
            Some(_) => self.alloc_anywhere(bytes, align_bytes),
            None => self.alloc_run_high(bytes, align_bytes),
        }
    }

    /// As [`alloc_high`](Self::alloc_high), in whole pages.
    pub(crate) fn alloc_run_high(&mut self, bytes: u64, align_bytes: u64) -> Option<Extent> {
        if self.placement != Placement::Exact || bytes > self.bytes() {
            return None;
        }
        let run = self.runs_down(self.carving.pages_for(bytes)).next()?;
        let offset = round_down(run.end.checked_sub(bytes)?, align_bytes.max(self.page_bytes()));
        let is_aligned = align_bytes > self.page_bytes();
        let (start, end) = (self.carving.page_at(offset), self.carving.pages_for(run.end));
        // In the middle the pages are whole. An aligned run may end before the slab does.
        let pages = if run.end < self.bytes() || is_aligned { self.carving.pages_for(bytes) } else { end - start };
        let is_taken = offset >= run.start && self.tree.take_at(start, pages);
        self.has_aligned |= is_taken && is_aligned;
        is_taken.then(|| self.hold_run(start, pages).aligned(align_bytes))
    }

    /// Gives an extent back at once if it has no memory.
    #[inline]
    pub(super) fn if_committed(&mut self, extent: Extent) -> Option<Extent> {
        match &self.commitment {
            Some(commitment) if !commitment.has_all(&extent.range()) => self.give_up(extent),
            _ => Some(extent),
        }
    }

    #[cold]
    fn give_up(&mut self, extent: Extent) -> Option<Extent> {
        self.release(extent);
        None
    }

    /// Returns what a held extent costs.
    pub(crate) fn cost(&self, extent: Extent) -> Cost {
        let Some(commitment) = self.commitment.as_deref() else { return Cost::NOTHING };
        // The run that a piece is cut out of is taken whole.
        let (first, count) = self.pages_of(extent);
        let run = self.tree.start_of_run_before(first)..self.tree.end_of_run_at(first + count);
        commitment.cost(&extent.range(), &self.carving.range_of(run))
    }

    /// Returns the ranges, in whole granules, that a held extent meets and that have no memory.
    pub(crate) fn missing(&self, extent: Extent) -> impl Iterator<Item = Range<u64>> + '_ {
        self.commitment.iter().flat_map(move |commitment| commitment.missing(&extent.range()))
    }

    /// Memory has come for whole granules.
    pub(crate) fn commit(&mut self, bytes: &Range<u64>) {
        self.commitment.iter_mut().for_each(|commitment| commitment.set(bytes));
    }

    /// Memory for whole granules has not come yet.
    pub(crate) fn uncommit(&mut self, bytes: &Range<u64>) {
        self.commitment.iter_mut().for_each(|commitment| commitment.clear(bytes));
    }

    /// The memory of a held extent of whole granules has gone.
    pub(crate) fn decommit(&mut self, extent: Extent) {
        self.uncommit(&extent.range());
    }

    /// Takes the free pages out that are next to a held extent and lie in these granules.
    pub(crate) fn take_free_beside(&mut self, extent: Extent, granules: &Range<u64>) -> Vec<Extent> {
        let (first, count) = self.pages_of(extent);
        let end = first + count;
        let runs = [self.tree.start_of_run_before(first)..first, end..self.tree.end_of_run_at(end)];
        let free = runs.into_iter().filter(|pages| !pages.is_empty()).map(|pages| self.carving.range_of(pages));
        let inside = free.map(|run| run.start.max(granules.start)..run.end.min(granules.end));
        let inside = inside.filter(|run| !run.is_empty()).collect();
        self.take_free(inside)
    }

    /// Takes ranges of free pages that have memory.
    fn take_free(&mut self, ranges: Vec<Range<u64>>) -> Vec<Extent> {
        let take = |range: Range<u64>| self.alloc_at(range.start, range.end - range.start).expect("free pages");
        ranges.into_iter().map(take).collect()
    }

    /// Returns the pages that a held extent is in: those of its cut run, if it is a piece.
    fn pages_of(&self, extent: Extent) -> (u32, u32) {
        match extent.is_piece() {
            true => (self.carving.place_in_cut(extent.offset()).0, self.carving.cut_pages()),
            false => (self.carving.page_at(extent.offset()), self.carving.pages_for(extent.bytes())),
        }
    }

    /// Takes all idle pieces out of the page that a held piece is in.
    pub(crate) fn take_idle_beside(&mut self, piece: Extent) -> Vec<Extent> {
        let Some(slot) = piece.slot() else { return Vec::new() };
        let next = || self.pieces.take_idle_of(slot).map(|(piece, class)| self.hold_piece(piece, class));
        std::iter::from_fn(next).collect()
    }

    /// Returns the bytes of all spare granules.
    pub(crate) fn spare_bytes(&self) -> u64 {
        let Some(commitment) = self.commitment.as_deref() else { return 0 };
        let of_run = |run: Range<u64>| commitment.whole(&run).map(|found| found.end - found.start).sum::<u64>();
        self.free_runs().map(of_run).sum()
    }

    /// Takes spare granules out of the space, highest first, until they have at least so many bytes, or there are no more.
    pub(crate) fn take_spare(&mut self, bytes: u64) -> Vec<Extent> {
        let Some(commitment) = self.commitment.as_deref() else { return Vec::new() };
        let granule_bytes = commitment.granule_bytes();
        let (mut ranges, mut left_bytes) = (Vec::new(), bytes);
        // A run of fewer pages than a granule may have the partial last one.
        for run in self.runs_down(1) {
            if left_bytes == 0 {
                break;
            }
            let spare: Vec<_> = commitment.whole(&run).collect();
            for range in spare.into_iter().rev() {
                if left_bytes == 0 {
                    break;
                }
                let start = range.end.saturating_sub(left_bytes).max(range.start);
                let start = round_down(start, granule_bytes).max(range.start);
                left_bytes = left_bytes.saturating_sub(range.end - start);
                ranges.push(start..range.end);
            }
        }
        self.take_free(ranges)
    }

    /// Takes all spare granules out of the space that are in one free run with the first page of an extent that was released.
    pub(crate) fn take_spare_around(&mut self, released: Extent) -> Vec<Extent> {
        let Some(commitment) = self.commitment.as_deref() else { return Vec::new() };
        let page = self.carving.page_at(released.offset());
        let end = self.tree.end_of_run_at(page);
        if end == page {
            return Vec::new();
        }
        let run = self.carving.range_of(self.tree.start_of_run_before(page + 1)..end);
        let ranges = commitment.whole(&run).collect();
        self.take_free(ranges)
    }

    /// Returns the largest request of at most `limit` bytes that [`alloc_cheap`](Self::alloc_cheap) serves within this cost; 0 for
    /// none.
    pub(crate) fn most_bytes_cheap(&self, most: Cost, limit: u64) -> u64 {
        let (most, open_bytes) = (Cost { extent_bytes: u64::MAX, ..most }, most.extent_bytes);
        let Some(commitment) = self.commitment.as_deref() else { return 0 };
        let page_bytes = self.page_bytes();
        let partial_bytes = self.bytes() % page_bytes;
        // The longest parts of free runs, from the places where `find_cheap` looks.
        let of_run = |run: Range<u64>| {
            let up = |start: u64| commitment.reach_up(start, &run, most) - start;
            let down = |end: u64| end - commitment.reach_down(end, &run, most);
            let ranges = commitment.committed(&run).map(|found| up(found.start).max(down(found.end)));
            ranges.max().unwrap_or(0).max(up(run.start)).max(down(run.end))
        };
        // The longest run first: then the tree skips all that are no longer than what was found.
        let longest = self.runs_down(self.tree.longest().max(1)).next();
        let (mut run_bytes, mut from) = (longest.map_or(0, of_run), 0);
        while run_bytes < open_bytes.min(limit)
            && let Some(run) = self.free_pages_from(from, run_bytes + 1)
        {
            from = run.end;
            run_bytes = run_bytes.max(of_run(run));
        }
        let bytes = run_bytes.min(open_bytes).min(limit);
        let whole = |bytes: u64| round_down(bytes, page_bytes);
        let in_last = bytes.checked_sub(partial_bytes).map(|bytes| whole(bytes) + partial_bytes);
        let runs = [bytes, whole(bytes), in_last.unwrap_or(0)];
        let buddies = (0..u64::BITS)
            .map(|bits| 1 << bits)
            .filter(|power| self.placement == Placement::PowerOfTwo && *power < bytes);
        let classes =
            (0..self.pieces.classes()).map(|class| self.carving.class_bytes(class)).filter(|piece| *piece <= bytes);
        let mut sizes: Vec<u64> = runs.into_iter().chain(buddies).chain(classes).filter(|bytes| *bytes > 0).collect();
        sizes.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
        let most = Cost { extent_bytes: open_bytes, ..most };
        sizes.into_iter().find(|bytes| self.is_cheap(*bytes, most)).unwrap_or(0)
    }

    /// Returns whether [`alloc_cheap`](Self::alloc_cheap) serves a request.
    fn is_cheap(&self, bytes: u64, most: Cost) -> bool {
        let is_open = |class: u32| self.carving.class_bytes(class) <= most.extent_bytes;
        let has_run = self.carving.class_of(bytes).is_some_and(is_open) && self.find_run_to_cut(most).is_some();
        has_run || self.find_cheap(bytes, 1, most).is_some()
    }

    fn pages_and_align(&self, bytes: u64, align_bytes: u64) -> (u32, u32) {
        let (pages, align) = (self.carving.pages_for(bytes), self.carving.align_pages(align_bytes));
        match self.placement {
            Placement::Exact => (pages, align),
            Placement::PowerOfTwo => (pages.next_power_of_two(), align.max(pages.next_power_of_two())),
        }
    }

    /// The free runs of at least so many pages, lowest first.
    fn runs_up(&self, pages: u32) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut start = if pages <= self.tree.longest() { self.tree.find(pages) } else { None };
        std::iter::from_fn(move || {
            let run = start?..self.tree.end_of_run_at(start? + pages);
            start = if run.end < self.tree.pages() { self.tree.find_behind(run.end, pages) } else { None };
            Some(self.carving.range_of(run))
        })
    }

    /// The free runs of at least so many pages, highest first.
    fn runs_down(&self, pages: u32) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut end = self.tree.find_high(pages);
        std::iter::from_fn(move || {
            let run = self.tree.start_of_run_before(end?)..end?;
            end = run.start.checked_sub(1).and_then(|taken| self.tree.find_before(taken, pages));
            Some(self.carving.range_of(run))
        })
    }
}
