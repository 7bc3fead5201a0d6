//! Which bytes of **one slab** are free: pure bookkeeping, without memory, lock, clock or device.
//!
//! The same calls always get the same offsets. All state lies outside the memory it describes, so that memory may be a GPU's.
//!
//! | noun | unit, size | kept in |
//! | --- | --- | --- |
//! | slab | 1 byte to 64 TiB | one [`Space`] |
//! | page | a power of two; 1 to 32,768 a slab, the last one may be partial | one bit of [`RunTree`] |
//! | run | consecutive pages; what a large request gets, exactly as many as it needs | nothing: the free runs are the map |
//! | hole | a free run that is long enough for a request | |
//! | cut page | a page split into pieces | a slot: 8 bytes |
//! | piece | 2^class units, up to half a page; what a small request gets | two bits for each of its units |
//! | unit | the smallest piece: the slab's alignment | |
//! | extent | what a caller holds: a run or a piece | the caller |
//!
//! ```text
//!  slab of 11 pages, the last one partial
//!  |<-------------------------------- bytes() --------------------------------->|
//!  +------+------+------+------+------+------+------+------+------+------+-------
//!  |#### run of 3 pages #|4|2|1| |## run of 2 #|      |      |      |      |     |
//!  +------+------+------+---|--+------+------+------+------+------+------+-------
//!  page 0                   |                 \________ one free run _________/
//!                a cut page: three used pieces
//!                and an idle one, cached for its class
//! ```
//!
//! Three states and no fourth, in bytes: **used** (held by an extent), **cached** (idle pieces of cut pages), **free** (whole
//! pages). `used + cached + free == bytes` at every moment.
//!
//! A request of at most half a page takes, in this order: an idle piece of its class; the smallest larger idle piece, split;
//! the lowest free page, cut. Nothing merges on the way: freed pieces wait for the next request of their size, until
//! [`Space::gather`] joins idle buddies. A page whose last used piece returns goes home whole.
//!
//! A larger request takes one of the two nearest holes, where it spares room for the largest runs: `choose` has the rule.
//! Small runs and cut pages are at the high end of a slab, the others at the low end.
//!
//! Files, lowest layer first: `word` (one 64-bit word); `change`, `family`, `tree` with `search`, `search_high`, `update` and
//! `runs` (pages), and `choose` (which hole); `slots`, `maps` and `pieces` (cut pages); `extent`; this one; `in_place` (runs that
//! grow and shrink); `most` (what would be served); and `check`, which walks over everything for the tests.

mod change;
mod check;
mod choose;
mod extent;
mod family;
mod in_place;
mod maps;
mod most;
mod pieces;
mod runs;
mod search;
mod search_high;
mod slots;
mod tree;
mod update;
mod word;

#[cfg(test)]
mod tests;

use std::ops::Range;

pub use extent::{Extent, Placement};
pub(crate) use in_place::Obstacle;
pub use tree::RunTree;

use pieces::{Piece, Pieces};
use tree::PAGES_MAX;

/// The largest slab: 32,768 pages of 2 GiB.
pub(crate) const SLAB_BYTES_MAX: u64 = 1 << 46;
/// Pages are at least this large unless that is more than [`PAGES_OF_A_SMALL_SLAB`] allows: it costs 0.05% of the peak of
/// the recorded training runs, and smaller ones would leave small slabs without any class.
const PAGE_BYTES_LEAST: u64 = 1024;
/// A page is at least this many units, for the same reason.
const PAGE_UNITS_LEAST: u64 = 4;
/// A page is at most this part of its slab.
const PAGES_OF_A_SMALL_SLAB: u64 = 64;

/// The bytes of one slab: which are held, which wait in cut pages, which are free.
#[derive(Debug, Clone)]
pub struct Space {
    bytes: u64,
    /// Bytes of a page and of a unit, as powers of two.
    page_shift: u32,
    unit_shift: u32,
    placement: Placement,
    used_bytes: u64,
    tree: RunTree,
    pieces: Pieces,
}

