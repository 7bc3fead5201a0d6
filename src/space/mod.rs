//! Which bytes of **one slab** are free: pure bookkeeping, without memory, lock, clock or device.
//!
//! The same calls always get the same offsets. All state lies outside the memory it describes, so that memory may be a GPU's.
//!
//! | noun | unit, size | kept in |
//! | --- | --- | --- |
//! | slab | 1 byte to 64 TiB | one [`Space`] |
//! | page | a power of two, 1 to 4 KiB in slabs up to 128 GiB; 1 to 2^25 a slab, the last one may be partial | one bit of [`RunTree`] |
//! | run | consecutive pages; what a large request gets, exactly as many as it needs | nothing: the free runs are the map |
//! | hole | a free run that is long enough for a request | |
//! | cut run | 2^k pages, at a multiple of as many, split into pieces: one page, in slabs above 128 MiB up to 64 KiB | a slot: 8 bytes |
//! | piece | 2^class units, up to half a cut run; what a small request gets | two bits for each of its units |
//! | unit | the smallest piece: the slab's alignment | |
//! | extent | what a caller holds: a run or a piece | the caller |
//!
//! ```text
//!  slab of 11 pages, the last one partial; a cut run is one page
//!  |<-------------------------------- bytes() --------------------------------->|
//!  +------+------+------+------+------+------+------+------+------+------+-------
//!  |#### run of 3 pages #|4|2|1| |## run of 2 #|      |      |      |      |     |
//!  +------+------+------+---|--+------+------+------+------+------+------+-------
//!  page 0                   |                 \________ one free run _________/
//!                a cut run: three used pieces
//!                and an idle one, cached for its class
//! ```
//!
//! Three states and no fourth, in bytes: **used** (held by an extent), **cached** (idle pieces of cut runs), **free** (whole
//! pages). `used + cached + free == bytes` at every moment.
//!
//! A request of at most half a cut run takes, in this order: an idle piece of its class; the smallest larger idle piece, split;
//! a piece of a free run that is cut for it; whole pages, where no run can be cut. Nothing merges on the way: freed pieces wait
//! for the next request of their size, until [`Space::gather`] joins idle buddies. A cut run whose last used piece returns goes
//! home whole.
//!
//! A larger request takes one of the two nearest holes, where it spares room for the largest runs: `choose` has the rule.
//! Small runs and cut runs are at the high end of a slab, the others at the low end.
//!
//! Files, lowest layer first: `word` (one 64-bit word); `change`, `family`, `upper`, `tree` with `boughs`, `walk`, `search`,
//! `search_high`, `update` and `runs` (pages), and `choose` (which hole); `slots`, `chunks`, `maps` and `pieces` (cut runs); `carving`
//! (how large all of them are); `extent`; this one; `in_place` (runs that grow and shrink); `most` (what would be served) and `offer` (at
//! most); and `check`, which walks over everything for the tests.

mod boughs;
mod carving;
mod change;
mod check;
mod choose;
mod chunks;
mod commitment;
mod expand;
mod extent;
mod family;
mod in_place;
mod maps;
mod most;
mod offer;
mod pieces;
mod runs;
mod search;
mod search_high;
mod slots;
mod tree;
mod update;
mod upper;
mod walk;
mod word;

#[cfg(test)]
mod tests;

use std::ops::Range;

pub(crate) use commitment::Cost;
pub use extent::{Extent, Placement};
pub(crate) use in_place::Obstacle;
pub(crate) use offer::Offer;
pub use tree::RunTree;

pub(crate) use carving::SLAB_BYTES_MAX;
pub(crate) use tree::PAGES_MAX;

use carving::Carving;
use commitment::Commitment;
use pieces::{Piece, Pieces};

/// The bytes of one slab: which are held, which wait in cut runs, which are free.
#[derive(Debug, Clone)]
pub struct Space {
    carving: Carving,
    placement: Placement,
    /// A run was taken at a multiple of several pages, and has to stay at one, since [`Space::gather`] found nothing held.
    has_aligned: bool,
    used_bytes: u64,
    tree: RunTree,
    pieces: Pieces,
    /// Of a slab whose memory comes and goes.
    commitment: Option<Box<Commitment>>,
}

impl Space {
    /// The page size of a slab: the smallest power of two that is at least four times `alignment` and 1 KiB and gives at most
    /// 32,768 pages or is 4 KiB; more where that gives more than 2^25 pages, which is above 128 GiB. Never more than 1/64 of the
    /// slab (down to `alignment` for tiny slabs).
    ///
    /// # Panics
    ///
    /// If `bytes` is 0 or more than 64 TiB, or `alignment` is not a power of two up to 64 TiB.
    pub fn page_bytes_for(bytes: u64, alignment: u64) -> u64 {
        Carving::page_bytes_for(bytes, alignment, None)
    }

