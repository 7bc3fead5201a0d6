//! The walkers: every fact that the bookkeeping rests on, looked at from the maps up. They visit every page, so only tests
//! call them.

use std::ops::Range;

use super::Space;
use super::pieces::Pieces;
use super::tree::{BRANCH_SHIFT, FAMILIES_OF_BOUGH, LEAF_SHIFT, PAGES_OF_BOUGH, RunTree};
use super::upper::BOUGH_SHIFT;
use super::word::WORD_PAGES;

impl RunTree {
    /// Checks every node, reach and counter against the map of pages.
    ///
    /// # Panics
    ///
    /// If one of them is wrong.
    pub fn check(&self) {
        let sealed = |low: u32| self.is_sealed_at(low);
        let words = (0..self.taken.len() as u32).filter(|index| !sealed(index * WORD_PAGES));
        let free: u32 = words.map(|index| self.free_in(index).count_ones()).sum();
        assert_eq!(free, self.free_pages(), "free pages, counted and kept");
        let in_runs: u32 = self.free_runs().map(|run| run.end - run.start).sum();
        assert_eq!(free, in_runs, "free pages, and those in the {} pages there are", self.pages());
        let is_open = |low: u32| {
            let upper = self.upper.as_ref();
            let bough = low >> BOUGH_SHIFT;
            let is_made = self.families.get(bough as usize * FAMILIES_OF_BOUGH).is_some_and(|made| made.longest[0] > 0);
            !sealed(low) && upper.is_none_or(|upper| !upper.is_free(bough) || is_made)
        };
        for index in (0..self.reach.len() as u32).filter(|index| is_open(index * WORD_PAGES)) {
            assert_eq!(self.reach_of_word(index), self.reach[index as usize], "reach of word {index}");
        }
        let runs: Vec<_> = self.free_runs().collect();
        for (index, family) in self.families.iter().enumerate() {
            let (bough, within) = (index / FAMILIES_OF_BOUGH, index % FAMILIES_OF_BOUGH);
            let (first, shift) = match (self.has_branches(), within) {
                (true, 0) => (8 * bough, BRANCH_SHIFT),
                (true, _) => (8 * (8 * bough + within - 1), LEAF_SHIFT),
                (false, _) => (0, LEAF_SHIFT),
            };
            for child in 0..8 {
                let low = (first as u32 + child as u32) << shift;
                if !is_open(low) {
                    continue;
                }
                let kept = (family.prefix[child], family.longest[child], family.suffix[child]);
                let kept = (kept.0.into(), kept.1.into(), kept.2.into());
                assert_eq!(node_from(&runs, low, low + (1 << shift)), kept, "node of 2^{shift} pages at {low}");
            }
        }
        if let Some(upper) = &self.upper {
            let words = PAGES_OF_BOUGH / WORD_PAGES;
            for bough in (0..self.pages().div_ceil(PAGES_OF_BOUGH)).filter(|bough| self.is_sealed(*bough)) {
                let map = &self.taken[(bough * words) as usize..][..words as usize];
                let (between, ends) = (&map[1..map.len() - 1], (map[0], map[map.len() - 1]));
                assert_eq!((ends, upper.longest_in(bough)), ((u64::MAX, u64::MAX), 0), "the sealed bough {bough}");
                assert!(between.iter().all(|word| *word == 0), "words inside the sealed bough {bough} are written");
            }
            for level in 0..upper.levels() {
                let shift = BOUGH_SHIFT + 3 * level;
                for node in 0..self.pages().div_ceil(1 << shift) {
                    let (family, child) = (upper.family_of(level, node), node as usize % 8);
                    let kept = (family.prefix[child], family.longest[child], family.suffix[child]);
                    let kept = (kept.0 as u32, kept.1 as u32, kept.2 as u32);
                    let low = node << shift;
                    assert_eq!(node_from(&runs, low, low + (1 << shift)), kept, "node of 2^{shift} pages at {low}");
                }
            }
        }
        let longest = self.free_runs().map(|run| run.end - run.start).max().unwrap_or(0);
        assert_eq!(longest, self.longest(), "the longest run, searched and kept");
        assert!(
            self.free_pages() < self.pages() || self.largest() == 0,
            "{} pages outlive the last run",
            self.largest()
        );
    }
}

