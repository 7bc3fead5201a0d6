//! The walkers: every fact that the bookkeeping rests on, looked at from the maps up. They visit every page, so only tests
//! call them.

use super::Space;
use super::pieces::Pieces;
use super::tree::{BRANCH_SHIFT, LEAF_SHIFT, RunTree};

impl RunTree {
    /// Checks every node, reach and counter against the map of pages.
    ///
    /// # Panics
    ///
    /// If one of them is wrong.
    pub fn check(&self) {
        let free: u32 = self.free.iter().map(|bits| bits.count_ones()).sum();
        assert_eq!(free, self.free_pages(), "free pages, counted and kept");
        let in_runs: u32 = self.free_runs().map(|run| run.end - run.start).sum();
        assert_eq!(free, in_runs, "free pages, and those in the {} pages there are", self.pages());
        for index in 0..self.reach.len() as u32 {
            assert_eq!(self.reach_of_word(index), self.reach[index as usize], "reach of word {index}");
        }
        for (index, family) in self.families.iter().enumerate() {
            let (first, shift) = match (self.has_branches(), index) {
                (true, 0) => (0, BRANCH_SHIFT),
                (true, _) => (8 * (index as u32 - 1), LEAF_SHIFT),
                (false, _) => (0, LEAF_SHIFT),
            };
            for child in 0..8 {
                let low = (first + child as u32) << shift;
                let kept = (family.prefix[child], family.longest[child], family.suffix[child]);
                assert_eq!(self.node_from_map(low, low + (1 << shift)), kept, "node of 2^{shift} pages at {low}");
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

    /// Prefix, longest run and suffix of the pages `low..high`.
    fn node_from_map(&self, low: u32, high: u32) -> (u16, u16, u16) {
        let (mut prefix, mut longest, mut suffix) = (0, 0, 0);
        for run in self.free_runs().filter(|run| run.start < high && run.end > low) {
            let (start, end) = (run.start.max(low), run.end.min(high));
            let length = (end - start) as u16;
            longest = longest.max(length);
            prefix = if start == low { length } else { prefix };
            suffix = if end == high { length } else { suffix };
        }
        (prefix, longest, suffix)
    }
}

impl Pieces {
    /// Checks slots, maps, sets and counters against each other.
    pub(super) fn check(&self) {
        let (mut cut_pages, mut idle_units) = (0, 0);
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
            assert_eq!(used == 0, self.is_in_set(self.classes(), slot), "slot {slot}: vacant");
            for (class, idle) in idle_by_class.into_iter().enumerate() {
                assert_eq!(idle, self.is_in_set(class as u32, slot), "slot {slot}: idle pieces of class {class}");
            }
            cut_pages += u32::from(used > 0);
        }
        assert_eq!(cut_pages, self.cut_pages(), "cut pages, counted and kept");
        assert_eq!(idle_units, self.idle_units(), "idle units, counted and kept");
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
        assert_eq!(free, self.free_bytes(), "free bytes, counted and kept");
        let largest = self.free_runs().map(|run| run.end - run.start).max().unwrap_or(0);
        assert_eq!(largest, self.largest_free_run_bytes(), "bytes of the largest free run");
        for page in self.pieces.pages() {
            assert!(self.tree.is_taken(page, 1), "the cut page {page} is free");
            assert_eq!(self.run_bytes(page, 1), self.page_bytes(), "the cut page {page} is partial");
        }
        let in_cut_pages = u64::from(self.cut_pages()) * self.page_bytes();
        assert!(
            self.used_bytes + self.cached_bytes() >= in_cut_pages,
            "used and cached, and {in_cut_pages} in cut pages"
        );
    }
}
