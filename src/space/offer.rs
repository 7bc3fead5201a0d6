//! What a space may serve, in a few instructions: an upper bound, by which a pool passes over slabs that are of no use.

use super::Space;

/// What one space, or any of several, serves at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// No request of more bytes is served.
    pub(crate) most_bytes: u64,
    /// The classes of idle pieces, a bit each.
    pub(crate) classes: u64,
}

impl Offer {
    /// Returns whether nothing is served.
    #[inline]
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Returns what the better of two spaces serves.
    #[inline]
    pub(crate) fn or(self, other: Self) -> Self {
        Self { most_bytes: self.most_bytes.max(other.most_bytes), classes: self.classes | other.classes }
    }
}

impl Space {
    /// Returns what the space serves at most. It is nothing if, and only if, all bytes are held. With or without memory.
    #[inline]
    pub(crate) fn offer(&self) -> Offer {
        let classes = self.pieces.idle_classes();
        let idle_bytes = classes.checked_ilog2().map_or(0, |class| self.carving.class_bytes(class));
        Offer { most_bytes: idle_bytes.max(self.carving.offset_of(self.tree.longest())), classes }
    }

    /// Returns the class of the smallest piece that would serve a request, in any space whose cut runs have such pieces. It is one bit
    /// of [`Offer::classes`], or 0.
    pub(crate) fn class_bit(bytes: u64, align_bytes: u64, alignment_bytes: u64) -> u64 {
        let class_bits = u64::BITS - (bytes.max(align_bytes) - 1).leading_zeros();
        1u64.checked_shl(class_bits.saturating_sub(alignment_bytes.trailing_zeros())).unwrap_or(0)
    }

    /// Returns whether [`Space::gather`] may find anything to do.
    #[inline]
    pub(crate) fn may_gather(&self) -> bool {
        self.pieces.may_merge() || (self.has_aligned && self.used_bytes == 0)
    }
}
