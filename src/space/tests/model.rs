//! What a space must do, in the plainest words: a bool for each page, a map of all pieces, and every answer by a search.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Extent, Placement, Space};
use super::with_cut;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Model {
    bytes: u64,
    unit_bytes: u64,
    page_bytes: u64,
    cut_bytes: u64,
    power_of_two: bool,
    free_pages: Vec<bool>,
    /// The most pages that one run of an exact space has had since all were free.
    largest: u64,
    /// The number of the cut run of each slot, counted from the slab's start.
    slots: Vec<Option<u64>>,
    /// Slot and offset in its cut run to bytes and whether it is idle.
    pieces: BTreeMap<(usize, u64), (u64, bool)>,
    /// Held runs.
    runs: BTreeSet<(u64, u64)>,
}

impl Model {
    /// A model and the space it is a model of.
    pub(super) fn pair(
        bytes: u64,
        unit_bytes: u64,
        page_bytes: u64,
        cut_bytes: u64,
        placement: Placement,
    ) -> (Model, Space) {
        let model = Model {
            bytes,
            unit_bytes,
            page_bytes,
            cut_bytes,
            power_of_two: placement == Placement::PowerOfTwo,
            free_pages: vec![true; bytes.div_ceil(page_bytes) as usize],
            largest: 0,
            slots: Vec::new(),
            pieces: BTreeMap::new(),
            runs: BTreeSet::new(),
        };
        (model, with_cut(bytes, unit_bytes, page_bytes, cut_bytes, placement))
    }

    /// The bytes of the piece that a small request gets.
    fn piece_bytes(&self, bytes: u64) -> Option<u64> {
        let piece = bytes.next_power_of_two().max(self.unit_bytes);
        (bytes <= self.cut_bytes / 2 && piece <= self.cut_bytes / 2).then_some(piece)
    }

    pub(super) fn alloc(&mut self, bytes: u64) -> Option<(u64, u64)> {
        self.alloc_aligned(bytes, 1)
    }

    /// A piece begins at a multiple of its bytes.
    pub(super) fn alloc_aligned(&mut self, bytes: u64, align_bytes: u64) -> Option<(u64, u64)> {
        if align_bytes > self.page_bytes {
            let align = (align_bytes / self.page_bytes).min((self.free_pages.len() as u64).next_power_of_two());
            return self.alloc_run_aligned(bytes, align);
        }
        let Some(piece) = self.piece_bytes(bytes.max(align_bytes)) else { return self.alloc_run(bytes) };
        let best = self.pieces.values().filter(|&&(size, idle)| idle && size >= piece).map(|&(size, _)| size).min();
        let (slot, offset, mut size) = match best {
            Some(size) => {
                let (&(slot, offset), _) = self.pieces.iter().find(|&(_, &state)| state == (size, true))?;
                (slot, offset, size)
            }
            None => {
                let Some(cut_run) = self.run_to_cut() else {
                    let (largest, run) = (self.largest, self.alloc_run(bytes));
                    self.largest = largest;
                    return run;
                };
                let count = (self.cut_bytes / self.page_bytes) as usize;
                self.free_pages[cut_run as usize * count..][..count].fill(false);
                let vacant = self.slots.iter().position(Option::is_none);
                let slot = vacant.unwrap_or_else(|| {
                    self.slots.push(None);
                    self.slots.len() - 1
                });
                self.slots[slot] = Some(cut_run);
                (slot, 0, self.cut_bytes)
            }
        };
        while size > piece {
            size /= 2;
            self.pieces.insert((slot, offset + size), (size, true));
        }
        self.pieces.insert((slot, offset), (piece, false));
        Some((self.slots[slot]? * self.cut_bytes + offset, piece))
    }

    fn alloc_run(&mut self, bytes: u64) -> Option<(u64, u64)> {
        let pages = bytes.div_ceil(self.page_bytes);
        match self.power_of_two {
            false => self.take_sparing(pages, bytes),
            true => self.take_run(pages.next_power_of_two(), pages.next_power_of_two(), bytes),
        }
    }

    fn alloc_run_aligned(&mut self, bytes: u64, align: u64) -> Option<(u64, u64)> {
        let pages = bytes.div_ceil(self.page_bytes);
        if pages > self.free_pages.len() as u64 {
            return None;
        }
        if self.power_of_two {
            return self.take_run(pages.next_power_of_two(), align.max(pages.next_power_of_two()), bytes);
        }
        let (count, align, is_small) = (pages as usize, align as usize, 20 * pages <= self.largest);
        let all = self.free_pages.len();
        let end = if self.range(all - count, count).1 < bytes { all - 1 } else { all };
        let starts = |&(low, high): &(usize, usize)| {
            let high = high.min(end);
            (low.next_multiple_of(align)..high).step_by(align).filter(move |start| start + count <= high)
        };
        let place = |run: &(usize, usize)| if is_small { starts(run).next_back() } else { starts(run).next() };
        let mut runs: Vec<(usize, usize)> =
            self.free_runs().into_iter().filter(|(start, end)| end - start >= count).collect();
        if is_small {
            runs.reverse();
        }
        let long = runs.iter().find(|(start, end)| end - start >= count + align - 1);
        let lowest = runs.iter().flat_map(starts).min();
        let start = runs.iter().take(4).find_map(place).or_else(|| long.and_then(place)).or(lowest)?;
        self.largest = self.largest.max(pages);
        self.take_pages(start, count)
    }