impl Space {
    /// The page size of a slab: the smallest power of two that is at least four times `alignment` and 1 KiB and gives at most
    /// 32,768 pages, but never more than 1/64 of the slab (down to `alignment` for tiny slabs).
    ///
    /// # Panics
    ///
    /// If `bytes` is 0 or more than 64 TiB, or `alignment` is not a power of two up to 64 TiB.
    pub fn page_bytes_for(bytes: u64, alignment: u64) -> u64 {
        assert!((1..=SLAB_BYTES_MAX).contains(&bytes), "a slab of {bytes} bytes: it can have 1 to {SLAB_BYTES_MAX}");
        assert!(
            alignment.is_power_of_two() && alignment <= SLAB_BYTES_MAX,
            "an alignment of {alignment} bytes is not a power of two up to {SLAB_BYTES_MAX}"
        );
        let wanted = PAGE_BYTES_LEAST.max(PAGE_UNITS_LEAST * alignment);
        let needed = bytes.div_ceil(PAGES_MAX.into()).next_power_of_two();
        let most = (bytes / PAGES_OF_A_SMALL_SLAB).checked_ilog2().map_or(1, |log| 1 << log);
        wanted.max(needed).min(most).max(alignment)
    }

    /// A free space of `bytes` bytes whose smallest piece, and the alignment of every extent, is `alignment`.
    ///
    /// ```
    /// use tensorpool::space::{Placement, Space};
    ///
    /// let mut space = Space::new(1 << 20, 256, Placement::Exact);
    /// let large = space.alloc(5000).unwrap(); // a run of exactly five pages of 1 KiB
    /// let small = space.alloc(300).unwrap(); // a piece of 512 bytes of a cut page, the last of the slab
    /// assert_eq!((large.offset(), large.bytes()), (0, 5120));
    /// assert_eq!((small.offset(), small.bytes()), (1047552, 512));
    /// assert_eq!((space.used_bytes(), space.cached_bytes()), (5632, 512));
    ///
    /// space.release(large);
    /// space.release(small);
    /// assert_eq!(space.free_bytes(), 1 << 20);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`Space::page_bytes_for`].
    pub fn new(bytes: u64, alignment: u64, placement: Placement) -> Space {
        Space::with_page(bytes, alignment, Space::page_bytes_for(bytes, alignment), placement)
    }

    /// [`Space::new`] with a page size of its own, so that tests have spaces of few pages with many classes.
    fn with_page(bytes: u64, alignment: u64, page_bytes: u64, placement: Placement) -> Space {
        Space {
            bytes,
            page_shift: page_bytes.trailing_zeros(),
            unit_shift: alignment.trailing_zeros(),
            placement,
            used_bytes: 0,
            tree: RunTree::new(bytes.div_ceil(page_bytes) as u32),
            pieces: Pieces::new((page_bytes / alignment) as u32),
        }
    }

    /// Takes an extent of at least `bytes` bytes, or `None` if there is none of that size.
    ///
    /// Up to half a page it is the smallest power of two that holds them; above that whole pages, exactly as many as needed,
    /// or with [`Placement::PowerOfTwo`] the next power of two of them. Where a run is taken, [`Placement`] says; a page is cut at
    /// the high end, where small blocks part no large ones. Before giving up, a pool calls [`Space::gather`] and
    /// tries again: merging may have made the piece that was missing.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0.
    pub fn alloc(&mut self, bytes: u64) -> Option<Extent> {
        assert!(bytes > 0, "a request for 0 bytes");
        match self.class_of(bytes) {
            Some(class) => self.alloc_piece(class, bytes),
            None => self.alloc_run(bytes),
        }
    }

    /// Takes an idle piece of exactly the class that [`Space::alloc`] would choose: nothing is split, no page is cut. `None`
    /// if none is idle, and for every request above half a page.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0.
    #[inline]
    pub fn alloc_cached(&mut self, bytes: u64) -> Option<Extent> {
        assert!(bytes > 0, "a request for 0 bytes");
        let class = self.class_of(bytes)?;
        let piece = self.pieces.take_idle(class)?;
        Some(self.hold_piece(piece, class))
    }

