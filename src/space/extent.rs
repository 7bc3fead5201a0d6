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
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Extent {
    offset: u64,
    bytes: u64,
    /// The slot of a piece, `RUN` for a run of pages; above it, as a power of two, the alignment that was asked for, which moves with
    /// its block; above that the holder's marks. One word: a copy in words is never read while its parts are still being written.
    tag: u64,
}

const RUN: u32 = u32::MAX;
const ALIGN_AT: u32 = 32;
const MARKS: u64 = Mark::High as u64 | Mark::Planned as u64;
const _: () = assert!(size_of::<Extent>() == 24);

/// What a holder may note of an extent. The space does not look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Mark {
    /// It was taken for a request of high priority.
    High = 1 << 40,
    /// It is a part of an arena.
    Planned = 1 << 41,
}

impl Extent {
    /// A run of whole pages; also for a holder that gives one back in parts.
    pub(crate) fn run(offset: u64, bytes: u64) -> Extent {
        Self::piece(offset, bytes, RUN)
    }

    #[inline]
    pub(super) fn piece(offset: u64, bytes: u64, slot: u32) -> Extent {
        Extent { offset, bytes, tag: slot.into() }
    }

    /// A part of an extent, for a holder that divides it: `at` bytes into it, with a number that says which part. Only the
    /// whole goes back to the space.
    #[inline]
    pub(crate) fn part(self, at: u64, bytes: u64, index: u32) -> Extent {
        debug_assert!(at + bytes <= self.bytes, "{bytes} bytes at {at} of {self:?}");
        Self::piece(self.offset + at, bytes, index).marked(Mark::Planned, true)
    }

    /// This run moved down onto `below`, a run that ends where this one begins; and what that leaves at the high end. The same
    /// pages are held, by two others.
    pub(crate) fn slid_onto(self, below: Extent) -> (Extent, Extent) {
        debug_assert!(!self.is_piece() && !below.is_piece() && below.offset + below.bytes == self.offset);
        let moved = Extent { offset: below.offset, tag: self.tag & !MARKS, ..self };
        (moved, Extent::run(below.offset + self.bytes, below.bytes))
    }

    /// This run in two, the second of which begins `at` bytes into it, at a page. The mark goes to both.
    pub(super) fn cut_at(self, at: u64) -> (Extent, Extent) {
        debug_assert!(!self.is_piece() && at < self.bytes, "{self:?} at {at}");
        let behind = Extent { offset: self.offset + at, bytes: self.bytes - at, ..self }.aligned(1);
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

    /// The same extent with a mark of the holder's, or without.
    #[inline]
    pub(crate) fn marked(self, mark: Mark, is_marked: bool) -> Extent {
        let tag = if is_marked { self.tag | mark as u64 } else { self.tag & !(mark as u64) };
        Extent { tag, ..self }
    }

    /// Whether the holder has marked it so.
    #[inline]
    pub(crate) fn is_marked(self, mark: Mark) -> bool {
        self.tag & mark as u64 != 0
    }

    /// Returns the same extent with its alignment, a multiple of which it begins at.
    #[inline]
    pub(crate) fn aligned(self, align_bytes: u64) -> Extent {
        debug_assert!(self.offset.is_multiple_of(align_bytes), "{self:?} at a multiple of {align_bytes}");
        let shift = u64::from(align_bytes.trailing_zeros());
        Extent { tag: (self.tag & !(0xff << ALIGN_AT)) | shift << ALIGN_AT, ..self }
    }

    /// Returns the alignment that was asked for: the extent has to stay at a multiple of it.
    #[inline]
    pub(crate) fn align_bytes(self) -> u64 {
        1 << (self.tag >> ALIGN_AT & 0xff)
    }

    /// The number of a part.
    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.tag as u32
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
        self.index() != RUN
    }

    #[inline]
    pub(super) fn slot(self) -> Option<u32> {
        self.is_piece().then(|| self.index())
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extent")
            .field("offset", &self.offset)
            .field("bytes", &self.bytes)
            .field("slot", &self.slot())
            .field("align_bytes", &self.align_bytes())
            .field("is_high", &self.is_marked(Mark::High))
            .field("is_planned", &self.is_marked(Mark::Planned))
            .finish()
    }
}