/// Prefix, longest run and suffix of the pages `low..high`, by all free runs.
fn node_from(runs: &[Range<u32>], low: u32, high: u32) -> (u32, u32, u32) {
    let (mut prefix, mut longest, mut suffix) = (0, 0, 0);
    let first = runs.partition_point(|run| run.end <= low);
    for run in runs[first..].iter().take_while(|run| run.start < high) {
        let (start, end) = (run.start.max(low), run.end.min(high));
        let length = end - start;
        longest = longest.max(length);
        prefix = if start == low { length } else { prefix };
        suffix = if end == high { length } else { suffix };
    }
    (prefix, longest, suffix)
}

impl Pieces {
    /// Checks slots, maps, sets and counters against each other.
    pub(super) fn check(&self) {
        let (mut cut_runs, mut idle_units) = (0, 0);
        for slot in 0..self.slot_count() {
            let mut used = 0;
            let mut idle_by_class = vec![false; self.classes() as usize];
            let mut end = 0;
            for piece in self.pieces_of(slot) {
                assert_eq!(piece.unit, end, "slot {slot}: pieces follow each other");
                assert!(piece.units.is_power_of_two(), "slot {slot}: {piece:?} is no power of two");
                assert!(piece.unit % piece.units == 0, "slot {slot}: {piece:?} is not at its place");
                end += piece.units;
                if piece.is_idle {
                    idle_units += u64::from(piece.units);
                    idle_by_class[piece.units.trailing_zeros() as usize] = true;
                } else {
                    used += 1;
                }
            }
            assert_eq!(used, self.used_pieces(slot), "slot {slot}: used pieces, counted and kept");
            assert_eq!(end, if used > 0 { 1 << self.classes() } else { 0 }, "slot {slot}: units of pieces");
            assert_eq!(used == 0, self.is_in_set(self.vacant(), slot), "slot {slot}: vacant");
            for (class, idle) in idle_by_class.into_iter().enumerate() {
                assert_eq!(idle, self.is_in_set(class as u32, slot), "slot {slot}: idle pieces of class {class}");
            }
            cut_runs += u32::from(used > 0);
        }
        assert_eq!(cut_runs, self.cut_runs(), "cut runs, counted and kept");
        assert_eq!(idle_units, self.idle_units(), "idle units, counted and kept");
        let sum: u64 = self.pages().map(u64::from).sum();
        assert_eq!(sum, self.cut_pages_sum(), "first pages of cut runs, added up and kept");
    }
}

impl Space {
    /// Checks every fact that the space rests on against its maps.
    ///
    /// # Panics
    ///
    /// If one does not hold.
    pub fn check(&self) {
        self.tree.check();
        self.pieces.check();
        let free: u64 = self.free_runs().map(|run| run.end - run.start).sum();
        assert_eq!(free, self.bytes() - self.used_bytes - self.cached_bytes(), "free bytes, counted and kept");
        if let Some(commitment) = &self.commitment {
            commitment.check(self.used_runs());
        }
        let largest = self.free_runs().map(|run| run.end - run.start).max().unwrap_or(0);
        assert_eq!(largest, self.largest_free_run_bytes(), "bytes of the largest free run");
        let count = self.carving.cut_pages();
        for page in self.pieces.pages() {
            assert!(
                page.is_multiple_of(count) && self.tree.is_taken(page, count),
                "the cut run at page {page} is not taken"
            );
            assert!(page + count <= self.carving.whole_pages(), "the cut run at page {page} has a partial page");
        }
        let end = self.carving.whole_pages() / count * count;
        let low = self.pieces.pages().min().filter(|low| low + count * self.cut_runs() == end);
        assert_eq!(low, self.pieces.start_if_last(end, count), "whether the cut runs are the last ones");
        let in_cut_runs = u64::from(self.cut_runs()) * self.cut_bytes();
        assert!(self.used_bytes + self.cached_bytes() >= in_cut_runs, "used and cached, and {in_cut_runs} in cut runs");
    }
}