    /// Takes the pages that `bytes` bytes at `offset` need, exactly those, if they are all free; also for small requests, and
    /// without rounding, whatever the placement. `None` if one of them is not free, or if they reach beyond the slab.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0, or `offset` is not a multiple of the page size.
    pub fn alloc_at(&mut self, offset: u64, bytes: u64) -> Option<Extent> {
        assert!(bytes > 0, "a request for 0 bytes");
        let page_bytes = self.page_bytes();
        assert!(offset.is_multiple_of(page_bytes), "offset {offset} is not a multiple of the page size {page_bytes}");
        if offset >= self.bytes || bytes > self.bytes - offset {
            return None;
        }
        let (start, count) = ((offset >> self.page_shift) as u32, self.pages_for(bytes));
        self.tree.take_at(start, count).then(|| self.hold_run(start, count))
    }

    /// Takes the lowest run for `bytes` bytes that ends at `below` or before: where a run that starts at `below` can move to. At a
    /// multiple of its pages with [`Placement::PowerOfTwo`]; small requests take whole pages too.
    pub(crate) fn alloc_below(&mut self, below: u64, bytes: u64) -> Option<Extent> {
        debug_assert!(bytes > 0 && below <= self.bytes, "{bytes} bytes below {below}");
        if bytes > below {
            return None;
        }
        let count = self.pages_for(bytes);
        let start = match self.placement {
            Placement::Exact => self.tree.find(count),
            Placement::PowerOfTwo => self.tree.find_aligned(count, count.next_power_of_two()),
        }?;
        let is_below = u64::from(start + count) << self.page_shift <= below;
        (is_below && self.tree.take_at(start, count)).then(|| self.hold_run(start, count))
    }

    /// Takes a piece as large as this one in a higher page: an idle one, or of the highest free page.
    pub(crate) fn alloc_piece_above(&mut self, piece: Extent) -> Option<Extent> {
        let class = self.class_of(piece.bytes())?;
        let page = (piece.offset() >> self.page_shift) as u32;
        let found = self.pieces.take_idle_above(class, page).or_else(|| {
            let to_cut = self.take_page_to_cut()?;
            if to_cut > page {
                return Some(self.pieces.cut(to_cut, class));
            }
            self.tree.release(to_cut, 1);
            None
        })?;
        Some(self.hold_piece(found, class))
    }

    /// The bytes of the free run that ends where the page at `offset` begins.
    pub(crate) fn free_bytes_below(&self, offset: u64) -> u64 {
        let page = (offset >> self.page_shift) as u32;
        u64::from(page - self.tree.run_start(page)) << self.page_shift
    }

    /// Gives an extent back. A piece waits in its class, a run is free at once; a page goes home with its last used piece.
    ///
    /// # Panics
    ///
    /// If the extent is not held, because it was released before or comes from another space: for a piece always, and for a
    /// run if any page of it is free. What the maps cannot tell is a run that was released and whose pages have all been
    /// taken again.
    #[inline]
    pub fn release(&mut self, extent: Extent) {
        match extent.slot() {
            Some(slot) => self.release_piece(extent, slot),
            None => self.release_run(extent),
        }
    }

    /// Joins idle buddies of cut pages, so that larger pieces come of them, and gives up memory kept for cut pages that have
    /// gone home. Says whether any pieces joined.
    pub fn gather(&mut self) -> bool {
        self.pieces.merge()
    }

    /// The size of the slab.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the extents that are held.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Idle bytes of cut pages.
    pub fn cached_bytes(&self) -> u64 {
        self.pieces.idle_units() << self.unit_shift
    }

    /// Bytes of free pages. Always `bytes - used_bytes - cached_bytes`.
    pub fn free_bytes(&self) -> u64 {
        self.bytes - self.used_bytes - self.cached_bytes()
    }

