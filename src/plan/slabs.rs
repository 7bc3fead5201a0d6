//! Boundaries that no buffer may straddle.

use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

/// The address space, cut into slabs.
///
/// Slabs of the given sizes follow one another, and further ones are as large as the last; none given is no boundary at
/// all. Sizes are in whatever unit the addresses have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slabs {
    /// Where each slab ends, but for the last.
    ends: Vec<u64>,
    /// The size of the last slab and all after it; 0 for no boundaries.
    last: u64,
}

impl Slabs {
    pub const NONE: Self = Self { ends: Vec::new(), last: 0 };

    /// Slabs of `sizes`, which are not zero, for `buffers` buffers of the sizes up to `largest`, `sum` in all.
    pub fn new(sizes: &[u64], buffers: usize, largest: u64, sum: u64) -> Result<Self> {
        let Some((last, before)) = sizes.split_last() else { return Ok(Self::NONE) };
        // All fits in the first slab in any order: then there is no need for boundaries.
        if sizes[0] >= sum {
            return Ok(Self::NONE);
        }
        if largest > *last {
            let message = format!("a buffer of {} fits in no slab of {}", exact(largest), exact(*last));
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let mut end = 0u128;
        let mut ends = Vec::new();
        for size in before {
            end += u128::from(*size);
            ends.push(u64::try_from(end).unwrap_or(u64::MAX));
        }
        // A pass starts no slab without need, so that this is more than any address.
        if end + u128::from(*last) * (buffers as u128 + 1) > u128::from(super::BYTES_MAX) {
            let message = format!("{buffers} buffers in slabs of {} may need addresses over 2^62", exact(*last));
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        Ok(Self { ends, last: *last })
    }

    /// The greatest common divisor of all sizes; 0 for no boundaries.
    pub fn unit(&self) -> u64 {
        self.ends.iter().copied().fold(self.last, super::gcd)
    }

    /// The same with addresses in units of so many bytes, a divisor of all sizes.
    pub fn in_units(mut self, unit_bytes: u64) -> Self {
        self.ends.iter_mut().for_each(|end| *end /= unit_bytes);
        self.last /= unit_bytes;
        self
    }

    pub fn is_none(&self) -> bool {
        self.last == 0
    }

    /// The lowest multiple of `align` from `at` on where `size` straddles no boundary. `size` is no more than the last slab's;
    /// `align` is a power of two, and all slabs are multiples of it.
    pub fn place(&self, at: u64, size: u64, align: u64) -> u64 {
        let at = (at + (align - 1)) & !(align - 1);
        if self.last == 0 { at } else { self.place_in_slabs(at, size) }
    }

    fn place_in_slabs(&self, mut at: u64, size: u64) -> u64 {
        let first = self.ends.partition_point(|end| *end <= at);
        for end in &self.ends[first..] {
            if at + size <= *end {
                return at;
            }
            at = *end;
        }
        let begin = self.ends.last().copied().unwrap_or(0);
        let within = (at - begin) % self.last;
        if within + size <= self.last { at } else { at - within + self.last }
    }
}
