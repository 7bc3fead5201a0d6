//! What a space must do, in the plainest words: a bool for each page, a map of all pieces, and every answer by a search.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Extent, Placement, Space};

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Model {
    bytes: u64,
    unit_bytes: u64,
    page_bytes: u64,
    power_of_two: bool,
    free_pages: Vec<bool>,
    /// The most pages that one run of an exact space has had since all were free.
    largest: u64,
    /// The page of each slot.
    slots: Vec<Option<u64>>,
    /// Slot and offset in its page to bytes and whether it is idle.
    pieces: BTreeMap<(usize, u64), (u64, bool)>,
    /// Held runs.
    runs: BTreeSet<(u64, u64)>,
}

impl Model {
    /// A model and the space it is a model of.
    pub(super) fn pair(bytes: u64, unit_bytes: u64, page_bytes: u64, placement: Placement) -> (Model, Space) {
        let model = Model {
            bytes,
            unit_bytes,
            page_bytes,
            power_of_two: placement == Placement::PowerOfTwo,
            free_pages: vec![true; bytes.div_ceil(page_bytes) as usize],
            largest: 0,
            slots: Vec::new(),
            pieces: BTreeMap::new(),
            runs: BTreeSet::new(),
        };
        (model, Space::with_page(bytes, unit_bytes, page_bytes, placement))
    }

    /// The bytes of the piece that a small request gets.
    fn piece_bytes(&self, bytes: u64) -> Option<u64> {
        let piece = bytes.next_power_of_two().max(self.unit_bytes);
        (bytes <= self.page_bytes / 2 && piece <= self.page_bytes / 2).then_some(piece)
    }

    pub(super) fn alloc(&mut self, bytes: u64) -> Option<(u64, u64)> {
        let Some(piece) = self.piece_bytes(bytes) else {
            let pages = bytes.div_ceil(self.page_bytes);
            return match self.power_of_two {
                false => self.take_sparing(pages, bytes),
                true => self.take_run(pages.next_power_of_two(), pages.next_power_of_two(), bytes),
            };
        };
        let best = self.pieces.values().filter(|&&(size, idle)| idle && size >= piece).map(|&(size, _)| size).min();
        let (slot, offset, mut size) = match best {
            Some(size) => {
                let (&(slot, offset), _) = self.pieces.iter().find(|&(_, &state)| state == (size, true))?;
                (slot, offset, size)
            }
            None => {
                let whole_pages = &self.free_pages[..(self.bytes / self.page_bytes) as usize];
                let page = match self.power_of_two {
                    false => whole_pages.iter().rposition(|&free| free),
                    true => whole_pages.iter().position(|&free| free),
                };
                let Some(page) = page.map(|page| page as u64) else {
                    return self.take_run(1, 1, bytes);
                };
                self.free_pages[page as usize] = false;
                let vacant = self.slots.iter().position(Option::is_none);
                let slot = vacant.unwrap_or_else(|| {
                    self.slots.push(None);
                    self.slots.len() - 1
                });
                self.slots[slot] = Some(page);
                (slot, 0, self.page_bytes)
            }
        };
        while size > piece {
            size /= 2;
            self.pieces.insert((slot, offset + size), (size, true));
        }
        self.pieces.insert((slot, offset), (piece, false));
        Some((self.slots[slot]? * self.page_bytes + offset, piece))
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

    pub(super) fn alloc_below(&mut self, below: u64, bytes: u64) -> Option<(u64, u64)> {
        let pages = bytes.div_ceil(self.page_bytes);
        let align = if self.power_of_two { pages.next_power_of_two() } else { 1 };
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
        let serves = |start: usize| self.are_free(start, count) && self.range(start, count).1 >= bytes;
        // A place after a place is in the same hole: for each hole its first and its last place.
        let mut holes = Vec::<(usize, usize)>::new();
        for start in (0..self.free_pages.len()).filter(|&start| serves(start)) {
            match holes.last_mut() {
                Some((_, last)) if *last + 1 == start => *last = start,
                _ => holes.push((start, start)),
            }
        }
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
        let page = offset / self.page_bytes;
        let slot = self.slots.iter().position(|&of| of == Some(page)).expect("a cut page");
        let state = self.pieces.insert((slot, offset % self.page_bytes), (bytes, true));
        assert_eq!(state, Some((bytes, false)));
        if self.pieces.iter().all(|(&(of, _), &(_, idle))| of != slot || idle) {
            self.pieces.retain(|&(of, _), _| of != slot);
            self.slots[slot] = None;
            self.free_pages[page as usize] = true;
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
        let mut free = Vec::<(u64, u64)>::new();
        for (page, _) in self.free_pages.iter().enumerate().filter(|page| *page.1) {
            let (offset, bytes) = self.range(page, 1);
            match free.last_mut() {
                Some(run) if run.0 + run.1 == offset => run.1 += bytes,
                _ => free.push((offset, bytes)),
            }
        }
        assert_eq!(free.iter().map(|run| run.1).sum::<u64>(), space.free_bytes(), "free bytes");
        assert_eq!(space.bytes(), space.used_bytes() + space.cached_bytes() + space.free_bytes());
        assert_eq!(free.iter().map(|run| run.1).max().unwrap_or(0), space.largest_free_run_bytes());
        assert_eq!(used == 0, space.is_empty());
        let runs: Vec<_> = space.free_runs().map(|run| (run.start, run.end - run.start)).collect();
        assert_eq!(free, runs, "free runs");
        assert_eq!(self.slots.iter().flatten().count() as u32, space.cut_pages());
        space.check();
    }
}

/// Offset and bytes, to compare with a model's.
pub(super) fn plain(extent: Extent) -> (u64, u64) {
    (extent.offset(), extent.bytes())
}
