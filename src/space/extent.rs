//! What a caller of a space holds, and how runs are placed.

use std::fmt;
use std::ops::Range;

/// How many pages a large request gets, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// Exactly the pages it needs, where they spare room for the largest requests so far.
    ///
    /// A run of up to a twentieth of the largest since the space was empty goes to the high end of one of the two highest
    /// holes (free runs that are long enough), any other to the low end of one of the two lowest. The nearer hole is taken,
    /// unless only the other keeps room for as many of the largest runs as before; of two that both do, or both do not, a run
    /// that is not small takes the shorter; where neither does, it takes the high end.
    #[default]
    Exact,
    /// A classic buddy system: the next power of two of pages, at a multiple of as many. Kept to be raced against: it needs
    /// 1.64 times the live bytes on the recorded training runs, where `Exact` needs 1.04 (November 2026).
    PowerOfTwo,
}

impl fmt::Display for Placement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Placement::Exact => "exact",
            Placement::PowerOfTwo => "power-of-two",
        })
    }
}

/// A part of a slab that is held, until it is given back with [`Space::release`](super::Space::release).
///
/// It is a plain token: copies are not counted, and giving one back twice is the caller's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    offset: u64,
    bytes: u64,
    /// The slot of a piece; `RUN` for a run of pages.
    slot: u32,
    /// For the holder's own use.
    is_marked: bool,
    /// The alignment that was asked for, as a power of two: it moves with its block.
    align_shift: u8,
}

const RUN: u32 = u32::MAX;
const _: () = assert!(size_of::<Extent>() <= 24);

impl Extent {
    /// A run of whole pages; also for a holder that gives one back in parts.
    pub(crate) fn run(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes, slot: RUN, is_marked: false, align_shift: 0 }
    }

    pub(super) fn piece(offset: u64, bytes: u64, slot: u32) -> Extent {
        Extent { offset, bytes, slot, is_marked: false, align_shift: 0 }
    }

    /// A part of an extent, for a holder that divides it: `at` bytes into it, with a number that says which part. Only the
    /// whole goes back to the space.
    #[inline]
    pub(crate) fn part(self, at: u64, bytes: u64, index: u32) -> Extent {
        debug_assert!(at + bytes <= self.bytes, "{bytes} bytes at {at} of {self:?}");
        Extent { offset: self.offset + at, bytes, slot: index, is_marked: false, align_shift: 0 }
    }

    /// This run moved down onto `below`, a run that ends where this one begins; and what that leaves at the high end. The same
    /// pages are held, by two others.
    pub(crate) fn slid_onto(self, below: Extent) -> (Extent, Extent) {
        debug_assert!(!self.is_piece() && !below.is_piece() && below.offset + below.bytes == self.offset);
        let moved = Extent { offset: below.offset, is_marked: false, ..self };
        (moved, Extent::run(below.offset + self.bytes, below.bytes))
    }

    /// This run in two, the second of which begins `at` bytes into it, at a page. The mark goes to both.
    pub(super) fn cut_at(self, at: u64) -> (Extent, Extent) {
        debug_assert!(!self.is_piece() && at < self.bytes, "{self:?} at {at}");
        let behind = Extent { offset: self.offset + at, bytes: self.bytes - at, align_shift: 0, ..self };
        (Extent { bytes: at, ..self }, behind)
    }

    /// This run and the one that begins where it ends, as one with this one's mark.
    pub(crate) fn joined(self, behind: Extent) -> Extent {
        debug_assert!(!self.is_piece() && !behind.is_piece() && behind.offset == self.offset + self.bytes);
        Extent { bytes: self.bytes + behind.bytes, ..self }
    }

    /// The bytes it covers.
    #[inline]
    pub(crate) fn range(self) -> Range<u64> {
        self.offset..self.offset + self.bytes
    }

    /// The same extent with the holder's mark on it, or without. The space does not look at the mark.
    #[inline]
    pub(crate) fn marked(self, is_marked: bool) -> Extent {
        Extent { is_marked, ..self }
    }

    /// Returns the same extent with its alignment, a multiple of which it begins at.
    #[inline]
    pub(crate) fn aligned(self, align_bytes: u64) -> Extent {
        debug_assert!(self.offset.is_multiple_of(align_bytes), "{self:?} at a multiple of {align_bytes}");
        Extent { align_shift: align_bytes.trailing_zeros() as u8, ..self }
    }

    /// Returns the alignment that was asked for: the extent has to stay at a multiple of it.
    #[inline]
    pub(crate) fn align_bytes(self) -> u64 {
        1 << self.align_shift
    }

    /// Whether the holder has marked it.
    #[inline]
    pub(crate) fn is_marked(self) -> bool {
        self.is_marked
    }

    /// The number of a part.
    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.slot
    }

    /// Where it begins, in bytes from the start of the slab.
    #[inline]
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// The bytes held: those asked for, rounded up to a piece or to whole pages.
    #[inline]
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Whether it is a piece of a cut run; else it is a run of pages.
    #[inline]
    pub fn is_piece(self) -> bool {
        self.slot != RUN
    }

    pub(super) fn slot(self) -> Option<u32> {
        (self.slot != RUN).then_some(self.slot)
    }
}