    /// The bytes of the largest free run.
    pub fn largest_free_run_bytes(&self) -> u64 {
        let longest = self.tree.longest();
        if longest == 0 {
            return 0;
        }
        let start = self.tree.find(longest).expect("a run as long as the longest");
        // Of several runs with as many pages `find` gives the lowest, and only the highest can be short of bytes.
        self.run_bytes(start, longest)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.used_bytes == 0
    }

    /// The bytes of a page.
    pub fn page_bytes(&self) -> u64 {
        1 << self.page_shift
    }

    /// The pages that are cut into pieces at the moment.
    pub fn cut_pages(&self) -> u32 {
        self.pieces.cut_pages()
    }

    /// The free runs in bytes, lowest first; no two of them touch.
    pub fn free_runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.tree.free_runs().map(|run| self.range_of(run))
    }

    /// What lies between the free runs in bytes, lowest first: held runs, and cut pages with what is cached in them.
    pub fn used_runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.tree.used_runs().map(|run| self.range_of(run))
    }

    /// All memory of the bookkeeping, this value included. The part for cut pages is at most 2.1 bits for each of their units
    /// and 16 bytes for each of them, counting the most that were cut at once since the last [`Space::gather`].
    pub fn metadata_bytes(&self) -> usize {
        let inline = size_of_val(self) - size_of_val(&self.tree);
        inline + self.tree.metadata_bytes() + self.pieces.metadata_bytes()
    }

    /// The class of a request, if it is small enough for a piece.
    #[inline]
    fn class_of(&self, bytes: u64) -> Option<u32> {
        let class_bits = u64::BITS - (bytes - 1).leading_zeros();
        (class_bits.max(self.unit_shift) < self.page_shift).then(|| class_bits.saturating_sub(self.unit_shift))
    }

    fn alloc_piece(&mut self, class: u32, bytes: u64) -> Option<Extent> {
        let found = self.pieces.take_idle(class).or_else(|| self.pieces.take_larger(class));
        if let Some(piece) = found {
            return Some(self.hold_piece(piece, class));
        }
        if let Some(page) = self.take_page_to_cut() {
            let piece = self.pieces.cut(page, class);
            return Some(self.hold_piece(piece, class));
        }
        // At most the partial last page is left, which is never cut.
        let page = self.tree.take(1)?;
        if self.run_bytes(page, 1) < bytes {
            self.tree.release(page, 1);
            return None;
        }
        Some(self.hold_run(page, 1))
    }

    /// A page for pieces: the highest that is free, since large runs are taken from the low end. A page that stays cut for one
    /// small block would otherwise part them. A classic buddy takes the lowest.
    fn take_page_to_cut(&mut self) -> Option<u32> {
        let whole_pages = (self.bytes >> self.page_shift) as u32;
        match self.placement {
            Placement::PowerOfTwo => {
                let page = self.tree.take(1)?;
                if page < whole_pages {
                    return Some(page);
                }
                self.tree.release(page, 1);
                None
            }
            Placement::Exact => {
                let last = self.tree.take_last()?;
                if last < whole_pages {
                    return Some(last);
                }
                let page = self.tree.take_last();
                self.tree.release(last, 1);
                page
            }
        }
    }

    /// As [`alloc`](Self::alloc), for what is no request of the program's: the rule for holes does not keep room for another one
    /// like it. In whole pages, however small it is, so that it may be released in parts.
    pub(crate) fn alloc_pages(&mut self, bytes: u64) -> Option<Extent> {
        let largest = self.tree.largest();
        let extent = self.alloc_run(bytes);
        self.tree.set_largest(largest);
        extent
    }

    /// As [`alloc`](Self::alloc), for a block that comes from another slab, or does not come after all: the rule for holes keeps no room
    /// for another one like it.
    pub(crate) fn alloc_moved(&mut self, bytes: u64) -> Option<Extent> {
        let largest = self.tree.largest();
        let extent = self.alloc(bytes);
        self.tree.set_largest(largest);
        extent
    }

    fn alloc_run(&mut self, bytes: u64) -> Option<Extent> {
        if bytes > self.bytes {
            return None;
        }
        let count = self.pages_for(bytes);
        if self.placement == Placement::Exact {
            if count > self.tree.longest() {
                return None;
            }
            let start = self.tree.take_sparing(count, self.pages_that_serve(count, bytes))?;
            return Some(self.hold_run(start, count));
        }
        let count = count.next_power_of_two();
        let start = self.tree.take_aligned(count, count)?;
        if self.run_bytes(start, count) < bytes {
            // It ends in the partial page, so no other run has as many pages: a lower one would have been found.
            self.tree.release(start, count);
            return None;
        }
        Some(self.hold_run(start, count))
    }

    /// All pages, without the partial one where a run of `count` pages that ends in it has fewer than `bytes` bytes.
    #[inline]
    fn pages_that_serve(&self, count: u32, bytes: u64) -> u32 {
        let pages = self.tree.pages();
        if self.run_bytes(pages - count, count) < bytes { pages - 1 } else { pages }
    }

    fn release_piece(&mut self, extent: Extent, slot: u32) {
        let (offset, bytes) = (extent.offset(), extent.bytes());
        let piece = Piece {
            slot,
            page: (offset >> self.page_shift) as u32,
            unit: ((offset & (self.page_bytes() - 1)) >> self.unit_shift) as u32,
        };
        let is_class =
            offset < self.bytes && self.class_of(bytes).is_some_and(|class| self.class_bytes(class) == bytes);
        let class = bytes.trailing_zeros().wrapping_sub(self.unit_shift);
        assert!(
            is_class && self.pieces.is_used(piece, class),
            "release of {bytes} bytes at offset {offset}: no such piece is held"
        );
        self.used_bytes -= bytes;
        if self.pieces.release(piece, class) {
            self.tree.release(piece.page, 1);
        }
    }

    fn release_run(&mut self, extent: Extent) {
        let (offset, bytes) = (extent.offset(), extent.bytes());
        let fits = offset < self.bytes && bytes <= self.bytes - offset && offset % self.page_bytes() == 0;
        let (start, count) = ((offset >> self.page_shift) as u32, self.pages_for(bytes));
        assert!(
            fits && self.run_bytes(start, count) == bytes && self.tree.is_taken(start, count),
            "release of {bytes} bytes at offset {offset}: no such run of pages of {} bytes is held in {} bytes",
            self.page_bytes(),
            self.bytes
        );
        self.used_bytes -= bytes;
        self.tree.release(start, count);
    }

    fn hold_piece(&mut self, piece: Piece, class: u32) -> Extent {
        let offset = (u64::from(piece.page) << self.page_shift) + (u64::from(piece.unit) << self.unit_shift);
        let bytes = self.class_bytes(class);
        self.used_bytes += bytes;
        Extent::piece(offset, bytes, piece.slot)
    }

    fn hold_run(&mut self, start: u32, count: u32) -> Extent {
        let bytes = self.run_bytes(start, count);
        self.used_bytes += bytes;
        Extent::run(u64::from(start) << self.page_shift, bytes)
    }

    fn class_bytes(&self, class: u32) -> u64 {
        1 << (class + self.unit_shift)
    }

    /// The pages that hold `bytes` bytes, which are no more than the slab has.
    fn pages_for(&self, bytes: u64) -> u32 {
        bytes.div_ceil(self.page_bytes()) as u32
    }

    /// The bytes of some pages: fewer than they have if the last one is partial.
    fn run_bytes(&self, start: u32, count: u32) -> u64 {
        let range = self.range_of(start..start + count);
        range.end - range.start
    }

    fn range_of(&self, pages: Range<u32>) -> Range<u64> {
        let end = u64::from(pages.end) << self.page_shift;
        u64::from(pages.start) << self.page_shift..end.min(self.bytes)
    }
}
