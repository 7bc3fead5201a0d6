//! How a slab is carved: into pages, and which of them are cut together. Arithmetic alone.
//!
//! ```text
//! slab up to                page           cut run
//! 32 MiB                    1 KiB          1 page
//! 128 MiB                   slab/32,768    1 page
//! 128 GiB                   4 KiB          slab/32,768, at most 64 KiB
//! 64 TiB                    slab/2^25      64 KiB, or 1 page where that is larger
//! ```

use std::ops::Range;

use super::tree::{PAGES_MAX, PAGES_OF_BOUGH};
use super::word::WORD_PAGES;

/// The largest slab: 2^25 pages of 2 MiB.
pub(crate) const SLAB_BYTES_MAX: u64 = 1 << 46;
/// Pages of slabs that have more than 32,768 of them, as long as those are not more than [`PAGES_MAX`].
const PAGE_BYTES_OF_LARGE_SLABS: u64 = 4096;
/// Pages are at least this large unless that is more than [`PAGES_OF_A_SMALL_SLAB`] allows: it costs 0.05% of the peak of
/// the recorded training runs, and smaller ones would leave small slabs without any class.
const PAGE_BYTES_LEAST: u64 = 1024;
/// A page is at least this many units, for the same reason.
const PAGE_UNITS_LEAST: u64 = 4;
/// A page is at most this part of its slab.
const PAGES_OF_A_SMALL_SLAB: u64 = 64;
/// A cut run of several pages has at most so many bytes: pieces of up to half of that go through free lists at any slab size.
/// No more, so that a cut run lies in one granule of 64 KiB.
const CUT_BYTES_MOST: u64 = 64 << 10;

/// The units, pages and cut runs of one slab. All sizes but the slab's are powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carving {
    bytes: u64,
    unit_shift: u32,
    page_shift: u32,
    cut_shift: u32,
}

impl Carving {
    /// The page size of a slab where the caller has chosen none, and if it has chosen `page_bytes`.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0 or more than 64 TiB, or `alignment` is not a power of two up to 64 TiB.
    pub(super) fn page_bytes_for(bytes: u64, alignment: u64, chosen: Option<u64>) -> u64 {
        check_slab(bytes, alignment);
        let wanted = chosen.unwrap_or_else(|| {
            // Slabs of few pages have one tree of 16-bit counts; where pages would be larger than 4 KiB there are more levels.
            least_page_bytes(alignment).max(page_bytes_in_one_bough(bytes).min(PAGE_BYTES_OF_LARGE_SLABS))
        });
        wanted.max(bytes.div_ceil(PAGES_MAX.into()).next_power_of_two()).min(most_page_bytes(bytes)).max(alignment)
    }

    /// A slab of pages of `page_bytes`, which are at least `alignment` and no more than 2^25.
    ///
    /// Cut runs are as large as pages were that every slab has 32,768 of, so that small pages push no size out of the free lists.
    ///
    /// # Panics
    ///
    /// As [`page_bytes_for`](Self::page_bytes_for), and if a page has more than 2^31 units.
    pub(super) fn new(bytes: u64, alignment: u64, page_bytes: u64) -> Carving {
        check_slab(bytes, alignment);
        let units = page_bytes / alignment;
        assert!(
            units <= 1 << 31,
            "pages of {page_bytes} bytes have {units} units of {alignment} bytes, more than 2^31"
        );
        let wanted = least_page_bytes(alignment).max(page_bytes_in_one_bough(bytes)).min(most_page_bytes(bytes));
        let cut_bytes = wanted.min(CUT_BYTES_MOST).min(page_bytes * u64::from(WORD_PAGES)).max(page_bytes);
        Carving::with_cut(bytes, alignment, page_bytes, cut_bytes)
    }

