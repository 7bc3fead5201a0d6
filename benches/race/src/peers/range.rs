//! `range-alloc`: best fit over a vector of free ranges, in multiples of 256 bytes, as wgpu's GL and Metal code and gfx
//! programs use it.

use std::ops::Range;

use range_alloc::RangeAllocator;

use super::{Peer, arena};
use crate::contest::{Contestant, UNIT_BYTES};

impl Peer for RangeAllocator<u64> {
    type Handle = Range<u64>;

    fn alloc(&mut self, bytes: u64) -> Option<Range<u64>> {
        self.allocate_range(bytes.next_multiple_of(UNIT_BYTES)).ok()
    }

    fn free(&mut self, handle: Range<u64>) {
        self.free_range(handle);
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![arena("range-alloc", |_, budget_bytes| Some(RangeAllocator::new(0..budget_bytes)))]
}