    /// The number of the cut run that is to be: the lowest of a classic buddy; else the last of one of the four highest free runs
    /// that are long enough, or of the highest that is twice as long.
    fn run_to_cut(&self) -> Option<u64> {
        let count = (self.cut_bytes / self.page_bytes) as usize;
        let places = self.bytes / self.cut_bytes;
        if self.power_of_two {
            return (0..places).find(|place| self.are_free(*place as usize * count, count));
        }
        let runs = self.free_runs();
        let whole_pages = (self.bytes / self.page_bytes) as usize;
        let is_near = |&&(start, end): &&(usize, usize)| end - start >= count;
        let is_long = |&&(start, end): &&(usize, usize)| end - start >= 2 * count;
        // A run that is long enough only with the partial page counts as a look.
        let near = runs.iter().rev().filter(is_near).take(4);
        let mut looked_at = near.chain(runs.iter().rev().filter(is_long).take(1));
        looked_at.find_map(|&(start, end)| {
            let place = (end.min(whole_pages) / count).checked_sub(1)?;
            (place * count >= start).then_some(place as u64)
        })
    }

    /// The free runs, lowest first, as their first page and where they end.
    fn free_runs(&self) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for page in (0..self.free_pages.len()).filter(|page| self.free_pages[*page]) {
            match runs.last_mut() {
                Some((_, end)) if *end == page => *end += 1,
                _ => runs.push((page, page + 1)),
            }
        }
        runs
    }

    pub(super) fn alloc_cached(&mut self, bytes: u64) -> Option<(u64, u64)> {
        let piece = self.piece_bytes(bytes)?;
        self.pieces.values().any(|&state| state == (piece, true)).then(|| self.alloc(bytes))?
    }

    pub(super) fn alloc_at(&mut self, offset: u64, bytes: u64) -> Option<(u64, u64)> {
        if offset + bytes > self.bytes {
            return None;
        }
        self.take_pages((offset / self.page_bytes) as usize, bytes.div_ceil(self.page_bytes) as usize)
    }

    pub(super) fn alloc_below(&mut self, below: u64, bytes: u64, align_bytes: u64) -> Option<(u64, u64)> {
        let pages = bytes.div_ceil(self.page_bytes);
        let align = (align_bytes / self.page_bytes).max(if self.power_of_two { pages.next_power_of_two() } else { 1 });
        let ends = |start: &u64| (start + pages) * self.page_bytes <= below;
        let mut starts = (0..self.free_pages.len() as u64).step_by(align as usize).take_while(ends);
        let start = starts.find(|&start| self.are_free(start as usize, pages as usize))?;
        self.take_pages(start as usize, pages as usize)
    }

    pub(super) fn free_bytes_below(&self, offset: u64) -> u64 {
        let pages = self.free_pages[..(offset / self.page_bytes) as usize].iter().rev();
        pages.take_while(|&&free| free).count() as u64 * self.page_bytes
    }

    fn take_run(&mut self, pages: u64, align: u64, bytes: u64) -> Option<(u64, u64)> {
        let starts = (0..self.free_pages.len()).step_by(align as usize);
        let start = starts.into_iter().find(|&start| self.are_free(start, pages as usize))?;
        let (offset, held) = self.range(start, pages as usize);
        if held < bytes { None } else { self.take_pages((offset / self.page_bytes) as usize, pages as usize) }
    }

    /// A run of an exact space: the rule of `choose.rs`, told by what becomes of the slab.
    fn take_sparing(&mut self, pages: u64, bytes: u64) -> Option<(u64, u64)> {
        let largest = self.largest.max(pages) as usize;
        let count = pages as usize;
        // For each hole its first and its last place.
        let place = |(start, end): (usize, usize)| {
            let last = end.checked_sub(count).filter(|last| *last >= start)?;
            let last = if self.range(last, count).1 < bytes { last.checked_sub(1)? } else { last };
            (last >= start).then_some((start, last))
        };
        let holes: Vec<(usize, usize)> = self.free_runs().into_iter().filter_map(place).collect();
        let pages_of = |&(first, last): &(usize, usize)| last - first + count;
        let spares =
            |hole: &&(usize, usize)| count == largest || pages_of(hole) / largest == (pages_of(hole) - count) / largest;
        let place = if 20 * count <= largest {
            let two = [holes.len().checked_sub(1)?, holes.len().saturating_sub(2)].map(|index| &holes[index]);
            two.iter().copied().find(spares).unwrap_or(two[0]).1
        } else {
            let two = &holes[..holes.len().min(2)];
            match two.iter().filter(spares).min_by_key(|hole| pages_of(hole)) {
                Some(hole) => hole.0,
                None => two.iter().min_by_key(|hole| pages_of(hole))?.1,
            }
        };
        self.largest = largest as u64;
        self.take_pages(place, count)
    }

    fn take_pages(&mut self, start: usize, pages: usize) -> Option<(u64, u64)> {
        if !self.are_free(start, pages) {
            return None;
        }
        self.free_pages[start..start + pages].fill(false);
        self.runs.insert(self.range(start, pages));
        Some(self.range(start, pages))
    }

    fn are_free(&self, start: usize, pages: usize) -> bool {
        self.free_pages.get(start..start + pages).is_some_and(|pages| !pages.contains(&false))
    }

    /// Offset and bytes of pages of the slab.
    fn range(&self, start: usize, pages: usize) -> (u64, u64) {
        let offset = start as u64 * self.page_bytes;
        (offset, (pages as u64 * self.page_bytes).min(self.bytes - offset))
    }

    pub(super) fn release(&mut self, offset: u64, bytes: u64) {
        self.make_free(offset, bytes);
        if !self.free_pages.contains(&false) {
            self.largest = 0;
        }
    }

    fn make_free(&mut self, offset: u64, bytes: u64) {
        if self.runs.remove(&(offset, bytes)) {
            let (start, pages) = (offset / self.page_bytes, bytes.div_ceil(self.page_bytes));
            self.free_pages[start as usize..(start + pages) as usize].fill(true);
            return;
        }
        let cut_run = offset / self.cut_bytes;
        let slot = self.slots.iter().position(|&of| of == Some(cut_run)).expect("a cut run");
        let state = self.pieces.insert((slot, offset % self.cut_bytes), (bytes, true));
        assert_eq!(state, Some((bytes, false)));
        if self.pieces.iter().all(|(&(of, _), &(_, idle))| of != slot || idle) {
            self.pieces.retain(|&(of, _), _| of != slot);
            self.slots[slot] = None;
            let count = (self.cut_bytes / self.page_bytes) as usize;
            self.free_pages[cut_run as usize * count..][..count].fill(true);
        }
    }

    pub(super) fn gather(&mut self) -> bool {
        let mut merged = false;
        let pair = |pieces: &BTreeMap<(usize, u64), (u64, bool)>| {
            pieces.iter().find_map(|(&(slot, offset), &(size, idle))| {
                let is_pair =
                    idle && offset % (2 * size) == 0 && pieces.get(&(slot, offset + size)) == Some(&(size, true));
                is_pair.then_some((slot, offset, size))
            })
        };
        while let Some((slot, offset, size)) = pair(&self.pieces) {
            self.pieces.remove(&(slot, offset + size));
            self.pieces.insert((slot, offset), (2 * size, true));
            merged = true;
        }
        merged
    }

    /// Everything that a space says of itself.
    pub(super) fn compare(&self, space: &Space) {
        let sum = |idle| self.pieces.values().filter(|state| state.1 == idle).map(|state| state.0).sum::<u64>();
        let used = sum(false) + self.runs.iter().map(|run| run.1).sum::<u64>();
        assert_eq!((used, sum(true)), (space.used_bytes(), space.cached_bytes()), "used and cached bytes");
        let free: Vec<(u64, u64)> =
            self.free_runs().into_iter().map(|(start, end)| self.range(start, end - start)).collect();
        assert_eq!(free.iter().map(|run| run.1).sum::<u64>(), space.free_bytes(), "free bytes");
        assert_eq!(space.bytes(), space.used_bytes() + space.cached_bytes() + space.free_bytes());
        assert_eq!(free.iter().map(|run| run.1).max().unwrap_or(0), space.largest_free_run_bytes());
        assert_eq!(used == 0, space.is_empty());
        let runs: Vec<_> = space.free_runs().map(|run| (run.start, run.end - run.start)).collect();
        assert_eq!(free, runs, "free runs");
        assert_eq!(self.slots.iter().flatten().count() as u32, space.cut_runs());
        space.check();
    }
}

/// Offset and bytes, to compare with a model's.
pub(super) fn plain(extent: Extent) -> (u64, u64) {
    (extent.offset(), extent.bytes())
}
