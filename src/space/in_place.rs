//! Runs that become longer or shorter where they are: pages at the high end come or go, and no other.

use super::{Extent, Placement, Space};

/// What keeps an extent from growing where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It is a piece of a cut run: pieces keep their size.
    Piece,
    /// The slab ends so many bytes behind it, whatever lies between.
    End { bytes: u64 },
    /// Pages in use follow, after so many free bytes. `used_bytes` are in use before the next free page. `is_cut`: these begin with
    /// a cut run; `None` if that is not known.
    Pages { needed_bytes: u64, free_bytes: u64, used_bytes: u64, is_cut: Option<bool> },
    /// A buddy system has runs of so many bytes at multiples of them only.
    Buddies { run_bytes: u64 },
}

impl Space {
    /// Returns the bytes that an extent has to take behind it so that it holds `bytes` bytes, which are more than it does.
    pub(crate) fn bytes_behind(&self, extent: Extent, bytes: u64) -> Result<u64, Obstacle> {
        debug_assert!(bytes > extent.bytes(), "{extent:?} for {bytes} bytes");
        if extent.is_piece() {
            return Err(Obstacle::Piece);
        }
        let end_bytes = self.bytes() - extent.offset();
        let is_over_end = Obstacle::End { bytes: end_bytes - extent.bytes() };
        if bytes > end_bytes {
            return Err(is_over_end);
        }
        let (start, count) = (self.carving.page_at(extent.offset()), self.carving.pages_for(extent.bytes()));
        let wanted = match self.placement {
            Placement::Exact => self.carving.pages_for(bytes),
            Placement::PowerOfTwo => self.carving.pages_for(bytes).next_power_of_two(),
        };
        if self.placement == Placement::PowerOfTwo && !start.is_multiple_of(wanted) {
            return Err(Obstacle::Buddies { run_bytes: self.carving.offset_of(wanted) });
        }
        if wanted > self.tree.pages() - start {
            return Err(is_over_end);
        }
        let (end, more) = (start + count, wanted - count);
        let free_end = self.tree.end_of_run_at(end);
        if more <= free_end - end {
            Ok(self.carving.run_bytes(end, more))
        } else {
            Err(self.pages_in_use(free_end, bytes, extent))
        }
    }

    /// Takes so many bytes behind an extent, as [`bytes_behind`](Self::bytes_behind) has them, as an extent of their own.
    pub(crate) fn take_behind(&mut self, extent: Extent, bytes: u64) -> Option<Extent> {
        self.alloc_at(extent.offset() + extent.bytes(), bytes)
    }

    /// As [`take_behind`](Self::take_behind), whether or not there is memory.
    pub(crate) fn take_behind_anywhere(&mut self, extent: Extent, bytes: u64) -> Option<Extent> {
        let offset = extent.offset() + extent.bytes();
        let (start, count) = (self.carving.page_at(offset), self.carving.pages_for(bytes));
        self.tree.take_at(start, count).then(|| self.hold_run(start, count))
    }

    /// Returns what an extent keeps if it is to hold `bytes` bytes, and the pages behind that, which may be released. `None` if
    /// there are none, or the extent is a piece.
    pub(crate) fn shortened(&self, extent: Extent, bytes: u64) -> Option<(Extent, Extent)> {
        debug_assert!(bytes > 0, "{extent:?} for 0 bytes");
        let pages = match self.placement {
            _ if extent.is_piece() => return None,
            Placement::Exact => self.carving.pages_for(bytes),
            Placement::PowerOfTwo => self.carving.pages_for(bytes).next_power_of_two(),
        };
        let kept_bytes = self.carving.offset_of(pages);
        (kept_bytes < extent.bytes()).then(|| extent.cut_at(kept_bytes))
    }

    /// The page is in use that keeps an extent from holding `bytes` bytes.
    #[cold]
    fn pages_in_use(&self, page: u32, bytes: u64, extent: Extent) -> Obstacle {
        let used = page..self.tree.find_behind(page, 1).unwrap_or(self.tree.pages());
        let end = extent.offset() + extent.bytes();
        Obstacle::Pages {
            needed_bytes: extent.offset().saturating_add(bytes) - end,
            free_bytes: self.carving.offset_of(page) - end,
            used_bytes: self.carving.run_bytes(used.start, used.end - used.start),
            is_cut: self.pieces.is_cut_at(page),
        }
    }
}