    /// The page size of a slab for which `page_bytes` were chosen, a power of two: these, but at least `alignment` and
    /// 1/2^25 of the slab, and never more than 1/64 of it.
    pub(crate) fn page_bytes_near(bytes: u64, alignment: u64, page_bytes: Option<u64>) -> u64 {
        Carving::page_bytes_for(bytes, alignment, page_bytes)
    }

    /// The bytes of a cut run in a slab of such pages.
    pub(crate) fn cut_bytes_for(bytes: u64, alignment: u64, page_bytes: u64) -> u64 {
        Carving::new(bytes, alignment, page_bytes).cut_bytes()
    }

    /// A free space of `bytes` bytes whose smallest piece, and the alignment of every extent, is `alignment`.
    ///
    /// ```
    /// use tensorpool::space::{Placement, Space};
    ///
    /// let mut space = Space::new(1 << 20, 256, Placement::Exact);
    /// let large = space.alloc(5000).unwrap(); // a run of exactly five pages of 1 KiB
    /// let small = space.alloc(300).unwrap(); // a piece of 512 bytes of a cut run, the last page of the slab
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
        Space::with_page_bytes(bytes, alignment, Space::page_bytes_for(bytes, alignment), placement)
    }

    /// [`Space::new`] with pages of a size that the caller chooses.
    ///
    /// # Panics
    ///
    /// As [`Space::page_bytes_for`]; and if `page_bytes` is not a power of two, is less than `alignment`, or gives more than 2^25
    /// pages.
    pub fn with_page_bytes(bytes: u64, alignment: u64, page_bytes: u64, placement: Placement) -> Space {
        let least_bytes = alignment.max(bytes.div_ceil(PAGES_MAX.into()).next_power_of_two());
        assert!(
            page_bytes.is_power_of_two() && (least_bytes..=SLAB_BYTES_MAX).contains(&page_bytes),
            "pages of {page_bytes} bytes: they can have powers of two from {least_bytes} to {SLAB_BYTES_MAX}"
        );
        Space::carved(Carving::new(bytes, alignment, page_bytes), placement)
    }

    fn carved(carving: Carving, placement: Placement) -> Space {
        Space {
            carving,
            placement,
            has_aligned: false,
            used_bytes: 0,
            tree: RunTree::new(carving.pages()),
            pieces: Pieces::new(carving.cut_units()),
            commitment: None,
        }
    }

    /// Takes an extent of at least `bytes` bytes, or `None` if there is none of that size.
    ///
    /// Up to half a cut run it is the smallest power of two that holds them, or whole pages where no run can be cut; above that
    /// whole pages, exactly as many as needed, or with [`Placement::PowerOfTwo`] the next power of two of them. Where a run is
    /// taken, [`Placement`] says; a run is cut at the high end, where small blocks part no large ones. Before giving up, a pool
    /// calls [`Space::gather`] and tries again: merging may have made the piece that was missing.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0.
    pub fn alloc(&mut self, bytes: u64) -> Option<Extent> {
        self.alloc_aligned(bytes, 1)
    }

    /// Takes an extent as [`Space::alloc`] does, at a multiple of `align_bytes` from the start of the slab.
    ///
    /// Up to the page size, the smallest piece that is served is of `align_bytes`. Above it the extent has whole pages, as many as
    /// `bytes` need. The pages that are skipped stay free.
    ///
    /// ```
    /// use tensorpool::space::{Placement, Space};
    ///
    /// let mut space = Space::new(8 << 20, 64, Placement::Exact);
    /// let first = space.alloc(5000).unwrap();
    /// let huge = space.alloc_aligned(5000, 2 << 20).unwrap();
    /// assert_eq!((huge.offset(), huge.bytes()), (2 << 20, 5120));
    /// assert_eq!(space.free_bytes(), (8 << 20) - 2 * 5120);
    /// # space.release(first);
    /// ```
    ///
    /// # Panics
    ///
    /// If `bytes` is 0, or `align_bytes` is not a power of two.
    #[inline]
    pub fn alloc_aligned(&mut self, bytes: u64, align_bytes: u64) -> Option<Extent> {
        assert!(align_bytes.is_power_of_two(), "an alignment of {align_bytes} bytes");
        if self.commitment.is_none() {
            return self.alloc_anywhere(bytes, align_bytes);
        }
        let extent = self.alloc_anywhere(bytes, align_bytes)?;
        self.if_committed(extent)
    }

    /// Takes an idle piece of exactly the class that [`Space::alloc`] would choose: nothing is split, no run is cut. `None`
    /// if none is idle, and for every request above half a cut run.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0.
    #[inline]
    pub fn alloc_cached(&mut self, bytes: u64) -> Option<Extent> {
        self.alloc_cached_aligned(bytes, 1)
    }

    /// Takes an idle piece as [`alloc_cached`](Self::alloc_cached) does, for [`alloc_aligned`](Self::alloc_aligned).
    #[inline]
    pub(crate) fn alloc_cached_aligned(&mut self, bytes: u64, align_bytes: u64) -> Option<Extent> {
        assert!(bytes > 0, "a request for 0 bytes");
        let class = self.class_for(bytes, align_bytes)?;
        let piece = self.pieces.take_idle(class)?;
        Some(self.hold_piece(piece, class).aligned(align_bytes))
    }

    /// Returns the class of a request that gets a piece. A piece begins at a multiple of its bytes. So a small alignment is that of a
    /// piece of as many bytes; a large one would waste most of such a piece.
    #[inline]
    fn class_for(&self, bytes: u64, align_bytes: u64) -> Option<u32> {
        if align_bytes <= self.page_bytes() { self.carving.class_of(bytes.max(align_bytes)) } else { None }
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
        if offset >= self.bytes() || bytes > self.bytes() - offset {
            return None;
        }
        let (start, count) = (self.carving.page_at(offset), self.carving.pages_for(bytes));
        let extent = self.tree.take_at(start, count).then(|| self.hold_run(start, count))?;
        self.if_committed(extent)
    }

    /// Takes the lowest run for `bytes` bytes that ends at `below` or before: where a run that starts at `below` can move to. At a
    /// multiple of its pages with [`Placement::PowerOfTwo`]; small requests take whole pages too.
    pub(crate) fn alloc_below(&mut self, below: u64, bytes: u64, align_bytes: u64) -> Option<Extent> {
        debug_assert!(bytes > 0 && below <= self.bytes(), "{bytes} bytes below {below}");
        if bytes > below {
            return None;
        }
        let (count, align) = (self.carving.pages_for(bytes), self.carving.align_pages(align_bytes));
        let start = match self.placement {
            Placement::Exact if align == 1 => self.tree.find(count),
            Placement::Exact => self.tree.find_aligned(count, align),
            Placement::PowerOfTwo => self.tree.find_aligned(count, align.max(count.next_power_of_two())),
        }?;
        let is_below = self.carving.offset_of(start + count) <= below;
        let extent = (is_below && self.tree.take_at(start, count)).then(|| self.hold_run(start, count))?;
        self.if_committed(extent.aligned(align_bytes))
    }

    /// Takes a piece as large as this one in a higher cut run: an idle one, or of a free run that is cut for it.
    pub(crate) fn alloc_piece_above(&mut self, piece: Extent) -> Option<Extent> {
        let class = self.carving.class_of(piece.bytes())?;
        let (page, _) = self.carving.place_in_cut(piece.offset());
        let found = self.pieces.take_idle_above(class, page).or_else(|| {
            let to_cut = self.take_run_to_cut()?;
            if to_cut > page {
                return Some(self.pieces.cut(to_cut, class));
            }
            self.tree.release(to_cut, self.carving.cut_pages());
            None
        })?;
        let extent = self.hold_piece(found, class);
        self.if_committed(extent.aligned(piece.align_bytes()))
    }

    /// The bytes of the free run that ends where the page at `offset` begins: as much as has memory up to there.
    pub(crate) fn free_bytes_below(&self, offset: u64) -> u64 {
        let page = self.carving.page_at(offset);
        let run = self.carving.offset_of(self.tree.start_of_run_before(page))..self.carving.offset_of(page);
        match &self.commitment {
            Some(commitment) if !run.is_empty() => {
                let last = commitment.committed(&run).last().filter(|found| found.end == run.end);
                last.map_or(0, |found| found.end - found.start)
            }
            _ => run.end - run.start,
        }
    }

    /// Gives an extent back. A piece waits in its class, a run is free at once; a cut run goes home with its last used piece.
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

    /// Joins idle buddies of cut runs, so that larger pieces come of them, and gives up memory kept for cut runs that have
    /// gone home. Says whether any pieces joined.
    pub fn gather(&mut self) -> bool {
        self.has_aligned &= self.used_bytes > 0;
        self.pieces.merge()
    }

    /// The size of the slab.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.carving.bytes()
    }

    /// Bytes of the extents that are held.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Idle bytes of cut runs.
    pub fn cached_bytes(&self) -> u64 {
        self.carving.bytes_of_units(self.pieces.idle_units())
    }

    /// Bytes of free pages that have memory. Always `committed_bytes - used_bytes - cached_bytes`.
    pub fn free_bytes(&self) -> u64 {
        self.committed_bytes() - self.used_bytes - self.cached_bytes()
    }

    /// The bytes of the largest free run, with or without memory.
    pub fn largest_free_run_bytes(&self) -> u64 {
        let longest = self.tree.longest();
        if longest == 0 {
            return 0;
        }
        let start = self.tree.find(longest).expect("a run as long as the longest");
        // Of several runs with as many pages `find` gives the lowest, and only the highest can be short of bytes.
        self.carving.run_bytes(start, longest)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.used_bytes == 0
    }

    /// The bytes of a page.
    #[inline]
    pub fn page_bytes(&self) -> u64 {
        self.carving.page_bytes()
    }

    /// The bytes of a cut run: pieces have up to half of them.
    pub fn cut_bytes(&self) -> u64 {
        self.carving.cut_bytes()
    }

    /// The runs that are cut into pieces at the moment.
    pub fn cut_runs(&self) -> u32 {
        self.pieces.cut_runs()
    }

    /// The free runs in bytes, with or without memory, lowest first; no two of them touch.
    pub fn free_runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.tree.free_runs().map(|run| self.carving.range_of(run))
    }

    /// What lies between the free runs in bytes, lowest first: held runs, and cut runs with what is cached in them.
    pub fn used_runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.tree.used_runs().map(|run| self.carving.range_of(run))
    }

    /// All memory of the bookkeeping, this value included. The part for cut runs is at most 2.1 bits for each of their units
    /// and 16 bytes for each of them, counting the most that were cut at once since the last [`Space::gather`].
    pub fn metadata_bytes(&self) -> usize {
        let inline = size_of_val(self) - size_of_val(&self.tree);
        let of_commitment = |commitment: &Commitment| size_of::<Commitment>() + commitment.metadata_bytes();
        let of_commitment = self.commitment.as_deref().map_or(0, of_commitment);
        inline + self.tree.metadata_bytes() + self.pieces.metadata_bytes() + of_commitment
    }

    fn alloc_piece(&mut self, class: u32, bytes: u64) -> Option<Extent> {
        let found = self.pieces.take_idle(class).or_else(|| self.pieces.take_larger(class));
        if let Some(piece) = found {
            return Some(self.hold_piece(piece, class));
        }
        if let Some(page) = self.take_run_to_cut() {
            let piece = self.pieces.cut(page, class);
            return Some(self.hold_piece(piece, class));
        }
        self.alloc_pages_anywhere(bytes)
    }

    /// A run for pieces: a high one, since large runs are taken from the low end. A run that stays cut for one small block would
    /// otherwise part them. A classic buddy takes the lowest. No page of it is partial.
    fn take_run_to_cut(&mut self) -> Option<u32> {
        let (count, whole_pages) = (self.carving.cut_pages(), self.carving.whole_pages());
        match self.placement {
            Placement::Exact => self.tree.take_to_cut(count, whole_pages),
            Placement::PowerOfTwo => {
                let start = self.tree.find_aligned(count, count).filter(|start| start + count <= whole_pages)?;
                self.tree.take_at(start, count).then_some(start)
            }
        }
    }

    fn has_run_to_cut(&self) -> bool {
        let (count, whole_pages) = (self.carving.cut_pages(), self.carving.whole_pages());
        match self.placement {
            Placement::Exact => self.tree.has_to_cut(count, whole_pages),
            Placement::PowerOfTwo => {
                self.tree.find_aligned(count, count).is_some_and(|start| start + count <= whole_pages)
            }
        }
    }

    /// As [`alloc`](Self::alloc), for what is no request of the program's: the rule for holes does not keep room for another one
    /// like it. In whole pages, however small it is, so that it may be released in parts.
    pub(crate) fn alloc_pages(&mut self, bytes: u64) -> Option<Extent> {
        let extent = self.alloc_pages_anywhere(bytes)?;
        self.if_committed(extent)
    }

    /// As [`alloc`](Self::alloc), for a block that comes from another slab, or does not come after all: the rule for holes keeps no room
    /// for another one like it.
    pub(crate) fn alloc_moved(&mut self, bytes: u64, align_bytes: u64) -> Option<Extent> {
        let largest = self.tree.largest();
        let extent = self.alloc_aligned(bytes, align_bytes);
        self.tree.set_largest(largest);
        extent
    }

    fn alloc_run(&mut self, bytes: u64, align_bytes: u64) -> Option<Extent> {
        if bytes > self.bytes() {
            return None;
        }
        if self.placement == Placement::PowerOfTwo || align_bytes > self.page_bytes() {
            return self.alloc_run_aligned(bytes, align_bytes);
        }
        let count = self.carving.pages_for(bytes);
        if count > self.tree.longest() {
            return None;
        }
        let start = self.tree.take_sparing(count, self.pages_that_serve(count, bytes))?;
        Some(self.hold_run(start, count))
    }

    #[cold]
    fn alloc_run_aligned(&mut self, bytes: u64, align_bytes: u64) -> Option<Extent> {
        let align = self.carving.align_pages(align_bytes);
        let (start, count) = if self.placement == Placement::PowerOfTwo {
            let (start, count) = self.run_for(bytes, align)?;
            self.tree.take_at(start, count).then_some((start, count))?
        } else {
            let count = self.carving.pages_for(bytes);
            (self.tree.take_aligned_sparing(count, align, self.pages_that_serve(count, bytes))?, count)
        };
        self.has_aligned |= align > 1;
        Some(self.hold_run(start, count))
    }

    /// The run that would be taken for `bytes` bytes, at a multiple of `align` pages: its first page, and how many it has.
    fn run_for(&self, bytes: u64, align: u32) -> Option<(u32, u32)> {
        if bytes > self.bytes() {
            return None;
        }
        let count = self.carving.pages_for(bytes);
        if self.placement == Placement::Exact {
            let end = if count <= self.tree.longest() { self.pages_that_serve(count, bytes) } else { return None };
            let start = if align == 1 {
                self.tree.find_sparing(count, end)?
            } else {
                self.tree.find_aligned_sparing(count, align, end)?
            };
            return Some((start, count));
        }
        // Where it ends in the partial page, no other run has as many pages: a lower one would have been found.
        let count = count.next_power_of_two();
        let start = self.tree.find_aligned(count, count.max(align))?;
        (self.carving.run_bytes(start, count) >= bytes).then_some((start, count))
    }

    /// All pages, without the partial one where a run of `count` pages that ends in it has fewer than `bytes` bytes.
    #[inline]
    fn pages_that_serve(&self, count: u32, bytes: u64) -> u32 {
        let pages = self.tree.pages();
        if self.carving.run_bytes(pages - count, count) < bytes { pages - 1 } else { pages }
    }

    fn release_piece(&mut self, extent: Extent, slot: u32) {
        let (offset, bytes) = (extent.offset(), extent.bytes());
        let (page, unit) = self.carving.place_in_cut(offset);
        let piece = Piece { slot, page, unit };
        let class = self.carving.class_of(bytes).filter(|class| self.carving.class_bytes(*class) == bytes);
        let class = class.filter(|class| offset < self.bytes() && self.pieces.is_used(piece, *class));
        let Some(class) = class else {
            panic!("release of {bytes} bytes at offset {offset}: no such piece is held");
        };
        self.used_bytes -= bytes;
        if self.pieces.release(piece, class) {
            self.tree.release(page, self.carving.cut_pages());
            self.freed(page);
        }
    }

    fn release_run(&mut self, extent: Extent) {
        let (offset, bytes) = (extent.offset(), extent.bytes());
        let fits = offset < self.bytes() && bytes <= self.bytes() - offset && offset % self.page_bytes() == 0;
        let (start, count) = (self.carving.page_at(offset), self.carving.pages_for(bytes));
        assert!(
            fits && self.carving.run_bytes(start, count) == bytes && self.tree.is_taken(start, count),
            "release of {bytes} bytes at offset {offset}: no such run of pages of {} bytes is held in {} bytes",
            self.page_bytes(),
            self.bytes()
        );
        self.used_bytes -= bytes;
        self.tree.release_taken(start, count);
        self.freed(start);
    }

    fn hold_piece(&mut self, piece: Piece, class: u32) -> Extent {
        let offset = self.carving.offset_of(piece.page) + self.carving.bytes_of_units(piece.unit.into());
        let bytes = self.carving.class_bytes(class);
        self.used_bytes += bytes;
        Extent::piece(offset, bytes, piece.slot)
    }

    fn hold_run(&mut self, start: u32, count: u32) -> Extent {
        let bytes = self.carving.run_bytes(start, count);
        self.used_bytes += bytes;
        Extent::run(self.carving.offset_of(start), bytes)
    }
}