    /// [`Carving::new`] with cut runs of a size of their own, so that tests have small slabs with cut runs of several pages.
    pub(super) fn with_cut(bytes: u64, alignment: u64, page_bytes: u64, cut_bytes: u64) -> Carving {
        debug_assert!(
            alignment <= page_bytes && page_bytes <= cut_bytes && cut_bytes / page_bytes <= WORD_PAGES.into()
        );
        Carving {
            bytes,
            unit_shift: alignment.trailing_zeros(),
            page_shift: page_bytes.trailing_zeros(),
            cut_shift: cut_bytes.trailing_zeros(),
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline]
    pub(super) fn page_bytes(&self) -> u64 {
        1 << self.page_shift
    }

    #[inline]
    pub(super) fn cut_bytes(&self) -> u64 {
        1 << self.cut_shift
    }

    /// Pages of a cut run.
    #[inline]
    pub(super) fn cut_pages(&self) -> u32 {
        1 << (self.cut_shift - self.page_shift)
    }

    /// Units of a cut run.
    pub(super) fn cut_units(&self) -> u32 {
        1 << (self.cut_shift - self.unit_shift)
    }

    /// All pages, with the partial one.
    pub(super) fn pages(&self) -> u32 {
        self.bytes.div_ceil(self.page_bytes()) as u32
    }

    /// Pages that are not partial.
    #[inline]
    pub(super) fn whole_pages(&self) -> u32 {
        (self.bytes >> self.page_shift) as u32
    }

    /// The class of a request, if it is small enough for a piece: at most half a cut run.
    #[inline]
    pub(super) fn class_of(&self, bytes: u64) -> Option<u32> {
        let class_bits = u64::BITS - (bytes - 1).leading_zeros();
        (class_bits.max(self.unit_shift) < self.cut_shift).then(|| class_bits.saturating_sub(self.unit_shift))
    }

    #[inline]
    pub(super) fn class_bytes(&self, class: u32) -> u64 {
        1 << (class + self.unit_shift)
    }

    #[inline]
    pub(super) fn bytes_of_units(&self, units: u64) -> u64 {
        units << self.unit_shift
    }

    /// The page that begins at an offset, or that it lies in.
    #[inline]
    pub(super) fn page_at(&self, offset: u64) -> u32 {
        (offset >> self.page_shift) as u32
    }

    #[inline]
    pub(super) fn offset_of(&self, page: u32) -> u64 {
        u64::from(page) << self.page_shift
    }

    /// The first page of the cut run that an offset lies in, and the unit in it.
    #[inline]
    pub(super) fn place_in_cut(&self, offset: u64) -> (u32, u32) {
        let first = offset & !(self.cut_bytes() - 1);
        (self.page_at(first), ((offset - first) >> self.unit_shift) as u32)
    }

    /// The pages that hold `bytes` bytes, which are no more than the slab has.
    #[inline]
    pub(super) fn pages_for(&self, bytes: u64) -> u32 {
        bytes.div_ceil(self.page_bytes()) as u32
    }

    /// Returns an alignment in pages: 1 up to a page. Where only the slab's start is at a multiple, as many as the slab has, or more.
    #[inline]
    pub(super) fn align_pages(&self, align_bytes: u64) -> u32 {
        let most = u64::from(self.pages()).next_power_of_two();
        (align_bytes >> self.page_shift).clamp(1, most) as u32
    }

    /// The bytes of some pages: fewer than they have if the last one is partial.
    #[inline]
    pub(super) fn run_bytes(&self, start: u32, count: u32) -> u64 {
        let range = self.range_of(start..start + count);
        range.end - range.start
    }

    #[inline]
    pub(super) fn range_of(&self, pages: Range<u32>) -> Range<u64> {
        self.offset_of(pages.start)..self.offset_of(pages.end).min(self.bytes)
    }
}

fn check_slab(bytes: u64, alignment: u64) {
    assert!((1..=SLAB_BYTES_MAX).contains(&bytes), "a slab of {bytes} bytes: it can have 1 to {SLAB_BYTES_MAX}");
    assert!(
        alignment.is_power_of_two() && alignment <= SLAB_BYTES_MAX,
        "an alignment of {alignment} bytes is not a power of two up to {SLAB_BYTES_MAX}"
    );
}

fn least_page_bytes(alignment: u64) -> u64 {
    PAGE_BYTES_LEAST.max(PAGE_UNITS_LEAST * alignment)
}

fn page_bytes_in_one_bough(bytes: u64) -> u64 {
    bytes.div_ceil(PAGES_OF_BOUGH.into()).next_power_of_two()
}

fn most_page_bytes(bytes: u64) -> u64 {
    (bytes / PAGES_OF_A_SMALL_SLAB).checked_ilog2().map_or(1, |log| 1 << log)
}
